"""One call of a Pyro ELBO, from Python to a graph of tensor operations.

:func:`trace` runs ``elbo.loss_and_grads`` as it stands, handlers and ``backward`` and all, on
tensors without data, and notes every operation that reaches torch. What is left is a graph from
the arguments and every tensor that the programs read (parameters, buffers, constants) to the loss
and the gradients; Pyro itself is gone from it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from traceback import walk_tb
from typing import Any, cast

import numpy as np
import torch
from pyro import poutine
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import TreeSpec, tree_flatten

from .tripwire import CompileError, Tripwire, user_line
from .watching import undisturbed

Function = Callable[..., Any]


@dataclass
class Graph:
    """What one call does, as a function of tensors.

    Attributes:
        module: ``(*inputs, *captured) -> [*loss, *gradients]``.
        captured: the tensors that the programs read besides their arguments.
        leaves: for each gradient, the place of its tensor in ``(*inputs, *captured)``.
        loss: the shape of the loss: one tensor, or a tuple of them.
        params: the parameters that took part, by their names at Pyro.
        text: the graph in full; graphs of equal text compute the same of their tensors.
    """

    module: GraphModule
    captured: list[Tensor]
    leaves: list[int]
    loss: TreeSpec
    params: dict[str, Tensor]
    text: str


def trace(
    run: Function, inputs: Sequence[Tensor], roots: Sequence[Any], before: Graph | None = None
) -> Graph:
    """Trace ``run(*inputs)``, which calls ``loss_and_grads``, into a graph.

    It is traced twice, under different seeds of Python and NumPy, from the state that the first
    left to the second: a number drawn, a counter moved or a tensor kept makes the two graphs
    differ. Buffers, random states and what the programs wrote are then put back.

    Args:
        run: the function of tensors.
        inputs: its arguments; their data are not looked at.
        roots: the objects whose state is put back: model, guide, objective.
        before: an earlier graph of the same, to compare with instead of tracing twice.

    Raises:
        CompileError: Python looks at a tensor's value, or the two graphs differ.
        EagerReason: a sequential plate with a random subsample.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fakes = [mode.from_tensor(x.detach()) for x in inputs]
    for fake, x in zip(fakes, inputs, strict=True):
        fake.requires_grad_(x.requires_grad)
    with undisturbed(roots), mode:
        graph = trace_once(run, fakes, seed=1)
        other = before or trace_once(run, fakes, seed=2)
    node = difference(graph, other)
    if node is not None:
        line = node.meta.get("line", "the model or the guide")
        raise CompileError((BETWEEN if before else AT_EACH).format(line))
    return graph


AT_EACH = (
    "{} is not the same at two calls with equal arguments (a number of Python's or NumPy's "
    "generators, or state that the programs change themselves), so that no graph can stand for "
    "both; draw with torch or pyro.sample, and pass what changes as an argument"
)
BETWEEN = (
    "{} has changed since the step was compiled, unseen: steps since the last look may have used "
    "the old value; keep it in an attribute, a closure or a global, or pass it as an argument"
)


def difference(a: Graph, b: Graph) -> Node | None:
    """The first node in which two graphs differ; None if there is none."""
    nodes = list(a.module.graph.nodes)
    inputs = [node for node in nodes if node.op == "placeholder"][-len(a.captured) :]
    for node, x, y in zip(inputs, a.captured, b.captured, strict=False):
        if not same(x, y):
            return next(iter(node.users))
    texts = [n.format_node() for n in b.module.graph.nodes]
    for place, node in enumerate(nodes):
        if place == len(texts) or node.format_node() != texts[place]:
            return node
    return None


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two captured tensors are one piece of memory, or constants of equal value."""
    if a is b:
        return True
    if isinstance(a, FakeTensor) or isinstance(b, FakeTensor):
        return False  # kept from the trace before: state that a call carries to the next
    where = [(t.data_ptr(), t.storage_offset(), t.shape, t.stride(), t.dtype) for t in (a, b)]
    return where[0] == where[1] or torch.equal(a, b)


def trace_once(run: Function, fakes: Sequence[Tensor], seed: int) -> Graph:
    random.seed(seed)
    np.random.mtrand._rand.seed(seed)
    found: dict[str, Any] = {}

    def flat(*inputs: Tensor) -> list[Tensor]:
        with Tripwire() as wire, poutine.block(), poutine.trace(param_only=True) as sites:
            loss, found["loss"] = tree_flatten(run(*inputs))
            leaves, gradients = wire.gradients()
        found["leaves"], found["inputs"] = leaves, inputs
        found["params"] = {
            name: cast(Any, site["value"]).unconstrained()
            for name, site in sites.trace.nodes.items()
        }
        return [*(torch.as_tensor(v) for v in loss), *gradients]

    try:
        module = make_fx(flat, tracing_mode="fake")(*fakes)
    except (CompileError, RuntimeError, TypeError, ValueError) as error:
        line, what = user_line(walk_tb(error.__traceback__)), str(error).partition("\n")[0]
        if isinstance(error, DynamicOutputShapeException):
            what = f"a shape that depends on values ({what})"
        raise CompileError(f"{line} cannot be part of a graph: {what}") from error
    module.graph.eliminate_dead_code()
    captured = lift(module)
    places = {id(t): i for i, t in enumerate([*found["inputs"], *captured])}
    fresh = [name for name, p in found["params"].items() if isinstance(p, FakeTensor)]
    if fresh:
        raise CompileError(f"the parameter {fresh[0]!r} is created anew at each call")
    if any(t.requires_grad and not t.is_leaf for t in captured):
        raise CompileError(
            "the programs read a tensor that was computed from a parameter before the call; "
            "compute it inside the model"
        )
    # A leaf that the programs made and dropped has no place, and its gradient no reader.
    output = module.graph.output_node()
    values = cast(list[Node], output.args[0])
    outputs = values[: found["loss"].num_leaves]
    leaves = []
    for leaf, gradient in zip(found["leaves"], values[len(outputs) :], strict=True):
        if id(leaf) not in places:
            continue
        if gradient in outputs or gradient.op == "placeholder":  # one memory, two owners
            with module.graph.inserting_before(output):
                gradient = module.graph.call_function(torch.ops.aten.clone.default, (gradient,))
        outputs.append(gradient)
        leaves.append(places[id(leaf)])
    output.args = (outputs,)
    module.graph.eliminate_dead_code()
    module.recompile()
    shapes = [(t.dtype, t.device, tuple(t.shape), t.stride()) for t in [*fakes, *captured]]
    return Graph(
        module, captured, leaves, found["loss"], found["params"], f"{module.code}{shapes}{leaves}"
    )


def lift(module: GraphModule) -> list[Tensor]:
    """Turn the tensors that a graph holds into inputs of it, after those that it has."""
    graph = module.graph
    last = [graph._root, *graph.find_nodes(op="placeholder")][-1]
    captured: list[Tensor] = []
    nodes: dict[int, Any] = {}
    for node in graph.find_nodes(op="get_attr"):
        tensor = getattr(module, node.target)
        if id(tensor) not in nodes:
            with graph.inserting_after(last):
                last = nodes[id(tensor)] = graph.placeholder(f"captured_{len(captured)}")
            captured.append(tensor)
        node.replace_all_uses_with(nodes[id(tensor)])
        graph.erase_node(node)
    return captured


# Python learns a tensor's value by one of these; a graph has no value to give.

"""Records one call of a Pyro ELBO as a graph of tensor operations.

:func:`make_graph` runs ``elbo.loss_and_grads``, with Pyro's handlers and ``backward``, on tensors
without data, and records every torch operation. The result is a graph of tensor operations only.
Its inputs are the arguments and every tensor that the programs read (parameters, buffers,
constants). Its outputs are the loss and the gradients.
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

from .refusing import CompileError, RefusingMode, user_line
from .watching import undisturbed

TensorFunction = Callable[..., Any]


@dataclass
class Graph:
    """One call as a function of tensors.

    Attributes:
        module: ``(*inputs, *captured) -> [*loss, *gradients]``.
        captured: the tensors that the programs read, without their arguments.
        leaves: for each gradient, the position of its tensor in ``(*inputs, *captured)``.
        loss: the structure of the loss: one tensor, or a tuple of tensors.
        params: the parameters that were used, by their names in Pyro's store.
        text: the code of the graph; graphs with equal text compute the same function.
    """

    module: GraphModule
    captured: list[Tensor]
    leaves: list[int]
    loss: TreeSpec
    params: dict[str, Tensor]
    text: str


def make_graph(
    run: TensorFunction, inputs: Sequence[Tensor], roots: Sequence[Any], before: Graph | None = None
) -> Graph:
    """Record ``run(*inputs)``, which calls ``loss_and_grads``, as a graph.

    The call is traced twice, with different seeds for Python and NumPy. The second trace starts
    from the state that the first one left. So a random number, a counter or a stored tensor is
    noticed if it makes the two graphs differ. Afterwards buffers, random states and attributes are
    set back.

    Args:
        run: the function of tensors.
        inputs: its arguments; their values are not read.
        roots: the objects whose state is set back: model, guide, objective.
        before: an earlier graph of the same function. If given, the function is traced once and
            compared with it.

    Raises:
        CompileError: Python reads a tensor's value, or the two graphs differ.
        EagerReason: a sequential plate takes a random subsample, or nothing can be trained.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fakes = [mode.from_tensor(x.detach()) for x in inputs]
    for fake, x in zip(fakes, inputs, strict=True):
        fake.requires_grad_(x.requires_grad)
    with undisturbed(roots), mode:
        graph = trace_once(run, fakes, seed=1)
        other = before or trace_once(run, fakes, seed=2)
    node = first_difference(graph, other)
    if node is not None:
        line = node.meta.get("line", "the model or the guide")
        raise CompileError((BETWEEN if before else AT_EACH).format(line))
    return graph


AT_EACH = (
    "{} is not the same at two calls with equal arguments, so one graph cannot represent both (a "
    "random number of Python or NumPy, or state that the program changes); draw random numbers "
    "with torch or pyro.sample, and pass a value that changes as an argument"
)
BETWEEN = (
    "{} has changed since the step was compiled, and steps since the last check may have used the "
    "old value; keep the value in an attribute of an object, a closure or a global, or pass it as "
    "an argument"
)


def first_difference(a: Graph, b: Graph) -> Node | None:
    """The first node that differs between two graphs; None if they are equal."""
    nodes = list(a.module.graph.nodes)
    inputs = [node for node in nodes if node.op == "placeholder"][-len(a.captured) :]
    for node, x, y in zip(inputs, a.captured, b.captured, strict=False):
        if not same_tensor(x, y):
            return next(iter(node.users))
    texts = [n.format_node() for n in b.module.graph.nodes]
    for place, node in enumerate(nodes):
        if place == len(texts) or node.format_node() != texts[place]:
            return node
    return None


def same_tensor(a: Tensor, b: Tensor) -> bool:
    """Whether two captured tensors share their memory, or are constants of equal value."""
    if a is b:
        return True
    if isinstance(a, FakeTensor) or isinstance(b, FakeTensor):
        return False  # stored by the first trace: the call changes its own state
    where = [(t.data_ptr(), t.storage_offset(), t.shape, t.stride(), t.dtype) for t in (a, b)]
    return where[0] == where[1] or torch.equal(a, b)


def trace_once(run: TensorFunction, fakes: Sequence[Tensor], seed: int) -> Graph:
    random.seed(seed)
    np.random.mtrand._rand.seed(seed)
    found: dict[str, Any] = {}

    def flat(*inputs: Tensor) -> list[Tensor]:
        with RefusingMode() as mode, poutine.block(), poutine.trace(param_only=True) as sites:
            loss, found["loss"] = tree_flatten(run(*inputs))
            leaves, gradients = mode.gradients()
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
    captured = lift_constants(module)
    places = {id(t): i for i, t in enumerate([*found["inputs"], *captured])}
    fresh = [name for name, p in found["params"].items() if isinstance(p, FakeTensor)]
    if fresh:
        raise CompileError(f"the parameter {fresh[0]!r} is created anew at each call")
    if any(t.requires_grad and not t.is_leaf for t in captured):
        raise CompileError(
            "the programs read a tensor that was computed from a parameter before the call; "
            "compute it inside the model"
        )
    # A leaf that the programs created during the call is skipped: nobody can read its gradient.
    output = module.graph.output_node()
    values = cast(list[Node], output.args[0])
    outputs = values[: found["loss"].num_leaves]
    leaves = []
    for leaf, gradient in zip(found["leaves"], values[len(outputs) :], strict=True):
        if id(leaf) not in places:
            continue
        if gradient in outputs or gradient.op == "placeholder":  # two outputs must not share memory
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


def lift_constants(module: GraphModule) -> list[Tensor]:
    """Turn the tensors stored in a graph into inputs, after the inputs that it already has."""
    graph = module.graph
    last = [graph._root, *graph.find_nodes(op="placeholder")][-1]
    captured: list[Tensor] = []
    nodes: dict[int, Any] = {}
    for node in graph.find_nodes(op="get_attr"):
        tensor = getattr(module, node.target)  # torch stores a graph's tensors under such names
        if id(tensor) not in nodes:
            with graph.inserting_after(last):
                last = nodes[id(tensor)] = graph.placeholder(f"captured_{len(captured)}")
            captured.append(tensor)
        node.replace_all_uses_with(nodes[id(tensor)])
        graph.erase_node(node)
    return captured

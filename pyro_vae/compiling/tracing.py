"""Records one call of a Pyro ELBO as a graph of tensor operations.

:func:`make_graph` runs ``elbo.loss_and_grads``, with Pyro's handlers and ``backward``, on tensors
without data, and records every torch operation. The result is a graph of tensor operations only.
Its inputs are the arguments and every tensor that the programs read (parameters, buffers,
constants). Its outputs are the loss and the gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from traceback import walk_tb
from typing import Any, cast

import torch
from pyro import poutine
from torch import Tensor
from torch.fx import GraphModule, Node

from .checking import SiteChecks, validates
from .origins import user_line
from .private import (
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    TreeSpec,
    make_fx,
    tree_flatten,
    tree_leaves,
)
from .reading import Reads
from .refusing import CompileError, Dispatches, EagerReason, RefusingMode, without_keys
from .restoring import Undisturbed
from .watching import Watch

TensorFunction = Callable[..., Any]


@dataclass
class Graph:
    """One call as a function of tensors.

    Attributes:
        module: ``(*inputs, *captured) -> [*loss, *valid, *gradients]``.
        captured: the tensors that the programs read, without their arguments.
        leaves: for each gradient, the position of its tensor in ``(*inputs, *captured)``.
        loss: the structure of the loss: one tensor, or a tuple of tensors.
        valid: how many outputs say whether all sites passed their checks, 0 or 1.
        params: the parameters that were used, by their names in Pyro's store.
        writes: the positions of the tensors into which the graph writes.
        text: the code of the graph; graphs with equal text compute the same function.
        cuda: the CUDA device of an input or a captured tensor; None without one.
    """

    module: GraphModule
    captured: list[Tensor]
    leaves: list[int]
    loss: TreeSpec
    valid: int
    params: dict[str, Tensor]
    writes: list[int]
    text: str
    cuda: torch.device | None

    @cached_property
    def read(self) -> list[Tensor]:
        """The captured tensors, with a copy on the CUDA device for each number that is on the CPU.

        Such a number is the weight of the KL, which a schedule fills in place. A CUDA graph cannot
        read the CPU, so the copy is filled before each step. Without a CUDA tensor, nothing is
        copied, nor is what is trained or written. While the programs are traced, the copies would
        be tensors without data.
        """
        if self.cuda is None:
            return self.captured
        inputs = len(self.module.graph.find_nodes(op="placeholder")) - len(self.captured)
        keep = {place - inputs for place in (*self.leaves, *self.writes)}
        return [
            t.to(self.cuda) if t.is_cpu and t.dim() == 0 and place not in keep else t
            for place, t in enumerate(self.captured)
        ]


def make_graph(
    run: TensorFunction,
    inputs: Sequence[Tensor],
    watch: Watch,
    reads: Reads,
    before: Graph | None = None,
    trains: bool = True,
) -> tuple[Graph, set[tuple[int, Any]]]:
    """Record ``run(*inputs)``, which calls ``loss_and_grads`` or ``loss``, as a graph.

    The function is traced twice, the second time from the state that the first one left. What the
    two graphs do not show is found beside them: what the programs wrote, whether a random
    generator was used, whether something outside was read. Afterwards all is set back.

    Args:
        run: the function of tensors.
        inputs: its arguments; their values are not read.
        watch: the state that the programs read or write.
        reads: records what the programs read.
        before: an earlier graph of the same function. If given, the function is traced once and
            compared with it.
        trains: whether the function calls ``backward``, so that the graph gives gradients.

    Returns:
        the graph, and ``(id(box), key)`` of what torch and Pyro wrote for themselves.

    Raises:
        CompileError: Python reads a tensor's value or draws a random number, or the two graphs
            differ.
        EagerReason: the programs write state, read something outside, or cannot be trained.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fakes = [mode.from_tensor(x.detach()) for x in inputs]
    for fake, x in zip(fakes, inputs, strict=True):
        fake.requires_grad_(x.requires_grad)
    validated = validates()
    with Undisturbed(watch, reads) as kept:
        with mode, reads:
            graph = trace_once(run, fakes, validated, trains)
        written, by_libraries = kept.writes()
        if written:
            raise EagerReason(f"the programs write {written}, which a graph would leave as it is")
        if before is None:
            with mode:
                other = trace_once(run, fakes, validated, trains)
        drawn = kept.drawn()
    node = first_difference(graph, before or other)
    if node is not None:
        line = node.meta.get("line", "the model or the guide")
        raise CompileError((BETWEEN if before else AT_EACH).format(line))
    if drawn or reads.drawn:
        raise CompileError(DRAWN.format(reads.drawn or "the model or the guide"))
    return graph, by_libraries


AT_EACH = (
    "{} is not the same at two calls with equal arguments, so one graph cannot represent both (for "
    "example a random number of Python or NumPy); draw random numbers with torch or pyro.sample, "
    "and pass a value that changes as an argument"
)
BETWEEN = (
    "{} has changed since the step was compiled, in a way that is not compared at each call, and "
    "steps since the last check may have used the old value; pass the value as an argument"
)
DRAWN = (
    "{} draws a random number of Python or NumPy, which a graph would repeat; draw random numbers "
    "with torch or pyro.sample"
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


def trace_once(
    run: TensorFunction, fakes: Sequence[Tensor], validated: bool, trains: bool
) -> Graph:
    found: dict[str, Any] = {}

    def flat(*inputs: Tensor) -> list[Tensor]:
        with (
            without_keys(),
            RefusingMode() as mode,
            Dispatches(mode.literals),
            poutine.block(),
            SiteChecks(validated) as checks,
            poutine.trace(param_only=True) as sites,
        ):
            loss, found["loss"] = tree_flatten(run(*inputs))
            leaves, gradients = mode.gradients() if trains else ([], [])
            valid = checks.result()
        found["leaves"], found["inputs"], found["valid"] = leaves, inputs, len(valid)
        found["params"] = {
            name: cast(Any, site["value"]).unconstrained()
            for name, site in sites.trace.nodes.items()
        }
        return [*(torch.as_tensor(v) for v in loss), *valid, *gradients]

    try:
        module = make_fx(flat, tracing_mode="fake")(*fakes)
    except EagerReason:
        raise
    except Exception as error:  # the programs' own errors too: the eager call did not raise them
        line, what = user_line(walk_tb(error.__traceback__)), describe(error)
        raise CompileError(f"{line} cannot be part of a graph: {what}") from error
    module.graph.eliminate_dead_code(is_impure)
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
    outputs = values[: found["loss"].num_leaves + found["valid"]]
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
    module.graph.eliminate_dead_code(is_impure)
    module.recompile()
    read = [*fakes, *captured]
    shapes = [(t.dtype, t.device, tuple(t.shape), t.stride()) for t in read]
    return Graph(
        module, captured, leaves, found["loss"], found["valid"], found["params"],
        written_inputs(module), f"{module.code}{shapes}{leaves}",
        next((t.device for t in read if t.is_cuda), None),
    )  # fmt: skip


ATEN = torch.ops.aten
NORMALIZING = {
    ATEN.native_batch_norm.default,
    ATEN.cudnn_batch_norm.default,
    ATEN.miopen_batch_norm.default,
}
STATISTICS = (3, 4)
"""The arguments into which batch normalization writes. Torch does not say so in its schema."""


def is_impure(node: Node) -> bool:
    """Whether an operation is needed even if no other uses its result."""
    return node.is_impure() or node.target in NORMALIZING


def written_inputs(module: GraphModule) -> list[int]:
    """The positions of the inputs into which an operation of the graph writes, also through a
    view."""
    memory = {node: {i} for i, node in enumerate(module.graph.find_nodes(op="placeholder"))}
    found: set[int] = set()
    for node in module.graph.nodes:
        schema = getattr(node.target, "_schema", None)  # of torch's own operations
        if schema is None:  # an element of a list of views
            shared = [x for x in node.args if isinstance(x, Node)] if node not in memory else []
        else:
            shared = []
            for place, argument in enumerate(schema.arguments):
                unsaid = node.target in NORMALIZING and place in STATISTICS
                if argument.alias_info is None and not unsaid:
                    continue
                given = dict(enumerate(node.args)).get(place, node.kwargs.get(argument.name))
                nodes = [x for x in tree_leaves(given) if isinstance(x, Node)]
                shared += nodes
                if unsaid or argument.alias_info.is_write:
                    found.update(*(memory.get(x, ()) for x in nodes))
        memory.setdefault(node, set()).update(*(memory.get(x, ()) for x in shared))
    return sorted(found)


def describe(error: Exception) -> str:
    """An error in one line."""
    text = str(error).partition("\n")[0]
    if isinstance(error, DynamicOutputShapeException):
        return f"a shape that depends on values ({text})"
    kinds = (CompileError, RuntimeError, TypeError, ValueError)
    return text if isinstance(error, kinds) else f"{type(error).__name__}: {text}"


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

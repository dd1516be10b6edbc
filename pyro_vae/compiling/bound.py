"""A compiled graph, with the tensors that it reads and the state for which it is valid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from operator import is_
from typing import Any

import pyro
import torch
from torch import Tensor

from .private import TensorGuards
from .proving import equal_losses
from .tracing import Graph
from .watching import Watch

GraphFunction = Callable[..., list[Tensor]]
BACKENDS = ("inductor", "eager")
OPTIONS = {"fallback_random": True, "reorder_for_peak_memory": False}
"""Of Inductor: torch's own random numbers, in the order of the program."""
MOST_ACCEPTED = 3
"""The calls with a loss that is not finite and without an error of Pyro, until it is accepted."""


def compile_graph(graph: Graph, inputs: Sequence[Tensor], backend: str) -> GraphFunction:
    """Compile a graph.

    Random numbers come from torch's own generators in the order of the program, so equal seeds give
    equal noise with and without compiling.
    """
    if backend == "eager":
        return graph.module
    with torch.no_grad():
        tensors: list[Any] = [t.detach() for t in (*inputs, *graph.read)]
        return torch._inductor.compile(graph.module, tensors, options=dict(OPTIONS))


@dataclass
class Call:
    """What one run of a graph gave.

    Attributes:
        losses: the parts of the loss; empty if the graph raised an error.
        gradients: those of ``leaves(inputs)``.
        passed: which checks of the sites passed, ``[checks]``; None without checks.
        before: the state of torch's generator, and the values into which the graph wrote.
    """

    losses: list[Tensor]
    gradients: list[Tensor]
    passed: Tensor | None = None
    before: tuple[Tensor, list[Tensor]] | None = None


class BoundGraph:
    """A compiled graph with the tensors that it reads and the state for which it is valid."""

    def __init__(self, graph: Graph, function: GraphFunction, watch: Watch) -> None:
        self.graph = graph
        self.function = function
        self.watch = watch
        self.tensors = list({id(t): t for t in (*graph.captured, *watch.tensors)}.values())
        self.guards = TensorGuards(
            *self.tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None
        )
        store = self.store = pyro.get_param_store()
        self.stored = {name: p for name, p in graph.params.items() if name in store}
        self.constraints = {name: store._constraints[name] for name in self.stored}
        self.ids = {id(t) for t in self.tensors}
        self.params = set(graph.params.values())
        self.optional: set[int] = set()  # the checks that the programs have opted out of
        self.accepted = 0  # calls with another fault that Pyro accepted
        self.replay: Any = None  # on CUDA: see CompiledSVI
        pairs = zip(graph.captured, graph.read, strict=True)
        self.copies = [(number, copy) for number, copy in pairs if number is not copy]

    def holds(self) -> bool:
        """Whether the graph still computes what the programs would compute now."""
        return (
            all(map(is_, map(self.store._params.get, self.stored), self.stored.values()))
            and all(
                map(is_, map(self.store._constraints.get, self.stored), self.constraints.values())
            )
            and self.guards.check(*self.tensors)
            and self.watch.unchanged()
        )

    def refresh(self) -> None:
        """Fill the copies on the device, see :attr:`.tracing.Graph.read`."""
        for number, copy in self.copies:
            copy.copy_(number)

    def __call__(self, inputs: Sequence[Tensor]) -> Call:
        """Run the graph."""
        before = None
        with torch.no_grad():
            if self.copies and not torch.cuda.is_current_stream_capturing():
                self.refresh()
            tensors = [*inputs, *self.graph.read]
            if self.graph.valid:
                before = torch.get_rng_state(), [tensors[i].clone() for i in self.graph.writes]
            try:
                values = self.function(*tensors)
            except (RuntimeError, IndexError):  # as an index outside of a table
                if not self.graph.valid:
                    raise
                return Call([], [], None, before)
        count, checks = self.graph.loss.num_leaves, self.graph.valid
        passed = values[count] if checks else None
        return Call(list(values[:count]), list(values[count + checks :]), passed, before)

    def failed(self, call: Call) -> set[int]:
        """The checks that a call did not pass, and that the programs have not opted out of."""
        passed = [] if call.passed is None else call.passed.tolist()
        return {i for i, ok in enumerate(passed) if not ok} - self.optional

    def refused(self, inputs: Sequence[Tensor], call: Call) -> bool:
        """Whether Pyro's own checks must see this call: a check or the graph itself failed, or the
        loss is not finite.

        The call must then be repeated eagerly, so what it changed is set back. If that raises no
        error, :meth:`accept` is called.
        """
        if call.before is None:
            return False
        if call.passed is not None:
            if call.passed.is_cuda:
                return False
            fine = self.accepted >= MOST_ACCEPTED or all(isfinite(x.item()) for x in call.losses)
            if fine and not self.failed(call):
                return False
        state, values = call.before
        torch.set_rng_state(state)
        tensors = [*inputs, *self.graph.captured]
        with torch.no_grad():
            for place, value in zip(self.graph.writes, values, strict=True):
                tensors[place].copy_(value)
        return True

    def accept(self, call: Call, loss: Any) -> bool:
        """Note that Pyro raised no error where this graph refused a call.

        Returns:
            whether the loss of the repeated call is the one of the graph.
        """
        failed = self.failed(call)
        self.optional |= failed
        self.accepted += not failed
        return bool(call.losses) and equal_losses(loss, call.losses)

    def leaves(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The tensors that the gradients belong to."""
        tensors = [*inputs, *self.graph.captured]
        return [tensors[place] for place in self.graph.leaves]

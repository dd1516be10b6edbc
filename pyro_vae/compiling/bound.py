"""A compiled graph, with the tensors that it reads and the state for which it is valid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
        self.failed: set[int] = set()  # the checks that the last call did not pass
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

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The parts of the loss, and the gradients of ``leaves(inputs)``."""
        with torch.no_grad():
            if self.copies and not torch.cuda.is_current_stream_capturing():
                self.refresh()
            tensors = [*inputs, *self.graph.read]
            if self.graph.valid:
                self.before = torch.get_rng_state(), [tensors[i].clone() for i in self.graph.writes]
            try:
                values = self.function(*tensors)
            except (RuntimeError, IndexError):  # as an index outside of a table
                if not self.graph.valid:
                    raise
                self.outputs: list[Tensor] = []
                return [], []
        count = self.graph.loss.num_leaves
        self.outputs = list(values[: count + self.graph.valid])
        return list(values[:count]), list(values[count + self.graph.valid :])

    def refused(self, inputs: Sequence[Tensor]) -> bool:
        """Whether Pyro's own checks must see this call: a check or the graph itself failed, or the
        loss is not finite.

        The call must then be repeated eagerly, so what it changed is set back. If that raises no
        error, :meth:`accept` is called.
        """
        if not self.graph.valid:
            return False
        self.failed = set()
        if self.outputs:
            *losses, passed = self.outputs
            if passed.is_cuda:
                return False
            self.failed = {i for i, ok in enumerate(passed.tolist()) if not ok} - self.optional
            finite = self.accepted >= MOST_ACCEPTED or all(math.isfinite(x.item()) for x in losses)
            if finite and not self.failed:
                return False
        state, values = self.before
        torch.set_rng_state(state)
        tensors = [*inputs, *self.graph.captured]
        with torch.no_grad():
            for place, value in zip(self.graph.writes, values, strict=True):
                tensors[place].copy_(value)
        return True

    def accept(self, loss: Any) -> bool:
        """Note that Pyro raised no error where this graph refused a call.

        Returns:
            whether the loss of the repeated call is the one of the graph.
        """
        self.optional |= self.failed
        self.accepted += not self.failed
        return bool(self.outputs) and equal_losses(loss, self.outputs[: self.graph.loss.num_leaves])

    def leaves(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The tensors that the gradients belong to."""
        tensors = [*inputs, *self.graph.captured]
        return [tensors[place] for place in self.graph.leaves]

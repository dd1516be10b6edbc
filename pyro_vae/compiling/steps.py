"""A function of tensors under all the circumstances that it meets: which graph holds now."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor

from .tracing import Function, Graph, trace
from .tripwire import EagerReason
from .watching import Watch, Written, changes

Compiled = Callable[..., list[Tensor]]
BACKENDS = ("inductor", "eager")
LOCK = threading.RLock()  # held wherever Pyro's handlers run: they are one stack for all threads


def build(graph: Graph, inputs: Sequence[Tensor], backend: str) -> Compiled:
    """Compile a graph. Random numbers come from torch's own generators, in the order of the
    program, so that equal seeds give equal noise with and without compiling."""
    if backend == "eager":
        return graph.module
    with torch.no_grad():
        tensors: list[Any] = [t.detach() for t in (*inputs, *graph.captured)]
        return torch._inductor.compile(graph.module, tensors, options={"fallback_random": True})


class Bound:
    """A compiled graph with the tensors it reads, and the state under which it holds."""

    def __init__(self, graph: Graph, compiled: Compiled, watch: Watch) -> None:
        self.graph = graph
        self.compiled = compiled
        self.watch = watch
        self.kinds = [kind(t) for t in graph.captured]
        store = pyro.get_param_store()
        self.stored = [(name, p) for name, p in graph.params.items() if name in store]
        self.params = set(graph.params.values())
        self.replay: Any = None  # on CUDA: see CompiledSVI

    def holds(self) -> bool:
        params = pyro.get_param_store()._params
        return (
            all(params.get(name) is p for name, p in self.stored)
            and [kind(t) for t in self.graph.captured] == self.kinds
            and self.watch.unchanged()
        )

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The parts of the loss, and the gradients of ``leaves(inputs)``."""
        with torch.no_grad():
            values = self.compiled(*inputs, *self.graph.captured)
        count = self.graph.loss.num_leaves
        return list(values[:count]), list(values[count:])

    def leaves(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        tensors = [*inputs, *self.graph.captured]
        return [tensors[place] for place in self.graph.leaves]


def kind(t: Tensor) -> tuple[Any, ...]:
    return t.requires_grad, t.dtype, t.device, t.shape


class Step:
    """One function of tensors under all the circumstances that it has met.

    A circumstance (a new shape, ``model.eval()``, a cleared parameter store) runs eagerly once, so
    that parameters come to be and Pyro checks what it checks, and is traced when it is met again.
    At calls 4, 16, 64, … the function is traced anew and compared with the graph in use.

    Args:
        run: the function; calls ``loss_and_grads``.
        roots: the programs and the objective, whose state is watched.
        build: compiles a graph for given inputs, or finds it compiled.
    """

    MOST_GRAPHS = 8
    MISSES = 16

    def __init__(self, run: Function, roots: Sequence[Any], build: Callable[..., Compiled]) -> None:
        self.run = run
        self.roots = roots
        self.build = build
        self.bounds: list[Bound] = []
        self.seen: Watch | None = None  # as the last eager call left it
        self.before: Any = []
        self.written: Written = {}
        self.calls, self.look, self.misses = 0, 4, 0
        self.reason = ""

    def find(self, inputs: Sequence[Tensor]) -> Bound | None:
        """The graph that holds for this call; None if it is to run eagerly."""
        if self.reason:
            return None
        self.calls += 1
        for bound in self.bounds:
            if bound.holds():
                self.misses = 0
                if self.calls >= self.look:
                    self.look = 4 * self.calls
                    trace(self.run, inputs, self.roots, before=bound.graph)
                return bound
        return self.bind(inputs)

    def bind(self, inputs: Sequence[Tensor]) -> Bound | None:
        store = pyro.get_param_store()
        lost = any(name not in store for bound in self.bounds for name, _ in bound.stored)
        if self.seen is None or lost or not self.seen.unchanged():
            self.misses += 1
            if self.misses == self.MISSES:
                self.stay_eager("something that model or guide reads changes at each call")
            self.before = self.seen.snapshot() if self.seen is not None else []
            return None
        try:
            graph = trace(self.run, inputs, self.roots)
        except EagerReason as reason:
            self.stay_eager(str(reason))
            return None
        texts = {bound.graph.text for bound in self.bounds}
        if graph.text not in texts and len(texts) == self.MOST_GRAPHS:
            self.stay_eager(f"its graph has changed {self.MOST_GRAPHS} times")
            return None
        bound = Bound(graph, self.build(graph, inputs), self.seen)
        self.bounds = [bound, *self.bounds[: self.MOST_GRAPHS]]
        return bound

    def ran_eagerly(self) -> None:
        """What the programs themselves wrote in an eager call (not the first, which makes things)
        is no reason to run another: if they read it too, tracing twice tells."""
        if not self.reason:
            self.written |= changes(self.before)
            self.seen = Watch(self.roots, self.written)

    def stay_eager(self, reason: str) -> None:
        self.reason = reason
        warnings.warn(f"this step runs eagerly, without compiling: {reason}", stacklevel=2)

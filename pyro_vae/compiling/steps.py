"""One step with all the graphs made for it; finds the graph that is valid for a call."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor

from .refusing import EagerReason
from .tracing import Graph, TensorFunction, make_graph
from .watching import Watch, Written, changes

GraphFunction = Callable[..., list[Tensor]]
BACKENDS = ("inductor", "eager")
LOCK = threading.RLock()  # held while Pyro's handlers run: all threads share one handler stack


def compile_graph(graph: Graph, inputs: Sequence[Tensor], backend: str) -> GraphFunction:
    """Compile a graph.

    Random numbers come from torch's own generators in the order of the program, so equal seeds give
    equal noise with and without compiling.
    """
    if backend == "eager":
        return graph.module
    with torch.no_grad():
        tensors: list[Any] = [t.detach() for t in (*inputs, *graph.captured)]
        return torch._inductor.compile(graph.module, tensors, options={"fallback_random": True})


class BoundGraph:
    """A compiled graph with the tensors that it reads and the state for which it is valid."""

    def __init__(self, graph: Graph, function: GraphFunction, watch: Watch) -> None:
        self.graph = graph
        self.function = function
        self.watch = watch
        self.keys = [tensor_key(t) for t in graph.captured]
        store = pyro.get_param_store()
        self.stored = [(name, p) for name, p in graph.params.items() if name in store]
        self.params = set(graph.params.values())
        self.replay: Any = None  # on CUDA: see CompiledSVI

    def holds(self) -> bool:
        """Whether the graph still computes what the programs would compute now."""
        params = pyro.get_param_store()._params
        return (
            all(params.get(name) is p for name, p in self.stored)
            and [tensor_key(t) for t in self.graph.captured] == self.keys
            and self.watch.unchanged()
        )

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The parts of the loss, and the gradients of ``leaves(inputs)``."""
        with torch.no_grad():
            values = self.function(*inputs, *self.graph.captured)
        count = self.graph.loss.num_leaves
        return list(values[:count]), list(values[count:])

    def leaves(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The tensors that the gradients belong to."""
        tensors = [*inputs, *self.graph.captured]
        return [tensors[place] for place in self.graph.leaves]


def tensor_key(t: Tensor) -> tuple[Any, ...]:
    """The properties of a tensor that a graph depends on, besides its values."""
    return t.requires_grad, t.dtype, t.device, t.shape


class Step:
    """One function of tensors, with a graph for each situation in which it was called.

    A new situation is, for example, ``model.eval()`` or a cleared parameter store. Its first call
    runs eagerly, so that parameters are created and Pyro's own checks run. Its second call is
    traced. At calls 4, 16, 64, ... the function is traced again and compared with the graph in use.

    Args:
        run: the function; it calls ``loss_and_grads``.
        roots: the programs and the objective, whose state is watched.
        compile: compiles a graph for given inputs, or returns a compiled graph with equal text.
    """

    MOST_GRAPHS = 8
    MOST_MISSES = 16

    def __init__(
        self, run: TensorFunction, roots: Sequence[Any], compile: Callable[..., GraphFunction]
    ) -> None:
        self.run = run
        self.roots = roots
        self.compile = compile
        self.bounds: list[BoundGraph] = []
        self.seen: Watch | None = None  # the state after the last eager call
        self.before: Any = []
        self.written: Written = {}
        self.calls, self.next_check, self.misses = 0, 4, 0
        self.reason = ""

    def find(self, inputs: Sequence[Tensor]) -> BoundGraph | None:
        """The graph that is valid for this call; None if the call must run eagerly."""
        if self.reason:
            return None
        self.calls += 1
        for bound in self.bounds:
            if bound.holds():
                self.misses = 0
                if self.calls >= self.next_check:
                    self.next_check = 4 * self.calls
                    make_graph(self.run, inputs, self.roots, before=bound.graph)
                return bound
        return self.bind(inputs)

    def bind(self, inputs: Sequence[Tensor]) -> BoundGraph | None:
        """A new graph, if the state is that after the last eager call; else None."""
        store = pyro.get_param_store()
        lost = any(name not in store for bound in self.bounds for name, _ in bound.stored)
        if self.seen is None or lost or not self.seen.unchanged():
            self.misses += 1
            if self.misses == self.MOST_MISSES:
                self.stay_eager("something that model or guide reads changes at each call")
            self.before = self.seen.snapshot() if self.seen is not None else []
            return None
        try:
            graph = make_graph(self.run, inputs, self.roots)
        except EagerReason as reason:
            self.stay_eager(str(reason))
            return None
        texts = {bound.graph.text for bound in self.bounds}
        if graph.text not in texts and len(texts) == self.MOST_GRAPHS:
            self.stay_eager(f"it needs more than {self.MOST_GRAPHS} different graphs")
            return None
        try:
            function = self.compile(graph, inputs)
        except (RuntimeError, OSError) as error:  # for example, there is no C++ compiler
            first = str(error).strip().partition("\n")[0]
            self.stay_eager(f"torch cannot compile it here ({first})")
            return None
        bound = BoundGraph(graph, function, self.seen)
        self.bounds = [bound, *self.bounds][: self.MOST_GRAPHS]
        return bound

    def ran_eagerly(self) -> None:
        """Note the state after an eager call.

        What the programs themselves wrote during the call is no longer watched; otherwise each
        call would be followed by another eager one. If the programs also read it, the two traces
        differ. The first call is an exception, because it creates things.
        """
        if not self.reason:
            self.written |= changes(self.before)
            self.seen = Watch(self.roots, self.written)

    def stay_eager(self, reason: str) -> None:
        self.reason = reason
        warnings.warn(f"this step runs eagerly, without compiling: {reason}", stacklevel=2)

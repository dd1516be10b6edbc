"""One step with all the graphs made for it; finds the graph that is valid for a call."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import is_
from typing import Any

import pyro
import torch
from torch import Tensor

from .floats import are_inputs
from .private import TensorGuards
from .proving import difference
from .reading import Reads
from .refusing import CompileError, EagerReason
from .restoring import writes
from .tracing import Graph, TensorFunction, make_graph
from .watching import Watch

GraphFunction = Callable[..., list[Tensor]]
BACKENDS = ("inductor", "eager")
OPTIONS = {"fallback_random": True, "reorder_for_peak_memory": False}
"""Of Inductor: torch's own random numbers, in the order of the program."""
LOCK = threading.RLock()  # held while Pyro's handlers run: all threads share one handler stack


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
        self.params = set(graph.params.values())
        self.invalid = 0  # calls whose checks failed
        self.replay: Any = None  # on CUDA: see CompiledSVI
        pairs = zip(graph.captured, graph.read, strict=True)
        self.copies = [(number, copy) for number, copy in pairs if number is not copy]

    def holds(self) -> bool:
        """Whether the graph still computes what the programs would compute now."""
        return (
            all(map(is_, map(self.store._params.get, self.stored), self.stored.values()))
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

        The call must then be repeated eagerly, so what it changed is set back. A program may have
        opted out of Pyro's checks; after three such calls the graph's checks are no longer read.
        """
        if not self.graph.valid:
            return False
        if self.outputs:
            if self.invalid >= 3 or self.outputs[0].is_cuda:
                return False
            numbers = [x.item() for x in self.outputs]
            if all(map(math.isfinite, numbers)) and numbers[-1]:
                return False
        self.invalid += 1
        state, values = self.before
        torch.set_rng_state(state)
        tensors = [*inputs, *self.graph.captured]
        with torch.no_grad():
            for place, value in zip(self.graph.writes, values, strict=True):
                tensors[place].copy_(value)
        return True

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
        run: the function; it calls ``loss_and_grads`` or ``loss``.
        roots: the programs and the objective, whose state is watched.
        compile: compiles a graph for given inputs, or returns a compiled graph with equal text.
        static: what the user declared constant.
        trains: whether the function gives gradients.
    """

    MOST_GRAPHS = 8
    MOST_MISSES = 16

    def __init__(
        self,
        run: TensorFunction,
        roots: Sequence[Any],
        compile: Callable[..., GraphFunction],
        static: Sequence[Any] = (),
        trains: bool = True,
    ) -> None:
        self.run = run
        self.graph_of = partial(make_graph, trains=trains)
        self.roots = roots
        self.compile = compile
        self.static = static
        self.reads = Reads()
        self.bounds: list[BoundGraph] = []
        self.seen: Watch | None = None  # the state after the last eager call
        self.ignored: set[tuple[int, Any]] = set()
        self.calls, self.next_check, self.misses, self.runs = 0, 4, 0, 0
        self.reason = ""
        self.floats: dict[int, float] = {}  # the floats of the present call, by position
        self.constant_floats = False  # they are constants; each value has a step of its own
        self.said: set[str] = set()

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
                    self.check(bound, inputs)
                    if self.reason:
                        return None
                return None if self.hooked(bound.leaves(inputs)) else bound
        self.bounds = [bound for bound in self.bounds if not bound.watch.cleared()]
        return self.bind(inputs)

    def check(self, bound: BoundGraph, inputs: Sequence[Tensor]) -> None:
        """Trace again; a graph that no longer holds is dropped, so that it is never used again."""
        try:
            self.graph_of(self.run, inputs, bound.watch, self.reads, before=bound.graph)
        except EagerReason as reason:
            self.bounds.remove(bound)
            self.stay_eager(str(reason))
        except CompileError:
            self.bounds.remove(bound)
            self.seen = None
            raise

    def bind(self, inputs: Sequence[Tensor]) -> BoundGraph | None:
        """A new graph, if the state is that after the last eager call; else None."""
        store = pyro.get_param_store()
        lost = any(name not in store for bound in self.bounds for name in bound.stored)
        if self.seen is None or lost or not self.seen.unchanged():
            self.misses += 1
            if self.misses == self.MOST_MISSES:
                self.stay_eager("something that model or guide reads changes at each call")
            return None
        if (self.reads.outside or self.seen.iterators) and self.runs < 2:
            return None  # the first call may have read something only to create things
        if self.hooked([*store._params.values(), *self.seen.tensors]):
            return None
        try:
            self.refuse_unknown(self.seen)  # before tracing, which would advance an iterator
            graph, by_libraries = self.graph_of(self.run, inputs, self.seen, self.reads)
            self.ignored |= by_libraries
            watch = self.watch()
            self.refuse_unknown(watch)
            if self.floats and not are_inputs(
                graph, partial(self.trace_constant, inputs), inputs, self.floats
            ):
                self.constant_floats = True
                return None
        except CompileError:
            if not self.floats:
                raise
            self.constant_floats = True  # Python reads one of them, perhaps
            return None
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
        bound = BoundGraph(graph, function, watch)
        plain = BoundGraph(graph, graph.module, watch)
        wrong = difference(self.run, bound, plain, inputs)
        if wrong:
            self.stay_eager(wrong)
            return None
        self.bounds = [bound, *self.bounds][: self.MOST_GRAPHS]
        return bound

    def trace_constant(self, inputs: Sequence[Tensor], floats: dict[int, float]) -> Graph:
        """The graph in which these floats are constants."""
        assert self.seen is not None
        run = partial(self.run, floats=floats)
        return self.graph_of(run, inputs, self.seen, self.reads)[0]

    def refuse_unknown(self, watch: Watch) -> None:
        if watch.unknown:
            raise EagerReason(f"the programs read {watch.unknown}, which cannot be compared")
        if self.reads.outside:
            raise EagerReason(self.reads.outside)

    def watch(self) -> Watch:
        return Watch(self.roots, self.reads, self.static, self.ignored)

    @contextmanager
    def eager(self) -> Iterator[None]:
        """A context for an eager call; it notes what the programs read and the state after it."""
        if self.reason:
            yield
            return
        seen = self.seen
        before = [(place, place.read()) for place in seen.places] if seen is not None else []
        positions = seen.positions() if seen is not None else []
        with self.reads:
            yield
        self.runs += 1
        if seen is not None and seen.positions() != positions:
            self.stay_eager("the programs advance an iterator")
            return
        self.ignored |= writes(before, self.reads)[1]
        self.seen = self.watch()

    def hooked(self, tensors: Sequence[Tensor]) -> bool:
        """Whether a parameter has a hook; a graph would neither run nor repeat it correctly."""
        found = any(p._backward_hooks or p._post_accumulate_grad_hooks for p in tensors)
        if found and "hook" not in self.said:
            self.said.add("hook")
            say("a parameter has a hook, and as long as it has one")
        return found

    def stay_eager(self, reason: str) -> None:
        self.reason = reason
        self.bounds.clear()
        say(reason)


def say(reason: str) -> None:
    warnings.warn(f"this step runs eagerly, without compiling: {reason}", stacklevel=2)

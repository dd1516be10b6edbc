"""One step with all the graphs made for it; finds the graph that is valid for a call."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyro
from torch import Tensor

from .bound import BoundGraph, Call, GraphFunction
from .floats import are_inputs
from .proving import LOSS, difference
from .reading import Reads
from .refusing import CompileError, EagerReason
from .restoring import writes
from .tracing import Graph, TensorFunction, make_graph
from .watching import Watch

LOCK = threading.RLock()  # held while Pyro's handlers run: all threads share one handler stack


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
                hooked = self.hooked(bound.leaves(inputs))
                return None if hooked or self.known(bound.ids, inputs) else bound
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
        found = [*store._params.values(), *self.seen.tensors]
        if self.hooked(found) or self.known({id(t) for t in found}, inputs):
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
        except (CompileError, RuntimeError):
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

    def accept(self, bound: BoundGraph, call: Call, loss: Any) -> None:
        """Note that a call that a graph refused was repeated eagerly, with this loss."""
        if not bound.accept(call, loss) and not self.reason:
            self.stay_eager(LOSS)

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

    def known(self, ids: set[int], inputs: Sequence[Tensor]) -> bool:
        """Whether the programs have found an argument elsewhere, too. They can then ask whether it
        is that tensor, and in a graph it would not be."""
        found = not ids.isdisjoint(map(id, inputs))
        if found and "known" not in self.said:
            self.said.add("known")
            say(
                "an argument is a tensor that the programs also read elsewhere, and as long as it "
                "is; give a copy, x.clone()"
            )
        return found

    def stay_eager(self, reason: str) -> None:
        self.reason = reason
        self.bounds.clear()
        say(reason)


def say(reason: str) -> None:
    warnings.warn(f"this step runs eagerly, without compiling: {reason}", stacklevel=2)

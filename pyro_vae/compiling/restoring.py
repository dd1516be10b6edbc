"""Traces leave no marks: what a program changed while it was traced is found and set back."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import numpy as np
import pyro
import torch

from .kinds import KEPT
from .places import CONTENT, Place
from .private import NUMPY_GENERATOR
from .reading import Reads
from .watching import Watch

# With one of these a program can assign to an attribute whose name is not in its code.
SETTERS = {"setattr", "__setattr__", "__dict__", "vars", "register_buffer", "globals"}


class Undisturbed:
    """A context for tracing that leaves the programs and the random generators unchanged.

    Inside, Pyro's validation and the cache of autocast are off. At the end, the watched state, the
    random states and tensors with one element are set back.

    Args:
        watch: the state that the programs read or write.
        reads: records what the programs read.
    """

    def __init__(self, watch: Watch, reads: Reads) -> None:
        self.places = list(watch.places)
        self.store = [
            Place(CONTENT, box, None, "the parameter store")
            for box in vars(pyro.get_param_store()).values()
            if isinstance(box, dict | set)
        ]
        generators = {id(g): g for g in [random._inst, NUMPY_GENERATOR, *watch.generators]}
        self.generators = list(map(state_of, generators.values()))
        self.reads = reads
        self.noise = torch.default_generator.get_state()
        self.contents = [place.read() for place in [*self.places, *self.store]]
        self.states = [read() for read, _ in self.generators]
        # While tracing, torch changes tensors with one element, because they may be used as sizes.
        self.small = [(t, t.detach().clone()) for t in watch.tensors if t.numel() == 1]
        self.validation = pyro.validation_enabled(False)

    def __enter__(self) -> Undisturbed:
        self.cache = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)
        self.validation.__enter__()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.validation.__exit__(None, None, None)
        torch.set_autocast_cache_enabled(self.cache)
        for (read, write), state in zip(self.generators, self.states, strict=True):
            if differ(read(), state):
                write(state)
        # While tracing, no operation draws. Only programs that handle the state of torch's
        # generator change it; other threads may draw from it meanwhile.
        if self.reads.outside:
            torch.default_generator.set_state(self.noise)
        with torch.no_grad():
            for tensor, value in self.small:
                # A tensor that did not change keeps its version, which autograd compares.
                if not torch.equal(tensor, value):
                    tensor.copy_(value)
        for place, content in zip([*self.places, *self.store], self.contents, strict=True):
            if place.keys_changed(content, place.read()):
                place.write(content)

    def writes(self) -> tuple[str, set[tuple[int, Any]]]:
        """What was written since the context began, see :func:`writes`."""
        return writes(list(zip(self.places, self.contents, strict=False)), self.reads)

    def drawn(self) -> bool:
        """Whether a random generator of Python, NumPy or the programs was used."""
        return any(
            differ(read(), state)
            for (read, _), state in zip(self.generators, self.states, strict=True)
        )


def writes(places: Iterable[tuple[Place, Any]], reads: Reads) -> tuple[str, set[tuple[int, Any]]]:
    """What was written into places since their contents were read.

    Returns:
        the first thing that the user's code wrote, empty if none; and ``(id(box), key)`` of what
        torch and Pyro wrote for themselves.
    """
    by_user, by_libraries = "", set()
    can_set = not SETTERS.isdisjoint(reads.user_names)
    for place, content in places:
        for key in place.keys_changed(content, place.read()):
            owner = place.path.rpartition(".")[2]
            if place.kind == CONTENT and owner not in KEPT:
                own = owner in reads.user_names or not owner
            else:  # an attribute; nn.Module keeps some in these containers
                set_by_name = place.kind != CONTENT or key in reads.user_names
                own = key in reads.written or (can_set and set_by_name)
            if own:
                by_user = by_user or place.path.lstrip(".")
            else:
                by_libraries.add((id(place.box), key))
    return by_user, by_libraries


def state_of(generator: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """Functions that read and set the state of a random generator."""
    if isinstance(generator, torch.Generator):
        return generator.get_state, generator.set_state
    if isinstance(generator, np.random.Generator):
        bits: Any = generator.bit_generator
        return lambda: pickle.dumps(bits.state), lambda s: setattr(bits, "state", pickle.loads(s))
    if isinstance(generator, np.random.RandomState):
        return (
            lambda: pickle.dumps(generator.get_state()),
            lambda s: generator.set_state(pickle.loads(s)),
        )
    if isinstance(generator, random.SystemRandom):
        return lambda: None, lambda _: None
    return generator.getstate, generator.setstate


def differ(a: Any, b: Any) -> bool:
    return not torch.equal(a, b) if isinstance(a, torch.Tensor) else a != b

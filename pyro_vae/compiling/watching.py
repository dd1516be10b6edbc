"""Finds the Python state that the programs read, and compares it between two calls.

A graph repeats the Python values with which it was traced. :class:`Watch` starts from the programs
and follows every name that their code uses: attributes, classes, modules, globals, closures and
containers. What it finds is compared at each call (``places``). What cannot be compared is noted,
and the programs then run eagerly.
"""

from __future__ import annotations

import builtins
import gc
import logging
import weakref
from collections.abc import Iterable, Iterator
from functools import partial
from types import CodeType, FunctionType, MappingProxyType, ModuleType
from typing import Any

import numpy as np
import pyro
from pyro.params.param_store import ParamStoreDict
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from . import kinds
from .names import codes_in, names_of
from .origins import USER, kind_of, whose
from .places import (
    CELL,
    CLASS,
    CONTENT,
    KEY,
    MISSING,
    SCALARS,
    SLOT,
    Comparison,
    Place,
    entries,
    entries_stand,
)
from .private import GLOBAL_HOOKS, KL_REGISTRY, CachedFunction
from .reading import Reads

MOST_PLACES = 20_000
MOST_BYTES = 65_536
"""Arrays of NumPy are compared up to this size together; larger ones cannot be compared cheaply."""


class Watch:
    """The state that the programs read, as it is now.

    Args:
        roots: the objects to start from: functions, modules, any object.
        reads: the names that the programs use, recorded while they ran.
        static: objects, and names of attributes and variables, that the user declared constant.
        ignored: ``(id(box), key)`` of places that torch and Pyro write for themselves.

    Attributes:
        places: the places that are compared.
        tensors: the tensors that were found.
        generators: the random generators that were found.
        iterators: iterators with their paths; they may have been read to create something.
        unknown: the first thing that cannot be compared; empty if there is none.
    """

    def __init__(
        self,
        roots: Iterable[Any],
        reads: Reads,
        static: Iterable[Any] = (),
        ignored: Iterable[tuple[int, Any]] = (),
    ) -> None:
        self.reads = reads
        self.static_names = {x for x in static if isinstance(x, str)}
        self.seen: dict[int, Any] = {id(x): x for x in static if not isinstance(x, str)}
        self.taken = set(ignored)  # the places that are compared already, or never
        self.places: list[Place] = []
        self.sizes: list[Any] = []
        self.computed: list[Any] = []
        self.tensors: list[Tensor] = []
        self.generators: list[Any] = []
        self.caches: list[tuple[Any, Any]] = []
        self.iterators: list[tuple[str, Any]] = []
        self.hooks: list[dict[Any, Any]] = list(GLOBAL_HOOKS)
        self.bytes = 0
        self.codes: set[CodeType] = set()
        self.unknown = ""
        self.queue: list[tuple[Any, str]] = [(x, "") for x in (*roots, *reads.modules.values())]
        if "get_param_store" in reads.user_names:
            self.queue.append((pyro.get_param_store(), "the parameter store"))
        if "kl_divergence" in reads.names:
            self.places.append(Place(CONTENT, KL_REGISTRY, None, "what register_kl registered"))
        self.follow()
        # Functions that ran and that no name leads to.
        self.queue = [(f, f.__name__) for f in kinds.functions_of(reads.codes - self.codes)]
        self.follow()
        self.queue = [(hook, "a hook") for hooks in self.hooks for hook in hooks.values()]
        self.follow()
        self.places += [Place(CONTENT, hooks, None, "hooks") for hooks in self.hooks if hooks]
        empty = [hooks for hooks in self.hooks if not hooks]
        self.comparison = Comparison(self.places, self.sizes, self.computed, empty)

    def unchanged(self) -> bool:
        """Whether all that is compared is as it was when this watch was made."""
        return self.comparison.holds()

    def cleared(self) -> bool:
        """Whether a function under ``lru_cache`` has other entries, which may have other values."""
        return any(function.cache_info()[1:] != info for function, info in self.caches)

    def positions(self) -> list[bytes | None]:
        """Where the iterators stand."""
        return [kinds.position(item) for _, item in self.iterators]

    def follow(self) -> None:
        while self.queue:
            item, path = self.queue.pop()
            if id(item) in self.seen or isinstance(item, SCALARS):
                continue
            self.seen[id(item)] = item  # keeps each object alive, so that ids stay unique
            self.visit(item, path)
            if len(self.places) > MOST_PLACES:
                self.cannot(path, f"more than {MOST_PLACES:,} values in")
                return

    def cannot(self, path: str, what: str) -> None:
        self.unknown = self.unknown or f"{what} {path.lstrip('.') or 'the programs'}"

    def visit(self, item: Any, path: str) -> None:
        """Note what is compared of ``item``, and queue what it holds."""
        if isinstance(item, Tensor):
            if item.is_nested or is_lazy(item):
                self.cannot(path, "a tensor without one shape,")
            else:
                self.tensors.append(item)
            for name in vars(item).keys() & self.reads.user_names:
                self.place(KEY, vars(item), name, path)
            self.count_names(item)
        elif isinstance(item, kinds.GENERATORS):
            self.generators.append(item)
        elif isinstance(item, type):
            self.cls(item, path)
        elif isinstance(item, logging.Logger):
            self.computed += kinds.levels(item, self.reads.user_names)
        elif isinstance(item, ParamStoreDict):
            self.place(KEY, vars(item), "_params", path)
        elif isinstance(item, kinds.CONSTANT) or type(item).__name__ in kinds.NOTHING:
            pass
        elif isinstance(item, kinds.CONTAINERS):
            self.container(item, path)
        elif isinstance(item, FunctionType):
            self.function(item, path)
        elif isinstance(item, ModuleType):
            self.module(item, path)
        elif isinstance(item, np.ndarray):
            self.bytes += item.nbytes
            if item.dtype.hasobject or self.bytes > MOST_BYTES:
                self.cannot(path, "the content of an array,")
            else:
                self.computed.append(lambda: (item.tobytes(), item.shape, item.dtype))
        elif isinstance(item, CachedFunction):
            if not kinds.is_own_memo(item):
                # Counts do not tell a cache that was filled anew; its content, kept here, does.
                kept = kinds.cached(item)
                self.computed.append(lambda kept=kept: kinds.same_or_equal(kinds.cached(item)))
                self.caches.append((item, item.cache_info()[1:]))
            self.queue.append((item.__wrapped__, path))
        elif isinstance(item, weakref.WeakKeyDictionary | weakref.WeakSet):
            self.sizes.append(vars(item)["data"])  # its keys may vanish, so they are counted
            if isinstance(item, weakref.WeakKeyDictionary):
                self.computed.append(partial(entries_stand, *entries(item)))
                self.queue += [(value, path) for value in item.values()]
        elif isinstance(item, weakref.ref):
            self.computed.append(lambda: id(item()))
            self.queue.append((item(), path))
        elif isinstance(item, MappingProxyType):
            self.queue += [(box, path) for box in gc.get_referents(item)]
        elif isinstance(item, Iterator) and kinds.position(item) is not None:
            self.iterators.append((path, item))
            if kinds.user_classes(type(item)):
                self.instance(item, path)
        elif inner := kinds.WRAPPERS.get(type(item)):
            self.queue += [(getattr(item, name), path) for name in inner]
        else:
            self.instance(item, path)

    def place(self, kind: str, box: Any, key: Any, path: str) -> None:
        """Compare one place, and queue what it holds."""
        if key in self.static_names or (id(box), key) in self.taken:
            return
        self.taken.add((id(box), key))
        place = Place(kind, box, key, f"{path}.{key}")
        self.places.append(place)
        self.queue.append((place.read(), place.path))

    def container(self, item: Any, path: str) -> None:
        skipped = isinstance(item, dict) and any(
            (id(item), key) in self.taken or key in self.static_names
            for key in item
            if isinstance(key, str)
        )
        if skipped:
            self.sizes.append(item)
            for key in item:
                self.place(KEY, item, key, path)
        elif isinstance(item, tuple | frozenset):  # they never change
            self.queue += [(x, path) for x in item]
        elif (id(item), None) not in self.taken:
            place = Place(CONTENT, item, None, path)
            self.places.append(place)
            self.queue += [(x, path) for x in place.read()]
        if type(item) not in kinds.CONTAINERS:
            self.instance(item, path)

    def function(self, item: FunctionType, path: str) -> None:
        """What a function that ran reads: variables of closures, defaults, globals."""
        inner = list(codes_in(item.__code__))
        user = whose(item.__code__, item.__globals__) is USER
        if self.reads.known.isdisjoint(inner):
            return
        for name, cell in zip(item.__code__.co_freevars, item.__closure__ or (), strict=True):
            place = Place(CELL, cell, name, f"{path}.{name}")
            if name not in self.static_names and place.read() is not MISSING:
                self.places.append(place)
                self.queue.append((place.read(), place.path))
        for name in ("__code__", "__defaults__", "__kwdefaults__"):
            if user and kinds.is_own_code(item):
                self.queue.append((getattr(item, name), path))
            elif user and getattr(item, name):
                self.place(SLOT, item, name, path)
        for name in vars(item).keys() & {*self.reads.user_names, "__wrapped__"}:
            self.place(KEY, vars(item), name, path)
        self.codes.update(inner)
        if not user:
            return
        self.count_names(item)
        names, own = frozenset().union(*map(names_of, inner)), kinds.is_own_code(item)
        found = names & item.__globals__.keys()
        for space, known in ((item.__globals__, found), (vars(builtins), names - found)):
            for name in known & space.keys():
                value = space[name]
                if own and isinstance(value, weakref.WeakKeyDictionary):
                    self.computed.append(partial(entries_stand, *entries(value)))
                elif kinds.is_fixed(value, of_user=not own and space is item.__globals__):
                    self.queue.append((value, f".{name}"))
                else:
                    self.place(KEY, space, name, "")

    def count_names(self, item: Any) -> None:
        """Compare how many names an object has, if a name is read that it may get later."""
        if not {"getattr", "hasattr"}.isdisjoint(self.reads.user_names):
            self.sizes.append(vars(item))

    def module(self, item: ModuleType, path: str) -> None:
        """The names of a module that the programs use; of a library's module only its data."""
        space = vars(item)
        library = (
            kind_of(str(space.get("__file__", "<frozen>"))) is not USER and "__loader__" in space
        )
        self.computed += kinds.settings(item, self.reads.user_names)
        if not library:
            self.count_names(item)
        for name in self.reads.user_names & space.keys():
            value = space[name]
            if isinstance(value, ModuleType):
                self.queue.append((value, f"{path}.{name}"))
            elif not library or (
                isinstance(value, (*SCALARS, *kinds.CONTAINERS)) and name != "__name__"
            ):
                self.place(KEY, space, name, path)

    def instance(self, item: Any, path: str) -> None:
        """The attributes of an object that the programs name; all, if its class is a library's."""
        cls: Any = type(item)
        state = getattr(item, "__dict__", None)  # the user's object may have no __dict__
        slots = kinds.slots(cls)
        if isinstance(state, dict):
            whole = self.reads.dynamic or not kinds.is_recorded(cls)
            hidden = kinds.hideable(cls, self.reads.codes)
            names = set(state) if whole else (state.keys() | hidden) & self.reads.names
            self.sizes.append(state)
            if isinstance(item, nn.Module):
                self.hooks += [state[n] for n in names & kinds.HOOKS if isinstance(state[n], dict)]
                self.queue += [(state[n], f"{path}.{n}") for n in names & kinds.KEPT]
                names = names - kinds.UNREAD - kinds.KEPT - kinds.HOOKS
            for name in names:
                self.place(KEY, state, name, path)
        elif not (
            slots or isinstance(item, kinds.CONTAINERS) or cls is object or kinds.user_classes(cls)
        ):
            self.cannot(path, f"an object of type {cls.__name__},")
        if kinds.user_classes(cls):
            self.place(SLOT, item, "__class__", path)
        if what := kinds.in_c(item):
            self.cannot(path, what)
        for name in slots:
            self.place(SLOT, item, name, path)
        self.queue.append((cls, f".{cls.__name__}"))

    def cls(self, item: Any, path: str) -> None:
        """The attributes of a user's class that the programs name, and its special methods."""
        for cls in kinds.user_classes(item):
            for name in kinds.inherited(cls) & self.reads.names:
                self.place(CLASS, cls, name, f".{cls.__name__}")
            for name, value in vars(cls).items():
                special = name.startswith("__") and name.endswith("__")
                if name in kinds.DESCRIBING:
                    continue
                named = name in self.reads.names or (self.reads.dynamic and not special)
                if special and isinstance(value, FunctionType):  # Python runs it without its name
                    named = value.__code__ in self.reads.codes
                if named and kinds.is_own_code(cls) and kinds.is_own_code(value):
                    self.queue.append((value, f".{cls.__name__}.{name}"))
                elif named:
                    self.place(CLASS, cls, name, f".{cls.__name__}")
                elif special and isinstance(value, FunctionType | property | classmethod):
                    self.queue.append((value, path))
        if type(item) is not type:
            self.queue.append((type(item), path))

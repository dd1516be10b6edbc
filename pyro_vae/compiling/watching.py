"""Compares the Python state that a program reads between two calls.

A graph repeats the Python values with which it was traced. An attribute, a global, a closure
variable, a list or ``module.training`` may have changed since then. :class:`Watch` collects the
objects that the programs can reach and compares them by identity at each call. The comparison is
one pass in C, so it is fast.
"""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from operator import is_
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor, nn

# Objects of these modules are not searched: their code does not change while a program runs.
LIBRARY_MODULES = {"torch", "pyro", "numpy", "builtins", *sys.stdlib_module_names} - {"__main__"}
SCALARS = (int, float, str, bool, complex, type(None))
LARGE = 1000  # longer collections are not searched
Written = dict[tuple[int, Any], dict[Any, Any]]  # (id of a dict, key) -> the dict, kept alive


class Watch:
    """The objects that the programs can reach now: attributes, closures, globals, lists and dicts.

    The search is recursive. Tensors are compared as objects, without their values.

    The search does not enter: class attributes; attributes of Python modules (``config.beta``);
    properties and static methods; ``__slots__``; NumPy arrays; sets; collections of more than 1,000
    items; objects whose class belongs to torch, Pyro, NumPy or Python, such as ``SimpleNamespace``
    or ``os.environ`` (but it enters ``nn.Module`` and ``ELBO``); files; hooks.

    Args:
        roots: the objects to start from: functions, modules, any object.
        written: attributes to leave out, as returned by :func:`changes`.

    Attributes:
        boxes: the dicts, lists and tuples found; the ``__dict__`` of an object is one of them.
        cells: the variables of closures.
        globals: the globals that the functions read, as ``(namespace, name)``.
    """

    def __init__(self, roots: Iterable[Any], written: Written | None = None) -> None:
        self.boxes: list[Any] = []
        self.written = written or {}
        self.cells: list[CellType] = []
        self.globals: list[tuple[dict[str, Any], str]] = []
        seen: dict[int, Any] = {}  # keeps each object alive, so that ids stay unique
        queue = list(roots)
        while queue:
            item = queue.pop()
            if isinstance(item, (*SCALARS, Tensor, type, ModuleType)) or id(item) in seen:
                continue
            seen[id(item)] = item
            queue += self.visit(item)
        self.values = list(self.read())

    def visit(self, item: Any) -> Iterator[Any]:
        """Note the content of ``item``; yields the objects to visit next."""
        if isinstance(item, dict | list | tuple):
            if len(item) <= LARGE:
                self.boxes.append(item)
                yield from self.content(item)
        elif isinstance(item, MethodType):
            yield item.__self__
            yield item.__func__
        elif isinstance(item, functools.partial):
            yield from (item.func, item.args, item.keywords)
        elif isinstance(item, FunctionType):
            if not from_library(item):
                yield from self.function(item)
        elif not from_library(type(item)) or isinstance(item, nn.Module | ELBO):
            state = getattr(item, "__dict__", {})  # the user's object may have no __dict__
            self.boxes.append(state)
            # The hooks of a module are many empty dicts, so they are compared but not entered.
            hooks = [v for k, v in state.items() if "_hooks" in str(k)]
            yield from [v for v in self.content(state) if not any(v is hook for hook in hooks)]
            for cls in type(item).__mro__:
                if not from_library(cls):
                    yield from [f for f in vars(cls).values() if isinstance(f, FunctionType)]

    def function(self, item: FunctionType) -> Iterator[Any]:
        for cell in item.__closure__ or ():
            try:
                yield cell.cell_contents
                self.cells.append(cell)
            except ValueError:  # the variable has no value yet
                continue
        yield item.__defaults__
        yield item.__kwdefaults__
        for name in set(names_read(item.__code__)) & item.__globals__.keys():
            value = item.__globals__[name]
            if isinstance(value, ModuleType | type):
                continue
            if not (isinstance(value, FunctionType) and from_library(value)):
                self.globals.append((item.__globals__, name))
                yield value

    def content(self, box: Any) -> Iterable[Any]:
        if not isinstance(box, dict):
            return box
        if not self.written:
            return box.values()
        return [v for k, v in box.items() if (id(box), k) not in self.written]

    def read(self) -> Iterator[Any]:
        """All watched objects in one sequence."""
        return chain(
            chain.from_iterable(map(self.content, self.boxes)),
            (cell.cell_contents for cell in self.cells),
            (space.get(name) for space, name in self.globals),
        )

    def unchanged(self) -> bool:
        """Whether all watched objects are those of the time when this watch was made."""
        now = list(self.read())
        if len(now) != len(self.values):
            return False
        return all(map(is_, now, self.values)) or all(map(alike, now, self.values))

    def snapshot(self) -> list[tuple[dict[Any, Any], dict[Any, Any]]]:
        return [(box, box.copy()) for box in self.boxes if isinstance(box, dict)]

    def tensors(self) -> list[Tensor]:
        return [v for v in self.values if isinstance(v, Tensor)]


def changes(before: Iterable[tuple[dict[Any, Any], dict[Any, Any]]]) -> Written:
    """The attributes that have changed since a snapshot."""
    return {
        (id(box), k): box
        for box, old in before
        for k, v in box.items()
        if k in old and v is not old[k]
    }


def alike(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and isinstance(a, SCALARS) and a == b)


def from_library(item: Any) -> bool:
    # A foreign object may have no __module__, or None there.
    return (getattr(item, "__module__", None) or "").partition(".")[0] in LIBRARY_MODULES


def names_read(code: CodeType) -> Iterator[str]:
    """The names that the code of a function reads; inner functions are included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_read(constant)


@contextmanager
def undisturbed(roots: Sequence[Any]) -> Iterator[None]:
    """A context for tracing that leaves the programs and the random generators unchanged.

    Inside, Pyro's validation and the cache of autocast are off. At the end, random states, watched
    state and tensors with one element are set back.
    """
    watch = Watch([*roots, vars(pyro.get_param_store())])
    contents = [(box, box.copy()) for box in watch.boxes if not isinstance(box, tuple)]
    cells = [(cell, cell.cell_contents) for cell in watch.cells]
    spaces = [(space, name, space[name]) for space, name in watch.globals]
    # While tracing, torch changes tensors with one element, because they may be used as sizes.
    small = [(t, t.detach().clone()) for t in watch.tensors() if t.numel() == 1]
    numpys = np.random.mtrand._rand  # the generator behind np.random.rand
    states = random.getstate(), numpys.get_state(), torch.get_rng_state()
    cache = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with pyro.validation_enabled(False):
            yield
    finally:
        torch.set_autocast_cache_enabled(cache)
        random.setstate(states[0])
        numpys.set_state(states[1])
        torch.set_rng_state(states[2])
        for tensor, value in small:
            tensor.detach().copy_(value)
        for box, content in contents:
            if isinstance(box, dict):
                box.clear()
                box.update(content)
            else:
                box[:] = content
        for cell, content in cells:
            cell.cell_contents = content
        for space, name, content in spaces:
            space[name] = content

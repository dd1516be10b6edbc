"""The Python state that a program can read, and whether it has changed.

A graph repeats what it was traced with. A number in an attribute, a global or a closure, a list, a
rebound tensor, ``module.training``: each may have changed since. :class:`Watch` walks from the
programs to everything within reach and compares it by identity, one pass in C for each call.
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

# Their code is taken not to change while a program runs, and is not walked.
LIBRARIES = {"torch", "pyro", "numpy", "builtins", *sys.stdlib_module_names} - {"__main__"}
SCALARS = (int, float, str, bool, complex, type(None))
LARGE = 1000
Written = dict[tuple[int, Any], dict[Any, Any]]  # (a dict's id, key) -> that dict, kept alive


class Watch:
    """What the programs can read now: attributes, closures, globals, lists and dicts, all the way
    down; tensors as objects, without their values.

    It does not see: the inside of NumPy arrays, of sets, of collections over 1,000 items and of
    objects whose class is torch's, Pyro's or Python's own (modules and ELBOs apart); files; hooks.

    Args:
        roots: where to start: functions, modules, any object.
        written: attributes to leave out, as :func:`changes` gives them.

    Attributes:
        boxes: the dicts, lists and tuples found, attributes of objects among them.
        cells: the variables of closures.
        names: the globals that the functions read, as ``(namespace, name)``.
    """

    def __init__(self, roots: Iterable[Any], written: Written | None = None) -> None:
        self.boxes: list[Any] = []
        self.written = written or {}
        self.cells: list[CellType] = []
        self.names: list[tuple[dict[str, Any], str]] = []
        seen: dict[int, Any] = {}  # holds each object, so that no id comes twice
        queue = list(roots)
        while queue:
            item = queue.pop()
            if isinstance(item, (*SCALARS, Tensor, type, ModuleType)) or id(item) in seen:
                continue
            seen[id(item)] = item
            queue += self.visit(item)
        self.values = list(self.read())

    def visit(self, item: Any) -> Iterator[Any]:
        """Note what ``item`` holds and give what is to be visited next."""
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
            state = getattr(item, "__dict__", {})
            self.boxes.append(state)
            # An object's hooks are many empty dicts; they are watched as whole objects.
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
            except ValueError:  # a variable that has no value yet
                continue
        yield item.__defaults__
        yield item.__kwdefaults__
        for name in set(names(item.__code__)) & item.__globals__.keys():
            value = item.__globals__[name]
            if isinstance(value, ModuleType | type):
                continue
            if not (isinstance(value, FunctionType) and from_library(value)):
                self.names.append((item.__globals__, name))
                yield value

    def content(self, box: Any) -> Iterable[Any]:
        if not isinstance(box, dict):
            return box
        if not self.written:
            return box.values()
        return [v for k, v in box.items() if (id(box), k) not in self.written]

    def read(self) -> Iterator[Any]:
        """All that is watched, in one row."""
        return chain(
            chain.from_iterable(map(self.content, self.boxes)),
            (cell.cell_contents for cell in self.cells),
            (space.get(name) for space, name in self.names),
        )

    def unchanged(self) -> bool:
        """Whether the programs would read the same as when this watch was made."""
        now = list(self.read())
        if len(now) != len(self.values):
            return False
        return all(map(is_, now, self.values)) or all(map(alike, now, self.values))

    def snapshot(self) -> list[tuple[dict[Any, Any], dict[Any, Any]]]:
        return [(box, box.copy()) for box in self.boxes if isinstance(box, dict)]

    def tensors(self) -> list[Tensor]:
        return [v for v in self.values if isinstance(v, Tensor)]


def changes(before: Iterable[tuple[dict[Any, Any], dict[Any, Any]]]) -> Written:
    """The attributes that are not what they were in a snapshot."""
    return {
        (id(box), k): box
        for box, old in before
        for k, v in box.items()
        if k in old and v is not old[k]
    }


def alike(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and isinstance(a, SCALARS) and a == b)


def from_library(item: Any) -> bool:
    return (getattr(item, "__module__", None) or "").partition(".")[0] in LIBRARIES


def names(code: CodeType) -> Iterator[str]:
    """The names that a function's code reads, and the code of the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names(constant)


@contextmanager
def undisturbed(roots: Sequence[Any]) -> Iterator[None]:
    """Trace inside this: checks that look at values are off, no cast of a parameter is kept, and
    random states, one-element buffers and what the programs write are put back."""
    watch = Watch([*roots, vars(pyro.get_param_store())])
    contents = [(box, box.copy()) for box in watch.boxes if not isinstance(box, tuple)]
    cells = [(cell, cell.cell_contents) for cell in watch.cells]
    spaces = [(space, name, space[name]) for space, name in watch.names]
    # Torch computes with tensors of one element while it traces, so that they can serve as sizes.
    small = [(t, t.detach().clone()) for t in watch.tensors() if t.numel() == 1]
    numpys = np.random.mtrand._rand  # the generator behind np.random.rand and the like
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

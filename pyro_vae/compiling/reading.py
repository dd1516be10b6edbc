"""Records what the programs read and call while they run: names, functions, the outside world.

:class:`Reads` is a profile function of Python. It is active in eager calls and while tracing, never
when a graph runs.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import secrets
import sys
import sysconfig
import uuid
from collections.abc import Iterable, Iterator
from dis import Instruction, get_instructions, stack_effect
from functools import cache
from pathlib import Path
from traceback import walk_stack
from types import CodeType, FrameType, ModuleType, TracebackType
from typing import Any

import numpy as np
import pyro
import torch

from .private import IMPORTING

STDLIB = f"{sysconfig.get_path('stdlib')}/"
TORCH, PYRO, NUMPY = (f"{Path(str(m.__file__)).parent}/" for m in (torch, pyro, np))
HERE = f"{Path(__file__).parent}/"
# The library that this package is a part of. In another project there is none.
OWN = f"{Path(__file__).parents[1]}/" if __name__.startswith("pyro_vae.") else HERE
# These parts of the libraries read attributes of the user's modules and distributions.
READERS = (PYRO, f"{TORCH}nn/", f"{TORCH}distributions/")
USER, READER, PYTHON, LIBRARY = "user", "reader", "python", "library"


@cache
def kind_of(file: str) -> str:
    """Whose code a file is: the user's, a part of torch or Pyro, Python's own, or other."""
    if file.startswith(READERS):
        return READER
    if file.startswith((TORCH, NUMPY, HERE)):
        return LIBRARY
    own = file.startswith(STDLIB) and "-packages/" not in file[len(STDLIB) :]
    made = file.startswith(("<frozen", "<namedtuple"))
    helps = file.endswith("/typing_extensions.py")
    return PYTHON if own or made or helps else USER


def whose(code: CodeType, space: dict[str, Any]) -> str:
    """:func:`kind_of` the file that a function belongs to.

    A function that is made of a string, such as the ``__eq__`` of a dataclass, belongs to the file
    of its globals, ``space``.
    """
    file = code.co_filename
    if file == "<string>":
        named = str(space.get("__name__")).startswith("namedtuple_")
        file = "<namedtuple>" if named else str(space.get("__file__", file))
    return kind_of(file)


def user_line(frames: Iterable[tuple[FrameType, int]]) -> str:
    """``file:line`` of the innermost frame of the user's code; frames are given outermost first."""
    own = [
        f"{frame.f_code.co_filename}:{line}"
        for frame, line in frames
        if whose(frame.f_code, frame.f_globals) is USER
    ]
    return own[-1] if own else "the model or the guide"


def line_of(frame: FrameType) -> str:
    return user_line([*walk_stack(frame)][::-1])


def codes_in(code: CodeType) -> Iterator[CodeType]:
    """The code of a function and of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes_in(constant)


@cache
def names_of(code: CodeType) -> frozenset[str]:
    """The names that a function reads or writes, and its strings, which may be names.

    A string of a library is a name only if the function reads attributes by strings.
    """
    strings: set[str] = set()
    if kind_of(code.co_filename) is USER or not BY_STRING.isdisjoint(code.co_names):
        strings = {x for x in code.co_consts if isinstance(x, str) and x.isidentifier()}
    return frozenset({*code.co_names, *code.co_freevars, *strings})


@cache
def names_written(code: CodeType) -> frozenset[str]:
    """The attributes and outer variables to which a function assigns."""
    stores = {"STORE_ATTR", "STORE_GLOBAL", "STORE_DEREF", "DELETE_ATTR"}
    found = (i for i in get_instructions(code) if i.opname in stores)
    return frozenset(str(i.argval) for i in found)


# A function that uses one of these can reach an attribute whose name is not in its code.
DYNAMIC = {
    "setattr", "vars", "__dict__", "attrgetter", "asdict", "astuple", "__getattribute__",
    "__getstate__", "deepcopy", "__getattr__", "dumps",
}  # fmt: skip
BY_STRING = DYNAMIC | {"getattr", "hasattr"}
EVALUATING = {"eval", "exec", "globals", "_getframe", "currentframe", "__subclasses__"}
FORK: Any = torch.random.fork_rng
CUDA: Any = torch.cuda.random
# Functions that handle torch's generators.
SEEDING = {
    getattr(function, "__wrapped__", function).__code__
    for function in (
        torch.manual_seed, torch.seed, torch.initial_seed, torch.get_rng_state,
        torch.set_rng_state, FORK, CUDA.manual_seed, CUDA.manual_seed_all, CUDA.get_rng_state,
        CUDA.set_rng_state,
    )
}  # fmt: skip
SYSTEM = os.getenv.__code__.co_filename
DRAWING = {m.__file__ for m in (random, secrets, uuid)}
# What runs inside an import or a handler of log messages gives no number to a program. The same
# holds for `print`.
BESIDE = {IMPORTING, logging.Logger.handle.__code__}
# Functions in C whose result comes from outside of the program.
OUTSIDE = {
    "time", "posix", "nt", "_io", "io", "_contextvars", "gc", "select", "_socket", "_uuid", "sys",
    "_lsprof",
}  # fmt: skip
HARMLESS = {"exc_info", "intern", "audit"}  # functions of sys that Python's own library calls
CLOCKS = {"now", "utcnow", "today"}
THREADS = {"start_new_thread", "start_joinable_thread"}  # what another thread reads is not recorded


class Reads:
    """What the user's code read and called while this context was active; it can be entered again.

    Attributes:
        names: attributes that ran code names, in the programs and in the parts of torch and Pyro
            that read attributes of the user's objects.
        user_names: those that the user's code names.
        written: attributes and variables to which the user's code assigns.
        codes: the user's functions that ran.
        known: all functions that ran.
        modules: Python modules that a function imported, and ``os.environ`` if it was read.
        dynamic: attributes may have been read under names that are not in the code.
        drawn: the line where Python drew a random number; empty if none did.
        outside: what must run eagerly: a clock, a file, the state of torch's generator.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.user_names: set[str] = set()
        self.written: set[str] = set()
        self.codes: set[CodeType] = set()
        self.modules: dict[int, Any] = {}
        self.dynamic = False
        self.drawn = self.outside = ""
        self.known: set[CodeType] = set()
        self.beside = 0  # the depth of calls that are not the programs'
        self.before: Any = None

    def __enter__(self) -> Reads:
        self.outside, self.beside = "", 0
        # A library may be told of each garbage collection. Its code is not that of the programs.
        self.collects = gc.isenabled()
        gc.disable()
        self.before = sys.getprofile()
        if self.before is not None and not callable(self.before):
            # A profiler written in C, such as cProfile, cannot be switched on again from here.
            self.outside = "a profiler is active"
        else:
            sys.setprofile(self.event)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self.before is None or callable(self.before):
            sys.setprofile(self.before)
        if self.collects:
            gc.enable()

    def event(self, frame: FrameType, event: str, arg: Any) -> None:
        code = frame.f_code
        if code in BESIDE and event != "c_call":  # what runs inside is not the programs'
            self.beside += {"call": 1, "return": -1}.get(event, 0)
        elif arg is print:
            self.beside += 1 if event == "c_call" else -1
        elif self.beside:
            return
        elif event == "call":
            if code not in self.known:
                self.meet(frame, code)
        elif event == "c_call":
            kind = whose(code, frame.f_globals)
            if (kind is USER or kind is PYTHON) and comes_from_outside(arg) and by_user(frame):
                name = getattr(arg, "__qualname__", arg)
                draws = isinstance(getattr(arg, "__self__", None), random.Random)
                if draws or name == "urandom":
                    self.drawn = self.drawn or line_of(frame)
                    return
                self.outside = self.outside or f"{line_of(frame)} calls {name}()"
        elif event == "return" and code in self.codes and may_import(code):
            package = frame.f_globals.get("__package__") or ""
            names = imports(code)
            found = [v for v in frame.f_locals.values() if isinstance(v, ModuleType)]
            found += [sys.modules[n] for n in names if n in sys.modules]
            found += [sys.modules[n] for n in (f"{package}.{n}" for n in names) if n in sys.modules]
            self.modules |= {id(v): v for v in found}

    def meet(self, frame: FrameType, code: CodeType) -> None:
        """Note a function; one that handles generators or evaluates text is noted each time."""
        if code in SEEDING:
            self.outside = (
                self.outside or f"{line_of(frame)} handles the state of torch's generator"
            )
            return
        kind = whose(code, frame.f_globals)
        if kind is PYTHON and (code.co_filename in DRAWING or code.co_filename == SYSTEM):
            if by_user(frame):
                if code.co_filename == SYSTEM:
                    self.modules[id(os.environ)] = os.environ
                else:
                    self.drawn = self.drawn or line_of(frame)
            return
        evaluates = sorted(EVALUATING.intersection(code.co_names)) if kind is USER else []
        if evaluates:
            where = f"{code.co_filename}:{code.co_firstlineno}"
            self.outside = self.outside or f"{where} uses {evaluates[0]}"
        else:
            self.known.add(code)
        if kind is USER:
            self.codes.add(code)
            self.user_names |= names_of(code)
            self.written |= names_written(code)
            self.dynamic = self.dynamic or is_dynamic(code)
        if kind is USER or kind is READER:
            self.names |= names_of(code)


CALL = "PRECALL" if sys.version_info < (3, 12) else "CALL"


@cache
def is_dynamic(code: CodeType) -> bool:
    """Whether a function may read an attribute whose name is not in its code."""
    if not DYNAMIC.isdisjoint(code.co_names):
        return True
    instructions = [i for i in get_instructions(code) if i.opname != "PUSH_NULL"]
    return any(
        i.argval in ("getattr", "hasattr") and not names_a_constant(instructions[place + 1 :])
        for place, i in enumerate(instructions)
    )


def names_a_constant(instructions: list[Instruction]) -> bool:
    """Whether a call, whose instructions follow its function, has a constant as second argument."""
    depth, constant = 0, False  # the arguments on the stack; whether the second is a constant
    for i in instructions:
        if i.opname == CALL and i.arg == depth:
            return constant
        before, depth = depth, depth + stack_effect(i.opcode, i.arg, jump=False)
        if depth <= 2 and before != depth:
            constant = before == 1 and depth == 2 and i.opname == "LOAD_CONST"
        if depth < 0:
            break
    return False


@cache
def imports(code: CodeType) -> list[str]:
    """The names of the modules that a function imports."""
    return [str(i.argval) for i in get_instructions(code) if i.opname == "IMPORT_NAME"]


def may_import(code: CodeType) -> bool:
    return not {"import_module", "modules"}.isdisjoint(code.co_names) or bool(imports(code))


def comes_from_outside(function: Any) -> bool:
    """Whether a function written in C reads a clock, a file, a generator or the system."""
    owner = getattr(function, "__self__", None)
    if isinstance(owner, random.Random | torch.Generator):
        return True
    home, name = getattr(function, "__module__", None), function.__name__
    homes = {home}
    if home is None:  # a method of an object in C has no module
        cls = owner if isinstance(owner, type) else type(owner)
        homes = {c.__module__ for c in cls.__mro__}
    if "datetime" in homes:
        return name in CLOCKS
    if "_thread" in homes:
        return name in THREADS
    return not homes.isdisjoint(OUTSIDE) and name not in HARMLESS


def by_user(frame: FrameType) -> bool:
    """Whether the innermost frame outside of Python's own library is the user's."""
    at: FrameType | None = frame
    while at is not None:
        file = at.f_code.co_filename
        if file.startswith((f"{STDLIB}logging/", f"{STDLIB}warnings.py", "<frozen importlib")):
            return False  # a message has a time and an import reads files; the program does not
        kind = whose(at.f_code, at.f_globals)
        if kind is not PYTHON:
            return kind is USER
        at = at.f_back
    return False

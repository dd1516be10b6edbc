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
import uuid
from types import CodeType, FrameType, ModuleType, TracebackType
from typing import Any

import numpy as np
import torch

from .names import imports, is_dynamic, may_import, names_of, names_written
from .origins import NUMPY, PYTHON, READER, TORCH, USER, by_user, line_of, whose
from .private import IMPORTING

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
LOADERS = (NUMPY, f"{TORCH}serialization.py")
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
        elif arg is print and event in ("c_call", "c_return", "c_exception"):
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
            elif arg is np.fromfile or (arg is open and code.co_filename.startswith(LOADERS)):
                self.outside = self.outside or f"{line_of(frame)} reads a file"
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

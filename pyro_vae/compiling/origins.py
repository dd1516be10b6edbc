"""Whose code a function is: the user's, a library's, or Python's own."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from traceback import walk_stack
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pyro
import torch

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

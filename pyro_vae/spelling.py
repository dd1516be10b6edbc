"""Misspelt names: the error that gives the nearest right ones."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps
from typing import ParamSpec, TypeVar

from .errors import InputError

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not one of ``known``; it gives the nearest of them, and all."""
    names = list(known)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? All are: " if near else "there are: "
    return InputError(f"unknown {kind} {name!r:.100}; {hint}{', '.join(names)}")


def spelled(function: Callable[P, R]) -> Callable[P, R]:
    """A function that refuses a misspelt keyword argument with the nearest right names.

    Python's own TypeError names only the wrong argument. A function that takes any keyword
    arguments stays as it is.

    Example:
        >>> from pyro_vae.spelling import spelled
        >>> @spelled
        ... def draw(samples, seed=0): ...
        >>> draw(sample=3)
        Traceback (most recent call last):
        pyro_vae.errors.InputError: unknown argument of draw 'sample'; did you mean samples? \
All are: samples, seed
    """
    takes = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in takes):
        return function
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = [p.name for p in takes if p.kind in named and p.name not in ("self", "cls")]
    who = function.__qualname__.removesuffix(".__init__").rpartition(".")[2]

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in names:
                raise unknown(f"argument of {who}", name, names)
        return function(*args, **kwargs)

    return checked


def spelled_class(kind: C) -> C:
    """A class whose constructor is :func:`spelled`, for a dataclass."""
    kind.__init__ = spelled(kind.__init__)  # type: ignore[misc]
    return kind

"""Checks of the types and ranges of options, with one sentence for each kind of option."""

from __future__ import annotations

from math import isfinite
from numbers import Integral, Real
from typing import Any

from .errors import InputError
from .words import called


def is_whole(value: Any) -> bool:
    """Whether ``value`` is a whole number of Python or NumPy, True and False excepted."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite number of Python or NumPy, True and False excepted."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return isfinite(value)
    except OverflowError:  # a whole number that is larger than any float
        return False


MOST_DRAWS = 10**7
"""The most draws of a kind. More would take days, and no estimate needs them."""


def at_least_one(option: str, value: Any, most: int | None = None) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` unless ``value`` is a whole number above 0, and at
    most ``most`` if it is given."""
    if not is_whole(value) or value < 1:
        raise InputError(f"{called(option)} is a whole number above 0, not {value!r}")
    if most is not None and value > most:
        raise InputError(f"{called(option)} is at most {most:,}, not {value:,}")


def number(option: str, value: Any, above: float | None = None) -> float:
    """``value`` if it is a number of at least 0, or above ``above``; else an InputError."""
    if is_number(value) and (value >= 0 if above is None else value > above):
        return value
    allowed = "of at least 0" if above is None else f"above {above}"
    raise InputError(f"{called(option)} is a number {allowed}, not {value!r}")


def finite(option: str, value: Any) -> float:
    """``value`` if it is a number that is not infinite or NaN; else an InputError."""
    if not is_number(value):
        raise InputError(f"{called(option)} is a finite number, not {value!r}")
    return value


def flag(option: str, value: Any) -> bool:
    """``value`` if it is True or False; else an InputError."""
    if not isinstance(value, bool):
        raise InputError(f"{called(option)} is True or False, not {value!r}")
    return value

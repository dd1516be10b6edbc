"""Numbers, options and errors in sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from math import isfinite
from typing import Any

FLAGS: list[Mapping[str, str]] = []
"""While a command runs, its flags by the names that they have in Python."""


@contextmanager
def on_command_line(flags: Mapping[str, str]) -> Iterator[None]:
    """A context in which sentences name options as the user of a command types them.

    Args:
        flags: the flags of the command, such as ``{"batch_size": "--batch-size"}``.
    """
    FLAGS.append(flags)
    try:
        yield
    finally:
        FLAGS.pop()


@contextmanager
def own_names() -> Iterator[None]:
    """A context in which options keep their names in Python, as in ``"normal(scale=0.2)"``."""
    with on_command_line({}) if FLAGS else nullcontext():
        yield


def called(name: str, value: Any = None) -> str:
    """An option in a sentence, as the caller writes it: ``batch_size=4``, ``--batch-size 4``.

    Args:
        name: the name of the argument in Python. An option that the command does not have, such as
            one of a part, keeps it.
        value: the value that the sentence shows; None for no value.

    Example:
        >>> from pyro_vae.words import called, on_command_line
        >>> called("grey", True)
        'grey=True'
        >>> with on_command_line({"grey": "--grey"}):
        ...     called("grey", True)
        '--grey'
    """
    flag = FLAGS[-1].get(name) if FLAGS else None
    if flag is None:
        return name if value is None else f"{name}={value!r}"
    if value is None or value is True:
        return flag
    if value is False:
        return f"--no-{flag.removeprefix('--')}"
    listed = value if isinstance(value, list | tuple) else [value]
    return f"{flag} {','.join(map(str, listed))}"


def either(python: str, command: str) -> str:
    """What the caller can do: in Python, or at a command line."""
    return command if FLAGS else python


def counted(number: int, what: str) -> str:
    """A number of things: ``1 image``, ``2 images``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def word_of(shape: Sequence[int]) -> str:
    """What an observation of this shape is called in reports: a row, a signal, an image."""
    return {1: "row", 2: "signal", 3: "image", 4: "volume"}.get(len(shape), "array")


def about(what: str, text: str) -> str:
    """A text about images as one about other observations: rows, signals, volumes.

    Names of files and columns, such as ``images.npy``, stay as they are.
    """
    return re.sub(r"(?<![\w./-])image(s?)(?![\w./-]*\w)", rf"{what}\1", text)


def plus_minus(mean: float | None, error: float | None, digits: int = 2) -> str:
    """A mean with its standard error, if there is one: a single image has none.

    A mean of None is not defined.
    """
    if mean is None:
        return "undefined"
    known = error is not None and isfinite(error)
    return f"{mean:.{digits}f}" + (f" ± {error:.{digits}f}" if known else "")


def protocol_of(binarize: str) -> str:
    """A binarisation in a sentence: ``no binarisation``, ``dynamic binarisation``.

    A static one is a draw of our own, and not the published one that has this name.
    """
    words = {"none": "no binarisation", "static": "static binarisation by a draw of our own"}
    return words.get(binarize, f"{binarize} binarisation")


def first_line(error: Exception) -> str:
    """The first line of an error's message. Some messages of torch and Pyro are whole tables."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")

"""Numbers and errors in sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import isfinite


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


def plus_minus(mean: float, error: float | None, digits: int = 2) -> str:
    """A mean with its standard error, if there is one: a single image has none."""
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

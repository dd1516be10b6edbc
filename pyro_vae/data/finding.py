"""Find the data that a name or a path means."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..registry import lookup
from ..words import called
from .datasets import DATASETS
from .tables import is_table


def find_path(name: str | Path) -> Path:
    """The path of the user's images.

    Raises:
        InputError: nothing is there. If ``name`` is a single word, it was probably meant as the
            name of a data set, so the message gives the nearest names.
    """
    path = Path(os.path.expanduser(name))
    try:
        if path.exists():
            return path
    except OSError:  # a path that is too long, or in a folder that is locked
        pass
    if len(path.parts) > 1 or path.suffix in (".npy", ".npz", ".mat") or is_table(path):
        raise InputError(f"there is no file or folder {str(path)!r}, or it cannot be read")
    try:
        lookup("data set", str(name), DATASETS)
    except InputError as error:
        raise InputError(
            f"{error}; or the path of a folder of images, of an array file or of a table"
        ) from None
    return path


def check_size(size: int | Sequence[int] | None, crop: bool) -> tuple[int, int] | None:
    """``size`` as ``(H, W)``.

    Raises:
        InputError: ``size`` is not one or two whole numbers above 0, or ``crop`` lacks a size.
    """
    if size is None:
        if crop:
            raise InputError(f"{called('crop', True)} needs a size, such as {called('size', 64)}")
        return None
    pair = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(pair) != 2 or not all(type(n) is int and n > 0 for n in pair):
        raise InputError(
            f"{called('size')} is a whole number above 0, or two of them (height, width), "
            f"not {size!r}"
        )
    return pair[0], pair[1]

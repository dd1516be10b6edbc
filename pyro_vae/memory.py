"""Refuse what does not fit into memory, before the system ends the process."""

from __future__ import annotations

import os
import sys

from .errors import InputError
from .words import either


def check_memory(size: int, what: str, instead: str = "give fewer or smaller ones") -> None:
    """Raise :class:`~pyro_vae.errors.InputError` if this machine has less memory than ``size``.

    Args:
        size: how many bytes are needed at the same time.
        what: the subject of the error message.
        instead: what the user can do.
    """
    memory = total_memory()
    if size > memory:
        size = min(size, 10**24)  # a larger whole number may not be a float
        raise InputError(
            f"{what} needs at least {size / 1e9:,.1f} GB of memory, and this machine has "
            f"{memory / 1e9:,.1f} GB; {instead}"
        )


def on_disk() -> str:
    """What can be done with images that do not fit into memory."""
    return f"leave them on disk by {either('open_data', '--stream')}, or give fewer or smaller ones"


def total_memory() -> int:
    """The bytes of memory of this machine."""
    if not hasattr(os, "sysconf"):  # Windows, where the allocator itself refuses
        return sys.maxsize
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

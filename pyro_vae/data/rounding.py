"""Numbers that are too near each other for float32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from .columns import NARROWEST

FEWEST = 20
"""float32 must have so many numbers between the smallest and the largest number of an entry."""
NOISE = 1e-12
"""Numbers that differ by a smaller share of the largest are a constant with rounding noise."""


def refuse_rounded(x: NDArray | Tensor, observed: NDArray | Tensor | None, who: str) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for an entry whose numbers differ, and of which
    float32 would leave few different ones, as of 1,000,000.01, 1,000,000.02, ….

    Args:
        x: the observations, ``[N, *shape]``.
        observed: where an entry was observed; None if all were.
        who: what the error message calls the array.
    """
    if x.dtype.itemsize < 4:  # pixels of 8 bits, and numbers that are rounded already
        return
    array, there = on_cpu(x), True if observed is None else on_cpu(observed)
    array = array if array.dtype.kind == "f" else array.astype(np.float64)
    low = np.min(array, axis=0, initial=np.inf, where=there).astype(np.float64)
    high = np.max(array, axis=0, initial=-np.inf, where=there).astype(np.float64)
    largest, width = np.maximum(np.abs(low), np.abs(high)), high - low
    least = np.full_like(width, NARROWEST)
    if array.dtype.itemsize > 4:
        with np.errstate(over="ignore", invalid="ignore"):  # no number was observed, or too large
            least = np.maximum(least, FEWEST * np.spacing(largest.astype(np.float32)))
    wrong = (width > NOISE * largest) & (width < least)
    if wrong.any():
        place = tuple(np.argwhere(wrong)[0].tolist())
        where = ", ".join([":", *map(str, place)])
        raise InputError(
            f"{who} has numbers from {low[place]:.12g} to {high[place]:.12g} at [{where}], which "
            "are too near each other for float32; take their mean off, or give them another unit"
        )


def on_cpu(x: NDArray | Tensor) -> NDArray:
    return x.cpu().numpy() if isinstance(x, Tensor) else x

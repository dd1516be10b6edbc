"""Write imputed observations back into the array of their file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .arrays import holds_images, open_arrays, read_array


def refilled(path: Path, x: torch.Tensor) -> NDArray:
    """The array of a file with its missing entries taken from ``x``. The others keep their bits.

    It has the type and the layout of the array in the file. Whole numbers that are not pixels
    become float64 where x is not whole.

    Args:
        path: a file that :func:`read_array` reads.
        x: observations as it reads them, ``[N, *shape]``, or completions ``[M, N, *shape]``.

    Raises:
        InputError: the file is not one of arrays.
    """
    read_array(path)  # refuses what is not an array of observations
    array, _, observed = open_arrays(path)
    known = ~np.isnan(array) if array.dtype.kind == "f" else np.ones(array.shape, bool)
    known = known if observed is None else known & observed
    numbers = x.double().cpu().numpy()
    if holds_images(np.where(known, array, array[known][0])):
        layout = array.shape if array.ndim == 4 else (*array.shape[:1], 1, *array.shape[1:])
        if array.ndim == 4 and array.shape[1] not in (1, 3):  # [N, H, W, C]
            numbers = np.moveaxis(numbers, -3, -1)
        numbers = numbers.reshape(*numbers.shape[: x.dim() - len(layout)], *array.shape)
        if array.dtype == np.uint8:
            numbers = np.rint(numbers * (1 if array.max() == 1 else 255))
        elif array.dtype == np.bool_:
            numbers = numbers >= 0.5
    whole = array.dtype.kind in "iu" and not (numbers == np.rint(numbers)).all()
    return np.where(known, array, numbers.astype(np.float64 if whole else array.dtype))

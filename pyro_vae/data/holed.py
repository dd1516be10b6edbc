"""The missing entries of an array of observations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError


def fill_holes(
    array: NDArray, observed: NDArray | None, path: Path
) -> tuple[NDArray, NDArray | None]:
    """An array with a number in its holes, and the mask of what was observed; None if all was.

    Args:
        array: the observations, with NaN where an entry is missing.
        observed: the mask in the file; None if it has none.
        path: the file that error messages name.

    Raises:
        InputError: a mask of another type or shape, or nothing was observed.
    """
    if observed is not None and (observed.dtype != np.bool_ or observed.shape != array.shape):
        raise InputError(
            f"the mask in {str(path)!r} is of type {observed.dtype} and shape {observed.shape}; it "
            f"must be bool, True where an entry was observed, of shape {array.shape}"
        )
    if array.dtype.kind == "f":
        known = ~np.isnan(array)
        if not known.all():
            observed = known if observed is None else observed & known
    if observed is None or observed.all():
        return array, None
    if not observed.any():
        raise InputError(f"all entries of the array in {str(path)!r} are missing")
    # A number of the data, so that its range stays as it is.
    return np.where(observed, array, array[observed][0]), observed

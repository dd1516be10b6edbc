"""Which rows of a data set are its training rows, and which its test rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError


def split_rows(
    count: int, labels: NDArray[np.int64] | None, test_fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The numbers of the training rows and of the test rows, as :meth:`Images.split` has them.

    Args:
        count: the number of all rows.
        labels: their classes, ``[N]``; None if they are not known.
        test_fraction, seed: as for :meth:`Images.split`. With 0 the rows keep their order.
    """
    if not 0 <= test_fraction < 1:
        raise InputError(f"test fraction {test_fraction} is not in [0, 1)")
    if test_fraction == 0:
        return np.arange(count), np.arange(0)
    if count < 2:
        raise InputError("1 image cannot be split into train and test; give at least 2")
    held = min(max(round(count * test_fraction), 1), count - 1)
    # numpy guarantees that the stream of RandomState never changes, so no split changes.
    random = np.random.RandomState(seed)
    order = random.permutation(count)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    # `order` is sorted by class, so evenly spaced places take the same share of every class.
    test = np.zeros(count, dtype=bool)
    test[((np.arange(held) + 0.5) * count / held).astype(int)] = True
    return random.permutation(order[~test]), random.permutation(order[test])

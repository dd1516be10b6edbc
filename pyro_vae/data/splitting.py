"""Which rows of a data set are its training, its validation and its test rows."""

from __future__ import annotations

from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..options import is_number, is_whole
from ..words import called, counted

VALIDATION = 0.1
"""The usual share of the training rows that becomes the validation rows."""


class Splits(Protocol):
    """Rows that can be split: :class:`.images.Images` and :class:`.stored.StoredImages`."""

    def __len__(self) -> int: ...

    def split(self, test_fraction: float, seed: int) -> tuple[Self, Self]: ...


Rows = TypeVar("Rows", bound=Splits)


class TooFewRows(InputError):
    """A validation split leaves fewer than 2 training rows."""


def split_rows(
    count: int,
    labels: NDArray[np.int64] | None,
    test_fraction: float,
    seed: int,
    word: str = "image",
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The numbers of the training rows and of the test rows, as :meth:`Images.split` has them.

    Args:
        count: the number of all rows.
        labels: their classes, ``[N]``; None if they are not known.
        test_fraction, seed: as for :meth:`Images.split`. With 0 the rows keep their order.
        word: what a row is called.
    """
    if not 0 <= test_fraction < 1:
        raise InputError(f"test fraction {test_fraction} is not in [0, 1)")
    if test_fraction == 0:
        return np.arange(count), np.arange(0)
    if count < 2:
        raise InputError(
            f"{counted(count, word)} cannot be split into train and test; give at least 2"
        )
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


def refuse_few(name: str, train: int, rows: int, word: str) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for fewer than 2 training rows.

    Args:
        name: what the data is called.
        train: the number of its training rows.
        rows: the number of all its rows.
        word: what a row is called, such as ``image``.
    """
    if train < 2:
        raise InputError(
            f"{name} has {counted(rows, word)}, too few: {train} of them would be left for "
            f"training, which needs at least 2 {word}s beside those for validation and test"
        )


def validation_size(count: int, validation: Any, usual: float = VALIDATION) -> int:
    """How many of ``count`` training rows become validation rows.

    Args:
        count: the number of training rows, before.
        validation: a whole number of rows, or a share below 1. None for ``usual``, and for no row
            where fewer than 2 training rows would stay.
        usual: the number or the share that is usual for the data.

    Raises:
        InputError: another value.
        TooFewRows: fewer than 2 training rows stay.

    Example:
        >>> from pyro_vae.data.splitting import validation_size
        >>> validation_size(4000, None), validation_size(4000, 0.25), validation_size(4000, 50)
        (400, 1000, 50)
    """
    size = usual if validation is None else validation
    if not is_number(size) or size < 0 or (size >= 1 and not is_whole(size)):
        raise InputError(
            f"{called('validation')} is a whole number of training rows, or a share of them from 0 "
            f"to below 1, not {validation!r:.100}"
        )
    held = int(size if is_whole(size) or size == 0 else max(round(count * size), 1))
    if held == 0 or count - held >= 2:
        return held
    if validation is None:
        return 0
    raise TooFewRows(
        f"{called('validation', validation)} leaves {max(count - held, 0)} of {count:,} training "
        "rows, and training needs at least 2"
    )


def cut_validation(
    train: Rows,
    validation: Any,
    seed: int,
    usual: float = VALIDATION,
    own: Rows | None = None,
) -> tuple[Rows, Rows | None]:
    """The training rows that stay, and the validation rows, or None for none of them.

    Args:
        train: the training rows.
        validation, usual: as for :func:`validation_size`.
        seed: of the cut.
        own: validation rows that the user has split off; they are taken, or, with 0, left out.

    Raises:
        InputError: as :func:`validation_size`, or another number than the user's own rows have.
    """
    if own is not None:
        if validation not in (None, 0, len(own)):
            raise InputError(
                f"the data has {len(own):,} validation images of its own, so "
                f"{called('validation', validation)} does not fit; leave it out"
            )
        return train, None if validation == 0 else own
    held = validation_size(len(train), validation, usual)
    return (train, None) if held == 0 else train.split(held / len(train), seed)

"""The columns of a table with a role: the labels, or a real target."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import InputError
from .columns import CATEGORIES, Column, plain
from .csvfiles import Known
from .inferring import WORD
from .labelled import HIDDEN
from .schema import Schema, are_levels, is_dtype, listed

if TYPE_CHECKING:
    import pandas as pd

MOST_CLASSES = 0.9
"""The most classes of a label, as a share of the rows that have one."""


def column_of(
    role: str,
    name: str | None,
    frame: pd.DataFrame,
    obs: pd.DataFrame | None,
    known: Known,
    table: str,
) -> pd.Series | None:
    """The column ``name`` of a table or of its further columns; None if there is none.

    Raises:
        InputError: it is not there, and the table is not read by a whole schema; or a schema gives
            its type.
    """
    if name is None:
        return None
    if not isinstance(known, Schema) and name in known:
        raise InputError(
            f"{name!r} is the {role} of {table}, and the schema gives it a type as one of the "
            "columns; take it out of one of the two"
        )
    there = [each[name] for each in (frame, obs) if each is not None and name in each.columns]
    if len(there) == 2:
        raise InputError(
            f"the {role} {name!r} is a column of obs in {table}, and a variable too; give one of "
            "the two another name"
        )
    if there:
        return there[0]
    if isinstance(known, Schema):
        return None
    every = [*(() if obs is None else obs.columns), *frame.columns]
    raise InputError(
        f"the {role} {name!r} is not a column of {table}, which has {listed(every, 20)}"
    )


def targets_of(cells: pd.Series, name: str, table: str) -> torch.Tensor:
    """The numbers of a target, float32 ``[N, 1]``, NaN where one is missing.

    Raises:
        InputError: cells that are not real numbers, or all are missing.
    """
    numbers = Column(name, "real", "float64").numbers(cells, table)
    if np.isnan(numbers).all():
        raise InputError(f"the target {name!r} of {table} is missing in all rows")
    return torch.from_numpy(numbers.astype(np.float32))[:, None]


def refuse_constant(targets: torch.Tensor, name: str, table: str) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for a target that does not change."""
    known = targets[~targets.isnan()]
    if len(known) == 1:
        raise InputError(
            f"the target {name!r} of {table} is known in one row only, and nothing can be learned "
            "of one; name another column"
        )
    if (known == known[0]).all():
        raise InputError(
            f"the target {name!r} of {table} is {known[0].item():g} in all {len(known):,} rows "
            "where it is known, as a float32, and nothing can be learned of a constant; name "
            "another column, or write its differences to this number"
        )


def check_label(labels: pd.Series, name: str, table: str) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for a column that does not have classes: all cells
    are missing, they are real numbers, or nearly all differ."""
    known = labels.dropna().infer_objects()
    if len(known) == 0:
        raise InputError(f"the label {name!r} of {table} is missing in all rows")
    if known.dtype.kind == "f" and (known % 1 != 0).any():
        raise InputError(
            f"the label {name!r} of {table} has real numbers, and a label has classes; give "
            "another column as the label"
        )
    if (different := known.nunique()) > MOST_CLASSES * len(known):
        raise InputError(
            f"the label {name!r} of {table} has {different:,} different values in {len(known):,} "
            "rows, and a label has classes, which occur more than once"
        )


def classes_of(
    labels: pd.Series, names: tuple[str, ...] = ()
) -> tuple[torch.Tensor, tuple[str, ...]]:
    """The numbers of the classes, ``[N]``, -1 where a label is missing; and their names.

    Args:
        labels: the column.
        names: those of the classes that are known already, as those of a run.
    """
    missing = labels.isna().to_numpy()
    known = known_labels(labels)
    written, place = np.unique(known.astype(str).to_numpy(dtype=str), return_inverse=True)
    meant = [among(text, names) for text in map(str, written)]
    classes, index = np.unique(np.array(meant, dtype=str), return_inverse=True)
    numbers = np.full(len(labels), HIDDEN)
    numbers[~missing] = index[place]
    return torch.from_numpy(numbers), tuple(map(str, classes))


def known_labels(labels: pd.Series) -> pd.Series:
    """The labels that are not missing. Whole numbers, which pandas reads as floats if one is
    missing, are whole numbers again."""
    known = labels.dropna().infer_objects()
    whole = known.dtype.kind == "f" and (known % 1 == 0).all()
    return known.astype(np.int64) if whole else known


def label_column(labels: pd.Series, name: str, classes: tuple[str, ...]) -> Column | None:
    """How pandas has labels, with the values of the ``classes`` as levels, so that drawn labels can
    have the same type; None if a schema cannot store it."""
    import pandas as pd

    dtype, values = str(labels.dtype), list(known_labels(labels).unique())
    if isinstance(labels.dtype, pd.CategoricalDtype):
        dtype, values = CATEGORIES[bool(labels.cat.ordered)], list(labels.cat.categories)
    levels = tuple(map(plain, values))
    if not (is_dtype(dtype) and are_levels(levels) and {*classes} <= {*map(str, levels)}):
        return None
    return Column(name, "categorical", dtype, levels)


def among(text: str, names: tuple[str, ...]) -> str:
    """The name of the class that a cell names.

    It is the text itself if this is a name. Otherwise a truth value or a whole number can be
    written in another way than its name, as 1.0 for 1. Digits as in :data:`WORD` are a word.

    Example:
        >>> from pyro_vae.data.roles import among
        >>> among("1.0", ("1", "2")), among("01", ("01", "1")), among("01", ("1", "2"))
        ('1', '01', '01')
    """
    bare = text.strip()
    if text in names or not names or re.fullmatch(WORD, bare):
        return text
    if bare.lower() in ("true", "false"):
        other = bare.capitalize()
    else:
        try:
            number = float(bare)
        except ValueError:
            return text
        other = str(int(number)) if number.is_integer() else text
    return other if other in names else text

"""A column of a table: its type, and its cells as numbers and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

if TYPE_CHECKING:
    import pandas as pd


TYPES = {
    "real": "real numbers",
    "positive": "numbers above 0",
    "count": "whole numbers of at least 0",
    "binary": "two values",
    "categorical": "categories without an order",
    "ordered": "categories with an order",
}
"""The types of columns, in words."""

WITH_LEVELS = ("binary", "categorical", "ordered")
"""The types whose columns have a list of levels: the values that they can have."""

CATEGORIES = ("category", "ordered category")
"""What a schema calls the two types of categories in pandas."""

LARGEST_COUNT = 2**24
"""float32 holds all whole numbers up to here."""

SMALLEST = float(np.finfo(np.float32).tiny)
"""float32 holds no number above 0 that is smaller with all its digits."""

NARROWEST = 10 * SMALLEST
"""Real numbers of a column or an entry differ by more; their unit is a number of float32."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        name: its name.
        type: a name of :data:`TYPES`.
        dtype: its type in pandas, such as ``float64``; of categories one of :data:`CATEGORIES`.
        levels: the values of a column with levels, in the order of their codes.
        offset: what is taken off a real column before it becomes float32. This changes no density.
    """

    name: str
    type: str
    dtype: str
    levels: tuple[Any, ...] = ()
    offset: float = 0.0

    @property
    def spec(self) -> str:
        """The type as the likelihood ``columns`` reads it."""
        return self.type if self.type not in WITH_LEVELS[1:] else f"{self.type}({len(self.levels)})"

    def numbers(self, cells: pd.Series, table: str) -> NDArray[np.float64]:
        """The cells as numbers, ``[N]``: of a column with levels their codes; NaN where missing.

        Args:
            cells: the column of a table.
            table: what error messages call the table.

        Raises:
            InputError: a cell that a column of this type cannot have.
        """
        missing = cells.isna().to_numpy()
        if self.levels:
            try:
                found = cells.astype(object).map({v: i for i, v in enumerate(self.levels)})
            except TypeError:  # a list cannot be looked up
                raise InputError(f"the column {self.name!r} of {table} holds lists") from None
            codes = found.to_numpy(np.float64, na_value=np.nan)
            known = ", ".join(map(repr, self.levels[:10])) + (", …" if self.levels[10:] else "")
            self.refuse(cells, np.isnan(codes) & ~missing, table, f"has the values {known}")
            return codes
        numbers = as_numbers(cells)
        wrong = (np.isnan(numbers) & ~missing) | np.isinf(numbers)
        if is_numeric(self.dtype):
            wrong |= truth_values(cells)
        wrong |= np.abs(numbers - self.offset) > np.finfo(np.float32).max
        allowed = f"needs {TYPES[self.type]}"
        self.refuse(cells, wrong, table, f"{allowed} in the range of float32")
        if self.type == "positive":
            wrong = numbers < SMALLEST
            allowed += f", of at least {SMALLEST:.2g}, the smallest that float32 holds"
        elif self.type == "count":
            wrong = (numbers < 0) | (numbers > LARGEST_COUNT) | (numbers % 1 != 0)
        self.refuse(cells, wrong & ~missing, table, allowed)
        return numbers - self.offset

    def refuse(self, cells: pd.Series, wrong: NDArray[Any], table: str, allowed: str) -> None:
        """Raise :class:`~pyro_vae.errors.InputError` for the first cell that is wrong."""
        if wrong.any():
            row = int(wrong.argmax())
            raise InputError(
                f"the column {self.name!r} of {table} {allowed}, and row {cells.index[row]} has "
                f"{plain(cells.iloc[row])!r:.60}"
            )

    def cells(self, numbers: NDArray[np.float64], index: Any = None) -> pd.Series:
        """:meth:`numbers` undone: a column with the name, the type in pandas and the categories of
        this one. Codes and counts between two whole numbers are rounded; NaN is a missing cell.

        Args:
            numbers: ``[N]``.
            index: the index of the column.
        """
        import pandas as pd

        missing = np.isnan(numbers)
        if self.levels:
            codes = np.where(missing, -1, numbers.round().clip(0, len(self.levels) - 1)).astype(int)
            if self.dtype in CATEGORIES:
                ordered = self.dtype == CATEGORIES[1]
                made = pd.Categorical.from_codes(codes, list(self.levels), ordered)  # type: ignore[call-overload]
                return pd.Series(made, index=index, name=self.name)
            levels = np.empty(len(self.levels) + 1, dtype=object)
            levels[:-1], levels[-1] = self.levels, np.nan
            values = pd.Series(levels[codes], index=index, name=self.name, dtype=object)
        else:
            numbers = numbers + self.offset
            kind = pd.api.types.pandas_dtype(self.dtype)
            if self.type == "count" or pd.api.types.is_integer_dtype(kind):
                numbers = numbers.round()
            values = pd.Series(numbers, index=index, name=self.name)
        return with_dtype(values, self.dtype)


def plain(value: Any) -> Any:
    """A value of NumPy as one of Python; any other value is unchanged."""
    return value.item() if isinstance(value, np.generic) else value


def is_numeric(dtype: str) -> bool:
    """Whether the type of a column in pandas, as :class:`Column` names it, is one of numbers."""
    import pandas as pd

    if dtype in CATEGORIES:
        return False
    kind = pd.api.types.pandas_dtype(dtype)
    return pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind)


def truth_values(cells: pd.Series) -> NDArray[np.bool_]:
    """Which cells are truth values, ``[N]``; pandas would read them as 0 and 1."""
    if cells.dtype.kind == "O":
        return cells.map(lambda cell: isinstance(cell, bool | np.bool_)).to_numpy(bool)
    return np.full(len(cells), cells.dtype.kind == "b")


def as_numbers(cells: pd.Series) -> NDArray[np.float64]:
    """Cells as numbers; NaN for those that are missing or no numbers."""
    import pandas as pd

    if cells.dtype.kind in "mMc":  # dates and durations would be numbers of nanoseconds
        return np.full(len(cells), np.nan)
    plain = cells.astype(object) if isinstance(cells.dtype, pd.CategoricalDtype) else cells
    return pd.to_numeric(plain, errors="coerce").to_numpy(np.float64, na_value=np.nan)


def with_dtype(values: pd.Series, dtype: str) -> pd.Series:
    """Values in a type of pandas; whole numbers and truth values with missing cells, which NumPy's
    types cannot hold, stay as pandas reads them from a file. A sparse column is made dense."""
    import pandas as pd

    kind: Any = pd.api.types.pandas_dtype(dtype)
    kind = kind.subtype if isinstance(kind, pd.SparseDtype) else kind
    if isinstance(kind, np.dtype) and kind.kind in "biu" and values.isna().any():
        return values if kind.kind == "b" else values.astype(np.float64)
    if kind.kind in "iu":
        limits = np.iinfo(f"{kind.kind}{kind.itemsize}")
        # float64 rounds the largest number of 64 bits up, to one that has no 64 bits.
        largest = np.nextafter(float(limits.max), 0) if limits.bits == 64 else float(limits.max)
        values = values.astype(np.float64).clip(float(limits.min), largest)
    return values.astype(kind)

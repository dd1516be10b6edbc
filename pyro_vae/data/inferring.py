"""The types of a table's columns, inferred by written rules.

The first rule that holds decides. Only cells that are there count. A CSV column with digits that a
number would not keep, such as 01003, has words (:data:`WORD`).

1. A column is left out if it is all missing, has one value, has dates or durations, or has other
   things than numbers, words and truth values.
2. Categories of pandas with an order are ``ordered``.
3. Two different values are ``binary``.
4. Other categories of pandas, and words, are ``categorical``, if they are at most 50 and occur
   twice on average. Otherwise they are left out, as text or as names of the rows. If most are meant
   as numbers, the reason names the first cell that is not one.
5. Whole numbers are left out as ids if one is beyond 2^53; and as names of the rows if they all
   differ and rise from row to row, or if they all differ and the column is called id, index or key,
   or ends in such a word.
6. Whole numbers of at least 0 with a 0 among them are a ``count``. Without a 0 they are ``ordered``
   if they have at most 10 different values.
7. Numbers above 0 with a skewness above 1 are ``positive``.
8. All other numbers are ``real``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .columns import (
    CATEGORIES,
    LARGEST_COUNT,
    NARROWEST,
    WITH_LEVELS,
    Column,
    as_numbers,
    plain,
)
from .schema import LEFT_OUT, Schema, are_levels, is_dtype, listed

if TYPE_CHECKING:
    import pandas as pd

MOST_CATEGORIES = 50
MOST_ORDERED = 10
SKEWED = 1.0
LARGEST_WHOLE = 2**53
"""float64 holds all whole numbers up to here."""

DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}([ T].*)?|\d{1,2}[./]\d{1,2}[./]\d{2,4}( .*)?")
WORD = r"0\d+|\+\d{7,}|[+-]?\d{16,}"
"""Digits that are a word, since a number would lose some: a zip code of 01003, a telephone number,
an id of 16 digits or more, which float64 does not hold."""
CURRENCY = r"\s*([$€£¥]|\b(USD|EUR|GBP|CHF|JPY)\b)\s*"
NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
THOUSANDS = r"[+-]?\d{1,3}(([ ',]\d{3})+(\.\d+)?|(\.\d{3})+,\d+|(\.\d{3}){2,})"
DECIMAL_COMMA = r"[+-]?\d+,\d+"
ROW_NAME = re.compile(r"(?i:(.*[\W_])?(id|index|key))|.*[a-z]I[Dd]")


def infer(frame: pd.DataFrame, given: Mapping[str, Mapping[str, Any]], table: str) -> Schema:
    """The schema of a table.

    Args:
        frame: the table.
        given: the types of some columns, as :func:`~.schemafile.read_schema` gives them.
        table: what error messages call the table.

    Raises:
        InputError: a column that is not there, a type that does not fit, or no column is left.
    """
    if absent := [name for name in given if name not in frame.columns]:
        raise InputError(
            f"the schema names {listed(absent)}, and {table} has the columns "
            f"{listed(list(frame.columns), 20)}"
        )
    columns: list[Column] = []
    left_out: dict[str, str] = {}
    for name in frame.columns:
        cells, entry = frame[name], given.get(name)
        if entry is None:
            kind, why = guess(name, cells)
        else:
            kind, why = entry["type"], "by the schema"
        if kind == LEFT_OUT:
            left_out[name] = why
        else:
            columns.append(column_of(cells, kind, (entry or {}).get("levels"), table))
    if not columns:
        reasons = listed([f"{name} ({why})" for name, why in left_out.items()])
        raise InputError(
            f"{table} has no column to train on" + (f"; left out: {reasons}" if left_out else "")
        )
    return Schema(tuple(columns), left_out)


def guess(name: str, cells: pd.Series) -> tuple[str, str]:
    """The type of a column, and why if it is left out."""
    import pandas as pd

    observed = cells.dropna().infer_objects()
    kind: Any = observed.dtype
    if len(observed) == 0:
        return LEFT_OUT, "all missing"
    if kind.kind in "mM" or isinstance(kind, pd.PeriodDtype):
        return LEFT_OUT, "durations" if kind.kind == "m" else "dates"
    try:
        values = list(observed.unique())
    except TypeError:  # lists and dicts have no hash
        return LEFT_OUT, f"holds things of type {type(observed.iloc[0]).__name__}"
    if len(values) == 1:
        return LEFT_OUT, f"always {values[0]!s:.60}"
    category = isinstance(kind, pd.CategoricalDtype)
    numeric = pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind)
    if not numeric:
        other = [v for v in values if not isinstance(v, str | bool | int | float | np.generic)]
        if other:
            dates = type(other[0]).__name__ in ("date", "datetime", "Timestamp")
            return LEFT_OUT, "dates" if dates else f"holds things of type {type(other[0]).__name__}"
        if all(isinstance(v, str) and DATE.fullmatch(v.strip()) for v in values):
            return LEFT_OUT, "dates"
    if not category and kind.kind != "c" and not is_dtype(str(cells.dtype)):
        return LEFT_OUT, f"has the type {cells.dtype} of pandas, which a run cannot store"
    if category and kind.ordered and len(kind.categories) > 2:
        return "ordered", ""
    if len(kind.categories if category else values) == 2:
        return "binary", ""
    if numeric:
        if kind.kind == "c":
            return LEFT_OUT, "complex numbers"
        numbers = as_numbers(observed)
        if kind.kind in "iu" and np.abs(numbers).max() > LARGEST_WHOLE:
            return LEFT_OUT, "whole numbers beyond 2^53, which are ids"
        return guess_numbers(name, numbers, len(values))
    many = len(kind.categories) if category else len(values)
    if many > MOST_CATEGORIES or (not category and 2 * many > len(observed)):
        usual = "all values differ"
        if category or many < len(observed):
            usual = f"text of {many:,} different values"
        return LEFT_OUT, odd_cell(observed) or usual
    return "categorical", ""


def odd_cell(observed: pd.Series) -> str:
    """The first cell that is not a number in a text column of which most cells are meant as
    numbers, and why it is not; "" for another column."""
    texts = observed.astype(str).str.strip()
    if texts.str.fullmatch(WORD).any():
        return ""
    bare = texts.str.replace(CURRENCY, "", regex=True)
    thousands, comma = bare.str.fullmatch(THOUSANDS), bare.str.fullmatch(DECIMAL_COMMA)
    number = np.abs(as_numbers(texts)) <= np.finfo(np.float32).max
    meant = (bare.str.fullmatch(NUMBER) | thousands | comma).to_numpy(bool)
    if 2 * meant.sum() <= len(texts):
        return ""
    if number.all():
        return "its numbers are text; a schema can give their type"
    row = int((~number).argmax())
    if thousands.iloc[row]:
        why = "with a separator of thousands"
    elif comma.iloc[row]:
        why = "with a comma for the decimal point"
    elif not meant[row]:
        why = "which is not a number"
    elif bare.iloc[row] != texts.iloc[row]:
        why = "with the sign of a currency"
    else:
        why = "which is not a number that float32 holds"
    cell = str(observed.iloc[row])  # with its spaces, which are not seen otherwise
    return f"row {texts.index[row]} has {cell!r:.60}, {why}"


def guess_numbers(name: str, numbers: NDArray[np.float64], different: int) -> tuple[str, str]:
    """As :func:`guess`, for a column of more than two different numbers.

    Args:
        name: of the column.
        numbers: the cells that are there.
        different: how many different numbers there are.
    """
    if not np.isfinite(numbers).all():
        return "real", ""  # reading the column names the cell
    low, whole = numbers.min(), bool((numbers % 1 == 0).all())
    rises = bool((np.diff(numbers) > 0).all())
    if whole and different == len(numbers) and (rises or ROW_NAME.fullmatch(name)):
        return LEFT_OUT, "all values differ"
    if whole and low == 0 and numbers.max() <= LARGEST_COUNT:
        return "count", ""
    if whole and low > 0 and different <= MOST_ORDERED:
        return "ordered", ""
    if low > 0 and skewness(numbers) > SKEWED and not too_fine(numbers):
        return "positive", ""
    return "real", ""


def skewness(numbers: NDArray[np.float64]) -> float:
    """E[(x - m)³] / s³."""
    # In units of the largest number, whose third power is a number.
    units = (numbers - numbers.mean()) / np.abs(numbers - numbers.mean()).max()
    return float((units**3).mean() / units.std() ** 3)


def too_fine(numbers: NDArray[np.float64]) -> bool:
    """Whether float32 would round numbers by more than a thousandth of their standard deviation, as
    those that are far from 0 and near each other, such as times in seconds since 1970."""
    with np.errstate(over="ignore"):  # numbers that are refused later
        spread = numbers.std()
    return bool(np.finfo(np.float32).eps * np.abs(numbers).max() > 1e-3 * spread)


def column_of(cells: pd.Series, kind: str, levels: Any, table: str) -> Column:
    """A column of a type, with what it takes from its cells.

    Args:
        cells: the column.
        kind: its type.
        levels: its levels if the user gives them.
        table: what error messages call the table.

    Raises:
        InputError: a type that does not fit the cells.
    """
    import pandas as pd

    name, observed = str(cells.name), cells.dropna()
    who = f"the column {name!r} of {table}"
    if len(observed) == 0:
        raise InputError(f"{who} is all missing; give it the type {LEFT_OUT!r} in the schema")
    if levels is None and observed.nunique() < 2:
        raise InputError(
            f"{who} is always {plain(observed.iloc[0])!r:.60}, so there is nothing to model; give "
            f"it the type {LEFT_OUT!r} in the schema"
        )
    category = isinstance(cells.dtype, pd.CategoricalDtype)
    dtype = CATEGORIES[bool(cells.cat.ordered)] if category else str(cells.dtype)
    if not is_dtype(dtype):
        raise InputError(
            f"{who} has the type {dtype} of pandas, which a run cannot store; convert it to another"
        )
    if kind in WITH_LEVELS:
        found = tuple(levels) if levels else levels_of(cells, kind, who)
        if category and set(found) != set(cells.cat.categories):
            dtype = "object"  # the categories of pandas are no longer these
        if kind == "binary" and len(found) != 2:
            raise InputError(f"{who} is binary by the schema, and it has {len(found)} values")
        return Column(name, kind, dtype, found)
    numbers = as_numbers(observed)
    offset = 0.0
    finite = np.isfinite(numbers).all()
    if kind == "real" and finite and np.ptp(numbers) < NARROWEST:
        raise InputError(
            f"{who} has numbers that differ by {np.ptp(numbers):.3g} at most, and float32 does not "
            f"hold such differences; give them another unit, or the type {LEFT_OUT!r} in the schema"
        )
    if finite and too_fine(numbers):
        if kind != "real":
            raise InputError(
                f"{who} is {kind} by the schema, and its numbers, near {numbers.mean():.7g}, are "
                "too near each other for float32; give it the type real"
            )
        offset = float(numbers.mean())
    return Column(name, kind, dtype, offset=offset)


def levels_of(cells: pd.Series, kind: str, who: str) -> tuple[Any, ...]:
    """The levels of a column: the categories of pandas, or its different values, sorted."""
    import pandas as pd

    category = isinstance(cells.dtype, pd.CategoricalDtype)
    values = [plain(v) for v in (cells.cat.categories if category else cells.dropna().unique())]
    if not are_levels(values):
        raise InputError(
            f"{who} is {kind}, and its values are not all words, truth values and finite numbers"
        )
    if category:
        return tuple(values)
    numbers = all(isinstance(v, bool | int | float) for v in values)
    if kind == "ordered" and not numbers:
        raise InputError(
            f"{who} is ordered by the schema, and its values are words; give their order as "
            '{"type": "ordered", "levels": [the lowest, …, the highest]}'
        )
    return tuple(sorted(values) if numbers else sorted(values, key=str))

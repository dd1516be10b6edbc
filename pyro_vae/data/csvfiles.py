"""CSV files as data frames, with all names as they are and without digits lost."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..words import counted
from .columns import WITH_LEVELS
from .inferring import WORD
from .schema import Schema, listed

if TYPE_CHECKING:
    import pandas as pd

Known = Schema | dict[str, dict[str, Any]]
"""The schema, or the types of some columns."""

Read = tuple["pd.DataFrame", "pd.DataFrame | None"]
"""A table, and the further columns of its rows in an AnnData file."""

ROWS = 100_000
"""The rows whose words are looked at together."""


def word_columns(known: Known) -> list[str]:
    """The columns whose levels or classes are words, which a reader must not turn into numbers."""
    if isinstance(known, Schema):
        levels = {column.name: column.levels for column in known.columns}
        if known.label:
            levels[known.label] = known.classes
    else:
        levels = {name: tuple(entry.get("levels", ())) for name, entry in known.items()}
    return [n for n, each in levels.items() if each and all(isinstance(v, str) for v in each)]


def digit_words(path: Path, separator: str, names: list[str]) -> list[str]:
    """Those of the columns ``names`` in a CSV file that have a cell as in :data:`WORD`."""
    import pandas as pd

    found: set[str] = set()
    options: dict[str, Any] = {"sep": separator, "dtype": str, "index_col": False}
    with pd.read_csv(path, usecols=names, chunksize=ROWS, **options) as parts:
        for part in parts:
            cells = {name: part[name].dropna().str.strip() for name in names if name not in found}
            found |= {name for name, each in cells.items() if each.str.fullmatch(WORD).any()}
    return [name for name in names if name in found]


def names_in(path: Path, separator: str) -> list[str]:
    """The names in the first row of a CSV file, as they are; pandas would make them differ."""
    import pandas as pd

    options: dict[str, Any] = {"sep": separator, "dtype": str, "keep_default_na": False}
    return [str(name) for name in pd.read_csv(path, header=None, nrows=1, **options).iloc[0]]


def check_names(names: Sequence[str], table: str) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for a name that two columns have."""
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"{table} has the column {twice[0]!r} twice")


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_csv(path: Path, known: Known, separator: str = ",") -> Read:
    """A CSV file with a row of names. The rows have numbers, from 0."""
    import pandas as pd

    names = names_in(path, separator)
    refuse_nul(path)
    if len(names) == 1 and (other := next((s for s in ";\t|" if s in names[0]), None)):
        raise InputError(
            f"the table {str(path)!r} has one column, {names[0][:60]!r}; its separator seems to be "
            f"{other!r}, and it must be {separator!r}"
        )
    empty = [not name.strip() for name in names]
    if any(empty):
        raise InputError(
            f"column {empty.index(True)} of {path.name!r} has no name; give it one, or take it out "
            "(pandas writes such a column for the index unless it is told index=False)"
        )
    check_names(names, repr(path.name))
    if all(is_number(name) for name in names):
        warnings.warn(
            f"the first row of {path.name!r}, {listed(names)}, has only numbers, and is taken as "
            "the names of the columns",
            stacklevel=2,
        )
    words = [name for name in word_columns(known) if name in names]
    with warnings.catch_warnings():
        # A row with more cells than there are names would lose some.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        if not isinstance(known, Schema):
            open_ = [n for n in names if n not in known or known[n]["type"] in WITH_LEVELS]
            words += digit_words(path, separator, [n for n in open_ if n not in words])
        kinds = dict.fromkeys(words, str)
        frame = pd.read_csv(path, sep=separator, dtype=kinds, low_memory=False, index_col=False)
    if len(names) == 1:
        warn_of_empty_lines(path)
    return frame, None


def refuse_nul(path: Path) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for a NUL byte, at which pandas ends a cell."""
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as text:
        place = text.find(b"\0")
        if place >= 0:
            line = text[:place].count(b"\n") + 1
            raise InputError(
                f"line {line} of {path.name!r} has a NUL byte, and the text of a table has none; "
                "write the table anew"
            )


def warn_of_empty_lines(path: Path) -> None:
    """Warn of empty lines in a CSV file of one column, where they may be meant as missing cells."""
    lines = path.read_bytes().rstrip().splitlines()
    if empty := sum(not line.strip() for line in lines):
        warnings.warn(
            f"{path.name!r} has one column, and pandas skips {counted(empty, 'empty line')} in it; "
            'write NA or "" for a missing cell',
            stacklevel=2,
        )


def read_tsv(path: Path, known: Known) -> Read:
    """As :func:`read_csv`, with tabs."""
    return read_csv(path, known, "\t")

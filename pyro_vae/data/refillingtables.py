"""Write imputed rows back into the table of their file. What was observed stays as it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import InputError
from .columns import Column
from .images import Images
from .tables import READERS

if TYPE_CHECKING:
    import pandas as pd

SEPARATORS = {".csv": ",", ".tsv": "\t"}

Span = tuple[int, int]
"""Where the text of a cell begins and ends in the text of its file."""


class Cells:
    """The numbers of the observed cells of a table, by which its file is checked.

    Args:
        images: the rows of the table.
    """

    def __init__(self, images: Images) -> None:
        assert images.schema is not None
        self.schema, self.codes = images.schema, images.pixels.cpu().numpy()
        none = np.ones(self.codes.shape, dtype=bool)
        self.observed = none if images.mask is None else images.mask.cpu().numpy()

    def checked(self, path: Path, table: Path, filled: bool = False) -> pd.DataFrame:
        """The table in a file.

        Args:
            path: the file.
            table: the file that the error message names.
            filled: whether the missing cells must have been filled.

        Raises:
            InputError: the file has other observed cells, or other holes.
        """
        frame, _ = READERS[table.suffix.lower()](path, self.schema)
        frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
        names = [column.name for column in self.schema.columns]
        same = set(names) <= set(frame.columns) and len(frame) == len(self.codes)
        if same:
            codes, mask = self.schema.read(frame[names], repr(table.name))
            known = np.ones_like(self.observed) if mask is None else mask.numpy()
            same = np.array_equal(known, self.observed | filled)
            same = same and bool((codes.numpy() == self.codes)[self.observed].all())
        if not same:
            raise InputError(f"the table {str(table)!r} changed while it was imputed; try again")
        return frame


class TextTable:
    """The text of a CSV file whose missing cells can be filled.

    All other cells keep their bytes, as do the line ends and the columns that are left out. A cell
    that is filled looks like the observed cells of its column: it has as many digits after the
    point as the longest of them, the spelling of its category, and their quotes.

    Args:
        path: a file that :func:`.tables.read_table` reads, ``.csv`` or ``.tsv``.
        images: its rows, in their order.

    Raises:
        InputError: the file has other rows than ``images``.
    """

    def __init__(self, path: Path, images: Images) -> None:
        self.path, self.cells = path, Cells(images)
        self.separator = SEPARATORS[path.suffix.lower()]
        frame = self.cells.checked(path, path)
        self.text = path.read_bytes().decode()
        self.rows = cells_of(self.text, self.separator)[1:]
        if len(self.rows) != len(frame):
            raise InputError(
                f"pandas finds {len(frame):,} rows in {str(path)!r}, and by its quotes and line "
                f"ends there are {len(self.rows):,}; write the table anew, as by pandas"
            )
        names, codes = list(frame.columns), self.cells.codes
        columns, self.observed = self.cells.schema.columns, self.cells.observed
        self.places = [names.index(column.name) for column in columns]
        self.looks = [
            Look(column, self.texts(i), codes[self.observed[:, i], i], self.separator)
            for i, column in enumerate(columns)
        ]

    def texts(self, column: int) -> list[str]:
        """The texts of the observed cells of a column."""
        place, rows = self.places[column], np.flatnonzero(self.observed[:, column])
        return [self.text[slice(*self.rows[row][place])] for row in rows]

    def write(self, part: Path, x: torch.Tensor) -> None:
        """Write the table with its missing cells from ``x``, ``[N, D]``."""
        numbers = x.double().cpu().numpy()
        order = np.argsort(self.places)
        pieces, at = [], 0
        for number in np.flatnonzero(~self.observed.all(1)):
            row = self.rows[number]
            end, there = row[-1][1], len(row)  # a row may have fewer cells than there are names
            for column in (i for i in order if not self.observed[number, i]):
                place, look = self.places[column], self.looks[column]
                filled = numbers[number, column]
                if place < len(row):
                    start, stop = row[place]
                    quoted = self.text[start : start + 1] == '"'
                    pieces += [self.text[at:start], look.text(filled, quoted)]
                    at = stop
                else:
                    between = self.separator * (place - there + 1)
                    pieces += [self.text[at:end], between, look.text(filled, False)]
                    at, there = end, place + 1
        part.write_bytes("".join([*pieces, self.text[at:]]).encode())
        self.cells.checked(part, self.path, filled=True)


class ParquetTable:
    """A Parquet file whose missing cells can be filled; its columns keep their types.

    Args:
        path: the file.
        images: its rows, in their order.
    """

    def __init__(self, path: Path, images: Images) -> None:
        self.path, self.cells = path, Cells(images)
        self.frame = self.cells.checked(path, path)

    def write(self, part: Path, x: torch.Tensor) -> None:
        """Write the table with its missing cells from ``x``, ``[N, D]``."""
        import pyarrow as pa
        from pyarrow import parquet

        numbers, table = x.double().cpu().numpy(), parquet.read_table(self.path)
        for i, column in enumerate(self.cells.schema.columns):
            missing = ~self.cells.observed[:, i]
            if not missing.any():
                continue
            cells = refilled_column(self.frame[column.name], column, numbers[missing, i], missing)
            place = table.schema.get_field_index(column.name)
            field = table.schema.field(place)
            if pa.types.is_dictionary(field.type):
                cells = cells.astype(object)
            table = table.set_column(place, field, pa.array(cells, field.type, from_pandas=True))
        parquet.write_table(table, part)
        self.cells.checked(part, self.path, filled=True)


TableFile = TextTable | ParquetTable


def open_table(path: Path, images: Images) -> TableFile:
    """The table in a file, to be filled.

    Args:
        path: a ``.csv``, ``.tsv`` or ``.parquet`` file.
        images: its rows, in their order.

    Raises:
        InputError: the file has other rows than ``images``.
    """
    return (TextTable if path.suffix.lower() in SEPARATORS else ParquetTable)(path, images)


class Look:
    """What the cells of a column look like in a CSV file.

    Args:
        column: the column.
        texts: the texts of its observed cells.
        codes: the numbers of these cells, ``[n]``.
        separator: what stands between cells.
    """

    def __init__(
        self, column: Column, texts: list[str], codes: NDArray[Any], separator: str
    ) -> None:
        self.column, self.separator = column, separator
        self.quoted = bool(texts) and texts[0].startswith('"')
        _, first = np.unique(codes, return_index=True)
        self.levels = {int(codes[i]): texts[i] for i in first} if column.levels else {}
        places = [digits_after_point(text) for text in texts] if not column.levels else []
        known = [place for place in places if place is not None]
        self.digits = max(known) if places and len(known) == len(places) else None

    def text(self, number: float, quoted: bool) -> str:
        """The text of a cell.

        Args:
            number: the number; of a category its code.
            quoted: whether the missing cell was in quotes.
        """
        if self.column.levels:
            code = int(np.clip(np.rint(number), 0, len(self.column.levels) - 1))
            if code in self.levels:
                return self.levels[code]
            level = self.column.levels[code]
            points = any("." in each for each in self.levels.values())
            whole = isinstance(level, float) and level.is_integer() and not points
            text = str(int(level) if whole else level)
        else:
            text = self.number(number)
        if quoted or self.quoted or re.search(f'[{self.separator}"\r\n]', text):
            return '"' + text.replace('"', '""') + '"'
        return text

    def number(self, number: float) -> str:
        """The text of a number, with the digits of the column. A count is whole, and a positive
        number is not rounded to 0."""
        column = self.column
        whole = column.type == "count" or column.dtype.lower().startswith(("int", "uint"))
        number = float(np.rint(number + column.offset) if whole else number + column.offset)
        digits = 0 if whole and self.digits is None else self.digits
        if digits is None:  # float32 has no more digits, but what was taken off does
            return repr(number) if column.offset else str(np.float32(number))
        rounded = round(number, digits)
        if column.type == "positive" and rounded <= 0:
            rounded = 10.0**-digits
        return f"{rounded + 0.0:.{digits}f}"  # + 0.0, because -0.0 is written with its sign


def digits_after_point(text: str) -> int | None:
    """The number of digits after the point; None for a number with an exponent."""
    match = re.fullmatch(r'[\s"+-]*\d*\.?(\d*)[\s"]*', text)
    return None if match is None else len(match[1])


def cells_of(text: str, separator: str) -> list[list[Span]]:
    """Where the cells of each row of a CSV file are; the first row is that of the names.

    As pandas does, a line without cells is skipped, and a quote counts only where a cell begins.
    """
    other = f"[^{separator}\r\n]*+"
    cell = re.compile(f'(?:"(?:[^"]++|"")*+"{other}|{other})({separator}|\r\n|\r|\n|\\Z)')
    rows: list[list[Span]] = []
    row: list[Span] = []
    for match in cell.finditer(text, 1 if text.startswith("\ufeff") else 0):
        row.append((match.start(), match.start(1)))
        if match[1] != separator:
            if len(row) > 1 or text[slice(*row[0])].strip(" \t"):
                rows.append(row)
            row = []
    return rows


def refilled_column(
    cells: pd.Series, column: Column, numbers: NDArray[Any], missing: NDArray[np.bool_]
) -> pd.Series:
    """A column of a data frame, in its own type, with its missing cells from ``numbers``."""
    import pandas as pd

    values = column.cells(numbers, cells.index[missing])
    kind: Any = cells.dtype
    if isinstance(kind, pd.CategoricalDtype):
        new = [each for each in values.unique() if each not in kind.categories]
        filled = cells.cat.add_categories(new)
        values = values.astype(object)
    else:
        filled = cells.copy()
        rounds = pd.api.types.is_integer_dtype(kind) and pd.api.types.is_float_dtype(values.dtype)
        values = (values.round() if rounds else values).astype(kind)
    filled.iloc[np.flatnonzero(missing)] = values.to_numpy()  # type: ignore[call-overload]
    return filled

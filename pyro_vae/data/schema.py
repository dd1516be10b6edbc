"""The schema of a table: its columns, which of its columns are left out, and its labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .columns import CATEGORIES, TYPES, WITH_LEVELS, Column

if TYPE_CHECKING:
    import pandas as pd


LEFT_OUT = "left out"
"""What stands in a schema file for a column that is not used."""

LABEL, TARGET = "label", "target"
"""What stands in a stored schema for the column of the labels, and for that of a real target."""

NAMED = 6
"""How many columns of a type a sentence names."""


@dataclass(frozen=True)
class Schema:
    """The columns of a table, and which of its columns are left out.

    Args:
        columns: the columns that a VAE is trained on.
        left_out: the other columns by name, each with the reason.
        label: the column of the labels; None if there is none.
        classes: the names of its classes; () without a label, and for a run of an older version.
        target: the column of a real target; None if there is none.
        label_column: how pandas has the labels, with their values as levels; None if a run of an
            older version did not store it, or if it cannot be stored.

    Example:
        >>> import pandas as pd
        >>> from pyro_vae.data import Data
        >>> table = pd.DataFrame({"age": [31.5, 40.2, 55.1, 62.0], "sex": ["f", "m", "m", "f"]})
        >>> print(Data.of_table(table).train.schema)
        1 real (age), 1 binary (sex)
    """

    columns: tuple[Column, ...]
    left_out: Mapping[str, str]
    label: str | None = None
    classes: tuple[str, ...] = field(default=(), compare=False)
    target: str | None = None
    label_column: Column | None = field(default=None, compare=False)

    @property
    def likelihood(self) -> str:
        """The likelihood of such a table."""
        return f"columns(columns={[column.spec for column in self.columns]!r})"

    def __str__(self) -> str:
        parts = []
        for kind in TYPES:
            names = [column.name for column in self.columns if column.type == kind]
            if names:
                parts.append(f"{len(names)} {kind} ({listed(names)})")
        text = ", ".join(parts)
        if self.label:
            many = len(self.classes)
            text += f"; label: {self.label}" + f" ({many:,} class{'es' * (many > 1)})" * (many > 0)
        if self.target:
            text += f"; target: {self.target}"
        if self.left_out:
            text += f"; left out: {listed([f'{n} ({why})' for n, why in self.left_out.items()])}"
        return text

    def read(self, frame: pd.DataFrame, table: str) -> tuple[Tensor, Tensor | None]:
        """The numbers of a table, float32 ``[N, D]``, and which of its cells were observed.

        A missing cell is 0. The columns may have another order than in the schema.

        Args:
            frame: the table.
            table: what error messages call it.

        Returns:
            the numbers, and bool ``[N, D]``, or None if no cell is missing.

        Raises:
            InputError: a column that the schema does not have or that the table does not have, or a
                cell that a column cannot have.
        """
        names = [column.name for column in self.columns]
        missing = [name for name in names if name not in frame.columns]
        known = {*names, *self.left_out, self.label, self.target}
        further = [name for name in frame.columns if name not in known]
        lacks = "lacks the column" if len(missing) == 1 else f"lacks {len(missing):,} columns,"
        one = len(further) == 1
        has = "has a further column," if one else f"has {len(further):,} further columns,"
        for wrong, words in ((missing, lacks), (further, has)):
            if wrong:
                raise InputError(f"{table} {words} {listed(wrong)}; its schema has {listed(names)}")
        each = [column.numbers(frame[column.name], table) for column in self.columns]
        numbers = np.stack(each, 1)
        observed = ~np.isnan(numbers)
        x = torch.from_numpy(np.where(observed, numbers, 0).astype(np.float32))
        return x, None if observed.all() else torch.from_numpy(observed)

    def frame(self, x: Tensor, mask: Tensor | None = None, index: Any = None) -> pd.DataFrame:
        """Numbers as a table with the columns' own names, types and categories.

        Args:
            x: ``[N, D]``, as :meth:`read` gives them and as a VAE draws them. Codes and counts that
                are means are rounded.
            mask: bool, ``[N, D]``; False where a cell is missing. None if all are there.
            index: the index of the table.

        Raises:
            InputError: numbers of another shape.

        Example:
            >>> import pandas as pd
            >>> from pyro_vae.data import Data
            >>> table = pd.DataFrame({"age": [31.5, 40.2, 55.1], "sex": ["f", "m", "m"]})
            >>> data = Data.of_table(table)
            >>> data.train.schema.frame(torch.tensor([[40.0, 1.0]]))
                age sex
            0  40.0   m
        """
        import pandas as pd

        if x.dim() != 2 or x.shape[1] != len(self.columns):
            raise InputError(
                f"rows of this table are a tensor [N, {len(self.columns)}], not {list(x.shape)}"
            )
        numbers = x.detach().cpu().double().numpy()
        if mask is not None:
            numbers = np.where(mask.cpu().numpy(), numbers, np.nan)
        cells = [c.cells(numbers[:, i], index) for i, c in enumerate(self.columns)]
        return pd.concat(cells, axis=1)

    def labels(self, names: Sequence[str]) -> Any:
        """Labels by the names of their classes, in the type that their column has in pandas."""
        if self.label_column is None:
            return list(names)
        codes = {str(level): i for i, level in enumerate(self.label_column.levels)}
        return self.label_column.cells(np.array([codes[name] for name in names], np.float64))

    def to_json(self) -> list[dict[str, Any]]:
        """The schema as JSON has it: all columns, in order."""
        used = []
        for column in self.columns:
            entry: dict[str, Any] = {"name": column.name, "type": column.type}
            entry["dtype"] = column.dtype
            if column.levels:
                entry["levels"] = list(column.levels)
            if column.offset:
                entry["offset"] = column.offset
            used.append(entry)
        used += [
            {"name": name, "type": LEFT_OUT, "reason": why} for name, why in self.left_out.items()
        ]
        if self.label:
            named: dict[str, Any] = {"classes": list(self.classes)} if self.classes else {}
            if (own := self.label_column) is not None:
                named |= {"dtype": own.dtype, "levels": list(own.levels)}
            used.append({"name": self.label, "type": LABEL, **named})
        if self.target:
            used.append({"name": self.target, "type": TARGET})
        return used

    @classmethod
    def from_json(cls, entries: Any) -> Schema:
        """The schema that :meth:`to_json` wrote.

        Raises:
            InputError: something else.
        """
        if not isinstance(entries, list) or not entries:
            raise InputError(
                f"a whole schema is a list of at least one column, not {entries!r:.100}; a dict "
                'such as {"age": "real"} gives the types of some'
            )
        columns: list[Column] = []
        left_out: dict[str, str] = {}
        roles: dict[str, list[str]] = {LABEL: [], TARGET: []}
        classes: tuple[str, ...] = ()
        label_column: Column | None = None
        for entry in entries:
            if not is_entry(entry):
                raise InputError(
                    "a column of a schema has a name, a type and a dtype, and some types have "
                    f"levels; {entry!r:.200} is not one"
                )
            if entry["type"] == LEFT_OUT:
                left_out[entry["name"]] = entry.get("reason", "by the schema")
                continue
            if entry["type"] in roles:
                roles[entry["type"]].append(entry["name"])
                classes = tuple(entry.get("classes", classes))
                if "dtype" in entry:
                    of_label = (entry["name"], "categorical", entry["dtype"])
                    label_column = Column(*of_label, tuple(entry["levels"]))
                continue
            levels, offset = tuple(entry.get("levels", ())), float(entry.get("offset", 0.0))
            columns.append(Column(entry["name"], entry["type"], entry["dtype"], levels, offset))
        names = [*(column.name for column in columns), *left_out, *chain(*roles.values())]
        twice = any(len(each) > 1 for each in roles.values())
        if len(set(names)) < len(entries) or not columns or twice:
            raise InputError(
                "a schema has at least one column that is used, at most one label and one target, "
                f"and each column once; it has {listed(names)}"
            )
        label, target = (next(iter(each), None) for each in roles.values())
        return cls(tuple(columns), left_out, label, classes, target, label_column)


def is_entry(entry: Any) -> bool:
    """Whether an entry of a list is a column as :meth:`Schema.to_json` writes it."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return False
    if entry.get("type") == LEFT_OUT:
        return entry.keys() <= {"name", "type", "reason"} and is_text(entry.get("reason", ""))
    if entry.get("type") == TARGET:
        return entry.keys() == {"name", "type"}
    if entry.get("type") == LABEL:
        return is_label(entry)
    if entry.get("type") not in TYPES or not is_dtype(entry.get("dtype")):
        return False
    if entry.keys() - {"name", "type", "dtype", "levels", "offset"}:
        return False
    offset, levels = entry.get("offset", 0.0), entry.get("levels")
    number = isinstance(offset, int | float) and math.isfinite(offset)
    if entry["type"] not in WITH_LEVELS:
        return number and levels is None
    two = entry["type"] != "binary" or (isinstance(levels, list) and len(levels) == 2)
    return number and are_levels(levels) and two


def is_label(entry: dict[str, Any]) -> bool:
    """Whether an entry of a list is the column of the labels as :meth:`Schema.to_json` writes it:
    its name alone, or with the classes, and these alone or with the values in pandas."""
    further = entry.keys() - {"name", "type"}
    classes, levels = entry.get("classes", []), entry.get("levels", [])
    if not isinstance(classes, list) or not all(map(is_text, classes)):
        return False
    if further == {"classes", "dtype", "levels"}:
        named = are_levels(levels) and set(classes) <= set(map(str, levels))
        return named and is_dtype(entry["dtype"])
    return further <= {"classes"}


def is_dtype(name: Any) -> bool:
    """Whether pandas has a type of numbers, truth values, words or categories of this name."""
    import pandas as pd

    if name in CATEGORIES:
        return True
    try:
        return isinstance(name, str) and pd.api.types.pandas_dtype(name).kind in "biufO"
    except (TypeError, ValueError, ImportError, NotImplementedError):
        return False


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def are_levels(levels: Any) -> bool:
    """Whether ``levels`` is a list of at least two different values that JSON and pandas have."""
    if not isinstance(levels, list | tuple) or len(levels) < 2:
        return False
    plain = all(isinstance(level, str | bool | int | float) for level in levels)
    finite = all(math.isfinite(level) for level in levels if isinstance(level, float))
    return plain and finite and len(set(levels)) == len(levels)


def listed(names: Sequence[str], most: int = NAMED) -> str:
    """Names, with the number of those that are not named."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")

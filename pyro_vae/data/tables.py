"""Tables of mixed columns: CSV, Parquet and AnnData files, and data frames of pandas."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import InputError
from ..memory import check_memory
from ..words import first_line
from .columns import plain
from .csvfiles import Known, Read, check_names, read_csv, read_tsv
from .images import Images, describe
from .inferring import infer
from .parquetfiles import read_parquet
from .roles import check_label, classes_of, column_of, label_column, refuse_constant, targets_of
from .schema import Schema
from .schemafile import GivenSchema, read_schema
from .splitting import refuse_few

if TYPE_CHECKING:
    import pandas as pd

MOST_FAR = 1000
"""A real number is refused if it alone makes the standard deviation of its column so many times the
median distance to the median. In such units all other numbers are nearly equal."""
CELL = 8
"""The bytes of a number while a table is read."""


def read_table(
    path: Path, schema: GivenSchema = None, label: str | None = None, target: str | None = None
) -> Images:
    """Read the table in a file.

    Args:
        path: a file with an ending in :data:`READERS`.
        schema: as for :func:`~.schemafile.read_schema`.
        label: the column that holds the classes of the rows; it becomes their labels.
        target: the column that holds a real target.

    Raises:
        InputError: the file cannot be read, or does not fit the schema.
    """
    known = read_schema(schema)
    if not path.is_file():
        raise InputError(f"{str(path)!r} is not a regular file")
    # A cell of a CSV file has about as many bytes as a number.
    check_memory(path.stat().st_size, f"the table in {str(path)!r}")
    try:
        frame, obs = READERS[path.suffix.lower()](path, known)
    except InputError:
        raise
    except UnicodeDecodeError:
        raise InputError(f"the table {str(path)!r} is not UTF-8; save it as UTF-8") from None
    except ModuleNotFoundError as error:
        raise InputError(
            f"{str(path)!r} needs the package {error.name}, which is not installed"
        ) from None
    except Exception as error:  # pandas and the readers below it raise many kinds of errors
        raise InputError(
            f"the table {str(path)!r} cannot be read ({first_line(error):.200})"
        ) from None
    return table_images(frame, known, repr(path.name), label, target, obs)


def check_frame(frame: Any) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for anything but a data frame of pandas."""
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):
        raise InputError(
            f"a table is a data frame of pandas, not {describe(frame)}; pandas.DataFrame(...) "
            "makes one"
        )


def table_images(
    frame: pd.DataFrame,
    known: Known,
    table: str,
    label: str | None = None,
    target: str | None = None,
    obs: pd.DataFrame | None = None,
) -> Images:
    """A data frame as observations ``[N, D]``, with a number for each column that is used.

    Args:
        frame: the table.
        known: the schema, or the types of some columns.
        table: what error messages call the table.
        label: the column that becomes the labels; None for that of the schema, if it has one. A
            table that is read by a whole schema, as that of a run, may lack it.
        target: the same for the column of a real target.
        obs: further columns, of which one can be the label or the target.

    Raises:
        InputError: a table without rows or with a name twice, or what the schema does not allow.
    """
    frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
    if len(frame) == 0:
        raise InputError(f"{table} has no rows")
    check_names(list(frame.columns), table)
    if isinstance(known, Schema):
        label, target = label or known.label, target or known.target
    if label is not None and target is not None:
        raise InputError(
            f"{label!r} is given as the label of {table}, and {target!r} as its target; give one "
            "of the two"
        )
    labels = column_of("label", label, frame, obs, known, table)
    measured = column_of("target", target, frame, obs, known, table)
    frame = frame.drop(columns=[n for n in (label, target) if n in frame.columns])
    if isinstance(known, Schema):
        schema = known
    else:
        schema = replace(infer(frame, known, table), label=label, target=target)
        refuse_far(frame, schema, table)
    numbers, observed = schema.read(frame, table)
    index: torch.Tensor | None = None
    classes: tuple[str, ...] = ()
    if labels is not None and not (isinstance(known, Schema) and labels.isna().all()):
        if not isinstance(known, Schema):
            check_label(labels, str(label), table)
        index, classes = classes_of(labels, schema.classes)
        if not schema.classes:
            own = label_column(labels, str(label), classes)
            schema = replace(schema, classes=classes, label_column=own)
        schema = replace(schema, label=label)
    names = tuple(map(str, frame.index))
    targets = None
    if measured is not None and not (isinstance(known, Schema) and measured.isna().all()):
        targets = targets_of(measured, str(target), table)
        if not isinstance(known, Schema):
            refuse_constant(targets, str(target), table)
        schema = replace(schema, target=target)
    return Images(numbers, index, classes, names, mask=observed, schema=schema, targets=targets)


def refuse_far(frame: pd.DataFrame, schema: Schema, table: str) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for a real number that is so far from the others
    of its column that nothing could be learned of them; see :data:`MOST_FAR`."""
    for column in schema.columns:
        if column.type != "real":
            continue
        cells = frame[column.name]
        numbers = column.numbers(cells, table)
        if np.isnan(numbers).all():
            continue
        middle = np.nanmedian(numbers)
        distance = np.nan_to_num(np.abs(numbers - middle))
        usual = np.median(distance[distance > 0]) if distance.any() else 0.0
        row = int(distance.argmax())
        if distance[row] > MOST_FAR * usual * np.sqrt(np.isfinite(numbers).sum()):
            raise InputError(
                f"the column {column.name!r} of {table} has {plain(cells.iloc[row])!r:.60} in row "
                f"{cells.index[row]}, and half of its other cells are within {usual:.3g} of "
                f"{middle + column.offset:.7g}; correct this cell or leave it empty, or leave the "
                "column out by a schema"
            )


def split_table(
    images: Images, known: Known, table: str, test_fraction: float, seed: int
) -> tuple[Images, Images]:
    """The rows of a table as ``(train, test)``, by :meth:`.images.Images.split`.

    Raises:
        InputError: fewer than 2 training rows of a table whose schema is not that of another.
    """
    train, test = images.split(test_fraction, seed)
    if not isinstance(known, Schema):
        refuse_few(table, len(train), len(images), "row")
    return train, test


def read_anndata(path: Path, known: Known) -> Read:
    """The matrix X of an AnnData file, with the names of its variables; and its obs."""
    import pandas as pd
    from anndata import read_h5ad

    data = read_h5ad(path)
    if data.X is None:
        raise InputError(f"the AnnData in {str(path)!r} has no matrix X")
    rows, columns = data.shape
    check_memory(2 * CELL * rows * columns, f"the matrix X in {str(path)!r} as a dense table")
    dense = data.X if isinstance(data.X, np.ndarray) else data.X.toarray()
    frame = pd.DataFrame(dense, index=data.obs_names, columns=data.var_names)
    return frame, data.obs


READERS: dict[str, Callable[[Path, Known], Read]] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
    ".h5ad": read_anndata,
}
"""The readers of tables by the ending of the file."""


def is_table(path: str | Path) -> bool:
    """Whether a path has the ending of a table and is not a folder."""
    return Path(path).suffix.lower() in READERS and not os.path.isdir(os.path.expanduser(path))


def write_table(frame: pd.DataFrame, path: Path, suffix: str) -> None:
    """Write a table as CSV or Parquet.

    Args:
        frame: the table.
        path: where it is written.
        suffix: ``.csv``, ``.tsv`` or ``.parquet``.

    Raises:
        InputError: a Parquet file without the package that writes it.
    """
    if suffix == ".parquet":
        try:
            frame.to_parquet(path)
        except ImportError:
            raise InputError(
                "a .parquet file needs the package pyarrow, which is not installed; give a .csv"
            ) from None
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")

"""The command that fills the missing cells of tables. What was observed keeps its bytes."""

from __future__ import annotations

import csv
import io
import re
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from support.commands import typed
from support.tables import patients

from pyro_vae import InputError
from pyro_vae.data import Data, Images
from pyro_vae.data.refillingtables import cells_of, open_table
from pyro_vae.data.tables import READERS, read_table

SMALL = ["--hidden", "8", "--latent", "2", "--batch-size", "64", "--epochs", "1", "--no-compile"]

TABLE = (
    '\ufeffid,"weight, kg",town,visits,zip,grade,income,smokes,note\r\n'
    '1,"3.50",Köln ,0,007,"II",1200.5,TRUE,"a ""quoted"" word"\r\n'
    "2,,Köln ,1,050,I,3e4,FALSE,NA\r\n"
    '3,-2.5,"Bonn, West",n/a,007,,800,NULL, spaces \r\n'
    "\r\n"
    '4,"",,2,<NA>,"II",,TRUE,"two\nlines"\r\n'
    "5,1.25,NaN,4,050,I,NA\r\n"
    '6,0.00,"Bonn, West",3,007,II,950.25,true,#N/A'
)
"""Quotes, spaces, line ends of Windows, one within a cell, leading zeros, an empty line, a row that
ends early, and several spellings of what is missing. "id" and "note" are left out."""

SCHEMA = {
    "id": "left out",
    "note": "left out",
    "weight, kg": "real",
    "visits": "count",
    "zip": {"type": "categorical", "levels": ["007", "050"]},
    "grade": {"type": "ordered", "levels": ["I", "II", "III"]},
    "income": "positive",
    "smokes": "binary",
    "town": "categorical",
}
FILLED = [-0.001, 0.0, 1.6, 1.0, 2.2, 1e-4, 0.0]
"""A row in the order of the columns: weight, town, visits, zip, grade, income, smokes."""


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(TABLE.encode())
    images = read_table(path, SCHEMA)
    x = torch.where(images.mask, images.pixels, torch.tensor(FILLED))
    return path, images, x


def test_only_missing_cells_are_written(table, tmp_path):
    """Digits, spelling and quotes are those of the column. A level that the file lacks is quoted
    like the others, and a positive number is not rounded to 0."""
    path, images, x = table
    open_table(path, images).write(tmp_path / "filled.csv", x)
    assert (tmp_path / "filled.csv").read_bytes().decode() == (
        '\ufeffid,"weight, kg",town,visits,zip,grade,income,smokes,note\r\n'
        '1,"3.50",Köln ,0,007,"II",1200.5,TRUE,"a ""quoted"" word"\r\n'
        '2,"0.00",Köln ,1,050,I,3e4,FALSE,NA\r\n'
        '3,-2.5,"Bonn, West",2,007,"III",800,FALSE, spaces \r\n'
        "\r\n"
        '4,"0.00","Bonn, West",2,050,"II",1e-04,TRUE,"two\nlines"\r\n'
        '5,1.25,"Bonn, West",4,050,I,1e-04,FALSE\r\n'
        '6,0.00,"Bonn, West",3,007,II,950.25,true,#N/A'
    )


def test_a_positive_number_keeps_the_digits_of_its_column_and_stays_above_0(tmp_path):
    path = tmp_path / "table.tsv"
    path.write_text("a\tb\tc\n1.5\t1\t1\n22.25\t2\t\n\t3\t1\n7\t\t1\n")
    levels = {"type": "ordered", "levels": [1.0, 2.0]}
    images = read_table(path, {"a": "positive", "b": "real", "c": levels})
    x = torch.where(images.mask, images.pixels, torch.tensor([1e-4, -0.2, 1.0]))
    open_table(path, images).write(path, x)
    assert path.read_text() == "a\tb\tc\n1.5\t1\t1\n22.25\t2\t2\n0.01\t3\t1\n7\t0\t1\n"


@pytest.mark.parametrize(
    ("quoting", "end"),
    [
        (csv.QUOTE_MINIMAL, "\n"),
        (csv.QUOTE_MINIMAL, "\r\n"),
        (csv.QUOTE_ALL, "\r"),
        (csv.QUOTE_NONNUMERIC, "\r\n"),
    ],
)
def test_every_cell_is_found_as_by_the_csv_module(quoting, end):
    random = np.random.RandomState(0)
    words = ["", "a", ",", '"', '""', "\n", "\r\n", " x ", 'a"b', "é,"]
    rows = [[*random.choice(words, 4), 1.5] for _ in range(200)]
    text = io.StringIO()
    csv.writer(text, quoting=quoting, lineterminator=end).writerows(rows)
    cells = [
        [text.getvalue()[slice(*span)] for span in row] for row in cells_of(text.getvalue(), ",")
    ]
    read = [[re.sub('^"|"$', "", c).replace('""', '"') for c in row] for row in cells]
    assert read == [[*map(str, row)] for row in rows]


def test_a_table_that_changed_is_refused(table, tmp_path):
    path, images, _ = table
    other = Images(images.pixels + 1.0, mask=images.mask, schema=images.schema)
    for change in (lambda: open_table(path, other), lambda: open_table(path, images.first(3))):
        with pytest.raises(InputError, match="changed while it was imputed"):
            change()
    path.write_bytes(TABLE.replace("3.50", "3.75").encode())
    with pytest.raises(InputError, match="changed while it was imputed"):
        open_table(path, images)


def test_a_parquet_file_keeps_its_types(tmp_path):
    """Also types that the training table did not have, and rows of equal names."""
    frame = patients(holes=0.3).drop(columns="seen")
    images = Data.of_table(frame, test_fraction=0.0).train
    narrow = frame.astype({"bmi": "float32", "city": "category", "rating": "Int64"})
    narrow.index = [7] * len(narrow)
    narrow.loc[narrow["stage"] == "III", "stage"] = None
    narrow["stage"] = narrow["stage"].cat.remove_categories("III")
    narrow.to_parquet(tmp_path / "table.parquet")
    images = read_table(tmp_path / "table.parquet", images.schema)
    names = [column.name for column in images.schema.columns]
    wanted = torch.tensor([{"stage": 2.0, "city": 1.0}.get(name, 0.7) for name in names])
    x = torch.where(images.mask, images.pixels, wanted)
    open_table(tmp_path / "table.parquet", images).write(tmp_path / "filled.parquet", x)
    filled = pd.read_parquet(tmp_path / "filled.parquet")
    assert list(filled) == list(narrow)
    assert (filled.dtypes.drop("stage") == narrow.dtypes.drop("stage")).all()
    for name in narrow:
        here = narrow[name].notna().to_numpy()
        both = [each[name][here].astype(object) for each in (filled, narrow)]
        assert (both[0] == both[1]).all()
        if name in names and not here.all():
            values = {"stage": "III", "city": "Paris", "ward": "Oslo", "code": 6}
            expected = values.get(name, np.float32(0.7))
            assert (filled[name][~here] == expected).all()
    assert filled["empty"].isna().all()  # a column that is left out


def test_a_parquet_file_of_another_program_keeps_its_types_and_large_numbers(tmp_path):
    """pandas would read whole numbers with missing cells as float64."""
    rows = range(40)
    beyond = [2**60 + 7 * i if i % 5 else None for i in rows]
    decimals = [Decimal(i) / 4 for i in rows]
    table = pa.table(
        {
            "id": pa.array(beyond, pa.int64()),
            "few": pa.array([i % 7 if i % 3 else None for i in rows], pa.int8()),
            "more": pa.array([i * i % 31 - 9 if i % 4 else None for i in rows], pa.int32()),
            "word": pa.array(["ab"[i % 2] if i % 6 else None for i in rows], pa.large_string()),
            "kind": pa.array(["x" if i % 3 else None for i in rows]).dictionary_encode(),
            "price": pa.array(decimals, pa.decimal128(10, 2)),
        }
    )
    path, out = tmp_path / "table.parquet", tmp_path / "filled.parquet"
    parquet.write_table(table, path)
    images = read_table(path, Data.of_table(READERS[".parquet"](path, {})[0]).train.schema)
    assert images.schema.left_out["id"] == "whole numbers beyond 2^53, which are ids"
    open_table(path, images).write(out, torch.where(images.mask, images.pixels, 0.7))
    filled = parquet.read_table(out)
    assert filled.schema.types == table.schema.types
    for name in table.column_names:
        cells = zip(table[name].to_pylist(), filled[name].to_pylist(), strict=True)
        assert all(before in (None, after) for before, after in cells)
        holes = filled[name].null_count
        assert holes == (0 if name in ("few", "more", "word") else table[name].null_count)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A table and a run on it, with a column of labels. Tests must not change them."""
    folder = tmp_path_factory.mktemp("impute")
    patients().to_csv(folder / "patients.csv", index=False, lineterminator="\r\n")
    ask = ["train", "--data", folder / "patients.csv", "--label", "sex", *SMALL]
    assert typed([*ask, "--out", folder / "run"]) == 0
    return folder


def test_the_command_fills_a_table(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert typed(["impute", run / "run", "--samples", "20"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "120 rows in filled.csv" in said
    assert "stay as they are: id, seen, note, site, empty" in said
    source, filled = (path.read_text() for path in (run / "patients.csv", tmp_path / "filled.csv"))
    before, after = (list(csv.reader(io.StringIO(t, newline=""))) for t in (source, filled))
    written = [
        (name, new)
        for old_row, new_row in zip(before, after, strict=True)
        for name, old, new in zip(before[0], old_row, new_row, strict=True)
        if (old == "" and name != "empty") or old != new
    ]
    assert len(written) == pd.read_csv(io.StringIO(source)).drop(columns="empty").isna().sum().sum()
    frame = pd.read_csv(run / "patients.csv", dtype=str)
    for name, new in written:
        if name in ("city", "ward", "stage", "code"):
            assert new in frame[name].dropna().to_numpy()
        else:
            assert np.isfinite(float(new))


def test_draws_are_as_many_files(run, tmp_path, capsys):
    out = tmp_path / "filled.csv"
    ask = ["impute", run / "run", "--samples", "20", "--draws", "3"]
    assert typed([*ask, "--out", out]) == 0
    assert "filled-1.csv to" in "".join(capsys.readouterr().out.split("\n"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"filled-{i}.csv" for i in (1, 2, 3)
    ]
    frames = [pd.read_csv(tmp_path / f"filled-{i}.csv") for i in (1, 2, 3)]
    holes = pd.read_csv(run / "patients.csv")["bmi"].isna().to_numpy()
    drawn = np.stack([frame["bmi"].to_numpy() for frame in frames])
    assert (np.ptp(drawn[:, holes], axis=0) > 0).all()
    assert (np.ptp(drawn[:, ~holes], axis=0) == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "filled.npy"], "must end in .csv, because the data are in 'patients.csv'"),
        (["--out", "filled.parquet"], "must end in .csv"),
        (["--data", "whole.csv"], "no entry is missing"),
        (["--data", "holes-2.csv", "--out", "holes-2.csv"], "would replace the data"),
        (["--data", "holes-2.csv", "--out", "holes.csv", "--draws", "3"], "would replace the data"),
    ],
)
def test_what_does_not_fit_a_table_is_refused(run, tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    patients(holes=0.0).to_csv("whole.csv", index=False)
    patients().to_csv("holes-2.csv", index=False)
    before = sorted(tmp_path.iterdir())
    assert typed(["impute", run / "run", "--samples", "5", *options]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert sorted(tmp_path.iterdir()) == before

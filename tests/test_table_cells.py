"""Tables as people store them: digits that are words, bad cells, names, labels, broken files."""

import decimal

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_vae import VAE, InputError, fit, load_data
from pyro_vae.data import Data, Schema

ROWS = 24
NUMBERS = np.random.RandomState(0).randn(ROWS)


def written(path, **columns):
    """A CSV file with a column ``y`` that is fine, beside the columns that are given as text."""
    pd.DataFrame({"y": NUMBERS, **columns}).to_csv(path, index=False)
    return path


def test_digits_that_a_number_would_not_keep_are_words(tmp_path):
    path = written(
        tmp_path / "t.csv",
        zip=["01003", "75001", None] * 8,
        area=["01", "02", "11"] * 8,
        phone=[f"+33123456{i:03}" for i in range(ROWS)],
        card=[f"40012345678901{i:02}" for i in range(ROWS)],
        change=["+1", "-1", "+2"] * 8,
    )
    schema = load_data(path).train.schema
    levels = {column.name: column.levels for column in schema.columns}
    assert levels == {"y": (), "zip": ("01003", "75001"), "area": ("01", "02", "11"), "change": ()}
    assert schema.left_out == {"phone": "all values differ", "card": "all values differ"}
    again = load_data(path, schema=schema, test_fraction=0).train
    back = schema.frame(again.pixels, again.mask)
    assert back["zip"].fillna("").tolist() == ["01003", "75001", ""] * 8
    as_number = load_data(path, schema={"area": "real"}).train.schema
    assert {column.name: column.type for column in as_number.columns}["area"] == "real"


@pytest.mark.parametrize("dtype", ["int64", "uint64", "Int64"])
def test_whole_numbers_beyond_float64_are_left_out(dtype):
    ids = pd.Series([2**53 + 7 * i for i in range(ROWS)][::-1], dtype=dtype)
    frame = pd.DataFrame({"y": NUMBERS, "person": ids})
    schema = Data.of_table(frame).train.schema
    assert schema.left_out == {"person": "whole numbers beyond 2^53, which are ids"}
    # By a schema they are numbers, and a number too large becomes the largest of its type.
    schema = Data.of_table(frame, {"person": "real"}).train.schema
    data = schema.frame(Data.of_table(frame, schema).train.pixels * 1e30)
    assert data["person"].dtype == dtype
    assert data["person"].max() > 2**62


def test_a_nul_byte_is_refused(tmp_path):
    path = tmp_path / "nul.csv"
    path.write_bytes(b"a,b\n1,2\n3,4\x005\n")
    with pytest.raises(InputError, match=r"line 3 of 'nul\.csv' has a NUL byte"):
        load_data(path)


def test_empty_lines_of_one_column_are_told_and_quotes_are_missing_cells(tmp_path):
    path, cells = tmp_path / "one.csv", ["0.5", "1.25", "", "2.0"] * 6
    path.write_text("\n".join(["a", *cells]) + "\n")
    with pytest.warns(UserWarning, match="one column, and pandas skips 6 empty lines in it"):
        assert len(load_data(path, test_fraction=0).train) == 18
    path.write_text("\n".join(["a", *(cell or '""' for cell in cells)]) + "\n")
    train = load_data(path, test_fraction=0).train
    assert len(train) == 24
    assert train.mask.sum() == 18


def test_a_cell_of_spaces_is_named_with_them(tmp_path):
    path = tmp_path / "spaces.csv"
    numbers = [f"{n:.3f}" for n in NUMBERS]
    path.write_text("\n".join(["y,b", "1.0, ", *(f"{n},{n}" for n in numbers)]))
    assert load_data(path).train.schema.left_out == {"b": "row 0 has ' ', which is not a number"}


def test_a_sparse_column_comes_back_dense():
    counts = pd.arrays.SparseArray([0, 0, 3] * (ROWS // 3))
    train = Data.of_table(pd.DataFrame({"y": NUMBERS, "n": counts}), test_fraction=0).train
    back = train.schema.frame(train.pixels)
    assert back["n"].dtype == "int64"
    assert sorted(back["n"]) == sorted(counts)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({3: "1e999"}, "row 3 has '1e999', which is not a number that float32 holds"),
        ({3: "1e39"}, None),
        ({5: "twenty"}, "row 5 has 'twenty', which is not a number"),
        ({5: "1.234,5", 7: "x"}, "row 5 has '1.234,5', with a separator of thousands"),
        ({4: "1,5"}, "row 4 has '1,5', with a comma for the decimal point"),
        ({0: "$ 12.50"}, "row 0 has '$ 12.50', with the sign of a currency"),
        ({i: f"{i + 1},234,567" for i in range(ROWS)}, "row 0 has '1,234,567', with a separator"),
        (
            {i: f"{i}.5 EUR" for i in range(ROWS)},
            "row 0 has '0.5 EUR', with the sign of a currency",
        ),
        ({i: f"ward {i}" for i in range(20)}, "all values differ"),
        ({i: f"1.{i}.3" for i in range(ROWS)}, "all values differ"),
    ],
)
def test_a_column_of_numbers_with_a_bad_cell_names_the_cell(tmp_path, change, reason):
    cells = [change.get(i, f"{x:.4f}") for i, x in enumerate(NUMBERS)]
    path = written(tmp_path / "t.csv", bmi=cells)
    if reason is None:  # the column has numbers, and one is refused
        with pytest.raises(InputError, match=r"1e\+39 .*'bmi'|'bmi'.*1e\+39"):
            load_data(path)
        return
    schema = load_data(path).train.schema
    assert schema.left_out["bmi"].startswith(reason)


def test_numbers_that_are_text_in_a_data_frame_are_said():
    frame = pd.DataFrame({"y": NUMBERS, "bmi": [f"{x:.4f}" for x in NUMBERS]})
    schema = Data.of_table(frame).train.schema
    assert schema.left_out == {"bmi": "its numbers are text; a schema can give their type"}
    assert len(Data.of_table(frame, {"bmi": "real"}).train.schema.columns) == 2


def test_labels_that_are_partly_missing_are_inferred_and_not_a_condition(tmp_path):
    diag = [None if i % 4 == 3 else i % 3 for i in range(ROWS)]
    path = written(tmp_path / "t.csv", diag=pd.array(diag, dtype="Int64"))
    data = load_data(path, label="diag")
    frame = pd.DataFrame({"y": NUMBERS, "diag": pd.array(diag, dtype="Int64")})
    for each in (data, Data.of_table(frame, label="diag")):
        assert each.train.classes == ("0", "1", "2")
        for part in (each.train, each.test):
            truth = [diag[int(row)] for row in part.files]
            assert part.labels.tolist() == [-1 if label is None else label for label in truth]
    known = data.train.labels >= 0
    assert data.labelled().train.context.tolist() == data.train.labels.tolist()
    some = data.labelled(6).train.context
    assert some[some >= 0].bincount().tolist() == [2, 2, 2]
    assert (some[~known] == -1).all()
    with pytest.raises(InputError, match=f"from 3, one for each class, to {int(known.sum())}, "):
        data.labelled(int(known.sum()) + 1)
    with pytest.raises(InputError, match=r"needs all of them, and \d of 17 .* data.labelled"):
        data.conditioned("label")
    torch.manual_seed(0)
    vae = VAE.for_data(data.labelled().train, 1, prior="labelled", guide="labelled", hidden=[4])
    history = fit(vae, data.labelled(), epochs=1, objective="m2", progress=False)
    assert np.isfinite(history[-1].loss)


def test_a_label_has_classes_and_is_said():
    frame = pd.DataFrame({"y": NUMBERS, "x": np.arange(ROWS) % 7, "diag": ["a", "b", "c"] * 8})
    data = Data.of_table(frame, label="diag")
    assert str(data.train.schema) == "1 real (y), 1 count (x); label: diag (3 classes)"
    again = Data.of_table(frame, Schema.from_json(data.train.schema.to_json()), label="diag")
    assert str(again.train.schema).endswith("; label: diag (3 classes)")
    few = Data.of_table(frame[:3], data.train.schema, test_fraction=0).train
    assert few.labels.tolist() == [0, 1, 2]  # new rows may all differ, or have no label
    none = frame[:3].assign(diag=None)
    assert Data.of_table(none, data.train.schema, test_fraction=0).train.labels is None
    with pytest.raises(InputError, match="label 'y' of the table has real numbers"):
        Data.of_table(frame, label="y")
    names = frame.assign(diag=[f"row {i}" for i in range(ROWS - 1)] + ["row 0"])
    with pytest.raises(InputError, match="has 23 different values in 24 rows, and a label has"):
        Data.of_table(names, label="diag")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("age,age", "'t.csv' has the column 'age' twice"),
        (",age", "column 0 of 't.csv' has no name"),
        ('"",""', "column 0 of 't.csv' has no name"),
    ],
)
def test_names_that_are_twice_or_not_there_are_refused(tmp_path, header, words):
    path = tmp_path / "t.csv"
    path.write_text("\n".join([header, *(f"{i % 5},{x}" for i, x in enumerate(NUMBERS))]))
    with pytest.raises(InputError, match=words):
        load_data(path)


def test_a_first_row_of_numbers_is_warned_of(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("\n".join(f"{i % 5},{x}" for i, x in enumerate(NUMBERS)))
    with pytest.warns(UserWarning, match="the first row of 't.csv', 0, 1.76405.*, has only numb"):
        assert len(load_data(path, test_fraction=0).train) == ROWS - 1
    pd.DataFrame({"age": NUMBERS, "age.1": NUMBERS}).to_csv(path, index=False)
    assert [c.name for c in load_data(path).train.schema.columns] == ["age", "age.1"]


def test_a_table_of_two_rows_is_refused_and_new_rows_are_not():
    frame = pd.DataFrame({"y": NUMBERS[:3], "sex": ["f", "m", "f"]})
    data = Data.of_table(frame)
    assert (len(data.train), len(data.test)) == (2, 1)
    for rows, fraction in ((2, 0.2), (3, 0.9)):
        with pytest.raises(InputError, match=f"{rows} rows, too few: 1 .* at least 2 rows"):
            Data.of_table(frame[:rows], test_fraction=fraction)
    schema = data.train.schema
    assert len(Data.of_table(frame[:2], schema).train) == 1
    assert len(Data.of_table(frame[:1], schema, test_fraction=0).train) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name\ncafé\n".encode("latin-1"), "t.csv' is not UTF-8; save it as UTF-8$"),
        ("a,b\n1,2\n".encode("utf-16"), "t.csv' is not UTF-8; save it as UTF-8$"),
        (
            b";".join([b"column"] * 20) + b"\n",
            r"'column;[a-z;]{53}'; its separator seems to be ';'",
        ),
    ],
)
def test_a_file_that_is_not_read_is_one_sentence(tmp_path, content, words):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(InputError, match=words):
        load_data(tmp_path / "t.csv")


def test_a_folder_with_the_ending_of_a_table_is_a_folder(tmp_path):
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(InputError, match=r"label is for tables, .* is a folder"):
        load_data(tmp_path / "t.csv", label="x")
    with pytest.raises(InputError, match=r"t\.csv"):
        load_data(tmp_path / "t.csv")


def test_durations_are_not_dates():
    frame = pd.DataFrame({"y": NUMBERS, "stay": pd.to_timedelta(np.arange(ROWS), unit="h")})
    assert Data.of_table(frame).train.schema.left_out == {"stay": "durations"}


@pytest.mark.parametrize("table", [{"a": [1, 2]}, np.ones((3, 2)), [[1, 2]], None])
def test_a_table_that_is_not_a_data_frame_is_refused(table):
    with pytest.raises(InputError, match=f"data frame of pandas, not a {type(table).__name__}"):
        Data.of_table(table)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_covariates_that_are_not_finite_are_refused(wrong):
    images = Data.of_table(pd.DataFrame({"y": NUMBERS}), test_fraction=0).train
    with pytest.raises(InputError, match="some of these are NaN or infinite"):
        images.conditioned(torch.tensor([[1.0], [wrong]]).repeat(ROWS // 2, 1))


def strange(kind):
    """A column of 36 cells whose values or whose type a run cannot store."""
    pa = pytest.importorskip("pyarrow")
    if kind == "intervals":
        return pd.Series(pd.cut(np.linspace(0, 1, 36), 3))
    if kind == "decimals of Arrow":
        cells = [decimal.Decimal(i % 7) / 4 for i in range(36)]
        return pd.Series(pd.array(cells, dtype=pd.ArrowDtype(pa.decimal128(10, 2))))
    kinds = pd.ArrowDtype(pa.dictionary(pa.int32(), pa.string()))
    return pd.Series(pa.array(list("xyz") * 12).dictionary_encode(), dtype=kinds)


@pytest.mark.parametrize(
    ("kind", "why", "refused"),
    [
        ("intervals", "holds things of type Interval", "its values are not all words"),
        ("decimals of Arrow", "which a run cannot store", "which a run cannot store"),
        ("a dictionary of Arrow", "which a run cannot store", "which a run cannot store"),
    ],
)
def test_a_column_that_a_run_cannot_store_is_left_out(kind, why, refused):
    frame = pd.DataFrame({"a": np.random.RandomState(0).randn(36), "c": strange(kind)})
    assert why in Data.of_table(frame).train.schema.left_out["c"]
    with pytest.raises(InputError, match=refused):
        Data.of_table(frame, schema={"c": "categorical"})


def test_an_infinite_number_is_not_a_value_of_two():
    frame = pd.DataFrame({"a": np.random.RandomState(0).randn(36), "c": [1.0, np.inf] * 18})
    with pytest.raises(InputError, match=r"'c' of .* its values are not all words, truth values"):
        Data.of_table(frame)


def test_a_table_without_columns_is_one_sentence():
    with pytest.raises(InputError, match=r"has no column to train on$"):
        Data.of_table(pd.DataFrame(index=range(36)))

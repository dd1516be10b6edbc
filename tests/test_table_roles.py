"""The label of a table: its classes keep their names in every file that a run reads."""

import numpy as np
import pandas as pd
import pytest
from support.commands import typed

from pyro_vae import InputError, load_data
from pyro_vae.data import Data, Schema
from pyro_vae.data.labelled import by_classes


def written(path, cells, rows=36):
    """A table of a real column and the label ``y``, whose cells are repeated."""
    random = np.random.RandomState(0)
    labels = (cells * rows)[:rows]
    pd.DataFrame({"x": random.randn(rows), "y": labels}).to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("trained", "later", "meant"),
    [
        (["00", "01", "02"], ["00", "01", "02"], ["00", "01", "02"]),
        (["01", "1"], ["1"], ["1"]),
        (["01", "1"], ["01"], ["01"]),
        (["a", "01", "2"], ["01", "2"], ["01", "2"]),
        (["1.0", "1", "a"], ["1.0", "1"], ["1.0", "1"]),
        (["1", "2"], ["2.0", "", "1.0"], ["2", None, "1"]),
        (["1", "2"], [" 1", "2"], ["1", "2"]),
        (["True", "False"], ["true", "FALSE"], ["True", "False"]),
        (["-1", "1"], ["-1.0", "1"], ["-1", "1"]),
    ],
)
def test_a_class_is_the_one_that_is_written(tmp_path, trained, later, meant):
    first = load_data(written(tmp_path / "first.csv", trained), label="y", test_fraction=0).train
    schema = Schema.from_json(first.schema.to_json())
    assert schema.classes == first.classes
    path = written(tmp_path / "later.csv", later, len(later))
    rows = load_data(path, schema=schema, test_fraction=0).train
    index = by_classes(rows.labels, rows.classes, first.classes).tolist()
    assert [None if i == -1 else first.classes[i] for i in index] == meant


@pytest.mark.parametrize(
    ("trained", "cell"),
    [(["1", "2"], "01"), (["1", "2"], "3"), (["1", "2"], "one"), (["Cat", "dog"], "cat"),
     (["Cat", "dog"], "dog "), (["True", "False"], "yes")],
)  # fmt: skip
def test_a_class_that_is_new_is_refused(tmp_path, trained, cell):
    first = load_data(written(tmp_path / "first.csv", trained), label="y", test_fraction=0).train
    path = written(tmp_path / "later.csv", [trained[0], cell], 2)
    rows = load_data(path, schema=first.schema, test_fraction=0).train
    with pytest.raises(InputError, match=f"the class '{cell}' was never seen in training"):
        by_classes(rows.labels, rows.classes, first.classes)


def test_a_run_reads_the_classes_of_its_own_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "table.csv", ["01", "1"])
    options = ["--epochs", "1", "--latent", "1", "--hidden", "2", "--out", "run"]
    train = ["train", "--data", "table.csv", "--label", "y", "--condition", "label"]
    assert typed([*train, *options]) == 0
    assert typed(["encode", "run", "--data", "table.csv", "--out", "z.npz"]) == 0
    assert np.load("z.npz")["classes"].tolist() == ["01", "1"] * 18
    assert typed(["sample", "run", "--given", "01", "--n", "3", "--out", "drawn.csv"]) == 0
    assert pd.read_csv("drawn.csv", dtype=str)["y"].tolist() == ["01"] * 3


def test_a_label_that_is_a_variable_too_is_refused(tmp_path):
    anndata = pytest.importorskip("anndata")
    obs = pd.DataFrame({"g1": ["a", "b"] * 10}, index=[f"c{i}" for i in range(20)])
    counts = np.random.RandomState(0).poisson(2.0, (20, 2)).astype(np.float32)
    path = tmp_path / "cells.h5ad"
    anndata.AnnData(counts, obs, pd.DataFrame(index=["g1", "g2"])).write_h5ad(path)
    with pytest.raises(InputError, match=r"label 'g1' is a column of obs in .* a variable too"):
        load_data(path, label="g1")


ORDER = pd.CategoricalDtype(["lo", "mid", "hi", "never"], ordered=True)
TYPED = {
    "int8": pd.Series([2, 10, 3] * 12, dtype="int8"),
    "Int64 with a hole": pd.Series([2, 10, None] * 12, dtype="Int64"),
    "whole floats with a hole": pd.Series([2.0, 10.0, None] * 12),
    "bool": pd.Series([True, False, True] * 12),
    "boolean with a hole": pd.Series([True, False, None] * 12, dtype="boolean"),
    "ordered": pd.Series(["hi", "lo", "mid"] * 12, dtype=ORDER),
    "categories of numbers": pd.Series([3, 1, 3] * 12, dtype="category"),
    "string": pd.Series(["b", "a", "b"] * 12, dtype="string"),
    "words": pd.Series(["b", "a", None] * 12, dtype=object),
}


@pytest.mark.parametrize("kind", TYPED)
def test_drawn_labels_have_the_type_of_their_column(kind):
    column = TYPED[kind].rename("y")
    table = pd.DataFrame({"x": np.random.RandomState(0).randn(36), "y": column})
    train = Data.of_table(table, label="y", test_fraction=0).train
    schema = Schema.from_json(train.schema.to_json())
    names = [train.classes[i] for i in train.labels.tolist() if i >= 0]
    order = [int(name) for name in train.files]
    expected = column.iloc[order].dropna().reset_index(drop=True)
    pd.testing.assert_series_equal(schema.labels(names).rename("y"), expected)


def test_a_sample_has_the_labels_of_the_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame({"x": np.random.RandomState(0).randn(36), "y": TYPED["int8"]})
    table.to_parquet("table.parquet")
    options = ["--epochs", "1", "--latent", "1", "--hidden", "2", "--out", "run"]
    assert (
        typed(["train", "--data", "table.parquet", "--label", "y", "--recipe", "m2", *options]) == 0
    )
    assert typed(["sample", "run", "--n", "6", "--out", "drawn.parquet"]) == 0
    drawn = pd.read_parquet("drawn.parquet")
    assert (drawn.dtypes == table.dtypes).all()
    assert drawn["y"].isin([2, 3, 10]).all()


def test_labels_that_a_schema_cannot_store_are_words():
    cells = pd.cut(pd.Series([0.1, 0.9] * 18), [0, 0.5, 1])
    table = pd.DataFrame({"x": np.random.RandomState(0).randn(36), "y": cells})
    schema = Data.of_table(table, label="y").train.schema
    assert schema.label_column is None
    assert schema.labels(["(0.0, 0.5]"]) == ["(0.0, 0.5]"]


def test_a_schema_that_gives_a_type_to_the_label_is_refused(tmp_path):
    path = written(tmp_path / "table.csv", ["1", "2"])
    message = "'y' is the label of 'table.csv', and the schema gives it a type"
    with pytest.raises(InputError, match=message):
        load_data(path, label="y", schema={"y": "categorical"})

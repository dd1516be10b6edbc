"""The label of a table: its classes keep their names in every file that a run reads."""

import numpy as np
import pandas as pd
import pytest
from support.commands import typed

from pyro_vae import InputError, load_data
from pyro_vae.data import Schema
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

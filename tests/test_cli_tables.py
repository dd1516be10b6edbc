"""A run on a table from the command line: every command, and what is refused."""

import csv
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from support.commands import picture, typed
from support.tables import patients

from pyro_vae import VAE, load
from pyro_vae.data import Schema, load_data

SMALL = ["--hidden", "8", "--latent", "2", "--batch-size", "64"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "patients.csv"
    patients().to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def run(source, tmp_path_factory):
    """A run on the table. Tests must not change it."""
    folder = tmp_path_factory.mktemp("runs") / "patients"
    assert typed(["train", "--data", source, *SMALL, "--epochs", "2", "--out", folder]) == 0
    return folder


def schema_of(run):
    return Schema.from_json(json.loads((run / "config.json").read_text())["data"]["schema"])


def test_training_says_what_it_took_for_what_and_what_it_left_out(source, tmp_path, capsys):
    assert typed(["train", "--data", source, *SMALL, "--epochs", "1", "--out", tmp_path / "r"]) == 0
    said = capsys.readouterr().out
    assert said.count("patients.csv: 3 real (age, bmi, seconds), 1 positive (income), 1 count") == 1
    assert "left out: id (all values differ), seen (dates), note (all values differ)" in said
    assert "of the cells of the training rows are missing" in said
    assert "The likelihood is columns: each column of the table has that of its type." in said
    for kind in ("samples", "reconstructions"):
        assert picture(tmp_path / "r" / kind / "epoch_0001.png").std() > 10


def test_a_run_goes_on(source, tmp_path, capsys):
    run = tmp_path / "run"
    assert typed(["train", "--data", source, *SMALL, "--epochs", "1", "--out", run]) == 0
    assert typed(["train", "--resume", run, "--epochs", "2"]) == 0
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_samples_are_a_table_like_the_data(run, source, tmp_path, ending):
    out = tmp_path / f"samples.{ending}"
    assert typed(["sample", run, "--n", "30", "--out", out]) == 0
    drawn = pd.read_csv(out) if ending == "csv" else pd.read_parquet(out)
    frame, schema = pd.read_csv(source), schema_of(run)
    assert list(drawn) == [column.name for column in schema.columns]
    assert len(drawn) == 30
    for column in schema.columns:
        if column.levels:
            assert set(drawn[column.name]) <= set(frame[column.name].dropna())
        elif ending == "parquet":
            assert drawn[column.name].dtype == frame[column.name].dtype
    assert not np.allclose(drawn["bmi"], drawn["bmi"].round(3))
    again = tmp_path / f"again.{ending}"
    assert typed(["sample", run, "--n", "30", "--out", again]) == 0
    assert again.read_bytes() == out.read_bytes()


def test_a_table_of_samples_is_the_default(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert typed(["sample", run, "--n", "5"]) == 0
    assert len(pd.read_csv("samples.csv")) == 5


def test_encode_and_score_name_the_rows(run, tmp_path):
    latents, scores = tmp_path / "latents.npz", tmp_path / "scores.csv"
    assert typed(["encode", run, "--split", "all", "--out", latents]) == 0
    arrays = np.load(latents)
    assert sorted(map(int, arrays["files"])) == list(range(120))
    assert arrays["loc"].shape == (120, 2)
    assert typed(["score", run, "--split", "all", "--samples", "20", "--out", scores]) == 0
    lines = list(csv.DictReader(scores.open()))
    assert sorted(int(line["file"]) for line in lines) == list(range(120))
    assert {line["split"] for line in lines} == {"train", "validation", "test"}


def test_the_other_commands_work(run, source, tmp_path, capsys):
    figures = tmp_path / "figures"
    measure = ["evaluate", run, "--samples", "20", "--figures", figures]
    assert typed(measure) == 0
    assert picture(figures / "marginals.png").std() > 10
    assert typed(["audit", run]) == 0
    assert typed(["reconstruct", run, "--out", tmp_path / "r.png"]) == 0
    some = ["--guides", "mean-field,low-rank", "--seeds", "1", "--epochs", "1", "--samples", "5"]
    out = ["--out", tmp_path / "comparison"]
    assert typed(["compare", "--data", source, *SMALL, *some, *out]) == 0
    assert "patients.csv, numbers as they are, densities" in capsys.readouterr().out


def test_another_file_is_read_by_the_schema_of_the_run(run, tmp_path):
    frame = patients(seed=1).iloc[:10]
    other, out = tmp_path / "other.parquet", tmp_path / "latents.npz"
    frame[frame.columns[::-1]].to_parquet(other)
    assert typed(["encode", run, "--data", other, "--out", out]) == 0
    assert np.load(out)["loc"].shape == (10, 2)


BAD = [
    (lambda f: f.assign(city="Oslo"), "the values 'Bonn', 'Paris', 'Rome', and row 0 has 'Oslo'"),
    (lambda f: f.assign(visits=-1), "needs whole numbers of at least 0, and row 0 has -1"),
    (
        lambda f: f.assign(bmi=np.inf),
        "needs real numbers in the range of float32, and row 0 has inf",
    ),
    (lambda f: f.drop(columns="age"), "lacks the column age"),
    (lambda f: f.assign(more=1), "has a further column, more"),
]


@pytest.mark.parametrize(("change", "words"), BAD)
@pytest.mark.parametrize("command", ["encode", "score"])
def test_a_file_that_does_not_fit_is_one_sentence(run, tmp_path, capsys, command, change, words):
    other, out = tmp_path / "other.csv", tmp_path / "out"
    change(patients(seed=1)).to_csv(other, index=False)
    out = out.with_suffix(".npz" if command == "encode" else ".csv")
    assert typed([command, run, "--data", other, "--out", out]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert words in said
    assert said.count("Error") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"town": "real"}, "the schema names town"),
        ({"site": "real"}, "the column 'site' of 'patients.csv' is always 3"),
        ({"empty": "real"}, "is all missing"),
        ({"age": "complex"}, "a type is one of"),
    ],
)
def test_a_schema_that_does_not_fit_is_one_sentence(source, tmp_path, capsys, schema, words):
    file, out = tmp_path / "schema.json", tmp_path / "run"
    file.write_text(json.dumps(schema))
    assert typed(["train", "--data", source, "--schema", file, *SMALL, "--out", out]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_a_schema_and_a_label(source, tmp_path, capsys):
    file, out = tmp_path / "schema.json", tmp_path / "run"
    file.write_text('{"age": "count", "rating": "left out"}')
    options = ["--schema", file, "--label", "sex", "--epochs", "1", "--out", out]
    assert typed(["train", "--data", source, *SMALL, *options]) == 0
    types = {column.name: column.type for column in schema_of(out).columns}
    assert types["age"] == "count"
    assert types.keys() & {"rating", "sex"} == set()
    assert schema_of(out).left_out["rating"] == "by the schema"
    file.unlink()  # the run has its own copy
    assert typed(["encode", out, "--out", tmp_path / "l.npz"]) == 0
    assert set(np.load(tmp_path / "l.npz")["classes"]) == {"f", "m"}
    assert typed(["evaluate", out, "--samples", "5", "--probe"]) == 0


@pytest.fixture(scope="module")
def by_sex(source, tmp_path_factory):
    """A run on the table that is conditioned on a column. Tests must not change it."""
    folder = tmp_path_factory.mktemp("runs") / "by_sex"
    condition = ["--label", "sex", "--condition", "label", "--epochs", "30", "--lr", "0.02"]
    assert typed(["train", "--data", source, *SMALL, *condition, "--out", folder]) == 0
    return folder


def test_a_conditioned_run_draws_rows_for_each_class_with_their_label(by_sex, tmp_path, capsys):
    out = tmp_path / "s.csv"
    assert typed(["sample", by_sex, "--n", "401", "--out", out]) == 0
    assert "400 rows drawn from p(x), 200 of each of 2 classes, in" in capsys.readouterr().out
    drawn = pd.read_csv(out)
    assert list(drawn) == [*(column.name for column in schema_of(by_sex).columns), "sex"]
    assert drawn["sex"].value_counts().to_dict() == {"f": 200, "m": 200}
    one = {}
    for name in ("f", "m"):
        assert typed(["sample", by_sex, "--n", "200", "--given", name, "--out", out]) == 0
        one[name] = pd.read_csv(out)
        assert set(one[name]["sex"]) == {name}
    # A label belongs to the rows that were drawn with it: women of this table are older by 8 years.
    means = drawn.groupby("sex")["age"].mean()
    for name, rows in one.items():
        assert abs(means[name] - rows["age"].mean()) < abs(means["f"] - means["m"]) / 2
    assert typed(["sample", by_sex, "--n", "1", "--out", out]) == 0
    assert len(pd.read_csv(out)) == 2


def test_the_classes_are_named_where_one_is_needed(by_sex, tmp_path, capsys):
    vary = ["sample", by_sex, "--vary", "z", "--out", tmp_path / "s.npy"]
    assert typed(vary) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "say with --given on what to draw, one of the classes f, m" in said
    assert "int64" not in said


def test_a_run_that_infers_labels_writes_those_it_drew(source, tmp_path):
    run, out = tmp_path / "run", tmp_path / "s.csv"
    inferred = ["--label", "sex", "--recipe", "m2", "--known-labels", "all", "--epochs", "1"]
    assert typed(["train", "--data", source, *SMALL, *inferred, "--out", run]) == 0
    assert typed(["sample", run, "--n", "50", "--out", out]) == 0
    assert 0 < (pd.read_csv(out)["sex"] == "f").sum() < 50
    assert typed(["sample", run, "--n", "5", "--given", "m", "--out", out]) == 0
    assert pd.read_csv(out)["sex"].tolist() == ["m"] * 5


def test_what_is_not_for_tables_is_refused(source, run, trained, tmp_path, capsys):
    array = tmp_path / "array.npy"
    np.save(array, np.ones((3, 12), np.float32))
    for command, words in (
        (["train", "--data", source, "--stream"], "is read into memory; leave --stream out"),
        (["train", "--data", "digits", "--label", "x"], "--label is for tables, files that end in"),
        (["sample", trained, "--out", tmp_path / "s.csv"], "the run was not trained on one"),
        (["sample", run, "--vary", "z", "--out", tmp_path / "s.csv"], "--vary is for pictures"),
        (["sample", run, "--out", tmp_path / "s.png"], "give a .csv, .tsv or .parquet file"),
        (["interpolate", run, "--out", tmp_path / "s.png"], "take sample --out rows.csv"),
        (["reconstruct", run, "--data", array, "--out", tmp_path / "s.png"], "is not one; give a"),
        (["impute", run, "--out", tmp_path / "s.png"], 'schema.frame(x).to_csv("filled.csv")'),
    ):
        assert typed(command) == 2
        assert words in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.glob("s.*"))


def test_a_vae_saved_from_python_keeps_its_schema(run, source, tmp_path, capsys):
    """Of a run and of a VAE made in Python; the commands then give the same as on the run."""
    made = VAE.for_data(load_data(source), 2, hidden=(8,))
    assert made.schema == load(run).schema == schema_of(run)
    for vae, folder in ((load(run), "saved"), (made, "made")):
        vae.save(tmp_path / folder)
        assert load(tmp_path / folder).schema == schema_of(run)
    saved = tmp_path / "saved"
    for command, out in (
        (["sample", run], "run.csv"),
        (["sample", saved], "saved.csv"),
        (["impute", run, "--samples", "9"], "filled.csv"),
        (["impute", saved, "--samples", "9", "--data", source], "again.csv"),
        (["encode", saved, "--data", source], "latents.npz"),
        (["score", saved, "--data", source, "--samples", "9"], "scores.csv"),
    ):
        assert typed([*command, "--out", tmp_path / out]) == 0
    assert (tmp_path / "run.csv").read_bytes() == (tmp_path / "saved.csv").read_bytes()
    assert (tmp_path / "filled.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()
    assert typed(["evaluate", saved, "--data", source, "--samples", "5"]) == 0
    assert typed(["encode", saved]) == 2
    assert "give --data" in capsys.readouterr().err


def test_a_saved_vae_of_a_table_with_labels_knows_their_column(source, tmp_path):
    """Also where they are the condition. A table without labels is read if they are not."""
    data, out = load_data(source, label="sex"), tmp_path / "l.npz"
    patients().drop(columns="sex").to_csv(tmp_path / "less.csv", index=False)
    for name, each in (("free", data), ("given", data.conditioned("label"))):
        vae = VAE.for_data(each, 2, hidden=(4,))
        assert vae.schema.label == "sex"
        vae.save(tmp_path / name)
        assert load(tmp_path / name).schema == vae.schema
        assert typed(["encode", tmp_path / name, "--data", source, "--out", out]) == 0
        assert set(np.load(out)["classes"]) == {"f", "m"}
        code = typed(["encode", tmp_path / name, "--data", tmp_path / "less.csv", "--out", out])
        assert code == (0 if name == "free" else 2)


def test_a_vae_without_a_schema_reads_no_table(source, tmp_path, capsys):
    vae = VAE((12,), 2, likelihood="student-t", hidden=(4,))
    vae.save(tmp_path / "saved")
    assert typed(["encode", tmp_path / "saved", "--data", source]) == 2
    assert "has no schema for the table" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "schema",
    [
        3,
        [{"name": "a"}],
        [{"name": "a", "type": "real", "dtype": 3}],
        [{"name": "a", "type": "real", "dtype": "float64"}],  # the VAE has more columns
    ],
)
def test_a_config_with_another_schema_is_refused(run, tmp_path, capsys, schema):
    broken = tmp_path / "run"
    shutil.copytree(run, broken)
    config = json.loads((broken / "config.json").read_text())
    config["data"]["schema"] = schema
    saved = {"vae": config["vae"], "versions": config["versions"], "format": 2, "schema": schema}
    for content in (config, saved):
        (broken / "config.json").write_text(json.dumps(content))
        for command in (["sample"], ["encode"]):
            assert typed([*command, broken]) == 2
            said = " ".join(capsys.readouterr().err.split())
            assert "Traceback" not in said
            assert "schema" in said

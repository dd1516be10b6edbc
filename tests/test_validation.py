"""The validation split: cut from the training images, shown while training, stored by the run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support.commands import TINY, typed
from support.pictures import GREYS, save
from support.small import small, stripes

from pyro_vae import InputError, elbo, fit, load_data
from pyro_vae.data import DATASETS, Data, open_data
from pyro_vae.data.splitting import validation_size
from pyro_vae.runs.folder import load_run, read_config, read_history
from pyro_vae.runs.images import opened

OLD = Path(__file__).parent / "data" / "old_run"


def rows_of(images):
    return sorted(images.pixels.flatten(1).tolist())


# The split


@pytest.mark.parametrize("name", [n for n, row in DATASETS.items() if row.embedded])
def test_the_split_is_cut_from_the_training_images_by_label(name):
    """It depends on no seed of a run and no binarisation, and the test images stay."""
    data, whole = load_data(name), load_data(name, validation=0)
    train, held_out = data.train, data.validation
    assert len(held_out) == round(0.1 * len(whole.train))
    assert sorted(rows_of(train) + rows_of(held_out)) == rows_of(whole.train)
    assert torch.equal(data.test.pixels, whole.test.pixels)
    share = held_out.labels.bincount() / whole.train.labels.bincount()
    torch.testing.assert_close(share, torch.full((10,), 0.1), atol=1 / 140, rtol=0)
    drawn = load_data(name, binarize="dynamic", binarize_seed=3)
    assert torch.equal(drawn.validation.pixels, held_out.pixels)
    other = load_data(name, split_seed=1)
    assert not torch.equal(other.validation.pixels, held_out.pixels)
    assert torch.equal(other.test.pixels, whole.test.pixels)


@pytest.mark.mnist
def test_mnist_is_split_as_the_papers_have_it():
    data = load_data("mnist")
    assert [len(p) for p in (data.train, data.validation, data.test)] == [50_000, 10_000, 10_000]


@pytest.mark.parametrize(
    ("validation", "size"),
    [(None, 10), (0, 0), (0.0, 0), (1, 1), (7, 7), (np.int64(7), 7), (0.25, 25), (98, 98)],
)
def test_the_size_is_a_number_or_a_share(validation, size):
    assert validation_size(100, validation) == size
    data = Data.of_table(pd.DataFrame({"x": np.arange(125) + 0.5}), validation=validation)
    parts = (data.train, data.validation or (), data.test)
    assert [len(part) for part in parts] == [100 - size, size, 25]


@pytest.mark.parametrize("validation", [-1, 1.0, 1.5, "ten", True, float("nan"), 10**400])
def test_another_size_is_refused(validation):
    with pytest.raises(InputError, match="validation is a whole number of training rows, or a"):
        load_data("digits", validation=validation)


@pytest.mark.parametrize(("validation", "left"), [(1437, 1), (1438, 0), (9999, 0)])
def test_training_keeps_two_images(validation, left):
    with pytest.raises(InputError, match=rf"leaves {left} of 1,438 .* needs at least 2"):
        load_data("digits", validation=validation)


def test_few_images_have_no_validation_split_unless_one_is_asked_for(tmp_path):
    np.save(tmp_path / "a.npy", GREYS[:3])
    data = load_data(tmp_path / "a.npy")
    assert (len(data.train), data.validation, len(data.test)) == (2, None, 1)
    with pytest.raises(InputError, match=r"validation=0.5 leaves 1 of 2 training rows"):
        load_data(tmp_path / "a.npy", validation=0.5)


def test_a_table_is_stratified_by_a_label_that_is_partly_missing(tmp_path):
    """A tenth of each class and of the rows without a label; the holes go with their rows."""
    label = ["a"] * 50 + ["b"] * 50 + [None] * 50
    values = np.where(np.arange(150) % 7 == 0, np.nan, np.arange(150.0))
    pd.DataFrame({"x": values, "label": label}).to_csv(tmp_path / "t.csv", index=False)
    data = load_data(tmp_path / "t.csv", label="label", schema={"x": "real"})
    assert (data.validation.labels + 1).bincount().tolist() == [4, 4, 4]
    for part in (data.train, data.validation, data.test):
        rows = torch.tensor([int(row) for row in part.files])
        assert torch.equal(part.mask[:, 0], rows % 7 != 0)
    files = data.train.files + data.validation.files + data.test.files
    assert sorted(files, key=int) == list(map(str, range(150)))


def test_a_folder_with_validation_images_keeps_them(tmp_path):
    for part in ("train", "test", "val"):
        for i in range(4):
            save(tmp_path / part / f"{i}.png", GREYS[i])
    for read in (load_data, open_data):
        for validation in (None, 4):
            data = read(tmp_path, validation=validation)
            assert (len(data.train), len(data.validation)) == (4, 4)
        assert read(tmp_path, validation=0).validation is None
        with pytest.raises(InputError, match=r"has 4 validation images of its own, so .*=2 does"):
            read(tmp_path, validation=2)


# Training


class Untouched:
    """Test images that may not be used."""

    def __len__(self):
        raise AssertionError("the test images are used")

    __getattr__ = __len__


def test_training_measures_the_validation_images_and_never_the_test_images():
    data = stripes(60, 20)
    vae = small()
    kept = Data("stripes", data.train, Untouched(), data.validation.first(11))
    (record,) = fit(vae, kept, epochs=1, seed=4)
    assert record.measured_on == "validation"
    assert record.elbo == elbo(vae.model, vae.guide, data.validation.first(11), seed=4).elbo
    assert record.train_elbo == elbo(vae.model, vae.guide, data.train.first(11), seed=4).elbo


def test_data_without_validation_images_is_measured_on_its_training_images():
    data, vae = stripes(60, 20), small()
    (record,) = fit(vae, Data("stripes", data.train, Untouched()), epochs=1, seed=4)
    assert (record.measured_on, record.train_elbo) == ("train", None)
    assert record.elbo == elbo(vae.model, vae.guide, data.train, seed=4).elbo


# Runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs with 100 validation images, and other seeds."""
    folders = [tmp_path_factory.mktemp("runs") / str(seed) for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        ask = [*TINY, "--binarize", "threshold", "--validation", 100, "--seed", seed]
        assert typed([*ask, "--epochs", 1, "--out", folder]) == 0
    return folders


def test_a_run_stores_its_split_and_runs_of_other_seeds_share_it(runs, capsys):
    configs = [read_config(run) for run in runs]
    assert [config["data"]["validation"] for config in configs] == [100, 100]
    one, two = (opened(config["data"], None) for config in configs)
    assert len(one.validation) == 100
    assert one.checksum() == two.checksum()
    assert one.checksum() != load_data("digits", binarize="threshold").checksum()
    for run, config in zip(runs, configs, strict=True):
        (record,) = read_history(run)
        seed = config["training"]["seed"]
        split = ["--split", "validation", "--seed", seed, "--samples", 2, "--json"]
        capsys.readouterr()
        assert typed(["evaluate", run, *split]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["images"] == 100
        assert found["monte_carlo"]["elbo"] == pytest.approx(record.elbo, abs=1e-4)
        assert "validation" not in found


def test_a_run_resumes_with_its_split_whatever_is_usual(runs, tmp_path, monkeypatch):
    """The reference is a run that did not stop."""
    whole = shutil.copytree(runs[0], tmp_path / "whole")
    assert typed(["train", "--resume", whole, "--epochs", 2]) == 0
    monkeypatch.setattr("pyro_vae.data.splitting.VALIDATION", 0.3)
    part = shutil.copytree(runs[0], tmp_path / "part")
    assert typed(["train", "--resume", part, "--epochs", 2]) == 0
    one, two = (load_run(run)[0].state_dict() for run in (whole, part))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_all_images_of_a_run_are_those_of_its_data_set(runs, tmp_path):
    out = tmp_path / "latents.npz"
    assert typed(["encode", runs[0], "--out", out]) == 0
    assert len(np.load(out)["loc"]) == 1797
    assert typed(["score", runs[0], "--samples", 2, "--out", tmp_path / "a.csv"]) == 0
    scores = pd.read_csv(tmp_path / "a.csv")
    assert scores["split"].value_counts().to_dict() == {"test": 359, "validation": 100}


def test_a_stream_has_the_split_of_the_images_in_memory(tmp_path):
    np.save(tmp_path / "a.npy", np.random.RandomState(0).randint(256, size=(60, 8, 8), dtype="u1"))
    seen = []
    for stream in ([], ["--stream"]):
        run = tmp_path / f"run{len(stream)}"
        ask = ["train", "--data", tmp_path / "a.npy", "--validation", "0.25", *TINY[3:]]
        assert typed([*ask, *stream, "--epochs", 1, "--no-compile", "--out", run]) == 0
        assert read_config(run)["data"]["validation"] == 12
        data = opened(read_config(run)["data"], None)
        seen.append([getattr(data, part) for part in ("train", "validation", "test")])
    for memory, stored in zip(*seen, strict=True):
        assert torch.equal(memory.pixels, stored.loaded().pixels)


def test_the_folders_own_validation_images_are_those_of_the_run(tmp_path, capsys):
    for part, count in (("train", 9), ("test", 2), ("val", 3)):
        for i in range(count):
            save(tmp_path / "x" / part / f"{i}.png", GREYS[i])
    run = tmp_path / "run"
    ask = ["train", "--data", tmp_path / "x", *TINY[3:], "--epochs", 1, "--out", run]
    assert typed([*ask, "--validation", 2]) == 2
    assert "has 3 validation images of its own" in " ".join(capsys.readouterr().err.split())
    assert typed(ask) == 0
    assert read_config(run)["data"]["validation"] is None
    save(tmp_path / "x" / "val" / "3.png", GREYS[5])
    assert typed(["train", "--resume", run, "--epochs", 2]) == 2
    assert "are not those that the run was trained on" in " ".join(capsys.readouterr().err.split())


def test_a_run_without_validation_says_so_and_shows_training_images(tmp_path, capsys):
    run = tmp_path / "run"
    assert typed([*TINY, "--validation", 0, "--epochs", 1, "--out", run]) == 0
    assert "train ELBO -" in capsys.readouterr().out
    assert [e.measured_on for e in read_history(run)] == ["train"]
    assert typed(["evaluate", run, "--samples", 2]) == 0
    assert "This run has no validation split" in " ".join(capsys.readouterr().out.split())
    assert typed(["evaluate", run, "--samples", 2, "--split", "validation"]) == 2
    assert "the run was trained without" in " ".join(capsys.readouterr().err.split())
    compare = ["compare", "--guides", "mean-field", *TINY[1:], "--validation", 0, "--seeds", 1]
    assert typed([*compare, "--out", tmp_path / "comparison"]) == 2
    assert "chooses by the validation images" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("text", ["half", "-5", "1.5", "0x5", ""])
def test_another_word_for_the_size_is_one_sentence(text, capsys):
    assert typed([*TINY, "--validation", text]) == 2
    assert "validation" in capsys.readouterr().err


# Runs of older versions


def test_an_old_run_says_that_it_had_no_validation_split(tmp_path, capsys):
    """Its training images are still all of them, and a later epoch measures some of these."""
    run = shutil.copytree(OLD / "joint", tmp_path / "run")
    words = "An older version trained this run without a validation split"
    assert typed(["evaluate", run, "--samples", 2]) == 0
    assert words in " ".join(capsys.readouterr().out.split())
    assert typed(["evaluate", run, "--samples", 2, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["validation"].startswith(words)
    assert typed(["train", "--resume", run, "--epochs", 2, "--no-compile"]) == 0
    assert [e.measured_on for e in read_history(run)] == ["test", "train"]
    assert "validation" not in read_config(run)["data"]
    assert typed(["card", run]) == 0
    assert words in (run / "README.md").read_text()
    data = opened(read_config(run)["data"], None)
    assert (len(data.train), data.validation) == (1438, None)
    vae = load_run(run)[0]
    last = read_history(run)[-1]
    assert last.elbo == elbo(vae.model, vae.guide, data.train, seed=0).elbo


def test_a_run_of_the_version_before_goes_on_with_all_its_training_images(tmp_path, capsys):
    """Its config does not name a split, and its checksum is that of training and test images."""
    for part, count in (("train", 9), ("test", 2), ("val", 3)):
        for i in range(count):
            save(tmp_path / "x" / part / f"{i}.png", GREYS[i])
    for data, after in (("digits", "train"), (tmp_path / "x", "validation")):
        run = tmp_path / f"run-{after}"
        ask = ["train", "--data", data, *TINY[3:], "--validation", 0, "--epochs", 1, "--out", run]
        assert typed(ask) == 0
        config = json.loads((run / "config.json").read_text())
        assert config["data"].pop("validation") == 0
        (run / "config.json").write_text(json.dumps(config))
        (record,) = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        for name in ("elbo", "reconstruction", "kl"):
            record[f"test_{name}"] = record.pop(name)
        del record["measured_on"]
        (run / "metrics.jsonl").write_text(json.dumps(record) + "\n")
        capsys.readouterr()
        assert typed(["train", "--resume", run, "--epochs", 2]) == 0
        assert [e.measured_on for e in read_history(run)] == ["test", after]
        assert typed(["encode", run, "--out", tmp_path / "z.npz"]) == 0
        assert capsys.readouterr().err == ""  # the images are those of the run


def test_a_table_that_has_shrunk_is_said_to_have_changed(tmp_path, capsys):
    table, run = tmp_path / "t.csv", tmp_path / "run"
    lines = ["a,b", *(f"{i % 7}.5,{i % 5}.25" for i in range(30))]
    table.write_text("\n".join(lines))
    words = ["--epochs", "1", "--hidden", "4", "--latent", "1", "--no-compile", "--out", run]
    assert typed(["train", "--data", table, "--validation", "20", *words]) == 0
    table.write_text("\n".join(lines[:15]))
    capsys.readouterr()
    for command in (["evaluate", run], ["train", "--resume", run, "--epochs", "2", "--other-data"]):
        assert typed(command) == 2
        assert "has changed since the run was trained" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["folder", "array", "stream", "table", "split folder"])
def test_one_training_row_is_refused_for_all_kinds_of_data(kind, tmp_path, capsys):
    """Three rows are enough: two for training and one for test."""
    data, rows, words = tmp_path / "data", 2, []
    if kind in ("folder", "stream"):
        words = ["--stream"] if kind == "stream" else []
        for i in range(rows):
            save(data / f"{i}.png", GREYS[i])
    elif kind == "split folder":
        rows = 4
        for i, part in enumerate(("train", "val", "test", "test")):
            save(data / part / f"{i}.png", GREYS[i])
    elif kind == "array":
        data = tmp_path / "data.npy"
        np.save(data, GREYS[:rows])
    else:
        data = tmp_path / "data.csv"
        pd.DataFrame({"x": [0.5, 1.25]}).to_csv(data, index=False)
    word = "row" if kind == "table" else "image"
    given = [*TINY, "--data", data, *words, "--epochs", "1", "--no-compile"]
    assert typed([*given, "--out", tmp_path / "run"]) == 2
    assert (
        f"'{data.name}' has {rows} {word}s, too few: 1 of them would be left for training, which "
        f"needs at least 2 {word}s beside those for validation and test"
    ) in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    if kind == "folder":
        save(data / "2.png", GREYS[2])
        assert typed([*given, "--out", tmp_path / "run"]) == 0

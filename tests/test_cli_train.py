"""``pyro-vae train``: the run folder, resuming, layers of latents, and images of the user."""

import json
import warnings

import numpy as np
import pytest
import torch
from support.commands import TINY, picture, typed

from pyro_vae.history import CollapseWarning
from pyro_vae.runs.folder import load_run, read_config, read_history


def test_train_leaves_a_run_folder(trained):
    files = {str(p.relative_to(trained)) for p in trained.rglob("*") if p.is_file()}
    assert files == {
        "config.json",
        "checkpoint.safetensors",
        "metrics.jsonl",
        "training.png",
        "kl.png",
        "reconstructions/epoch_0002.png",
        "samples/epoch_0002.png",
    }
    assert [e.epoch for e in read_history(trained)] == [1, 2]
    assert read_history(trained)[1].elbo > read_history(trained)[0].elbo
    config = json.loads((trained / "config.json").read_text())
    assert config["data"] == {"name": "digits", "binarize": "dynamic", "validation": 144}
    assert config["versions"]["torch"] == torch.__version__.split("+")[0]
    # 12 images to a row, 8 pixels enlarged 7 times, with lines of 2 pixels between.
    assert picture(trained / "samples/epoch_0002.png").shape == (12 * 58 + 2 + 24, 12 * 58 + 2, 3)
    assert picture(trained / "reconstructions/epoch_0002.png").shape[1] == 12 * 58 + 2


def test_the_data_set_of_the_defaults_is_not_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = ["train", "--hidden", "4", "--latent", "2", "--epochs", "1", "--batch-size", "1000"]
    assert typed([*quick, "--no-compile"]) == 0
    assert read_config(tmp_path / "runs" / "mnist-5k-1")["data"]["name"] == "mnist-5k"


def test_training_goes_on_where_it_stopped(trained, tmp_path):
    whole = tmp_path / "whole"
    assert typed([*TINY, "--epochs", "3", "--out", whole]) == 0
    parts = tmp_path / "parts"
    assert typed([*TINY, "--epochs", "2", "--out", parts]) == 0
    assert typed(["train", "--resume", parts, "--epochs", "3"]) == 0
    one, two = (load_run(folder)[0].state_dict() for folder in (whole, parts))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert [e.epoch for e in read_history(parts)] == [1, 2, 3]


def test_a_folder_of_images_is_trained_on_and_encoded_with_its_file_names(image_folder, tmp_path):
    folder, _ = image_folder
    run = tmp_path / "run"
    args = ["train", "--data", folder, "--hidden", "8", "--epochs", "1", "--out", run]
    assert typed([*args, "--likelihood", "continuous-bernoulli"]) == 0
    out = tmp_path / "latents.npz"
    assert typed(["encode", run, "--data", folder, "--out", out]) == 0
    assert len(np.load(out)["files"]) == 12


@pytest.mark.parametrize("inside", ["", "run", "a/b"])
@pytest.mark.parametrize(
    "command", [["train"], ["compare", "--guides", "mean-field,iaf"]], ids=["train", "compare"]
)
def test_nothing_is_written_into_the_data_folder(command, inside, image_folder, tmp_path, capsys):
    folder, _ = image_folder
    before = sorted(folder.rglob("*"))
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert typed([*command, "--data", folder, "--out", link / inside]) == 2
    said = capsys.readouterr().err
    assert (
        "already exists" if command[0] == "compare" and not inside else "in the data folder"
    ) in (" ".join(said.split()))
    assert sorted(folder.rglob("*")) == before


def test_a_run_is_neither_written_over_nor_used_with_other_images(trained, tmp_path, capsys):
    before = (trained / "checkpoint.safetensors").read_bytes()
    assert typed([*TINY, "--out", trained]) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert typed(["train", "--resume", trained, "--lr", "1"]) == 2
    assert "--lr cannot be given" in capsys.readouterr().err
    assert typed(["train", "--resume", trained, "--epochs", "1"]) == 2
    assert "already has 2 epochs" in capsys.readouterr().err
    np.save(tmp_path / "other.npy", np.zeros((3, 5, 5), dtype=np.uint8))
    assert typed(["encode", trained, "--data", tmp_path / "other.npy"]) == 2
    assert "[1, 8, 8]" in capsys.readouterr().err
    assert (trained / "checkpoint.safetensors").read_bytes() == before


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_a_lost_loss_is_told_and_the_run_keeps_the_last_good_weights(tmp_path, capsys):
    run = tmp_path / "run"
    assert typed([*TINY, "--epochs", "30", "--lr", "1e18", "--out", run]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "the loss became" in said
    assert "epoch 1, step" in said
    assert load_run(run)[0].sample(1).isfinite().all()


def test_a_hierarchy_is_a_list_of_latents(layered, tmp_path, capsys):
    config = load_run(layered)[1]
    assert config["vae"]["latent_size"] == [4, 3, 2]
    assert config["vae"]["prior"] == "hierarchy"
    assert set(read_history(layered)[-1].kl_of_sites) == {"z_1", "z_2", "z_3"}
    assert [len(kl) for _, kl in sorted(read_history(layered)[-1].kl_of_units.items())] == [4, 3, 2]
    assert (layered / "kl.png").stat().st_size > 5000
    assert typed(["encode", layered, "--split", "test", "--out", tmp_path / "z.npz"]) == 0
    assert np.load(tmp_path / "z.npz")["loc_z_2"].shape == (359, 3)
    capsys.readouterr()
    assert typed(["evaluate", layered, "--samples", "20", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {name: units["of"] for name, units in result["active_units"].items()} == {
        "z_1": 4,
        "z_2": 3,
        "z_3": 2,
    }
    rates = result["rate_of_sites"]
    assert sum(rate["mean"] for rate in rates.values()) == pytest.approx(result["rate"]["mean"])
    for site, units in result["kl_of_units"].items():
        noise = 5 * rates[site]["error"] + 0.05
        assert sum(units) == pytest.approx(rates[site]["mean"], abs=noise)
    assert typed(["evaluate", layered, "--samples", "20"]) == 0
    assert "active units of z_3" in capsys.readouterr().out


def test_a_collapsed_layer_is_named(tmp_path, capsys):
    command = [*TINY, "--latent", "4,2", "--guide", "bottom-up", "--objective", "beta(beta=50)"]
    command += ["--lr", "0.01", "--epochs", "12"]
    assert typed([*command, "--out", tmp_path / "run"]) == 0
    assert "the latent layer z_2 has collapsed" in " ".join(capsys.readouterr().out.split())
    seeds = ["compare", *command[1:], "--seeds", "1", "--samples", "10"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapseWarning)
        assert typed([*seeds, "--recipes", "vae", "--out", tmp_path / "comparison"]) == 0
    table = (tmp_path / "comparison" / "comparison.md").read_text()
    assert "\nvae, seed 0: the latent layer z_" in table
    assert "the latent layer z_2 has collapsed" in table


def said(capsys):
    return " ".join(capsys.readouterr().out.split())


def test_the_likelihood_is_the_one_that_fits_the_data(image_folder, tmp_path, capsys):
    folder, _ = image_folder
    ask = ["train", "--epochs", "1", "--hidden", "4", "--latent", "2", "--no-compile"]
    asked = {
        ("--data", "digits"): "bernoulli: the pixels are drawn as 0 or 1 (--binarize dynamic), as "
        "is usual for this data set",
        ("--data", "digits", "--binarize", "none"): "discretized-logistic: the pixels have 17 "
        "levels of grey",
        ("--data", "digits", "--binarize", "threshold"): "bernoulli: the pixels are 0 or 1",
        ("--data", folder): "discretized-logistic: the pixels have ",
        ("--data", folder, "--binarize", "dynamic"): "bernoulli: the pixels are drawn as 0 or 1.",
    }
    for i, (more, sentence) in enumerate(asked.items()):
        assert typed([*ask, *more, "--out", tmp_path / str(i)]) == 0
        assert f"The likelihood is {sentence}" in said(capsys)
        name = sentence.partition(":")[0]
        assert read_config(tmp_path / str(i))["vae"]["likelihood"] == name


def test_grey_images_under_a_bernoulli_are_told_how_they_are_scored(image_folder, tmp_path, capsys):
    folder, _ = image_folder
    ask = ["train", "--data", folder, "--epochs", "1", "--hidden", "4", "--latent", "2"]
    bernoulli = ["--likelihood", "bernoulli"]
    assert typed([*ask, *bernoulli, "--out", tmp_path / "one"]) == 0
    assert "each pixel is drawn as 0 or 1 (--binarize dynamic)" in said(capsys)
    for more in ([*bernoulli, "--binarize", "dynamic"], ["--likelihood", "normal"]):
        assert typed([*ask, *more, "--out", tmp_path / more[1] / more[-1]]) == 0
        assert "each pixel is drawn" not in said(capsys)

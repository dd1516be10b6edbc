"""The commands that use a run: sample, reconstruct, interpolate, encode, evaluate, audit, score."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from support.commands import TINY, picture, typed

from pyro_vae.runs.folder import read_history


def test_sample_reconstruct_and_interpolate_draw_pictures(trained, tmp_path):
    for command, width in (
        (["sample", trained, "--n", "24"], 12),
        (["reconstruct", trained, "--n", "24"], 12),
        (["interpolate", trained, "--steps", "5"], 5),
    ):
        out = tmp_path / f"{command[0]}.png"
        assert typed([*command, "--out", out]) == 0
        assert picture(out).shape[1] == width * 58 + 2
    again = tmp_path / "again.png"
    typed(["sample", trained, "--n", "24", "--out", again])
    assert np.array_equal(picture(again), picture(tmp_path / "sample.png"))


def test_samples_that_vary_one_layer(layered, tmp_path, capsys):
    out = tmp_path / "z_2.png"
    assert typed(["sample", layered, "--vary", "z_2", "--n", "24", "--out", out]) == 0
    assert "2 rows of 12 samples that differ in z_2" in capsys.readouterr().out
    assert picture(out).shape[0] < picture(out).shape[1]
    assert typed(["sample", layered, "--vary", "z_4", "--out", out]) == 2
    assert "no latent site 'z_4'; the latent sites are z_3, z_2, z_1" in capsys.readouterr().err


def test_encode_writes_the_posterior_of_each_image(trained, tmp_path):
    out = tmp_path / "latents.npz"
    assert typed(["encode", trained, "--split", "test", "--out", out]) == 0
    arrays = np.load(out)
    assert arrays["loc"].shape == arrays["scale"].shape == (359, 2)
    assert arrays["labels"].shape == (359,)
    assert [int(name) for name in arrays["classes"]] == arrays["labels"].tolist()
    assert (arrays["scale"] > 0).all()
    out = tmp_path / "all.npz"
    assert typed(["encode", trained, "--out", out]) == 0
    assert np.load(out)["loc"].shape == (1797, 2)


@pytest.mark.parametrize(
    ("recipe", "names"),
    [("iaf-vae", {"loc", "scale"}), ("joint", {"loc_z", "scale_z", "loc_c", "scale_c"})],
)
def test_a_posterior_without_moments_is_encoded_from_draws(recipe, names, tmp_path):
    run, out = tmp_path / "run", tmp_path / "latents.npz"
    assert typed([*TINY, "--latent", "12", "--recipe", recipe, "--epochs", "1", "--out", run]) == 0
    assert typed(["encode", run, "--split", "test", "--out", out]) == 0
    arrays = dict(np.load(out))
    assert set(arrays) == names | {"labels", "classes"}
    assert all(np.isfinite(arrays[name]).all() for name in names)
    # The seed decides about all draws.
    for seed in ("0", "1"):
        assert typed(["encode", run, "--split", "test", "--out", out, "--seed", seed]) == 0
        same = [np.array_equal(array, np.load(out)[name]) for name, array in arrays.items()]
        assert all(same) == (seed == "0")


def test_evaluate_puts_the_two_kls_side_by_side(trained, capsys):
    assert typed(["evaluate", trained, "--split", "validation", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    one, two = result["monte_carlo"], result["analytic"]
    assert result["images"] == 144
    assert one["elbo"] == pytest.approx(read_history(trained)[-1].elbo, abs=1e-4)
    assert one["elbo"] == pytest.approx(one["reconstruction"] - one["kl"], abs=1e-4)
    assert two["kl"] == pytest.approx(one["kl"], abs=4 * one["kl_error"])
    assert typed(["evaluate", trained, "--samples", "20"]) == 0
    printed = capsys.readouterr()
    assert "KL by this draw" in printed.out
    assert "Can log p(x) be trusted?" in printed.out
    # The command that is run next has the options of this one.
    assert f"pyro-vae evaluate {trained} --samples 200" in printed.err.replace("\n", " ")


def test_evaluate_measures_log_p_the_gaps_and_the_latents(trained, capsys):
    ask = ["evaluate", trained, "--samples", "50", "--gaps", "--gap-images", "10", "--probe"]
    assert typed([*ask, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["curve"].keys() == {"1", "10", "50"}
    assert result["log_p"]["mean"] >= result["elbo"]["mean"]
    assert result["gaps"]["images"] == 10
    assert 0 < result["accuracy"]["linear"]["mean"] < 1
    assert typed(ask) == 0
    assert "amortization gap" in capsys.readouterr().out


def test_another_protocol_is_refused_or_marked(trained, capsys):
    ask = ["evaluate", trained, "--samples", "10", "--binarize", "threshold"]
    assert typed(ask) == 2
    assert "trained under dynamic binarisation" in capsys.readouterr().err
    assert typed([*ask, "--other-protocol", "--json"]) == 0
    assert "evaluated under threshold" in json.loads(capsys.readouterr().out)["mark"]


def test_labels_are_not_read_off_where_there_are_none(tmp_path, capsys):
    run, array = tmp_path / "run", tmp_path / "grey.npy"
    np.save(array, np.random.RandomState(0).randint(256, size=(20, 6, 5), dtype=np.uint8))
    ask = ["train", "--data", array, "--likelihood", "normal", "--hidden", "8", "--epochs", "1"]
    assert typed([*ask, "--out", run]) == 0
    assert typed(["evaluate", run, "--probe", "--samples", "5"]) == 2
    assert "these data have none" in capsys.readouterr().err


def test_audit_shows_every_site(trained, capsys):
    assert typed(["audit", trained]) == 0
    printed = capsys.readouterr().out
    assert "latent" in printed
    assert "observed" in printed
    assert "analytic" in printed


def test_score_ranks_the_images_of_a_folder_by_name(trained, tmp_path):
    pixels = np.zeros((3, 8, 8), dtype=np.uint8)
    pixels[1, 2:6, 3:5] = 255
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    out = tmp_path / "scores.csv"
    ask = ["score", trained, "--data", tmp_path, "--samples", "50", "--out", out]
    assert typed(ask) == 0
    rows = [line.split(",") for line in out.read_text().splitlines()]
    assert rows[0][:4] == ["file", "split", "log_p", "standard_error"]
    assert {row[0] for row in rows[1:]} == {"0.png", "1.png", "2.png"}
    assert {row[1] for row in rows[1:]} == {""}  # nobody has split these images
    scores = [float(row[2]) for row in rows[1:]]
    assert scores == sorted(scores)


def splits_in(path):
    """The number of lines of each split in a file of scores."""
    with path.open() as file:
        return Counter(line["split"] for line in csv.DictReader(file))


def test_score_leaves_training_images_out_unless_they_are_asked_for(trained, tmp_path, capsys):
    out = tmp_path / "scores.csv"
    ask = ["score", trained, "--samples", "2", "--out", out]
    assert typed(ask) == 0
    assert splits_in(out) == {"validation": 144, "test": 359}
    assert "The training images are left out; --split all takes them in." in capsys.readouterr().out
    assert typed([*ask, "--split", "all"]) == 0
    assert splits_in(out) == {"train": 1294, "validation": 144, "test": 359}
    assert typed([*ask, "--split", "train"]) == 0
    assert splits_in(out) == {"train": 1294}


def test_score_names_the_rows_of_an_array_that_was_split(tmp_path):
    """One row is white and all others are black. Wherever the split puts it, it is named."""
    run, array, out = tmp_path / "run", tmp_path / "grey.npy", tmp_path / "scores.csv"
    pixels = np.zeros((20, 6, 5), dtype=np.uint8)
    np.save(array, pixels)
    ask = ["train", "--data", array, "--likelihood", "bernoulli", "--hidden", "8", "--epochs", "1"]
    assert typed([*ask, "--out", run]) == 0
    for white in (0, 7, 19):
        np.save(array, np.where(np.arange(20)[:, None, None] == white, 255, pixels).astype("u1"))
        assert typed(["score", run, "--split", "all", "--samples", "5", "--out", out]) == 0
        with out.open() as file:
            lines = list(csv.DictReader(file))
        assert lines[0]["file"] == str(white)
        assert sorted(int(line["file"]) for line in lines) == list(range(20))
        assert splits_in(out) == {"train": 14, "validation": 2, "test": 4}


def test_score_of_a_folder_that_is_split_takes_test_and_validation(tmp_path):
    run, folder, out = tmp_path / "run", tmp_path / "split", tmp_path / "scores.csv"
    random = np.random.RandomState(0)
    for part, count in (("train", 6), ("test", 3), ("val", 2)):
        (folder / part).mkdir(parents=True)
        for i in range(count):
            pixels = random.randint(256, size=(6, 5), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / part / f"{i}.png")
    ask = ["train", "--data", folder, "--hidden", "8", "--epochs", "1", "--out", run]
    assert typed(ask) == 0
    assert typed(["score", run, "--samples", "5", "--out", out]) == 0
    assert splits_in(out) == {"test": 3, "validation": 2}

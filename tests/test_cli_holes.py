"""The commands on data with missing entries."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from support.commands import picture, typed


@pytest.fixture(scope="module")
def holed(tmp_path_factory):
    """A file of vectors with holes, in units far from 1, and a run that was trained on it."""
    folder = tmp_path_factory.mktemp("holes")
    random = np.random.RandomState(0)
    z = random.randn(200, 1)
    x = 1000 + 50 * (z * np.array([1.0, -1.0, 2.0, 0.5]) + 0.3 * random.randn(200, 4))
    x[random.rand(200, 4) < 0.25] = np.nan
    np.save(folder / "x.npy", x)
    ask = ["train", "--data", folder / "x.npy", "--hidden", "16", "--latent", "2", "--no-compile"]
    assert typed([*ask, "--epochs", "4", "--lr", "0.01", "--out", folder / "run"]) == 0
    return folder


def test_training_says_how_much_is_missing_and_resumes(holed, tmp_path, capsys):
    out = tmp_path / "run"
    ask = ["train", "--data", holed / "x.npy", "--hidden", "4", "--latent", "2", "--no-compile"]
    assert typed([*ask, "--epochs", "1", "--out", out]) == 0
    assert "25 % of the entries are missing" in " ".join(capsys.readouterr().out.split())
    assert typed(["train", "--resume", out, "--epochs", "2"]) == 0
    straight = tmp_path / "straight"
    assert typed([*ask, "--epochs", "2", "--out", straight]) == 0
    weights = [(run / "checkpoint.safetensors").read_bytes() for run in (out, straight)]
    assert weights[0] == weights[1]


def test_every_command_works_on_data_with_holes(holed, tmp_path):
    run = holed / "run"
    assert typed(["evaluate", run, "--samples", "50", "--figures", tmp_path / "figures"]) == 0
    assert typed(["encode", run, "--out", tmp_path / "latents.npz"]) == 0
    assert np.isfinite(np.load(tmp_path / "latents.npz")["loc"]).all()
    assert typed(["score", run, "--samples", "50", "--out", tmp_path / "scores.csv"]) == 0
    with (tmp_path / "scores.csv").open() as file:
        assert all(np.isfinite(float(row["log_p"])) for row in csv.DictReader(file))
    assert typed(["audit", run]) == 0
    assert typed(["reconstruct", run, "--n", "5", "--out", tmp_path / "recon.png"]) == 0
    assert typed(["interpolate", run, "--steps", "3", "--out", tmp_path / "path.png"]) == 0


def test_impute_fills_the_holes_and_keeps_the_rest(holed, tmp_path, capsys):
    """The holes of float64 are filled near their columns' mean; the other bits are the same."""
    x = np.load(holed / "x.npy")
    known = ~np.isnan(x)
    out = tmp_path / "filled.npy"
    assert typed(["impute", holed / "run", "--samples", "100", "--out", out]) == 0
    assert "24.6 % of the entries imputed" in capsys.readouterr().out
    filled = np.load(out)
    assert filled.dtype == x.dtype
    assert filled[known].tobytes() == x[known].tobytes()
    assert np.abs(filled[~known] - 1000).max() < 500
    error = (filled - x)[~known]
    out = tmp_path / "drawn.npz"
    ask = ["impute", holed / "run", "--samples", "100", "--draws", "3", "--out", out]
    assert typed(ask) == 0
    arrays = np.load(out)
    assert arrays["images"].shape == (3, *x.shape)
    assert (arrays["images"][:, known] == x[known]).all()
    assert np.ptp(arrays["images"][:, ~known], axis=0).min() > 0
    assert arrays["errors"].shape == x.shape
    assert np.isnan(error).all()  # nobody knows what was there


def test_a_mask_beside_images_is_imputed_in_their_own_layout(trained, tmp_path):
    images = np.random.RandomState(0).randint(256, size=(5, 8, 8), dtype=np.uint8)
    mask = np.random.RandomState(1).rand(5, 8, 8) < 0.5
    np.savez(tmp_path / "x.npz", images=images, mask=mask)
    out = tmp_path / "filled.npy"
    assert typed(["impute", trained, "--data", tmp_path / "x.npz", "--samples", "20",
                  "--out", out]) == 0  # fmt: skip
    filled = np.load(out)
    assert filled.dtype == np.uint8
    assert filled.shape == images.shape
    assert (filled[mask] == images[mask]).all()
    assert len(np.unique(filled[~mask])) > 20


def test_a_picture_of_half_hidden_images(trained, tmp_path):
    out = tmp_path / "half.png"
    ask = ["impute", trained, "--hide", "bottom", "--n", "3", "--draws", "2", "--samples", "20"]
    assert typed([*ask, "--out", out]) == 0
    first = picture(out)[-4 * 58 - 2 :][2:58, 2:58]  # 4 rows of images of 56 pixels, 2 between
    assert (first[28:] == 128).all()
    assert (first[:28] != 128).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "digits"], "no entry is missing"),
        (["--hide", "left"], "--hide is for a picture"),
        (["--out", "x.txt"], "needs a name that ends in"),
        (["--out", "x.png"], "or give --hide"),
    ],
)
def test_what_cannot_be_imputed_is_refused(trained, options, message, tmp_path, capsys):
    out = [] if "--out" in options else ["--out", tmp_path / "x.npy"]
    options = [tmp_path / each if each.startswith("x.") else each for each in options]
    assert typed(["impute", trained, *options, *out]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())

"""Save, load and export a VAE, so that another program can use it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import typed

import pyro_vae
from pyro_vae import VAE, InputError
from pyro_vae.guides import GUIDES

SHAPE = (1, 8, 8)


@pytest.fixture
def saved(tmp_path):
    """A VAE and the folder that it was saved to."""
    vae = VAE(SHAPE, latent_size=3, hidden=(8,), likelihood="bernoulli")
    vae.save(tmp_path / "saved")
    return vae, tmp_path / "saved"


# Save and load


def test_a_saved_vae_encodes_an_image_to_the_same_bits(saved):
    vae, folder = saved
    back = pyro_vae.load(folder)
    assert not back.training
    pixels = np.random.RandomState(0).randint(256, size=(8, 8), dtype=np.uint8)
    x = torch.from_numpy(pixels / np.float32(255))[None]
    for image in (Image.fromarray(pixels), pixels):
        assert torch.equal(back.encode(image).mean, vae.encode(x).mean)
    assert json.loads((folder / "config.json").read_text()).keys() == {"format", "vae", "versions"}


def test_a_loaded_vae_is_saved_again(saved, tmp_path):
    pyro_vae.load(saved[1]).save(tmp_path / "again")
    first, second = (f / "checkpoint.safetensors" for f in (saved[1], tmp_path / "again"))
    assert first.read_bytes() == second.read_bytes()


def test_a_run_is_not_written_over_by_a_saved_vae(saved):
    _, folder = saved
    before = (folder / "checkpoint.safetensors").read_bytes()
    with pytest.raises(InputError, match="holds a run already"):
        VAE(SHAPE, latent_size=3, hidden=(8,)).save(folder)
    assert (folder / "checkpoint.safetensors").read_bytes() == before


def spoiled():
    part = VAE(SHAPE, latent_size=3).guide.posterior
    yield "the guide was given as an object", VAE(SHAPE, latent_size=3, guide=part)
    yield "is in float64; save vae.float()", VAE(SHAPE, latent_size=3).double()
    vae = VAE(SHAPE, latent_size=3)
    next(vae.parameters()).data.fill_(torch.nan)
    yield "has NaN or infinite numbers", vae


@pytest.mark.parametrize(("said", "vae"), list(spoiled()))
def test_a_vae_that_could_not_be_loaded_is_not_saved(tmp_path, said, vae):
    with pytest.raises(InputError, match=said):
        vae.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_commands_use_a_saved_vae_or_say_what_is_missing(saved, tmp_path, capsys, monkeypatch):
    _, folder = saved
    monkeypatch.chdir(tmp_path)
    assert typed(["sample", folder, "--n", "1"]) == 0
    for command in ("encode", "reconstruct", "interpolate", "evaluate", "score", "audit"):
        assert typed([command, folder]) == 2
        assert "its folder names no data; give --data" in capsys.readouterr().err
    few = ["--samples", "2"]
    for command in ("encode", "reconstruct", "evaluate", "score", "audit"):
        more = few if command in ("evaluate", "score") else []
        assert typed([command, folder, "--data", "digits", "--split", "test", *more]) == 0
        assert "binarised by dynamic, because the likelihood" in capsys.readouterr().err
    assert np.load("latents.npz")["loc"].shape == (359, 3)
    assert typed(["train", "--resume", folder]) == 2
    assert "saved from Python, without what its training needs" in capsys.readouterr().err


@pytest.mark.parametrize("lacking", ["data", "training"])
def test_a_config_has_data_and_training_or_neither(saved, lacking):
    _, folder = saved
    config = json.loads((folder / "config.json").read_text())
    other = {"data": {"name": "digits", "binarize": "none"}, "training": {"objective": "iwae"}}
    del other[lacking]
    (folder / "config.json").write_text(json.dumps(config | other))
    with pytest.raises(InputError, match=f"lacks {lacking}"):
        pyro_vae.load(folder)


# Export

ALONE = """
import sys, numpy as np, torch
encoder, decoder = (torch.export.load(f"out/{n}.pt2").module() for n in ("encoder", "decoder"))
for n in (5, 1):
    given = np.load(f"given{n}.npz")
    loc, scale = encoder(torch.from_numpy(given["x"]))
    mean = decoder(torch.from_numpy(given["z"]))
    np.savez(f"found{n}.npz", loc=loc.detach(), scale=scale.detach(), mean=mean.detach())
assert not {"pyro", "pyro_vae"} & sys.modules.keys()
"""


def test_exported_programs_give_the_same_numbers_without_the_library(tmp_path, monkeypatch):
    """On five images, and on one. The batch of the export had two."""
    vae = VAE(SHAPE, latent_size=3, network="conv", hidden=(2, 4), standardize=[[0.4], [0.3]])
    vae.export(tmp_path / "out")
    assert vae.training
    given = {n: (torch.rand(n, *SHAPE), torch.randn(n, 3)) for n in (5, 1)}
    for n, (x, z) in given.items():
        np.savez(tmp_path / f"given{n}.npz", x=x, z=z)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    subprocess.run([sys.executable, "-c", ALONE], cwd=tmp_path, check=True)
    vae.eval()
    for n, (x, z) in given.items():
        found = np.load(tmp_path / f"found{n}.npz")
        with torch.no_grad():
            q, mean = vae.encode(x), vae.decode(z)
        for ours, theirs in ((q.mean, "loc"), (q.stddev, "scale"), (mean, "mean")):
            assert np.allclose(ours.numpy(), found[theirs], rtol=1e-5, atol=1e-6)


CLOSED = {"mean-field", "full-covariance", "low-rank", "mixture", "categorical"}
"""The guides of one latent site whose mean and scale have a closed form."""


@pytest.mark.parametrize("guide", GUIDES)
def test_every_guide_is_exported_or_refused_in_one_sentence(tmp_path, guide):
    condition = {"labelled": 3, "targeted": (2,)}.get(guide)
    vae = VAE(SHAPE, latent_size=12, hidden=(8,), guide=guide, condition=condition).eval()
    if guide in CLOSED:
        vae.export(tmp_path)
        x = torch.rand(3, *SHAPE)
        loc, scale = torch.export.load(tmp_path / "encoder.pt2").module()(x)
        assert torch.allclose(loc, vae.encode(x).mean, atol=1e-6)
        assert torch.allclose(scale, vae.encode(x).stddev, atol=1e-6)
        return
    said = "closed form|several latent sites|takes a context|cannot trace the part SemiAmortized"
    with pytest.raises(InputError, match=said) as error:
        vae.export(tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_the_command_export(saved, tmp_path, capsys):
    out = tmp_path / "out"
    assert typed(["export", saved[1], "--out", out]) == 0
    assert {file.name for file in out.iterdir()} == {"encoder.pt2", "decoder.pt2"}
    assert "encoder.pt2" in capsys.readouterr().out

"""The uses of a VAE of vectors, signals, volumes and counts: fit, evaluate, commands, pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import typed

from pyro_vae import VAE, fit, load_run
from pyro_vae.data import Data, Images
from pyro_vae.evaluation import elbo
from pyro_vae.evaluation.importance import importance
from pyro_vae.figures import to_images

SCALES = [1.0, 1e3, 1e-2, 5.0]
OFFSETS = [0.0, 1e4, 3.0, -7.0]


def linear(n, seed=0):
    """Vectors of four numbers in units of their own, made of two latents, and their covariance."""
    random = np.random.RandomState(1)
    weights = random.standard_normal((2, 4))
    s = np.array(SCALES)
    noise = np.random.RandomState(seed)
    u = noise.standard_normal((n, 2)) @ weights + 0.3 * noise.standard_normal((n, 4))
    covariance = (weights.T @ weights + 0.09 * np.eye(4)) * s * s[:, None]
    return torch.from_numpy(OFFSETS + u * s), torch.from_numpy(covariance)


def test_a_vae_of_real_vectors_learns_their_density_in_their_own_units():
    """log p(x) of test data against the Normal that they are drawn from. The gap is what 800
    vectors do not tell."""
    x, covariance = linear(1000)
    data = Data("vectors", Images(x[:800]), Images(x[800:]))
    vae = VAE.for_data(data, 2, hidden=(32,))
    assert vae.config["likelihood"] == "student-t"
    fit(vae, data, epochs=40, batch_size=100, lr=1e-2, compiled=False)
    mean = torch.tensor(OFFSETS, dtype=torch.float64)
    truth = torch.distributions.MultivariateNormal(mean, covariance).log_prob(x[800:]).mean()
    found = importance(vae.model, vae.guide, data.test, samples=200).mean
    assert truth - 0.5 < found < truth + 0.2
    assert elbo(vae.model, vae.guide, data.test).elbo < found


def saved(path, name, array):
    np.save(path / f"{name}.npy", array)
    return path / f"{name}.npy"


RANDOM = np.random.RandomState(0)
SIGNALS = np.sin(np.linspace(0, 6, 16) * RANDOM.rand(40, 1, 1) * 3)
DATA = {
    "vectors": (linear(40)[0].numpy(), "student-t", "mlp", "16"),
    "counts": (RANDOM.poisson(3.0, (40, 5)), "negative-binomial", "mlp", "16"),
    "signals": (SIGNALS, "student-t", "conv", "4,8"),
    "volumes": (RANDOM.standard_normal((40, 1, 2, 4, 4)), "student-t", "residual", "4,8"),
}


@pytest.mark.filterwarnings("ignore:the array .* not as pixels")
@pytest.mark.parametrize("name", DATA)
def test_the_commands_work_for_data_that_are_no_images(name, tmp_path, capsys):
    array, likelihood, network, hidden = DATA[name]
    file, run = saved(tmp_path, name, array), tmp_path / "run"
    command = ["train", "--data", file, "--out", run, "--epochs", "1", "--latent", "2"]
    parts = ["--network", network, "--hidden", hidden, "--device", "cpu", "--no-compile"]
    assert typed([*command, *parts]) == 0
    assert f"The likelihood is {likelihood}: the entries are" in capsys.readouterr().out
    vae = load_run(run)[0]
    assert vae.shape == array.shape[1:]
    here = ["--device", "cpu"]
    for words in (
        ["evaluate", run, "--samples", "5", "--figures", tmp_path / "figures", *here],
        ["encode", run, "--out", tmp_path / "z.npz", *here],
        ["score", run, "--split", "all", "--samples", "5", "--out", tmp_path / "scores.csv", *here],
        ["sample", run, "--n", "7", "--out", tmp_path / "x.npy", *here],
        ["sample", run, "--out", tmp_path / "x.png", *here],
        ["reconstruct", run, "--out", tmp_path / "recon.png", *here],
        ["interpolate", run, "--out", tmp_path / "path.png", *here],
        ["audit", run, *here],
    ):
        assert typed(words) == 0, capsys.readouterr()
    samples = np.load(tmp_path / "x.npy")
    assert samples.shape == (7, *array.shape[1:])
    torch.manual_seed(0)  # as the command does
    assert np.array_equal(samples, load_run(run)[0].sample(7).numpy())
    for picture in ("x.png", "recon.png", "path.png", "figures/reconstructions.png"):
        assert np.asarray(Image.open(tmp_path / picture).convert("L")).std() > 0
    assert len(np.load(tmp_path / "z.npz")["loc"]) == 40
    assert (tmp_path / "scores.csv").read_text().count("\n") == 41


@pytest.mark.parametrize("shape", [(3,), (2, 5), (2, 3, 4), (1, 2, 3, 4)])
def test_pictures_go_from_black_to_white_in_each_channel(shape):
    vae = VAE(shape, 2, likelihood="student-t", hidden=(4,))
    x = 100 * torch.randn(6, *shape) + 7
    one, two = to_images(vae, x[:4], x[4:])
    places = x[0].numel()
    assert one.shape[:2] == (4, 1)
    assert one[0].numel() == places
    both = torch.cat([one, two])
    assert both.min() == 0
    assert both.max() == 1
    if len(shape) == 4:  # slices side by side
        assert torch.equal(both[:, 0].argmax(-1), torch.cat([*x[:, 0].unbind(1)], -1).argmax(-1))
    elif len(shape) == 3:  # channels side by side
        low, high = x[:, 1].min(), x[:, 1].max()
        torch.testing.assert_close(both[:, 0, :, 4:], (x[:, 1] - low) / (high - low))
    else:  # a channel is a row, and each entry of a vector has its own black and white
        axes = 0 if len(shape) == 1 else (0, -1)
        low, high = x.amin(axes, keepdim=True), x.amax(axes, keepdim=True)
        torch.testing.assert_close(both[:, 0].reshape(x.shape), (x - low) / (high - low))


def test_pixels_are_drawn_as_they_are():
    x = torch.rand(5, 3, 4, 4)
    assert to_images(VAE((3, 4, 4), 2, hidden=(4,)), x)[0] is x

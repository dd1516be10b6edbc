"""One part of each kind, added as CONTRIBUTING says: one class and one row.

The parts are defined here and put into the tables. Then every test that runs over the rows of their
table runs on them, without an edit of any of these tests.
"""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import test_compiled_parts
import test_guides
import test_likelihoods
import test_networks
import test_priors
import torch
from pyro.distributions import Distribution
from support.rows import CHECKS
from torch import Tensor, nn

from pyro_vae import Guide, Likelihood, Network, Prior, load_data
from pyro_vae.cli.train import tables
from pyro_vae.data import DATASETS, DataSet, Images
from pyro_vae.networks import ACTIVATIONS, Layers, features
from pyro_vae.objectives.terms import PerImage, Terms
from pyro_vae.registry import GUIDES, LIKELIHOODS, NETWORKS, OBJECTIVES, PRIORS


class StudentPrior(Prior):
    """A Student-t with five degrees of freedom and learned means."""

    def __init__(self, latent_size: int, df: float = 5.0) -> None:
        super().__init__()
        self.df = df
        self.loc = nn.Parameter(torch.zeros(latent_size))

    def forward(self) -> Distribution:
        return dist.StudentT(self.df, self.loc, torch.ones_like(self.loc)).to_event(1)


class StudentGuide(Guide):
    """A mean-field Student-t; the encoder gives its means and the logarithms of its scales."""

    def __init__(self, encoder: nn.Module, latent_size: int, df: float = 7.0) -> None:
        super().__init__()
        self.encoder, self.df = encoder, df
        self.head = nn.Linear(features(encoder), 2 * latent_size)

    def forward(self, x: Tensor) -> Distribution:
        loc, raw = self.head(self.encoder(x)).chunk(2, -1)
        return dist.StudentT(self.df, loc, raw.exp()).to_event(1)


class StudentLikelihood(Likelihood):
    """Real pixels: a Student-t of five degrees of freedom; the decoder gives its scales, too."""

    outputs = 2

    def forward(self, z: Tensor) -> Distribution:
        loc, raw = self.decoder(z).chunk(2, -3)
        return dist.StudentT(5.0, loc, 0.1 * raw.exp()).to_event(3)


class Power(PerImage):
    """A β-objective whose β is 2."""

    def loss_per_image(self, terms: Terms) -> Tensor:
        return 2 * sum(self.kls(terms).values()) - terms.log_likelihood


class Sine(Network):
    """One hidden layer with the sine as its activation."""

    def __init__(self, shape: tuple[int, int, int], hidden: tuple[int, ...] = (32,)) -> None:
        self.shape, self.hidden = shape, hidden

    def encoder(self) -> nn.Module:
        pixels = self.shape[0] * self.shape[1] * self.shape[2]
        layers = Layers(nn.Flatten(-3), nn.Linear(pixels, self.hidden[0]), SineActivation())
        layers.out_features, layers.out_layout = self.hidden[0], (self.hidden[0],)
        return layers

    def decoder(self, latent_size: int, outputs: int = 1) -> nn.Module:
        c, h, w = self.shape
        return nn.Sequential(
            nn.Linear(latent_size, self.hidden[0]),
            SineActivation(),
            nn.Linear(self.hidden[0], outputs * c * h * w),
            nn.Unflatten(-1, (outputs * c, h, w)),
        )

    def between(self, sources, target) -> nn.Module:
        size = sum(torch.Size(source).numel() for source in sources)
        layers = Layers(nn.Linear(size, self.hidden[0]), SineActivation())
        layers.out_features, layers.out_layout = self.hidden[0], (self.hidden[0],)
        return layers


class SineActivation(nn.Module):
    """The sine."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sin()


def read_stripes(name, folder):
    pixels = torch.zeros(40, 1, 4, 4, dtype=torch.uint8)
    pixels[::2, :, ::2] = 255
    pixels[1::2, :, :, ::2] = 255
    return Images(pixels, torch.arange(40) % 2, ("lying", "upright")).split(0.25, seed=0)


@pytest.fixture(autouse=True)
def strangers(monkeypatch):
    for table, part in (
        (PRIORS, StudentPrior),
        (GUIDES, StudentGuide),
        (LIKELIHOODS, StudentLikelihood),
        (OBJECTIVES, Power),
        (NETWORKS, Sine),
    ):
        monkeypatch.setitem(table, "stranger", part)
    stripes = DataSet("stripes", (1, 4, 4), (30, 10), 2, read_stripes, embedded=True)
    monkeypatch.setitem(DATASETS, "stranger", stripes)


def over(module, *tables):
    """The tests of a module that run over the rows of a table, by one argument ``name``."""
    for test in vars(module).values():
        for mark in getattr(test, "pytestmark", []):
            names, values = (*mark.args, None, None)[:2]
            listed = list(values) if isinstance(values, list) else values
            same = any(values is t or listed == sorted(t) or listed == list(t) for t in tables)
            if mark.name == "parametrize" and names == "name" and same:
                yield test


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", ["prior", "guide", "likelihood"])
def test_the_checks_of_every_row(kind, check):
    check(kind, "stranger")


@pytest.mark.parametrize("test", over(test_priors, PRIORS), ids=lambda t: t.__name__)
def test_the_tests_of_the_priors(test):
    test("stranger")


@pytest.mark.parametrize("test", over(test_guides, GUIDES), ids=lambda t: t.__name__)
def test_the_tests_of_the_guides(test):
    test("stranger")


@pytest.mark.parametrize("test", over(test_likelihoods, LIKELIHOODS), ids=lambda t: t.__name__)
def test_the_tests_of_the_likelihoods(test):
    test("stranger")


@pytest.mark.parametrize("part", ["prior", "likelihood", "guide", "objective"])
def test_the_tests_of_compiled_parts(part):
    test_compiled_parts.test_parts(part, "stranger")


@pytest.mark.parametrize("shape", test_networks.SHAPES)
def test_the_tests_of_the_networks(shape):
    test_networks.test_both_halves_fit_every_shape_and_any_leading_dimensions("stranger", shape)


def test_the_data_set():
    data = load_data("stranger", binarize="threshold")
    row = DATASETS["stranger"]
    assert (len(data.train), len(data.test)) == row.sizes
    assert data.shape == row.shape
    assert len(data.train.classes) == row.classes


def test_every_stranger_is_listed():
    listed = tables()
    for kind in ("priors", "guides", "likelihoods", "objectives", "networks", "data"):
        assert listed[kind]["stranger"]


def test_there_were_tests_to_run():
    assert len(list(over(test_priors, PRIORS))) >= 2
    assert len(list(over(test_guides, GUIDES))) >= 5
    assert len(list(over(test_likelihoods, LIKELIHOODS))) >= 4
    assert ACTIVATIONS

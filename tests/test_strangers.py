"""One part of each kind, added as CONTRIBUTING says: one class and one row.

The parts are defined here and put into the tables. Then the tests of :data:`TESTED` that run over
the rows of a table run on them, without an edit of any of these tests. The likelihood has its
reference in ``REFERENCES``. Other tests that hold a reference for each row are left out, see
CONTRIBUTING.
"""

from __future__ import annotations

import inspect
from itertools import product

import pyro.distributions as dist
import pytest
import test_audit
import test_compiled_parts
import test_guides
import test_hierarchy_refusals
import test_likelihoods
import test_networks
import test_objective_aggregates
import test_objectives
import test_priors
import test_report
import test_swaps
import test_swaps_importance
import test_swaps_programs
import test_vae
import torch
from pyro.distributions import Distribution
from support.objectives import BY_IMAGE, ONE_VECTOR, SUMS_OVER_IMAGES
from support.rows import CHECKS
from torch import Tensor, nn

from pyro_vae import Guide, Likelihood, Network, Prior, load_data
from pyro_vae.cli.listing import tables
from pyro_vae.data import DATASETS, DataSet, Images
from pyro_vae.networks import Layers, features
from pyro_vae.networks.layers import start_at
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

    def start(self, mean: Tensor) -> None:
        start_at(self.decoder, self.outputs, mean, lambda each: each)


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


def student_log_prob(x, raw, likelihood):
    """log p(x | z) of each pixel, for the decoder's output ``raw``."""
    return torch.distributions.StudentT(5.0, raw[:, :1], 0.1 * raw[:, 1:].exp()).log_prob(x)


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
    monkeypatch.setitem(test_likelihoods.REFERENCES, "stranger", student_log_prob)
    stripes = DataSet("stripes", (1, 4, 4), (30, 10), 2, read_stripes, embedded=True)
    monkeypatch.setitem(DATASETS, "stranger", stripes)


TESTED = {
    "prior": (PRIORS, [test_priors, test_hierarchy_refusals]),
    "guide": (GUIDES, [test_guides, test_hierarchy_refusals, test_report]),
    "likelihood": (LIKELIHOODS, [test_likelihoods, test_vae]),
    "network": (NETWORKS, [test_networks]),
    "objective": (
        {*BY_IMAGE} & {*SUMS_OVER_IMAGES} - {*ONE_VECTOR},  # the rows with the properties of Power
        [
            test_objectives,
            test_objective_aggregates,
            test_swaps,
            test_swaps_importance,
            test_swaps_programs,
            test_audit,
        ],
    ),
}
"""The rows that a test runs over, and where the tests are, by kind."""

CONDITIONED = ("conditional", "labelled", "targeted")
"""Rows for a VAE with a condition, which tests of other VAEs leave out."""

FEWEST = {"prior": 3, "guide": 8, "likelihood": 6, "network": 3, "objective": 10}
"""How many tests of :data:`TESTED` were found when this was written."""


def over(kind):
    """The tests that run over all rows of a kind: each with the name of the argument that is the
    row, and with the marks of its other arguments."""
    rows, modules = TESTED[kind]
    rows = [row for row in rows if row not in (*CONDITIONED, "stranger")]
    for module in modules:
        for test in vars(module).values():
            marks = [m.args for m in getattr(test, "pytestmark", []) if m.name == "parametrize"]
            for mark in marks:
                if isinstance(mark[0], str) and all(row in list(mark[1]) for row in rows):
                    yield test, mark[0], [m for m in marks if m is not mark]


def cases():
    """The tests of :func:`over` with each value of their other arguments."""
    found = []
    for kind in TESTED:
        for test, argument, others in over(kind):
            names = [argument, *(name for name, _ in others)]
            for i, values in enumerate(product(["stranger"], *(values for _, values in others))):
                arguments = dict(zip(names, values, strict=True))
                found.append(pytest.param(test, arguments, id=f"{kind} {test.__name__} {i}"))
    return found


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", ["prior", "guide", "likelihood"])
def test_the_checks_of_every_row(kind, check):
    check(kind, "stranger")


@pytest.mark.filterwarnings("ignore:z")  # Pyro's own warning about discrete draws
@pytest.mark.parametrize(("test", "arguments"), cases())
def test_the_tests_of_the_tables(test, arguments, request):
    fixtures = inspect.signature(test).parameters.keys() - arguments.keys()
    test(**arguments, **{name: request.getfixturevalue(name) for name in fixtures})


@pytest.mark.parametrize("part", ["prior", "likelihood", "guide", "objective"])
def test_the_tests_of_compiled_parts(part):
    test_compiled_parts.test_parts(part, "stranger")


def test_the_data_set():
    data = load_data("stranger", binarize="threshold", validation=0)
    row = DATASETS["stranger"]
    assert (len(data.train), len(data.test)) == row.sizes
    assert data.shape == row.shape
    assert len(data.train.classes) == row.classes


def test_every_stranger_is_listed():
    listed = tables()
    for kind in ("priors", "guides", "likelihoods", "objectives", "networks", "data"):
        assert listed[kind]["stranger"]


@pytest.mark.parametrize("kind", TESTED)
def test_there_were_tests_to_run(kind):
    assert len(list(over(kind))) >= FEWEST[kind]

"""What several processes cannot share is refused before the first step, in all of them."""

import os
import random

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from support.ranks import SHAPE, launch, refusals
from torch import nn

from pyro_vae import VAE, Guide, Position
from pyro_vae.data import Data, Images
from pyro_vae.objectives.terms import PerImage
from pyro_vae.registry import OBJECTIVES


def rank() -> int:
    return int(os.environ["RANK"])


def data(seed: int = 0) -> Data:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(2, (16, *SHAPE), generator=generator, dtype=torch.uint8) * 255
    return Data("random", Images(pixels), Images(pixels[:5]))


def small(**parts):
    return VAE(SHAPE, **{"latent_size": 2, "hidden": (8,)} | parts)


def fitted(vae=None, images=None, **kwargs):
    return [vae or small(), images or data()], kwargs


class Encoded(Guide):
    """Base of the guides below."""

    def __init__(self, encoder: nn.Module, latent_size: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.out_features, latent_size)

    def loc(self, x):
        return self.head(self.encoder(x))


class Noisy(Encoded):
    def forward(self, x):
        loc = self.loc(x)
        return dist.Normal(loc + torch.rand_like(loc), 1.0).to_event(1)


class Gamma(Encoded):
    def forward(self, x):
        return dist.Gamma(self.loc(x).exp(), 1.0).to_event(1)


class VonMises(Encoded):
    """Draws until a value is accepted, with torch.rand of the right shape."""

    def forward(self, x):
        return dist.VonMises(self.loc(x), torch.ones(())).to_event(1)


class Shared(nn.Module):
    """One latent for all images, as in Bayesian regression."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))

    def model(self, x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 1.0).expand(SHAPE).to_event(3), obs=x)

    def guide(self, x):
        pyro.module("shared", self)
        pyro.sample("w", dist.Normal(self.loc, 1.0))


class Counting(Encoded):
    def __init__(self, encoder: nn.Module, latent_size: int) -> None:
        super().__init__(encoder, latent_size)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += x.sum()
        return dist.Normal(self.loc(x), 1.0).to_event(1)


class Spread(PerImage):
    """A loss that is not a sum over images, of a user who did not think of processes."""

    per_image = False

    def loss_per_image(self, terms):
        return -terms.log_weight + terms.log_likelihood.var()


class Rows:
    """Two Pyro programs over rows of three numbers, with one change.

    Args:
        change: called in the model with the rows.
        scale: the scale of both programs, for a number of rows.
        seen: what the guide sees of the rows.
        start: added to each location; it gets the number of rows.
    """

    def __init__(self, change=None, scale=None, seen=None, start=None) -> None:
        self.change, self.scale = change or (lambda x: None), scale or (lambda rows: 1.0)
        self.seen, self.start = seen or (lambda x: x), start or (lambda rows: 0.0)

    def model(self, x):
        slope = pyro.param("slope", torch.ones(3))
        with pyro.poutine.scale(scale=self.scale(len(x))):
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
                loc = z[:, None] * slope
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)
            self.change(x)

    def guide(self, x):
        weight = pyro.param("weight", torch.ones(3))
        loc = self.seen(x) @ weight + self.start(len(x))
        with pyro.poutine.scale(scale=self.scale(len(x))), pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0))


def rows_fitted(**change):
    programs = Rows(**change)
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    return [programs.model, programs.guide, x], {}


def weight():
    return pyro.get_param_store()["weight"]


def global_of_four(x):
    """A site that is observed once, in a plate of as many units as a process has rows."""
    with pyro.plate("units", 4):
        pyro.sample("unit", dist.Normal(weight().sum(), 1.0), obs=torch.zeros(4))


def mixture(x):
    loc = pyro.param("loc", torch.randn(3, 3))
    with pyro.plate("rows", len(x)):
        k = pyro.sample("k", dist.Categorical(torch.ones(3)), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(loc[k], 1.0).to_event(1), obs=x)


def units(x, observed=True):
    """A latent that is not of the rows, in a plate of as many units as a process has rows."""
    with pyro.plate("units", 4):
        w = pyro.sample("w", dist.Normal(pyro.param("w0", torch.zeros(4)), 1.0))
    with pyro.plate("rows", len(x)):
        if observed:
            pyro.sample("x", dist.Normal(w.sum(), 1.0).expand([3]).to_event(1), obs=x)


def subsampled(x):
    with pyro.plate("rows", len(x), subsample_size=2) as few:
        loc = pyro.param("loc", torch.zeros(3))
        pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x[few])


def programs_fitted(model, guide=lambda x: None, **kwargs):
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    return [model, guide, x], kwargs


def with_layer(layer):
    vae = small()
    vae.guide.posterior.encoder.append(layer)
    return vae


CASES = {
    "dropout": (lambda: fitted(with_layer(nn.Dropout(0.5))), "outside of pyro.sample"),
    "noise of a part": (lambda: fitted(small(guide=Noisy)), "outside of pyro.sample"),
    "gamma": (
        lambda: fitted(small(guide=Gamma, prior=GammaPrior)),
        "the draws of Independent take as many random numbers",
    ),
    "rejection": (lambda: fitted(small(guide=VonMises, prior=VonMisesPrior)), "random numbers"),
    "a site of the batch": (
        lambda: fitted(Shared(), objective=pyro.infer.Trace_ELBO()),
        "one pyro.plate of all images",
    ),
    "a buffer": (lambda: fitted(small(guide=Counting)), "change a buffer"),
    "batch normalization of torch": (
        lambda: fitted(with_layer(nn.BatchNorm1d(8))),
        "take pyro_vae.networks.BatchNorm",
    ),
    "an objective": (lambda: fitted(objective=Spread()), "not known to be a sum over rows"),
    "an ELBO of Pyro": (
        lambda: fitted(objective=pyro.infer.RenyiELBO(num_particles=2)),
        "not known to be a sum over rows",
    ),
    "an optimizer of Pyro": (
        lambda: fitted(optimizer=pyro.optim.Adam({"lr": 1e-3})),
        "take torch.optim",
    ),
    "a small batch": (lambda: fitted(batch_size=1), "cannot be shared by 2 processes"),
    "other images": (lambda: fitted(images=data(rank())), "the same data"),
    "another seed": (lambda: fitted(seed=rank()), "the same seed"),
    "another rate": (lambda: fitted(lr=1e-3 * (1 + rank())), "the same lr"),
    "another limit": (lambda: fitted(clip=1.0 + rank()), "the same clip"),
    "another schedule": (lambda: fitted(schedule=("constant", "cosine")[rank()]), "same schedule"),
    "other epochs": (lambda: fitted(epochs=1 + rank()), "the same epochs"),
    "another objective": (
        lambda: fitted(objective=("iwae", "monte-carlo")[rank()]),
        "the same objective",
    ),
    "an objective's option": (lambda: fitted(objective=beta(1.0 + rank())), "the same objective"),
    "another start": (lambda: fitted(epochs=3, start=Position(rank())), "the same start"),
    "another optimizer": (lambda: own_optimizer(), "the same optimizer"),
    "other weights": (lambda: fitted(small(hidden=(8 + rank(),))), "the same weights"),
    "a factor outside the plate": (
        lambda: rows_fitted(change=lambda x: pyro.factor("f", -weight().square().sum())),
        "do not add up to that of the whole batch",
    ),
    "a site outside the rows": (lambda: rows_fitted(change=global_of_four), "losses of 2"),
    "the mean over the rows": (lambda: rows_fitted(scale=lambda rows: 1 / rows), "losses of 2"),
    "rows of a data set": (lambda: rows_fitted(scale=lambda rows: 99 / rows), "losses of 2"),
    "moments of a batch": (
        lambda: rows_fitted(seen=lambda x: (x - x.mean(0)) / x.std(0)),
        "losses of 2",
    ),
    "normalization by a function": (
        lambda: rows_fitted(seen=lambda x: nn.functional.batch_norm(x, None, None, training=True)),
        "losses of 2",
    ),
    "parameters of rows": (
        lambda: rows_fitted(start=lambda rows: pyro.param("m", torch.zeros(8))[:rows]),
        "gradients of 2",
    ),
    "random numbers of Python": (
        lambda: rows_fitted(start=lambda rows: random.random()),
        "of 2 processes do not add up",
    ),
    "units as many as rows": (
        lambda: programs_fitted(units, lambda x: units(x, observed=False)),
        "site 'w' is in 0 plates of the images",
    ),
    "a sum over rows": (lambda: rows_fitted(), ""),
    "a subsample": (lambda: programs_fitted(subsampled), "a subsample of 2 of 4 rows"),
    "an enumerated latent": (
        lambda: programs_fitted(mixture, objective=TraceEnum_ELBO(max_plate_nesting=1)),
        "",
    ),
    "nothing": (lambda: fitted(), ""),
}


def beta(weight):
    return OBJECTIVES.build("beta", beta=weight)


def own_optimizer():
    vae = small()
    return fitted(vae, optimizer=torch.optim.SGD(vae.parameters(), 1e-3, momentum=0.5 * rank()))


class GammaPrior(nn.Module):
    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.register_buffer("one", torch.ones(latent_size))

    def forward(self):
        return dist.Gamma(self.one, self.one).to_event(1)


class VonMisesPrior(GammaPrior):
    def forward(self):
        return dist.VonMises(0 * self.one, self.one).to_event(1)


@pytest.fixture(scope="module")
def said():
    return launch(2, all_refusals)


def all_refusals():
    return refusals([make for make, _ in CASES.values()])


@pytest.mark.parametrize("name", CASES)
def test_every_process_refuses_what_cannot_be_shared(name, said):
    place, (_, sentence) = list(CASES).index(name), CASES[name]
    for each in (process[place] for process in said):
        assert sentence in each
        assert bool(each) == bool(sentence)
    assert said[0][place] == said[1][place]

"""What several processes cannot share is refused before the first step, in all of them."""

import os

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.ranks import SHAPE, launch, refusals
from torch import nn

from pyro_vae import VAE, Guide
from pyro_vae.data import Data, Images
from pyro_vae.objectives.terms import PerImage


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
    "other weights": (lambda: fitted(small(hidden=(8 + rank(),))), "the same weights"),
    "nothing": (lambda: fitted(), ""),
}


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

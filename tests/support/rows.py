"""A small VAE for each row of a table, and the checks that hold for every row."""

from __future__ import annotations

import copy
import io
from math import isfinite

import pyro
import torch
from pyro.infer import SVI
from torch import Tensor

from pyro_vae import VAE
from pyro_vae.contracts import Likelihood
from pyro_vae.guides import GUIDES
from pyro_vae.likelihoods import LIKELIHOODS, SelfMasking
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.pairing import fitting_objective
from pyro_vae.priors import PRIORS
from pyro_vae.supports import bounds, open_unit
from support.density import SHAPE, assert_batch_is_independent, assert_moves, digits
from support.small import weights

TABLES = {"prior": PRIORS, "likelihood": LIKELIHOODS, "guide": GUIDES}
NEEDS_CONTEXT = ("conditional",)
"""The rows whose programs cannot be called with x alone; tests/test_conditional.py has them."""
WITH_CONDITION = {"conditional", "labelled", "targeted"}
"""The rows that need a VAE with a condition."""
ROWS = [(kind, n) for kind, table in TABLES.items() for n in table if n not in NEEDS_CONTEXT]

NEEDS = {
    "prior": {
        "mixture": {"prior": "mixture(components=5)"},
        "vamp": {"prior": "vamp(components=5)"},
        "categorical": {"guide": "categorical"},
        "relaxed-categorical": {"guide": "gumbel-softmax"},
        "joint": {"guide": "joint(categories=2)", "latent_size": 4},
        "labelled": {"guide": "labelled", "condition": 2},
        "targeted": {"guide": "targeted", "condition": (2,)},
    },
    "guide": {
        "joint": {"guide": "joint(categories=2)", "latent_size": 4},  # two numbers at each site
        "labelled": {"condition": 2},
        "targeted": {"condition": (2,)},
        "iaf": {"guide": "iaf(units=16)"},
        "spline": {"guide": "spline(units=16)"},
    },
    "likelihood": {},
}
"""Settings of a row where the defaults do not fit or are slow. A new row needs none."""


def row_vae(kind: str, name: str, **settings) -> VAE:
    """A small VAE with the part ``name``."""
    own = NEEDS[kind].get(name, {})
    return VAE(SHAPE, **{"latent_size": 2, kind: name, "hidden": (32,)} | own | settings)


def bent_vae(kind: str, name: str) -> VAE:
    """The same in float64, with weights far from where they start."""
    vae = row_vae(kind, name).double()
    with torch.no_grad():
        if kind == "prior":
            for parameter in vae.model.prior.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        if kind == "guide":
            for parameter in vae.guide.parameters():
                parameter *= 1.5
        if name == "semi-amortized":  # its posterior follows the model
            for parameter in vae.model.parameters():
                parameter *= 3
    return vae


def images_for(vae: VAE, n: int = 16, dtype: torch.dtype = torch.float32) -> Tensor:
    """Digits that the VAE's likelihood scores: grey where it can, else binary."""
    likelihood = Likelihood.of(vae.model.likelihood)
    return scored(likelihood, digits(n, not likelihood.binary, dtype))


def scored(likelihood: Likelihood, grey: Tensor) -> Tensor:
    """Pixels in [0, 1] as numbers that a likelihood scores, for instance as counts from 0 to 8."""
    support = likelihood.support
    low, high = bounds(support)
    if support is open_unit:
        return 0.05 + 0.9 * grey
    if support.is_discrete and likelihood.levels is None:
        return ((high if isfinite(high) else 8) * grey).round()
    return grey if (low, isfinite(high)) != (0, False) else 0.1 + grey


def fitting_elbo(vae: VAE):
    """The plain ELBO that fits the guide."""
    return OBJECTIVES[fitting_objective(vae, images_for(vae, 1))]()


def adam_steps(vae: VAE, steps: int) -> list[float]:
    """Losses per image of some steps of SVI."""
    x = images_for(vae)
    beside = {}
    if isinstance(vae.model.likelihood, SelfMasking):  # whose weights of the mask need a mask
        beside["mask"] = torch.ones_like(x, dtype=torch.bool)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss=fitting_elbo(vae))
    return [svi.step(x, **beside) / len(x) for _ in range(steps)]


def check_trains(kind: str, name: str) -> None:
    """SVI lowers the loss by more than 10 nats an image, and every weight moves.

    Over six seeds, the smallest fall of any row was 11.3 nats.
    """
    vae = row_vae(kind, name)
    before = weights(vae)
    losses = adam_steps(vae, 60)
    assert sum(losses[-10:]) / 10 < sum(losses[:10]) / 10 - 10
    assert all(not torch.equal(p, before[n]) for n, p in vae.named_parameters())
    assert vae.sample(3).shape == (3, *SHAPE)


def check_saved_loaded_and_copied(kind: str, name: str) -> None:
    """The loss at equal noise is the same, to the bit."""
    one, two = row_vae(kind, name), row_vae(kind, name)
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    two.load_state_dict(torch.load(file))
    losses = []
    for vae in (one, two, copy.deepcopy(two)):
        torch.manual_seed(0)
        losses.append(fitting_elbo(vae).loss(vae.model, vae.guide, images_for(vae)))
    assert losses[0] == losses[1] == losses[2]


def check_a_copy_has_its_own_weights(kind: str, name: str) -> None:
    """A copy trains without changing the original, and no weight is saved twice."""
    one = row_vae(kind, name)
    two = copy.deepcopy(one)
    before = weights(one)
    adam_steps(two, 1)
    assert all(torch.equal(p, before[n]) for n, p in one.named_parameters())
    assert all(not torch.equal(p, before[n]) for n, p in two.named_parameters())
    stored = [t.data_ptr() for t in one.state_dict().values() if t.numel()]
    assert len(stored) == len(set(stored))


def check_moves_to_another_device(kind: str, name: str) -> None:
    assert_moves(row_vae(kind, name))


def check_the_batch_is_independent(kind: str, name: str) -> None:
    vae = bent_vae(kind, name)
    assert_batch_is_independent(vae, images_for(vae, 4, torch.float64))


CHECKS = [
    check_trains,
    check_saved_loaded_and_copied,
    check_a_copy_has_its_own_weights,
    check_moves_to_another_device,
    check_the_batch_is_independent,
]

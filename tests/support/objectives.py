"""Building objectives for tests, and comparing their numbers."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine

from pyro_vae.objectives import OBJECTIVES, Enumerate, SemiSupervisedReal
from pyro_vae.objectives.gradients import (
    ImportanceWeighted,
    MultiplyImportanceWeighted,
    PathGradient,
)
from pyro_vae.objectives.terms import Checked, PerImage
from pyro_vae.vae import VAE

N = 40  # the number of training images that the objectives are told


def objective(spec, data_size=N):
    """An objective at the end of its schedule."""
    made = OBJECTIVES.build(spec, data_size=data_size)
    made.advance(1e6)
    return made


def rows(keep):
    """The names of the rows of OBJECTIVES whose objective has the property ``keep``."""
    return [name for name in OBJECTIVES if keep(objective(name))]


NEEDS_TARGETS = SemiSupervisedReal  # tests/test_targets.py has it
BY_IMAGE = rows(lambda made: isinstance(made, PerImage) and not isinstance(made, NEEDS_TARGETS))
SUMS_OVER_IMAGES = rows(lambda made: not isinstance(made, Checked) or made.per_image)
ONE_VECTOR = rows(lambda made: isinstance(made, Checked) and made.one_vector)
SUMS_OVER_CLASSES = rows(lambda made: isinstance(made, Enumerate))
IMPORTANCE = ImportanceWeighted | MultiplyImportanceWeighted | PathGradient
WEIGHTED = rows(lambda made: isinstance(made, IMPORTANCE))
"""The objectives that need the same scale at all sites."""


def small(name):
    """A small VAE with a guide that fits the objective called ``name``."""
    if name == "m2":
        return VAE((1, 4, 4), 4, guide="labelled", condition=4, hidden=(16,))
    if name == "m2-real":
        return VAE((1, 4, 4), 4, guide="targeted", condition=(2,), hidden=(16,))
    guide = "categorical" if name in SUMS_OVER_CLASSES else "mean-field"
    return VAE((1, 4, 4), 4, guide=guide, hidden=(16,))


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def gradients(loss, module):
    parameters = [p for p in module.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def both(spec, vae, x, seed=0):
    """Loss and gradients of all parameters, with the noise of a seed."""
    pyro.set_rng_seed(seed)
    loss = objective(spec).differentiable_loss(vae.model, vae.guide, x)
    return loss.detach(), gradients(loss, vae)


def scaled_site(side, factor):
    """A model and a guide with a poutine.scale around the site z, on the sides named."""

    def around(name):
        return poutine.scale(scale=factor if name in side else 1.0)

    def model(x):
        with pyro.plate("data", len(x)):
            with around("model"):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 0.7), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)), around("guide"):
            loc = pyro.param("loc", torch.tensor(0.3)) * x.unsqueeze(-1) * torch.ones(2)
            pyro.sample("z", dist.Normal(loc, 0.6).to_event(1))

    return model, guide

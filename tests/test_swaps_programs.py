"""Objectives with the user's own Pyro programs."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from support.exact import LinearMeanField, Quadrature
from support.objectives import (
    BY_IMAGE,
    ONE_VECTOR,
    close,
    objective,
    scaled_site,
)

from pyro_vae.errors import InputError
from pyro_vae.vae import VAE


def test_a_scale_for_each_image_multiplies_its_loss():
    x = torch.tensor([0.5, -0.2, 0.9])
    model, guide = scaled_site((), 1.0)

    def loss(name, *scale):
        pyro.set_rng_seed(0)
        scale = torch.tensor(scale)
        return objective(name).loss(*(poutine.scale(p, scale=scale) for p in (model, guide)), x)

    for name in ("monte-carlo", "beta", "analytic", "iwae", "stl", "dreg"):
        plain = loss(name, 1.0, 1.0, 1.0)
        first, last = loss(name, 2.0, 1.0, 1.0) - plain, loss(name, 1.0, 1.0, 2.0) - plain
        close(loss(name, 3.0, 1.0, 0.5), plain + 2 * first - 0.5 * last, 1e-5)
        if name == "monte-carlo":
            each = objective(name)
            pyro.set_rng_seed(0)
            close(-first, each.elbo(model, guide, x)[0].item(), 1e-5)


@pytest.mark.parametrize("name", sorted({*BY_IMAGE} - {*ONE_VECTOR}))
def test_a_plate_of_pixels_inside_the_plate_of_images_is_summed(name):
    """A model with pixels in a plate instead of an event gives the same loss."""
    vae = VAE((1, 3, 3), 2, hidden=(8,)).double()
    x = torch.rand(5, 1, 3, 3, dtype=torch.float64).round()

    def model(x):
        with pyro.plate("pictures", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            with pyro.plate("pixels", 9, dim=-1):
                p_x = vae.model.likelihood(z[..., 0, :]).base_dist.logits.flatten(-3)
                pyro.sample("x", dist.Bernoulli(logits=p_x), obs=x.flatten(-3))

    def guide(x):
        q = vae.guide.posterior(x).base_dist
        with pyro.plate("pictures", len(x), dim=-2):
            pyro.sample("z", dist.Normal(q.loc[:, None], q.scale[:, None]).to_event(1))

    pyro.set_rng_seed(0)
    ours = objective(name).loss(vae.model, vae.guide, x)
    pyro.set_rng_seed(0)
    close(objective(name).loss(model, guide, x), ours)
    pyro.set_rng_seed(0)
    each = objective(name).elbo(vae.model, vae.guide, x)
    pyro.set_rng_seed(0)
    close(objective(name).elbo(model, guide, x), each)


@pytest.mark.parametrize("name", ONE_VECTOR)
def test_vectors_in_another_plate_are_refused(name):
    def model(x):
        with pyro.plate("pictures", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with pyro.plate("pixels", 9, dim=-1):
                pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("pictures", len(x), dim=-2):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    with pytest.raises(InputError, match="in a plate at dim -1 and with no mask"):
        objective(name).loss(model, guide, torch.ones(4, 9))


def test_losses_are_nats_of_the_batch_and_elbos_are_nats_per_image(exact):
    """The loss divided by the number of images is minus the mean ELBO."""
    vae = exact.vae(Quadrature(LinearMeanField(exact, shift=0.3)))
    x = exact.images(7)
    made = objective("beta(beta=4, num_particles=4)")
    plain = objective("analytic(num_particles=4)")
    close(
        made.elbo(vae.model, vae.guide, x).mean().item(), -plain.loss(vae.model, vae.guide, x) / 7
    )
    twice = made.elbo(vae.model, vae.guide, x.repeat(2, 1, 1, 1)).mean().item()
    close(twice, made.elbo(vae.model, vae.guide, x).mean().item())

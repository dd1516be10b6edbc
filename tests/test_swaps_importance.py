"""Importance-weighted bounds of programs for which the usual formula is not a bound."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO
from support.exact import LinearMeanField
from support.objectives import (
    BY_IMAGE,
    WEIGHTED,
    close,
    objective,
    scaled_site,
)

from pyro_vae.errors import InputError


def global_site(x):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(w + z, 1.0), obs=x)


def global_guide(x):
    pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.5 * x, 0.7))


@pytest.mark.parametrize("name", BY_IMAGE)
def test_a_site_outside_the_plate_is_refused(name):
    x = torch.ones(8)
    with pytest.raises(InputError, match="site 'w' lies outside the plate of images"):
        objective(name).loss(global_site, global_guide, x)


def test_with_a_global_site_pyro_gives_the_joint_bound_of_the_batch():
    """Then the gain of K draws is smaller than the sum of the gains of the images."""
    x = torch.ones(1).repeat(30)

    def local(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, 1.4))

    def gain(model, guide):
        renyi = RenyiELBO(0, num_particles=10, vectorize_particles=True, max_plate_nesting=1)
        one = Trace_ELBO()
        runs = range(400)
        return sum(one.loss(model, guide, x) - renyi.loss(model, guide, x) for _ in runs) / 400

    ours = objective("iwae(num_particles=10)")
    plain = objective("monte-carlo")
    per_image = (
        sum(plain.loss(local, guide, x) - ours.loss(local, guide, x) for _ in range(400)) / 400
    )
    assert abs(gain(local, guide) - per_image) < 0.1 * per_image

    def wide(x):
        pyro.sample("w", dist.Delta(torch.tensor(0.0)))
        guide(x)

    # The same guide of z, and a global site without noise.
    assert gain(global_site, wide) < 0.7 * per_image


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_subsampled_plate_keeps_the_bound(name):
    """With b of N images in a step, the bound of each image is multiplied by N / b.

    Pyro multiplies inside the logarithm, and its number is above log p(x).
    """
    data = 0.3 * torch.randn(20, dtype=torch.float64)
    truth = dist.Normal(torch.zeros(()).double(), 2**0.5).log_prob(data).sum().item()

    def programs(size):
        def model():
            with pyro.plate("data", 20, subsample_size=size) as index:
                z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=data[index])

        def guide():
            with pyro.plate("data", 20, subsample_size=size):
                pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.2))

        return model, guide

    def mean(elbo, size, runs=600):
        draws = torch.tensor([-elbo.loss(*programs(size)) for _ in range(runs)])
        return draws.mean().item(), draws.std().item() / runs**0.5

    ours = objective(name)
    whole, error = mean(ours, None)
    part, other = mean(ours, 4)
    assert whole < truth
    assert part - 3 * other < truth
    assert abs(whole - part) < 4 * (error**2 + other**2) ** 0.5
    if name == "iwae":
        pyros = RenyiELBO(0, num_particles=5, vectorize_particles=True, max_plate_nesting=1)
        above, noise = mean(pyros, 4)
        assert above - 5 * noise > truth


def test_one_scale_on_both_programs_multiplies_an_importance_bound(exact):
    x, vae = exact.images(7), exact.vae(LinearMeanField(exact, shift=0.3))
    for name in WEIGHTED:
        pyro.set_rng_seed(0)
        plain = objective(name).loss_and_grads(vae.model, vae.guide, x)
        grads = [p.grad.clone() for p in vae.parameters()]
        vae.zero_grad()
        model, guide = (poutine.scale(p, scale=0.25) for p in (vae.model, vae.guide))
        pyro.set_rng_seed(0)
        close(objective(name).loss_and_grads(model, guide, x), 0.25 * plain)
        close([p.grad for p in vae.parameters()], [0.25 * g for g in grads])
        vae.zero_grad()


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_scale_on_a_part_of_an_importance_bound_is_refused(name):
    model, guide = scaled_site(("model", "guide"), 2.0)
    with pytest.raises(InputError, match=r"needs one for all: drop the poutine\.scale"):
        objective(name).loss(model, guide, torch.linspace(-2, 2, 5))

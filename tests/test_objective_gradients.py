"""Path gradients: the same mean as the plain gradients, and less noise."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from support.exact import ExactPosterior, LinearGaussian, LinearMeanField
from support.objectives import (
    both,
)
from torch import nn

from pyro_vae.objectives import DReG
from pyro_vae.objectives.gradients import log_mean


class Apart(nn.Module):
    """A mean-field guide with separate parameters for each image.

    So the gradients of equal images are independent draws of one gradient.
    """

    def __init__(self, q, images):
        super().__init__()
        self.loc = nn.Parameter(q.mean.detach().expand(images, -1).clone())
        self.logvar = nn.Parameter(2 * q.stddev.detach().log().expand(images, -1).clone())

    def forward(self, x):
        loc, logvar = self.loc[: len(x)], self.logvar[: len(x)]
        return dist.Normal(loc, (0.5 * logvar).exp()).to_event(1)


@pytest.mark.parametrize(
    ("plain", "quiet"),
    [("monte-carlo", "stl"), ("iwae(num_particles=8)", "dreg(num_particles=8)")],
)
def test_same_mean_and_less_noise_near_the_optimum(plain, quiet, exact):
    images = 40_000
    x = exact.images(1)
    vae = exact.vae(Apart(LinearMeanField(exact, shift=0.02)(x), images))
    x = x.expand(images, -1, -1, -1)
    each = {}
    for seed, spec in enumerate((plain, quiet)):
        _, (*_, loc, logvar) = both(spec, vae, x, seed)
        each[spec] = torch.cat([loc, logvar], -1)  # [images, 2 Z]
    a, b = each.values()
    error = ((a.var(0) + b.var(0)) / images).sqrt()
    assert ((a.mean(0) - b.mean(0)).abs() < 4 * error).all()
    # The variances' own standard errors, from the fourth moment.
    noise = sum((g - g.mean(0)).square().std(0) for g in (a, b)) / images**0.5
    assert (b.var(0) + 4 * noise < a.var(0)).all()
    assert b.var(0).sum() < 0.5 * a.var(0).sum()


@pytest.mark.parametrize("latents", [(1,), (2, 3), (2, 3, 2)])
@pytest.mark.parametrize("upwards", [False, True])
def test_path_gradients_vanish_at_the_posterior(latents, upwards):
    exact = LinearGaussian(5, latents)
    x, vae = exact.images(7), exact.vae(ExactPosterior(exact, upwards, shift=0.0))
    own = slice(-3 * len(latents), None)
    for spec in ("stl", "dreg"):
        plain = both({"stl": "monte-carlo", "dreg": "iwae"}[spec], vae, x)[1][own]
        size = max(g.abs().max() for g in plain)
        assert size > 1
        assert max(g.abs().max() for g in both(spec, vae, x)[1][own]) < 1e-9 * size


@pytest.mark.parametrize(
    ("plain", "quiet"), [("monte-carlo(num_particles=3)", "stl(num_particles=3)"), ("iwae", "dreg")]
)
@pytest.mark.parametrize("upwards", [False, True])
def test_path_gradients_of_a_chain_have_the_mean_of_the_plain_ones(plain, quiet, upwards):
    exact = LinearGaussian(3, (1, 2))
    x = exact.images(1).expand(400, -1, -1, -1)
    vae = exact.vae(ExactPosterior(exact, upwards, shift=0.02))
    runs = 40
    a, b = (
        torch.stack(
            [torch.cat([g.flatten() for g in both(s, vae, x, seed)[1]]) for seed in range(runs)]
        )
        for s in (plain, quiet)
    )
    error = ((a.var(0) + b.var(0)) / runs).sqrt()
    assert ((a.mean(0) - b.mean(0)).abs() < 4 * error + 1e-9).all()
    assert (a.mean(0).abs() > 8 * error).sum() >= 4  # the gradients are not just noise


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tiny_weights_change_no_bound_and_get_no_subnormal_gradient(dtype):
    draws = -torch.linspace(0, 9, 12, dtype=dtype).square() - 3.0  # from -3 to -84
    draws = torch.stack([draws, draws * 3, draws.flip(0) - 500.0], 1).requires_grad_()
    plain = torch.logsumexp(draws, 0) - torch.tensor(12.0, dtype=dtype).log()
    assert torch.equal(log_mean(draws), plain)
    (ours,), (theirs,) = (torch.autograd.grad(f.sum(), draws) for f in (log_mean(draws), plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-26)
    assert ((theirs != 0) & (theirs < 1e-38)).any()  # the plain gradient of these draws has some
    bound, of_theta, of_z = DReG(12).weights(draws.detach())
    for share in (ours, of_theta, of_z):
        assert (share[share != 0] > 1e-31).all()
    assert torch.equal(bound, plain)
    torch.testing.assert_close(of_theta, theirs, rtol=1e-4, atol=1e-26)
    torch.testing.assert_close(of_z, theirs**2, rtol=1e-4, atol=1e-30)


def test_weights_that_are_not_finite_give_what_logsumexp_gives():
    inf, nan = float("inf"), float("nan")
    draws = torch.tensor([[-inf, 0.0, nan, inf], [-inf, -inf, 1.0, 2.0]])
    expected = draws.logsumexp(0) - torch.tensor(2.0).log()
    assert torch.equal(log_mean(draws).isnan(), expected.isnan())
    assert torch.equal(log_mean(draws)[[0, 1, 3]], expected[[0, 1, 3]])

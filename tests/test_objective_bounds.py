"""Objectives in the linear-Gaussian model, where each number is known, and written out at given
noise, in float64."""

from __future__ import annotations

from math import log

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from support.exact import ExactPosterior, LinearGaussian, LinearMeanField, Quadrature, exact_elbo
from support.objectives import (
    N,
    both,
    close,
    gradients,
    objective,
)


@pytest.mark.parametrize("latents", [(2,), (2, 3), (2, 3, 2)])
@pytest.mark.parametrize("upwards", [False, True])
@pytest.mark.parametrize(
    "spec", ["monte-carlo", "beta(beta=1)", "annealed", "iwae", "miwae", "stl", "dreg"]
)
def test_the_exact_posterior_gives_log_p(spec, upwards, latents):
    exact = LinearGaussian(5, latents)
    x, vae = exact.images(7), exact.vae(ExactPosterior(exact, upwards))
    close(-objective(spec).loss(vae.model, vae.guide, x), exact.log_evidence(x).sum().item())


EXPECTED = ["monte-carlo", "analytic", "closed-form", "beta(beta=1)", "stl"]


@pytest.mark.parametrize("spec", EXPECTED)
def test_the_bound_is_log_p_minus_the_kl_of_the_guide(spec, exact):
    x = exact.images(7)
    guide = LinearMeanField(exact, shift=0.3)
    vae = exact.vae(Quadrature(guide))
    name = spec.rstrip(")") + (", " if "(" in spec else "(") + "num_particles=4)"
    bound = exact.log_evidence(x) - exact.gap(guide(x), x)
    close(-objective(name).loss(vae.model, vae.guide, x), bound.sum().item())


@pytest.mark.parametrize("spec", EXPECTED)
def test_gradients_are_those_of_the_exact_elbo(spec, exact):
    x = exact.images(7)
    guide = LinearMeanField(exact, shift=0.3)
    vae = exact.vae(Quadrature(guide))
    name = spec.rstrip(")") + (", " if "(" in spec else "(") + "num_particles=4)"
    _, found = both(name, vae, x)
    truth = gradients(-exact_elbo(exact, guide(x), x).sum(), vae)
    assert max(g.abs().max() for g in truth) > 1
    close(found, truth)


@pytest.mark.parametrize("upwards", [False, True])
def test_the_gradient_at_the_posterior_is_that_of_log_p(upwards):
    exact = LinearGaussian(5, (2, 3))
    x, vae = exact.images(7), exact.vae(ExactPosterior(exact, upwards))
    found = both("stl", vae, x)[1]
    truth = gradients(-exact.log_evidence(x).sum(), exact)
    # One draw of z: the mean over draws is the gradient of log p(x).
    draws = torch.stack(
        [torch.cat([g.flatten() for g in both("stl", vae, x, s)[1]]) for s in range(100)]
    )
    assert len(found) == len(truth)
    error = draws.mean(0) - torch.cat([g.flatten() for g in truth])
    assert (error.abs() < 4 * draws.std(0) / 10).all()


def test_monte_carlo_agrees_with_the_exact_elbo_to_one_percent(exact):
    x = exact.images(1).expand(60_000, -1, -1, -1)
    guide = LinearMeanField(exact, shift=0.3)
    vae = exact.vae(guide)
    each = objective("monte-carlo").elbo(vae.model, vae.guide, x)
    truth = exact_elbo(exact, guide(x[:1]), x[:1]).item()
    error = each.std().item() / len(x) ** 0.5
    assert abs(each.mean().item() - truth) < 3.5 * error
    assert 7 * error < 0.01 * abs(truth)


def test_the_two_closed_forms_agree_with_pyro(exact):
    x, vae = exact.images(7), exact.vae(LinearMeanField(exact, shift=0.3))
    pyro.set_rng_seed(0)
    loss = TraceMeanField_ELBO().differentiable_loss(vae.model, vae.guide, x)
    truth = gradients(loss, vae)
    for spec in ("analytic", "closed-form"):
        value, found = both(spec, vae, x)
        close(value, loss.detach(), 1e-10)
        close(found, truth, 1e-10)


def test_more_draws_give_a_tighter_bound(exact):
    x = exact.images(1).expand(20_000, -1, -1, -1)
    vae = exact.vae(LinearMeanField(exact, shift=0.2))
    means, errors = [], []
    for spec in ("monte-carlo", "iwae(num_particles=4)", "iwae(num_particles=32)"):
        one = objective(spec)
        pyro.set_rng_seed(0)
        ((p, q),) = one._get_traces(vae.model, vae.guide, (x,), {})
        log_weight = sum(s["log_prob"] for s in p.nodes.values() if "log_prob" in s)
        log_weight = (log_weight - q.nodes["z"]["log_prob"]).reshape(one.num_particles, -1)
        bounds = log_weight.logsumexp(0) - log(one.num_particles)
        pyro.set_rng_seed(0)
        close(-one.loss(vae.model, vae.guide, x), bounds.sum().item())
        means.append(bounds.mean().item())
        errors.append(bounds.std().item() / len(x) ** 0.5)
    truth = exact.log_evidence(x[:1]).item()
    assert means[0] + 5 * errors[0] < means[1]
    assert means[1] + 5 * errors[1] < means[2]
    assert means[2] + 5 * errors[2] < truth


# The same numbers, written out ----------------------------------------------------------------


def written_out(exact, guide, x, draws):
    """The terms of the objectives: z [K, B, Z], log p(x|z), log p(z), log q."""
    pyro.set_rng_seed(0)
    q = guide(x).base_dist
    shape = (draws, *q.loc.shape) if draws > 1 else q.loc.shape
    z = q.loc + q.scale * torch.randn(shape, dtype=torch.float64)
    z = z.reshape(draws, *q.loc.shape)
    layer, sigma = exact.layers[-1], exact.scales[-1]

    def normal(value, loc, scale):
        scale = torch.as_tensor(scale, dtype=torch.float64)
        return -0.5 * ((value - loc) / scale) ** 2 - scale.log() - 0.5 * log(2 * torch.pi)

    log_x = normal(x.flatten(-3), layer(z), sigma).sum(-1)
    return q, z, log_x, normal(z, 0.0, 1.0), normal(z, q.loc, q.scale)


def hand_beta(q, z, log_x, p, r):
    return (4 * (r - p).sum(-1) - log_x).sum(-1).mean()


def hand_iwae(q, z, log_x, p, r):
    w = log_x + (p - r).sum(-1)
    return -w.exp().mean(0).log().sum()


def hand_miwae(q, z, log_x, p, r):
    w = (log_x + (p - r).sum(-1)).reshape(3, 2, -1)
    return -w.exp().mean(0).log().mean(0).sum()


def hand_capacity(q, z, log_x, p, r):
    return 10 * len(q.loc) * ((r - p).sum(-1).mean() - 3).abs() - log_x.sum()


def hand_free_bits(q, z, log_x, p, r):
    kl = -0.5 * (1 + 2 * q.scale.log() - q.loc**2 - q.scale**2)  # [B, Z]
    floored = sum(max(kl[:, d].mean(), torch.tensor(2.0).double()) for d in range(2))
    return len(kl) * floored - log_x.sum()


def hand_beta_tc(q, z, log_x, p, r):
    b = len(q.loc)
    total = torch.zeros(())
    for i in range(b):
        pair = torch.stack(
            [dist.Normal(q.loc[j], q.scale[j]).log_prob(z[0, i]) for j in range(b)]
        )  # [B, Z]
        joint = (pair.sum(-1).exp().sum() / (N * b)).log()
        units = (pair.exp().sum(0) / (N * b)).log().sum()
        information, correlation = r[0, i].sum() - joint, joint - units
        dimensions = units - p[0, i].sum()
        total = total + 2 * information + 6 * correlation + 3 * dimensions - log_x[0, i]
    return total


def hand_infovae(q, z, log_x, p, r):
    u = torch.randn_like(z[0])  # the prior's draws follow those of the guide
    b, c = len(u), 4.0

    def k(a, b):
        return c / (c + ((a - b) ** 2).sum())

    pairs = [(i, j) for i in range(b) for j in range(b)]
    own = sum(k(s[i], s[j]) for s in (z[0], u) for i, j in pairs if i != j) / (b * (b - 1))
    mmd = own - 2 * sum(k(z[0, i], u[j]) for i, j in pairs) / b**2
    return (0.75 * (r - p).sum() - log_x.sum()) + b * (0.25 + 9 - 1) * mmd


def hand_dip(variant):
    def hand(q, z, log_x, p, r):
        mu = q.loc - q.loc.mean(0)
        c = sum(torch.outer(m, m) for m in mu) / len(mu)
        if variant == 2:
            c = c + torch.diag((q.scale**2).mean(0))
        off = c - c.diagonal().diag()
        penalty = 10 * (off**2).sum() + 5 * ((c.diagonal() - 1) ** 2).sum()
        return (r - p).sum() - log_x.sum() + len(mu) * penalty

    return hand


HAND = {
    "beta(beta=4.0, num_particles=3)": (3, hand_beta),
    "iwae(num_particles=6)": (6, hand_iwae),
    "miwae(num_particles=3, outer=2)": (6, hand_miwae),
    "capacity(nats=3, gamma=10)": (1, hand_capacity),
    "free-bits(nats=2.0, group_size=1, kl='analytic')": (1, hand_free_bits),
    "beta-tc(alpha=2, beta=6, gamma=3)": (1, hand_beta_tc),
    "infovae(alpha=0.25, lambda_=9, kernel='imq')": (1, hand_infovae),
    "dip(offdiagonal=10, diagonal=5)": (1, hand_dip(1)),
    "dip(offdiagonal=10, diagonal=5, variant=2)": (1, hand_dip(2)),
}


@pytest.mark.parametrize("spec", HAND)
def test_value_and_gradient_against_written_out_formulas(spec, exact):
    draws, hand = HAND[spec]
    x = exact.images(7)
    guide = LinearMeanField(exact, shift=0.3)
    vae = exact.vae(guide)
    loss, found = both(spec, vae, x)
    truth = hand(*written_out(exact, guide, x, draws))
    close(loss, truth.detach())
    truths = gradients(truth, vae)
    assert max(g.abs().max() for g in truths) > 1
    close(found, truths, 1e-8)


def test_the_doubly_reparameterised_gradient_by_its_formula(exact):
    x = exact.images(7)
    guide = LinearMeanField(exact, shift=0.3)
    vae = exact.vae(guide)
    loss, found = both("dreg(num_particles=6)", vae, x)
    q, z, log_x, p, r = written_out(exact, guide, x, 6)
    close(loss, hand_iwae(q, z, log_x, p, r).detach())
    share = (log_x + (p - r).sum(-1)).softmax(0).detach()  # [K, B]
    # ∂ log w / ∂z by formula: decoder's residual, prior, and q at fixed μ and σ.
    layer = exact.layers[-1]
    pull = (x.flatten(-3) - layer(z)) @ layer.weight / exact.scales[-1] ** 2
    slope = (pull - z + (z - q.loc) / q.scale**2).detach()  # [K, B, Z]
    of_guide = gradients(-(share.unsqueeze(-1) ** 2 * slope * z).sum(), guide)
    of_model = gradients(-(share * log_x).sum(), exact)
    close(found, [*of_model, *of_guide], 1e-8)

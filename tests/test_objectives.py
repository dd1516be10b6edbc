"""Objectives against closed forms, hand derivations and their papers' definitions, in float64."""

from __future__ import annotations

from itertools import permutations
from math import log

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from support.exact import ExactPosterior, LinearGaussian, LinearMeanField, Quadrature, exact_elbo
from torch import nn
from torch.distributions import kl_divergence

from pyro_vae.errors import InputError
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.objectives.regularisers import stratified
from pyro_vae.objectives.terms import Terms
from pyro_vae.vae import VAE

N = 40
WHOLE_BATCH = {"capacity", "free-bits", "beta-tc", "infovae", "dip"}


def objective(spec):
    """An objective at the end of its course."""
    made = OBJECTIVES.build(spec, data_size=N)
    made.advance(1e6)
    return made


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def gradients(loss, module):
    parameters = [p for p in module.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def both(spec, vae, x, seed=0):
    """Loss and gradients of all parameters, at a given noise."""
    pyro.set_rng_seed(seed)
    loss = objective(spec).differentiable_loss(vae.model, vae.guide, x)
    return loss.detach(), gradients(loss, vae)


# The linear-Gaussian model, where every number is known ----------------------------------------


@pytest.fixture
def exact():
    return LinearGaussian(pixels=5, latents=(2,))


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
def test_any_guide_lies_below_log_p_by_its_kl(spec, exact):
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


def test_monte_carlo_agrees_with_the_truth_where_one_percent_would_show(exact):
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


def test_bounds_are_in_order(exact):
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


# Hand derivations at given noise ---------------------------------------------------------------


def by_hand(exact, guide, x, draws):
    """What the objectives are made of, written out: z [K, B, Z], log p(x|z), log p(z), log q."""
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
def test_value_and_gradient_against_a_hand_derivation(spec, exact):
    draws, hand = HAND[spec]
    x = exact.images(7)
    guide = LinearMeanField(exact, shift=0.3)
    vae = exact.vae(guide)
    loss, found = both(spec, vae, x)
    truth = hand(*by_hand(exact, guide, x, draws))
    close(loss, truth.detach())
    truths = gradients(truth, vae)
    assert max(g.abs().max() for g in truths) > 1
    close(found, truths, 1e-8)


def test_the_doubly_reparameterised_gradient_by_its_formula(exact):
    x = exact.images(7)
    guide = LinearMeanField(exact, shift=0.3)
    vae = exact.vae(guide)
    loss, found = both("dreg(num_particles=6)", vae, x)
    q, z, log_x, p, r = by_hand(exact, guide, x, 6)
    close(loss, hand_iwae(q, z, log_x, p, r).detach())
    share = (log_x + (p - r).sum(-1)).softmax(0).detach()  # [K, B]
    # ∂ log w / ∂z by formula: decoder's residual, prior, and q at fixed μ and σ.
    layer = exact.layers[-1]
    pull = (x.flatten(-3) - layer(z)) @ layer.weight / exact.scales[-1] ** 2
    slope = (pull - z + (z - q.loc) / q.scale**2).detach()  # [K, B, Z]
    of_guide = gradients(-(share.unsqueeze(-1) ** 2 * slope * z).sum(), guide)
    of_model = gradients(-(share * log_x).sum(), exact)
    close(found, [*of_model, *of_guide], 1e-8)


# Less noise for the same gradient --------------------------------------------------------------


class Apart(nn.Module):
    """A mean-field guide with parameters of its own for each image: the gradients of equal images
    are independent draws of one gradient."""

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
    assert (a.mean(0).abs() > 8 * error).sum() >= 4  # there was something to agree on


# Schedules and floors --------------------------------------------------------------------------


def weight(made):
    (level,) = made.levels.values()
    return level.item()


def test_annealing_is_a_line_then_flat():
    made = OBJECTIVES["annealed"](epochs=4, start=0.2, beta=1.0)
    seen = []
    for epoch in (0, 1, 2, 4, 9):
        made.advance(epoch)
        seen.append(round(weight(made), 12))
    assert seen == [0.2, 0.4, 0.6, 1.0, 1.0]


def test_cyclical_annealing_starts_again():
    made = OBJECTIVES["cyclical"](epochs=4, ratio=0.5, beta=2.0)
    seen = []
    for epoch in (0, 1, 2, 3.5, 4, 5, 7):
        made.advance(epoch)
        seen.append(weight(made))
    assert seen == [0, 1, 2, 2, 0, 1, 2]


def test_a_schedule_changes_its_number_in_place(exact):
    x, vae = exact.images(7), exact.vae(LinearMeanField(exact, shift=0.3))
    made = OBJECTIVES["annealed"](epochs=4, kl="analytic")
    losses = []
    for epoch in (0, 2, 4):
        made.advance(epoch)
        if epoch == 2:
            kept = made.levels[""].data_ptr()
        pyro.set_rng_seed(0)
        losses.append(made.loss(vae.model, vae.guide, x))
    assert made.levels[""].data_ptr() == kept
    kl = kl_divergence(vae.encode(x), vae.model.prior()).sum().item()
    close(losses[1] - losses[0], kl / 2)
    close(losses[2] - losses[0], kl)


@pytest.mark.parametrize("spec", ["annealed", "cyclical", "capacity"])
def test_a_schedule_that_is_never_advanced_is_refused(spec, exact):
    made = OBJECTIVES.build(spec)
    vae = exact.vae()
    with pytest.raises(InputError, match=r"call its advance\(epoch\)"):
        made.loss(vae.model, vae.guide, exact.images(2))


def test_capacity_rises_and_is_held_by_site():
    exact = LinearGaussian(5, (2, 3))
    x, vae = exact.images(7), exact.vae()
    made = OBJECTIVES["capacity"](nats={"z_1": 4, "z_2": 1}, gamma=10, epochs=8)
    made.advance(2)
    pyro.set_rng_seed(0)
    loss = made.differentiable_loss(vae.model, vae.guide, x).item()
    pyro.set_rng_seed(0)
    ((p, q),) = Trace_ELBO()._get_traces(vae.model, vae.guide, (x,), {})
    kl = {n: (q.nodes[n]["log_prob"] - p.nodes[n]["log_prob"]).mean() for n in ("z_1", "z_2")}
    held = 10 * ((kl["z_1"] - 1).abs() + (kl["z_2"] - 0.25).abs())
    close(loss, (7 * held - p.nodes["x"]["log_prob"].sum()).item())


@pytest.mark.parametrize("size", [1, 2, 4])
def test_free_bits_count_groups_of_units(size):
    vae = VAE((1, 4, 4), 4, hidden=(8,)).double()
    x = torch.rand(6, 1, 4, 4, dtype=torch.float64).round()
    q = vae.encode(x).base_dist
    units = (0.5 * (q.loc**2 + q.scale**2 - 1) - q.scale.log()).mean(0)  # [Z]
    groups = units.reshape(-1, size).sum(-1)
    floor = groups.mean().item()  # some groups below, some above
    made = OBJECTIVES["free-bits"](nats=floor, group_size=size, kl="analytic")
    pyro.set_rng_seed(0)
    loss = made.differentiable_loss(vae.model, vae.guide, x)
    plain = OBJECTIVES["analytic"]()
    pyro.set_rng_seed(0)
    gained = loss - plain.differentiable_loss(vae.model, vae.guide, x)
    close(gained.item(), 6 * (groups.clamp(min=floor) - groups).sum().item())
    # Below the floor there is no pull on q but that of the likelihood.
    high = OBJECTIVES["free-bits"](nats=1e6, group_size=size, kl="analytic")
    pyro.set_rng_seed(0)
    held = gradients(high.differentiable_loss(vae.model, vae.guide, x), vae.guide)
    nothing = OBJECTIVES["beta"](beta=0, kl="analytic")
    pyro.set_rng_seed(0)
    close(held, gradients(nothing.differentiable_loss(vae.model, vae.guide, x), vae.guide))


def test_free_bits_of_whole_sites_by_name():
    exact = LinearGaussian(5, (2, 3))
    x, vae = exact.images(7), exact.vae()
    pyro.set_rng_seed(0)
    ((p, q),) = Trace_ELBO()._get_traces(vae.model, vae.guide, (x,), {})
    kl = {n: (q.nodes[n]["log_prob"] - p.nodes[n]["log_prob"]).mean() for n in ("z_1", "z_2")}
    made = OBJECTIVES["free-bits"](nats={"z_1": 0.0, "z_2": 50.0})
    pyro.set_rng_seed(0)
    loss = made.loss(vae.model, vae.guide, x)
    close(loss, (7 * (max(kl["z_1"], 0) + 50.0) - p.nodes["x"]["log_prob"].sum()).item())


def test_beta_by_site():
    exact = LinearGaussian(5, (2, 3))
    x, vae = exact.images(7), exact.vae()
    pyro.set_rng_seed(0)
    ((p, q),) = Trace_ELBO()._get_traces(vae.model, vae.guide, (x,), {})
    kl = {n: (q.nodes[n]["log_prob"] - p.nodes[n]["log_prob"]).sum() for n in ("z_1", "z_2")}
    pyro.set_rng_seed(0)
    loss = OBJECTIVES["beta"](beta={"z_1": 0.5, "z_2": 3}).loss(vae.model, vae.guide, x)
    close(loss, (0.5 * kl["z_1"] + 3 * kl["z_2"] - p.nodes["x"]["log_prob"].sum()).item())


# The aggregate posterior -----------------------------------------------------------------------


def test_beta_tc_with_equal_weights_is_the_elbo(exact):
    x, vae = exact.images(7), exact.vae(LinearMeanField(exact, shift=0.3))
    for estimator in ("weighted", "stratified"):
        found = both(f"beta-tc(beta=1, estimator={estimator!r})", vae, x)
        truth = both("monte-carlo", vae, x)
        close(found, truth)


def parts(estimator, vae, x):
    made = objective(f"beta-tc(estimator={estimator!r})")
    ((p, q),) = made._get_traces(vae.model, vae.guide, (x,), {})
    return made.parts(Terms(p, q, 1))


def test_beta_tc_of_a_guide_that_ignores_the_images(exact):
    guide = LinearMeanField(exact, shift=0.3)
    guide.loc.weight.data.zero_()
    x, vae = exact.images(7), exact.vae(guide)
    information, correlation, _ = parts("stratified", vae, x)
    close(information, torch.zeros(7).double())
    close(correlation, torch.zeros(7).double())
    information, correlation, _ = parts("weighted", vae, x)
    close(information, torch.full((7,), log(N), dtype=torch.float64))  # too high, as documented
    close(correlation, torch.full((7,), log(N), dtype=torch.float64))  # by log N per unit but one


def test_the_stratified_estimate_of_q_has_the_right_mean(exact):
    x = exact.images(4)
    pairs = exact.vae(LinearMeanField(exact, shift=0.3)).encode(x)
    z = pairs.mean[0] + 0.3
    densities = pairs.log_prob(z).exp()  # q(z | x_n), [4]
    batches = [(0, *rest) for rest in permutations((1, 2, 3), 2)]  # all that hold image 0, B = 3
    weights = stratified(torch.zeros(3, 3, dtype=torch.float64), 4)[0].exp()
    mean = sum((weights * densities[list(b)]).sum() for b in batches) / len(batches)
    close(mean, densities.mean())


def test_mmd_against_its_closed_form_for_two_normals():
    made = OBJECTIVES["infovae"](kernel="rbf", bandwidth=1.5)
    mu, sigma, c = torch.tensor([0.5, -0.3]).double(), 0.6, 3.0
    draws = []
    for _ in range(400):
        z = mu + sigma * torch.randn(40, 2, dtype=torch.float64)
        draws.append(made.mmd(z, torch.randn(40, 2, dtype=torch.float64)))

    def mean_kernel(shift, variance):  # E exp(-|d|²/c), d ~ N(shift, variance I)
        ratio = 1 + 2 * variance / c
        return ratio**-1 * (-shift.square().sum() / (c * ratio)).exp()

    zero = torch.zeros(2).double()
    truth = mean_kernel(zero, 2 * sigma**2) + mean_kernel(zero, 2.0)
    truth = truth - 2 * mean_kernel(mu, 1 + sigma**2)
    draws = torch.stack(draws)
    assert abs(draws.mean() - truth) < 4 * draws.std() / 20
    assert truth > 8 * draws.std() / 20


# Discrete latents ------------------------------------------------------------------------------


def test_enumeration_against_brute_force():
    vae = VAE((1, 3, 3), 5, guide="categorical", hidden=(8,)).double()
    x = torch.rand(6, 1, 3, 3, dtype=torch.float64).round()
    loss, found = both("enumerate", vae, x)
    q = vae.encode(x)
    truth = 0.0
    for c in torch.eye(5, dtype=torch.float64):
        log_joint = log(1 / 5) + vae.model.likelihood(c.expand(6, 5)).log_prob(x)
        truth = truth + (q.probs @ c * (q.log_prob(c.expand(6, 5)) - log_joint)).sum()
    close(loss, truth.detach())
    close(found, gradients(truth, vae))
    pyro.set_rng_seed(0)
    close(loss.item(), TraceEnum_ELBO(max_plate_nesting=1).loss(vae.model, vae.guide, x))


def test_enumeration_without_a_discrete_site_is_refused(exact):
    vae = exact.vae()
    with pytest.raises(InputError, match="no discrete latent to sum out; take the monte-carlo"):
        objective("enumerate").loss(vae.model, vae.guide, exact.images(2))


@pytest.mark.filterwarnings("ignore:z")  # Pyro's own word on it
@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"monte-carlo", "enumerate"}))
def test_draws_without_a_gradient_are_refused(name):
    vae = VAE((1, 3, 3), 5, guide="categorical", hidden=(8,))
    x = torch.rand(6, 1, 3, 3).round()
    with pytest.raises(InputError, match=r"carry no gradient|no closed-form|closed form is"):
        objective(name).loss_and_grads(vae.model, vae.guide, x)


# Over the whole table --------------------------------------------------------------------------


def small(name):
    guide = "categorical" if name == "enumerate" else "mean-field"
    return VAE((1, 4, 4), 4, guide=guide, hidden=(16,))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_training_lowers_the_loss(name):
    vae = small(name)
    pattern = torch.rand(4, 1, 4, 4).round()
    x = pattern.repeat(8, 1, 1, 1)
    made = objective(name)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss=made)

    def now():
        return sum(svi.evaluate_loss(x) for _ in range(20)) / 20

    before = now()
    for _ in range(60):
        svi.step(x)
    after = now()
    assert after < before - 10


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_way_of_asking_gives_the_same(name):
    vae = small(name).double()
    x = torch.rand(6, 1, 4, 4, dtype=torch.float64).round()
    made = objective(name)
    made.loss(vae.model, vae.guide, x)
    results = []
    for ask in (
        lambda: made.loss(vae.model, vae.guide, x),
        lambda: made.differentiable_loss(vae.model, vae.guide, x).item(),
        lambda: made(vae.model, vae.guide)(x).item(),
        lambda: made.loss_and_grads(vae.model, vae.guide, x),
    ):
        pyro.set_rng_seed(0)
        results.append(ask())
    close(results, [results[0]] * 4)
    pyro.set_rng_seed(0)
    close([p.grad for p in vae.parameters()], both(name, vae, x)[1])


class StillNormal(dist.Normal):
    """A Normal whose noise depends on μ alone, so that images can be taken one by one."""

    def rsample(self, sample_shape=()):
        k = torch.arange(1.0, 1 + self.loc[..., 0].numel() // self.loc.shape[-2])
        eps = (7 * self.loc.detach() + k.reshape(-1, 1, 1)).sin()
        return self.loc + self.scale * eps.reshape(self.loc.shape)


class StillGuide(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Linear(16, 4).double()

    def forward(self, x):
        loc = self.loc(x.flatten(-3))
        return StillNormal(loc, 0.5 * torch.ones_like(loc)).to_event(1)


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - WHOLE_BATCH))
def test_a_batch_is_the_sum_of_its_images(name):
    guide = "categorical" if name == "enumerate" else StillGuide()
    vae = VAE((1, 4, 4), 4, guide=guide, hidden=(16,)).double()
    x = torch.rand(6, 1, 4, 4, dtype=torch.float64).round()
    whole = both(name, vae, x)
    single = [both(name, vae, image[None]) for image in x]
    close(whole[0], sum(loss for loss, _ in single))
    close(whole[1], [sum(g) for g in zip(*(g for _, g in single), strict=True)])


@pytest.mark.filterwarnings("ignore:z")  # Pyro's own word on discrete draws
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_plain_elbo_is_told_beside_every_loss(name):
    vae = small(name).double()
    x = torch.rand(6, 1, 4, 4, dtype=torch.float64).round()
    made = objective(name)
    pyro.set_rng_seed(0)
    found = made.elbo(vae.model, vae.guide, x)
    plain = OBJECTIVES["monte-carlo"](made.num_particles)
    pyro.set_rng_seed(0)
    close(-found.sum().item(), plain.loss(vae.model, vae.guide, x))
    assert found.shape == (6,)

"""Objectives with a term for the whole batch, and the sum over discrete latents."""

from __future__ import annotations

from itertools import permutations
from math import log

import pyro
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from support.exact import LinearMeanField
from support.objectives import (
    BY_IMAGE,
    N,
    both,
    close,
    gradients,
    objective,
)

from pyro_vae.errors import InputError
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.objectives.regularisers import stratified
from pyro_vae.objectives.terms import Terms
from pyro_vae.vae import VAE


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


@pytest.mark.filterwarnings("ignore:z")  # Pyro's own warning
@pytest.mark.parametrize("name", BY_IMAGE)
def test_draws_without_a_gradient_are_refused(name):
    vae = VAE((1, 3, 3), 5, guide="categorical", hidden=(8,))
    x = torch.rand(6, 1, 3, 3).round()
    with pytest.raises(InputError, match=r"carry no gradient|no closed-form|closed form is"):
        objective(name).loss_and_grads(vae.model, vae.guide, x)

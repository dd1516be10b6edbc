"""Discrete latents against sums over their classes and against the relaxation's own formulas."""

from math import log

import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from support.density import SHAPE, digits, latent_sites
from torch import distributions as td

from pyro_vae import VAE


def vae(guide, latent_size):
    return VAE(SHAPE, latent_size, guide=guide, hidden=(32,))


def summed_out(vae, x):
    """Minus the ELBO of each image with its one-of-K latent summed out, [B]."""
    probs = vae.encode(x).probs  # [B, K]
    one_hot = torch.eye(probs.shape[-1], dtype=x.dtype)
    log_x = vae.model.likelihood(one_hot.unsqueeze(1)).log_prob(x).T  # [B, K]
    log_p = -log(len(one_hot))
    return (probs * (probs.log() - log_p - log_x)).sum(-1)


def test_enumeration_is_the_sum_over_classes():
    module, x = vae("categorical", 7).double(), digits(5, dtype=torch.float64)
    loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(module.model, module.guide, x)
    expected = summed_out(module, x).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    weights = list(module.parameters())
    both = (torch.autograd.grad(t, weights, retain_graph=True) for t in (loss, expected))
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("particles", [1, 3])
def test_enumeration_beside_a_continuous_latent(particles):
    """With z drawn, the loss is log q(z)/p(z) plus the sum over the classes of c, by hand."""
    module = vae("joint(categories=3, discrete='categorical')", 5).double()
    x = digits(4, dtype=torch.float64)
    elbo = TraceEnum_ELBO(max_plate_nesting=1, num_particles=particles, vectorize_particles=True)
    torch.manual_seed(3)
    loss = elbo.loss(module.model, module.guide, x)
    torch.manual_seed(3)
    q = latent_sites(module.guide, x)
    torch.manual_seed(3)
    z = q["z"].expand((particles, 4)).sample()  # [K, B, 2]
    expected = q["z"].log_prob(z) - td.Normal(0, 1).log_prob(z).sum(-1)
    for k in range(3):
        one = torch.eye(3)[k].double().expand(particles, 4, 3)
        log_x = module.model.likelihood(torch.cat([z, one], -1)).log_prob(x)
        share = q["c"].probs[:, k]
        expected = expected + share * (share.log() + log(3) - log_x)
    assert loss == pytest.approx(expected.sum(-1).mean().item(), rel=1e-12)


def test_the_relaxed_latent_against_its_formulas():
    """P(argmax = k) = softmax(logits)_k; with two classes, logit(z_1) is a logistic variable."""
    module = vae("gumbel-softmax(temperature=0.4)", 5).double()
    q = module.encode(digits(2, dtype=torch.float64))
    share = torch.nn.functional.one_hot(q.sample((40_000,)).argmax(-1), 5).double().mean(0)
    error = (q.probs * (1 - q.probs) / 40_000).sqrt()
    assert ((share - q.probs).abs() < 5 * error).all()

    q = vae("gumbel-softmax(temperature=0.4)", 2).double().encode(digits(2, dtype=torch.float64))
    z = q.sample((10,))
    t, gap = z[..., 0].log() - z[..., 1].log(), q.logits[:, 0] - q.logits[:, 1]
    s = torch.sigmoid(q.temperature * t - gap)
    expected = (q.temperature * s * (1 - s)).log() - z.log().sum(-1)
    torch.testing.assert_close(q.log_prob(z), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("temperature", [0.05, 0.67])
def test_a_certain_relaxed_latent_stays_finite(temperature):
    module = vae(f"gumbel-softmax(temperature={temperature})", 5)
    with torch.no_grad():
        module.guide.posterior.head.bias += torch.tensor([300.0, 0.0, -300.0, 0.0, 0.0])
    loss = Trace_ELBO().loss_and_grads(module.model, module.guide, digits())
    assert abs(loss) < 1e6
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_a_cold_relaxed_latent_is_one_of_k():
    q = vae("gumbel-softmax(temperature=0.01)", 5).encode(digits())
    assert (q.sample((100,)).amax(-1) > 0.99).float().mean() > 0.95

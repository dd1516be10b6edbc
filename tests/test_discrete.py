"""Discrete latents against sums over their classes and against the relaxation's own formulas."""

import copy
from math import log

import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from support.density import SHAPE, digits, latent_sites
from torch import distributions as td

from pyro_vae import VAE, InputError
from pyro_vae.distributions import RelaxedOneHot
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.objectives.terms import Terms


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
    """With z drawn, the loss is log q(z)/p(z) plus the sum over the classes of c."""
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


@pytest.fixture
def equal_noise(monkeypatch):
    """torch.rand draws the same numbers in float32 and float64."""
    rand = torch.rand

    def rounded(*size, dtype=None, **options):
        noise = rand(*size, dtype=torch.float64, **options).clamp(1e-6, 1 - 1e-6)
        return noise.float().to(dtype or torch.get_default_dtype())

    monkeypatch.setattr(torch, "rand", rounded)


@pytest.mark.usefixtures("equal_noise")
@pytest.mark.parametrize("name", ["monte-carlo", "stl", "iwae", "dreg"])
@pytest.mark.parametrize("temperature", [2 / 3, 0.3, 0.1, 0.05, 0.01])
def test_float32_gives_the_bound_of_float64(temperature, name):
    """Also at low temperatures, where entries of z underflow in float32.

    The tolerance is a few float32 roundings (1.2e-7) of the summed terms log x, log p and log q.
    """
    single = vae(f"gumbel-softmax(temperature={temperature})", 10)
    double = copy.deepcopy(single).double()
    found = []
    for module in (single, double):
        x = digits(64, dtype=next(module.parameters()).dtype)
        made = OBJECTIVES.build(name)
        torch.manual_seed(1)
        made.loss_and_grads(module.model, module.guide, x)
        gradient = torch.cat([p.grad.flatten().double() for p in module.parameters()])
        torch.manual_seed(1)
        ((p, q),) = made._get_traces(module.model, module.guide, (x,), {})
        terms = Terms(p, q, made.num_particles)
        found.append((terms.log_weight.double(), gradient))
    (bound, gradient), (exact, exact_gradient) = found
    summed = terms.log_likelihood.abs() + terms.log_p["z"].abs() + terms.log_q["z"].abs()
    assert ((bound - exact).abs() <= 8 * torch.finfo(torch.float32).eps * summed).all()
    assert gradient.isfinite().all()
    assert (gradient - exact_gradient).norm() < 1e-4 * exact_gradient.norm()
    if temperature <= 0.05:
        assert (poutine.trace(single.guide).get_trace(x.float()).nodes["z"]["value"] == 0).any()


@pytest.mark.parametrize("classes", [2, 10, 300])
@pytest.mark.parametrize("temperature", [1e-3, 0.05, 0.3, 0.67])
def test_a_draw_sums_to_one(classes, temperature):
    z = RelaxedOneHot(torch.tensor(temperature), logits=torch.randn(classes)).sample((2000,))
    assert ((z.sum(-1) - 1).abs() < 1e-6).all()  # the tolerance of torch's simplex


def test_views_of_a_draw_are_scored_exactly():
    q = RelaxedOneHot(torch.tensor(0.02), logits=torch.randn(4, 5, requires_grad=True))
    for z in (q.rsample((20,)), q.sample((20,))):
        expected = q.log_prob(z)
        assert expected.isfinite().all()
        assert torch.equal(q.log_prob(z[3:7]), expected[3:7])
        assert torch.equal(q.log_prob(z.unsqueeze(1))[:, 0], expected)
        assert torch.equal(q.log_prob(z.unflatten(0, (5, 4))[2, 1:]), expected[9:12])


def test_a_copy_of_a_draw_is_scored_unless_an_entry_underflows():
    warm, cold = (RelaxedOneHot(torch.tensor(t), logits=torch.zeros(5)) for t in (0.67, 0.02))
    z = warm.sample((20,))
    torch.testing.assert_close(warm.log_prob(z.clone()), warm.log_prob(z), rtol=1e-5, atol=1e-5)
    z = cold.sample((20,))
    with pytest.raises(InputError, match=r"float32 holds from 1.2e-38 upwards; take a hig"):
        cold.log_prob(z.clone())


@pytest.mark.usefixtures("equal_noise")
def test_a_cold_guide_under_a_vamp_prior():
    """The mixture of the prior scores a view of z."""
    single = VAE(SHAPE, 5, guide="gumbel-softmax(temperature=0.01)", prior="vamp", hidden=(32,))
    losses = []
    for module in (single, copy.deepcopy(single).double()):
        torch.manual_seed(1)
        x = digits(dtype=next(module.parameters()).dtype)
        losses.append(Trace_ELBO().loss(module.model, module.guide, x))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize(
    "parts",
    [
        {"guide": "gumbel-softmax(temperature=1e-4)"},
        {"guide": "gumbel-softmax", "prior": "relaxed-categorical(temperature=0.0009)"},
    ],
)
def test_a_temperature_too_low_for_float32_is_refused(parts):
    with pytest.raises(InputError, match=r"at least 0.001 in float32, not .*float64"):
        VAE(SHAPE, 5, **parts)
    torch.set_default_dtype(torch.float64)
    try:
        module, x = VAE(SHAPE, 5, hidden=(32,), **parts), digits(dtype=torch.float64)
        loss = Trace_ELBO().loss_and_grads(module.model, module.guide, x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.tensor(loss).isfinite()
    assert all(p.grad.isfinite().all() for p in module.parameters())

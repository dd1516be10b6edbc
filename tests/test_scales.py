"""Every row of SCALES against its documented range, its own inverse, and float64 references."""

import math
from inspect import signature

import pytest
import torch
from pyro.distributions import Normal
from pyro.infer import Trace_ELBO

from pyro_vae.errors import InputError
from pyro_vae.guides import GUIDES
from pyro_vae.scales import SCALES
from pyro_vae.vae import VAE

POSITIVE = [name for name in SCALES if name != "raw"]


def sigmas(name, dtype):
    """200 scales inside the range, log-uniform over at most 24 decades."""
    low, high = (min(max(bound, 1e-12), 1e12) for bound in SCALES[name].range)
    spread = torch.linspace(math.log(low), math.log(high), 202, dtype=torch.float64)
    return spread[1:-1].exp().to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SCALES)
def test_inverse_inverts_to_float_accuracy(name, dtype):
    scale, sigma = SCALES[name](), sigmas(name, dtype)
    error = (scale(scale.inverse(sigma)).double() / sigma.double() - 1).abs()
    # An error of one rounding in raw is worth |d log sigma / d log raw| of them in sigma, and one
    # in sigma next to a floor is worth sigma / (sigma - floor).
    exact = sigma.double().requires_grad_()
    (slope,) = torch.autograd.grad(scale.inverse(exact).sum(), exact)
    condition = (scale.inverse(exact) / (slope * exact)).abs().detach()
    floor = 0.01 if name == "soft-clamped" else SCALES[name].range[0]
    cancelled = exact.detach() / (exact.detach() - floor) if math.isfinite(floor) else 1.0
    assert (error / (1 + condition + cancelled)).max() < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("name", SCALES)
def test_gradient_against_finite_differences(name):
    raw = torch.tensor([-35.0, -7.1, -4.0, -0.3, 0.4, 1.9, 2.1, 9.0, 23.0], dtype=torch.float64)
    step = 1e-5
    scale = SCALES[name]()
    slope = (scale.sigma(raw + step) - scale.sigma(raw - step)) / (2 * step)
    (gradient,) = torch.autograd.grad(scale.sigma(raw.requires_grad_()).sum(), raw)
    torch.testing.assert_close(gradient, slope, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("name", POSITIVE)
def test_positive_and_within_the_documented_range(name):
    raw = torch.linspace(-90, 90, 1000)  # even, so that 0 itself is left out
    scale, (low, high) = SCALES[name](), SCALES[name].range
    sigma = scale(raw)
    assert (sigma > 0).all()
    slack = 1 + 4 * torch.finfo(torch.float32).eps * 15
    assert (sigma * slack >= low).all()
    assert (sigma <= high * slack).all()
    reached = scale(torch.tensor([-90.0, 90.0]))
    if math.isfinite(high):
        torch.testing.assert_close(reached, torch.tensor([low, high]), rtol=1e-4, atol=0.0)


def test_equations():
    """Each map at two points, by the textbook formula in float64."""
    raw = torch.tensor([-1.7, 3.2], dtype=torch.float64)
    plus = torch.log1p(torch.exp(raw))
    expected = {
        "log-variance": torch.exp(raw / 2),
        "log-scale": torch.exp(raw),
        "softplus": plus,
        "softplus-variance": plus.sqrt(),
        "log-variance-clamped": torch.exp(raw / 2),
        "log-variance-hardtanh": torch.exp(raw.clamp(-6, 2) / 2),
        "soft-clamped": torch.exp(5 * torch.tanh(raw / 5)) + 0.01,
        "relu": torch.tensor([1e-6, 3.200001], dtype=torch.float64),
        "absolute": torch.tensor([1.7, 3.2], dtype=torch.float64),
    }
    assert set(expected) == set(POSITIVE)
    for name, sigma in expected.items():
        torch.testing.assert_close(SCALES[name]()(raw), sigma, rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("initial", [0.06, 1.0, 2.5])
def test_equal_starts(name, initial):
    scale = SCALES.build(f"{name}(initial={initial})")
    start = torch.full((3,), initial)
    torch.testing.assert_close(scale(torch.zeros(3)), start, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(scale.inverse(start), torch.zeros(3), rtol=0.0, atol=1e-5)
    torch.testing.assert_close(scale.logvar(torch.zeros(3)), 2 * start.log(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SCALES)
def test_logvar_is_that_of_the_scale(name):
    scale, sigma = SCALES[name](), sigmas(name, torch.float64)
    raw = scale.inverse(sigma)
    torch.testing.assert_close(scale.logvar(raw), 2 * scale(raw).log(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["log-variance", "log-scale"])
def test_kl_from_log_variance_over_24_decades(name):
    """0.5 (sigma^2 - 1 - log sigma^2) in float32, each term to within a few roundings."""
    raw = SCALES[name]().inverse(sigmas(name, torch.float64)).float()
    logvar = SCALES[name]().logvar(raw)
    kl = 0.5 * (logvar.exp() - 1 - logvar)
    exact = logvar.double()
    reference = 0.5 * (torch.expm1(exact) - exact)
    terms = exact.exp() * (1 + exact.abs()) + 1 + exact.abs()
    assert ((kl.double() - reference).abs() / terms).max() < torch.finfo(torch.float32).eps


def test_logvar_survives_where_the_scale_underflows():
    raw = torch.tensor([-300.0])
    assert SCALES["log-variance"]()(raw).item() == 0
    assert SCALES["log-variance"]().logvar(raw).item() == -300
    assert SCALES["log-scale"]().logvar(raw).item() == -600


@pytest.mark.parametrize("name", ["log-variance-clamped", "log-variance-hardtanh"])
def test_no_gradient_beyond_the_clamp(name):
    raw = torch.tensor([-31.0, 21.0, 0.0], requires_grad=True)
    SCALES[name]()(raw).sum().backward()
    torch.testing.assert_close(raw.grad, torch.tensor([0.0, 0.0, 0.5]))


@pytest.mark.parametrize("name", POSITIVE)
def test_a_normal_takes_it(name):
    torch.manual_seed(0)
    scale = SCALES[name]()(torch.randn(64, 5))
    Normal(torch.zeros(5), scale, validate_args=True)


def test_the_mean_field_guide_holds_the_scale_by_name():
    torch.manual_seed(0)
    x = torch.rand(3, 1, 4, 4).round()
    for name in POSITIVE:
        vae = VAE((1, 4, 4), 2, guide=f"mean-field(scale='{name}')", hidden=(8,))
        posterior = vae.guide.posterior
        raw = posterior.head(posterior.encoder(x))[:, 2:]
        torch.testing.assert_close(vae.encode(x).base_dist.scale, SCALES[name]()(raw))


@pytest.mark.parametrize("name", POSITIVE)
@pytest.mark.parametrize(
    "guide", [g for g, c in GUIDES.items() if "scale" in signature(c).parameters]
)
def test_training_lowers_the_loss_with_any_guide(guide, name):
    torch.manual_seed(0)
    x = (torch.rand(1, 1, 4, 4) > 0.5).float().expand(16, -1, -1, -1)
    condition = (2,) if guide == "targeted" else None
    spec = f"{guide}(scale='{name}(initial=1.0)')"
    vae = VAE((1, 4, 4), 2, guide=spec, hidden=(8,), condition=condition)
    elbo, optimizer = Trace_ELBO(), torch.optim.Adam(vae.parameters(), lr=1e-2)

    def loss():
        torch.manual_seed(1)
        return elbo.loss_and_grads(vae.model, vae.guide, x) / len(x)

    before = loss()
    for _ in range(30):
        optimizer.step()
        optimizer.zero_grad()
        after = loss()
    assert after < before - 1


def test_a_vae_with_a_raw_scale_is_refused():
    torch.manual_seed(0)
    with pytest.raises(InputError, match="scales of zero or less"):
        VAE((1, 4, 4), 10, guide="mean-field(scale='raw')").encode(torch.ones(2, 1, 4, 4))


def test_raw_says_in_one_sentence_what_is_wrong():
    raw = torch.tensor([0.5, -0.5, 0.0, 2.0])
    with pytest.raises(InputError, match=r"gave 50% scales of zero or less.*log-variance"):
        SCALES["raw"]()(raw)
    torch.testing.assert_close(SCALES["raw"](initial=1.0)(raw), raw + 1)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("log-variance-hardtanh(initial=0.01)", "between 0.0497871 and 2.71828"),
        ("log-scale(initial=0)", "out of reach"),
        ("log-scale(initial=-1.0)", "out of reach"),
        ("softplus(start=1)", "no option 'start'"),
        ("log-varianse", "log-variance"),
    ],
)
def test_bad_names_and_values_are_input_errors(spec, message):
    with pytest.raises(InputError, match=message):
        SCALES.build(spec)

"""Every row of LIKELIHOODS against a sum by hand, and the pixel distributions of our own."""

from decimal import Decimal, getcontext
from math import isfinite, log, pi

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from scipy import stats
from support.density import SHAPE
from support.rows import images_for, row_vae, scored
from torch import distributions as td
from torch import nn
from torch.nn.functional import softplus

from pyro_vae import VAE, InputError, Likelihood
from pyro_vae.data import Images
from pyro_vae.latents import innermost
from pyro_vae.likelihoods import LIKELIHOODS
from pyro_vae.likelihoods.pixels import ContinuousBernoulli, DiscretizedLogistic
from pyro_vae.networks import MLP
from pyro_vae.supports import bounds


def make(name, decoder=None):
    if decoder is None:
        with torch.random.fork_rng():
            outputs = Likelihood.of(row_vae("likelihood", name).model.likelihood).outputs
        decoder = MLP(SHAPE, hidden=(8,)).decoder(2, outputs)
    return LIKELIHOODS.build(name, decoder=decoder, shape=SHAPE)


def vae(name, **settings):
    return row_vae("likelihood", name, **settings)


def images(name, n=16, dtype=torch.float32):
    return images_for(vae(name), n, dtype)


def continuous_bernoulli(x, eta):
    return x * eta - softplus(eta, threshold=40) + (eta / (eta / 2).tanh()).log()


def logistic_levels(x, loc, scale):
    """P(k/255) by the difference of two distribution functions, in the lower of the two tails."""
    low = torch.where(x == 0, -torch.inf, (x - 0.5 / 255 - loc) / scale)
    high = torch.where(x == 1, torch.inf, (x + 0.5 / 255 - loc) / scale)
    below, above = high.sigmoid() - low.sigmoid(), (-low).sigmoid() - (-high).sigmoid()
    return torch.where(low < 0, below, above).log()


REFERENCES = {
    "bernoulli": lambda x, raw, m: x * raw - softplus(raw, threshold=40),
    "continuous-bernoulli": lambda x, raw, m: continuous_bernoulli(x, raw),
    "normal": lambda x, raw, m: (
        -((x - raw.sigmoid()) ** 2) / (2 * 0.1**2) - log(0.1) - log(2 * pi) / 2
    ),
    "normal-learned": lambda x, raw, m: td.Normal(raw.sigmoid(), (0.5 * m.logvar).exp()).log_prob(
        x
    ),
    "normal-per-pixel": lambda x, raw, m: td.Normal(
        raw[:, :1].sigmoid(), 1 / 255 + 0.1 * (0.5 * raw[:, 1:]).exp()
    ).log_prob(x),
    "laplace": lambda x, raw, m: (
        -(x - raw.sigmoid()).abs() / (0.5 * m.logvar).exp() - log(2) - 0.5 * m.logvar
    ),
    "log-cosh": lambda x, raw, m: (
        -((x - raw.sigmoid()) / (0.5 * m.logvar).exp()).cosh().log() - log(pi) - 0.5 * m.logvar
    ),
    "discretized-logistic": lambda x, raw, m: logistic_levels(
        x, raw[:, :1].sigmoid(), 0.1 * (0.5 * raw[:, 1:]).exp()
    ),
    "student-t": lambda x, raw, m: scipys(
        stats.t.logpdf, x, 2 + m.log_excess.exp(), raw, (0.5 * m.logvar).exp()
    ),
    "log-normal": lambda x, raw, m: scipys(
        stats.lognorm.logpdf, x, (0.5 * m.logvar).exp(), torch.zeros(()), raw.exp()
    ),
    "gamma": lambda x, raw, m: scipys(
        stats.gamma.logpdf, x, m.log_shape.exp(), torch.zeros(()), raw.exp() / m.log_shape.exp()
    ),
    "beta": lambda x, raw, m: scipys(
        stats.beta.logpdf,
        x,
        m.log_precision.exp() * raw.sigmoid(),
        m.log_precision.exp() * (-raw).sigmoid(),
    ),
    "poisson": lambda x, raw, m: scipys(stats.poisson.logpmf, x, raw.exp()),
    "negative-binomial": lambda x, raw, m: negative_binomial(x, raw, m.log_inverse),
    "zero-inflated-negative-binomial": lambda x, raw, m: (
        raw[:, 1:].sigmoid() * (x == 0)
        + (-raw[:, 1:]).sigmoid() * negative_binomial(x, raw[:, :1], m.log_inverse).exp()
    ).log(),
    "categorical": lambda x, raw, m: (
        raw.gather(1, x.long()) - raw.logsumexp(1, keepdim=True)  # one channel, K outputs
    ),
    "ordered": lambda x, raw, m: pyros_ordered(x, raw, m),
    # Without types, all entries are real. test_columns.py has the references of all types.
    "columns": lambda x, raw, m: scipys(
        stats.t.logpdf,
        x,
        2 + m.groups[0].log_excess.exp().view(SHAPE),
        raw,
        (0.5 * m.groups[0].logvar).exp().view(SHAPE),
    ),
}


def scipys(log_density, x, *parameters):
    """A log density of scipy, elementwise."""
    arrays = [p.detach().numpy() for p in (x, *parameters)]
    return torch.from_numpy(log_density(*arrays))


def negative_binomial(x, log_mean, log_inverse):
    """scipy's n is θ, and its p is θ / (θ + μ)."""
    theta = log_inverse.exp()
    return scipys(stats.nbinom.logpmf, x, theta, theta / (theta + log_mean.exp()))


def pyros_ordered(x, raw, m):
    cuts = torch.cat([m.first, m.first + m.log_gaps.exp().cumsum(-1)], -1)
    return dist.OrderedLogistic(raw, cuts).log_prob(x)


def test_every_row_has_a_reference():
    assert REFERENCES.keys() == LIKELIHOODS.keys()


@pytest.mark.parametrize("name", REFERENCES)
def test_log_prob_is_the_sum_over_pixels(name):
    likelihood = make(name).double()
    for parameter in likelihood.parameters():  # those by channel start at simple values
        parameter.data += 0.1 * torch.randn_like(parameter)
    z = 5 * torch.randn(16, 2).double()
    x = images(name, dtype=torch.float64)
    expected = REFERENCES[name](x, likelihood.decoder(z), likelihood).sum((-3, -2, -1))
    torch.testing.assert_close(likelihood(z).log_prob(x), expected, rtol=1e-9, atol=1e-9)


LOCATED = [
    "normal",
    "normal-learned",
    "normal-per-pixel",
    "laplace",
    "log-cosh",
    "discretized-logistic",
]


@pytest.mark.parametrize("name", LOCATED)
def test_without_bounds_the_decoder_gives_the_mean_itself(name):
    bounded, free = (make(f"{name}(bounded={b})").double() for b in (True, False))
    free.load_state_dict(bounded.state_dict())
    z = 20 * torch.randn(64, 2).double()
    inside, outside = (likelihood(z).base_dist.loc for likelihood in (bounded, free))
    torch.testing.assert_close(inside, outside.sigmoid())
    assert outside.min() < 0
    assert outside.max() > 1


@pytest.mark.parametrize("network", ["mlp", "conv", "residual"])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_vae_for_data_starts_at_the_mean_image(name, network):
    """The decoder's weights are 0, so that only the bias is left. ``conv`` and ``residual`` have
    one bias for a channel, which gives the mean over its places. A mean says nothing about the
    probabilities of categories, which start as the decoder has them."""
    pixels = (torch.rand(50, 2, 8, 8) ** 3 * 255).byte()
    pixels[:, 0] //= 4
    likelihood = Likelihood.of(vae(name).model.likelihood)
    if type(likelihood).start is Likelihood.start:
        return
    images = Images(pixels, binarize="dynamic" if name == "bernoulli" else "none")
    if bounds(likelihood.support) != (0.0, 1.0) or name == "beta":
        images = Images(scored(likelihood, pixels / 255))
    module = VAE.for_data(images, 3, likelihood=name, network=network)
    likelihood = Likelihood.of(module.model.likelihood)
    for name_of, weight in likelihood.decoder.named_parameters():
        if name_of.endswith("weight"):
            nn.init.zeros_(weight)
    p = likelihood.double()(torch.zeros(1, 3).double())
    # The discretized logistic rounds and cuts its location, which moves its mean.
    mean = p.base_dist.loc if name == "discretized-logistic" else p.mean
    expected = images.moments()[0]
    if network != "mlp":
        expected = expected.mean((1, 2), keepdim=True).expand_as(expected)
    torch.testing.assert_close(mean[0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_probability_of_all_images_of_one_pixel_is_one(name):
    """A sum over the values of the pixel, or an integral over the support of its density."""
    module = VAE((1, 1, 1), 2, likelihood=name, hidden=(8,)).double()
    likelihood = Likelihood.of(module.model.likelihood)
    p = module.model.likelihood(torch.randn(3, 2).double())
    support = innermost(p.support)
    low, high = bounds(support)
    if likelihood.binary or likelihood.levels:
        points = torch.linspace(0, 1, likelihood.levels or 2, dtype=torch.float64)
        weights = torch.ones_like(points)
    elif support.is_discrete:
        points = torch.arange(high + 1 if isfinite(high) else 5000, dtype=torch.float64)
        weights = torch.ones_like(points)
    elif (low, high) == (0.0, float("inf")):  # equal steps of log x
        t = torch.linspace(-60, 60, 400_001, dtype=torch.float64)
        points, weights = t.exp(), t.exp() * (t[1] - t[0])
    else:
        low, high = (low + 1e-6, high - 1e-6) if isfinite(low) else (-60.0, 60.0)
        points = torch.linspace(low, high, 400_001, dtype=torch.float64)
        weights = torch.full_like(points, points[1] - points[0])
        weights[[0, -1]] /= 2
    density = p.log_prob(points.reshape(-1, 1, 1, 1, 1)).exp()  # [N, 3]
    torch.testing.assert_close(weights @ density, torch.ones(3).double(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_mean_is_that_of_the_draws(name):
    likelihood = make(name).double()
    p = likelihood(torch.randn(3, 2).double())
    draws, mean = p.sample((4000,)).double(), p.mean
    assert mean.shape == (3, *SHAPE)
    if name == "categorical":  # it has no mean; its first category has a share
        draws, mean = (draws == 0).double(), p.base_dist.probs[..., 0]
    error = draws.std(0) / 4000**0.5
    deviation = (draws.mean(0) - mean).abs() / (error + 1e-12)
    assert deviation.max() < 5
    assert deviation.square().mean() < 1.5


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_draws_are_scored(name):
    likelihood = make(name)
    p = likelihood(torch.randn(3, 2))
    x, contract = p.sample(), Likelihood.of(likelihood)
    assert x.shape == (3, *SHAPE)
    # A Normal whose mean a sigmoid keeps in [0, 1] draws numbers beyond.
    if bounds(innermost(p.support)) == bounds(contract.support):
        contract.check(x)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_leading_dimensions_are_free(name):
    likelihood, x = make(name), images(name, 4)
    z = torch.randn(3, 4, 2)
    together = likelihood(z).log_prob(x)
    alone = torch.stack([likelihood(z[k]).log_prob(x) for k in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 0.02, 0.3, 10.0])
@pytest.mark.parametrize("loc", [-3.0, 0.0, 0.1234, 0.5, 1.0, 2.0])
def test_the_discretized_logistic_sums_to_one(loc, scale):
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        levels = torch.arange(256, dtype=dtype) / 255
        p = DiscretizedLogistic(torch.tensor(loc, dtype=dtype), torch.tensor(scale, dtype=dtype))
        probs = p.log_prob(levels).exp()
        assert abs(probs.sum().item() - 1) < tolerance
        torch.testing.assert_close(p.mean, (probs * levels).sum(), rtol=1e-4, atol=1e-5)


def test_draws_of_the_discretized_logistic_have_its_probabilities():
    p = DiscretizedLogistic(torch.tensor([0.02, 0.5, 1.1]), torch.tensor([0.01, 0.003, 0.1]))
    draws = (255 * p.sample((40_000,))).round().long()  # [N, 3]
    probs = p.log_prob(torch.arange(256).unsqueeze(-1) / 255).exp()  # [256, 3]
    for i in range(3):
        share = torch.bincount(draws[:, i], minlength=256) / 40_000
        error = (probs[:, i] * (1 - probs[:, i]) / 40_000).sqrt()
        assert ((share - probs[:, i]).abs() < 5 * error + 1e-4).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("k", "loc", "scale"),
    [(0, 0.9, 0.01), (255, 0.1, 0.01), (10, 5.0, 0.01), (128, 0.5, 1e-4), (7, 0.2, 50.0)],
)
def test_the_discretized_logistic_far_out_in_fifty_digits(k, loc, scale, dtype):
    """The difference of sigmoids that are equal to sixteen digits, or both 0."""
    getcontext().prec = 600
    loc, scale = torch.tensor(loc, dtype=dtype), torch.tensor(scale, dtype=dtype)

    def sigmoid(level):
        t = (Decimal(level) / 255 - Decimal(loc.item())) / Decimal(scale.item())
        return 1 / (1 + (-t).exp())

    low = sigmoid(k - 0.5) if k > 0 else Decimal(0)
    high = sigmoid(k + 0.5) if k < 255 else Decimal(1)
    expected = float((high - low).ln())
    p = DiscretizedLogistic(loc.requires_grad_(), scale.requires_grad_())
    value = p.log_prob(torch.tensor(k / 255, dtype=dtype))
    torch.testing.assert_close(value.item(), expected, rtol=64 * torch.finfo(dtype).eps, atol=0)
    assert all(slope.isfinite() for slope in torch.autograd.grad(value, (loc, scale)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eta", [1e-9, 1e-3, 0.09999, 0.10001, 3.0, 20.0, 50.0, 500.0])
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_continuous_bernoulli_at_every_logit_in_fifty_digits(eta, sign, dtype):
    getcontext().prec = 600
    logits = torch.tensor(sign * eta, dtype=dtype, requires_grad=True)
    p = ContinuousBernoulli(logits=logits)
    e = Decimal(logits.item())
    eps = 16 * torch.finfo(dtype).eps
    for x in (0.0, 0.25, 1.0):
        expected = float((e / (e.exp() - 1)).ln() + e * Decimal(x))
        value = p.log_prob(torch.tensor(x, dtype=dtype))
        torch.testing.assert_close(value.item(), expected, rtol=eps, atol=eps * (1 + eta))
    mean = 1 / (1 - (-e).exp()) - 1 / e
    torch.testing.assert_close(p.mean.item(), float(mean), rtol=0, atol=10 * eps)
    # d log p / dη = x - E[x]
    (slope,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(slope.item(), float(1 - mean), rtol=1e-3, atol=10 * eps)


@pytest.mark.parametrize("eta", [-300.0, -2.0, 0.05, 8.0, 300.0])
def test_draws_of_the_continuous_bernoulli(eta):
    p = ContinuousBernoulli(logits=torch.tensor(eta))
    u = torch.linspace(0.001, 0.999, 999)
    x = p.icdf(u)
    expected = torch.log1p(u.double() * torch.expm1(torch.tensor(eta).double())) / eta
    torch.testing.assert_close(x.double(), expected, rtol=1e-4, atol=2e-6)
    draws = p.rsample((40_000,))
    assert abs(draws.mean() - p.mean) < 5 * draws.std() / 200


@pytest.mark.parametrize("name", ["bernoulli", "continuous-bernoulli"])
def test_extreme_logits_stay_finite(name):
    """A decoder that is certain, right or wrong, has a loss and a gradient."""
    logits = torch.tensor([-900.0, -40.0, 40.0, 900.0], requires_grad=True)
    decoder = nn.Sequential(nn.Unflatten(-1, (1, 1, 4)))
    p = make(name, decoder)(logits.unsqueeze(0))
    for x in (torch.zeros(1, 1, 1, 4), torch.ones(1, 1, 1, 4)):
        value = p.log_prob(x).sum()
        assert value.isfinite()
        assert torch.autograd.grad(value, logits)[0].isfinite().all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("normal(scale=0)", "above 0, not 0"),
        ("normal-learned(initial=-1.0)", "above 0, not -1.0"),
        ("laplace(initial=0)", "above 0, not 0"),
        ("log-cosh(initial=0)", "above 0, not 0"),
        ("normal-per-pixel(floor=0)", "above 0, not 0"),
        ("normal-per-pixel(scale='log-scala')", "did you mean log-scale"),
        ("discretized-logistic(bins=2)", "no option 'bins'; it takes scale"),
        ("lapplace", "did you mean laplace"),
    ],
)
def test_bad_options(spec, message):
    with pytest.raises(InputError, match=message):
        vae(spec)


def test_pixels_that_do_not_fit():
    grey = torch.full((1, *SHAPE), 0.3)
    z = Trace_ELBO()
    for name, message in (
        ("bernoulli", "pixels that are 0 or 1"),
        ("discretized-logistic", "256 levels, k/255"),
    ):
        module = vae(name)
        with pytest.raises(InputError, match=message):
            z.loss(module.model, module.guide, grey)

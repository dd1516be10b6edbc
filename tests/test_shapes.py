"""Observations of any shape: vectors, signals, images and volumes; of pixels or other numbers."""

from __future__ import annotations

import re
from math import prod

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from scipy import stats
from support.density import assert_batch_is_independent
from support.rows import scored
from torch import nn

from pyro_vae import VAE, InputError, Likelihood
from pyro_vae.data import Images
from pyro_vae.distributions import FiniteStudentT
from pyro_vae.likelihoods import LIKELIHOODS
from pyro_vae.networks import Conv
from pyro_vae.networks.residual import Shuffle
from pyro_vae.pairing import fitting_likelihood

SHAPES = [(7,), (2, 9), (2, 5, 6), (2, 3, 4, 5), (2, 2, 2, 2, 2)]


def loss(vae, x, *args):
    pyro.set_rng_seed(3)
    return Trace_ELBO().loss(vae.model, vae.guide, x, *args)


@pytest.mark.parametrize("likelihood", ["bernoulli", "normal-per-pixel", "discretized-logistic"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_loss_does_not_depend_on_how_the_entries_are_laid_out(shape, likelihood):
    """The same weights, for observations of a shape and for images of one row."""

    def vae(shape):
        pyro.set_rng_seed(0)
        return VAE(shape, 3, likelihood=likelihood, hidden=(8,)).double()

    flat = (shape[0], 1, prod(shape[1:]))
    x = (torch.rand(4, *shape, dtype=torch.float64) > 0.5).double()
    assert loss(vae(shape), x) == loss(vae(flat), x.reshape(4, *flat))
    assert vae(shape).sample(3).shape == (3, *shape)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_likelihood_scores_every_shape(shape, likelihood):
    vae = VAE(shape, 2, likelihood=likelihood, hidden=(8,)).double()
    x = scored(Likelihood.of(vae.model.likelihood), torch.rand(4, *shape).double().round())
    assert_batch_is_independent(vae, x)
    assert vae.reconstruct(x).shape == x.shape


@pytest.mark.parametrize("network", ["conv", "residual"])
@pytest.mark.parametrize("shape", [(2, 9), (1, 1), (2, 5, 6), (1, 3, 4, 5), (2, 8, 1, 8)])
def test_convolutions_serve_one_to_three_sides(shape, network):
    vae = VAE(shape, 2, network=network, hidden=(4, 8)).double()
    x = torch.rand(4, *shape).double().round()
    assert_batch_is_independent(vae, x)
    assert vae.reconstruct(x).shape == x.shape


def test_convolutions_of_a_signal_are_those_of_an_image_of_one_row():
    """The middle row of an image's kernels is all that an image of one row meets."""
    signal, image = Conv((2, 9), hidden=(4, 6, 8)), Conv((2, 1, 9), hidden=(4, 6, 8))
    pairs = [(signal.encoder(), image.encoder(), 1), (signal.decoder(3), image.decoder(3), 2)]
    for one, two, row in pairs:
        weights = two.state_dict()
        for name, weight in one.state_dict().items():
            if weight.dim() == 3:
                weights[name][:, :, row] = weight
            else:
                weights[name] = weight
        two.load_state_dict(weights)
    x, z = torch.randn(4, 2, 9), torch.randn(4, 3)
    torch.testing.assert_close(pairs[0][0](x), pairs[0][1](x.unsqueeze(-2)))
    torch.testing.assert_close(pairs[1][0](z), pairs[1][1](z).squeeze(-2))


def test_a_shuffle_lays_pieces_side_by_side():
    x = torch.arange(2 * 36 * 3 * 5).reshape(2, 36, 3, 5).float()
    assert torch.equal(Shuffle(3)(x), nn.PixelShuffle(3)(x))
    line = torch.tensor([[[1, 3], [2, 4], [5, 7], [6, 8]]])  # two channels of two pieces
    assert Shuffle(2)(line).tolist() == [[[1, 2, 3, 4], [5, 6, 7, 8]]]
    cube = torch.arange(8).reshape(1, 8, 1, 1, 1)
    assert torch.equal(Shuffle(2)(cube), torch.arange(8).reshape(1, 1, 2, 2, 2))


@pytest.mark.parametrize("shape", [(3, 16), (1, 8, 8, 8)])
def test_layers_of_latents_have_the_sides_of_x(shape):
    layers = ((2, *(s // 2 for s in shape[1:])), (2, *(s // 4 for s in shape[1:])), 3)
    vae = VAE(shape, layers, guide="ladder", network="residual", hidden=(4, 8))
    x = torch.rand(4, *shape).round()
    assert loss(vae, x) > 0
    z = vae.encode(x)["z_1"].mean
    assert vae.decode({"z_1": z.reshape(4, *layers[0])}).shape == x.shape


UNITS = {
    "student-t": stats.t,
    "normal(scale=0.7, bounded=False)": stats.norm,
    "normal-learned(initial=0.7, bounded=False)": stats.norm,
    "laplace(initial=0.7, bounded=False)": stats.laplace,
    "normal-per-pixel(bounded=False)": stats.norm,
}


@pytest.mark.parametrize("likelihood", UNITS)
def test_the_units_of_the_decoder_change_no_density(likelihood):
    """log p(x) = log p((x - m) / s) - log s."""
    mean, scale = [100.0, -3.0], [20.0, 0.01]
    m, s = torch.tensor(mean).double(), torch.tensor(scale).double()

    def vae(**settings):
        pyro.set_rng_seed(0)
        return VAE((2,), 3, likelihood=likelihood, hidden=(8,), **settings).double()

    u = torch.randn(5, 2, dtype=torch.float64)
    plain = vae(standardize=[[0.0, 0.0], [1.0, 1.0]])
    own = vae(standardize=[mean, scale], scaling=[mean, scale])
    expected = loss(plain, u) + 5 * s.log().sum().item()
    assert loss(own, m + s * u) == pytest.approx(expected, rel=1e-6)  # m and s are float32
    z = torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(own.decode(z), m + s * plain.decode(z), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64])
def test_data_far_from_0_start_at_their_own_mean_and_spread(kind):
    """The decoder's weights are 0; the loss is then that of the Student-t at the moments."""
    data = np.random.RandomState(0).standard_normal((200, 3)) * [1e3, 5.0, 40.0] + [1e5, -7, 0.0]
    x = torch.from_numpy(data.astype(kind))
    vae = VAE.for_data(Images(x), 2, likelihood="student-t", hidden=(8,)).double()
    for name, weight in vae.model.likelihood.decoder.named_parameters():
        if name.endswith("weight"):
            nn.init.zeros_(weight)
    x = x.double()
    p = vae.model.likelihood(torch.zeros(1, 2).double())
    z = (x - x.mean(0)) / x.std(0, unbiased=False)
    expected = torch.from_numpy(stats.t.logpdf(z.numpy(), 10)).sum(-1)
    expected = expected - x.std(0, unbiased=False).log().sum()
    torch.testing.assert_close(p.log_prob(x), expected, rtol=1e-5, atol=1e-4)
    encoded = vae.guide.posterior.encoder
    seen = (x - encoded.mean) / encoded.scale
    torch.testing.assert_close(seen.std(0), torch.ones(3).double(), rtol=0.01, atol=0)


def test_a_vamp_prior_has_pseudo_observations_in_the_units_of_the_data():
    data = 1e4 + 100 * torch.randn(300, 3)
    prior = VAE.for_data(Images(data), 2, prior="vamp(components=200)", hidden=(8,)).model.prior
    seen = prior.pseudo_images()
    torch.testing.assert_close(seen.mean(0), data.mean(0), rtol=0.005, atol=0)
    torch.testing.assert_close(seen.std(0), data.std(0), rtol=0.3, atol=0)


@pytest.mark.parametrize(
    ("data", "likelihood", "why"),
    [
        (torch.randn(50, 3), "student-t", "the entries are real numbers"),
        (torch.rand(50, 3), "normal-learned", r"the entries are real numbers in \[0, 1\]"),
        (torch.randint(9, (50, 3)), "negative-binomial", "counts, whole numbers of at least 0"),
        (torch.randint(9, (50, 3)) * 1.0, "negative-binomial", "counts"),
        (torch.randint(2, (50, 1, 4, 4)), "bernoulli", "the pixels are 0 or 1"),
        (torch.randint(-9, 9, (50, 3)), "student-t", "the entries are real numbers"),
    ],
)
def test_the_likelihood_fits_the_numbers(data, likelihood, why):
    name, reason = fitting_likelihood(Images(data))
    assert name == likelihood
    assert re.search(why, reason)
    assert VAE.for_data(Images(data), 2, hidden=(8,)).config["likelihood"] == likelihood


OUTSIDE = {
    "student-t": (
        torch.inf,
        "x[2, 1] is inf, and the likelihood of this VAE scores finite numbers",
    ),
    "log-normal": (0.0, "x[2, 1] is 0, and the LogNormal likelihood scores numbers above 0"),
    "gamma": (-0.5, "x[2, 1] is -0.5, and the likelihood of this VAE scores numbers of at least 0"),
    "beta": (1.0, "x[2, 1] is 1, and the Beta likelihood scores numbers between 0 and 1, both ex"),
    "poisson": (
        0.5,
        "x[2, 1] is 0.5, and the Poisson likelihood scores whole numbers of at least 0",
    ),
    "negative-binomial": (-1.0, "x[2, 1] is -1, and the likelihood of this VAE scores numbers of"),
    "categorical(categories=3)": (
        3.0,
        "x[2, 1] is 3, and the likelihood of this VAE scores numbers in [0, 2]",
    ),
    "ordered(categories=3)": (
        1.5,
        "x[2, 1] is 1.5, and the Ordered likelihood scores whole numbers",
    ),
    "bernoulli": (0.5, "likelihood scores pixels that are 0 or 1, and x[2, 1] is 0.5; binarize"),
    "normal": (3.0, "x[2, 1] is 3, .* scores numbers in [0, 1]; divide them by 255"),
}


@pytest.mark.parametrize("likelihood", OUTSIDE)
def test_the_first_number_outside_of_the_support_is_named(likelihood):
    value, words = OUTSIDE[likelihood]
    vae = VAE((3,), 2, likelihood=likelihood, hidden=(8,))
    x = scored(Likelihood.of(vae.model.likelihood), torch.full((5, 3), 0.5).round())
    loss(vae, x)
    x[2:, 1] = value
    with pytest.raises(InputError, match=re.escape(words).replace(r"\.\*", ".*")) as refusal:
        loss(vae, x)
    assert "\n" not in str(refusal.value)


def test_a_distribution_of_ones_own_refuses_by_its_own_support():
    class Waiting(Likelihood):
        """Waiting times."""

        def forward(self, z):
            (raw,) = self.raw(z)
            return self.event(dist.Exponential(raw.exp(), validate_args=False), z)

    vae = VAE((3,), 2, likelihood=Waiting, hidden=(8,))
    assert loss(vae, torch.ones(4, 3)) > 0
    with pytest.raises(InputError, match=r"x\[1, 0\] is -1, and the Waiting likelihood scores num"):
        loss(vae, torch.tensor([[1.0, 1, 1], [-1, 1, 1]]))


@pytest.mark.parametrize(
    "likelihood", ["poisson", "negative-binomial", "columns(columns=['count', 'count'])"]
)
def test_a_drawn_count_is_not_negative_however_large_its_rate(likelihood):
    vae = VAE((2,), 2, likelihood=likelihood, hidden=(8,))
    x = vae.model.likelihood(1e6 * torch.randn(50, 2)).sample()
    assert (x >= 0).all()
    assert 1e12 < x.max() < 2**63


SIZED = {
    "poisson": lambda x, mean, m: stats.poisson.logpmf(x, mean),
    "negative-binomial": lambda x, mean, m: stats.nbinom.logpmf(x, 1.0, 1 / (1 + mean)),
}


def test_a_student_t_is_finite_far_outside_and_has_its_slope():
    x = torch.tensor([0.0, 0.3, -4.0, 1e3, 0.99e9, 1.01e9, 1e12, 1e19, -1e25, 3e38])
    x.requires_grad_()
    found = FiniteStudentT(torch.tensor(5.0), torch.tensor(0.3), torch.tensor(2.0)).log_prob(x)
    wide = x.detach().double().requires_grad_()
    expected = stats.t.logpdf(wide.detach().numpy(), 5, 0.3, 2)
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=1e-6, atol=1e-6)
    found.sum().backward()
    deviation = (wide - 0.3) / 2
    slope = -6 / (deviation + 5 / deviation) / 2  # of log(1 + d²/ν), also where d² is large
    slope = slope.where(wide != 0.3, 0)
    torch.testing.assert_close(x.grad.double(), slope.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(4,), (2, 3)])
@pytest.mark.parametrize("name", SIZED)
def test_the_size_factor_multiplies_the_rate(name, shape):
    vae = VAE(shape, 2, likelihood=f"{name}(size_factor=True)", hidden=(8,)).double()
    z, x = torch.randn(5, 2).double(), torch.randint(9, (5, *shape)).double()
    sizes = torch.tensor([0.5, 1.0, 3.0, 1e3, 1e-3]).double()
    likelihood = vae.model.likelihood
    rate = likelihood.decoder(z).exp() * sizes.reshape(5, *[1] * len(shape))
    expected = SIZED[name](x.numpy(), rate.detach().numpy(), likelihood)
    expected = torch.from_numpy(expected).flatten(1).sum(1)
    for context in (sizes, sizes[:, None]):
        torch.testing.assert_close(likelihood(z, context).log_prob(x), expected)
    assert loss(vae, x, sizes) > 0
    torch.testing.assert_close(vae.decode(z, sizes), likelihood(z, sizes).mean.detach())
    with pytest.raises(InputError, match="needs a context, the size factor of each observation"):
        loss(vae, x)
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match=r"one finite number above 0 .* shape \[5\] and "):
            loss(vae, x, sizes * torch.tensor([1.0, wrong, 1, 1, 1]))
    with pytest.raises(InputError, match="a context was given, and no part takes one"):
        loss(VAE(shape, 2, likelihood=name, hidden=(8,)), x, sizes)


def test_samples_of_categories_are_the_most_probable_ones():
    vae = VAE((3,), 2, likelihood="categorical(categories=4)", hidden=(8,))
    z = torch.randn(6, 2)
    raw = vae.model.likelihood.decoder(z)  # [6, 4·3]
    assert torch.equal(vae.decode(z), raw.unflatten(-1, (4, 3)).argmax(1))


def test_arrays_and_single_observations_that_are_no_images():
    vae = VAE((3,), 2, likelihood="student-t", hidden=(8,))
    x = np.array([[1.0, -2.0, 300.0], [4.0, 5.0, 6.0]])
    both = vae.encode(x).mean
    assert torch.equal(both, vae.encode(torch.from_numpy(x).float()).mean)
    torch.testing.assert_close(vae.encode(x[1]).mean, both[1])
    torch.testing.assert_close(vae.encode(np.array([4, 5, 6], np.uint8)).mean, both[1])
    with pytest.raises(InputError, match=r"numbers of shape \[B, 3\], not an array .* \[2, 4\]"):
        vae.encode(np.zeros((2, 4)))
    with pytest.raises(InputError, match=r"a tensor or a NumPy array \[B, \*shape\], not a str"):
        vae.encode("x")

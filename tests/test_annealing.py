"""Annealed importance sampling and its sandwich, for models whose log p(x) is known."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.exact import LinearGaussian

from pyro_vae.data.images import Images
from pyro_vae.errors import InputError
from pyro_vae.evaluation.annealing import annealed, sandwich, schedule
from pyro_vae.vae import VAE

pytestmark = pytest.mark.usefixtures("any_pixels")


@pytest.mark.parametrize("latents", [(2,), (2, 2)])
def test_the_estimate_and_its_standard_errors_are_right(latents):
    exact = LinearGaussian(4, latents, scale=1.0)
    x = exact.images(1).expand(200, -1, -1, -1)  # 200 repetitions
    result = annealed(exact.vae().model, Images(x), temperatures=80, chains=40, leapfrogs=5)
    ratio = (result.log_p - exact.log_evidence(x)).exp().detach()  # p̂ / p has mean 1
    assert abs(ratio.mean().item() - 1) < 3 * ratio.std().item() / 200**0.5
    away = (result.log_p - exact.log_evidence(x)) / result.errors
    assert 0.90 <= (away.abs() < 1.96).double().mean() <= 0.99


def test_a_mixture_prior_is_annealed_to_the_log_evidence_of_quadrature():
    loc, scale = torch.tensor([[-2.0], [1.0]]).double(), torch.tensor([[0.5], [1.0]]).double()
    each = dist.Normal(loc, scale).to_event(1)
    prior = dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.3, 0.7]).double()), each)

    def model(x):
        with pyro.plate("images", len(x), dim=-1):
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z[..., None, None], 0.5).to_event(3), obs=x)

    x = torch.linspace(-3, 3, 20).double().view(-1, 1, 1, 1)
    line = torch.linspace(-12, 12, 20_001).double()
    joint = prior.log_prob(line[:, None]) + dist.Normal(line, 0.5).log_prob(x.view(-1, 1))
    truth = joint.logsumexp(1) + torch.tensor(24 / 20_000).log()
    result = annealed(model, Images(x), temperatures=60, chains=100, leapfrogs=5)
    assert ((result.log_p - truth).abs() < 4 * result.errors).all()
    assert result.errors.max() < 0.2


def test_the_steps_are_adapted_to_each_image():
    exact = LinearGaussian(4, (2,), scale=0.1)
    x = torch.cat([exact.images(3), 30 * torch.ones(1, 1, 1, 4).double()])  # one is far away
    result = annealed(exact.vae().model, Images(x), temperatures=150, chains=8, leapfrogs=3)
    assert ((result.acceptance - 0.65).abs() < 0.1).all()


@pytest.mark.parametrize("latents", [(2,), (2, 3)])
def test_log_p_is_between_both_ends_of_the_sandwich(latents):
    exact = LinearGaussian(4, latents, scale=0.7)
    widths = []
    for temperatures in (8, 50):
        both = sandwich(exact.vae().model, exact.shape, 100, temperatures=temperatures, chains=4)
        truth = exact.log_evidence(both.images).detach()
        for gap in (truth - both.lower, both.upper - truth):
            assert gap.mean() > -3 * gap.std() / 10
        assert both.width == pytest.approx((both.upper - both.lower).mean().item())
        widths.append(both.width)
    assert widths[1] + 3 * both.width_error < widths[0]
    assert widths[1] < 0.7


def test_the_images_of_the_sandwich_are_draws_from_the_model():
    exact = LinearGaussian(4, (2,))
    both = sandwich(exact.vae().model, exact.shape, 2000, temperatures=1, chains=1, leapfrogs=1)
    mean, cov = exact.joint()
    at = exact.where["x"]
    error = both.images.flatten(1).mean(0) - mean[at]
    assert (error.abs() < 4 * (cov.diagonal()[at] / 2000).sqrt()).all()


def test_a_bernoulli_vae_agrees_with_many_importance_draws():
    from pyro_vae.evaluation.importance import importance

    vae = VAE((1, 3, 3), 2, hidden=(16,)).double()
    images = Images(torch.randint(2, (20, 1, 3, 3)).double())
    one = annealed(vae.model, images, temperatures=30, chains=40)
    other = importance(vae.model, vae.guide, images, samples=5000)
    away = (one.log_p - other.log_p) / (one.errors**2 + other.errors**2).sqrt()
    assert (away.abs() < 4).all()


def test_the_path_is_closest_together_at_its_ends():
    path = schedule(10)
    steps = path.diff()
    assert path[0] == 0
    assert path[-1] == 1
    assert (steps > 0).all()
    assert steps[0] < steps[4]
    torch.testing.assert_close(steps, steps.flip(0))


def test_discrete_and_positive_latents_are_refused():
    def discrete(x):
        with pyro.plate("images", len(x), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z[..., None, None, None], 1.0).to_event(3), obs=x)

    def positive(x):
        with pyro.plate("images", len(x), dim=-1):
            z = pyro.sample("z", dist.Gamma(1.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None, None, None], 1.0).to_event(3), obs=x)

    for model in (discrete, positive):
        with pytest.raises(InputError, match="annealing needs real-valued latents, and site 'z'"):
            annealed(model, Images(torch.zeros(3, 1, 1, 1)), temperatures=2)


@pytest.mark.parametrize("option", ["temperatures", "chains", "leapfrogs"])
def test_a_count_below_one_is_refused(option):
    vae = VAE((1, 3, 3), 2, hidden=(8,))
    with pytest.raises(InputError, match=f"{option} is a whole number above 0, not 0"):
        annealed(vae.model, Images(torch.zeros(3, 1, 3, 3)), **{option: 0})
    with pytest.raises(InputError, match=f"{option} is a whole number above 0, not 0"):
        sandwich(vae.model, vae.shape, 3, **{option: 0})

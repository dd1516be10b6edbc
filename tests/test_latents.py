"""What the latents hold, compared with closed forms and quadrature."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.exact import LinearGaussian, LinearMeanField
from torch import nn

from pyro_vae.data.images import Images
from pyro_vae.errors import InputError
from pyro_vae.evaluation import elbo
from pyro_vae.evaluation.aggregate import aggregate
from pyro_vae.evaluation.latents import active_units, encode_images, posterior_means, probe, unit_kl
from pyro_vae.evaluation.moments import chance, moment_gap
from pyro_vae.vae import VAE

pytestmark = pytest.mark.usefixtures("any_pixels")


class Drawn(dist.Normal):
    """A Normal that does not tell its mean, as a flow does not."""

    @property
    def mean(self):
        raise NotImplementedError


def drawn(x):
    """A guide of three units N(x, 2²) each."""
    with pyro.plate("images", len(x), dim=-1):
        pyro.sample("z", Drawn(x.view(-1, 1).expand(-1, 3), 2.0).to_event(1))


def test_the_two_halves_are_two_estimates_of_the_posterior_mean():
    x = torch.rand(500, 1, 1, 1).double()
    halves = posterior_means(drawn, Images(x), draws=200)["z"]
    error = (halves - x.view(-1, 1)) / (4 / 100) ** 0.5
    assert error.std().item() == pytest.approx(1, abs=0.1)
    assert abs((error[0] * error[1]).mean().item()) < 3 / 1500**0.5


def test_a_mean_in_closed_form_is_not_drawn():
    exact = LinearGaussian(5, (2,))
    x, vae = exact.images(50), exact.vae()
    halves = posterior_means(vae.guide, Images(x), draws=2)["z"]
    torch.testing.assert_close(
        halves, exact.posterior(x).mean.expand(2, -1, -1), rtol=1e-12, atol=0
    )


def test_active_units_are_the_variance_of_the_mean_without_the_noise_of_the_draws():
    exact = LinearGaussian(5, (3,))
    exact.layers[-1].weight.data[:, 1] = 0  # the unit z_1 has no effect on x
    x, vae = exact.images(1000), exact.vae()
    for draws in (2, 100):
        activity = active_units(vae.guide, Images(x), draws=draws)["z"]
        known = exact.posterior(x).mean.var(0)
        torch.testing.assert_close(
            activity, known.detach(), rtol=0.05, atol=0.1 if draws == 2 else 3e-3
        )
    assert ((activity > 0.01) == torch.tensor([True, False, True])).all()


def test_the_kl_of_units_sums_to_the_rate_when_they_are_independent():
    exact = LinearGaussian(5, (3,))
    vae = exact.vae(LinearMeanField(exact))
    images = Images(exact.images(600))
    each = unit_kl(vae.model, vae.guide, images)["z"]
    bound = elbo(vae.model, vae.guide, images, analytic=True)
    assert each.shape == (3,)
    assert each.sum().item() == pytest.approx(bound.kl, rel=1e-12)


def test_the_kl_of_units_with_covariance_is_that_of_the_marginals():
    exact = LinearGaussian(5, (2,))
    x, vae = exact.images(50), exact.vae()
    q = exact.posterior(x)
    known = 0.5 * (q.variance + q.mean**2 - 1 - q.variance.log()).mean(0)
    torch.testing.assert_close(unit_kl(vae.model, vae.guide, Images(x))["z"], known.detach())


class Few(nn.Module):
    """A guide with one posterior for each of three images, whose first pixel is 0, 1 or 2."""

    def __init__(self):
        super().__init__()
        self.loc = torch.tensor([[-1.0, -1.0], [1.0, 0.8], [0.5, 1.5]]).double()
        self.scale = torch.tensor([[0.5, 0.4], [0.6, 0.5], [0.3, 0.7]]).double()

    def forward(self, x):
        with pyro.plate("images", len(x), dim=-1):
            which = x[:, 0, 0, 0].long()
            pyro.sample("z", dist.Normal(self.loc[which], self.scale[which]).to_event(1))


def flat(x):
    with pyro.plate("images", len(x), dim=-1):
        zero = torch.zeros(2).double()
        z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z[..., :1, None, None], 1.0).to_event(3), obs=x)


def test_the_aggregate_posterior_s_terms_against_quadrature():
    guide = Few()
    images = Images(torch.arange(600).double().remainder(3).reshape(-1, 1, 1, 1))
    line = torch.linspace(-6, 6, 601, dtype=torch.float64)
    z = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)  # [G, G, 2]
    area = (line[1] - line[0]) ** 2
    each = dist.Normal(guide.loc[:, None, None], guide.scale[:, None, None]).log_prob(z)
    q = each.sum(-1).exp().mean(0)  # q(z), [G, G]
    marginal = torch.stack([q.sum(1), q.sum(0)]) * (line[1] - line[0])  # [2, G]
    prior = dist.Normal(0.0, 1.0).log_prob(line)
    entropy = -(q * q.log()).sum() * area
    conditional = dist.Normal(guide.loc, guide.scale).entropy().sum(-1).mean()
    units = -(marginal * marginal.log()).sum() * (line[1] - line[0])
    dimension_wise = -units - (marginal * prior).sum() * (line[1] - line[0])
    known = {
        "mutual_information": entropy - conditional,
        "total_correlation": units - entropy,
        "dimension_wise_kl": dimension_wise,
        "marginal_kl": units - entropy + dimension_wise,
    }
    result = aggregate(flat, guide, images)
    assert result.terms.keys() == known.keys()
    for name, (mean, error) in result.terms.items():
        assert abs(mean - known[name].item()) < 3 * error, name
        assert error < 0.1
    assert "600 images" in result.estimator


def test_the_aggregate_posterior_of_a_guide_that_ignores_the_image():
    def ignorant(x):
        with pyro.plate("images", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.ones(2).double(), 1.0).to_event(1))

    terms = aggregate(flat, ignorant, Images(torch.zeros(700, 1, 1, 1).double())).terms
    assert terms["mutual_information"][0] == pytest.approx(0, abs=1e-12)
    assert terms["total_correlation"][0] == pytest.approx(0, abs=1e-12)
    mean, error = terms["marginal_kl"]
    assert abs(mean - 1) < 3 * error  # two units, ½ nat each


def test_the_distance_from_the_prior_is_that_of_the_moments():
    """Two units: the posterior's mean depends on the image, N(x, ½²) with x = ±2, and N(1, 2²)."""

    def guide(x):
        with pyro.plate("images", len(x), dim=-1):
            loc = torch.stack([x.flatten(), torch.ones(len(x)).double()], -1)
            pyro.sample("z", dist.Normal(loc, torch.tensor([0.5, 2.0]).double()).to_event(1))

    x = torch.tensor([2.0, -2.0]).double().repeat(10_000).view(-1, 1, 1, 1)
    gap = moment_gap(flat, guide, Images(x))["z"].units
    variance = torch.tensor([4.25, 4.0]).double()
    expected = 0.5 * (variance + torch.tensor([0.0, 1.0]) - 1 - variance.log())
    torch.testing.assert_close(gap, expected, rtol=1e-4, atol=0)  # (N - 1) / N


def noisy(loc, scale):
    """A guide that gives image number x the Normal N(loc[x], scale²), and the images."""

    def guide(x):
        with pyro.plate("images", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc[x.flatten().long()], scale).to_event(1))

    return guide, Images(torch.arange(len(loc)).double().view(-1, 1, 1, 1))


def standard(units):
    def model(x):
        with pyro.plate("images", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(units).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.zeros(1, 1, 1).double(), 1.0).to_event(3), obs=x)

    return model


def test_equal_distributions_are_rarely_told_apart():
    """The worst case: q(z | x) has no width, so that q(z) is N draws of the prior."""
    random = torch.Generator().manual_seed(0)
    alarms = trials = 0
    for images in (5, 20, 100, 1000):
        for units in (1, 10, 50):
            for _ in range(10 if images == 1000 else 40):
                z = torch.randn(images, units, generator=random).double()
                gap = moment_gap(standard(units), noisy(z, 1e-6)[0], noisy(z, 1)[1], draws=1)["z"]
                alarms += gap.exceeds(0.0, 0.0)
                trials += 1
    assert alarms <= 0.01 * trials + 3 * (0.01 * trials) ** 0.5


def test_a_posterior_that_ignores_the_image_has_no_gap_for_any_number_of_images():
    for images in (2, 5, 1000):
        guide, data = noisy(torch.zeros(images, 20).double(), 1.0)
        assert moment_gap(standard(20), guide, data)["z"].total == pytest.approx(0, abs=1e-12)


def test_one_unit_that_is_far_from_the_prior_is_told_by_its_number():
    loc = torch.zeros(5, 50).double()
    loc[:, 17] = 2.5
    scale = torch.ones(50).double()
    scale[17] = 0.3
    guide, data = noisy(loc, scale)
    gap = moment_gap(standard(50), guide, data)["z"]
    unit, nats = gap.worst
    assert unit == 17
    assert nats == pytest.approx(0.5 * (0.09 + 6.25 - 1 - math.log(0.09)))
    assert gap.exceeds(1.0, 0.5)


def test_chance_is_the_law_of_normal_draws():
    by_chance = chance(50, 40)
    z = torch.randn(2000, 50, 40, generator=torch.Generator().manual_seed(1))
    mean, variance = z.mean(1), z.var(1)
    drawn = 0.5 * (variance + mean**2 - 1 - variance.log())
    assert by_chance.mean().item() == pytest.approx(drawn.mean().item(), rel=0.02)
    for each in (by_chance, drawn):
        assert each.sum(-1).std().item() == pytest.approx(40**0.5 / 50, rel=0.1)


def test_moments_of_draws_have_no_bias_by_the_number_of_draws():
    """A flow has no moments in closed form. q(z) is N(0, 2²) for every image."""
    data = Images(torch.zeros(4000, 1, 1, 1).double())
    gap = moment_gap(standard(3), drawn, data, draws=2)["z"]
    known = 0.5 * (4 - 1 - math.log(4))
    torch.testing.assert_close(gap.units, gap.units.new_full((3,), known), rtol=0, atol=0.08)


def test_the_means_of_identical_images_are_not_active():
    vae = VAE((1, 6, 5), 20, hidden=(8,))
    images = Images(torch.ones(4, 1, 6, 5))
    assert active_units(vae.guide, images)["z"].abs().max() < 1e-12
    assert encode_images(vae, images, 0)["loc"].std(0).max() < 1e-6


def test_the_noise_of_draws_is_below_the_limit_of_activity_for_few_images():
    """A flow of the identity: its means are those of draws, and no unit is active."""
    vae = VAE((1, 6, 5), 20, hidden=(8,), guide="iaf")
    for images in (2, 5, 50):
        data = Images(torch.ones(images, 1, 6, 5))
        assert (active_units(vae.guide, data)["z"] < 0.01).all()


def test_the_distance_from_the_prior_is_small_for_an_exact_posterior_of_two_layers():
    exact = LinearGaussian(5, (2, 3))
    vae, images = exact.vae(), Images(exact.images(2000))
    for each in moment_gap(vae.model, vae.guide, images).values():
        assert each.units.mean() < 5 / 2000  # 1/N by chance


def test_a_flow_has_the_terms_that_need_no_marginals():
    vae = VAE((1, 6, 5), 2, hidden=(8,), guide="iaf")
    images = Images(torch.randint(2, (30, 1, 6, 5)).float())
    terms = aggregate(vae.model, vae.guide, images).terms
    assert terms.keys() == {"mutual_information", "marginal_kl"}
    whole = aggregate(vae.model, vae.guide, images, seed=0).terms
    assert terms == whole
    assert terms["mutual_information"][0] < math.log(30)
    with pytest.raises(InputError, match="Flow, which has no Normal marginals in closed form"):
        unit_kl(vae.model, vae.guide, images)


def test_a_prior_of_dependent_units_is_refused():
    vae = VAE((1, 6, 5), 2, hidden=(8,), prior="mixture")
    with pytest.raises(InputError, match="needs a prior of independent Normals"):
        unit_kl(vae.model, vae.guide, Images(torch.zeros(3, 1, 6, 5)))


def test_more_than_one_site_has_no_aggregate_posterior_here():
    vae = LinearGaussian(5, (2, 3)).vae()
    images = Images(torch.zeros(3, 1, 1, 5).double())
    with pytest.raises(InputError, match="one latent site, not 2"):
        aggregate(vae.model, vae.guide, images)


def test_labels_are_predicted_from_the_latents():
    exact = LinearGaussian(8, (2,), scale=0.1)
    x = exact.images(400)
    labels = (exact.posterior(x).mean[:, 0] > 0).long()
    noise = torch.randint(2, (400,))
    vae = exact.vae()

    def accuracy(y):
        train, test = Images(x[:300], y[:300]), Images(x[300:], y[300:])
        return probe(vae.guide, train, test)

    told, blind = accuracy(labels), accuracy(noise)
    assert told["linear"][0] > 0.95
    assert told["nearest"][0] > 0.9
    for name in ("linear", "nearest"):
        assert abs(blind[name][0] - 0.5) < 4 * blind[name][1]
    share = told["nearest"][0]
    assert told["nearest"][1] == pytest.approx((share * (1 - share) / 100) ** 0.5)


def test_no_labels_and_odd_draws_are_refused():
    exact = LinearGaussian(5, (2,))
    images, vae = Images(exact.images(4)), exact.vae()
    with pytest.raises(InputError, match="a probe needs images with labels"):
        probe(vae.guide, images, images)
    with pytest.raises(InputError, match="draws must be an even number of at least 2, not 3"):
        posterior_means(vae.guide, images, draws=3)

"""The ELBO of each image, compared with linear-Gaussian models; and programs that are refused."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from support.exact import LinearGaussian, LinearMeanField
from torch import nn

from pyro_vae.data.images import Images
from pyro_vae.errors import InputError
from pyro_vae.evaluation import elbo, standard_error
from pyro_vae.evaluation.scoring import log_density
from pyro_vae.vae import VAE

GREY = Images(torch.randint(256, (40, 1, 6, 5), dtype=torch.uint8), binarize="dynamic")


pytestmark = pytest.mark.usefixtures("any_pixels")


@pytest.mark.parametrize("latents", [(2,), (2, 3)])
@pytest.mark.parametrize("analytic", [False, True])
def test_with_the_exact_posterior_the_elbo_is_log_p(latents, analytic):
    exact = LinearGaussian(5, latents)
    x, vae = exact.images(30), exact.vae()
    if analytic:  # its reconstruction is still a mean over draws
        bound = elbo(vae.model, vae.guide, Images(x), samples=2000, analytic=True)
        error = (bound.elbos - exact.log_evidence(x)).mean().item()
        assert abs(error) < 4 * 2.0 / (30 * 2000) ** 0.5
    else:
        bound = elbo(vae.model, vae.guide, Images(x))
        torch.testing.assert_close(bound.elbos, exact.log_evidence(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("analytic", [False, True])
def test_the_elbo_of_another_guide_is_lower_by_its_kl_to_the_posterior(analytic):
    exact = LinearGaussian(5, (3,))
    x = exact.images(200)
    guide = LinearMeanField(exact, shift=0.1)
    vae = exact.vae(guide)
    bound = elbo(vae.model, vae.guide, Images(x), samples=100, analytic=analytic)
    error = bound.elbos - (exact.log_evidence(x) - exact.gap(guide(x), x)).detach()
    assert abs(error.mean().item()) < 3 * standard_error(error)
    kl = torch.distributions.kl_divergence(guide(x), dist.Normal(torch.zeros(3), 1).to_event(1))
    tolerance = 1e-12 if analytic else 3 * standard_error(bound.kls - kl.detach())
    assert abs((bound.kls - kl).mean().item()) < tolerance


@pytest.mark.parametrize("size", [1, 30])
def test_binary_pixels_are_scored_as_torch_scores_them(size):
    logits = (size * torch.randn(7, 5, 1, 4, 3)).double()
    fn = dist.Bernoulli(logits=logits, validate_args=False).to_event(3)
    for x in (torch.randint(2, (5, 1, 4, 3)).double(), torch.rand(5, 1, 4, 3).double()):
        torch.testing.assert_close(log_density(fn, x), fn.log_prob(x), rtol=1e-12, atol=0)


def test_the_parts_add_up_and_have_errors_over_images():
    vae = VAE((1, 6, 5), 2, hidden=(8,))
    bound = elbo(vae.model, vae.guide, GREY)
    assert bound.elbo == pytest.approx(bound.reconstruction - bound.kl, rel=1e-6)
    assert bound.elbo == pytest.approx(bound.elbos.mean().item())
    assert bound.errors["kl"] == pytest.approx(bound.kls.std().item() / 40**0.5, rel=1e-6)
    assert bound.kl_of_sites.keys() == {"z"}
    assert bound.means == {
        "elbo": bound.elbo,
        "reconstruction": bound.reconstruction,
        "kl": bound.kl,
    }


def test_a_chain_has_a_kl_for_each_site():
    exact = LinearGaussian(5, (2, 3))
    vae = exact.vae()
    bound = elbo(vae.model, vae.guide, Images(exact.images(500)), samples=20)
    top = exact.posterior(exact.images(500))
    q = torch.distributions.MultivariateNormal(top.mean[:, :3], top.covariance_matrix[:, :3, :3])
    kl = torch.distributions.kl_divergence(
        q, torch.distributions.MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    ).detach()
    error = bound.kl_of_sites["z_2"] - kl
    assert abs(error.mean().item()) < 3 * standard_error(error)


def test_a_seed_determines_the_result_and_changes_no_global_state():
    vae = VAE((1, 6, 5), 2, hidden=(8,))
    vae.guide.posterior.encoder.append(nn.Dropout(0.5))
    before = torch.get_rng_state()
    first, again, other = (elbo(vae.model, vae.guide, GREY, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert vae.guide.posterior.encoder[-1].training
    assert torch.equal(first.elbos, again.elbos)
    assert not torch.equal(first.elbos, other.elbos)


def model(x, weight=1.0, of=None, outside=False):
    if outside:
        pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("images", of or len(x), subsample_size=len(x), dim=-1):
        with poutine.scale(scale=weight):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(z[..., :1, None, None], 1.0).to_event(3), obs=x)


def guide(x, name="z"):
    with pyro.plate("images", len(x), dim=-1):
        pyro.sample(name, dist.Normal(torch.zeros(2), 1.0).to_event(1))


def test_plain_functions_can_be_evaluated():
    x = torch.randn(50, 1, 1, 1)
    bound = elbo(model, guide, Images(x), samples=400)
    known = dist.Normal(0.0, 1.0).log_prob(x.flatten()) - 0.5  # E over z ~ N(0, 1)
    torch.testing.assert_close(bound.elbos, known, rtol=0, atol=0.5)
    assert abs((bound.elbos - known).mean().item()) < 3 * standard_error(bound.elbos - known)
    assert torch.equal(bound.kls, torch.zeros(50))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: model(x, weight=4.0), "'z' has a scale of 4"),
        (lambda x: model(x, of=1000), "has a scale of 250"),
        (lambda x: model(x, outside=True), "model samples 'w', which the guide does not"),
    ],
)
def test_programs_with_weights_or_unmatched_sites_are_refused(change, words):
    with pytest.raises(InputError, match=words):
        elbo(change, guide, Images(torch.zeros(4, 1, 1, 1)))


def test_a_latent_outside_the_plate_is_refused():
    def both(x):
        pyro.sample("w", dist.Normal(0.0, 1.0))
        guide(x)

    with pytest.raises(InputError, match=r"'w' is outside the plate over images"):
        elbo(lambda x: model(x, outside=True), both, Images(torch.zeros(4, 1, 1, 1)))


def test_sites_that_do_not_match_are_refused():
    with pytest.raises(InputError, match="model samples 'z', which the guide does not"):
        elbo(model, lambda x: guide(x, "y"), Images(torch.zeros(4, 1, 1, 1)))


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        (GREY, {"samples": 0}, "samples is a whole number above 0, not 0"),
        (GREY.subset(torch.arange(0)), {}, "no images"),
        (Images(torch.zeros(3, 1, 5, 5)), {}, r"expected images of shape \[B, 1, 6, 5\]"),
    ],
)
def test_bad_input_is_one_sentence(images, options, words):
    vae = VAE((1, 6, 5), 2, hidden=(8,))
    with pytest.raises(InputError, match=words):
        elbo(vae.model, vae.guide, images, **options)


def test_an_analytic_kl_without_a_closed_form_is_refused():
    def student(x):
        with pyro.plate("images", len(x), dim=-1):
            pyro.sample("z", dist.StudentT(5.0, torch.zeros(2), 1.0).to_event(1))

    with pytest.raises(InputError, match="no closed-form KL"):
        elbo(model, student, Images(torch.zeros(4, 1, 1, 1)), analytic=True)

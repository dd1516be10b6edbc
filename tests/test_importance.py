"""log p(x) by importance sampling, compared with closed forms and quadrature; and in pieces."""

import math

import pytest
import torch
from support.exact import LinearGaussian, LinearMeanField
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae.contracts import NOTHING, Guide
from pyro_vae.data.images import Images
from pyro_vae.errors import InputError
from pyro_vae.evaluation import elbo
from pyro_vae.evaluation.importance import importance
from pyro_vae.evaluation.trust import pareto_k
from pyro_vae.evaluation.weights import Weights
from pyro_vae.vae import VAE

pytestmark = pytest.mark.usefixtures("any_pixels")


def wide(exact, guide=None):
    """The model with a guide wider than the posterior, so that the weights have moments."""
    guide = LinearMeanField(exact, shift=0.05)
    guide.logvar.data += 1.5
    return exact.vae(guide)


class WidePosterior(Guide):
    """The posterior of a chain, each part with its covariance doubled."""

    def __init__(self, exact):
        super().__init__()
        self.guide = exact.vae().guide.posterior
        self.guide.parts = [(gain, offset, 2 * cov) for gain, offset, cov in self.guide.parts]

    def sample_sites(self, x, given=NOTHING):
        return self.guide.sample_sites(x)


def test_with_the_exact_posterior_one_draw_is_enough():
    for latents in ((2,), (2, 3)):
        exact = LinearGaussian(5, latents)
        x, vae = exact.images(30), exact.vae()
        result = importance(vae.model, vae.guide, Images(x), samples=20)
        torch.testing.assert_close(result.log_p, exact.log_evidence(x), rtol=0, atol=1e-10)
        torch.testing.assert_close(result.curve[1], exact.log_evidence(x), rtol=0, atol=1e-10)
        torch.testing.assert_close(result.effective, torch.full((30,), 20.0).double())
        assert result.errors.max() < 1e-6


@pytest.mark.parametrize("latents", [(2,), (2, 3)])
def test_the_error_bars_cover_the_truth(latents):
    exact = LinearGaussian(5, latents)
    x = exact.images(1).expand(200, -1, -1, -1)  # 200 repetitions
    vae = wide(exact) if len(latents) == 1 else exact.vae(WidePosterior(exact))
    result = importance(vae.model, vae.guide, Images(x), samples=1000)
    away = (result.log_p - exact.log_evidence(x)) / result.errors
    assert 0.90 <= (away.abs() < 1.96).double().mean() <= 0.99
    assert abs(away.mean().item()) < 3 / 200**0.5
    assert result.untrusted_share == 0
    assert result.trusted
    assert result.covers(3 * result.monte_carlo_error)
    assert not result.covers(result.monte_carlo_error / 3)  # the bias is as large as this


def test_the_elbo_of_the_guide_is_right():
    exact = LinearGaussian(5, (2,))
    x = exact.images(100)
    vae = wide(exact)
    result = importance(vae.model, vae.guide, Images(x), samples=500)
    q = vae.encode(x)
    known = (exact.log_evidence(x) - exact.gap(q, x)).detach()
    away = (result.elbos - known) / result.elbo_errors
    assert 0.9 <= (away.abs() < 1.96).double().mean() <= 0.99
    other = elbo(vae.model, vae.guide, Images(x), samples=500)
    assert abs(other.elbo - result.elbos.mean().item()) < 0.05


def test_a_two_dimensional_latent_against_quadrature():
    torch.manual_seed(0)
    vae = VAE((1, 3, 3), 2, hidden=(16,)).double()
    with torch.no_grad():
        for parameter in vae.model.parameters():
            parameter.mul_(3)  # so that log p(x | z) is not linear
    x = torch.randint(2, (10, 1, 3, 3)).double()
    line = torch.linspace(-7, 7, 281, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)  # [M, 2]
    with torch.no_grad():
        log_prior = vae.model.prior().log_prob(grid)[:, None]
        log_p = vae.model.likelihood(grid[:, None]).log_prob(x) + log_prior  # [M, 10]
        truth = log_p.logsumexp(0) + 2 * math.log(line[1] - line[0])
    result = importance(vae.model, vae.guide, Images(x), samples=5000)
    assert ((result.log_p - truth).abs() < 3.5 * result.errors).all()
    assert result.errors.max() < 0.06


def test_the_sum_over_chunks_is_that_of_one_piece():
    log_w = 30 * torch.randn(1000, 7, dtype=torch.float64) - 500
    whole, pieces = Weights(1000), Weights(1000)
    whole.add(log_w)
    for piece in log_w.split([1, 2, 300, 7, 690]):
        pieces.add(piece)
    known = log_w.logsumexp(0) - math.log(1000)
    torch.testing.assert_close(whole.log_mean(), known, rtol=1e-12, atol=0)
    torch.testing.assert_close(pieces.log_mean(), known, rtol=1e-12, atol=0)
    for k in (1, 10, 100):
        first = log_w[:k].logsumexp(0) - math.log(k)
        torch.testing.assert_close(pieces.curve[k], first, rtol=1e-12, atol=0)
    w = (log_w - log_w.amax(0)).exp()
    torch.testing.assert_close(pieces.effective(), w.sum(0) ** 2 / w.square().sum(0))
    torch.testing.assert_close(pieces.error(), w.std(0) / w.mean(0) / 1000**0.5)
    torch.testing.assert_close(pieces.mean_log(), log_w.mean(0))
    torch.testing.assert_close(pieces.error_of_mean_log(), log_w.std(0) / 1000**0.5)
    assert torch.equal(pieces.pareto_k(), whole.pareto_k())


def test_nothing_depends_on_the_chunk_or_on_how_many_draws_follow():
    vae = VAE((1, 6, 5), 2, hidden=(8,))
    images = Images(torch.randint(256, (45, 1, 6, 5), dtype=torch.uint8), binarize="dynamic")
    run = {
        chunk: importance(vae.model, vae.guide, images, samples=700, chunk=chunk)
        for chunk in (40, 333, 10_000)
    }
    for chunk in (40, 333):
        for name in ("log_p", "errors", "effective", "elbos"):
            torch.testing.assert_close(getattr(run[chunk], name), getattr(run[10_000], name))
    for fewer in (10, 100):
        few = importance(vae.model, vae.guide, images, samples=fewer)
        torch.testing.assert_close(run[333].curve[fewer], few.log_p)


def test_no_tensor_grows_with_the_number_of_draws():
    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.size = max(self.size, out.numel())
            return out

    vae = VAE((1, 6, 5), 2, hidden=(8,))
    images = Images(torch.zeros(20, 1, 6, 5))
    sizes = []
    for samples in (500, 3000):
        with Largest() as largest:
            importance(vae.model, vae.guide, images, samples=samples)
        sizes.append(largest.size)
    assert sizes[0] == sizes[1] > 0


@pytest.mark.parametrize("shape", [-0.3, 0.2, 0.7, 1.0])
def test_the_tail_s_shape_is_found(shape):
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(20_000, 200, generator=generator, dtype=torch.float64)
    weights = Weights(20_000)
    weights.add(((u**-shape - 1) / shape + 1e-9).log())  # generalized Pareto draws
    k = weights.pareto_k()
    # The prior at 0.5 that weighs as 10 of the 425 largest draws pulls by this much.
    expected = (425 * shape + 10 * 0.5) / 435
    assert k.mean() == pytest.approx(expected, abs=0.02)
    assert k.std() == pytest.approx((1 + max(shape, -0.3)) / 425**0.5, rel=0.25)


def test_the_tail_of_equal_and_of_few_weights():
    assert (pareto_k(torch.zeros(20, 3)) == -math.inf).all()
    assert (pareto_k(torch.randn(5, 3).sort(0, descending=True).values) == math.inf).all()


def test_a_proposal_that_is_too_narrow_is_not_trusted():
    exact = LinearGaussian(5, (2,))
    guide = LinearMeanField(exact)
    guide.logvar.data -= 4.0
    vae = exact.vae(guide)
    result = importance(vae.model, vae.guide, Images(exact.images(50)), samples=1000)
    assert result.limit == pytest.approx(2 / 3)
    assert result.untrusted_share > 0.7
    assert not result.trusted
    assert not result.covers(1000.0)  # the tails decide, and no error is large enough


def test_both_standard_errors_of_the_mean():
    exact = LinearGaussian(5, (2,))
    vae = wide(exact)
    result = importance(vae.model, vae.guide, Images(exact.images(100)), samples=100)
    assert result.standard_error == pytest.approx(result.log_p.std().item() / 10)
    assert result.monte_carlo_error == pytest.approx(
        result.errors.square().mean().sqrt().item() / 10
    )


@pytest.mark.parametrize("option", ["samples", "chunk"])
def test_a_count_below_one_is_refused(option):
    vae = VAE((1, 6, 5), 2, hidden=(8,))
    with pytest.raises(InputError, match=f"{option} is a whole number above 0, not 0"):
        importance(vae.model, vae.guide, Images(torch.zeros(3, 1, 6, 5)), **{option: 0})

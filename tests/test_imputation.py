"""Imputation against closed forms: the linear-Gaussian VAE, whose conditionals are known."""

from __future__ import annotations

import pytest
import torch
from support.linear import NAN, Affine, D, S, evidence, holes, linear
from torch.distributions import MultivariateNormal
from torch.nn.functional import logsigmoid

from pyro_vae import VAE, InputError, fit
from pyro_vae.data import Images
from pyro_vae.evaluation.importance import importance
from pyro_vae.evaluation.imputation import conditional_density, impute


@pytest.fixture(scope="module")
def case():
    """A VAE whose guide is off, observations and their mask, and for each observation the mean and
    the covariance of the missing entries given the observed ones, in all entries."""
    torch.manual_seed(0)
    vae, (x, mask) = linear(shift=0.3), holes()
    w, b = (each.detach() for each in vae.model.likelihood.decoder.parameters())
    cov = w @ w.T + S**2 * torch.eye(D).double()
    means, covariances = x.clone(), torch.zeros(len(x), D, D).double()
    for i, m in enumerate(mask):
        gain = cov[~m][:, m] @ torch.linalg.inv(cov[m][:, m])
        means[i, ~m] = b[~m] + gain @ (x[i, m] - b[m])
        lost = torch.outer(~m, ~m)
        covariances[i, lost] = (cov[~m][:, ~m] - gain @ cov[m][:, ~m]).flatten()
    return vae, x, mask, means, covariances


def test_the_conditional_mean_is_the_closed_form_within_its_error(case):
    vae, x, mask, means, _ = case
    off = []
    for seed in range(10):
        missing = Images(torch.where(mask, x, NAN))
        result = impute(vae, missing, samples=1000, seed=seed)
        assert torch.equal(result.x[mask], x[mask])
        assert (result.errors[mask] == 0).all()
        assert result.trusted.all()
        off.append(((result.x - means) / result.errors)[~mask])
    off = torch.stack(off)  # [seeds, missing]
    assert off.abs().max() < 5
    assert 0.7 < off.square().mean().sqrt() < 1.3  # the error is neither too small nor too large


def test_completions_have_the_conditional_distribution(case):
    """The moments of 4,000 draws, within five standard errors."""
    vae, x, mask, means, covariances = case
    draws = vae.impute(torch.where(mask, x, NAN), samples=8000, draws=4000)
    assert torch.equal(draws[:, mask], x[mask].expand(4000, -1))
    for i, m in enumerate(mask):
        own, cov = draws[:, i, ~m], covariances[i][~m][:, ~m]
        scale = cov.diagonal().sqrt()
        assert ((own.mean(0) - means[i, ~m]).abs() < 0.1 * scale).all()
        assert ((own.T.cov() - cov).abs() < 0.1 * torch.outer(scale, scale)).all()


def test_the_conditional_density_is_the_closed_form_within_its_error(case):
    """Entries that were never known count on neither side."""
    vae, x, mask, *_ = case
    known = torch.ones_like(mask)
    known[2, :2] = False
    found = conditional_density(vae, Images(torch.where(known, x, NAN)), mask, samples=4000)
    truth = evidence(vae, x, known) - evidence(vae, x, mask & known)
    assert found.trusted
    assert ((found.log_p - truth).abs() < 4 * found.errors + 1e-9).all()
    assert found.errors.max() < 0.05


def test_categories_are_imputed_by_their_probabilities():
    """The weighted mean of softmax over many draws from the prior is p(x_m | x_o) by Bayes."""
    torch.manual_seed(0)
    vae = VAE((3,), 1, likelihood="categorical(categories=4)", hidden=(8,)).double()
    x = torch.tensor([[0.0, 3.0, 2.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    mask = torch.tensor([[True, False, True], [True, True, True]])
    result = impute(vae, Images(x, mask=mask), samples=5000, probabilities=True)
    z = torch.linspace(-8, 8, 4001).double()[:, None]
    log_p = vae.model.likelihood(z).base_dist.logits.log_softmax(-1)  # [G, 3, 4]
    log_w = -(z[:, 0] ** 2) / 2 + log_p[:, 0, 0] + log_p[:, 2, 2]
    truth = log_w.softmax(0) @ log_p[:, 1].exp()  # [4]
    torch.testing.assert_close(result.probabilities[0, 1], truth, atol=0.01, rtol=0)
    assert result.x[0].tolist() == [0.0, truth.argmax().item(), 2.0]
    assert abs(result.probabilities[0, 1].max() - truth.max()) < 5 * result.errors[0, 1]
    assert torch.equal(result.x[1], x[1])


def test_a_table_is_imputed_column_by_column():
    """Real and categorical columns beside each other, by the integral over one latent."""
    torch.manual_seed(0)
    spec = "columns(columns=['categorical(3)', 'real', 'categorical(3)'])"
    vae = VAE((3,), 1, likelihood=spec, hidden=(8,)).double()
    x = torch.tensor([[NAN, 0.7, 2.0], [1.0, NAN, 0.0]], dtype=torch.float64)
    result = impute(vae, Images(x), samples=5000, draws=400)
    z = torch.linspace(-8, 8, 4001).double()[:, None]
    columns = vae.model.likelihood(z).base_dist
    prior = -(z[:, 0] ** 2) / 2

    def log_p(*row):
        return columns.log_prob(torch.tensor(row).double().expand(len(z), 3))  # [G, 3]

    weights = (prior + log_p(0.0, 0.7, 2.0)[:, 1:].sum(1)).softmax(0)
    chances = torch.stack([weights @ log_p(float(k), 0.7, 2.0)[:, 0].exp() for k in range(3)])
    assert result.x[0].tolist() == [chances.argmax().item(), 0.7, 2.0]
    shares = torch.stack([(result.draws[:, 0, 0] == k).double().mean() for k in range(3)])
    assert (shares - chances).abs().max() < 0.12
    weights = (prior + log_p(1.0, 0.0, 0.0)[:, ::2].sum(1)).softmax(0)
    assert abs(result.x[1, 1] - weights @ columns.mean[:, 1]) < 4 * result.errors[1, 1]
    assert 0 < result.errors[1, 1] < 0.05


@pytest.mark.filterwarnings("ignore:.*draws of z")
def test_a_level_with_an_order_is_the_median():
    """It differs from the most probable level and from the rounded mean."""
    torch.manual_seed(0)
    spec = "columns(columns=['ordered(5)', 'real', 'categorical(3)', 'binary'])"
    vae = VAE((4,), 1, likelihood=spec, hidden=(8,)).double()
    group = vae.model.likelihood.by_type["ordered"]
    cuts = torch.tensor([0.3, 0.45, 0.55, 0.6]).double().logit()  # P(x <= k) at 0
    with torch.no_grad():
        group.first.copy_(cuts[:1, None])
        group.log_gaps.copy_(cuts.diff().log())
        for p in vae.model.likelihood.decoder.parameters():
            p.zero_()
    x = torch.tensor([[NAN, 0.5, NAN, NAN], [3.0, NAN, 1.0, 1.0]], dtype=torch.float64)
    filled, chances = vae.impute(x, samples=50, probabilities=True)
    shares = torch.tensor([0.3, 0.15, 0.1, 0.05, 0.4]).double()
    torch.testing.assert_close(chances[0, 0], shares)
    assert filled[0, 0] == 2  # the most probable level is 4
    assert chances.shape == (2, 4, 5)
    assert chances[:, 1].isnan().all()
    torch.testing.assert_close(chances[0, 2, :3], torch.full((3,), 1 / 3).double())
    assert (chances[0, 2, 3:] == 0).all()
    torch.testing.assert_close(chances[0, 3], torch.tensor([0.5, 0.5, 0, 0, 0]).double())
    assert filled[1, [0, 2, 3]].tolist() == [3, 1, 1]
    completed, _ = vae.impute(x, samples=50, draws=3, probabilities=True)
    assert completed.shape == (3, 2, 4)
    real = VAE((2,), 1, likelihood="student-t", hidden=(4,))
    with pytest.raises(InputError, match="no entry of x has levels"):
        real.impute(torch.tensor([[NAN, 1.0]]), samples=20, probabilities=True)


@pytest.mark.filterwarnings("ignore:.*draws of z")
@pytest.mark.parametrize("guide", ["ladder", "bottom-up", "semi-amortized", "categorical"])
def test_every_guide_imputes(guide):
    """Also two layers of latents, and models that run for one draw at a time."""
    latent = (2, 2) if guide in ("ladder", "bottom-up") else 2
    vae = VAE((4,), latent, guide=guide, likelihood="student-t", hidden=(8,), holes=True)
    x = torch.randn(7, 4)
    x[:, 1] = NAN
    filled = vae.impute(x, samples=50, draws=3)
    assert filled.shape == (3, 7, 4)
    assert filled.isfinite().all()
    assert torch.equal(filled[:, :, 2], x[:, 2].expand(3, -1))
    assert torch.equal(vae.impute(x, samples=50), vae.impute(x, samples=50))


@pytest.mark.filterwarnings("ignore:.*draws of z")
def test_observed_numbers_keep_their_own_type():
    """Numbers that float32 cannot hold come back as they are from a VAE of float32."""
    x = torch.tensor([[0.1, NAN, 1e-300], [1.0, 2.0, 3.0]], dtype=torch.float64)
    filled = VAE((3,), 2, likelihood="student-t", hidden=(4,)).impute(x, samples=10)
    assert torch.equal(filled[~x.isnan()], x[~x.isnan()])
    assert filled.isfinite().all()


def test_what_is_not_trusted_is_said(case):
    """A guide far from the posterior has a few weights only."""
    vae, x, mask, *_ = case
    far = linear(shift=5.0)
    far.load_state_dict(vae.state_dict())
    missing = torch.where(mask, x, NAN)
    with pytest.warns(UserWarning, match="5 of 6 observations need more than 500 draws"):
        far.impute(missing, samples=500)
    assert not conditional_density(far, Images(x), mask, samples=500).trusted
    with pytest.raises(InputError, match="samples"):
        vae.impute(missing, samples=0)


def test_a_likelihood_of_the_mask_against_quadrature():
    """log p(x_o, m) and E[x_m | x_o, m] of x ~ N(b, W Wᵀ + s²), one entry missing by its own value,
    by an integral over the missing entry."""
    torch.manual_seed(0)
    spec = f"self-masking(likelihood='normal(scale={S}, bounded=False)', missing='high')"
    vae = VAE((2,), 1, likelihood=spec, network=Affine, holes=True).double()
    part = vae.model.likelihood
    with torch.no_grad():
        part.slope.copy_(torch.tensor([2.0, 0.5]))
        part.intercept.copy_(torch.tensor([0.3, 1.0]))
        w, b = part.inner.decoder.weight, part.inner.decoder.bias
        joint = MultivariateNormal(b, w @ w.T + S**2 * torch.eye(2).double())
        grid = torch.linspace(-8, 8, 8001).double()
        x = torch.tensor([[NAN, 0.4]]).double()
        points = torch.stack([grid, torch.full_like(grid, 0.4)], -1)
        logits = part.logits(points)
        log_p = joint.log_prob(points) + logsigmoid(-logits[:, 0]) + logsigmoid(logits[:, 1])
        truth = torch.logsumexp(log_p, 0) + (grid[1] - grid[0]).log()
        mean = log_p.softmax(0) @ grid
    found = importance(vae.model, vae.guide, Images(x), samples=5000)
    assert abs(found.log_p[0] - truth) < 4 * found.errors[0]
    assert found.errors[0] < 0.1
    result = impute(vae, Images(x), samples=5000, draws=1000)
    assert abs(result.x[0, 0] - mean) < 4 * result.errors[0, 0]
    assert result.errors[0, 0] < 0.05
    assert abs(result.draws[:, 0, 0].mean() - mean) < 0.15


@pytest.mark.filterwarnings("ignore:.*draws of z")
def test_values_that_are_missing_by_their_size_are_not_taken_for_typical():
    """High values of the first entry are missing. Its mean is too low under a VAE that ignores
    this, and right under one that learns it."""
    torch.manual_seed(0)
    z = torch.randn(1000, 1)
    x = torch.tensor([2.0, 0.0, 1.0]) + z * torch.tensor([1.0, 1.0, -1.0])
    x = x + 0.3 * torch.randn(1000, 3)
    missing = torch.rand(1000) < torch.sigmoid(4 * (x[:, 0] - 2))
    holed = x.clone()
    holed[missing, 0] = NAN
    off = {}
    for likelihood in ("normal-learned(bounded=False, initial=1.0)", "self-masking"):
        torch.manual_seed(1)
        vae = VAE.for_data(Images(holed), 1, likelihood=likelihood, network=Affine)
        options = {"epochs": 75, "batch_size": 250, "lr": 0.05, "compiled": False}
        fit(vae, holed, objective="iwae(num_particles=10)", **options)
        off[likelihood] = (vae.impute(holed, samples=100) - x)[missing, 0].mean().item()
    ignoring, learning = off.values()
    assert ignoring < -0.25
    assert abs(learning) < 0.15


def test_an_outlier_is_imputed_by_a_student_t_and_refused_where_its_density_is_0():
    x = torch.tensor([[0.5, -1.0, 2.0], [1e25, float("nan"), 0.5], [1e25, 1.0, 2.0]])
    parts = {"hidden": (4,), "holes": True, "standardize": [[0.0] * 3, [1.0] * 3]}
    vae = VAE((3,), 2, likelihood="student-t", **parts)
    result = impute(vae, Images(x), samples=50, draws=2, seed=0)
    assert result.x.isfinite().all()
    assert result.draws.isfinite().all()
    vae = VAE((3,), 2, likelihood="normal-per-pixel(bounded=False)", **parts)
    with pytest.raises(InputError, match=r"observation 1 cannot be imputed.*largest is 1e\+25"):
        impute(vae, Images(x), samples=50)
    whole = impute(vae, Images(x[[0, 2]]), samples=50)  # without holes, so nothing is imputed
    assert torch.equal(whole.x, x[[0, 2]])

"""The semi-amortized guide against the best posterior of its family, and its gradients."""

import pytest
import torch
from pyro.infer import Trace_ELBO
from support.density import SHAPE, digits
from support.exact import LinearGaussian

from pyro_vae import VAE, InputError
from pyro_vae.guides.refined import SemiAmortized
from pyro_vae.networks import MLP


def bent():
    """A VAE in float64 whose decoder is far from what it starts as, and two images."""
    module = VAE(SHAPE, 2, guide="semi-amortized", hidden=(32,)).double()
    with torch.no_grad():
        for parameter in module.model.parameters():
            parameter *= 3
    return module, digits(2, dtype=torch.float64)


def refined(exact, **options):
    """A semi-amortized guide for a linear-Gaussian model of two latents, its points in a design
    where every quadratic is averaged without error."""
    guide = SemiAmortized(MLP(exact.shape).encoder(), 2, **options).double()
    guide.signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]])[:, None].double()
    return exact.vae(guide)


def test_refining_ends_at_the_best_mean_field_posterior():
    exact = LinearGaussian(pixels=5, latents=(2,))
    x = exact.images(6)
    q, best = refined(exact, steps=400).encode(x), exact.best_mean_field(x)
    torch.testing.assert_close(q.mean, best.mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(q.stddev, best.stddev, rtol=1e-9, atol=1e-9)


def test_each_refining_step_comes_nearer():
    exact = LinearGaussian(pixels=5, latents=(2,))
    x = exact.images(6)
    module = refined(exact)
    gaps = []
    for steps in (1, 2, 4, 8, 16):
        module.guide.posterior.steps = steps
        gaps.append(exact.gap(module.encode(x), x))
    assert (torch.stack(gaps).diff(dim=0) < 0).all()


def test_gradients_run_through_the_refining():
    """The derivative of the loss by every weight against a central difference."""
    module, x = bent()

    def loss():
        torch.manual_seed(0)
        return Trace_ELBO().differentiable_loss(module.model, module.guide, x)

    weights = list(module.parameters())
    gradients = torch.autograd.grad(loss(), weights)
    for weight, gradient in zip(weights, gradients, strict=True):
        direction = torch.randn_like(weight)
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                weight += step * direction
                values.append(loss().item())
                weight -= step * direction
        slope = (values[0] - values[1]) / 2e-5
        assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-4, abs=1e-5)


def test_refining_is_the_same_with_and_without_gradients():
    module, x = bent()
    with torch.no_grad():
        without = module.encode(x)
    assert not without.mean.requires_grad
    torch.testing.assert_close(module.encode(x).mean, without.mean, rtol=1e-12, atol=0)


def test_a_semi_amortized_guide_without_a_model():
    guide = SemiAmortized(MLP(SHAPE).encoder(), 2)
    with pytest.raises(InputError, match="no model"):
        guide(digits())

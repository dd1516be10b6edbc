"""The planar map: invertible, finite at w = 0, and close to the identity at the start."""

import math

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from support.density import SHAPE, digits

from pyro_vae import VAE
from pyro_vae.guides.flows import PlanarMap


def first_loss(guide, latent_size, seed):
    """Nats per image before any training, the mean over 20 draws."""
    pyro.set_rng_seed(seed)
    x, vae = digits(64), VAE(SHAPE, latent_size, guide=guide)
    return sum(Trace_ELBO().loss(vae.model, vae.guide, x) for _ in range(20)) / 20 / 64


@pytest.mark.parametrize("latent_size", [1, 2])
def test_the_first_loss_is_close_to_that_of_mean_field(latent_size):
    for seed in range(4):
        planar, plain = (first_loss(g, latent_size, seed) for g in ("planar", "mean-field"))
        assert abs(planar - plain) < 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_w_times_u_hat_is_the_stated_function(dtype):
    """wᵀû = max(log(1 + (e - 1) exp(wᵀu)) - 1, -0.999), from one real number to the other end."""
    s = torch.tensor([-300, -41, -39.9, -8, -3, -1, -1e-4, 0, 1e-4, 1, 50, 300], dtype=dtype)
    w = torch.tensor([0.6, -0.8], dtype=dtype)
    found = (PlanarMap(()).u_hat(s.unsqueeze(-1) * w, w) * w).sum(-1)
    m = torch.nn.functional.softplus(s.double() + math.log(math.e - 1), threshold=50) - 1
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(
        found.double(), m.clamp(min=-0.999), rtol=tolerance, atol=tolerance * 300
    )


def test_the_map_is_invertible_at_any_w():
    """wᵀû > -1 from ‖w‖ = 1e-9 to 1e3, with u up to 1000."""
    w = torch.randn(2000, 3, dtype=torch.float64) * 10 ** (
        torch.rand(2000, 1, dtype=torch.float64) * 12 - 9
    )
    u = torch.randn_like(w).clamp(-1, 1) * 10 ** (3 * torch.rand(2000, 1, dtype=torch.float64))
    slope = (PlanarMap(()).u_hat(u, w) * w).sum(-1)
    assert (slope > -1 + 0.9e-3).all()
    assert (slope < -0.99).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-20, 1e-9, 1e-6, 1e-3])
def test_value_and_gradient_are_finite_at_small_w(size, dtype):
    w = (size * torch.randn(50, 4, dtype=dtype)).requires_grad_()
    u, b = (torch.randn(50, n, dtype=dtype, requires_grad=True) for n in (4, 1))
    x = torch.randn(50, 4, dtype=dtype)
    planar = PlanarMap((b, u, w))
    y = planar(x)
    log_det = planar.log_abs_det_jacobian(x, y)
    gradients = torch.autograd.grad(y.sum() + log_det.sum(), (w, u, b))
    assert all(t.isfinite().all() for t in (y, log_det, *gradients))
    assert (y - x).abs().max() < 2 * u.abs().sum(-1).max()


@pytest.mark.parametrize("size", [1, 4])
def test_log_det_against_autograd(size):
    for scale in (1e-8, 1e-3, 1.0, 5.0):
        b, u, w = (scale * torch.randn(n, dtype=torch.float64) for n in (1, size, size))
        x = torch.randn(size, dtype=torch.float64)
        planar = PlanarMap((b, u, w))
        y = planar(x)
        jacobian = torch.autograd.functional.jacobian(PlanarMap((b, u, w)), x)
        torch.testing.assert_close(
            planar.log_abs_det_jacobian(x, y), jacobian.slogdet().logabsdet, rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("network", ["mlp(hidden=(16,))", "mlp(hidden=(16,), batch_norm=True)"])
def test_the_guide_starts_as_a_normal(network):
    """From random maps, batch normalization made the KL of 50 units 10 nats larger in training."""
    vae = VAE(SHAPE, 50, guide="planar", network=network)
    q = vae.guide.posterior(digits(8))
    z = q.base_dist.sample()
    torch.testing.assert_close(q.log_prob(z), q.base_dist.log_prob(z))

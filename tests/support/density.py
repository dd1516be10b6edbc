"""Quadrature for the densities of two numbers, whatever their support, and what is tested with it.

A latent of two real numbers is integrated over a grid; one of two classes over its two values, or
over the line between them if it is relaxed.
"""

from __future__ import annotations

import pyro
import torch
from pyro import poutine
from sklearn.datasets import load_digits
from torch import Tensor
from torch.distributions import constraints

from pyro_vae import VAE
from pyro_vae.latents import is_latent

SHAPE = (1, 8, 8)


def digits(n: int = 16, grey: bool = False, dtype: torch.dtype = torch.float32) -> Tensor:
    """``n`` of scikit-learn's 8x8 digits, [n, 1, 8, 8], binary unless ``grey``."""
    x = torch.tensor(load_digits().images[:n]).unsqueeze(1) / 16
    return ((255 * x).round() / 255 if grey else x.round()).to(dtype)


def latent_sites(program, *args, **kwargs) -> dict:
    """The distributions at a program's latent sites, by name."""
    nodes = poutine.trace(program).get_trace(*args, **kwargs).nodes
    return {n: site["fn"] for n, site in nodes.items() if is_latent(site) and n != "x"}


def quadrature(q) -> tuple[Tensor, Tensor]:
    """Points [N, *1, event] over all that ``q`` can draw, and their weights [N, *1]."""
    one = [1] * len(q.batch_shape)
    if constraints.is_dependent(q.support) or not q.support.is_discrete:
        draws = q.sample((2000,)).flatten(0, -2)  # [*, 2]
        if (draws.sum(-1) - 1).abs().max() < 1e-6:  # relaxed one-of-two
            t = torch.linspace(-120, 120, 10_001, dtype=draws.dtype)
            points = torch.stack([t.sigmoid(), (-t).sigmoid()], -1)  # [N, 2]
            weights = points.prod(-1) * (t[1] - t[0])
        else:
            mean, reach = draws.mean(0), 8 * draws.std(0)
            axes = [
                torch.linspace(-r, r, 241, dtype=r.dtype) + m
                for m, r in zip(mean, reach, strict=True)
            ]
            points = torch.cartesian_prod(*axes)  # [N, 2]
            step = torch.stack([axis[1] - axis[0] for axis in axes]).prod()
            weights = step.expand(len(points))
    else:
        points = torch.eye(2, dtype=torch.float64)
        weights = torch.ones(2, dtype=torch.float64)
    return points.reshape(-1, *one, 2), weights.reshape(-1, *one)


def statistics(z: Tensor) -> Tensor:
    """Five smooth functions of z = (z_1, z_2), [*, 5]."""
    a, b = z.unbind(-1)
    return torch.stack([a, b, a * a, a * b, (a + 0.5 * b).sin()], -1)


def mass(q) -> Tensor:
    """The integral of the density, [*batch]."""
    points, weights = quadrature(q)
    with torch.no_grad():
        return (q.log_prob(points).exp() * weights).sum(0)


def expectations(q) -> Tensor:
    """E[statistics(z)] by quadrature, [*batch, 5]; differentiable in the parameters of ``q``."""
    points, weights = quadrature(q)
    return ((q.log_prob(points).exp() * weights).unsqueeze(-1) * statistics(points)).sum(0)


def assert_draws_agree(q, draws: int = 20_000) -> None:
    """The means of draws lie within 5 standard errors of the quadrature's."""
    with torch.no_grad():
        s = statistics(q.sample((draws,)))
        error = s.std(0) / draws**0.5
        assert ((s.mean(0) - expectations(q)).abs() < 5 * error + 1e-9).all()


def log_weights(vae: VAE, x: Tensor, z: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """log q(z | x) and log p(x, z) of each image at given latents."""
    guide = poutine.trace(poutine.condition(vae.guide, z)).get_trace(x)
    model = poutine.trace(poutine.condition(vae.model, z)).get_trace(x)
    guide.compute_log_prob()
    model.compute_log_prob()
    log_q = sum(guide.nodes[name]["log_prob"] for name in z)
    return log_q, sum(model.nodes[name]["log_prob"] for name in (*z, "x"))


def assert_batch_is_independent(vae: VAE, x: Tensor) -> None:
    """Each image's terms are the same alone as in the batch, so that the loss is their sum."""
    nodes = poutine.trace(vae.guide).get_trace(x).nodes
    z = {name: site["value"].detach() for name, site in nodes.items() if is_latent(site)}
    together = log_weights(vae, x, z)
    for i in range(len(x)):
        alone = log_weights(vae, x[i : i + 1], {name: v[i : i + 1] for name, v in z.items()})
        for one, all_ in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], all_[i], rtol=1e-9, atol=1e-9)


def assert_moves(vae: VAE) -> None:
    """Moved to another device, all that a VAE computes is there: torch refuses to mix the two.

    The device is torch's "meta", which every machine has and which computes shapes alone.
    """
    vae = vae.to("meta")
    x = torch.zeros(3, *vae.shape, device="meta")
    with pyro.validation_enabled(False):  # A tensor of "meta" has no values to be checked.
        guide = poutine.trace(vae.guide).get_trace(x)
        model = poutine.trace(poutine.replay(vae.model, trace=guide)).get_trace(x)
        assert guide.log_prob_sum().is_meta
        assert model.log_prob_sum().is_meta
        assert vae.sample(2).is_meta

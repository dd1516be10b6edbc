"""A linear-Gaussian VAE, whose posterior and evidence are known, and data with holes."""

from __future__ import annotations

from functools import partial

import pyro.distributions as dist
import torch
from torch import nn
from torch.distributions import MultivariateNormal

from pyro_vae import VAE, Guide, Network

D, Z, S = 5, 2, 0.5
NAN = float("nan")


class Affine(Network):
    """A linear decoder."""

    def __init__(self, shape):
        self.shape = shape

    def encoder(self):
        return nn.Linear(self.shape[0], 3)

    def decoder(self, latent_size, outputs=1):
        return nn.Linear(latent_size, self.shape[0])


class Exact(Guide):
    """The posterior of the linear-Gaussian model given the observed entries, off by ``shift``.

    Equation: q = N(A Wᵀ M (x - b) / s², A), A = (I + Wᵀ M W / s²)⁻¹, M the mask on a diagonal.
    """

    def __init__(self, latent_size, shift=0.0):
        super().__init__()
        self.shift = shift

    def attach(self, model):
        self.layer = [model.likelihood.decoder]  # in a list, so that it is not a part of the guide

    def forward(self, x, mask=None):
        w, b = self.layer[0].weight, self.layer[0].bias
        m = torch.ones_like(x) if mask is None else mask.to(x)
        observed = torch.einsum("bd,dz,dy->bzy", m, w, w) / S**2
        covariance = torch.linalg.inv(torch.eye(Z).to(x) + observed)
        loc = (covariance @ ((m * (x - b)) @ w / S**2).unsqueeze(-1)).squeeze(-1)
        return dist.MultivariateNormal(loc + self.shift, covariance)


def linear(**guide):
    likelihood = f"normal(scale={S}, bounded=False)"
    return VAE(
        (D,), Z, likelihood=likelihood, guide=partial(Exact, **guide), network=Affine
    ).double()


def holes():
    """Vectors with holes; one has none, and one has nothing else."""
    x = torch.randn(6, D, dtype=torch.float64)
    mask = torch.rand(6, D) < 0.6
    mask[0], mask[1] = True, False
    return x, mask


def evidence(vae, x, mask):
    """log p(x_observed) of each vector, from its own sub-vector."""
    w, b = vae.model.likelihood.decoder.weight, vae.model.likelihood.decoder.bias
    cov = w @ w.T + S**2 * torch.eye(D).double()
    return torch.stack([
        MultivariateNormal(b[m], cov[m][:, m]).log_prob(row[m]) if m.any() else row.new_zeros(())
        for row, m in zip(x, mask, strict=True)
    ])  # fmt: skip

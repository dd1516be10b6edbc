"""Guides made of Normals: independent, correlated, low-rank, and a mixture of them."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from ..contracts import Guide
from ..distributions import NormalMixture
from ..errors import InputError
from ..networks import features, head
from ..options import at_least_one, is_whole
from ..scales import SCALES


class MeanField(Guide):
    """A Normal with independent dimensions; the encoder gives μ and, by default, log σ².

    Equation: q(z | x) = Π_d N(z_d; μ_d(x), σ_d(x)²), σ = exp(½ log σ²).

    Args:
        encoder: network to features.
        latent_size: number of latent dimensions Z.
        scale: how the encoder's second output becomes σ, a name of
            :data:`~pyro_vae.registry.SCALES`.

    Paper: Kingma & Welling 2014, Auto-Encoding Variational Bayes.

    Example:
        >>> from pyro_vae.guides import MeanField
        >>> encoder = MLP((1, 28, 28)).encoder()
        >>> MeanField(encoder, 20)(torch.rand(8, 1, 28, 28)).mean.shape
        torch.Size([8, 20])
    """

    def __init__(self, encoder: nn.Module, latent_size: int, scale: Any = "log-variance") -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head(encoder, 2 * latent_size)
        self.scale = SCALES.build(scale)

    def forward(self, x: Tensor) -> Distribution:
        loc, raw = self.head(self.encoder(x)).chunk(2, -1)  # each [B, Z]
        return dist.Normal(loc, self.scale(raw)).to_event(1)


class FullCovariance(Guide):
    """A Normal with a full covariance; the encoder gives μ, log σ² and a lower triangle.

    Equation: q(z | x) = N(z; μ(x), L Lᵀ), L = diag(σ(x)) (I + strictly lower triangle(x)).

    Args:
        encoder: network to features.
        latent_size: number of latent dimensions Z; the encoder's head has Z (Z + 3) / 2 outputs.
        scale: how the encoder's second output becomes the diagonal of L, a name of
            :data:`~pyro_vae.registry.SCALES`.

    Paper: Kingma & Welling 2019, An introduction to variational autoencoders, section 2.5.1.

    Example:
        >>> from pyro_vae.guides import FullCovariance
        >>> encoder = MLP((1, 28, 28)).encoder()
        >>> FullCovariance(encoder, 20)(torch.rand(8, 1, 28, 28)).covariance_matrix.shape
        torch.Size([8, 20, 20])
    """

    below: Tensor

    def __init__(self, encoder: nn.Module, latent_size: int, scale: Any = "log-variance") -> None:
        super().__init__()
        self.encoder = encoder
        below = torch.tril_indices(latent_size, latent_size, -1)
        self.register_buffer("below", below, persistent=False)
        self.sizes = [latent_size, latent_size, below.shape[1]]
        self.head = nn.Linear(features(encoder), sum(self.sizes))
        self.scale = SCALES.build(scale)

    def forward(self, x: Tensor) -> Distribution:
        loc, raw, lower = self.head(self.encoder(x)).split(self.sizes, -1)
        scale = self.scale(raw)
        unit = torch.diag_embed(torch.ones_like(scale))  # [B, Z, Z]
        unit[..., self.below[0], self.below[1]] = lower
        # Each row of the triangle is scaled by its σ, so a small σ makes the whole row small.
        return dist.MultivariateNormal(loc, scale_tril=scale.unsqueeze(-1) * unit)


class LowRank(Guide):
    """A Normal whose covariance is diagonal plus low-rank; the encoder gives all of its parameters.

    Equation: q(z | x) = N(z; μ(x), diag(σ(x)²) + W(x) W(x)ᵀ), W of shape [Z, rank].

    Args:
        encoder: network to features.
        latent_size: number of latent dimensions Z.
        rank: columns of W; at most Z.
        scale: how the encoder's second output becomes σ, a name of
            :data:`~pyro_vae.registry.SCALES`.

    Raises:
        InputError: a rank outside 1 … Z.

    Paper: Ong, Nott & Smith 2018, Gaussian variational approximation with a factor covariance
    structure.

    Example:
        >>> from pyro_vae.guides import LowRank
        >>> encoder = MLP((1, 28, 28)).encoder()
        >>> LowRank(encoder, 20, rank=2)(torch.rand(8, 1, 28, 28)).cov_factor.shape
        torch.Size([8, 20, 2])
    """

    def __init__(
        self, encoder: nn.Module, latent_size: int, rank: int = 2, scale: Any = "log-variance"
    ) -> None:
        super().__init__()
        if not is_whole(rank) or not 1 <= rank <= latent_size:
            raise InputError(
                f"the rank is a whole number between 1 and the latent size {latent_size}, not "
                f"{rank!r}"
            )
        self.encoder = encoder
        self.sizes = [latent_size, latent_size, latent_size * rank]
        self.head = nn.Linear(features(encoder), sum(self.sizes))
        self.scale = SCALES.build(scale)

    def forward(self, x: Tensor) -> Distribution:
        loc, raw, factor = self.head(self.encoder(x)).split(self.sizes, -1)
        factor = factor.unflatten(-1, (self.sizes[0], -1))  # [B, Z, rank]
        return dist.LowRankMultivariateNormal(loc, factor, self.scale(raw).square())


class MixtureGuide(Guide):
    """A mixture of mean-field Normals; the encoder gives the weights and each μ and log σ².

    Equation: q(z | x) = Σ_k w_k(x) Π_d N(z_d; μ_kd(x), σ_kd(x)²).

    Args:
        encoder: network to features.
        latent_size: number of latent dimensions Z.
        components: number of Normals K.
        scale: how the encoder's output becomes σ, a name of :data:`~pyro_vae.registry.SCALES`.

    Raises:
        InputError: fewer than 1 component.

    Paper: Morningstar et al. 2021, Automatic differentiation variational inference with mixtures.

    Example:
        >>> from pyro_vae.guides import MixtureGuide
        >>> encoder = MLP((1, 28, 28)).encoder()
        >>> MixtureGuide(encoder, 20, components=3)(torch.rand(8, 1, 28, 28)).mean.shape
        torch.Size([8, 20])
    """

    def __init__(
        self, encoder: nn.Module, latent_size: int, components: int = 5, scale: Any = "log-variance"
    ) -> None:
        super().__init__()
        at_least_one("components", components)
        self.encoder = encoder
        self.sizes = [components, components * latent_size, components * latent_size]
        self.head = nn.Linear(features(encoder), sum(self.sizes))
        self.scale = SCALES.build(scale)

    def forward(self, x: Tensor) -> Distribution:
        logits, loc, raw = self.head(self.encoder(x)).split(self.sizes, -1)
        each = (self.sizes[0], -1)
        loc, scale = loc.unflatten(-1, each), self.scale(raw.unflatten(-1, each))  # [B, K, Z]
        return NormalMixture(dist.Categorical(logits=logits), dist.Normal(loc, scale).to_event(1))

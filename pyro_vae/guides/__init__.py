"""Guides q(z | x): modules whose ``forward(x)`` gives a distribution over ``z``, ``[B, Z]``.

A guide asks for what it needs by the names of its arguments: ``encoder``, a network from images
``[*, C, H, W]`` to features ``[*, F]`` with ``out_features`` = F, and ``latent_size``. A guide
whose z is no real vector names the prior that fits it as ``default_prior``; one that needs the
model has a method ``attach(model)``, which the VAE calls once.

Here are the Normals; flows stand in :mod:`~pyro_vae.guides.flows`, discrete latents in
:mod:`~pyro_vae.guides.discrete`, the semi-amortized guide in :mod:`~pyro_vae.guides.refined`, those
of several layers of latents in :mod:`~pyro_vae.hierarchy`.
"""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn
from torch.distributions import (
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    register_kl,
)

from ..hierarchy import BottomUp, Ladder
from ..networks import features, head
from ..parts import InputError, at_least_one, build
from ..scales import SCALES
from .discrete import Categorical, GumbelSoftmax, Joint
from .flows import IAF, Planar, Spline
from .refined import SemiAmortized


class MeanField(nn.Module):
    """A Normal with independent dimensions; the encoder gives μ and, by default, log σ².

    Equation: q(z | x) = Π_d N(z_d; μ_d(x), σ_d(x)²), σ = exp(½ log σ²).

    Args:
        encoder: network to features.
        latent_size: number of latent dimensions Z.
        scale: how the encoder's second output becomes σ, a name of
            :data:`~pyro_vae.scales.SCALES`.

    Paper: Kingma & Welling 2014, Auto-Encoding Variational Bayes.

    Example:
        >>> encoder = MLP((1, 28, 28)).encoder()
        >>> MeanField(encoder, 20)(torch.rand(8, 1, 28, 28)).mean.shape
        torch.Size([8, 20])
    """

    def __init__(self, encoder: nn.Module, latent_size: int, scale: Any = "log-variance") -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head(encoder, 2 * latent_size)
        self.scale = build("scale", scale, SCALES)

    def forward(self, x: Tensor) -> Distribution:
        loc, raw = self.head(self.encoder(x)).chunk(2, -1)  # each [B, Z]
        return dist.Normal(loc, self.scale(raw)).to_event(1)


class FullCovariance(nn.Module):
    """A Normal with every covariance; the encoder gives μ, log σ² and a lower triangle.

    Equation: q(z | x) = N(z; μ(x), L Lᵀ), L = diag(σ(x)) (I + strictly lower triangle(x)).

    Args:
        encoder: network to features.
        latent_size: number of latent dimensions Z; the encoder's head has Z (Z + 3) / 2 outputs.
        scale: how the encoder's second output becomes the diagonal of L, a name of
            :data:`~pyro_vae.scales.SCALES`.

    Paper: Kingma & Welling 2019, An introduction to variational autoencoders, section 2.5.1.

    Example:
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
        self.scale = build("scale", scale, SCALES)

    def forward(self, x: Tensor) -> Distribution:
        loc, raw, lower = self.head(self.encoder(x)).split(self.sizes, -1)
        scale = self.scale(raw)
        unit = torch.diag_embed(torch.ones_like(scale))  # [B, Z, Z]
        unit[..., self.below[0], self.below[1]] = lower
        # The triangle counts in units of σ, so that a dimension that gets sharp stays sharp.
        return dist.MultivariateNormal(loc, scale_tril=scale.unsqueeze(-1) * unit)


class LowRank(nn.Module):
    """A Normal whose covariance is diagonal plus a few directions; the encoder gives all three.

    Equation: q(z | x) = N(z; μ(x), diag(σ(x)²) + W(x) W(x)ᵀ), W of shape [Z, rank].

    Args:
        encoder: network to features.
        latent_size: number of latent dimensions Z.
        rank: columns of W; at most Z.
        scale: how the encoder's second output becomes σ, a name of
            :data:`~pyro_vae.scales.SCALES`.

    Raises:
        InputError: a rank that is not between 1 and Z.

    Paper: Ong, Nott & Smith 2018, Gaussian variational approximation with a factor covariance
    structure.

    Example:
        >>> encoder = MLP((1, 28, 28)).encoder()
        >>> LowRank(encoder, 20, rank=2)(torch.rand(8, 1, 28, 28)).cov_factor.shape
        torch.Size([8, 20, 2])
    """

    def __init__(
        self, encoder: nn.Module, latent_size: int, rank: int = 2, scale: Any = "log-variance"
    ) -> None:
        super().__init__()
        if rank not in range(1, latent_size + 1):
            raise InputError(f"the rank is between 1 and the latent size {latent_size}, not {rank}")
        self.encoder = encoder
        self.sizes = [latent_size, latent_size, latent_size * rank]
        self.head = nn.Linear(features(encoder), sum(self.sizes))
        self.scale = build("scale", scale, SCALES)

    def forward(self, x: Tensor) -> Distribution:
        loc, raw, factor = self.head(self.encoder(x)).split(self.sizes, -1)
        factor = factor.unflatten(-1, (self.sizes[0], -1))  # [B, Z, rank]
        return dist.LowRankMultivariateNormal(loc, factor, self.scale(raw).square())


class NormalMixture(dist.MixtureSameFamily):
    """A mixture of diagonal Normals whose draws carry gradients, weights' gradient included.

    Equation: dz/dφ = -(∂F/∂z)⁻¹ ∂F/∂φ, where F_d(z; φ) is the distribution function of z_d given
    z_1 … z_{d-1}, uniform whatever φ is.

    Pyro's ``MixtureOfDiagNormals`` is not taken: in Pyro 1.9 its gradient with regard to the
    weights is biased.

    Paper: Figurnov, Mohamed & Mnih 2018, Implicit reparameterization gradients.
    """

    has_rsample = True

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        z = self.sample(torch.Size(sample_shape))  # [*, Z]
        normal = self.component_distribution.base_dist  # batch [*, K, Z]
        at = z.unsqueeze(-2)
        log_density = normal.log_prob(at)  # [*, K, Z]
        before = log_density.cumsum(-1) - log_density  # log density of z_1 … z_{d-1}
        weight = (self.mixture_distribution.logits.unsqueeze(-1) + before).softmax(-2)
        below = torch.special.ndtr((at - normal.loc) / normal.scale)
        cdf = (weight * below).sum(-2)  # [*, Z]
        with torch.no_grad():
            score = (normal.loc - at) / normal.variance  # [*, K, Z]
            spread = weight * (below - cdf.unsqueeze(-2))
            slope = (spread.transpose(-1, -2) @ score).tril(-1)  # ∂F_d/∂z_j, [*, Z, Z]
            slope += torch.diag_embed((weight * log_density.exp()).sum(-2))
        # The value is z; only its gradient comes from the second term.
        step = torch.linalg.solve_triangular(slope, (cdf - cdf.detach()).unsqueeze(-1), upper=False)
        return z - step.squeeze(-1)


class Mixture(nn.Module):
    """A mixture of mean-field Normals; the encoder gives the weights and each μ and log σ².

    Equation: q(z | x) = Σ_k w_k(x) Π_d N(z_d; μ_kd(x), σ_kd(x)²).

    Args:
        encoder: network to features.
        latent_size: number of latent dimensions Z.
        components: number of Normals K.
        scale: how the encoder's output becomes σ, a name of :data:`~pyro_vae.scales.SCALES`.

    Raises:
        InputError: fewer than 1 component.

    Paper: Morningstar et al. 2021, Automatic differentiation variational inference with mixtures.

    Example:
        >>> encoder = MLP((1, 28, 28)).encoder()
        >>> Mixture(encoder, 20, components=3)(torch.rand(8, 1, 28, 28)).mean.shape
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
        self.scale = build("scale", scale, SCALES)

    def forward(self, x: Tensor) -> Distribution:
        logits, loc, raw = self.head(self.encoder(x)).split(self.sizes, -1)
        each = (self.sizes[0], -1)
        loc, scale = loc.unflatten(-1, each), self.scale(raw.unflatten(-1, each))  # [B, K, Z]
        return NormalMixture(dist.Categorical(logits=logits), dist.Normal(loc, scale).to_event(1))


def moments(q: Any, draws: int = 1000) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each dimension of z, ``[B, Z]`` each.

    Both are exact where the distribution has them, and estimated from ``draws`` draws where it
    has not, as with flows.
    """
    try:
        return q.mean, q.stddev
    except NotImplementedError:
        with torch.no_grad():
            z = q.sample((draws,))  # [draws, B, Z]
        return z.mean(0), z.std(0)


@register_kl(MultivariateNormal, Independent)
@register_kl(LowRankMultivariateNormal, Independent)
def kl_to_diagonal(q: Any, p: Any) -> Tensor:
    """KL(q || p) of a correlated Normal q to a diagonal one p, which torch's table lacks."""
    if not isinstance(p.base_dist, Normal):
        raise NotImplementedError
    deviation = (q.variance + (q.mean - p.mean).square()) / p.variance  # [*, Z]
    log_p = -0.5 * (deviation + (2 * torch.pi * p.variance).log()).sum(-1)
    return -q.entropy() - log_p


GUIDES: dict[str, type[nn.Module]] = {
    "mean-field": MeanField,
    "full-covariance": FullCovariance,
    "low-rank": LowRank,
    "mixture": Mixture,
    "planar": Planar,
    "iaf": IAF,
    "spline": Spline,
    "categorical": Categorical,
    "gumbel-softmax": GumbelSoftmax,
    "joint": Joint,
    "semi-amortized": SemiAmortized,
    "bottom-up": BottomUp,
    "ladder": Ladder,
}

"""Distributions over latents that torch and Pyro lack, or whose own version does not serve here.

:mod:`~pyro_vae.likelihoods.pixels` has those over pixels.
"""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.contrib.zuko import ZukoToPyro
from pyro.distributions import constraints
from pyro.distributions.util import is_validation_enabled
from torch import Tensor
from torch.distributions import (
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    register_kl,
)

# Importing zuko turns off torch's argument checks for the whole process. This turns them on again
# if Pyro has them on.
dist.enable_validation(is_validation_enabled())


def standard_normal(zero: Tensor) -> Any:
    """N(0, I) over vectors of the shape, type and device of ``zero``."""
    return dist.Normal(zero, torch.ones_like(zero)).to_event(1)


class Flow(ZukoToPyro):
    """A zuko flow as a Pyro distribution over real vectors."""

    support = constraints.real_vector

    @property
    def event_shape(self) -> torch.Size:
        # torch's affine transform would count its batch as part of the event.
        noise: Any = self.dist
        return noise.base.event_shape

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self(torch.Size(sample_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Flow:
        return Flow(self.dist.expand(torch.Size(batch_shape)))


class RelaxedOneHot(dist.RelaxedOneHotCategorical):
    """torch's relaxed one-of-K distribution, with draws that are never exactly 0.

    At 0 the density is infinite. At a low temperature the smallest numbers of a draw underflow to
    0, so they are replaced by the smallest normal float.
    """

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        z = super().rsample(torch.Size(sample_shape))
        return z.clamp(min=torch.finfo(z.dtype).tiny)


class NormalMixture(dist.MixtureSameFamily):
    """A mixture of diagonal Normals whose draws have gradients, also for the weights.

    Equation: dz/dφ = -(∂F/∂z)⁻¹ ∂F/∂φ. F_d(z; φ) is the distribution function of z_d given
    z_1 … z_{d-1}; it is uniform for every φ.

    Pyro's ``MixtureOfDiagNormals`` is not used, because its gradient for the weights is biased in
    Pyro 1.9.

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
            deviation = weight * (below - cdf.unsqueeze(-2))
            slope = (deviation.transpose(-1, -2) @ score).tril(-1)  # ∂F_d/∂z_j, [*, Z, Z]
            slope += torch.diag_embed((weight * log_density.exp()).sum(-2))
        # The value of `step` is 0. It only adds the gradient.
        step = torch.linalg.solve_triangular(slope, (cdf - cdf.detach()).unsqueeze(-1), upper=False)
        return z - step.squeeze(-1)


@register_kl(MultivariateNormal, Independent)
@register_kl(LowRankMultivariateNormal, Independent)
def kl_to_diagonal(q: Any, p: Any) -> Tensor:
    """KL(q || p) of a correlated Normal q to a diagonal Normal p. torch's table lacks it."""
    if not isinstance(p.base_dist, Normal):
        raise NotImplementedError
    deviation = (q.variance + (q.mean - p.mean).square()) / p.variance  # [*, Z]
    log_p = -0.5 * (deviation + (2 * torch.pi * p.variance).log()).sum(-1)
    return -q.entropy() - log_p

"""Priors made of Normals: the standard Normal, a learned Normal, a mixture of Normals."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from ..contracts import Prior
from ..distributions import standard_normal
from ..options import at_least_one
from ..scales import SCALES


class StandardNormal(Prior):
    """The standard Normal N(0, I).

    Equation: p(z) = Π_d N(z_d; 0, 1).

    Args:
        latent_size: number of latent dimensions Z.

    Paper: Kingma & Welling 2014, Auto-Encoding Variational Bayes.

    Example:
        >>> from pyro_vae.priors import StandardNormal
        >>> StandardNormal(20)().event_shape
        torch.Size([20])
    """

    zero: Tensor

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        # A buffer, so that the prior moves to the device with the rest of the VAE.
        self.register_buffer("zero", torch.zeros(latent_size), persistent=False)

    def forward(self) -> Distribution:
        return standard_normal(self.zero)


class NormalPrior(Prior):
    """A Normal with independent dimensions; its means and scales are learned.

    Equation: p(z) = Π_d N(z_d; μ_d, σ_d²), σ = exp(½ log σ²).

    Args:
        latent_size: number of latent dimensions Z.

    Paper: Hoffman & Johnson 2016, ELBO surgery, on what a learned prior can gain.

    Example:
        >>> from pyro_vae.priors import NormalPrior
        >>> NormalPrior(20)().event_shape
        torch.Size([20])
    """

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(latent_size))
        self.logvar = nn.Parameter(torch.zeros(latent_size))
        self.scale = SCALES.build("log-variance")

    def forward(self) -> Distribution:
        return dist.Normal(self.loc, self.scale(self.logvar)).to_event(1)


class ConditionalPrior(Prior):
    """A Normal whose means and scales are learned for each class, or are linear in covariates.

    Equation: p(z | c) = Π_d N(z_d; μ_d(c), σ_d(c)²), σ = exp(½ log σ²). It starts as N(0, I).

    Args:
        latent_size: number of latent dimensions Z.
        context_size: how many numbers the context has: the number of classes, or of covariates.

    Paper: Sohn, Lee & Yan 2015, Learning structured output representation using deep conditional
    generative models.

    Example:
        >>> vae = VAE((1, 28, 28), 20, prior="conditional", condition=10)
        >>> vae.model.prior(torch.eye(10)).batch_shape
        torch.Size([10])
    """

    def __init__(self, latent_size: int, context_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(context_size, 2 * latent_size)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.scale = SCALES.build("log-variance")

    def forward(self, context: Tensor) -> Distribution:  # type: ignore[override]
        loc, logvar = self.linear(context).chunk(2, -1)  # each [B, Z]
        return dist.Normal(loc, self.scale(logvar)).to_event(1)


class MixturePrior(Prior):
    """A mixture of diagonal Normals; its weights, means and scales are learned.

    Equation: p(z) = Σ_k w_k Π_d N(z_d; μ_kd, σ_kd²). The means start as draws of N(0, I), the
    scales at 1.

    Args:
        latent_size: number of latent dimensions Z.
        components: number of Normals K.

    Raises:
        InputError: fewer than 1 component.

    Paper: Tomczak & Welling 2018, VAE with a VampPrior, its "mixture of Gaussians".

    Example:
        >>> from pyro_vae.priors import MixturePrior
        >>> MixturePrior(20, components=50)().event_shape
        torch.Size([20])
    """

    def __init__(self, latent_size: int, components: int = 20) -> None:
        super().__init__()
        at_least_one("components", components)
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, latent_size))
        self.logvar = nn.Parameter(torch.zeros(components, latent_size))
        self.scale = SCALES.build("log-variance")

    def forward(self) -> Distribution:
        each = dist.Normal(self.loc, self.scale(self.logvar)).to_event(1)  # batch [K]
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), each)

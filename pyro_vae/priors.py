"""Priors p(z): modules whose ``forward()`` gives a distribution over the latent ``z``, ``[Z]``.

A prior asks for what it needs by the names of its arguments: ``latent_size`` (Z) and, if it is
made of the guide's own posterior, ``posterior`` and ``shape``.

The priors of discrete latents stand in :mod:`~pyro_vae.guides.discrete` and that of several layers
in :mod:`~pyro_vae.hierarchy`, next to the guides that they fit.
"""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn
from zuko.flows.spline import NSF

from .guides.discrete import CategoricalPrior, JointPrior, RelaxedCategoricalPrior
from .guides.flows import Flow
from .hierarchy import Hierarchy
from .networks import Shape
from .parts import InputError, at_least_one
from .scales import SCALES


class StandardNormal(nn.Module):
    """The standard Normal N(0, I).

    Equation: p(z) = Π_d N(z_d; 0, 1).

    Args:
        latent_size: number of latent dimensions Z.

    Paper: Kingma & Welling 2014, Auto-Encoding Variational Bayes.

    Example:
        >>> StandardNormal(20)().event_shape
        torch.Size([20])
    """

    zero: Tensor

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        # A buffer, so that the prior moves to the device with the rest.
        self.register_buffer("zero", torch.zeros(latent_size), persistent=False)

    def forward(self) -> Distribution:
        return dist.Normal(self.zero, torch.ones_like(self.zero)).to_event(1)


class Normal(nn.Module):
    """A Normal with independent dimensions, its means and scales learned.

    Equation: p(z) = Π_d N(z_d; μ_d, σ_d²), σ = exp(½ log σ²).

    Args:
        latent_size: number of latent dimensions Z.

    Paper: Hoffman & Johnson 2016, ELBO surgery, on what a learned prior can gain.

    Example:
        >>> Normal(20)().event_shape
        torch.Size([20])
    """

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(latent_size))
        self.logvar = nn.Parameter(torch.zeros(latent_size))
        self.scale = SCALES["log-variance"]()

    def forward(self) -> Distribution:
        return dist.Normal(self.loc, self.scale(self.logvar)).to_event(1)


class Mixture(nn.Module):
    """A mixture of diagonal Normals, its weights, means and scales learned.

    Equation: p(z) = Σ_k w_k Π_d N(z_d; μ_kd, σ_kd²). The means start as draws of N(0, I), the
    scales at 1.

    Args:
        latent_size: number of latent dimensions Z.
        components: number of Normals K.

    Raises:
        InputError: fewer than 1 component.

    Paper: Tomczak & Welling 2018, VAE with a VampPrior, its "mixture of Gaussians".

    Example:
        >>> Mixture(20, components=50)().event_shape
        torch.Size([20])
    """

    def __init__(self, latent_size: int, components: int = 20) -> None:
        super().__init__()
        at_least_one("components", components)
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, latent_size))
        self.logvar = nn.Parameter(torch.zeros(components, latent_size))
        self.scale = SCALES["log-variance"]()

    def forward(self) -> Distribution:
        each = dist.Normal(self.loc, self.scale(self.logvar)).to_event(1)  # batch [K]
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), each)


class Vamp(nn.Module):
    """The VampPrior: the mixture of the guide's posteriors at learned pseudo-images.

    Equation: p(z) = 1/K Σ_k q(z | u_k), u_k an image with pixels in [0, 1].

    Args:
        shape: ``(C, H, W)`` of an image.
        posterior: the guide; its distribution is taken at the pseudo-images.
        components: number of pseudo-images K.

    Raises:
        InputError: fewer than 1 component, or a guide whose latent has several sites.

    Paper: Tomczak & Welling 2018, VAE with a VampPrior.

    Example:
        >>> vae = VAE((1, 28, 28), 20, prior="vamp(components=100)")
        >>> vae.sample(3).shape
        torch.Size([3, 1, 28, 28])
    """

    def __init__(self, shape: Shape, posterior: nn.Module, components: int = 100) -> None:
        super().__init__()
        at_least_one("components", components)
        if (own := getattr(posterior, "default_prior", None)) in ("joint", "hierarchy"):
            raise InputError(
                f"the vamp prior takes a guide that gives one distribution, which the "
                f"{type(posterior).__name__} guide does not; take the prior {own}"
            )
        self.logits = nn.Parameter(torch.randn(components, *shape))  # of the pixels
        # In a tuple, out of torch's sight: the posterior's weights belong to the guide alone.
        self.borrowed = (posterior,)

    @property
    def posterior(self) -> Any:
        return self.borrowed[0]

    def forward(self) -> Distribution:
        each = self.posterior(self.logits.sigmoid())  # batch [K]
        equal = dist.Categorical(logits=self.logits.new_zeros(len(self.logits)))
        return dist.MixtureSameFamily(equal, each)


class FlowPrior(nn.Module):
    """A neural spline flow: autoregressive spline maps from z to standard Normal noise.

    Equation: p(z) = N(f(z); 0, I) |det ∂f/∂z|, f a chain of autoregressive rational-quadratic
    splines within [-5, 5] and the identity beyond.

    A density takes one pass, a draw one pass for each dimension of z.

    Args:
        latent_size: number of latent dimensions Z.
        layers: number of autoregressive maps.
        units: hidden units of each of the two layers of a map's network.

    Raises:
        InputError: fewer than 1 layer or unit.

    Paper: Chen et al. 2017, Variational lossy autoencoder, for a flow as the prior; Durkan et al.
    2019, Neural spline flows, for this one.

    Example:
        >>> FlowPrior(20)().log_prob(torch.zeros(8, 20)).shape
        torch.Size([8])
    """

    def __init__(self, latent_size: int, layers: int = 3, units: int = 64) -> None:
        super().__init__()
        at_least_one("layers", layers)
        at_least_one("units", units)
        self.flow = NSF(latent_size, transforms=layers, hidden_features=(units, units))

    def forward(self) -> Distribution:
        return Flow(self.flow())


PRIORS: dict[str, type[nn.Module]] = {
    "standard-normal": StandardNormal,
    "normal": Normal,
    "mixture": Mixture,
    "vamp": Vamp,
    "flow": FlowPrior,
    "categorical": CategoricalPrior,
    "relaxed-categorical": RelaxedCategoricalPrior,
    "joint": JointPrior,
    "hierarchy": Hierarchy,
}

"""Likelihoods of numbers above 0, and of numbers between 0 and 1."""

from __future__ import annotations

from math import log

import pyro.distributions as dist
from pyro.distributions import Distribution
from torch import Tensor, nn
from torch.distributions import constraints

from ..contracts import Likelihood
from ..latents import Shape
from ..networks.layers import start_at
from ..options import number
from ..scales import SCALES
from ..supports import open_unit
from .located import logit, per_channel


class LogNormal(Likelihood):
    """Numbers above 0 whose logarithm is Normal, with a learned σ for each channel.

    Equation: log p(x | z) = Σ_i log N(log x_i; μ_i(z), σ_c²) - log x_i, μ(z) = decoder(z), c the
    channel of entry i.

    Args:
        decoder: network from ``[*, Z]`` to ``[*, *shape]``.
        shape: the shape of one observation.
        initial: σ of log x at the start.

    Raises:
        InputError: an initial σ that is not above 0.

    Paper: Limpert, Stahel & Abbt 2001, Log-normal distributions across the sciences.

    Example:
        >>> from pyro_vae.likelihoods import LogNormal
        >>> LogNormal(MLP((7,)).decoder(2), (7,))(torch.zeros(8, 2)).mean.shape
        torch.Size([8, 7])
    """

    support = constraints.positive

    def __init__(self, decoder: nn.Module, shape: Shape, initial: float = 1.0) -> None:
        super().__init__(decoder)
        self.logvar = per_channel(2 * log(number("initial", initial, above=0)), shape)
        self.scale = SCALES.build("log-variance")

    def forward(self, z: Tensor) -> Distribution:
        (loc,) = self.raw(z)
        scale = self.scale(self.logvar).expand_as(loc)
        return self.event(dist.LogNormal(loc, scale), z)

    def start(self, mean: Tensor) -> None:
        # E[x] = exp(μ + σ²/2), and all σ are equal at the start.
        half = 0.5 * self.logvar.detach().flatten()[0].exp()
        start_at(self.decoder, self.outputs, mean, lambda m: m.log() - half)


class Gamma(Likelihood):
    """Numbers above 0: a gamma; the decoder gives the mean, the shape is learned by channel.

    Equation: log p(x | z) = Σ_i a log(a / m_i) + (a - 1) log x_i - a x_i / m_i - log Γ(a),
    m(z) = exp(decoder(z)), a = a_c = exp(log a_c) of the channel c of entry i. The standard
    deviation is m / √a.

    Args:
        decoder: network from ``[*, Z]`` to ``[*, *shape]``.
        shape: the shape of one observation.
        initial: a at the start; 1 is the exponential distribution.

    Raises:
        InputError: an initial a that is not above 0.

    Paper: McCullagh & Nelder 1989, Generalized linear models, chapter 8.

    Example:
        >>> from pyro_vae.likelihoods import Gamma
        >>> Gamma(MLP((7,)).decoder(2), (7,))(torch.zeros(8, 2)).mean.shape
        torch.Size([8, 7])
    """

    support = constraints.positive

    def __init__(self, decoder: nn.Module, shape: Shape, initial: float = 1.0) -> None:
        super().__init__(decoder)
        self.log_shape = per_channel(log(number("initial", initial, above=0)), shape)

    def forward(self, z: Tensor) -> Distribution:
        (log_mean,) = self.raw(z)
        concentration = self.log_shape.exp().expand_as(log_mean)
        rate = (self.log_shape - log_mean).exp()
        return self.event(dist.Gamma(concentration, rate), z)

    def start(self, mean: Tensor) -> None:
        start_at(self.decoder, self.outputs, mean, Tensor.log)


class Beta(Likelihood):
    """Numbers between 0 and 1: a beta; the decoder gives the mean, its precision is learned.

    Equation: x_i ~ Beta(κ m_i, κ (1 - m_i)), m(z) = sigmoid(decoder(z)), κ = κ_c = exp(log κ_c) of
    the channel c of entry i. The variance is m (1 - m) / (1 + κ).

    0 and 1 themselves are refused, because the density there is 0 or infinite.

    Args:
        decoder: network from ``[*, Z]`` to ``[*, *shape]``.
        shape: the shape of one observation.
        initial: κ at the start; the uniform distribution has 2.

    Raises:
        InputError: an initial κ that is not above 0.

    Paper: Ferrari & Cribari-Neto 2004, Beta regression for modelling rates and proportions.

    Example:
        >>> from pyro_vae.likelihoods import Beta
        >>> Beta(MLP((7,)).decoder(2), (7,))(torch.zeros(8, 2)).mean.shape
        torch.Size([8, 7])
    """

    support = open_unit

    def __init__(self, decoder: nn.Module, shape: Shape, initial: float = 2.0) -> None:
        super().__init__(decoder)
        self.log_precision = per_channel(log(number("initial", initial, above=0)), shape)

    def forward(self, z: Tensor) -> Distribution:
        (raw,) = self.raw(z)
        precision = self.log_precision.exp()
        # sigmoid(-raw) is 1 - m without a loss of digits.
        return self.event(dist.Beta(precision * raw.sigmoid(), precision * (-raw).sigmoid()), z)

    def start(self, mean: Tensor) -> None:
        start_at(self.decoder, self.outputs, mean, logit)

"""Likelihoods of real numbers: pixels in [0, 1], whose mean image a sigmoid keeps there, or any."""

from __future__ import annotations

from math import log
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn
from torch.distributions import constraints

from ..contracts import Likelihood
from ..networks.layers import start_at
from ..options import number
from ..scales import SCALES
from . import pixels
from .located import Located, Scaling, inside


class ContinuousBernoulli(Likelihood):
    """Pixels in [0, 1]: the Bernoulli's formula, normalized over the interval.

    Equation: log p(x | z) = Σ_i x_i log λ_i + (1 - x_i) log(1 - λ_i) + log C(λ_i), λ =
    sigmoid(decoder(z)), C(λ) = 2 artanh(1 - 2λ) / (1 - 2λ).

    Args:
        decoder: network from ``[*, Z]`` to ``[*, *shape]``.

    Paper: Loaiza-Ganem & Cunningham 2019, The continuous Bernoulli.

    Example:
        >>> from pyro_vae.likelihoods import ContinuousBernoulli
        >>> ContinuousBernoulli(MLP((1, 28, 28)).decoder(20))(torch.zeros(8, 20)).mean.shape
        torch.Size([8, 1, 28, 28])
    """

    support = constraints.unit_interval

    def forward(self, z: Tensor) -> Distribution:
        (logits,) = self.raw(z)
        return self.event(pixels.ContinuousBernoulli(logits=logits, validate_args=False), z)

    def start(self, mean: Tensor) -> None:
        start_at(self.decoder, self.outputs, mean, lambda m: pixels.logit_of_mean(inside(m)))


class Normal(Located):
    """Real numbers: a Normal around the decoder's mean, with one fixed σ for all entries.

    Equation: log p(x | z) = Σ_i log N(x_i; μ_i(z), σ²), μ(z) = sigmoid(decoder(z)).

    Args:
        decoder: network from ``[*, Z]`` to ``[*, *shape]``.
        scale: σ, in units of x, or of the deviations in ``scaling``.
        bounded: whether the sigmoid keeps μ in [0, 1]; without it, μ(z) = decoder(z).
        scaling: see :class:`~pyro_vae.likelihoods.located.Located`.

    Raises:
        InputError: a scale that is not above 0.

    Paper: Kingma & Welling 2014, Auto-Encoding Variational Bayes, appendix C.2.

    Example:
        >>> from pyro_vae.likelihoods import Normal
        >>> Normal(MLP((1, 28, 28)).decoder(20))(torch.zeros(8, 20)).mean.shape
        torch.Size([8, 1, 28, 28])
    """

    def __init__(
        self, decoder: nn.Module, scale: float = 0.1, bounded: bool = True, scaling: Scaling = None
    ) -> None:
        super().__init__(decoder, bounded, scaling)
        self.scale = number("scale", scale, above=0)

    def forward(self, z: Tensor) -> Distribution:
        (raw,) = self.raw(z)
        scale = self.unit * torch.full_like(raw, self.scale)
        return self.event(dist.Normal(self.loc(raw), scale), z)


class LearnedScale(Located):
    """Base of the likelihoods with one learned scale for all entries."""

    def __init__(
        self,
        decoder: nn.Module,
        initial: float = 0.1,
        bounded: bool = True,
        scaling: Scaling = None,
    ) -> None:
        super().__init__(decoder, bounded, scaling)
        self.logvar = nn.Parameter(torch.tensor(2 * log(number("initial", initial, above=0))))
        self.scale = SCALES.build("log-variance")

    def loc_scale(self, z: Tensor) -> tuple[Tensor, Tensor]:
        (raw,) = self.raw(z)  # [*, *shape]
        return self.loc(raw), self.unit * self.scale(self.logvar).expand_as(raw)


class NormalLearned(LearnedScale):
    """Real numbers: like ``normal``, with one learned σ for all entries.

    Equation: log p(x | z) = Σ_i log N(x_i; μ_i(z), σ²), μ(z) = sigmoid(decoder(z)), σ =
    exp(½ log σ²).

    Args:
        decoder: network from ``[*, Z]`` to ``[*, *shape]``.
        initial: σ at the start, in units of x, or of the deviations in ``scaling``.
        bounded: whether the sigmoid keeps μ in [0, 1]; without it, μ(z) = decoder(z).
        scaling: see :class:`~pyro_vae.likelihoods.located.Located`.

    Raises:
        InputError: an initial σ that is not above 0.

    Paper: Rybkin et al. 2021, Simple and effective VAE training with calibrated decoders.

    Example:
        >>> from pyro_vae.likelihoods import NormalLearned
        >>> NormalLearned(MLP((1, 28, 28)).decoder(20))(torch.zeros(8, 20)).mean.shape
        torch.Size([8, 1, 28, 28])
    """

    def forward(self, z: Tensor) -> Distribution:
        return self.event(dist.Normal(*self.loc_scale(z)), z)


class NormalPerPixel(Located):
    """Real numbers: like ``normal``; the decoder gives a σ for each entry.

    Equation: log p(x | z) = Σ_i log N(x_i; μ_i(z), σ_i(z)²), σ = floor + exp(½ log σ²). μ is the
    sigmoid of the decoder's first output, and log σ² its second output.

    Args:
        decoder: network from ``[*, Z]`` to ``[*, 2C, *sides]``.
        floor: smallest σ, in units of x, or of the deviations in ``scaling``. Without it, σ of an
            entry that never changes goes to 0 and its density to infinity.
        scale: how the decoder's second output becomes σ, a name of
            :data:`~pyro_vae.registry.SCALES`.
        bounded: whether the sigmoid keeps μ in [0, 1]; without it, μ is the output itself.
        scaling: see :class:`~pyro_vae.likelihoods.located.Located`.

    Raises:
        InputError: a floor that is not above 0.

    Paper: Kingma & Welling 2014, Auto-Encoding Variational Bayes, appendix C.2.

    Example:
        >>> from pyro_vae.likelihoods import NormalPerPixel
        >>> decoder = MLP((1, 28, 28)).decoder(20, NormalPerPixel.outputs)
        >>> NormalPerPixel(decoder)(torch.zeros(8, 20)).stddev.shape
        torch.Size([8, 1, 28, 28])
    """

    outputs = 2

    def __init__(
        self,
        decoder: nn.Module,
        floor: float = 1 / 255,
        scale: Any = "log-variance(initial=0.1)",
        bounded: bool = True,
        scaling: Scaling = None,
    ) -> None:
        super().__init__(decoder, bounded, scaling)
        self.floor = number("floor", floor, above=0)
        self.scale = SCALES.build(scale)

    def forward(self, z: Tensor) -> Distribution:
        loc, raw = self.raw(z)  # each [*, *shape]
        scale = self.unit * (self.floor + self.scale(raw))
        return self.event(dist.Normal(self.loc(loc), scale), z)


class Laplace(LearnedScale):
    """Real numbers: a Laplace around the decoder's mean, with one learned scale for all entries.

    Equation: log p(x | z) = Σ_i -abs(x_i - μ_i(z)) / b - log 2b, μ(z) = sigmoid(decoder(z)).

    Args:
        decoder: network from ``[*, Z]`` to ``[*, *shape]``.
        initial: b at the start, in units of x, or of the deviations in ``scaling``.
        bounded: whether the sigmoid keeps μ in [0, 1]; without it, μ(z) = decoder(z).
        scaling: see :class:`~pyro_vae.likelihoods.located.Located`.

    Raises:
        InputError: an initial b that is not above 0.

    Paper: Rybkin et al. 2021, Simple and effective VAE training with calibrated decoders.

    Example:
        >>> from pyro_vae.likelihoods import Laplace
        >>> Laplace(MLP((1, 28, 28)).decoder(20))(torch.zeros(8, 20)).mean.shape
        torch.Size([8, 1, 28, 28])
    """

    def forward(self, z: Tensor) -> Distribution:
        return self.event(dist.Laplace(*self.loc_scale(z)), z)


class LogCosh(LearnedScale):
    """Real numbers: the density of the log-cosh loss, with one learned scale for all entries.

    Equation: log p(x | z) = Σ_i -log cosh((x_i - μ_i(z)) / s) - log πs, μ(z) =
    sigmoid(decoder(z)).

    Args:
        decoder: network from ``[*, Z]`` to ``[*, *shape]``.
        initial: s at the start, in units of x, or of the deviations in ``scaling``.
        bounded: whether the sigmoid keeps μ in [0, 1]; without it, μ(z) = decoder(z).
        scaling: see :class:`~pyro_vae.likelihoods.located.Located`.

    Raises:
        InputError: an initial s that is not above 0.

    Paper: Chen et al. 2019, Log hyperbolic cosine loss improves variational auto-encoder.

    Example:
        >>> from pyro_vae.likelihoods import LogCosh
        >>> LogCosh(MLP((1, 28, 28)).decoder(20))(torch.zeros(8, 20)).mean.shape
        torch.Size([8, 1, 28, 28])
    """

    def forward(self, z: Tensor) -> Distribution:
        return self.event(dist.SoftLaplace(*self.loc_scale(z)), z)

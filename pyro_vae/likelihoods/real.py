"""Likelihoods of real pixels in [0, 1]. By default a sigmoid keeps the mean image in [0, 1]."""

from __future__ import annotations

from math import log
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from ..contracts import Likelihood
from ..networks.layers import start_at
from ..options import number
from ..scales import SCALES
from . import pixels
from .located import Located, inside


class ContinuousBernoulli(Likelihood):
    """Pixels in [0, 1]: the Bernoulli's formula, normalized over the interval.

    Equation: log p(x | z) = Σ_i x_i log λ_i + (1 - x_i) log(1 - λ_i) + log C(λ_i), λ =
    sigmoid(decoder(z)), C(λ) = 2 artanh(1 - 2λ) / (1 - 2λ).

    Args:
        decoder: network from ``[*, Z]`` to ``[*, C, H, W]``.

    Paper: Loaiza-Ganem & Cunningham 2019, The continuous Bernoulli.

    Example:
        >>> from pyro_vae.likelihoods import ContinuousBernoulli
        >>> ContinuousBernoulli(MLP((1, 28, 28)).decoder(20))(torch.zeros(8, 20)).mean.shape
        torch.Size([8, 1, 28, 28])
    """

    def forward(self, z: Tensor) -> Distribution:
        logits = self.decoder(z)
        return pixels.ContinuousBernoulli(logits=logits, validate_args=False).to_event(3)

    def start(self, mean: Tensor) -> None:
        start_at(self.decoder, self.outputs, mean, lambda m: pixels.logit_of_mean(inside(m)))


class Normal(Located):
    """Real pixels: a Normal around the decoder's image, with one fixed σ for all pixels.

    Equation: log p(x | z) = Σ_i log N(x_i; μ_i(z), σ²), μ(z) = sigmoid(decoder(z)).

    Args:
        decoder: network from ``[*, Z]`` to ``[*, C, H, W]``.
        scale: σ, in units of the pixel's range [0, 1].
        bounded: whether the sigmoid keeps μ in [0, 1]; without it, μ(z) = decoder(z).

    Raises:
        InputError: a scale that is not above 0.

    Paper: Kingma & Welling 2014, Auto-Encoding Variational Bayes, appendix C.2.

    Example:
        >>> from pyro_vae.likelihoods import Normal
        >>> Normal(MLP((1, 28, 28)).decoder(20))(torch.zeros(8, 20)).mean.shape
        torch.Size([8, 1, 28, 28])
    """

    def __init__(self, decoder: nn.Module, scale: float = 0.1, bounded: bool = True) -> None:
        super().__init__(decoder, bounded)
        self.scale = number("scale", scale, above=0)

    def forward(self, z: Tensor) -> Distribution:
        loc = self.loc(self.decoder(z))
        return dist.Normal(loc, torch.full_like(loc, self.scale)).to_event(3)


class LearnedScale(Located):
    """Base of the likelihoods with one learned scale for all pixels."""

    def __init__(self, decoder: nn.Module, initial: float = 0.1, bounded: bool = True) -> None:
        super().__init__(decoder, bounded)
        self.logvar = nn.Parameter(torch.tensor(2 * log(number("initial", initial, above=0))))
        self.scale = SCALES.build("log-variance")

    def loc_scale(self, z: Tensor) -> tuple[Tensor, Tensor]:
        loc = self.loc(self.decoder(z))  # [*, C, H, W]
        return loc, self.scale(self.logvar).expand_as(loc)


class NormalLearned(LearnedScale):
    """Real pixels: like ``normal``, with one learned σ for all pixels.

    Equation: log p(x | z) = Σ_i log N(x_i; μ_i(z), σ²), μ(z) = sigmoid(decoder(z)), σ =
    exp(½ log σ²).

    Args:
        decoder: network from ``[*, Z]`` to ``[*, C, H, W]``.
        initial: σ at the start, in units of the pixel's range [0, 1].
        bounded: whether the sigmoid keeps μ in [0, 1]; without it, μ(z) = decoder(z).

    Raises:
        InputError: an initial σ that is not above 0.

    Paper: Rybkin et al. 2021, Simple and effective VAE training with calibrated decoders.

    Example:
        >>> from pyro_vae.likelihoods import NormalLearned
        >>> NormalLearned(MLP((1, 28, 28)).decoder(20))(torch.zeros(8, 20)).mean.shape
        torch.Size([8, 1, 28, 28])
    """

    def forward(self, z: Tensor) -> Distribution:
        return dist.Normal(*self.loc_scale(z)).to_event(3)


class NormalPerPixel(Located):
    """Real pixels: like ``normal``; the decoder gives a σ for each pixel.

    Equation: log p(x | z) = Σ_i log N(x_i; μ_i(z), σ_i(z)²), σ = floor + exp(½ log σ²). μ is the
    sigmoid of the decoder's first output, and log σ² its second output.

    Args:
        decoder: network from ``[*, Z]`` to ``[*, 2C, H, W]``.
        floor: smallest σ, in units of the pixel's range [0, 1]. Without it, σ of a pixel that
            never changes goes to 0 and its density to infinity.
        scale: how the decoder's second output becomes σ, a name of
            :data:`~pyro_vae.registry.SCALES`.
        bounded: whether the sigmoid keeps μ in [0, 1]; without it, μ is the output itself.

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
    ) -> None:
        super().__init__(decoder, bounded)
        self.floor = number("floor", floor, above=0)
        self.scale = SCALES.build(scale)

    def forward(self, z: Tensor) -> Distribution:
        loc, raw = self.decoder(z).chunk(2, -3)  # each [*, C, H, W]
        return dist.Normal(self.loc(loc), self.floor + self.scale(raw)).to_event(3)


class Laplace(LearnedScale):
    """Real pixels: a Laplace around the decoder's image, with one learned scale for all pixels.

    Equation: log p(x | z) = Σ_i -abs(x_i - μ_i(z)) / b - log 2b, μ(z) = sigmoid(decoder(z)).

    Args:
        decoder: network from ``[*, Z]`` to ``[*, C, H, W]``.
        initial: b at the start, in units of the pixel's range [0, 1].
        bounded: whether the sigmoid keeps μ in [0, 1]; without it, μ(z) = decoder(z).

    Raises:
        InputError: an initial b that is not above 0.

    Paper: Rybkin et al. 2021, Simple and effective VAE training with calibrated decoders.

    Example:
        >>> from pyro_vae.likelihoods import Laplace
        >>> Laplace(MLP((1, 28, 28)).decoder(20))(torch.zeros(8, 20)).mean.shape
        torch.Size([8, 1, 28, 28])
    """

    def forward(self, z: Tensor) -> Distribution:
        return dist.Laplace(*self.loc_scale(z)).to_event(3)


class LogCosh(LearnedScale):
    """Real pixels: the density of the log-cosh loss, with one learned scale for all pixels.

    Equation: log p(x | z) = Σ_i -log cosh((x_i - μ_i(z)) / s) - log πs, μ(z) =
    sigmoid(decoder(z)).

    Args:
        decoder: network from ``[*, Z]`` to ``[*, C, H, W]``.
        initial: s at the start, in units of the pixel's range [0, 1].
        bounded: whether the sigmoid keeps μ in [0, 1]; without it, μ(z) = decoder(z).

    Raises:
        InputError: an initial s that is not above 0.

    Paper: Chen et al. 2019, Log hyperbolic cosine loss improves variational auto-encoder.

    Example:
        >>> from pyro_vae.likelihoods import LogCosh
        >>> LogCosh(MLP((1, 28, 28)).decoder(20))(torch.zeros(8, 20)).mean.shape
        torch.Size([8, 1, 28, 28])
    """

    def forward(self, z: Tensor) -> Distribution:
        return dist.SoftLaplace(*self.loc_scale(z)).to_event(3)

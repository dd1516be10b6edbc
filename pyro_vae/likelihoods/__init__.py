"""Likelihoods p(x | z): modules whose ``forward(z)`` gives a distribution over images.

A likelihood owns the decoder, which gives ``outputs`` numbers for each pixel, and says which
pixels it can score. ``log_prob`` is that of a whole image ``[C, H, W]``: a sum of nats.
"""

from __future__ import annotations

from math import log
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from ..parts import InputError, build, number
from ..scales import SCALES
from . import pixels


class Likelihood(nn.Module):
    """What every likelihood shares: the decoder and the check of the pixels."""

    outputs: ClassVar[int] = 1
    """Numbers that the decoder gives for each pixel."""
    binary: ClassVar[bool] = False
    """Whether pixels are 0 or 1; otherwise they are real numbers in [0, 1]."""
    levels: ClassVar[int | None] = None
    """How many values a pixel can have, if ``log_prob`` is that of a value and no density."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def check(self, x: Tensor) -> None:
        """Raise :class:`~pyro_vae.parts.InputError` if pixels in [0, 1] cannot be scored."""
        if self.binary and not ((x == 0) | (x == 1)).all():
            raise InputError(
                f"the {type(self).__name__} likelihood scores pixels that are 0 or 1, and the "
                "given ones lie between; binarize them (dynamic, static or threshold) or take the "
                "continuous-bernoulli likelihood"
            )
        if self.levels == 256 and not pixels.DiscretizedLogistic.support.check(x).all():
            raise InputError(
                f"the {type(self).__name__} likelihood scores pixels of 256 levels, k/255, and the "
                "given ones lie between; take the continuous-bernoulli or a normal likelihood"
            )


class Bernoulli(Likelihood):
    """Binary pixels: the decoder gives the logit of each pixel being 1.

    Equation: log p(x | z) = Σ_i x_i log p_i + (1 - x_i) log(1 - p_i), p = sigmoid(decoder(z)).

    Grey pixels are refused: the formula still gives a number for them, but it is no density
    (Loaiza-Ganem & Cunningham 2019). Binarized, a grey value is the probability of drawing 1.

    Args:
        decoder: network from ``[*, Z]`` to ``[*, C, H, W]``.

    Raises:
        InputError: pixels other than 0 and 1.

    Paper: Kingma & Welling 2014, Auto-Encoding Variational Bayes, appendix C.1.

    Example:
        >>> Bernoulli(MLP((1, 28, 28)).decoder(20))(torch.zeros(8, 20)).mean.shape
        torch.Size([8, 1, 28, 28])
    """

    binary = True

    def forward(self, z: Tensor) -> Distribution:
        # Our own check of x says more than torch's, so torch's is left out.
        return dist.Bernoulli(logits=self.decoder(z), validate_args=False).to_event(3)


class ContinuousBernoulli(Likelihood):
    """Pixels in [0, 1]: the Bernoulli's formula, normalized over the interval.

    Equation: log p(x | z) = Σ_i x_i log λ_i + (1 - x_i) log(1 - λ_i) + log C(λ_i), λ =
    sigmoid(decoder(z)), C(λ) = 2 artanh(1 - 2λ) / (1 - 2λ).

    Args:
        decoder: network from ``[*, Z]`` to ``[*, C, H, W]``.

    Raises:
        InputError: pixels outside [0, 1].

    Paper: Loaiza-Ganem & Cunningham 2019, The continuous Bernoulli.

    Example:
        >>> ContinuousBernoulli(MLP((1, 28, 28)).decoder(20))(torch.zeros(8, 20)).mean.shape
        torch.Size([8, 1, 28, 28])
    """

    def forward(self, z: Tensor) -> Distribution:
        logits = self.decoder(z)
        return pixels.ContinuousBernoulli(logits=logits, validate_args=False).to_event(3)


class Normal(Likelihood):
    """Real pixels: a Normal around the decoder's image with one σ for all pixels, given by you.

    Equation: log p(x | z) = Σ_i log N(x_i; decoder(z)_i, σ²).

    Args:
        decoder: network from ``[*, Z]`` to ``[*, C, H, W]``.
        scale: σ, in units of the pixel's range [0, 1].

    Raises:
        InputError: a scale that is not above 0, or pixels outside [0, 1].

    Paper: Kingma & Welling 2014, Auto-Encoding Variational Bayes, appendix C.2.

    Example:
        >>> Normal(MLP((1, 28, 28)).decoder(20))(torch.zeros(8, 20)).mean.shape
        torch.Size([8, 1, 28, 28])
    """

    def __init__(self, decoder: nn.Module, scale: float = 0.1) -> None:
        super().__init__(decoder)
        self.scale = number("scale", scale, above=0)

    def forward(self, z: Tensor) -> Distribution:
        loc = self.decoder(z)
        return dist.Normal(loc, torch.full_like(loc, self.scale)).to_event(3)


class LearnedScale(Likelihood):
    """Base of the likelihoods with one learned scale for all pixels."""

    def __init__(self, decoder: nn.Module, initial: float = 0.1) -> None:
        super().__init__(decoder)
        self.logvar = nn.Parameter(torch.tensor(2 * log(number("initial", initial, above=0))))
        self.scale = SCALES["log-variance"]()

    def loc_scale(self, z: Tensor) -> tuple[Tensor, Tensor]:
        loc = self.decoder(z)  # [*, C, H, W]
        return loc, self.scale(self.logvar).expand_as(loc)


class NormalLearned(LearnedScale):
    """Real pixels: as ``normal``, with one σ for all pixels that is learned.

    Equation: log p(x | z) = Σ_i log N(x_i; decoder(z)_i, σ²), σ = exp(½ log σ²).

    Args:
        decoder: network from ``[*, Z]`` to ``[*, C, H, W]``.
        initial: σ at the start, in units of the pixel's range [0, 1].

    Raises:
        InputError: an initial σ that is not above 0, or pixels outside [0, 1].

    Paper: Rybkin et al. 2021, Simple and effective VAE training with calibrated decoders.

    Example:
        >>> NormalLearned(MLP((1, 28, 28)).decoder(20))(torch.zeros(8, 20)).mean.shape
        torch.Size([8, 1, 28, 28])
    """

    def forward(self, z: Tensor) -> Distribution:
        return dist.Normal(*self.loc_scale(z)).to_event(3)


class NormalPerPixel(Likelihood):
    """Real pixels: as ``normal``, with a σ for each pixel that the decoder gives.

    Equation: log p(x | z) = Σ_i log N(x_i; μ_i(z), σ_i(z)²), σ = floor + exp(½ log σ²).

    Args:
        decoder: network from ``[*, Z]`` to ``[*, 2C, H, W]``.
        floor: smallest σ, in units of the pixel's range [0, 1]; without it a pixel that never
            changes would draw its σ to 0 and its density to infinity.
        scale: how the decoder's second output becomes σ, a name of
            :data:`~pyro_vae.scales.SCALES`.

    Raises:
        InputError: a floor that is not above 0, or pixels outside [0, 1].

    Paper: Kingma & Welling 2014, Auto-Encoding Variational Bayes, appendix C.2.

    Example:
        >>> decoder = MLP((1, 28, 28)).decoder(20, NormalPerPixel.outputs)
        >>> NormalPerPixel(decoder)(torch.zeros(8, 20)).stddev.shape
        torch.Size([8, 1, 28, 28])
    """

    outputs = 2

    def __init__(
        self, decoder: nn.Module, floor: float = 1 / 255, scale: Any = "log-variance(initial=0.1)"
    ) -> None:
        super().__init__(decoder)
        self.floor = number("floor", floor, above=0)
        self.scale = build("scale", scale, SCALES)

    def forward(self, z: Tensor) -> Distribution:
        loc, raw = self.decoder(z).chunk(2, -3)  # each [*, C, H, W]
        return dist.Normal(loc, self.floor + self.scale(raw)).to_event(3)


class Laplace(LearnedScale):
    """Real pixels: a Laplace around the decoder's image, with one scale for all that is learned.

    Equation: log p(x | z) = Σ_i -abs(x_i - decoder(z)_i) / b - log 2b.

    Args:
        decoder: network from ``[*, Z]`` to ``[*, C, H, W]``.
        initial: b at the start, in units of the pixel's range [0, 1].

    Raises:
        InputError: an initial b that is not above 0, or pixels outside [0, 1].

    Paper: Rybkin et al. 2021, as for ``normal-learned``.

    Example:
        >>> Laplace(MLP((1, 28, 28)).decoder(20))(torch.zeros(8, 20)).mean.shape
        torch.Size([8, 1, 28, 28])
    """

    def forward(self, z: Tensor) -> Distribution:
        return dist.Laplace(*self.loc_scale(z)).to_event(3)


class LogCosh(LearnedScale):
    """Real pixels: minus the log-cosh loss, normalized; one scale for all that is learned.

    Equation: log p(x | z) = Σ_i -log cosh((x_i - decoder(z)_i) / s) - log πs.

    Args:
        decoder: network from ``[*, Z]`` to ``[*, C, H, W]``.
        initial: s at the start, in units of the pixel's range [0, 1].

    Raises:
        InputError: an initial s that is not above 0, or pixels outside [0, 1].

    Paper: Chen et al. 2019, Log hyperbolic cosine loss improves variational auto-encoder.

    Example:
        >>> LogCosh(MLP((1, 28, 28)).decoder(20))(torch.zeros(8, 20)).mean.shape
        torch.Size([8, 1, 28, 28])
    """

    def forward(self, z: Tensor) -> Distribution:
        return dist.SoftLaplace(*self.loc_scale(z)).to_event(3)


class DiscretizedLogistic(Likelihood):
    """Pixels of 256 levels k/255: a logistic, rounded; the decoder gives its μ and its scale.

    Equation: P(x_i = k/255) = S(k + ½) - S(k - ½), S(t) = sigmoid((t/255 - μ_i(z)) / s_i(z)).

    Args:
        decoder: network from ``[*, Z]`` to ``[*, 2C, H, W]``.
        scale: how the decoder's second output becomes s, a name of
            :data:`~pyro_vae.scales.SCALES`.

    Raises:
        InputError: pixels that are not k/255.

    Paper: Kingma et al. 2016, Improving variational inference with inverse autoregressive flow;
    Salimans et al. 2017, PixelCNN++.

    Example:
        >>> decoder = MLP((1, 28, 28)).decoder(20, DiscretizedLogistic.outputs)
        >>> DiscretizedLogistic(decoder)(torch.zeros(8, 20)).mean.shape
        torch.Size([8, 1, 28, 28])
    """

    outputs = 2
    levels = 256

    def __init__(
        self, decoder: nn.Module, scale: Any = "log-variance-clamped(initial=0.1)"
    ) -> None:
        super().__init__(decoder)
        self.scale = build("scale", scale, SCALES)

    def forward(self, z: Tensor) -> Distribution:
        loc, raw = self.decoder(z).chunk(2, -3)  # each [*, C, H, W]
        return pixels.DiscretizedLogistic(loc, self.scale(raw)).to_event(3)


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "continuous-bernoulli": ContinuousBernoulli,
    "normal": Normal,
    "normal-learned": NormalLearned,
    "normal-per-pixel": NormalPerPixel,
    "laplace": Laplace,
    "log-cosh": LogCosh,
    "discretized-logistic": DiscretizedLogistic,
}

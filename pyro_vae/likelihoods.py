"""Likelihoods p(x | z): modules whose ``forward(z)`` gives a distribution over images.

A likelihood owns the decoder, which gives ``outputs`` numbers for each pixel, and says which
pixels it can score. All are densities or probabilities of a whole image ``[C, H, W]``: the sum of
``log_prob`` over pixels is in nats.
"""

from __future__ import annotations

from math import log
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from .parts import InputError
from .scales import SCALES


class Likelihood(nn.Module):
    """What every likelihood shares: the decoder and the check of the pixels."""

    outputs: ClassVar[int] = 1
    """Numbers that the decoder gives for each pixel."""
    binary: ClassVar[bool] = False
    """Whether pixels are 0 or 1; otherwise they are real numbers in [0, 1]."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def check(self, x: Tensor) -> None:
        """Raise :class:`~pyro_vae.parts.InputError` if ``x`` has pixels that cannot be scored."""
        if not ((x >= 0) & (x <= 1)).all():
            raise InputError(
                "pixels are numbers in [0, 1]; the given ones reach "
                f"from {x.min():.3g} to {x.max():.3g}"
            )
        if self.binary and not ((x == 0) | (x == 1)).all():
            raise InputError(
                f"the {type(self).__name__} likelihood scores pixels that are 0 or 1, and the "
                "given ones lie between; binarize them (dynamic, static or threshold) or take the "
                "continuous-bernoulli likelihood"
            )


class Bernoulli(Likelihood):
    """Binary pixels: the decoder gives the logit of each pixel being 1.

    Equation: log p(x | z) = Σ_i x_i log p_i + (1 - x_i) log(1 - p_i), p = sigmoid(decoder(z)).

    Grey pixels are refused: the formula still gives a number for them, but it is no density
    (Loaiza-Ganem & Cunningham 2019). Data sets are binarized by name (`dynamic` by default): a
    grey value is then the probability that the pixel is drawn as 1.

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
        return dist.ContinuousBernoulli(logits=logits, validate_args=False).to_event(3)


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
        >>> Normal(MLP((1, 28, 28)).decoder(20), scale=0.1)(torch.zeros(8, 20)).mean.shape
        torch.Size([8, 1, 28, 28])
    """

    def __init__(self, decoder: nn.Module, scale: float = 0.1) -> None:
        super().__init__(decoder)
        if not scale > 0:
            raise InputError(f"the normal likelihood's scale is a number above 0, not {scale}")
        self.scale = scale

    def forward(self, z: Tensor) -> Distribution:
        loc = self.decoder(z)
        return dist.Normal(loc, torch.full_like(loc, self.scale)).to_event(3)


class NormalLearned(Likelihood):
    """Real pixels: as ``normal``, with one σ for all pixels that is learned.

    Equation: log p(x | z) = Σ_i log N(x_i; decoder(z)_i, σ²), σ = exp(½ log σ²).

    Args:
        decoder: network from ``[*, Z]`` to ``[*, C, H, W]``.
        initial: σ at the start, in units of the pixel's range [0, 1].

    Raises:
        InputError: an initial σ that is not above 0, or pixels outside [0, 1].

    Paper: Rybkin, Daniilidis & Levine 2021, Simple and effective VAE training with calibrated
    decoders.

    Example:
        >>> NormalLearned(MLP((1, 28, 28)).decoder(20))(torch.zeros(8, 20)).mean.shape
        torch.Size([8, 1, 28, 28])
    """

    def __init__(self, decoder: nn.Module, initial: float = 0.1) -> None:
        super().__init__(decoder)
        if not initial > 0:
            raise InputError(f"the learned σ starts at a number above 0, not {initial}")
        self.logvar = nn.Parameter(torch.tensor(2 * log(initial)))
        self.scale = SCALES["log-variance"]()

    def forward(self, z: Tensor) -> Distribution:
        loc = self.decoder(z)
        return dist.Normal(loc, self.scale(self.logvar).expand_as(loc)).to_event(3)


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "continuous-bernoulli": ContinuousBernoulli,
    "normal": Normal,
    "normal-learned": NormalLearned,
}

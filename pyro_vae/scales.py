"""From the encoder's raw output to the scale of a Normal: log-variance and its rivals.

An encoder may output any real number, a Normal's scale σ must be positive. Each class below is
one map from the first to the second. All of them take ``initial``, the σ that the raw output 0
stands for, so that rivals can be compared from the same start:

    >>> SCALES["log-scale"](initial=0.1)(torch.zeros(1))
    tensor([0.1000])
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from .errors import InputError
from .registry import SCALES


class Scale(nn.Module, ABC):
    """A map from raw encoder output to σ; the base of all below.

    A subclass gives ``sigma(raw)`` and ``raw(sigma)``, inverse to each other inside ``range``, and
    ``log_variance(raw)`` where it is known without computing σ.

    Args:
        initial: σ at raw output 0; None leaves the map as its equation stands.

    Attributes:
        range: the smallest and the largest σ, in the unit of z.

    Raises:
        InputError: if ``initial`` lies outside ``range``.
    """

    range: tuple[float, float] = (0.0, math.inf)

    def __init__(self, initial: float | None = None) -> None:
        super().__init__()
        self.offset = 0.0
        if initial is not None:
            self.offset = self.inverse(torch.tensor(initial, dtype=torch.float64)).item()

    def forward(self, raw: Tensor) -> Tensor:
        """σ, elementwise, of the shape of ``raw``."""
        return self.sigma(self.shift(raw))

    def logvar(self, raw: Tensor) -> Tensor:
        """log σ², elementwise: what the closed-form KL needs next to σ²."""
        return self.log_variance(self.shift(raw))

    def inverse(self, scale: Tensor) -> Tensor:
        """The raw output that gives ``scale``.

        Raises:
            InputError: if ``scale`` does not lie strictly inside ``range``.
        """
        low, high = self.range
        if not bool(((scale > low) & (scale < high)).all()):
            raise InputError(
                f"scale {scale.min().item():g} to {scale.max().item():g} is out of reach: "
                f"{type(self).__name__} gives scales between {low:g} and {high:g}"
            )
        return self.raw(scale) - self.offset

    def shift(self, raw: Tensor) -> Tensor:
        return raw + self.offset if self.offset else raw

    @abstractmethod
    def sigma(self, raw: Tensor) -> Tensor:
        """The map itself, before any shift."""

    @abstractmethod
    def raw(self, sigma: Tensor) -> Tensor:
        """Its inverse inside ``range``."""

    def log_variance(self, raw: Tensor) -> Tensor:
        return 2 * self.sigma(raw).abs().log()


class Raw(Scale):
    """σ = raw: no constraint at all, and an error at the first scale that is not positive.

    Range: all reals. Source: the question itself, "why won't we output the standard deviation?"
    (Data Science Stack Exchange, question 117317).

    Raises:
        InputError: from ``forward``, if a scale is not positive. NaN is left to pass, since it
            comes from elsewhere.
    """

    range = (-math.inf, math.inf)

    def forward(self, raw: Tensor) -> Tensor:
        scale = super().forward(raw)
        wrong = scale <= 0
        if bool(wrong.any()):
            raise InputError(
                f"the encoder's raw output gave {wrong.double().mean().item():.0%} scales of zero "
                "or less, which no Normal takes; use a scale that is positive by construction, "
                "such as log-variance"
            )
        return scale

    def sigma(self, raw: Tensor) -> Tensor:
        return raw

    def raw(self, sigma: Tensor) -> Tensor:
        return sigma


class Absolute(Scale):
    """σ = abs(raw): positive but for raw = 0, where the gradient jumps.

    Range: [0, inf). Two raw outputs give each σ; the inverse is the positive one. Source: public
    code, without a paper that we know of.
    """

    def sigma(self, raw: Tensor) -> Tensor:
        return raw.abs()

    def raw(self, sigma: Tensor) -> Tensor:
        return sigma


class ReLU(Scale):
    """σ = max(raw, 0) + 1e-6: no gradient wherever the raw output is negative.

    Range: [1e-6, inf). Source: public code, without a paper that we know of.
    """

    range = (1e-6, math.inf)

    def sigma(self, raw: Tensor) -> Tensor:
        return raw.relu() + self.range[0]

    def raw(self, sigma: Tensor) -> Tensor:
        return sigma - self.range[0]


class Softplus(Scale):
    """σ = log(1 + exp(raw)): exponential below 0, linear above.

    Range: (0, inf). Source: Blundell et al. 2015, Weight uncertainty in neural networks.
    """

    def sigma(self, raw: Tensor) -> Tensor:
        # softplus(raw) becomes raw above the threshold; torch's 20 would cost float64 six digits.
        return softplus(raw, threshold=40.0)

    def raw(self, sigma: Tensor) -> Tensor:
        # log(exp(sigma) - 1), written so that neither end overflows or cancels
        return sigma + (-torch.expm1(-sigma)).log()


class SoftplusVariance(Softplus):
    """σ² = log(1 + exp(raw)): softplus gives the variance.

    Range: (0, inf). Source: Sønderby et al. 2016, Ladder variational autoencoders.
    """

    def sigma(self, raw: Tensor) -> Tensor:
        return super().sigma(raw).sqrt()

    def raw(self, sigma: Tensor) -> Tensor:
        return super().raw(sigma.square())

    def log_variance(self, raw: Tensor) -> Tensor:
        return super().sigma(raw).log()


class LogScale(Scale):
    """σ = exp(raw): the encoder gives log σ.

    Range: (0, inf). Source: Kucukelbir et al. 2017, Automatic differentiation variational
    inference.
    """

    def sigma(self, raw: Tensor) -> Tensor:
        return raw.exp()

    def raw(self, sigma: Tensor) -> Tensor:
        return sigma.log()

    def log_variance(self, raw: Tensor) -> Tensor:
        return 2 * raw


class LogVariance(Scale):
    """σ = exp(raw / 2): the encoder gives log σ² (the default).

    Range: (0, inf). Source: Kingma and Welling 2014, Auto-encoding variational Bayes, appendix C.2.
    """

    def sigma(self, raw: Tensor) -> Tensor:
        return (0.5 * raw).exp()

    def raw(self, sigma: Tensor) -> Tensor:
        return 2 * sigma.log()

    def log_variance(self, raw: Tensor) -> Tensor:
        return raw


class LogVarianceClamped(LogVariance):
    """σ = exp(clamp(raw, -30, 20) / 2): log-variance that can neither vanish nor overflow.

    Range: [exp(-15), exp(10)], about 3e-7 to 2e4; no gradient outside. Source: Rombach et al. 2022,
    High-resolution image synthesis with latent diffusion models (the released code).
    """

    range = (math.exp(-15), math.exp(10))

    def sigma(self, raw: Tensor) -> Tensor:
        return super().sigma(self.log_variance(raw))

    def log_variance(self, raw: Tensor) -> Tensor:
        low, high = self.range
        return raw.clamp(2 * math.log(low), 2 * math.log(high))


class LogVarianceHardtanh(LogVarianceClamped):
    """σ = exp(clamp(raw, -6, 2) / 2): log-variance held to a narrow range.

    Range: [exp(-3), exp(1)], about 0.05 to 2.7; no gradient outside. Source: Tomczak and
    Welling 2018, VAE with a VampPrior (the released code).
    """

    range = (math.exp(-3), math.exp(1))


class SoftClamped(Scale):
    """σ = exp(5 tanh(raw / 5)) + 0.01: log-scale bent to stay within (-5, 5), plus a floor.

    Range: (exp(-5) + 0.01, exp(5) + 0.01), about 0.017 to 148. Source: Vahdat and Kautz 2020, NVAE
    (the released code).
    """

    range = (math.exp(-5) + 0.01, math.exp(5) + 0.01)

    def sigma(self, raw: Tensor) -> Tensor:
        return (5 * (raw / 5).tanh()).exp() + 0.01

    def raw(self, sigma: Tensor) -> Tensor:
        return 5 * ((sigma - 0.01).log() / 5).atanh()


SCALES.update(
    {
        "log-variance": LogVariance,
        "log-scale": LogScale,
        "softplus": Softplus,
        "softplus-variance": SoftplusVariance,
        "log-variance-clamped": LogVarianceClamped,
        "log-variance-hardtanh": LogVarianceHardtanh,
        "soft-clamped": SoftClamped,
        "relu": ReLU,
        "absolute": Absolute,
        "raw": Raw,
    }
)

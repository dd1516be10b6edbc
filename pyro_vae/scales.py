"""Maps from the encoder's raw output to σ, the scale of a Normal: log-variance and alternatives.

An encoder can output any real number, but σ must be positive. Each class below is a map from the
raw output to σ. Every class takes the option ``initial``: the σ at raw output 0. Equal values of
``initial`` let different maps start at the same σ:

    >>> import torch
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
from .options import finite
from .registry import SCALES


class Scale(nn.Module, ABC):
    """A map from the raw encoder output to σ; the base class of all maps below.

    A subclass defines ``sigma(raw)`` and its inverse ``raw(sigma)``. It also defines
    ``log_variance(raw)`` if log σ² can be computed without σ.

    Args:
        initial: σ at raw output 0. The map then adds a constant to the raw output. None adds
            nothing.

    Attributes:
        range: the bounds of σ, in the unit of what has this scale.

    Raises:
        InputError: if ``initial`` is not a number inside ``range``.
    """

    range: tuple[float, float] = (0.0, math.inf)

    def __init__(self, initial: float | None = None) -> None:
        super().__init__()
        self.offset = 0.0
        if initial is not None:
            sigma = torch.tensor(finite("initial", initial), dtype=torch.float64)
            self.offset = self.inverse(sigma).item()

    def forward(self, raw: Tensor) -> Tensor:
        """σ, elementwise; the same shape as ``raw``."""
        return self.sigma(self.shift(raw))

    def logvar(self, raw: Tensor) -> Tensor:
        """log σ², elementwise. A map whose raw output gives log σ² directly does not compute σ."""
        return self.log_variance(self.shift(raw))

    def inverse(self, scale: Tensor) -> Tensor:
        """The raw output at which σ equals ``scale``; the same shape as ``scale``.

        Raises:
            InputError: if an element of ``scale`` is not strictly inside ``range``.
        """
        low, high = self.range
        if not bool(((scale > low) & (scale < high)).all()):
            raise InputError(
                f"scale {scale.min().item():g} to {scale.max().item():g} is out of reach for "
                f"{type(self).__name__}; give a scale between {low:g} and {high:g}"
            )
        return self.raw(scale) - self.offset

    def shift(self, raw: Tensor) -> Tensor:
        """The raw output plus the constant that ``initial`` requires."""
        return raw + self.offset if self.offset else raw

    @abstractmethod
    def sigma(self, raw: Tensor) -> Tensor:
        """σ, elementwise, by the equation of the class and without the shift."""

    @abstractmethod
    def raw(self, sigma: Tensor) -> Tensor:
        """The inverse of :meth:`sigma` inside ``range``."""

    def log_variance(self, raw: Tensor) -> Tensor:
        """log σ², elementwise, without the shift."""
        return 2 * self.sigma(raw).abs().log()


class Raw(Scale):
    """σ = raw: without a constraint; a σ of zero or less raises an error.

    Range: all real numbers.

    Source: "why won't we output the standard deviation?", Data Science Stack Exchange, question
    117317.

    Raises:
        InputError: from ``forward``, if σ is zero or less. NaN does not raise, because another
            computation caused it.
    """

    range = (-math.inf, math.inf)

    def forward(self, raw: Tensor) -> Tensor:
        scale = super().forward(raw)
        wrong = scale <= 0
        if bool(wrong.any()):
            raise InputError(
                f"the encoder's raw output gave {wrong.double().mean().item():.0%} scales of zero "
                "or less, but a Normal needs positive scales; use a map whose output is always "
                "positive, for example log-variance"
            )
        return scale

    def sigma(self, raw: Tensor) -> Tensor:
        return raw

    def raw(self, sigma: Tensor) -> Tensor:
        return sigma


class Absolute(Scale):
    """σ = abs(raw): positive except at raw = 0, where the gradient changes sign.

    Two raw outputs, raw and -raw, give the same σ. The inverse returns the positive raw output.

    Range: [0, inf).

    Source: public code; we do not know a paper.
    """

    def sigma(self, raw: Tensor) -> Tensor:
        return raw.abs()

    def raw(self, sigma: Tensor) -> Tensor:
        return sigma


class ReLU(Scale):
    """σ = max(raw, 0) + 1e-6: the gradient is zero if the raw output is negative.

    Range: [1e-6, inf).

    Source: public code; we do not know a paper.
    """

    range = (1e-6, math.inf)

    def sigma(self, raw: Tensor) -> Tensor:
        return raw.relu() + self.range[0]

    def raw(self, sigma: Tensor) -> Tensor:
        return sigma - self.range[0]


class Softplus(Scale):
    """σ = log(1 + exp(raw)): close to exp(raw) far below 0, close to raw far above 0.

    Range: (0, inf).

    Paper: Blundell et al. 2015, Weight uncertainty in neural networks.
    """

    def sigma(self, raw: Tensor) -> Tensor:
        # torch returns raw above the threshold. Its default, 20, loses six digits in float64.
        return softplus(raw, threshold=40.0)

    def raw(self, sigma: Tensor) -> Tensor:
        # This equals log(exp(sigma) - 1). This form does not overflow at a large sigma and does not
        # cancel digits at a small sigma.
        return sigma + (-torch.expm1(-sigma)).log()


class SoftplusVariance(Softplus):
    """σ² = log(1 + exp(raw)): softplus of the raw output is the variance.

    Range: (0, inf).

    Paper: Sønderby et al. 2016, Ladder variational autoencoders.
    """

    def sigma(self, raw: Tensor) -> Tensor:
        return super().sigma(raw).sqrt()

    def raw(self, sigma: Tensor) -> Tensor:
        return super().raw(sigma.square())

    def log_variance(self, raw: Tensor) -> Tensor:
        return super().sigma(raw).log()


class LogScale(Scale):
    """σ = exp(raw): the raw output is log σ.

    Range: (0, inf).

    Paper: Kucukelbir et al. 2017, Automatic differentiation variational inference.
    """

    def sigma(self, raw: Tensor) -> Tensor:
        return raw.exp()

    def raw(self, sigma: Tensor) -> Tensor:
        return sigma.log()

    def log_variance(self, raw: Tensor) -> Tensor:
        return 2 * raw


class LogVariance(Scale):
    """σ = exp(raw / 2): the raw output is log σ² (the default).

    Range: (0, inf).

    Paper: Kingma and Welling 2014, Auto-encoding variational Bayes, appendix C.2.
    """

    def sigma(self, raw: Tensor) -> Tensor:
        return (0.5 * raw).exp()

    def raw(self, sigma: Tensor) -> Tensor:
        return 2 * sigma.log()

    def log_variance(self, raw: Tensor) -> Tensor:
        return raw


class LogVarianceClamped(LogVariance):
    """σ = exp(clamp(raw, -30, 20) / 2): log-variance that cannot underflow or overflow.

    The gradient is zero outside the clamp.

    Range: [exp(-15), exp(10)], about 3e-7 to 2e4.

    Paper: Rombach et al. 2022, High-resolution image synthesis with latent diffusion models (the
    released code).
    """

    range = (math.exp(-15), math.exp(10))

    def sigma(self, raw: Tensor) -> Tensor:
        return super().sigma(self.log_variance(raw))

    def log_variance(self, raw: Tensor) -> Tensor:
        low, high = self.range
        return raw.clamp(2 * math.log(low), 2 * math.log(high))


class LogVarianceHardtanh(LogVarianceClamped):
    """σ = exp(clamp(raw, -6, 2) / 2): log-variance in a narrow range.

    The gradient is zero outside the clamp.

    Range: [exp(-3), exp(1)], about 0.05 to 2.7.

    Paper: Tomczak and Welling 2018, VAE with a VampPrior (the released code).
    """

    range = (math.exp(-3), math.exp(1))


class SoftClamped(Scale):
    """σ = exp(5 tanh(raw / 5)) + 0.01: log σ is kept inside (-5, 5), then 0.01 is added.

    Range: (exp(-5) + 0.01, exp(5) + 0.01), about 0.017 to 148.

    Paper: Vahdat and Kautz 2020, NVAE: a deep hierarchical variational autoencoder (the released
    code).
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
SCALES.base = Scale

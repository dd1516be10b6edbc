"""Distributions of one pixel that torch and Pyro lack or do not compute exactly enough."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid


class ContinuousBernoulli(dist.ContinuousBernoulli):
    """torch's continuous Bernoulli, made exact at every logit.

    Equation: log p(x) = x η - log(1 + e^η) + log(η / tanh(η/2)), η the logit.

    torch computes the normalizer from a probability that it clamps away from 0 and 1. In float32
    this is wrong by 1.1 nats a pixel at a logit of 50, and has no gradient beyond a logit of 16.

    Args:
        logits: η, of any shape.

    Paper: Loaiza-Ganem & Cunningham 2019, The continuous Bernoulli.

    Example:
        >>> from pyro_vae.likelihoods.pixels import ContinuousBernoulli
        >>> ContinuousBernoulli(logits=torch.tensor(100.0)).log_prob(torch.tensor(1.0)).exp()
        tensor(100.0000)
    """

    def _near_zero(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where |η| is small enough for a series; η / 2 there; and η, replaced by 1 there."""
        small = self.logits.abs() < 0.1
        half = torch.where(small, self.logits / 2, 0)
        return small, half, torch.where(small, 1, self.logits)

    def _cont_bern_log_norm(self) -> Tensor:
        small, h, eta = self._near_zero()
        series = math.log(2) + h**2 / 3 - 7 * h**4 / 90 + 62 * h**6 / 2835 - 127 * h**8 / 18900
        size = eta.abs()
        return torch.where(small, series, size.log() - (size / 2).tanh().log())

    @property
    def mean(self) -> Tensor:
        small, h, eta = self._near_zero()
        series = 0.5 + h / 6 - h**3 / 90 + h**5 / 945 - h**7 / 9450
        return torch.where(small, series, -1 / torch.expm1(-eta) - 1 / eta)

    def icdf(self, value: Tensor) -> Tensor:
        size = self.logits.abs().clamp(min=1e-6)  # The density is 1 to six digits there.
        falls = self.logits < 0
        # The formula is for a falling density. A rising density is its mirror image.
        u = torch.where(falls, value, 1 - value)
        x = torch.log1p(u * torch.expm1(-size)) / -size
        return torch.where(falls, x, 1 - x).clamp(0, 1)


def logit_of_mean(mean: Tensor) -> Tensor:
    """The logit at which a continuous Bernoulli has the mean ``mean``, by bisection.

    Args:
        mean: of any shape, in [1/510, 509/510]; the logits are then in [-510, 510].
    """
    low, high = torch.full_like(mean, -512.0), torch.full_like(mean, 512.0)
    for _ in range(40):
        logits = (low + high) / 2
        below = ContinuousBernoulli(logits=logits).mean < mean
        low, high = torch.where(below, logits, low), torch.where(below, high, logits)
    return (low + high) / 2


class Levels(constraints.Constraint):
    """Numbers k/255, k = 0 … 255."""

    is_discrete = True
    lower_bound, upper_bound = 0.0, 1.0

    def check(self, value: Tensor) -> Tensor:
        k = 255 * value
        return ((k - k.round()).abs() < 1e-3) & (value >= 0) & (value <= 1)


class DiscretizedLogistic(TorchDistribution):
    """A logistic distribution rounded to the 256 levels k/255; the outer levels include the tails.

    Equation: P(k/255) = S(k + ½) - S(k - ½), S(t) = sigmoid((t/255 - μ) / s), with S(-½) = 0 and
    S(255½) = 1; log P = log S(k + ½) + log(1 - S(k - ½)) + log(1 - exp(-1/(255 s))), which has
    no cancellation.

    Args:
        loc: μ, in units of the pixel's range [0, 1].
        scale: s, likewise.

    Paper: Kingma et al. 2016, Improving variational inference with inverse autoregressive flow;
    Salimans et al. 2017, PixelCNN++.

    Example:
        >>> from pyro_vae.likelihoods.pixels import DiscretizedLogistic
        >>> levels = torch.arange(256) / 255
        >>> DiscretizedLogistic(0.3, 0.05).log_prob(levels).exp().sum()
        tensor(1.0000)
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}
    support = Levels()

    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiscretizedLogistic:
        new = self._get_checked_instance(DiscretizedLogistic, _instance)
        new.loc, new.scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        TorchDistribution.__init__(new, torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        # In units of levels k is exact, so the upper end of level k equals the lower end of k + 1.
        k, loc, scale = (255 * value).round(), 255 * self.loc, 255 * self.scale
        log_below = logsigmoid((k + 0.5 - loc) / scale)
        log_above = logsigmoid((loc - k + 0.5) / scale)
        log_width = (-torch.expm1(-1 / scale)).log()
        first, last = k == 0, k == 255
        return torch.where(
            first, log_below, torch.where(last, log_above, log_below + log_above + log_width)
        )

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            eps = torch.finfo(self.loc.dtype).eps
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device).clamp(eps, 1 - eps)
            x = self.loc + self.scale * u.logit()
            return (255 * x).round().clamp(0, 255) / 255

    @property
    def mean(self) -> Tensor:
        """Σ_k P(x ≥ k/255) / 255. One level at a time, so that memory does not grow with levels."""
        loc, scale = 255 * self.loc, 255 * self.scale
        total = torch.zeros_like(loc)
        for k in range(1, 256):
            total = total + ((loc - k + 0.5) / scale).sigmoid()
        return total / 255

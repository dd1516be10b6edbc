"""What likelihoods have in common: a mean from the decoder, a learned number for each channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from ..contracts import Likelihood
from ..latents import Shape
from ..networks.layers import start_at
from ..options import flag

Scaling = tuple[Tensor, Tensor] | None

HALF_A_LEVEL = 0.5 / 255
"""Half the distance of two levels of grey, in units of the pixel's range [0, 1]."""


class Located(Likelihood):
    """A likelihood around a mean μ(z), which the decoder's first C channels give.

    Pixels are in [0, 1], so μ is the sigmoid of the decoder's output. Without it, a z that the
    training images do not reach gives means far outside [0, 1], and sampled images are noise.

    Other real numbers may be of any size, and weights learn fastest for outputs near 1. So
    ``scaling`` gives the decoder the data's own mean m and standard deviation s:
    μ = m + s · decoder(z), and scales are in units of s. The density is that of x itself.

    Args:
        decoder: network from ``[*, Z]`` to ``outputs`` numbers for each entry of x.
        bounded: whether μ is the sigmoid of the output; else it is the output itself.
        scaling: m and s of each channel, which broadcast over x; used if ``bounded`` is false. None
            is 0 and 1.
    """

    centre: Tensor
    unit: Tensor

    def __init__(self, decoder: nn.Module, bounded: bool = True, scaling: Scaling = None) -> None:
        super().__init__(decoder)
        self.bounded = flag("bounded", bounded)
        own = (torch.tensor(0.0), torch.tensor(1.0)) if bounded or scaling is None else scaling
        for name, value in zip(("centre", "unit"), own, strict=True):
            self.register_buffer(name, value, persistent=False)

    @property
    def support(self) -> constraints.Constraint:
        """All real numbers, or those that the sigmoid reaches."""
        return constraints.unit_interval if self.bounded else constraints.real

    def loc(self, raw: Tensor) -> Tensor:
        """μ from the decoder's output ``raw``, of the same shape."""
        return raw.sigmoid() if self.bounded else self.centre + self.unit * raw

    def start(self, mean: Tensor) -> None:
        if self.bounded:
            start_at(self.decoder, self.outputs, mean, logit)
        else:
            start_at(self.decoder, self.outputs, (mean - self.centre) / self.unit, identity)


def logit(mean: Tensor) -> Tensor:
    """The logit of ``mean``, kept at least half a grey level away from 0 and 1."""
    return inside(mean).logit()


def identity(mean: Tensor) -> Tensor:
    return mean


def inside(mean: Tensor) -> Tensor:
    """``mean``, at least half a grey level away from 0 and 1."""
    return mean.clamp(HALF_A_LEVEL, 1 - HALF_A_LEVEL)


def per_channel(value: float, shape: Shape) -> nn.Parameter:
    """A learned number for each channel of x, ``[C, 1, …]``; for each entry of a vector."""
    return nn.Parameter(torch.full((shape[0], *[1] * (len(shape) - 1)), value))

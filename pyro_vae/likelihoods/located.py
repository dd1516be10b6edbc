"""What the likelihoods have in common whose decoder gives a mean image."""

from __future__ import annotations

from torch import Tensor, nn

from ..contracts import Likelihood
from ..networks.layers import start_at
from ..options import flag

HALF_A_LEVEL = 0.5 / 255
"""Half the distance of two levels of grey, in units of the pixel's range [0, 1]."""


class Located(Likelihood):
    """A likelihood around an image μ(z), which the decoder's first C channels give.

    Pixels are in [0, 1], so μ is the sigmoid of the decoder's output. Without it, a z that the
    training images do not reach gives means far outside [0, 1], and sampled images are noise.

    Args:
        decoder: network from ``[*, Z]`` to ``outputs`` numbers for each entry of x.
        bounded: whether μ is the sigmoid of the output; else it is the output itself.
    """

    def __init__(self, decoder: nn.Module, bounded: bool = True) -> None:
        super().__init__(decoder)
        self.bounded = flag("bounded", bounded)

    def loc(self, raw: Tensor) -> Tensor:
        """μ from the decoder's output ``raw``, of the same shape."""
        return raw.sigmoid() if self.bounded else raw

    def start(self, mean: Tensor) -> None:
        start_at(self.decoder, self.outputs, mean, logit if self.bounded else identity)


def logit(mean: Tensor) -> Tensor:
    """The logit of ``mean``, kept at least half a grey level away from 0 and 1."""
    return inside(mean).logit()


def identity(mean: Tensor) -> Tensor:
    return mean


def inside(mean: Tensor) -> Tensor:
    """``mean``, at least half a grey level away from 0 and 1."""
    return mean.clamp(HALF_A_LEVEL, 1 - HALF_A_LEVEL)

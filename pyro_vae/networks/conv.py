"""Convolutional networks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import nn

from ..contracts import Network
from ..errors import InputError
from ..latents import Layout, Shape
from ..options import at_least_one, flag
from ..registry import lookup
from .layers import (
    ACTIVATIONS,
    CONVOLUTION,
    TRANSPOSED,
    ChannelNorm,
    Layers,
    OverLeading,
    dense,
    numbers,
    sides_of,
    widths,
)


class Conv(Network):
    """Strided convolutions, each halving the sides, then one fully connected layer.

    It serves signals, images and volumes of any sides. A layer turns a side of s pixels into ⌈s/2⌉,
    and the matching layer of the decoder turns it back into s, odd or even.

    The decoder's kernel is 4 pixels wide, a multiple of the stride 2. So all pixels get the same
    number of contributions. Under a kernel of 3 they get 1, 2 or 4, which shows as a checkerboard.

    Args:
        shape: ``(C, L)`` of a signal, ``(C, H, W)`` of an image or ``(C, D, H, W)`` of a volume.
        hidden: channels of the encoder's convolutions, then units of its dense layer. The decoder
            has them in reverse.
        activation: a name of :data:`~pyro_vae.networks.ACTIVATIONS`.
        kernel: width of the decoder's kernels in pixels, at least 2.
        batch_norm: whether batch normalization precedes each activation, as in
            :class:`~pyro_vae.networks.mlp.MLP`; convolutions are normalized by channel.

    Paper: Odena et al. 2016, Deconvolution and checkerboard artifacts,
    https://distill.pub/2016/deconv-checkerboard.

    Example:
        >>> from pyro_vae.networks import Conv
        >>> Conv((3, 32, 32), hidden=(32, 64, 256)).encoder().out_features
        256
    """

    placed = True

    def __init__(
        self,
        shape: Shape,
        hidden: Sequence[int] = (32, 64, 256),
        activation: str = "relu",
        kernel: int = 4,
        batch_norm: bool = False,
    ) -> None:
        self.shape = shape
        self.hidden = widths("hidden", hidden)
        if len(self.hidden) < 2:
            raise InputError(
                "the conv network's hidden sizes are the channels of at least one convolution and "
                f"then the units of a dense layer, like 32,64,256, not {list(self.hidden)}"
            )
        self.activation = activation
        at_least_one("kernel", kernel)
        if kernel < 2:
            raise InputError(f"kernel is at least 2, the stride of the convolutions, not {kernel}")
        self.kernel = kernel
        self.batch_norm = flag("batch_norm", batch_norm)
        self.channels = (shape[0], *self.hidden[:-1])
        self.sides = [sides_of(shape, "conv")]
        for _ in self.hidden[:-1]:
            self.sides.append(tuple(-(-side // 2) for side in self.sides[-1]))
        self.flat = self.channels[-1] * prod(self.sides[-1])

    def encoder(self) -> Layers:
        act = lookup("activation", self.activation, ACTIVATIONS)
        convolution, rank = CONVOLUTION[len(self.sides[0])], len(self.shape)
        halving = nn.Sequential()
        for a, b in pairwise(self.channels):
            halving.append(convolution(a, b, 3, stride=2, padding=1))
            if self.batch_norm:
                halving.append(ChannelNorm(b))
            halving.append(act())
        layers = self.dense(self.flat, self.hidden[-1])
        layers.insert(0, OverLeading(halving, rank - 1))
        layers.insert(1, nn.Flatten(-rank))  # [*, F]
        return layers

    def decoder(self, latent_size: int, outputs: int = 1) -> Layers:
        act = lookup("activation", self.activation, ACTIVATIONS)
        transposed = TRANSPOSED[len(self.sides[0])]
        doubling = nn.Sequential()
        channels = (outputs * self.shape[0], *self.channels[1:])
        for i in reversed(range(len(self.sides) - 1)):
            each = [self.cut(h, s) for h, s in zip(self.sides[i + 1], self.sides[i], strict=True)]
            cut, more = zip(*each, strict=True)
            doubling.append(
                transposed(
                    channels[i + 1],
                    channels[i],
                    self.kernel,
                    stride=2,
                    padding=cut,
                    output_padding=more,
                )
            )
            if i > 0 and self.batch_norm:
                doubling.append(ChannelNorm(channels[i]))
            if i > 0:
                doubling.append(act())
        layers = self.dense(latent_size, self.hidden[-1], self.flat)
        layers.append(nn.Unflatten(-1, (self.channels[-1], *self.sides[-1])))
        layers.append(OverLeading(doubling, len(self.sides[0])))  # [*, outputs·C, *sides]
        return layers

    def cut(self, half: int, side: int) -> tuple[int, int]:
        """``padding`` and ``output_padding`` with which ``half`` pixels become ``side`` pixels."""
        extra = 2 * half - 2 + self.kernel - side  # a transposed convolution's pixels beyond side
        padding = -(-extra // 2)  # is cut at both ends
        return padding, 2 * padding - extra

    def between(self, sources: Sequence[Layout], target: Layout) -> Layers:
        return self.dense(numbers(sources), self.hidden[-1])

    def dense(self, *sizes: int) -> Layers:
        return dense(sizes, self.activation, last=True, batch_norm=self.batch_norm)

"""Convolutional networks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from ..contracts import Network
from ..errors import InputError
from ..latents import Layout, Shape
from ..registry import lookup
from .layers import ACTIVATIONS, Layers, OverImages, dense, numbers, widths


class Conv(Network):
    """Strided convolutions, each halving the image, then one fully connected layer.

    Every ``H x W`` works. A layer turns a side of s pixels into ⌈s/2⌉, and the matching layer of
    the decoder turns it back into s, odd or even.

    Args:
        shape: ``(C, H, W)`` of the image.
        hidden: channels of the encoder's convolutions, then units of its dense layer. The decoder
            has them in reverse.
        activation: a name of :data:`~pyro_vae.networks.ACTIVATIONS`.

    Example:
        >>> from pyro_vae.networks import Conv
        >>> Conv((3, 32, 32), hidden=(32, 64, 256)).encoder().out_features
        256
    """

    def __init__(
        self, shape: Shape, hidden: Sequence[int] = (32, 64, 256), activation: str = "relu"
    ) -> None:
        self.shape = shape
        self.hidden = widths("hidden", hidden)
        if len(self.hidden) < 2:
            raise InputError(
                "the conv network's hidden sizes are the channels of at least one convolution and "
                f"then the units of a dense layer, like 32,64,256, not {list(self.hidden)}"
            )
        self.activation = activation
        self.channels = (shape[0], *self.hidden[:-1])
        self.sides: list[tuple[int, int]] = [shape[1:]]
        for _ in self.hidden[:-1]:
            h, w = self.sides[-1]
            self.sides.append((-(-h // 2), -(-w // 2)))
        self.flat = self.channels[-1] * self.sides[-1][0] * self.sides[-1][1]

    def encoder(self) -> Layers:
        act = lookup("activation", self.activation, ACTIVATIONS)
        images = nn.Sequential()
        for a, b in pairwise(self.channels):
            images.append(nn.Conv2d(a, b, 3, stride=2, padding=1)).append(act())
        layers = dense((self.flat, self.hidden[-1]), self.activation, last=True)
        layers.insert(0, OverImages(images))
        layers.insert(1, nn.Flatten(-3))  # [*, F]
        return layers

    def decoder(self, latent_size: int, outputs: int = 1) -> Layers:
        act = lookup("activation", self.activation, ACTIVATIONS)
        images = nn.Sequential()
        channels = (outputs * self.shape[0], *self.channels[1:])
        for i in reversed(range(len(self.sides) - 1)):
            # A transposed convolution turns s pixels into 2s - 1, one too few for an even side.
            (h, w), (half_h, half_w) = self.sides[i], self.sides[i + 1]
            lacking = (h - (2 * half_h - 1), w - (2 * half_w - 1))
            images.append(
                nn.ConvTranspose2d(
                    channels[i + 1], channels[i], 3, stride=2, padding=1, output_padding=lacking
                )
            )
            if i > 0:
                images.append(act())
        layers = dense((latent_size, self.hidden[-1], self.flat), self.activation, last=True)
        layers.append(nn.Unflatten(-1, (self.channels[-1], *self.sides[-1])))
        layers.append(OverImages(images))  # [*, outputs·C, H, W]
        return layers

    def between(self, sources: Sequence[Layout], target: Layout) -> Layers:
        return dense((numbers(sources), self.hidden[-1]), self.activation, last=True)

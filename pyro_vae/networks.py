"""Encoders and decoders: torch alone, no probability.

A network is a class that knows the image's shape and makes both halves:

- ``encoder()``: images ``[*, C, H, W]`` -> features ``[*, F]``, with ``out_features`` = F;
- ``decoder(latent_size, outputs)``: latents ``[*, Z]`` -> maps ``[*, outputs·C, H, W]``, as many
  numbers for a pixel as the likelihood has parameters.

The leading dimensions ``*`` are free: a batch, or samples times a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from .parts import InputError, lookup

Shape = tuple[int, int, int]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def widths(option: str, sizes: Sequence[int]) -> tuple[int, ...]:
    """Layer sizes as a tuple, refused with one sentence unless all are whole numbers above 0."""
    if not sizes or not all(isinstance(s, int) and s > 0 for s in sizes):
        raise InputError(f"{option} takes whole numbers above 0, not {list(sizes)}")
    return tuple(sizes)


class Layers(nn.Sequential):
    """A chain of layers that says how many features it ends in."""

    out_features: int


def dense(sizes: Sequence[int], activation: str, last: bool) -> Layers:
    """Linear layers through ``sizes``, an activation after each, after the last one if ``last``."""
    act = lookup("activation", activation, ACTIVATIONS)
    layers = Layers()
    for i, (a, b) in enumerate(pairwise(sizes), start=2):
        layers.append(nn.Linear(a, b))
        if last or i < len(sizes):
            layers.append(act())
    layers.out_features = sizes[-1]
    return layers


def features(encoder: nn.Module) -> int:
    """How many features an encoder ends in."""
    if not isinstance(size := getattr(encoder, "out_features", None), int):
        raise InputError(
            f"the encoder {type(encoder).__name__} does not say how many features it ends in; give "
            "it an attribute out_features"
        )
    return size


class MLP:
    """Fully connected layers on the flattened image.

    Args:
        shape: ``(C, H, W)`` of the image.
        hidden: units of the encoder's layers; the decoder has them in reverse.
        activation: a name of :data:`ACTIVATIONS`.

    Example:
        >>> MLP((1, 28, 28), hidden=(400,)).encoder().out_features
        400
    """

    def __init__(
        self, shape: Shape, hidden: Sequence[int] = (400,), activation: str = "relu"
    ) -> None:
        self.shape = shape
        self.hidden = widths("hidden", hidden)
        self.activation = activation

    def encoder(self) -> Layers:
        c, h, w = self.shape
        layers = dense((c * h * w, *self.hidden), self.activation, last=True)
        layers.insert(0, nn.Flatten(-3))  # [*, C·H·W]
        return layers

    def decoder(self, latent_size: int, outputs: int = 1) -> Layers:
        c, h, w = self.shape
        sizes = (latent_size, *reversed(self.hidden), outputs * c * h * w)
        layers = dense(sizes, self.activation, last=False)
        layers.append(nn.Unflatten(-1, (outputs * c, h, w)))  # [*, outputs·C, H, W]
        return layers


class Conv:
    """Strided convolutions, each halving the image, then one fully connected layer.

    Every ``H x W`` fits: a layer takes a side of s pixels to ⌈s/2⌉, and its mirror image in the
    decoder gives back the s that it came from, odd or even.

    Args:
        shape: ``(C, H, W)`` of the image.
        hidden: channels of the encoder's convolutions, then the units of its dense layer; the
            decoder has them in reverse.
        activation: a name of :data:`ACTIVATIONS`.

    Example:
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
            # A transposed convolution makes 2s - 1 pixels of s; an even side lacks one.
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


class OverImages(nn.Module):
    """A network on images ``[B, C, H, W]``, applied over any leading dimensions."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        images = self.network(x.reshape(-1, *x.shape[-3:]))
        return images.reshape(*x.shape[:-3], *images.shape[-3:])


NETWORKS = {"mlp": MLP, "conv": Conv}

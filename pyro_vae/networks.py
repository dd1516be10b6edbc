"""Encoders and decoders: torch alone, no probability.

A network is a class that knows the image's shape and makes both halves:

- ``encoder()``: images ``[*, C, H, W]`` -> features ``[*, F]``, with ``out_features`` = F;
- ``decoder(latent_size, outputs)``: latents ``[*, Z]`` -> maps ``[*, outputs·C, H, W]``, as many
  numbers for a pixel as the likelihood has parameters;

and, for a hierarchy of latents, what stands between two of them:

- ``between(sources, target)``: vectors side by side ``[*, ΣF]`` -> features ``[*, F]`` from which
  a layer of latents is computed.

The leading dimensions ``*`` are free: a batch, or samples times a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

from torch import Tensor, nn

from .parts import InputError, lookup

Shape = tuple[int, int, int]
Latent = int | Sequence[int | Sequence[int]]
Layout = tuple[int, ...]
"""A layer of latents or features: ``(n,)`` numbers, or ``(c, h, w)`` laid out like an image."""

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


def layers(latent_size: Latent) -> tuple[Layout, ...]:
    """The layers of latents that ``latent_size`` names, z_1 first.

    ``20`` is one layer, ``(64, 32)`` are two, ``((8, 14, 14), (8, 7, 7), 32)`` are three.

    Raises:
        InputError: none, or other than whole numbers above 0.
    """
    each = latent_size if isinstance(latent_size, Sequence) else (latent_size,)
    result = tuple(tuple(z) if isinstance(z, Sequence) else (z,) for z in each)
    if not result or not all(
        len(z) in (1, 3) and all(type(n) is int and n > 0 for n in z) for z in result
    ):
        raise InputError(
            "the latent size is a whole number above 0, or one for each layer such as (64, 32, "
            f"16), or channels, height and width of a layer such as (8, 7, 7), not {latent_size}"
        )
    return result


def divide(shape: Shape, latents: Sequence[Layout]) -> None:
    """Raise :class:`~pyro_vae.parts.InputError` unless every layer that is laid out like an image
    has sides that divide those of what lies below it."""
    below, (high, wide) = "the image", shape[1:]
    for i, each in enumerate(latents, start=1):
        if len(each) == 1:
            continue
        h, w = each[1:]
        if high % h or wide % w or high // h != wide // w:
            raise InputError(
                f"layer {i} of the latents has {h}x{w} places, and {below} has {high}x{wide}, "
                "which they do not divide; give sides such as "
                + " or ".join(f"{high // n}x{wide // n}" for n in divisors(high, wide)[:3])
            )
        below, (high, wide) = f"layer {i}", each[1:]


def divisors(*numbers: int) -> list[int]:
    """What divides all numbers, from 1 upwards."""
    return [n for n in range(1, min(numbers) + 1) if not any(number % n for number in numbers)]


def layout(encoder: nn.Module) -> Layout:
    """How an encoder's features are laid out."""
    return getattr(encoder, "out_layout", (features(encoder),))


def numbers(layouts: Sequence[Layout]) -> int:
    """How many numbers there are in all."""
    return sum(prod(each) for each in layouts)


def between(network: Any, sources: Sequence[Layout], target: Layout) -> nn.Module:
    """What the network puts between layers of latents."""
    if not hasattr(network, "between"):
        raise InputError(
            f"the network {type(network).__name__} makes nothing to stand between two layers of "
            "latents; give it a method between(sources, target), or take mlp"
        )
    return network.between(sources, target)


def head(encoder: nn.Module, outputs: int) -> nn.Module:
    """A linear map from an encoder's features to ``outputs`` numbers."""
    return nn.Linear(features(encoder), outputs)


class MLP:
    """Fully connected layers on the flattened image.

    Args:
        shape: ``(C, H, W)`` of the image.
        hidden: units of the encoder's layers; the decoder has them in reverse.
        activation: a name of :data:`ACTIVATIONS`.
        middle: units of what stands between two layers of latents; None for those of ``hidden``.

    Example:
        >>> MLP((1, 28, 28), hidden=(400,)).encoder().out_features
        400
    """

    def __init__(
        self,
        shape: Shape,
        hidden: Sequence[int] = (400,),
        activation: str = "relu",
        middle: Sequence[int] | None = None,
    ) -> None:
        self.shape = shape
        self.hidden = widths("hidden", hidden)
        self.activation = activation
        self.middle = self.hidden if middle is None else widths("middle", middle)

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

    def between(self, sources: Sequence[Layout], target: Layout) -> Layers:
        return dense((numbers(sources), *self.middle), self.activation, last=True)


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

    def between(self, sources: Sequence[Layout], target: Layout) -> Layers:
        return dense((numbers(sources), self.hidden[-1]), self.activation, last=True)


class OverImages(nn.Module):
    """A network on images ``[B, C, H, W]``, applied over any leading dimensions."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        images = self.network(x.reshape(-1, *x.shape[-3:]))
        return images.reshape(*x.shape[:-3], *images.shape[-3:])


NETWORKS = {"mlp": MLP, "conv": Conv}

"""Encoders and decoders: torch alone, no probability.

A network is a class that knows the image's shape and makes both halves:

- ``encoder()``: images ``[*, C, H, W]`` -> features ``[*, F]``, with ``out_features`` = F;
- ``decoder(latent_size, outputs)``: latents ``[*, Z]`` -> maps ``[*, outputs·C, H, W]``, as many
  numbers for a pixel as the likelihood has parameters;

and, for a hierarchy of latents, what stands between two of them:

- ``between(sources, target)``: vectors side by side ``[*, ΣF]`` -> features ``[*, F]`` from which
  a layer of latents is computed. A layout, ``(n,)`` or ``(c, h, w)``, says what each vector is,
  and an attribute ``out_layout`` how the features are laid out, if as an image's are.

The leading dimensions ``*`` are free: a batch, or samples times a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from ..parts import InputError, lookup
from .layers import (
    ACTIVATIONS,
    Latent,
    Layers,
    Layout,
    OverImages,
    PlaceByPlace,
    Shape,
    Sum,
    dense,
    divide,
    features,
    head,
    layers,
    layout,
    numbers,
    widths,
)
from .residual import Residual

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "NETWORKS",
    "Conv",
    "Latent",
    "PlaceByPlace",
    "Residual",
    "Shape",
    "Sum",
    "between",
    "divide",
    "features",
    "head",
    "layers",
    "layout",
]


def between(network: Any, sources: Sequence[Layout], target: Layout) -> nn.Module:
    """What the network puts between layers of latents."""
    if not hasattr(network, "between"):
        raise InputError(
            f"the network {type(network).__name__} makes nothing to stand between two layers of "
            "latents; give it a method between(sources, target), or take mlp"
        )
    return network.between(sources, target)


class MLP:
    """Fully connected layers on the flattened image.

    Args:
        shape: ``(C, H, W)`` of the image.
        hidden: units of the encoder's layers; the decoder has them in reverse.
        activation: a name of :data:`ACTIVATIONS`.
        middle: units of what stands between two layers of latents; None for those of ``hidden``.
        batch_norm: whether each activation has batch normalization before it (Ioffe & Szegedy
            2015). In training an image's features then depend on its batch, and
            ``vae.eval()``, in which ``fit`` leaves the VAE, ends that.

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
        batch_norm: bool = False,
    ) -> None:
        self.shape = shape
        self.hidden = widths("hidden", hidden)
        self.activation = activation
        self.middle = self.hidden if middle is None else widths("middle", middle)
        self.batch_norm = batch_norm

    def encoder(self) -> Layers:
        c, h, w = self.shape
        layers = dense((c * h * w, *self.hidden), self.activation, True, self.batch_norm)
        layers.insert(0, nn.Flatten(-3))  # [*, C·H·W]
        return layers

    def decoder(self, latent_size: int, outputs: int = 1) -> Layers:
        c, h, w = self.shape
        sizes = (latent_size, *reversed(self.hidden), outputs * c * h * w)
        layers = dense(sizes, self.activation, False, self.batch_norm)
        layers.append(nn.Unflatten(-1, (outputs * c, h, w)))  # [*, outputs·C, H, W]
        return layers

    def between(self, sources: Sequence[Layout], target: Layout) -> Layers:
        return dense((numbers(sources), *self.middle), self.activation, True, self.batch_norm)


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


NETWORKS = {"mlp": MLP, "conv": Conv, "residual": Residual}

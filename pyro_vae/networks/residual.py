"""Residual convolutions: for images larger than MNIST's and for latents laid out like images."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TypeVar

from torch import Tensor, nn

from ..parts import InputError, at_least_one, lookup
from .layers import ACTIVATIONS, Latent, Layers, Layout, OverImages, Shape, Sum, layers, widths

Affine = TypeVar("Affine", nn.Linear, nn.Conv2d)


class Residual:
    """Convolutions with residual blocks; latents may be laid out like images.

    The image is at level 0, and each level has half the sides of the one below it, ⌈s/2⌉ of s. A
    layer of latents ``(c, h, w)`` is at the level that has its places. One of ``(n,)`` is a dense
    layer away from the level that ``hidden`` ends at. Whatever is computed from another thing
    passes all levels between the two: upwards by convolutions of stride 2, downwards by repeating
    each place in a square of 2x2, with residual blocks at every level.

    A block adds to its input what two convolutions make of it, which is 0 at first; the layers
    between blocks keep the variance. So a deep stack begins as a shallow one.

    Args:
        shape: ``(C, H, W)`` of the image.
        latent_size: the layers of latents, z_1 first.
        hidden: channels at level 1, 2, …; levels beyond them have as many as the last.
        activation: a name of :data:`~pyro_vae.networks.ACTIVATIONS`.
        units: features that latents ``(n,)`` are computed from.
        blocks: residual blocks at each level.

    Raises:
        InputError: latents with places that halving the image does not come to.

    Paper: He et al. 2016, Identity mappings in deep residual networks; Kingma et al. 2016,
    Improving variational inference with inverse autoregressive flow, for such latents.

    Example:
        >>> latents = ((4, 16, 16), (8, 8, 8), 32)
        >>> VAE((3, 64, 64), latents, guide="ladder", network="residual").sample(2).shape
        torch.Size([2, 3, 64, 64])
    """

    def __init__(
        self,
        shape: Shape,
        latent_size: Latent = 1,
        hidden: Sequence[int] = (32, 64, 128),
        activation: str = "silu",
        units: int = 256,
        blocks: int = 1,
    ) -> None:
        self.shape = shape
        self.hidden = widths("hidden", hidden)
        self.act = lookup("activation", activation, ACTIVATIONS)
        at_least_one("units", units)
        at_least_one("blocks", blocks)
        self.units = units
        self.blocks = blocks
        self.sides: list[tuple[int, ...]] = [shape[1:]]
        while max(self.sides[-1]) > 1:
            self.sides.append(tuple(-(-side // 2) for side in self.sides[-1]))
        self.deep = min(len(self.hidden), len(self.sides) - 1)
        self.latents = layers(latent_size)
        high, wide = shape[1:]
        whole = [(h, w) for h, w in self.sides if high % h == 0 and high // h * w == wide]
        for i, each in enumerate(self.latents, start=1):
            if spatial(each) and each[1:] not in whole:
                raise InputError(
                    "the residual network halves the image, so that latents can have "
                    f"{' or '.join(f'{h}x{w}' for h, w in whole)} places, and layer {i} of them "
                    f"has {each[1]}x{each[2]}"
                )

    def encoder(self) -> Layers:
        network = self.between([self.shape], self.latents[0])
        network.insert(0, nn.Flatten(-3))  # [*, C·H·W]
        return network

    def decoder(self, latent_size: int, outputs: int = 1) -> Layers:
        z = self.latents[0] if prod(self.latents[0]) == latent_size else (latent_size,)
        # Blocks on whole images take most of the time, so they end at level 1 where they can.
        level = 0 if self.sides[0] in (z[1:], self.sides[-1]) else 1
        finer = level + 1  # by so much is an image finer than its level
        network = self.between([z], (1, *self.sides[level]))
        to_pixels = nn.Sequential(
            nn.Conv2d(self.channels(level), finer**2 * outputs * self.shape[0], 3, padding=1),
            nn.PixelShuffle(finer),
            Crop(self.shape),
        )
        network.append(nn.Unflatten(-1, network.out_layout))
        network.append(OverImages(to_pixels))  # [*, outputs·C, H, W]
        return network

    def between(self, sources: Sequence[Layout], target: Layout) -> Layers:
        laid = self.features(self.level(target)) if spatial(target) else (self.units,)
        network = Layers(Sum(sources, [self.path(source, laid) for source in sources]))
        if spatial(target):
            blocks = nn.Sequential(*self.stack(laid[0]))
            network.extend([nn.Unflatten(-1, laid), OverImages(blocks), nn.Flatten(-3)])
        network.append(self.act())  # [*, F]
        network.out_features, network.out_layout = prod(laid), laid
        return network

    def path(self, source: Layout, target: Layout) -> nn.Module:
        """From a vector laid out as ``source`` to one laid out as ``target``."""
        start, end = self.level(source), self.level(target)
        # A vector is next to the deepest level, or next to the other end if that is deeper still.
        if not spatial(source):
            start = max(start, end)
        if not spatial(target):
            end = max(start, end)
        if start == end and not (spatial(source) and spatial(target)):
            return steady(nn.Linear(prod(source), prod(target)))
        chain, images = nn.Sequential(), nn.Sequential()
        if not spatial(source):
            first = self.features(start)
            chain.append(steady(nn.Linear(prod(source), prod(first))))
            images.extend(self.stack(first[0]))
            source = first
        images.extend(self.stages(source[0], start, end))
        if not spatial(target):
            images.extend([*self.stack(self.channels(end)), self.act()])
        chain.extend([nn.Unflatten(-1, source), OverImages(images), nn.Flatten(-3)])
        if not spatial(target):
            chain.append(steady(nn.Linear(prod(self.features(end)), prod(target))))
        return chain

    def stages(self, channels: int, start: int, end: int) -> list[nn.Module]:
        """From one level to another, with blocks at those between."""
        stages: list[nn.Module] = []
        up = start < end
        for level in range(start + 1, end + 1) if up else reversed(range(end, start)):
            size, stride = (3, 2) if up else (1, 1)
            stages.append(convolution(channels, channels := self.channels(level), size, stride))
            if not up:
                stages.append(nn.Upsample(self.sides[level]))
            if level != end:
                stages.extend(self.stack(channels))
        return stages or [convolution(channels, self.channels(end), 3)]

    def stack(self, channels: int) -> list[nn.Module]:
        return [Block(channels, self.act) for _ in range(self.blocks)]

    def level(self, places: Layout) -> int:
        return self.sides.index(places[1:]) if spatial(places) else self.deep

    def channels(self, level: int) -> int:
        return self.hidden[min(max(level, 1), len(self.hidden)) - 1]

    def features(self, level: int) -> Layout:
        return (self.channels(level), *self.sides[level])


def spatial(places: Layout) -> bool:
    return len(places) == 3


def steady(layer: Affine) -> Affine:
    """The layer, with first weights by which its output varies as its input does."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def convolution(channels: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return steady(nn.Conv2d(channels, outputs, size, stride, padding=size // 2))


class Block(nn.Module):
    """x + f(x), f twice an activation and a 3x3 convolution, 0 at first."""

    def __init__(self, channels: int, act: type[nn.Module]) -> None:
        super().__init__()
        first, last = (convolution(channels, channels, 3) for _ in range(2))
        nn.init.zeros_(last.weight)
        self.change = nn.Sequential(act(), first, act(), last)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.change(x)


class Crop(nn.Module):
    """The upper left part of images, as large as ``shape``."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.sides = shape[1:]

    def forward(self, x: Tensor) -> Tensor:
        return x[..., : self.sides[0], : self.sides[1]]

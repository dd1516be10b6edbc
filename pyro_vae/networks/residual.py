"""Residual convolutions, for large images and for latents with the layout of images."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TypeVar

from torch import Tensor, nn

from ..contracts import Network
from ..errors import InputError
from ..latents import Layout, Shape
from ..options import at_least_one
from ..registry import lookup
from .layers import ACTIVATIONS, Layers, OverImages, Sum, widths

Affine = TypeVar("Affine", nn.Linear, nn.Conv2d)


class Residual(Network):
    """Convolutions with residual blocks; latents may have the layout of an image.

    The image is level 0. Each level has half the sides of the level below it, ⌈s/2⌉ of s. A layer
    of latents ``(c, h, w)`` belongs to the level with the same height and width. A layer ``(n,)``
    is connected by a dense layer to the deepest level, whose number is the length of ``hidden``.
    A path from one layer to another passes all levels between them: upwards by convolutions of
    stride 2, downwards by repeating each place in a square of 2x2. There are residual blocks at
    every level.

    A block computes x + f(x), where f is two convolutions and starts at 0. The layers between
    blocks keep the variance. So a deep network starts as a shallow one.

    Args:
        shape: ``(C, H, W)`` of the image.
        latent_layers: the layouts of the layers of latents, z_1 first.
        hidden: channels at level 1, 2, …; deeper levels have as many as the last one.
        activation: a name of :data:`~pyro_vae.networks.ACTIVATIONS`.
        units: features that latents ``(n,)`` are computed from.
        blocks: residual blocks at each level.

    Raises:
        InputError: a layer of latents whose height and width are those of no level.

    Paper: He et al. 2016, Identity mappings in deep residual networks; Kingma et al. 2016,
    Improving variational inference with inverse autoregressive flow, for latents with the layout
    of images.

    Example:
        >>> latents = ((4, 16, 16), (8, 8, 8), 32)
        >>> VAE((3, 64, 64), latents, guide="ladder", network="residual").sample(2).shape
        torch.Size([2, 3, 64, 64])
    """

    def __init__(
        self,
        shape: Shape,
        latent_layers: Sequence[Layout] = ((1,),),
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
        self.latents = tuple(latent_layers)
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
        # Blocks at full resolution take most of the time, so the path ends at level 1 if possible.
        level = 0 if self.sides[0] in (z[1:], self.sides[-1]) else 1
        finer = level + 1  # the image's sides divided by those of the level
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
        """A module from a vector of layout ``source`` to a vector of ``target``."""
        start, end = self.level(source), self.level(target)
        # A vector connects to the deepest level, or to the level of the other end if it is deeper.
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
        """The layers from one level to another, with blocks at the levels between."""
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
    """The layer, initialised so that its output has the variance of its input."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def convolution(channels: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return steady(nn.Conv2d(channels, outputs, size, stride, padding=size // 2))


class Block(nn.Module):
    """x + f(x), where f is an activation and a 3x3 convolution, twice; f starts at 0."""

    def __init__(self, channels: int, act: type[nn.Module]) -> None:
        super().__init__()
        first, last = (convolution(channels, channels, 3) for _ in range(2))
        nn.init.zeros_(last.weight)
        self.change = nn.Sequential(act(), first, act(), last)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.change(x)


class Crop(nn.Module):
    """Cuts images to the height and width of ``shape``, from the upper left corner."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.sides = shape[1:]

    def forward(self, x: Tensor) -> Tensor:
        return x[..., : self.sides[0], : self.sides[1]]

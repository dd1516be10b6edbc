"""Residual convolutions, for large observations and for latents with places."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor, nn

from ..contracts import Network
from ..errors import InputError
from ..latents import Layout, Shape, by, kind_of
from ..options import at_least_one
from ..registry import lookup
from .layers import ACTIVATIONS, CONVOLUTION, Layers, OverLeading, Sum, sides_of, widths


class Residual(Network):
    """Convolutions with residual blocks; latents may have places, as an image has.

    It serves signals, images and volumes. The observation is level 0. Each level has half the sides
    of the level below it, ⌈s/2⌉ of s. A layer of latents with places, ``(c, h, w)`` for images,
    belongs to the level with the same sides. A layer ``(n,)`` is connected by a dense layer to the
    deepest level, whose number is the length of ``hidden``. A path from one layer to another passes
    all levels between them: upwards by convolutions of stride 2, downwards by repeating each place
    twice along each side. There are residual blocks at every level.

    A block computes x + f(x), where f is two convolutions and starts at 0. The layers between
    blocks keep the variance. So a deep network starts as a shallow one.

    Args:
        shape: ``(C, L)`` of a signal, ``(C, H, W)`` of an image or ``(C, D, H, W)`` of a volume.
        latent_layers: the layouts of the layers of latents, z_1 first.
        hidden: channels at level 1, 2, …; deeper levels have as many as the last one.
        activation: a name of :data:`~pyro_vae.networks.ACTIVATIONS`.
        units: features that latents ``(n,)`` are computed from.
        blocks: residual blocks at each level.

    Raises:
        InputError: a layer of latents whose sides are those of no level.

    Paper: He et al. 2016, Identity mappings in deep residual networks; Kingma et al. 2016,
    Improving variational inference with inverse autoregressive flow, for latents with the layout
    of images.

    Example:
        >>> latents = ((4, 16, 16), (8, 8, 8), 32)
        >>> VAE((3, 64, 64), latents, guide="ladder", network="residual").sample(2).shape
        torch.Size([2, 3, 64, 64])
    """

    placed = True

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
        self.sides = [sides_of(shape, "residual")]
        self.convolution = CONVOLUTION[len(self.sides[0])]
        while max(self.sides[-1]) > 1:
            self.sides.append(tuple(-(-side // 2) for side in self.sides[-1]))
        self.deep = min(len(self.hidden), len(self.sides) - 1)
        self.latents = tuple(latent_layers)
        own = self.sides[0]
        whole = [s for s in self.sides if tuple(own[0] // s[0] * side for side in s) == own]
        for i, each in enumerate(self.latents, start=1):
            if spatial(each) and each[1:] not in whole:
                raise InputError(
                    f"the residual network halves the {kind_of(shape)}, so that latents can have "
                    f"{' or '.join(map(by, whole))} places, and layer {i} of them has "
                    f"{by(each[1:])}"
                )

    def encoder(self) -> Layers:
        network = self.between([self.shape], self.latents[0])
        network.insert(0, nn.Flatten(-len(self.shape)))  # [*, D]
        return network

    def decoder(self, latent_size: int, outputs: int = 1) -> Layers:
        z = self.latents[0] if prod(self.latents[0]) == latent_size else (latent_size,)
        # Blocks at full resolution take most of the time, so the path ends at level 1 if possible.
        level = 0 if self.sides[0] in (z[1:], self.sides[-1]) else 1
        finer = level + 1  # the sides of x divided by those of the level
        network = self.between([z], (1, *self.sides[level]))
        pieces = finer ** len(self.sides[0])
        to_entries = nn.Sequential(
            self.convolution(self.channels(level), pieces * outputs * self.shape[0], 3, padding=1),
            Shuffle(finer),
            Crop(self.shape),
        )
        network.append(nn.Unflatten(-1, network.out_layout))
        network.append(self.over(to_entries))  # [*, outputs·C, *sides]
        return network

    def between(self, sources: Sequence[Layout], target: Layout) -> Layers:
        laid = self.features(self.level(target)) if spatial(target) else (self.units,)
        network = Layers(Sum(sources, [self.path(source, laid) for source in sources]))
        if spatial(target):
            blocks = nn.Sequential(*self.stack(laid[0]))
            network.extend(self.laid(laid, blocks))
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
        chain, stages = nn.Sequential(), nn.Sequential()
        if not spatial(source):
            first = self.features(start)
            chain.append(steady(nn.Linear(prod(source), prod(first))))
            stages.extend(self.stack(first[0]))
            source = first
        stages.extend(self.stages(source[0], start, end))
        if not spatial(target):
            stages.extend([*self.stack(self.channels(end)), self.act()])
        chain.extend(self.laid(source, stages))
        if not spatial(target):
            chain.append(steady(nn.Linear(prod(self.features(end)), prod(target))))
        return chain

    def stages(self, channels: int, start: int, end: int) -> list[nn.Module]:
        """The layers from one level to another, with blocks at the levels between."""
        stages: list[nn.Module] = []
        up = start < end
        for level in range(start + 1, end + 1) if up else reversed(range(end, start)):
            size, stride = (3, 2) if up else (1, 1)
            stages.append(self.steady(channels, channels := self.channels(level), size, stride))
            if not up:
                stages.append(nn.Upsample(self.sides[level]))
            if level != end:
                stages.extend(self.stack(channels))
        return stages or [self.steady(channels, self.channels(end), 3)]

    def stack(self, channels: int) -> list[nn.Module]:
        return [
            Block(self.act, *(self.steady(channels, channels, 3) for _ in range(2)))
            for _ in range(self.blocks)
        ]

    def steady(self, channels: int, outputs: int, size: int, stride: int = 1) -> nn.Module:
        """A convolution that keeps the variance."""
        return steady(self.convolution(channels, outputs, size, stride, padding=size // 2))

    def over(self, network: nn.Module) -> OverLeading:
        return OverLeading(network, len(self.sides[0]))

    def laid(self, places: Layout, network: nn.Module) -> list[nn.Module]:
        """Vectors laid out as ``places``, sent through a network, and made vectors again."""
        return [nn.Unflatten(-1, places), self.over(network), nn.Flatten(-len(self.shape))]

    def level(self, places: Layout) -> int:
        return self.sides.index(places[1:]) if spatial(places) else self.deep

    def channels(self, level: int) -> int:
        return self.hidden[min(max(level, 1), len(self.hidden)) - 1]

    def features(self, level: int) -> Layout:
        return (self.channels(level), *self.sides[level])


def spatial(places: Layout) -> bool:
    return len(places) > 1


def steady(layer: Any) -> Any:
    """The layer, initialised so that its output has the variance of its input."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Block(nn.Module):
    """x + f(x), where f is an activation and a convolution, twice; f starts at 0."""

    def __init__(self, act: type[nn.Module], first: nn.Module, last: Any) -> None:
        super().__init__()
        nn.init.zeros_(last.weight)
        self.change = nn.Sequential(act(), first, act(), last)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.change(x)


class Shuffle(nn.Module):
    """``[B, r^n C, *sides]`` -> ``[B, C, *(r sides)]``: ``nn.PixelShuffle`` for any number n of
    sides."""

    def __init__(self, finer: int) -> None:
        super().__init__()
        self.finer = finer

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, *sides = x.shape
        r, n = self.finer, len(sides)
        pieces = x.reshape(batch, channels // r**n, *[r] * n, *sides)
        # Each side is followed by the r pieces that a place is cut into along it.
        order = [axis for i in range(n) for axis in (2 + n + i, 2 + i)]
        return pieces.permute(0, 1, *order).reshape(batch, -1, *(r * side for side in sides))


class Crop(nn.Module):
    """Cuts observations to the sides of ``shape``, from the first place on."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.kept: Any = (..., *(slice(side) for side in shape[1:]))

    def forward(self, x: Tensor) -> Tensor:
        return x[self.kept]

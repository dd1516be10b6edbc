"""What networks are built of, and how what flows between them is laid out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from ..parts import InputError, lookup

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
    """A chain of layers that says how many features it ends in, and how they are laid out if not
    as a vector."""

    out_features: int
    out_layout: Layout


class BatchNorm(nn.BatchNorm1d):
    """Batch normalization of features ``[*, F]``, over all leading dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(-1, x.shape[-1])).view_as(x)


def dense(sizes: Sequence[int], activation: str, last: bool, batch_norm: bool = False) -> Layers:
    """Linear layers through ``sizes``, an activation after each, after the last one if ``last``;
    before each activation batch normalization, if asked for."""
    act = lookup("activation", activation, ACTIVATIONS)
    layers = Layers()
    for i, (a, b) in enumerate(pairwise(sizes), start=2):
        layers.append(nn.Linear(a, b))
        if last or i < len(sizes):
            if batch_norm:
                layers.append(BatchNorm(b))
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
                "which is no whole multiple of that; give sides such as "
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


def head(encoder: nn.Module, outputs: int) -> nn.Module:
    """A linear map from an encoder's features to ``outputs`` numbers.

    Where the features are laid out like an image, and the outputs can be, each place has its own
    from its own features, the same map everywhere; the first half of the outputs is then the first
    half of their channels.
    """
    laid = layout(encoder)
    if len(laid) == 3 and outputs % (laid[1] * laid[2]) == 0:
        return PlaceByPlace((laid[0], laid[1], laid[2]), outputs)
    return nn.Linear(features(encoder), outputs)


class PlaceByPlace(nn.Module):
    """One linear map of the features at each place: vectors ``[*, C·h·w]`` -> ``[*, outputs]``."""

    def __init__(self, places: Shape, outputs: int) -> None:
        super().__init__()
        self.places = places
        self.linear = nn.Conv2d(places[0], outputs // (places[1] * places[2]), 1)

    def forward(self, x: Tensor) -> Tensor:
        images = self.linear(x.reshape(-1, *self.places))  # [B, c, h, w]
        return images.reshape(*x.shape[:-1], -1)


class OverImages(nn.Module):
    """A network on images ``[B, C, H, W]``, applied over any leading dimensions."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        images = self.network(x.reshape(-1, *x.shape[-3:]))
        return images.reshape(*x.shape[:-3], *images.shape[-3:])


class Sum(nn.Module):
    """Vectors side by side, ``[*, ΣF]``, each through a network of its own, and added up."""

    def __init__(self, sources: Sequence[Layout], paths: Sequence[nn.Module]) -> None:
        super().__init__()
        self.sizes = [prod(source) for source in sources]
        self.paths = nn.ModuleList(paths)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split(self.sizes, -1)
        first, *others = (path(part) for path, part in zip(self.paths, parts, strict=True))
        return sum(others, first)  # [*, F]

"""The building blocks of networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..latents import Layout, Shape
from ..registry import lookup
from ..sharing import AcrossRows
from ..words import called

CONVOLUTION: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
"""torch's convolutions by the number of sides: a signal has one, an image two, a volume three."""

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
    """Layer sizes as a tuple.

    Raises:
        InputError: no sizes, or something else than whole numbers above 0.
    """
    many = isinstance(sizes, Sequence) and not isinstance(sizes, str)
    if not many or not sizes or not all(type(s) is int and s > 0 for s in sizes):
        given = list(sizes) if many else repr(sizes)
        raise InputError(f"{called(option)} takes whole numbers above 0, not {given}")
    return tuple(sizes)


def sides_of(shape: Shape, network: str) -> Layout:
    """The sides of an observation ``(C, *sides)``, for a network of convolutions.

    Raises:
        InputError: a shape whose number of sides no convolution has.
    """
    if len(shape) - 1 not in CONVOLUTION:
        raise InputError(
            f"the {network} network is for signals (C, L), images (C, H, W) and volumes "
            f"(C, D, H, W), and the shape of x is {tuple(shape)}; take the network mlp"
        )
    return tuple(shape[1:])


class Layers(nn.Sequential):
    """A chain of layers that says the number and the layout of its output features."""

    out_features: int
    out_layout: Layout


def start_at(
    decoder: nn.Module, outputs: int, mean: Tensor, link: Callable[[Tensor], Tensor]
) -> None:
    """Set the last bias of a decoder so that its first C channels start near ``link(mean)``.

    A decoder's weights start small, so the bias is near the mean of its output. A decoder that is
    not one of :class:`Layers` is left as it is, because nothing says which bias is its last. So is
    one whose last layer has no bias.

    Args:
        decoder: network to ``outputs`` numbers for each entry of x.
        outputs: how many numbers it gives for each entry of x.
        mean: of the shape of x. A bias that all places of a channel share gets the mean over them.
        link: the decoder's output that belongs to a mean, elementwise.
    """
    if not isinstance(decoder, Layers):
        return
    affine = (nn.Linear, *CONVOLUTION.values(), *TRANSPOSED.values())
    bias: Any = [layer for layer in decoder.modules() if isinstance(layer, affine)][-1].bias
    if bias is None:
        return
    each = mean.reshape(len(mean), -1)  # [C, places]
    with torch.no_grad():
        places = bias.view(outputs * len(mean), -1)[: len(mean)]  # those with a bias of their own
        if places.shape != each.shape:
            each = each.mean(1, keepdim=True)
        places.copy_(link(each))


FARTHEST = 100.0
"""The encoder sees numbers up to so many units from the centre. Of N numbers that are standardised
by themselves none is farther away than √N. A number of new data that is much farther would make σ
of the guide infinite; the likelihood scores the number itself."""


class Standardized(nn.Module):
    """An encoder of standardised observations, (x - mean) / scale, by channel.

    Args:
        encoder: network from ``[*, *shape]`` to features ``[*, F]``.
        shape: the shape of one observation. Each entry of a vector is a channel of its own.
        mean, scale: the mean and the standard deviation of each channel, C numbers each.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, encoder: nn.Module, shape: Shape, mean: Sequence[float], scale: Sequence[float]
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.out_features, self.out_layout = features(encoder), layout(encoder)
        # They are saved with the weights, because weights fit only what they were trained on.
        for name, values in (("mean", mean), ("scale", scale)):
            self.register_buffer(name, by_channel(values, shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(((x - self.mean) / self.scale).clamp(-FARTHEST, FARTHEST))


def by_channel(values: Sequence[float], shape: Shape) -> Tensor:
    """A number for each channel, ``[C, 1, …]``, which broadcasts over observations of ``shape``."""
    return torch.tensor(values).view(-1, *[1] * (len(shape) - 1))


class BatchNorm(AcrossRows, nn.BatchNorm1d):
    """Batch normalization of features ``[*, F]``, over all leading dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if self.training and self.batch.split:
            return self.over_processes(rows).view_as(x)
        return super().forward(rows).view_as(x)

    def over_processes(self, rows: Tensor) -> Tensor:
        """As torch's batch normalization, with the moments of the rows of all processes.

        Args:
            rows: those of this process, ``[N, F]``.
        """
        count = self.batch.count(len(rows))
        mean = self.batch.sum(rows.sum(0)) / count  # [F]
        centred = rows - mean
        variance = self.batch.sum(centred.square().sum(0)) / count
        kept: Any = self
        with torch.no_grad():
            kept.num_batches_tracked += 1
            kept.running_mean.lerp_(mean, self.momentum)
            kept.running_var.lerp_(variance * count / (count - 1), self.momentum)
        return centred * (variance + self.eps).rsqrt() * self.weight + self.bias


class ChannelNorm(BatchNorm):
    """Batch normalization of channels ``[B, C, *sides]``, over all images and places."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.batch.split:
            return super().forward(x.movedim(1, -1)).movedim(-1, 1)
        # torch's batch normalization of many rows [B·places, C] has a rounding error of 1e-4.
        return nn.BatchNorm1d.forward(self, x.flatten(2)).view_as(x)


def dense(sizes: Sequence[int], activation: str, last: bool, batch_norm: bool = False) -> Layers:
    """Linear layers of the given sizes, each followed by an activation.

    Args:
        sizes: input size, then the size of each layer's output.
        activation: a name of :data:`ACTIVATIONS`.
        last: whether the last layer has an activation, too.
        batch_norm: whether batch normalization precedes each activation.
    """
    act = lookup("activation", activation, ACTIVATIONS)
    layers = Layers()
    for i, (a, b) in enumerate(pairwise(sizes), start=2):
        layers.append(nn.Linear(a, b))
        if last or i < len(sizes):
            if batch_norm:
                layers.append(BatchNorm(b))
            layers.append(act())
    layers.out_features, layers.out_layout = sizes[-1], (sizes[-1],)
    return layers


def features(encoder: nn.Module) -> int:
    """The number of an encoder's output features.

    Raises:
        InputError: an encoder without an attribute ``out_features``.
    """
    # The encoder can be any module of the user, so its attribute can only be asked for by name.
    if not isinstance(size := getattr(encoder, "out_features", None), int):
        raise InputError(
            f"the encoder {type(encoder).__name__} does not say how many features it gives; give "
            "it an attribute out_features"
        )
    return size


def layout(encoder: nn.Module) -> Layout:
    """The layout of an encoder's output features: a vector, unless the encoder says another."""
    # As for out_features, the encoder can be any module of the user.
    return tuple(getattr(encoder, "out_layout", (features(encoder),)))


def numbers(layouts: Sequence[Layout]) -> int:
    """How many numbers vectors with these layouts have together."""
    return sum(prod(each) for each in layouts)


def head(encoder: nn.Module, outputs: int) -> nn.Module:
    """A linear map from an encoder's features to ``outputs`` numbers.

    If the features have places, as those of an image, and ``outputs`` is a multiple of their
    number, each place is computed from its own features by the same map. The first half of the
    outputs is then the first half of the channels.
    """
    places = layout(encoder)
    if len(places) > 1 and outputs % prod(places[1:]) == 0:
        return PlaceByPlace(places, outputs)
    return nn.Linear(features(encoder), outputs)


class PlaceByPlace(nn.Module):
    """The same linear map at each place of an observation with sides, for instance of an image:
    vectors ``[*, C·h·w]`` -> ``[*, outputs]``."""

    def __init__(self, places: Layout, outputs: int) -> None:
        super().__init__()
        self.places = places
        convolution = CONVOLUTION[len(places) - 1]
        self.linear = convolution(places[0], outputs // prod(places[1:]), 1)

    def forward(self, x: Tensor) -> Tensor:
        placed = self.linear(x.reshape(-1, *self.places))  # [B, c, *sides]
        return placed.reshape(*x.shape[:-1], -1)


class OverLeading(nn.Module):
    """Applies a network on a batch ``[B, C, *sides]`` over any leading dimensions.

    Args:
        network: takes one leading dimension only, as torch's convolutions do.
        sides: how many sides x has, 2 for an image.
    """

    def __init__(self, network: nn.Module, sides: int) -> None:
        super().__init__()
        self.network = network
        self.event = sides + 1

    def forward(self, x: Tensor) -> Tensor:
        batch = self.network(x.reshape(-1, *x.shape[-self.event :]))
        return batch.reshape(*x.shape[: -self.event], *batch.shape[1:])


class Sum(nn.Module):
    """Splits ``[*, ΣF]`` into vectors, sends each through its own network and adds the results."""

    def __init__(self, sources: Sequence[Layout], paths: Sequence[nn.Module]) -> None:
        super().__init__()
        self.sizes = [prod(source) for source in sources]
        self.paths = nn.ModuleList(paths)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split(self.sizes, -1)
        first, *others = (path(part) for path, part in zip(self.paths, parts, strict=True))
        return sum(others, first)  # [*, F]

"""What a VAE needs to build its parts, and checks of what it is given."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .contracts import Likelihood, Network
from .data import Data, Images
from .data.arrays import ROUNDING, suggest_scaling
from .data.images import describe
from .errors import InputError
from .latents import Layout, in_support, innermost
from .likelihoods.located import HALF_A_LEVEL
from .options import at_least_one, is_number
from .registry import NETWORKS, Choice, unwrapped


def check_training(images: Any) -> Images:
    """The training images in ``images``: the Images themselves, or those of a Data.

    Raises:
        InputError: something else, no images, or pixels that are not numbers in [0, 1].
    """
    images = images.train if isinstance(images, Data) else images
    if not isinstance(images, Images):
        raise InputError(
            "VAE.for_data takes the training images as Images, such as load_data(...).train (a "
            f"tensor of pixels becomes them by Images(pixels) of pyro_vae.data), not a "
            f"{type(images).__name__}"
        )
    if len(images) == 0:
        raise InputError("a VAE for data needs at least one training image, and there are none")
    pixels, kind = images.pixels, images.pixels.dtype
    if kind == torch.uint8 and pixels.max() == 1:
        warnings.warn(
            "the pixels have 8 bits and only the values 0 and 1, which are grey of 0 and 1/255; if "
            "1 is white, give pixels * 255",
            stacklevel=3,
        )
    if kind in (torch.uint8, torch.bool):
        return images
    if not kind.is_floating_point:
        raise InputError(
            f"pixels are uint8, or floats in [0, 1], and not {str(kind).removeprefix('torch.')}"
        )
    low, high = pixels.min().item(), pixels.max().item()
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # "not", because NaN compares False
        raise InputError(
            f"the pixels of the training images reach from {low:.7g} to {high:.7g}, and pixels "
            f"are numbers in [0, 1]{suggest_scaling(low, high)}"
        )
    return images


def start_likelihood(part: Any, mean: Tensor) -> None:
    """Call :meth:`~pyro_vae.contracts.Likelihood.start` of a likelihood.

    Raises:
        InputError: a ``start`` of the user that does not take the mean image.
    """
    start = Likelihood.of(part).start
    try:
        inspect.signature(start).bind(mean)
    except TypeError:
        raise InputError(
            f"the method start of {type(part).__name__} takes the mean of the training images, "
            "start(self, mean)"
        ) from None
    start(mean)


def statistics(images: Images) -> tuple[Tensor, list[list[float]]]:
    """The mean image ``[C, H, W]``, and the channels' means and standard deviations.

    The standard deviation of a channel that changes by less than half a grey level is given as 1,
    so that the channel is only centred. Divided by its own, it would be noise, and a new image
    would be far outside.
    """
    first, second = images.moments()
    mean = first.mean((1, 2))  # [C]
    variance = second.mean((1, 2)) - mean.square()
    scale = torch.where(variance > HALF_A_LEVEL**2, variance, 1).sqrt()
    return first, [mean.tolist(), scale.tolist()]


def latents_of(
    z: Any, sites: Mapping[str, Any], layers: Mapping[str, Layout], like: Tensor
) -> tuple[dict[str, Tensor], int]:
    """The latents that a user gives, by site, each ``[n, Z]``; and n.

    Args:
        z: latents ``[n, Z]`` or ``[Z]`` of the site "z", or a dict of them by site. Each is a
            tensor, a NumPy array or a list of numbers, and may have the layout of its layer.
        sites: the latent sites of the model, each a site of a Pyro trace.
        layers: the layouts of layers by site.
        like: a tensor with the type and the device that the latents get.

    Raises:
        InputError: latents of another shape, numbers that are not finite or outside the support of
            the prior, or sites that the model does not have.
    """
    if isinstance(z, Mapping) and not z:
        raise InputError(f"give the latents of at least one of the sites {', '.join(sites)}")
    data = {}
    for name, value in z.items() if isinstance(z, Mapping) else [("z", z)]:
        if name not in sites:
            raise InputError(
                f"the model has the latent sites {', '.join(sites)}, and no {name!r}; latents of "
                "several sites are a dict by site"
            )
        fn, size = sites[name]["fn"], sites[name]["value"].shape[-1]
        numbers, layout = tensor_of(value), layers.get(name, (size,))
        if numbers is not None and len(layout) == 3 and tuple(numbers.shape[-3:]) == layout:
            numbers = numbers.flatten(-3)
        if (
            numbers is None
            or not numbers.numel()
            or numbers.dim() not in (1, 2)
            or numbers.shape[-1] != size
        ):
            also = f" (or [n, {', '.join(map(str, layout))}])" if len(layout) == 3 else ""
            raise InputError(
                f"the latents of {name!r} are a tensor [n, {size}] or [{size}]{also}, not "
                f"{describe(value)}"
            )
        numbers = numbers.to(like).reshape(-1, size)
        if not numbers.isfinite().all():
            raise InputError(f"the latents of {name!r} have NaN or infinite numbers")
        if not in_support(fn, numbers):
            raise InputError(
                f"the latents of {name!r} are outside the support of the prior, which is "
                f"{innermost(fn.support)}"
            )
        data[name] = numbers
    if len(rows := {len(value) for value in data.values()}) != 1:
        raise InputError(f"latents of all sites have the same number of rows, not {sorted(rows)}")
    return data, rows.pop()


def tensor_of(value: Any) -> Tensor | None:
    """A tensor, a NumPy array or a list of numbers as a tensor; None for something else."""
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, np.ndarray | Sequence) or isinstance(value, str):
        return None
    try:
        return torch.from_numpy(np.array(value, dtype=np.float64))
    except (TypeError, ValueError):  # lists of different lengths, or of other things
        return None


def moments_of(standardize: Any, channels: int) -> Any:
    """``standardize`` if it is means and positive standard deviations of all channels.

    Raises:
        InputError: something else.
    """
    listed = isinstance(standardize, Sequence) and all(isinstance(m, Sequence) for m in standardize)
    if (
        not listed
        or [len(m) for m in standardize] != [channels, channels]
        or not all(is_number(n) for m in standardize for n in m)
        or not all(n > 0 for n in standardize[1])
    ):
        raise InputError(
            f"standardize is two lists of {channels} numbers, the channels' means and their "
            f"standard deviations above 0, not {standardize!r}"
        )
    return standardize


def network_of(spec: Any, hidden: Sequence[int] | None, handed: dict[str, Any]) -> Any:
    """The network that ``spec`` names, with the layer sizes ``hidden`` if they are not None.

    Args:
        spec: the network in one of the ways of :mod:`~pyro_vae.registry`.
        hidden: the layer sizes.
        handed: the arguments of :meth:`~pyro_vae.registry.Choice.make`.
    """
    choice = NETWORKS.choose(spec)
    if hidden is None:
        return choice.make(**handed)
    if "hidden" in choice.options or choice.built:
        raise InputError(
            f"hidden={hidden} and the network {spec!r} both set the layer sizes; give one"
        )
    return replace(choice, options={**choice.options, "hidden": hidden}).make(**handed)


def likelihood_of(choice: Choice, net: Network, latent_size: int, handed: dict[str, Any]) -> Any:
    """The likelihood with a decoder that gives as many outputs as the likelihood needs.

    A likelihood says how many outputs it needs once it is made, because the number can depend on
    its options. So trials are made until one has the number that it needs. They do not change the
    state of the random numbers. The likelihood is made anew after them.

    Raises:
        InputError: the number that it needs changes with the number that it was given.
    """
    if choice.built:
        return choice.make()
    outputs = own_outputs(choice.part)
    for _ in range(3):  # a class of the user may not say its number, and may correct it once
        with torch.random.fork_rng(devices=[]):
            trial = choice.make(decoder=net.decoder(latent_size, outputs), **handed)
        needed = Likelihood.of(trial).outputs
        at_least_one(f"outputs of {choice.name}", needed)
        if needed == outputs:
            return choice.make(decoder=net.decoder(latent_size, outputs), **handed)
        outputs = needed
    raise InputError(
        f"the likelihood {choice.name} needs another number of outputs each time it is built, "
        f"now {outputs}; its attribute outputs must not depend on the decoder"
    )


def own_outputs(factory: Any) -> int:
    """The ``outputs`` that a class says before it is built; 1 for anything else."""
    factory = unwrapped(factory)
    derived = isinstance(factory, type) and issubclass(factory, Likelihood)
    return factory.outputs if derived and isinstance(factory.outputs, int) else 1

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
from torch.distributions import constraints

from .contracts import Likelihood, Network
from .data import Data, Images, StoredData, StoredImages
from .data.images import describe
from .data.rounding import refuse_rounded
from .errors import InputError
from .holes import fill, refuse_unobserved
from .joining import Input
from .latents import Layout, Shape, in_support, innermost
from .likelihoods.columns import Columns
from .likelihoods.located import HALF_A_LEVEL
from .likelihoods.masking import INNER, SelfMasking
from .networks.layers import by_channel, widths
from .options import at_least_one, is_number
from .registry import LIKELIHOODS, NETWORKS, Choice, class_of, unwrapped
from .supports import bounds, refuse_outside
from .words import called

Moments = Sequence[Sequence[float]]
"""The means of the channels of x, and their standard deviations."""


def check_training(images: Any) -> Images:
    """The training images in ``images``: the Images themselves, or those of a Data.

    Raises:
        InputError: something else, no images, infinite numbers, numbers that are too near each
            other for float32, or an entry that is never observed.
    """
    images = images.train if isinstance(images, Data) else images
    if isinstance(images, StoredData | StoredImages):
        raise InputError(
            "VAE.for_data measures images in memory; give a sample of those on disk, such as "
            "open_data(...).train.sample()"
        )
    if not isinstance(images, Images):
        raise InputError(
            "VAE.for_data takes the training images as Images, such as load_data(...).train (a "
            f"tensor of pixels becomes them by Images(pixels) of pyro_vae.data), not a "
            f"{type(images).__name__}"
        )
    if len(images) == 0:
        raise InputError("a VAE for data needs at least one training image, and there are none")
    if images.mask is not None and not images.mask.any():
        raise InputError("all entries of the training data are missing")
    pixels = images.pixels
    if pixels.dtype == torch.uint8 and pixels.max() == 1:
        warnings.warn(
            "the pixels have 8 bits and only the values 0 and 1, which are grey of 0 and 1/255; if "
            "1 is white, give pixels * 255",
            stacklevel=3,
        )
    if pixels.is_floating_point():
        refuse_outside(pixels, constraints.real, "a VAE")
    if images.mask is not None:
        refuse_unobserved(images.mask)
    refuse_rounded(pixels, images.mask, "the tensor of observations")
    return images


def shows_own_units(choice: Choice) -> bool:
    """Whether a likelihood shows entries to the encoder in units of its own. The likelihood
    ``self-masking`` shows them as the likelihood inside it does."""
    kind = class_of(choice)
    if issubclass(kind, SelfMasking):
        return shows_own_units(LIKELIHOODS.choose(choice.options.get("likelihood", INNER)))
    return issubclass(kind, Likelihood) and kind.seen != Likelihood.seen


def refuse_data(images: Images, likelihood: Any) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` if a likelihood does not score some of the
    training data. Grey pixels of 0 to 1 pass, because they can still be drawn as 0 or 1. The codes
    of categories and levels in a table are no numbers, so only ``columns`` scores them."""
    if images.schema is not None and not isinstance(likelihood, Columns):
        coded = ("binary", "categorical", "ordered")
        if named := [c.name for c in images.schema.columns if c.type in coded]:
            raise InputError(
                f"the likelihood {Likelihood.of(likelihood).name()} scores each column as numbers, "
                f"and the column {named[0]!r} of the table has categories; leave the likelihood "
                "out, so that it is columns"
            )
    if images.in_unit_interval and bounds(Likelihood.of(likelihood).support) == (0.0, 1.0):
        return
    # The draws of pixels leave the global random numbers as they are.
    generator = torch.Generator(images.pixels.device).manual_seed(0)
    part = Likelihood.of(likelihood)
    for start in range(0, len(images), 1000):
        rows = images.rows(slice(start, start + 1000), generator)
        x, mask = rows.args[0], rows.kwargs.get("mask")
        part.check(x if mask is None else fill(x, mask, part.support))


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
            f"the method start of {type(part).__name__} takes the mean of the training data, "
            "start(self, mean)"
        ) from None
    start(mean)


def statistics(images: Images) -> tuple[Tensor, list[list[float]]]:
    """The mean of the observations, and the channels' means and standard deviations.

    The standard deviation of a channel that does not change is given as 1, so that the channel is
    only centred. Divided by its own, it would be noise, and a new observation would be far outside.
    A channel of pixels does not change if it does by less than half a grey level; one of other
    numbers, if it does by less than float32 resolves.
    """
    first, second, count = (m.reshape(images.shape[0], -1) for m in images.moments())
    total = count.sum(1).clamp(1)  # of all places of a channel
    mean = (first * count).sum(1) / total  # [C]
    variance = (second * count).sum(1) / total - mean.square()
    least = HALF_A_LEVEL**2 if images.in_unit_interval else (mean.abs() * 1e-6).square()
    scale = torch.where(variance > least, variance, 1).sqrt()
    start = torch.where(count > 0, first, mean[:, None])
    return start.reshape(images.shape), [mean.tolist(), scale.tolist()]


def latents_of(
    z: Any, sites: Mapping[str, Any], layers: Mapping[str, Layout], like: Tensor
) -> tuple[dict[str, Tensor], int, bool]:
    """The latents that a user gives, by site, each ``[n, Z]``; n; and whether n was given.

    It was not if all of them are of one observation, without the dimension ``[n]``.

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
    data, batch = {}, False
    for name, value in z.items() if isinstance(z, Mapping) else [("z", z)]:
        if name not in sites:
            raise InputError(
                f"the model has the latent sites {', '.join(sites)}, and no {name!r}; latents of "
                "several sites are a dict by site"
            )
        fn, size = sites[name]["fn"], sites[name]["value"].shape[-1]
        numbers, layout = tensor_of(value), layers.get(name, (size,))
        rank = len(layout)
        if numbers is not None and rank > 1 and tuple(numbers.shape[-rank:]) == layout:
            numbers = numbers.flatten(-rank)
        if (
            numbers is None
            or not numbers.numel()
            or numbers.dim() not in (1, 2)
            or numbers.shape[-1] != size
        ):
            also = f" (or [n, {', '.join(map(str, layout))}])" if rank > 1 else ""
            raise InputError(
                f"the latents of {name!r} are a tensor [n, {size}] or [{size}]{also}, not "
                f"{describe(value)}"
            )
        batch = batch or numbers.dim() == 2
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
    return data, rows.pop(), batch


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


def moments_of(option: str, moments: Any, channels: int) -> Any:
    """``moments`` as floats, if it is means and positive standard deviations of all channels.

    Raises:
        InputError: something else.
    """
    listed = isinstance(moments, Sequence) and all(isinstance(m, Sequence) for m in moments)
    if (
        not listed
        or [len(m) for m in moments] != [channels, channels]
        or not all(is_number(n) for m in moments for n in m)
        or not all(n > 0 for n in moments[1])
    ):
        raise InputError(
            f"{option} is two lists of {channels} numbers, the channels' means and their "
            f"standard deviations above 0, not {moments!r}"
        )
    return [[float(n) for n in m] for m in moments]  # of NumPy's float64, torch keeps the type


def scaling_of(scaling: Any, shape: Shape, option: str = "scaling") -> tuple[Tensor, Tensor] | None:
    """What parts are handed as ``scaling`` or another ``option``: two tensors that broadcast over
    ``shape``, or None."""
    if scaling is None:
        return None
    mean, scale = moments_of(option, scaling, shape[0])
    return by_channel(mean, shape), by_channel(scale, shape)


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
    widths("hidden", hidden)
    if "hidden" in choice.options or choice.built:
        raise InputError(
            f"{called('hidden', list(hidden))} and the network {spec!r} both set the layer sizes; "
            "give one"
        )
    return replace(choice, options={**choice.options, "hidden": hidden}).make(**handed)


def network_for(
    seen: Input, spec: Any, hidden: Sequence[int] | None, handed: dict[str, Any]
) -> Any:
    """The network of the encoder, if the encoder sees more than x.

    Raises:
        InputError: a network that is built already, for x alone.
    """
    if NETWORKS.choose(spec).built:
        raise InputError(
            f"the encoder sees observations of shape {list(seen.shape)}, with mask, context or "
            "categories, and the network was built for x alone; give its name or its class"
        )
    return network_of(spec, hidden, {**handed, "shape": seen.shape})


def likelihood_of(
    choice: Choice, net: Network, latent_size: int, handed: dict[str, Any], further: int = 0
) -> Any:
    """The likelihood with a decoder that gives as many outputs as the likelihood needs.

    A likelihood says how many outputs it needs once it is made, because the number can depend on
    its options. So trials are made until one has the number that it needs. They do not change the
    state of the random numbers. The likelihood is made anew after them.

    Args:
        choice: the likelihood.
        net: makes the decoder.
        latent_size: how many latents the decoder gets.
        handed: the arguments of :meth:`~pyro_vae.registry.Choice.make`.
        further: how many numbers of the context it gets beside them.

    Raises:
        InputError: the number that it needs changes with the number that it was given.
    """
    if choice.built:
        return choice.make()
    latent_size += further
    if further:
        handed = {**handed, "latent_size": latent_size, "latent_layers": ((latent_size,),)}
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

"""What a VAE needs to build its parts, and checks of what it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .contracts import Likelihood, Network
from .data.images import Images, describe
from .errors import InputError
from .options import at_least_one, is_number
from .registry import NETWORKS, Choice, unwrapped


def statistics(images: Images) -> tuple[Tensor, list[list[float]]]:
    """The mean image ``[C, H, W]``, and the channels' means and standard deviations.

    A channel that never changes has the standard deviation 1, so that it is only centred.
    """
    first, second = images.moments()
    mean = first.mean((1, 2))  # [C]
    variance = second.mean((1, 2)) - mean.square()
    scale = torch.where(variance > 1e-12, variance, 1).sqrt()
    return first, [mean.tolist(), scale.tolist()]


def latents_of(z: Any, sites: Mapping[str, Any], like: Tensor) -> tuple[dict[str, Tensor], int]:
    """The latents that a user gives, by site, each ``[n, Z]``; and n.

    Args:
        z: latents ``[n, Z]`` or ``[Z]`` of the site "z", or a dict of them by site.
        sites: the latent sites of the model, each a site of a Pyro trace.
        like: a tensor with the type and the device that the latents get.

    Raises:
        InputError: latents of another shape, or sites that the model does not have.
    """
    data = {}
    for name, value in z.items() if isinstance(z, Mapping) else [("z", z)]:
        if name not in sites:
            raise InputError(
                f"the model has the latent sites {', '.join(sites)}, and no {name!r}; latents of "
                "several sites are a dict by site"
            )
        size = sites[name]["value"].shape[-1]
        if not isinstance(value, Tensor) or value.dim() not in (1, 2) or value.shape[-1] != size:
            raise InputError(
                f"the latents of {name!r} are a tensor [n, {size}] or [{size}], not "
                f"{describe(value)}"
            )
        data[name] = value.to(like).reshape(-1, size)
    if len(rows := {len(value) for value in data.values()}) != 1:
        raise InputError(f"latents of all sites have the same number of rows, not {sorted(rows)}")
    return data, rows.pop()


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
    """
    if choice.built:
        return choice.make()
    outputs, part = own_outputs(choice.part), None
    while part is None:
        with torch.random.fork_rng(devices=[]):
            trial = choice.make(decoder=net.decoder(latent_size, outputs), **handed)
        needed = Likelihood.of(trial).outputs
        at_least_one(f"outputs of {choice.name}", needed)
        if needed == outputs:
            part = choice.make(decoder=net.decoder(latent_size, outputs), **handed)
        outputs = needed
    return part


def own_outputs(factory: Any) -> int:
    """The ``outputs`` that a class says before it is built; 1 for anything else."""
    factory = unwrapped(factory)
    derived = isinstance(factory, type) and issubclass(factory, Likelihood)
    return factory.outputs if derived and isinstance(factory.outputs, int) else 1

"""Build the network and the likelihood of a VAE, and check what it is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from .contracts import Likelihood, Network
from .errors import InputError
from .options import at_least_one, is_number
from .registry import NETWORKS, Choice, unwrapped


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

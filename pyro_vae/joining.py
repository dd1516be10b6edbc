"""Context and mask beside x and z: what the encoder sees, and what the decoder gets.

A part need not know of a context or of holes. The encoder sees one tensor in which x, the mask of
its holes and the context are joined (:class:`Input`). The decoder gets one vector in which z and
the context are joined (:func:`beside`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from .contracts import Borrowed, Likelihood
from .errors import InputError
from .latents import Shape
from .networks.layers import Standardized, by_channel


class Input(nn.Module):
    """What an encoder sees of observations: x, the mask and the context as one tensor.

    Without holes and context it is x as the likelihood shows it
    (:meth:`~pyro_vae.contracts.Likelihood.seen`). Otherwise mask and context are further channels,
    equal at all places, for a network that keeps the places of x
    (:attr:`~pyro_vae.contracts.Network.placed`). For other networks all numbers are one vector.

    Args:
        likelihood: how entries are shown to an encoder.
        shape: the shape of one observation.
        holes: whether the mask is joined; it is 1 where x was observed.
        context: how many numbers of the context are joined; 0 for none.
        placed: whether the network keeps the places of x.

    Attributes:
        shape: the shape of the result for one observation.
        plain: whether the result is x itself.

    Paper: Nazábal et al. 2020, Handling incomplete heterogeneous data using VAEs.
    """

    def __init__(
        self, likelihood: Likelihood, shape: Shape, holes: bool, context: int, placed: bool
    ) -> None:
        super().__init__()
        self.likelihood = Borrowed(likelihood)
        self.holes, self.context, self.placed = holes, context, placed
        shows: Any = likelihood.seen
        self.own = getattr(shows, "__func__", shows) is not Likelihood.seen
        self.plain = not (holes or context or self.own)
        self.observed, self.shape = shape, shape
        if not self.plain:
            like = next(likelihood.parameters(), torch.zeros(()))
            few = self(like.new_zeros(1, *shape), None, like.new_zeros(1, context))
            self.shape = tuple(few.shape[1:])

    def moments(self, mean: Sequence[float], scale: Sequence[float]) -> tuple[list[float], ...]:
        """Means and standard deviations of the channels of x as those of the joined tensor.

        Mask and context are not standardised.

        Raises:
            InputError: a likelihood that shows entries in units of its own.
        """
        if self.own:
            name = self.likelihood.module.name()
            raise InputError(
                f"the {name} likelihood shows entries to the encoder in units of its own; leave "
                "standardize out"
            )
        if self.plain:
            return list(mean), list(scale)
        each = 1 if self.placed else prod(self.observed[1:])
        rest = self.shape[0] - len(mean) * each
        return tuple(
            [m for m in moment for _ in range(each)] + [neutral] * rest
            for moment, neutral in ((mean, 0.0), (scale, 1.0))
        )

    def channels(self, joined: Tensor) -> list[float]:
        """The numbers of the channels of x among those that :meth:`moments` gave."""
        each = 1 if self.plain or self.placed else prod(self.observed[1:])
        return joined.flatten()[: self.observed[0] * each : each].tolist()

    def scaling(self, standardize: Sequence[Sequence[float]] | None) -> tuple[Tensor, Tensor]:
        """The means and the standard deviations of the joined tensor, for a prior that makes
        inputs of the encoder; 0 and 1 where they are not known.

        Args:
            standardize: those of the channels of x, if the encoder standardises them.
        """
        if standardize is None:
            return torch.zeros(self.shape), torch.ones(self.shape)
        mean, scale = self.moments(*standardize)
        return by_channel(mean, self.shape), by_channel(scale, self.shape)

    def forward(self, x: Tensor, mask: Tensor | None, context: Tensor | None) -> Tensor:
        """The joined tensor, ``[*, B, *shape]``.

        Args:
            x: the observations ``[B, *shape]``, with numbers of no meaning in the holes.
            mask: bool, of the shape of x; None if all entries were observed.
            context: the encoded context ``[*, B, n]``; None for none.
        """
        seen = self.likelihood.module.seen(x, mask)
        parts = [seen]
        if self.holes:
            parts.append(torch.ones_like(x) if mask is None else mask.to(x.dtype))
        if not self.placed and not self.plain:
            parts = [part.flatten(1) for part in parts]
        if self.context and context is not None:
            sides = seen.shape[2:] if self.placed else ()
            placed = context.reshape(*context.shape, *[1] * len(sides))
            parts.append(placed.expand(*context.shape, *sides))  # [*, B, n, *sides]
        event = parts[0].dim() - 1
        leading = torch.broadcast_shapes(*(part.shape[:-event] for part in parts))
        return torch.cat([p.expand(*leading, *p.shape[-event:]) for p in parts], -event)


def beside(z: Tensor, context: Tensor) -> Tensor:
    """Latents ``[*, B, Z]`` and the encoded context ``[*, B, n]`` as what a decoder gets."""
    leading = torch.broadcast_shapes(z.shape[:-1], context.shape[:-1])
    return torch.cat([each.expand(*leading, -1) for each in (z, context)], -1)  # [*, B, Z + n]


def refuse_other_scaling(vae: Any, state: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """Before ``load_state_dict``: raise :class:`~pyro_vae.errors.InputError` for weights of another
    ``scaling``, which the state does not have.

    Where encoder and likelihood have the same moments, as by ``VAE.for_data``, those of the encoder
    tell. The likelihood ``columns`` of a table shows no moments to the encoder, so they cannot.
    """
    if vae.config["scaling"] is None or vae.config["scaling"] != vae.config["standardize"]:
        return
    for name, encoder in vae.guide.named_modules(prefix=f"{prefix}guide"):
        if not isinstance(encoder, Standardized):
            continue
        for key, own in (("mean", encoder.mean), ("scale", encoder.scale)):
            other = state.get(f"{name}.{key}", own)
            if other.shape == own.shape and not torch.allclose(other.to(own), own):
                raise InputError(
                    f"the weights are of data whose channels have the {key} "
                    f"{other.flatten().tolist()!s:.60}, and the scaling of this VAE has "
                    f"{own.flatten().tolist()!s:.60}; make it by VAE(**config) of the other VAE's "
                    "config, or load that one by pyro_vae.load()"
                )


def follow_moments(seen: Input, vae: Any, keys: Any) -> None:
    """After ``load_state_dict``: the encoder has the moments that were loaded, so the config has
    them, too, and holes are shown at their mean."""
    for encoder in (m for m in vae.guide.modules() if isinstance(m, Standardized)):
        loaded = [seen.channels(encoder.mean), seen.channels(encoder.scale)]
        if torch.tensor(vae.config["standardize"]).tolist() != loaded:  # rounded to float32
            vae.config["standardize"] = loaded
            vae.guide.blank = by_channel(loaded[0], vae.shape).to(encoder.mean)

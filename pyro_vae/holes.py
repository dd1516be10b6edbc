"""Missing entries of x: the mask of what was observed, and a likelihood of the observed entries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent

from .errors import InputError
from .latents import innermost
from .supports import some_value


def as_mask(mask: Any, x: Tensor) -> Tensor:
    """A mask of the observed entries of ``x``, of the shape of ``x``.

    Args:
        mask: bool, True where x was observed; of the shape of ``x``, or ``[B]`` for whole
            observations.

    Raises:
        InputError: something else.
    """
    shapes = (x.shape, x.shape[:1])
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape not in shapes:
        given = (
            f"a tensor of type {str(mask.dtype).removeprefix('torch.')} and shape "
            f"{list(mask.shape)}"
            if isinstance(mask, Tensor)
            else f"a {type(mask).__name__}"
        )
        raise InputError(
            "the mask is a tensor of bool, True where x was observed, of shape "
            f"{list(x.shape)} or {list(x.shape[:1])}, not {given}"
        )
    mask = mask.to(x.device)
    return mask.reshape(-1, *[1] * (x.dim() - mask.dim()), *mask.shape[1:]).expand_as(x)


def fill(x: Tensor, mask: Tensor, support: Any) -> Tensor:
    """``x`` with a value of the support in its holes, so that densities there are finite.

    Their value does not matter, but a NaN or an infinite number would give gradients of NaN.
    """
    return torch.where(mask, x, torch.as_tensor(some_value(innermost(support))).to(x))


def of_observed(p: Any, mask: Tensor, who: str) -> Any:
    """A distribution over x as one that scores only the observed entries.

    Equation: log p(x_observed | z) = Σ_i mask_i log p(x_i | z).

    Args:
        p: independent entries, batch ``[*, B]`` and event ``shape``.
        mask: of the shape of x.
        who: who gives ``p``, for the error message.

    Raises:
        InputError: entries that depend on each other, whose observed part has no such sum.
    """
    if not isinstance(p, Independent) or p.base_dist.event_shape:
        raise InputError(
            f"{who} scores an observation as a whole, so a part of it cannot be left out; a mask "
            "needs independent entries, which .to_event() makes one event"
        )
    entries: Any = p.base_dist
    return entries.mask(mask).to_event(p.reinterpreted_batch_ndims)

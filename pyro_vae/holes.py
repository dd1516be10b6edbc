"""Missing entries of x: the mask of what was observed, and a likelihood of the observed entries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Independent
from torch.nn.functional import logsigmoid

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


class WithMask(TorchDistribution):
    """A distribution over the observed entries of x and the mask of what was observed.

    Equation: log p(x_o, m) = Σ_i m_i log p(x_i) + Σ_i log p(m_i | x̃_i), where x̃_i is x_i if it
    was observed, else ``drawn``.

    Args:
        p: independent entries of x, batch ``[*, B]`` and event ``shape``.
        mask: of the shape of x.
        drawn: a draw of ``p``, for the missing entries.
        logits: a function from x to the logit of the probability that each entry is observed.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self, p: Any, mask: Tensor, drawn: Tensor, logits: Callable[[Tensor], Tensor]
    ) -> None:
        if not isinstance(p, Independent) or p.base_dist.event_shape:
            raise InputError(
                "a mask needs independent entries of x, which .to_event() makes one event"
            )
        self.p, self.observed, self.drawn, self.logits = p, mask, drawn, logits
        super().__init__(p.batch_shape, p.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return True

    @property
    def support(self) -> Any:
        return self.p.support

    @property
    def mean(self) -> Tensor:
        """The mean of x, whatever is observed."""
        return self.p.mean

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.p.rsample(torch.Size(sample_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> WithMask:
        batch = torch.Size(batch_shape)
        drawn = self.drawn.expand(batch + self.event_shape)
        return WithMask(self.p.expand(batch), self.observed, drawn, self.logits)

    def log_prob(self, value: Tensor) -> Tensor:
        entries: Any = self.p.base_dist
        logits = self.logits(torch.where(self.observed, value, self.drawn))
        scores = torch.where(self.observed, entries.log_prob(value), 0)
        scores = scores + logsigmoid(torch.where(self.observed, logits, -logits))
        return scores.flatten(-self.p.reinterpreted_batch_ndims).sum(-1)


def of_observed(p: Any, mask: Tensor, who: str) -> Any:
    """A distribution over x as one that scores only the observed entries.

    A :class:`WithMask` scores the mask, too, and stays as it is.

    Equation: log p(x_observed | z) = Σ_i mask_i log p(x_i | z).

    Args:
        p: independent entries, batch ``[*, B]`` and event ``shape``.
        mask: of the shape of x.
        who: who gives ``p``, for the error message.

    Raises:
        InputError: entries that depend on each other, whose observed part has no such sum.
    """
    if isinstance(p, WithMask):
        return p
    if not isinstance(p, Independent) or p.base_dist.event_shape:
        raise InputError(
            f"{who} scores an observation as a whole, so a part of it cannot be left out; a mask "
            "needs independent entries, which .to_event() makes one event"
        )
    entries: Any = p.base_dist
    return entries.mask(mask).to_event(p.reinterpreted_batch_ndims)


def refuse_unobserved(mask: Tensor) -> str:
    """Raise :class:`~pyro_vae.errors.InputError` if an entry of vectors was observed in none of
    them, because nothing can be learned about it; or if nothing was observed at all.

    Args:
        mask: of the training observations, ``[N, *shape]``.

    Returns:
        for observations of another shape, a sentence that names such entries; "" if there are none.
    """
    never = ~mask.any(0)
    if not never.any():
        return ""
    if never.all():
        raise InputError("all entries of x are missing in all training observations")
    first = never.nonzero()[0].tolist()
    if mask.dim() == 2:
        raise InputError(
            f"entry {first[0]} of x was observed in none of the {len(mask):,} training observations"
            f"{f', nor were {int(never.sum()) - 1} others' if never.sum() > 1 else ''}, so nothing "
            "can be learned about it; leave it out"
        )
    return (
        f"{int(never.sum()):,} of {never.numel():,} entries of x were observed in none of the "
        f"{len(mask):,} training observations (the first is {first}), so what the VAE gives there "
        "means nothing"
    )

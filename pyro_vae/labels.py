"""A label or a real target that is known in some rows: the prior and the posterior of its site.

A known label is a latent site, too, so that all rows share one program. Its posterior is then a
point: the probability of the label is exactly 1, and that of all others exactly 0. So a sum over
all values of y is the bound on log p(x, y) where y is known, and the bound on log p(x) elsewhere.
The same holds for a real target, whose draw is then the target itself and adds no log q.
"""

from __future__ import annotations

from math import nan
from typing import Any, Self

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Independent, kl_divergence, register_kl

LABEL = "y"
"""The name of the site."""
FAR = 1e4
"""The logits of all values but a known label are lower by so many nats. exp(-1e4) is 0 in float64,
and 0 times a finite logarithm is 0."""


class LabelPrior(dist.OneHotCategorical):
    """p(y), whose draws are the label where it is known.

    The density is that of p(y) in every row, so that it counts in log p(x, y).

    Args:
        logits: of p(y), ``[*, K]``.
        label: the known labels as one-of-K, ``[*, K]``, and zeros where a label is not known; None
            if none is known.

    Example:
        >>> from pyro_vae.labels import LabelPrior
        >>> LabelPrior(torch.zeros(3), torch.tensor([0.0, 1.0, 0.0])).sample()
        tensor([0., 1., 0.])
    """

    def __init__(self, logits: Tensor, label: Tensor | None = None) -> None:
        self.plain = logits
        self.label = torch.zeros_like(logits) if label is None else label
        super().__init__(logits=self.start())

    @property
    def known(self) -> Tensor:
        """Whether the label is known, ``[*]``."""
        return self.label.sum(-1) > 0

    def start(self) -> Tensor:
        """The logits of the density."""
        shape = torch.broadcast_shapes(self.plain.shape, self.label.shape)
        return self.plain.expand(shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        shape = (*batch_shape, self.plain.shape[-1])
        return type(self)(self.plain.expand(shape), self.label.expand(shape))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        drawn = super().sample(torch.Size(sample_shape))
        return torch.where(self.known.unsqueeze(-1), self.label, drawn)


class LabelPosterior(LabelPrior):
    """q(y | x) where the label is not known, and the label itself where it is.

    Args:
        logits: of q(y | x), ``[*, K]``.
        label: as for :class:`LabelPrior`.

    Example:
        >>> from pyro_vae.labels import LabelPosterior
        >>> label = torch.tensor([[0.0, 1.0], [0.0, 0.0]])  # known in the first row only
        >>> LabelPosterior(torch.zeros(2, 2), label).probs
        tensor([[0.0000, 1.0000],
                [0.5000, 0.5000]])
    """

    def start(self) -> Tensor:
        return torch.where(self.known.unsqueeze(-1), FAR * (self.label - 1), self.plain)

    @property
    def classification(self) -> Tensor:
        """-log q(y | x) at the known labels, ``[*]``; 0 where none is known."""
        return -(self.label * self.plain.log_softmax(-1)).sum(-1)


class TargetPrior(dist.Normal):
    """p(y) of a real target, whose draws are the target where it is known.

    The density is that of p(y) in every row, so that it counts in log p(x, y). Each entry is known
    or not by itself.

    Args:
        loc, scale: of the Normal p(y), ``[*, n]``.
        target: the known targets, ``[*, n]``, NaN where a target is not known; None if none is.

    Example:
        >>> from pyro_vae.labels import TargetPrior
        >>> TargetPrior(torch.zeros(1), torch.ones(1), torch.tensor([2.5])).sample()
        tensor([2.5000])
    """

    def __init__(self, loc: Tensor, scale: Tensor, target: Tensor | None = None) -> None:
        self.target = torch.full_like(loc, nan) if target is None else target
        shape = torch.broadcast_shapes(loc.shape, self.target.shape)
        super().__init__(loc.expand(shape), scale.expand(shape))

    @property
    def known(self) -> Tensor:
        """Whether a target is known, ``[*, n]``."""
        return ~self.target.isnan()

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        loc, scale, target = (
            each.expand(batch_shape) for each in (self.loc, self.scale, self.target)
        )
        return type(self)(loc, scale, target)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        drawn = super().rsample(torch.Size(sample_shape))
        return torch.where(self.known, self.target, drawn)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.rsample(sample_shape)


class TargetPosterior(TargetPrior):
    """q(y | x) where the target is not known, and the target itself, a point, where it is.

    Args:
        loc, scale: of the Normal q(y | x), ``[*, n]``.
        target: as for :class:`TargetPrior`.

    Example:
        >>> from pyro_vae.labels import TargetPosterior
        >>> target = torch.tensor([[2.5], [float("nan")]])  # known in the first row only
        >>> TargetPosterior(torch.zeros(2, 1), torch.ones(2, 1), target).stddev.flatten()
        tensor([0., 1.])
    """

    @property
    def mean(self) -> Tensor:
        return torch.where(self.known, self.target, self.loc)

    @property
    def variance(self) -> Tensor:
        return torch.where(self.known, 0.0, self.scale.square())

    @property
    def stddev(self) -> Tensor:
        return torch.where(self.known, 0.0, self.scale)

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.where(self.known, 0.0, super().log_prob(value))

    @property
    def regression(self) -> Tensor:
        """-log q(y | x) at the known targets, ``[*]``; 0 where none is known."""
        target = torch.where(self.known, self.target, self.loc.detach())
        return torch.where(self.known, -super().log_prob(target), 0.0).sum(-1)


def target_posterior(fn: Any) -> TargetPosterior | None:
    """The :class:`TargetPosterior` that a distribution is, perhaps inside ``to_event``; or None."""
    inner = fn.base_dist if isinstance(fn, Independent) else fn
    return inner if isinstance(inner, TargetPosterior) else None


@register_kl(TargetPosterior, TargetPrior)
def kl_of_targets(q: TargetPosterior, p: TargetPrior) -> Tensor:
    """KL(q || p) of targets that are not known; -log p(y) of the others."""
    unknown = kl_divergence(dist.Normal(q.loc, q.scale), dist.Normal(p.loc, p.scale))
    return torch.where(q.known, -p.log_prob(q.mean), unknown)

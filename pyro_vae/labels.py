"""A label that is known in some rows: the prior and the posterior of a latent site of one-of-K.

A known label is a latent site, too, so that all rows share one program. Its posterior is then a
point: the probability of the label is exactly 1, and that of all others exactly 0. So a sum over
all values of y is the bound on log p(x, y) where y is known, and the bound on log p(x) elsewhere.
"""

from __future__ import annotations

from typing import Any, Self

import pyro.distributions as dist
import torch
from torch import Tensor

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

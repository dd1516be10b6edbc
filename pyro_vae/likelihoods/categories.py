"""Likelihoods of categories: each entry of x is the number of a category, from 0."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from ..contracts import Likelihood
from ..errors import InputError
from ..latents import Shape
from ..options import is_whole


class Categories(Likelihood):
    """Base of the likelihoods of K categories.

    Args:
        decoder: network from ``[*, Z]`` to ``outputs`` numbers for each entry of x.
        categories: K.
    """

    def __init__(self, decoder: nn.Module, categories: int) -> None:
        super().__init__(decoder)
        if not is_whole(categories) or categories < 2:
            raise InputError(f"categories is a whole number of at least 2, not {categories!r}")
        self.categories = categories

    @property
    def support(self) -> constraints.Constraint:
        """The numbers of the categories."""
        return constraints.integer_interval(0, self.categories - 1)


class Categorical(Categories):
    """Categories without an order; the decoder gives a logit for each of the K categories.

    Equation: P(x_i = k | z) = softmax(decoder(z)_i)_k.

    ``sample`` and ``reconstruct`` give the most probable category, because a mean of the numbers of
    categories means nothing.

    Args:
        decoder: network from ``[*, Z]`` to ``[*, K·C, *sides]``.
        categories: K. An entry of x is 0, 1, …, K - 1.

    Raises:
        InputError: fewer than 2 categories, or an entry that is not the number of one.

    Paper: Nazábal et al. 2020, Handling incomplete heterogeneous data using VAEs.

    Example:
        >>> from pyro_vae.likelihoods import Categorical
        >>> p = Categorical(MLP((7,)).decoder(2, 3), categories=3)(torch.zeros(8, 2))
        >>> p.mode.shape
        torch.Size([8, 7])
    """

    def __init__(self, decoder: nn.Module, categories: int = 10) -> None:
        super().__init__(decoder, categories)
        self.outputs = categories

    def seen(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Each category as one-of-K, ``[B, K·C, *sides]``; 0 in the holes."""
        shown = one_of(x, self.categories, mask)  # [B, *shape, K]
        return shown.movedim(-1, 1).flatten(1, 2)

    def forward(self, z: Tensor) -> Distribution:
        logits = torch.stack(self.raw(z), -1)  # [*, *shape, K]
        return self.event(dist.Categorical(logits=logits), z)


class Ordered(Categories):
    """Categories with an order: an ordered logistic; the cutpoints are learned by channel.

    Equation: P(x_i ≤ k | z) = sigmoid(c_k - η_i(z)), η(z) = decoder(z), with the cutpoints
    c_0 < … < c_{K-2} of the channel of entry i. At η = 0, all categories start equally probable.

    The probabilities are those of Pyro's ``OrderedLogistic``, which subtracts two sigmoids. Here
    the logarithms are computed, so that an improbable category has a gradient in float32, too.

    Args:
        decoder: network from ``[*, Z]`` to ``[*, *shape]``.
        shape: the shape of one observation.
        categories: K. An entry of x is 0, 1, …, K - 1, in this order.

    Raises:
        InputError: fewer than 2 categories, or an entry that is not the number of one.

    Paper: McCullagh 1980, Regression models for ordinal data.

    Example:
        >>> from pyro_vae.likelihoods import Ordered
        >>> Ordered(MLP((7,)).decoder(2), (7,), categories=3)(torch.zeros(8, 2)).mean.shape
        torch.Size([8, 7])
    """

    def __init__(self, decoder: nn.Module, shape: Shape, categories: int = 10) -> None:
        super().__init__(decoder, categories)
        cuts = (torch.arange(1, categories) / categories).logit()  # [K-1]
        by_channel = (shape[0], *[1] * (len(shape) - 1), -1)
        self.first = nn.Parameter(cuts[:1].expand(by_channel).clone())
        self.log_gaps = nn.Parameter(cuts.diff().log().expand(by_channel).clone())  # [C, 1, …, K-2]

    def forward(self, z: Tensor) -> Distribution:
        (eta,) = self.raw(z)
        logits = ordered_logits(eta, self.first, self.log_gaps.exp())  # [*, *shape, K]
        return self.event(RankedCategorical(logits=logits), z)


def ordered_logits(eta: Tensor, first: Tensor, gaps: Tensor) -> Tensor:
    """log P(x = k) of an ordered logistic with K categories, ``[*, K]``.

    Args:
        eta: where the middle of the distribution is, ``[*]``.
        first: the lowest cutpoint, ``[*, 1]``.
        gaps: the distances of the cutpoints, ``[*, K - 2]``, above 0.
    """
    cuts = torch.cat([first, first + gaps.cumsum(-1)], -1)
    t = cuts - eta.unsqueeze(-1)  # [*, K-1]
    below, above = logsigmoid(t), logsigmoid(-t)  # log P(x ≤ k) and log P(x > k)
    width = (-torch.expm1(-gaps)).log()  # sigmoid(a) - sigmoid(b) as a product, b < a
    middle = below[..., 1:] + above[..., :-1] + width
    return torch.cat([below[..., :1], middle, above[..., -1:]], -1)


def one_of(x: Tensor, categories: int, mask: Tensor | None = None) -> Tensor:
    """The numbers of categories as one-of-K, ``[*, K]``, in the type of x; 0 where the mask is
    False."""
    numbers = torch.arange(categories, device=x.device)
    shown = x.unsqueeze(-1) == numbers
    return (shown if mask is None else shown & mask.unsqueeze(-1)).to(x.dtype)


class RankedCategorical(dist.Categorical):
    """torch's categorical distribution, with the mean of the number of the category."""

    @property
    def mean(self) -> Any:
        return self.probs @ torch.arange(self._num_events).to(self.probs)

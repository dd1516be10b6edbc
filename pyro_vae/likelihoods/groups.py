"""The types of columns: each computes the distributions of all columns of its type at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from ..distributions import FiniteStudentT
from ..networks.layers import FARTHEST
from ..scales import SCALES
from .categories import RankedCategorical, one_of, ordered_logits
from .counts import FEWEST, capped, log_of
from .located import logit

FAR = 1e4
"""The distance of a cutpoint that no level is above: beyond it, a probability is 0 in float64."""


@dataclass(frozen=True)
class Members:
    """The columns of one type.

    Args:
        places: their numbers in x, ``[D_g]``.
        categories: how many categories each has; 1 for types without categories.
        mean, scale: the mean and the standard deviation of each, ``[D_g]``.
    """

    places: Tensor
    categories: list[int]
    mean: Tensor
    scale: Tensor


class Group(nn.Module):
    """All columns of one type.

    Args:
        of: the columns.

    Attributes:
        size: how many outputs of the decoder the columns take together.
    """

    counted: ClassVar[bool] = False
    """Whether the type has a number of categories."""
    many: ClassVar[bool] = False
    """Whether the decoder gives a number for each category; else it gives one for the column."""
    support: ClassVar[Any] = constraints.nonnegative_integer
    """What a column of this type can have, whatever its number of categories."""
    places: Tensor

    def __init__(self, of: Members) -> None:
        super().__init__()
        self.size = len(of.places)
        self.register_buffer("places", of.places, persistent=False)

    def forward(self, raw: Tensor) -> Any:
        """The distributions, batch ``[*, D_g]``, from the decoder's numbers ``[*, size]``."""
        raise NotImplementedError

    def seen(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """What the encoder sees of the columns ``[B, D_g]``: ``[B, D_g]``, or with more numbers for
        each column; 0 in the holes."""
        raise NotImplementedError

    def range(self) -> Any:
        """The constraint on the columns ``[*, D_g]``."""
        return self.support

    def inside(self) -> Tensor:
        """A number that each column can have, ``[D_g]``."""
        return torch.zeros_like(self.places, dtype=torch.get_default_dtype())

    def start(self, mean: Tensor) -> Tensor:
        """The decoder's numbers ``[size]`` for columns with these means ``[D_g]``."""
        return mean.new_zeros(self.size)


class Scaled(Group):
    """Base of the types whose numbers become units near 1: (f(x) - centre) / unit."""

    centre: Tensor
    unit: Tensor

    def set_units(self, centre: Tensor, unit: Tensor) -> None:
        self.register_buffer("centre", centre, persistent=False)
        self.register_buffer("unit", unit, persistent=False)

    def scaled(self, x: Tensor, mask: Tensor | None) -> Tensor:
        shown = ((x - self.centre) / self.unit).clamp(-FARTHEST, FARTHEST)
        return shown if mask is None else torch.where(mask, shown, 0)


class Real(Scaled):
    """Real numbers: a Student-t; scale and degrees of freedom are learned for each column."""

    support = constraints.real

    def __init__(self, of: Members) -> None:
        super().__init__(of)
        self.set_units(of.mean, of.scale)
        self.logvar = nn.Parameter(torch.zeros(self.size))
        self.log_excess = nn.Parameter(torch.full((self.size,), 8.0).log())  # ν = 10
        self.scale = SCALES.build("log-variance")

    def forward(self, raw: Tensor) -> Any:
        df = 2 + self.log_excess.clamp(max=7).exp()  # as in StudentT
        scale = self.unit * self.scale(self.logvar)
        return FiniteStudentT(df, self.centre + self.unit * raw, scale).expand(raw.shape)

    def seen(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.scaled(x, mask)

    def inside(self) -> Tensor:
        return self.centre

    def start(self, mean: Tensor) -> Tensor:
        return (mean - self.centre) / self.unit


class Positive(Scaled):
    """Numbers above 0: a log-normal; σ of log x is learned for each column."""

    support = constraints.positive

    def __init__(self, of: Members) -> None:
        super().__init__(of)
        self.set_units(*log_moments(of.mean, of.scale))
        self.logvar = nn.Parameter(torch.zeros(self.size))
        self.scale = SCALES.build("log-variance")

    def forward(self, raw: Tensor) -> Any:
        scale = (self.unit * self.scale(self.logvar)).expand_as(raw)
        return dist.LogNormal(self.centre + self.unit * raw, scale)

    def seen(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.scaled(x.clamp_min(torch.finfo(x.dtype).tiny).log(), mask)

    def inside(self) -> Tensor:
        return self.centre.exp()

    def start(self, mean: Tensor) -> Tensor:
        # E[x] = exp(μ + σ²/2), and σ is the unit at the start.
        return (mean.log() - self.unit.square() / 2 - self.centre) / self.unit


class Count(Scaled):
    """Counts: a negative binomial by its mean; the dispersion is learned for each column."""

    support = constraints.nonnegative_integer

    def __init__(self, of: Members) -> None:
        super().__init__(of)
        self.set_units(*log_moments(of.mean + 1, of.scale))
        # θ at the start is that of a negative binomial with these moments: s² = m + m² / θ.
        excess = (of.scale.square() - of.mean).clamp_min(FEWEST)
        theta = torch.where(of.mean > 0, of.mean.square() / excess, 1)
        self.log_inverse = nn.Parameter(theta.clamp(0.1, 100).log())

    def forward(self, raw: Tensor) -> Any:
        logits = capped(self.centre + self.unit * raw) - self.log_inverse
        return dist.NegativeBinomial(self.log_inverse.exp(), logits=logits)

    def seen(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.scaled(x.clamp_min(0).log1p(), mask)

    def start(self, mean: Tensor) -> Tensor:
        return (log_of(mean) - self.centre) / self.unit


class Binary(Group):
    """0 or 1: a Bernoulli; the decoder gives the logit."""

    support = constraints.boolean

    def forward(self, raw: Tensor) -> Any:
        return dist.Bernoulli(logits=raw)

    def seen(self, x: Tensor, mask: Tensor | None) -> Tensor:
        shown = 2 * x - 1
        return shown if mask is None else torch.where(mask, shown, 0)

    def start(self, mean: Tensor) -> Tensor:
        return logit(mean)


class Levels(Group):
    """Base of the types with categories, whose number differs by column."""

    counted = True
    top: Tensor

    def __init__(self, of: Members) -> None:
        super().__init__(of)
        self.categories = of.categories
        self.register_buffer("top", torch.tensor(of.categories) - 1, persistent=False)

    def range(self) -> Any:
        return constraints.integer_interval(0, self.top)


class Categorical(Levels):
    """Categories without an order: the decoder gives a logit for each."""

    many = True
    chosen: Tensor
    shown: Tensor

    def __init__(self, of: Members) -> None:
        super().__init__(of)
        self.size = sum(of.categories)
        self.register_buffer("chosen", padded(of.categories), persistent=False)
        own = (self.chosen < self.size).flatten().nonzero().flatten()
        self.register_buffer("shown", own, persistent=False)

    def forward(self, raw: Tensor) -> Any:
        # A category that a column does not have gets the logit -inf, from one more number.
        with_none = torch.cat([raw, torch.full_like(raw[..., :1], -torch.inf)], -1)
        return dist.Categorical(logits=with_none[..., self.chosen])  # [*, D_g, K]

    def seen(self, x: Tensor, mask: Tensor | None) -> Tensor:
        every = one_of(x, max(self.categories), mask)  # [B, D_g, K]
        return every.flatten(1).index_select(1, self.shown)  # [B, ΣK]


class Ordered(Levels):
    """Categories with an order: an ordered logistic; the cutpoints are learned for each column."""

    chosen: Tensor

    def __init__(self, of: Members) -> None:
        super().__init__(of)
        cuts = [(torch.arange(1, k) / k).logit() for k in of.categories]
        self.first = nn.Parameter(torch.stack([c[0] for c in cuts]).unsqueeze(-1))  # [D_g, 1]
        self.log_gaps = nn.Parameter(torch.cat([c.diff() for c in cuts]).log())  # [Σ(K-2)]
        self.register_buffer("chosen", padded([k - 2 for k in of.categories]), persistent=False)

    def forward(self, raw: Tensor) -> Any:
        gaps = torch.cat([self.log_gaps.exp(), self.log_gaps.new_full((1,), FAR)])
        logits = ordered_logits(raw, self.first, gaps[self.chosen])  # [*, D_g, K]
        return RankedCategorical(logits=logits)

    def seen(self, x: Tensor, mask: Tensor | None) -> Tensor:
        shown = 2 * x / self.top - 1
        return shown if mask is None else torch.where(mask, shown, 0)


def padded(counts: list[int]) -> Tensor:
    """The places of numbers that lie in a row, ``counts[i]`` of column i, as ``[D, max]``; columns
    with fewer numbers are filled with the place after the last one."""
    start = torch.tensor(counts).cumsum(0) - torch.tensor(counts)
    each = torch.arange(max(counts))
    return torch.where(each < torch.tensor(counts)[:, None], start[:, None] + each, sum(counts))


def log_moments(mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of log x for the log-normal with these moments of x; 0 and 1 if
    they are not known, which is a mean of 0."""
    known = mean > 0
    mean = torch.where(known, mean, 1)
    variance = (scale / mean).square().log1p()
    centre, unit = mean.log() - variance / 2, variance.sqrt()
    return torch.where(known, centre, 0), torch.where(known, unit, 1)


GROUPS: dict[str, type[Group]] = {
    "real": Real,
    "positive": Positive,
    "count": Count,
    "binary": Binary,
    "categorical": Categorical,
    "ordered": Ordered,
}
"""The types of columns, by name."""

"""The sums over weighted draws from which missing entries are filled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import MaskedDistribution
from torch import Tensor
from torch.distributions import Independent

from ..errors import InputError
from ..holes import WithMask
from ..latents import Sites
from ..likelihoods.categories import RankedCategorical
from ..likelihoods.columnwise import Columnwise
from .draws import holds_all_draws
from .weights import Weights


class Block:
    """The sums over a stream of weighted draws for some observations, and their completions.

    Args:
        x: the observations, ``[B, *shape]``.
        samples: the number of draws of z, K.
        draws: the number of completions, M.
    """

    def __init__(self, x: Tensor, samples: int, draws: int) -> None:
        self.x = x
        self.weights = Weights(samples)
        self.completions = x.new_zeros(draws, *x.shape)
        self.top = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)  # [B]
        self.total = self.top
        self.averages: list[Average] = []
        self.found: list[tuple[Tensor, Tensor]] = []  # the averages and their errors, by part
        self.entries: Any = None  # the distribution of the entries, of the last draws

    def add(self, log_w: Tensor, runs: list[Sites]) -> None:
        """Add the next draws: log-weights ``[k, B]``, and the runs of the model at them."""
        log_w = log_w.double()
        self.weights.add(log_w)
        seen = [entries_of(run["x"]["fn"]) for run in runs]
        self.entries = seen[0]
        top = torch.maximum(self.top, log_w.amax(0))  # so that no weight overflows
        w, down = (log_w - top).exp(), (self.top - top).exp()  # [k, B] and [B]
        parts = list(zip(*map(parts_of, seen), strict=True))
        self.averages = self.averages or [Average(self.top) for _ in parts]
        for average, each in zip(self.averages, parts, strict=True):
            average.add(w, down, stacked([averaged(part) for part in each], runs))
        self.top = top
        if len(self.completions):
            self.draw(log_w, stacked([each.sample() for each in seen], runs))

    def refuse_impossible(self, first: int, mask: Tensor | None) -> None:
        """Raise :class:`~pyro_vae.errors.InputError` for an observation with holes whose observed
        entries have a density of 0 or NaN at all draws, so that nothing follows for its holes.

        Args:
            first: the number of the first observation of the block.
            mask: of all observations; None if they have no holes.
        """
        wrong = ~self.top.isfinite()
        if mask is not None and wrong.any():
            wrong &= ~mask[first : first + len(wrong)].flatten(1).all(1)
            if wrong.any():
                row = int(wrong.nonzero()[0])
                raise InputError(
                    f"observation {first + row} cannot be imputed: its observed entries have a "
                    "density of 0 in float32, as numbers far outside of the training data have; "
                    f"its largest is {self.x[row].abs().max().item():g}; correct it or leave it "
                    "empty"
                )

    def draw(self, log_w: Tensor, y: Tensor) -> None:
        """Let completions ``y`` ``[k, B, *shape]`` replace those that are kept, each with the
        probability that their weights have among all so far."""
        draws, rows = self.completions.shape[:2]
        total = torch.logaddexp(self.total, log_w.logsumexp(0))
        picked = log_w.T.softmax(-1).multinomial(draws, replacement=True).T  # [M, B]
        chosen = y[picked, torch.arange(rows, device=y.device)].to(self.completions)
        taken = torch.rand_like(picked, dtype=torch.float64) < (log_w.logsumexp(0) - total).exp()
        self.completions = torch.where(over(taken, chosen.dim()), chosen, self.completions)
        self.total = total

    def means(self) -> tuple[Tensor, Tensor]:
        """The conditional means and their standard errors, ``[B, *shape]``; of categories what
        :func:`typical` gives."""
        log_sum, log_squares = self.weights.log_sum - self.top, self.weights.log_squares
        total, squares = log_sum.exp(), (log_squares - 2 * self.top).exp()
        found = self.found = [average.result(total, squares) for average in self.averages]
        best = [
            typical(part, *each) for part, each in zip(parts_of(self.entries), found, strict=True)
        ]
        if isinstance(self.entries, Columnwise):
            means, errors = (iter(each) for each in zip(*best, strict=True))
            joined = self.entries.joined
            return joined(lambda part: next(means)), joined(lambda part: next(errors))
        return best[0]

    def probabilities(self) -> Tensor:
        """The probability of each level of each entry, ``[B, *shape, C]``, after :meth:`means`. C
        is the largest number of levels. It is 0 for a level that an entry does not have, and NaN
        for entries without levels.

        Raises:
            InputError: no entry has levels.
        """
        parts = parts_of(self.entries)
        means = [mean for mean, _ in self.found]
        each = [levels_of(part, mean) for part, mean in zip(parts, means, strict=True)]
        if all(p is None for p in each):
            raise InputError("probabilities are those of levels, and no entry of x has levels")
        most = max(p.shape[-1] for p in each if p is not None)
        filled = [
            mean.new_full((*mean.shape, most), math.nan)
            if p is None
            else torch.nn.functional.pad(p, (0, most - p.shape[-1]))
            for p, mean in zip(each, means, strict=True)
        ]
        if not isinstance(self.entries, Columnwise):
            return filled[0]
        flat = torch.cat(filled, 1).index_select(1, self.entries.order)  # [B, D, C]
        return flat.unflatten(1, self.entries.shape_)


class Average:
    """A weighted mean over a stream of draws, with its standard error.

    Args:
        like: zeros or other numbers of the type of the sums.
    """

    def __init__(self, like: Tensor) -> None:
        self.sums = [like.new_zeros(())] * 3

    def add(self, w: Tensor, down: Tensor, h: Tensor) -> None:
        """Add values ``h`` ``[k, B, *]`` of weights ``w`` ``[k, B]``, after the weights so far were
        multiplied by ``down`` ``[B]``."""
        h = h.double().expand(*w.shape, *h.shape[2:])
        new = zip((down, down**2, down**2), (w, w**2, w**2), (h, h, h**2), strict=True)
        self.sums = [
            over(factor, h.dim() - 1) * old + torch.einsum("kb,kb...->b...", weight, value)
            for old, (factor, weight, value) in zip(self.sums, new, strict=True)
        ]

    def result(self, total: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and its standard error, ``[B, *]``, from Σ w and Σ w², ``[B]``."""
        sum_h, squares_h, squares_hh = self.sums
        total, squares = over(total, sum_h.dim()), over(squares, sum_h.dim())
        mean = sum_h / total
        spread = squares_hh - 2 * mean * squares_h + mean**2 * squares  # Σ w² (h - mean)²
        return mean, spread.clamp_min(0).sqrt() / total


def parts_of(entries: Any) -> list[Any]:
    """The distributions of the groups of columns; of other entries, their own."""
    return list(entries.parts) if isinstance(entries, Columnwise) else [entries]


def averaged(part: Any) -> Tensor:
    """What is averaged over draws: the probabilities of categories, else the mean."""
    return part.probs if isinstance(part, dist.Categorical) else part.mean


def typical(part: Any, mean: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """The mean with its error; of categories one of them, with the error of its probability.

    Without an order it is the most probable one. With an order it is the median: it is a level, it
    needs no distances between the levels, and of all levels it has the smallest expected number of
    steps to the true one.
    """
    if not isinstance(part, dist.Categorical):
        return mean, error
    if isinstance(part, RankedCategorical):
        below = mean.cumsum(-1)[..., :-1] < 0.5  # the last sum is 1, apart from rounding
        best = below.sum(-1, keepdim=True)
    else:
        best = mean.argmax(-1, keepdim=True)
    return best[..., 0].double(), error.gather(-1, best)[..., 0]


def levels_of(part: Any, mean: Tensor) -> Tensor | None:
    """The probabilities of levels, ``[*, C]``, from the average of :func:`averaged`; None if the
    entries have no levels."""
    if isinstance(part, dist.Categorical):
        return mean
    return torch.stack([1 - mean, mean], -1) if isinstance(part, dist.Bernoulli) else None


def entries_of(fn: Any) -> Any:
    """The distribution of the single entries of x, missing ones included.

    Where the mask is scored, too, the weights belong to one draw of the missing entries.
    """
    if isinstance(fn, WithMask):
        return dist.Delta(fn.drawn)
    while isinstance(fn, Independent | MaskedDistribution):
        fn = fn.base_dist
    return fn


def stacked(each: Sequence[Tensor], runs: list[Sites]) -> Tensor:
    """Values of one run for all draws, or of a run for each draw, as ``[k, B, *]``."""
    return each[0] if holds_all_draws(runs[0]) else torch.stack(list(each))


def over(w: Tensor, dims: int) -> Tensor:
    """``w`` with dims of size 1 behind its own, so that it has ``dims`` of them."""
    return w.reshape(*w.shape, *[1] * (dims - w.dim()))

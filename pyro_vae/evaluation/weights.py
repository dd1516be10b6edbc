"""The sums over a stream of importance weights, from which an estimate and its errors follow."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .trust import PARTS, pareto_k, rises, tail_size

CURVE = (1, 10, 100, 1000, 5000)
"""The numbers of draws K at which the estimate is recorded."""


class Weights:
    """The sums over a stream of importance weights, for each image of a block.

    Args:
        samples: the number of draws that will be added, K.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.marks = sorted({k for k in CURVE if k < samples} | {samples})
        self.tail = tail_size(samples)
        self.size = samples // PARTS  # of the parts of the draws, for the rise of the curve
        self.count = 0
        self.curve: dict[int, Tensor] = {}

    def add(self, log_w: Tensor) -> None:
        """Add the log-weights of the next draws, ``[k, B]``."""
        log_w = log_w.double()
        if self.count == 0:
            self.log_sum = self.log_squares = log_w.new_full(log_w.shape[1:], -math.inf)  # [B]
            self.shift = log_w[0].nan_to_num(neginf=0.0)
            self.sum = self.squares = torch.zeros_like(self.shift)
            self.largest = log_w[:0]
            self.parts = log_w.new_full((PARTS, *log_w.shape[1:]), -math.inf)  # [16, B]
        self._add_to_parts(log_w)
        cuts = [k - self.count for k in self.marks if self.count < k < self.count + len(log_w)]
        for part in log_w.tensor_split(cuts):
            self.log_sum = torch.logaddexp(self.log_sum, part.logsumexp(0))
            self.log_squares = torch.logaddexp(self.log_squares, (2 * part).logsumexp(0))
            self.count += len(part)
            if self.count in self.marks:
                self.curve[self.count] = self.log_mean()
        moved = log_w - self.shift  # near 0, so that the squares lose no digits
        self.sum = self.sum + moved.sum(0)
        self.squares = self.squares + moved.square().sum(0)
        largest = torch.cat([self.largest, log_w])
        self.largest = largest.topk(min(self.tail + 1, len(largest)), 0).values

    def _add_to_parts(self, log_w: Tensor) -> None:
        """Add log-weights to the sums over the 16 parts; the last draws may belong to none."""
        ends = [i * self.size - self.count for i in range(1, PARTS + 1)]
        pieces = log_w.tensor_split([max(0, min(end, len(log_w))) for end in ends])
        for i, piece in enumerate(pieces[:PARTS]):
            if len(piece):
                self.parts[i] = torch.logaddexp(self.parts[i], piece.logsumexp(0))

    def rises(self) -> Tensor:
        """How much the estimate rises over the last factor of 4 in K, and of 16, ``[2, B]``."""
        if self.size == 0:
            return torch.full_like(self.parts[:2], math.nan)
        return rises(self.parts)

    def log_mean(self) -> Tensor:
        """log 1/K Σ w, ``[B]``."""
        return self.log_sum - math.log(self.count)

    def error(self) -> Tensor:
        """Standard error of log 1/K Σ w, ``[B]``: the relative standard error of the mean of w."""
        if self.count == 1:
            return torch.full_like(self.log_sum, math.nan)
        ratio = self.count * (self.log_squares - 2 * self.log_sum).exp()  # mean w² / (mean w)²
        return ((ratio - 1).clamp_min(0) / (self.count - 1)).sqrt()

    def effective(self) -> Tensor:
        """(Σ w)² / Σ w², ``[B]``."""
        return (2 * self.log_sum - self.log_squares).exp()

    def mean_log(self) -> Tensor:
        """Mean of log w, ``[B]``."""
        return self.shift + self.sum / self.count

    def error_of_mean_log(self) -> Tensor:
        """The standard error of the mean of log w, ``[B]``."""
        if self.count == 1:
            return torch.full_like(self.sum, math.nan)
        variance = (self.squares - self.sum**2 / self.count).clamp_min(0) / (self.count - 1)
        return (variance / self.count).sqrt()

    def pareto_k(self) -> Tensor:
        """The shape of the weights' tail, ``[B]``."""
        return pareto_k(self.largest)

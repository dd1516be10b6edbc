"""log p(x) by importance sampling: the estimate, its standard error, and diagnostics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..batch import Batch
from ..options import at_least_one
from ..progress import Report, silent
from .bound import standard_error
from .rows import batches_of, device_of, rows_of, share
from .scoring import measuring, run_guide, run_model, values

CURVE = (1, 10, 100, 1000, 5000)
"""The numbers of draws K at which the estimate is recorded."""
DRAWS = 500
"""How many draws of z the guide makes for an image at once."""


@dataclass(frozen=True)
class Importance:
    """log p(x) of each image, estimated with ``samples`` draws from the guide; in nats.

    The expectation of log p̂(x) is a lower bound on log p(x). The bound becomes tight as K grows. A
    single estimate can be above log p(x).

    ``errors``, ``effective`` and ``pareto_k`` are computed from the draws, and see only the regions
    that the guide reaches. If the guide almost never draws from a region with much posterior mass
    (a mode or a tail), log p̂(x) is too low, while the standard error and the Pareto k are both
    small. So a large value is a warning, and small values do not prove that the estimate is right.
    :func:`~pyro_vae.evaluation.annealing.annealed` does not use the guide and can reveal this.

    Args:
        samples: draws of z for each image, K.
        log_p: the estimate log p̂(x) = log 1/K Σ_k w_k, w = p(x, z) / q(z | x), ``[N]``.
        errors: the standard error of each estimate, from the spread of its weights, ``[N]``.
        effective: effective sample size (Σ w)² / Σ w² of each image, ``[N]``, 1 to K.
        pareto_k: shape k of the weights' tail for each image, ``[N]``.
        elbos: mean of log w, the guide's ELBO at the same draws, ``[N]``.
        elbo_errors: the standard error of ``elbos``, ``[N]``.
        curve: the estimate with the first 1, 10, 100, … of the draws, each ``[N]``.
    """

    samples: int
    log_p: Tensor
    errors: Tensor
    effective: Tensor
    pareto_k: Tensor
    elbos: Tensor
    elbo_errors: Tensor
    curve: dict[int, Tensor]

    @property
    def mean(self) -> float:
        """log p(x), mean over images."""
        return self.log_p.mean().item()

    @property
    def standard_error(self) -> float:
        """Standard error of the mean over images, from the choice of images and the draws of z."""
        return standard_error(self.log_p)

    @property
    def monte_carlo_error(self) -> float:
        """Standard error of the mean for these images, from the draws of z only."""
        return (self.errors.square().sum().sqrt() / len(self.errors)).item()

    @property
    def limit(self) -> float:
        """The largest Pareto k for which K draws are enough: min(1 - 1/log10 K, 0.7)."""
        return min(1 - 1 / math.log10(self.samples), 0.7) if self.samples > 1 else -math.inf

    @property
    def trusted(self) -> Tensor:
        """Whether the Pareto k of each image is at most :attr:`limit`, ``[N]``.

        False means that the estimate is unreliable. True is not a proof, see above.
        """
        return self.pareto_k <= self.limit

    @property
    def untrusted_share(self) -> float:
        """Share of the images whose Pareto k is above :attr:`limit`, 0 to 1."""
        return 1 - self.trusted.double().mean().item()


def importance(
    model: Any,
    guide: Any,
    data: Any,
    *,
    samples: int = 5000,
    seed: int = 0,
    chunk: int | None = None,
    kwargs: Mapping[str, Any] | None = None,
    progress: Report = silent,
) -> Importance:
    """log p(x) of each row of the data by importance sampling, with the guide as the proposal.

    Equation: log p̂(x) = log 1/K Σ_k p(x, z_k) / q(z_k | x), z_k ~ q(z | x).

    For each image only a few sums and the largest weights are stored. So memory does not grow with
    K, and only the results grow with the number of images. :class:`Importance` says how far the
    estimate can be trusted.

    Args:
        model, guide: Pyro programs that meet :mod:`.scoring`.
        data: the rows to evaluate on: Images, a tensor, a tuple or a dict of tensors, a torch
            ``Dataset`` or ``DataLoader``, as for :func:`~pyro_vae.training.fit`. ``dynamic``
            pixels are drawn once, with ``seed``.
        samples: draws of z for each image, K. The literature uses 5,000.
        seed: of the draws of pixels and of z. The global generators are not changed.
        chunk: draws, of all images together, that the model scores at once. The result does not
            depend on it. The default fits the caches of a CPU, or the memory of a GPU.
        kwargs: further arguments of both programs, the same for all rows.
        progress: is called with a description and the share that is done.

    Raises:
        InputError: no rows, ``samples`` or ``chunk`` below 1, or programs that do not meet
            :mod:`.scoring`.

    Paper: Burda, Grosse & Salakhutdinov 2016, Importance Weighted Autoencoders; Vehtari et al.
    2024, Pareto Smoothed Importance Sampling.

    Example:
        >>> from pyro_vae import importance
        >>> data = load_data("digits", binarize="dynamic")
        >>> vae = VAE(data.shape, latent_size=2)
        >>> result = importance(vae.model, vae.guide, data.test, samples=100)
        >>> result.mean > result.elbos.mean().item()       # log p̂(x) and the ELBO, nats
        True
    """
    at_least_one("samples", samples)
    device, rows = device_of(data, model, guide), rows_of(data)
    size = 20 if device.type == "cpu" else 100
    with measuring(model, guide, seed=seed, device=device):
        parts, done = [], 0
        for x in batches_of(data, size, seed, kwargs, model, guide):
            parts.append(weigh(model, guide, x, samples, chunk))
            done += len(x)
            progress("importance sampling", share(done, rows))
    return collect(parts)


def collect(parts: list[Weights]) -> Importance:
    """Concatenate the results of the blocks of images."""

    def cat(of: Callable[[Weights], Tensor]) -> Tensor:
        return torch.cat([of(part) for part in parts])

    return Importance(
        samples=parts[0].samples,
        log_p=cat(Weights.log_mean),
        errors=cat(Weights.error),
        effective=cat(Weights.effective),
        pareto_k=cat(Weights.pareto_k),
        elbos=cat(Weights.mean_log),
        elbo_errors=cat(Weights.error_of_mean_log),
        curve={k: torch.cat([part.curve[k] for part in parts]) for k in parts[0].curve},
    )


class Weights:
    """The sums over a stream of importance weights, for each image of a block.

    Args:
        samples: the number of draws that will be added, K.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.marks = sorted({k for k in CURVE if k < samples} | {samples})
        self.tail = math.ceil(min(samples / 5, 3 * math.sqrt(samples)))
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


def weigh(model: Any, guide: Any, x: Batch, samples: int, chunk: int | None = None) -> Weights:
    """Draw z from the guide and sum the importance weights of the rows ``x``."""
    if chunk is None:
        chunk = 2000 if x.device.type == "cpu" else 100_000
    at_least_one("chunk", chunk)
    weights = Weights(samples)
    rows = max(1, chunk // len(x))
    for start in range(0, samples, DRAWS):
        # A whole block is drawn each time, so that the first k draws are the same for every K.
        q = run_guide(guide, x, DRAWS)
        stop = min(DRAWS, samples - start)
        for a in range(0, stop, rows):
            cut = slice(a, min(a + rows, stop))
            p, log_w = run_model(model, x, {name: z[cut] for name, z in values(q).items()})
            for name, site in q.items():
                log_w = log_w + p[name]["log_prob"] - site["log_prob"][cut]  # [k, B]
            weights.add(log_w)
    return weights


def pareto_k(largest: Tensor) -> Tensor:
    """The shape k of the generalized Pareto distribution fitted to the largest weights.

    If k is below 0.5, the variance of the weights is finite. If k is above 0.7, an estimate would
    need so many draws to become reliable that more draws do not help in practice.

    Equation: the profile posterior mean of Zhang and Stephens with a weak prior at k = 0.5.

    Args:
        largest: the largest log-weights in descending order, ``[M + 1, B]``. The last one is the
            threshold that the other M exceed.

    Returns:
        k for each image, ``[B]``; +inf if M is below 5, which is too small for a fit; -inf if all M
        equal the threshold.

    Paper: Zhang & Stephens 2009, A new and efficient estimation method for the generalized Pareto
    distribution; Vehtari et al. 2024, Pareto Smoothed Importance Sampling.
    """
    tail, threshold = largest[:-1].flip(0), largest[-1]  # ascending, [M, B]
    count = len(tail)
    if count < 5:
        return torch.full_like(threshold, math.inf)
    top = tail[-1]
    excess = (tail - top).exp() - (threshold - top).exp()  # [M, B], relative to the largest weight
    flat = excess[-1] <= 0
    excess = excess.clamp_min(1e-12)
    # The density is 1/σ (1 - θx)^(-1 + 1/k). For a given θ the best k is the mean of log(1 - θx).
    grid = 30 + int(math.sqrt(count))
    steps = torch.arange(1, grid + 1, device=excess.device, dtype=excess.dtype)
    quartile = excess[int(count / 4 + 0.5) - 1]
    theta = 1 / excess[-1] + (1 - (grid / (steps - 0.5)).sqrt())[:, None] / (3 * quartile)  # [G, B]
    shape = torch.stack([(-t * excess).log1p().mean(0) for t in theta])  # [G, B]
    profile = count * ((-theta / shape).log() - shape - 1)
    best = (profile.softmax(0) * theta).sum(0)
    k = (-best * excess).log1p().mean(0)
    return torch.where(flat, -math.inf, (count * k + 10 * 0.5) / (count + 10))

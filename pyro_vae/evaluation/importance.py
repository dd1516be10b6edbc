"""log p(x) by importance sampling: the estimate, its standard error, and diagnostics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..batch import Batch
from ..latents import Sites
from ..noise import seed_draws
from ..options import MOST_DRAWS, at_least_one
from ..progress import Report, silent
from ..settings import check_seed
from ..spelling import spelled
from ..words import counted
from .bound import standard_error
from .rows import batches_of, device_of, rows_of, share
from .scoring import measuring, run_guide, runs_of, score, values
from .trust import OF_EACH, OF_THE_MEAN, light_tails, limit, remaining_bias
from .weights import Weights

DRAWS = 500
"""How many draws of z the guide makes for an image at once."""


@dataclass(frozen=True, repr=False)
class Importance:
    """log p(x) of each image, estimated with ``samples`` draws from the guide; in nats.

    The expectation of log p̂(x) is a lower bound on log p(x). The bound becomes tight as K grows. A
    single estimate can be above log p(x).

    ``errors``, ``effective`` and ``pareto_k`` are computed from the draws, and see only the regions
    that the guide reaches. If the guide almost never draws from a region with much posterior mass
    (a mode or a tail), log p̂(x) is too low, while the standard error and the Pareto k are both
    small. So trust is judged by all images together (:mod:`.trust`): ``errors`` hold where
    :attr:`trusted` is True, and an error of the mean holds where :meth:`covers` says so.
    :func:`~pyro_vae.evaluation.annealing.annealed` does not use the guide and can reveal more.

    Args:
        samples: draws of z for each image, K.
        log_p: the estimate log p̂(x) = log 1/K Σ_k w_k, w = p(x, z) / q(z | x), ``[N]``.
        errors: the standard error of each estimate, from the spread of its weights, ``[N]``.
        effective: effective sample size (Σ w)² / Σ w² of each image, ``[N]``, 1 to K.
        pareto_k: shape k of the weights' tail for each image, ``[N]``.
        elbos: mean of log w, the guide's ELBO at the same draws, ``[N]``.
        elbo_errors: the standard error of ``elbos``, ``[N]``.
        curve: the estimate with the first 1, 10, 100, … of the draws, each ``[N]``.
        rises: how much the estimate rises over the last factor of 4 in K, and of 16, ``[2, N]``.
    """

    samples: int
    log_p: Tensor
    errors: Tensor
    effective: Tensor
    pareto_k: Tensor
    elbos: Tensor
    elbo_errors: Tensor
    curve: dict[int, Tensor]
    rises: Tensor

    def __repr__(self) -> str:
        error = self.standard_error
        shown = f"{self.mean:.2f} ± {error:.2f}" if self.covers(error) else f"{self.mean:.2f}"
        what = "trusted" if self.trusted else "a lower bound, its errors are not trusted"
        count, k = self.log_p.numel(), self.samples
        rows = f"mean of {counted(count, 'row')}" if self.log_p.dim() else "one row"
        return f"Importance(log p(x) = {shown} nats, {rows}, K = {k:,}; {what})"

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
        return (self.errors.square().sum().sqrt() / self.errors.numel()).item()

    @property
    def bias(self) -> float:
        """The remaining bias, mean over images, in nats: how far log p̂(x) is still below log p(x).

        It continues the K-curve (:func:`.trust.remaining_bias`). It is an estimate, and too small
        if the tails are heavy.
        """
        return remaining_bias(self.rises)

    @property
    def trusted(self) -> bool:
        """Whether ``log_p`` ± 1.96 ``errors`` covers log p(x) for about 95 % of these images.

        It is False for one image alone, which cannot show the bias of its estimate.
        """
        return self._unbiased(OF_EACH * self.errors.median().item())

    def covers(self, error: float) -> bool:
        """Whether :attr:`mean` ± 1.96 ``error`` can be printed as an interval for log p(x).

        Args:
            error: a standard error of the mean, :attr:`standard_error` or
                :attr:`monte_carlo_error`.
        """
        return self._unbiased(OF_THE_MEAN * error)

    def of_one(self) -> Importance:
        """The estimate of the one image of a batch of one: each ``[1]`` becomes 0-dim."""
        each: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        each |= {name: v.squeeze(-1) for name, v in each.items() if isinstance(v, Tensor)}
        each["curve"] = {k: v.squeeze(-1) for k, v in self.curve.items()}
        return Importance(**each)

    def _unbiased(self, most: float) -> bool:
        """Whether the tails are light and the remaining bias is at most ``most``."""
        return light_tails(self.pareto_k, self.samples) and self.bias <= most + 1e-6  # rounding

    @property
    def limit(self) -> float:
        """The largest Pareto k of an image for which K draws are enough."""
        return limit(self.samples)

    @property
    def untrusted_share(self) -> float:
        """Share of the images whose Pareto k is above :attr:`limit`, 0 to 1."""
        return 1 - (self.pareto_k <= self.limit).double().mean().item()


@spelled
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
        seed: of the draws of pixels and of z. The first k draws of an image do not depend on
            ``samples``. The global generators are not changed.
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
    at_least_one("samples", samples, MOST_DRAWS)
    check_seed(seed)
    device, rows = device_of(data, model, guide), rows_of(data)
    size = 20 if device.type == "cpu" else 100
    with measuring(model, guide, seed=seed, device=device):
        parts: list[Weights] = []
        done = 0
        for x in batches_of(data, size, seed, kwargs, model, guide):
            seed_draws(device, seed, len(parts))
            parts.append(weigh(model, guide, x, samples, chunk))
            done += len(x)
            progress("importance sampling", share(done, rows))
    return collect(parts)


def each_alone(model: Any, guide: Any, data: Any, *, samples: int, seed: int) -> Importance:
    """As :func:`importance`, with the same draws of the noise for each row.

    Each row is run alone, so that its estimate does not depend on the other rows, to the bit.
    """
    at_least_one("samples", samples, MOST_DRAWS)
    device = device_of(data, model, guide)
    with measuring(model, guide, seed=seed, device=device):
        parts: list[Weights] = []
        for x in batches_of(data, 1, seed, None, model, guide):
            seed_draws(device, seed, 0)
            parts.append(weigh(model, guide, x, samples))
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
        rises=torch.cat([part.rises() for part in parts], 1),
    )


def weigh(model: Any, guide: Any, x: Batch, samples: int, chunk: int | None = None) -> Weights:
    """Draw z from the guide and sum the importance weights of the rows ``x``."""
    weights = Weights(samples)
    for log_w, _ in weighted(model, guide, x, samples, chunk):
        weights.add(log_w)
    return weights


def weighted(
    model: Any, guide: Any, x: Batch, samples: int, chunk: int | None = None
) -> Iterator[tuple[Tensor, list[Sites]]]:
    """Draw z from the guide, and run the model at some of the draws at a time.

    Returns:
        for each run, the log-weights log p(x, z) - log q(z | x) of the draws, ``[k, B]``; and the
        sites of the model, from one run for all k draws or from k runs.
    """
    if chunk is None:
        chunk = 2000 if x.device.type == "cpu" else 100_000
    at_least_one("chunk", chunk)
    rows = max(1, chunk // len(x))
    for start in range(0, samples, DRAWS):
        # A whole block is drawn each time, so that the first k draws are the same for every K.
        q = run_guide(guide, x, DRAWS)
        stop = min(DRAWS, samples - start)
        for a in range(0, stop, rows):
            cut = slice(a, min(a + rows, stop))
            latents = {name: z[cut] for name, z in values(q).items()}
            runs = runs_of(model, x, latents)
            p, log_w = score(runs, x, latents)
            for name, site in q.items():
                log_w = log_w + p[name]["log_prob"] - site["log_prob"][cut]  # [k, B]
            yield log_w, runs

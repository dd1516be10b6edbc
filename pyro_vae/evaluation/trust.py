"""Whether importance estimates can be trusted, judged by all images together.

The estimate log p̂(x) is a lower bound on log p(x) in the mean. If the guide misses a tail of the
posterior, log p̂(x) is too low, and its standard error and its Pareto k are too small, because the
missed draws are not in them either. So one image cannot show the bias. All images together show it
in two ways:

- **The tails.** The standard error needs weights with a finite variance, a Pareto k below ½. The
  mean of k over the images is known much better than each k.
- **The K-curve.** The estimate rises with K by as much as its bias falls. The rise over the last
  two factors of 4 gives the bias that remains.

The errors of one image alone are never trusted.

Draws from the guide cannot show a part of the posterior that no image's draws reach, such as a
second mode. Annealing can (:mod:`.annealing`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PARTS = 16
"""The K draws of an image are cut into so many parts for the K-curve, which are merged by fours."""
LEAST = 5
"""The fewest largest weights that a Pareto distribution is fitted to."""
DRAWS = 21
"""The fewest draws for which :func:`tail_size` is :data:`LEAST`."""
VARIANCE = 0.5
"""From this Pareto k on, the variance of the weights is infinite."""
FEW = 0.1
"""The largest share of images whose own Pareto k is above the limit of its K."""
OF_EACH, OF_THE_MEAN = 0.2, 0.3
"""The largest remaining bias, in standard errors: of one image, and of the mean over images."""


def limit(samples: int) -> float:
    """The largest Pareto k of an image for which K draws are enough: min(1 - 1/log10 K, 0.7)."""
    return min(1 - 1 / math.log10(samples), 0.7) if samples > 1 else -math.inf


def tail_size(samples: int) -> int:
    """The number of largest weights that the Pareto distribution is fitted to."""
    return math.ceil(min(samples / 5, 3 * math.sqrt(samples)))


def light_tails(k: Tensor, samples: int) -> bool:
    """Whether the weights of these images have a finite variance. One image cannot show it.

    Rule: the mean k is below ½ by at least 3 of its standard errors, and at most a tenth of the
    images have a k above :func:`limit`. The standard deviation of one k is taken as 1.5 / √M, that
    of k = ½ with M weights in the tail. Three, because images whose draws missed a tail by chance
    have a small k and a low log p̂(x) at once.

    Args:
        k: Pareto k of each image, ``[N]``.
        samples: draws of z for each image, K.
    """
    if k.numel() < 2:
        return False
    error = (1 + VARIANCE) / math.sqrt(tail_size(samples) * k.numel())
    # Equal weights have k = -∞, which must not outweigh the other images.
    mean = k.clamp_min(-1).mean().item()
    share = (k > limit(samples)).double().mean().item()
    return mean + 3 * error <= VARIANCE and share <= FEW


def pareto_k(largest: Tensor) -> Tensor:
    """The shape k of the generalized Pareto distribution fitted to the largest weights.

    If k is below 0.5, the variance of the weights is finite. If k is above 0.7, an estimate would
    need so many draws to become reliable that more draws do not help in practice.

    Equation: the profile posterior mean of Zhang and Stephens with a weak prior at k = 0.5.

    Args:
        largest: the largest log-weights in descending order, ``[M + 1, B]``. The last one is the
            threshold that the other M exceed.

    Returns:
        k for each image, ``[B]``; +inf if M is below :data:`LEAST`, which is too small for a fit;
        -inf if all M equal the threshold.

    Paper: Zhang & Stephens 2009, A new and efficient estimation method for the generalized Pareto
    distribution; Vehtari et al. 2024, Pareto Smoothed Importance Sampling.
    """
    tail, threshold = largest[:-1].flip(0), largest[-1]  # ascending, [M, B]
    count = len(tail)
    if count < LEAST:
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


def rises(log_sums: Tensor) -> Tensor:
    """How much the K-curve of each image rises over the last factor of 4 in K, and of 16.

    Equation: d_m = log p̂_K - 1/m Σ_j log p̂_{K/m,j}, for the m parts of the K draws, m = 4 and 16.
    The mean of p̂ is the same on both sides, so d_m is never below 0, and its noise is small.

    Args:
        log_sums: log Σ w of each of the :data:`PARTS` parts, ``[16, B]``.

    Returns:
        d_4 and d_16, ``[2, B]``.
    """
    whole = log_sums.logsumexp(0) - math.log(PARTS)
    fours = log_sums.unflatten(0, (4, PARTS // 4)).logsumexp(1) - math.log(PARTS // 4)
    return torch.stack([whole - fours.mean(0), whole - log_sums.mean(0)])


def remaining_bias(rises: Tensor) -> float:
    """The bias that is left at K draws, mean over images, in nats; infinite if it does not fall.

    Equation: if the bias is c K^-a, then d_4 = b (4^a - 1) and d_16 = b (16^a - 1) for the bias b
    at K, so 4^a = d_16 / d_4 - 1 and b = d_4 / (4^a - 1). a is at most 1, its value for weights
    with a finite variance.

    Args:
        rises: d_4 and d_16 of each image, ``[2, N]``, from :func:`rises`.

    Example:
        >>> from pyro_vae.evaluation.trust import remaining_bias
        >>> round(remaining_bias(torch.tensor([[0.3], [1.5]])), 6)  # 0.1, 0.4 and 1.6 nats: c / K
        0.1
    """
    last, both = rises.double().reshape(2, -1).mean(1).tolist()
    if last < 1e-9:  # nothing but rounding
        return 0.0
    fall = min(both / last - 1, 4.0)
    return last / (fall - 1) if fall > 1 else math.inf

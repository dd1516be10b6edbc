"""Means and variances of the latents, and how far those of encoded images are from the prior's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..batch import Batch
from ..data.images import Images
from ..errors import InputError
from ..latents import exact_moments, is_real
from .rows import blocks
from .scoring import measuring, run_guide, run_prior

DRAWS = 2000
"""Draws of the prior for moments that have no closed form."""
REPEATS = 2000
"""How often equal distributions are simulated to find what chance gives."""
FALSE_ALARMS = 0.002
"""The share of the simulations that are above each of the two limits of chance."""


@dataclass(frozen=True)
class MomentGap:
    """How far the encoded images are from the prior at one latent site, in nats.

    Args:
        units: the gap of each unit, ``[Z]``.
        images: the number of images N.
    """

    units: Tensor
    images: int

    @property
    def total(self) -> float:
        """The sum over the units."""
        return self.units.sum().item()

    @property
    def worst(self) -> tuple[int, float]:
        """The number of the unit with the largest gap, and this gap."""
        value, unit = self.units.max(0)
        return int(unit), value.item()

    def exceeds(self, total: float, unit: float) -> bool:
        """Whether the sum over the units is above ``total`` nats or one unit above ``unit`` nats.

        What chance gives is subtracted, and does not exceed them: if the N images were draws of a
        Normal prior, the answer would be True for less than 1 % of such sets of images.
        """
        by_chance = chance(self.images, len(self.units))  # [R, Z]
        sums, largest = by_chance.sum(-1), by_chance.max(-1).values
        return any(
            found > max(each.mean().item() + limit, each.quantile(1 - FALSE_ALARMS).item())
            for found, each, limit in ((self.total, sums, total), (self.worst[1], largest, unit))
        )


def moment_gap(
    model: Any, guide: Any, images: Images, *, draws: int = 20, seed: int = 0
) -> dict[str, MomentGap]:
    """How far the aggregate posterior q(z) = 1/N Σ_n q(z | x_n) is from the prior, by latent site.

    Equation: for each unit, KL(N(m_q, s_q²) || N(m_p, s_p²)) with the means and variances of q(z)
    and of p(z).

    It says whether samples of the prior lie where the decoder was trained. Only means and variances
    are compared, so a difference of another kind, such as a correlation, is not seen. Few images
    are enough, and the units may be dependent. The moments are exact where the distributions give
    them, by the law of total variance over the images and the sites before. Otherwise they are
    those of draws.

    Args:
        model, guide: Pyro programs that meet :mod:`.scoring`.
        images: the images to evaluate on.
        draws: draws of z for each image.
        seed: of the draws.

    Returns:
        the gap of each site whose latents are real numbers. Others, such as one-of-K latents, have
        no Normal that is close to them.

    Raises:
        InputError: fewer than 2 images, no real-valued site, or moments that are not finite.

    Example:
        >>> from pyro_vae.evaluation.moments import moment_gap
        >>> data = load_data("digits", binarize="threshold")
        >>> vae = VAE(data.shape, latent_size=2)
        >>> moment_gap(vae.model, vae.guide, data.test)["z"].units.shape
        torch.Size([2])
    """
    if len(images) == 1:
        raise InputError("the variance over images needs at least 2 images, and there is 1")
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    with measuring(model, guide, seed=seed, device=images.pixels.device):
        for x in blocks(images, 500, seed, model, guide):
            for name, site in run_guide(guide, x, draws).items():
                found.setdefault(name, []).append(site_moments(site))
        expected = prior_moments(model, next(blocks(images, 500, seed, model)))
    if not expected:
        raise InputError("no latent site has real numbers, and others are not compared")
    gaps = {}
    for name, p in expected.items():
        mean, variance = (torch.cat(each, 1) for each in zip(*found[name], strict=True))
        # Without the correction for K draws, because the variance over images of the mean over
        # draws has the 1/K that is missing here.
        own = variance.mean(0) + mean.var(0, correction=0)  # [N, Z]
        gaps[name] = MomentGap(normal_kl(*total_moments(mean.mean(0), own), *p), len(images))
        if not gaps[name].units.isfinite().all():
            raise InputError(f"the mean or the variance of {name!r} is not finite")
    return gaps


def site_moments(site: Any) -> tuple[Tensor, Tensor]:
    """Mean and variance of a site for each draw of the sites before it, ``[K, B, Z]`` each.

    Without a closed form they are the draw itself and 0.
    """
    z = site["value"].flatten(2)
    exact = exact_moments(site["fn"])
    if exact is None:
        return z, torch.zeros_like(z)
    mean, variance = (moment.flatten(2).expand_as(z) for moment in exact)
    return mean, variance


def total_moments(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """The law of total variance over the first dimension: mean and variance of the mixture."""
    return mean.mean(0), variance.mean(0) + mean.var(0)


def prior_moments(model: Any, x: Batch) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance of each real-valued site of the prior, ``[Z]`` each.

    Args:
        model: a Pyro program that meets :mod:`.scoring`.
        x: the rows for which the model runs. Without a context they do not affect the prior.
    """
    draws = max(1, 500 // len(x))
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for _ in range(math.ceil(DRAWS / (draws * len(x)))):
        sites = run_prior(model, x, draws)
        for name, site in sites.items():
            if is_real(site["fn"]):
                parts.setdefault(name, []).append(site_moments(site))
        if len(sites) == 1 and all(exact_moments(site["fn"]) for site in sites.values()):
            break
    each = {name: [torch.cat(m, 1) for m in zip(*p, strict=True)] for name, p in parts.items()}
    return {n: total_moments(*(m.flatten(0, 1) for m in pair)) for n, pair in each.items()}


def normal_kl(q_mean: Tensor, q_variance: Tensor, p_mean: Tensor, p_variance: Tensor) -> Tensor:
    """KL(N(m_q, s_q²) || N(m_p, s_p²)), elementwise."""
    ratio = q_variance.clamp(1e-8) / p_variance.clamp(1e-8)
    return 0.5 * ((q_mean - p_mean).square() / p_variance.clamp(1e-8) + ratio - 1 - ratio.log())


def chance(images: int, units: int) -> Tensor:
    """The gaps of ``units`` independent units whose N images are draws of the prior, ``[R, Z]``.

    Equation: m ~ N(0, 1/N) and (N - 1) s² ~ χ² with N - 1 degrees of freedom.
    """
    generator = np.random.default_rng(0)
    mean = generator.normal(0, images**-0.5, (REPEATS, units))
    variance = generator.chisquare(images - 1, (REPEATS, units)) / (images - 1)
    zero, one = torch.zeros(()), torch.ones(())
    return normal_kl(torch.from_numpy(mean), torch.from_numpy(variance), zero, one)

"""Missing entries given the observed ones: their mean, draws of them, and their density.

The guide q(z | x_observed) proposes latents, and importance weights correct them. So the results
are those of the model, not of the guide, as far as the draws reach: see :attr:`Imputation.trusted`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.images import Images
from ..holes import as_mask
from ..memory import check_memory
from ..noise import seed_draws
from ..options import MOST_DRAWS, at_least_one
from ..progress import Report, silent
from ..settings import check_seed
from ..spelling import spelled
from ..words import called, counted
from .filling import Block
from .importance import Importance, importance, weighted
from .rows import blocks, share
from .scoring import measuring
from .trust import limit


@dataclass(frozen=True)
class Imputation:
    """Observations with their holes filled, and how far the filling can be trusted.

    ``errors``, ``effective`` and ``pareto_k`` are computed from the draws, and see only the regions
    that the guide reaches. Of a mode of the posterior that the guide never draws from, they say
    nothing.

    Args:
        samples: draws of z for each observation, K.
        mask: True where an entry was observed, ``[N, *shape]``.
        x: the observations with the conditional mean of each missing entry, ``[N, *shape]``. Of
            categories without an order it is the most probable one, and of categories with an order
            the median.
        errors: the standard error of each mean from the draws of z, ``[N, *shape]``; of categories
            that of the probability of the one that is given. It is 0 where an entry was observed.
        probabilities: of each level of a column or an entry, ``[N, *shape, C]``, given the observed
            entries; C is the largest number of levels, and entries without levels have NaN. An
            entry that was observed has the probabilities of the model, too. None if they were not
            asked for.
        draws: completions of each observation, ``[M, N, *shape]``; None if none were asked for. If
            ``effective`` is below M, many of them repeat.
        effective: effective sample size (Σ w)² / Σ w² of each observation, ``[N]``, 1 to K.
        pareto_k: shape k of the weights' tail for each observation, ``[N]``.
    """

    samples: int
    mask: Tensor
    x: Tensor
    errors: Tensor
    probabilities: Tensor | None
    draws: Tensor | None
    effective: Tensor
    pareto_k: Tensor

    @property
    def trusted(self) -> Tensor:
        """Whether K draws are enough for an observation, by its Pareto k, ``[N]``. An observation
        without holes needs none."""
        whole = self.mask.flatten(1).all(1)
        return whole | (self.pareto_k <= limit(self.samples))

    def doubt(self) -> str:
        """A sentence about the observations that are not trusted; "" if all are."""
        few, rows = int((~self.trusted).sum()), counted(len(self.trusted), "observation")
        if few == 0:
            return ""
        return (
            f"{few:,} of {rows} need more than {self.samples:,} draws of z (their Pareto k is too "
            "large), and what fills their holes can be wrong; give more "
            f"{called('samples')}, or train longer"
        )


@spelled
def impute(
    vae: Any,
    data: Images,
    *,
    samples: int = 1000,
    draws: int = 0,
    probabilities: bool = False,
    seed: int = 0,
    progress: Report = silent,
) -> Imputation:
    """Fill the missing entries of each observation, by self-normalised importance sampling.

    Equation: E[x_m | x_o] ≈ Σ_k w_k E[x_m | z_k] / Σ_k w_k, z_k ~ q(z | x_o), w_k =
    p(x_o | z_k) p(z_k) / q(z_k | x_o); x_o are the observed entries and x_m the missing ones. A
    completion is a draw of x_m from p(x_m | z_k), for a k that is drawn with the weights w
    (sampling-importance-resampling).

    Args:
        vae: a :class:`~pyro_vae.vae.VAE`.
        data: the observations, with their mask and context.
        samples: draws of z for each observation, K.
        draws: completions of each observation, M.
        probabilities: whether those of all levels are given, too.
        seed: of the draws of pixels and of z. The global generators are not changed.
        progress: is called with a description and the share that is done.

    Raises:
        InputError: no observations, numbers of draws out of range, ``probabilities`` of entries
            without levels, or an observation with holes whose density is 0 in float32.

    Paper: Mattei & Frellsen 2019, MIWAE: Deep generative modelling and imputation of incomplete
    data sets.

    Example:
        >>> from pyro_vae.data import Images
        >>> from pyro_vae.evaluation.imputation import impute
        >>> vae = VAE((3,), 2, likelihood="student-t", hidden=(4,))
        >>> result = impute(vae, Images(torch.tensor([[1.0, float("nan"), 2.0]])), draws=5)
        >>> result.x[0, 0].item(), result.draws.shape
        (1.0, torch.Size([5, 1, 3]))
    """
    at_least_one("samples", samples, MOST_DRAWS)
    if draws:
        at_least_one("draws", draws, MOST_DRAWS)
        check_memory(4 * draws * data.pixels.numel(), f"to draw {draws:,} completions")
    check_seed(seed)
    device = data.pixels.device
    rows = 20 if device.type == "cpu" else 100
    parts: list[Block] = []
    with measuring(vae.model, vae.guide, seed=seed, device=device):
        done = 0
        for batch in blocks(data, rows, seed, vae.model, vae.guide):
            seed_draws(device, seed, len(parts))
            block = Block(batch.args[0], samples, draws)
            for log_w, runs in weighted(vae.model, vae.guide, batch, samples):
                block.add(log_w, runs)
            block.refuse_impossible(done, data.mask)
            parts.append(block)
            done += len(batch)
            progress("imputation", share(done, len(data)))
    means, errors = zip(*(block.means() for block in parts), strict=True)
    chances = torch.cat([block.probabilities() for block in parts]) if probabilities else None
    x = torch.cat([block.x for block in parts])
    if data.binarize == "none":
        x = data.batch(slice(None))  # in the data's own type, so that the numbers are the same
    mask = torch.ones_like(x, dtype=torch.bool) if data.mask is None else data.mask
    completed = None
    if draws:
        completed = torch.where(mask, x, torch.cat([b.completions for b in parts], 1).to(x))
    return Imputation(
        samples=samples,
        mask=mask,
        x=torch.where(mask, x, torch.cat(means).to(x)),
        errors=torch.where(mask, 0.0, torch.cat(errors)),
        probabilities=chances,
        draws=completed,
        effective=torch.cat([block.weights.effective() for block in parts]),
        pareto_k=torch.cat([block.weights.pareto_k() for block in parts]),
    )


@dataclass(frozen=True)
class ConditionalDensity:
    """log p(x_missing | x_observed) of each observation, in nats.

    Args:
        whole: the estimate of log p(x), of the observed and the missing entries together.
        observed: the estimate of log p(x_observed).
    """

    whole: Importance
    observed: Importance

    @property
    def log_p(self) -> Tensor:
        """The difference of the two estimates, ``[N]``."""
        return self.whole.log_p - self.observed.log_p

    @property
    def errors(self) -> Tensor:
        """The standard error of each difference, from the draws of z, ``[N]``."""
        return (self.whole.errors**2 + self.observed.errors**2).sqrt()

    @property
    def trusted(self) -> bool:
        """Whether ``log_p`` ± 1.96 ``errors`` covers the density for about 95 % of these
        observations: whether this holds for both estimates."""
        return self.whole.trusted and self.observed.trusted


def conditional_density(
    vae: Any, data: Images, observed: Tensor, *, samples: int = 5000, seed: int = 0
) -> ConditionalDensity:
    """log p(x_missing | x_observed), where the missing entries are known and only held out.

    Equation: log p(x_m | x_o) = log p(x_m, x_o) - log p(x_o), each by importance sampling with its
    own draws, because the guide proposes other z for x than for x_o.

    Args:
        vae: a :class:`~pyro_vae.vae.VAE`.
        data: the observations x. An entry that its mask leaves out counts on neither side.
        observed: bool, of the shape of the observations: True for x_o, False for x_m.
        samples: draws of z for each observation and estimate.
        seed: of the draws of pixels and of z.

    Raises:
        InputError: as :func:`.importance.importance`; a mask of another shape.

    Example:
        >>> from pyro_vae.data import Images
        >>> from pyro_vae.evaluation.imputation import conditional_density
        >>> vae, x = VAE((3,), 2, likelihood="student-t", hidden=(4,)), torch.randn(4, 3)
        >>> density = conditional_density(vae, Images(x), x > 0, samples=100)
        >>> density.log_p.shape, density.errors.shape
        (torch.Size([4]), torch.Size([4]))
    """
    observed = as_mask(observed, data.pixels)
    if data.binarize == "dynamic":  # one draw of the pixels for both estimates
        generator = torch.Generator(data.pixels.device).manual_seed(seed)
        data = replace(data, pixels=data.batch(slice(None), generator), binarize="none")
    known = observed if data.mask is None else observed & data.mask
    parts = (data, replace(data, mask=known))
    seeds = (seed, *np.random.SeedSequence(seed).generate_state(1).tolist())
    whole, some = (
        importance(vae.model, vae.guide, images, samples=samples, seed=own)
        for images, own in zip(parts, seeds, strict=True)
    )
    return ConditionalDensity(whole, some)

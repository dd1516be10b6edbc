"""log p(x) by annealed importance sampling, and bounds on its error from simulated images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ..batch import Batch
from ..errors import InputError
from ..latents import Latents
from ..options import MOST_DRAWS, at_least_one
from ..progress import Report, part, silent
from ..spelling import spelled
from ..words import counted, plus_minus
from .bound import standard_error
from .chains import adapt_steps, anneal, draw_from_prior
from .rows import batches_of, device_of, first_weight, rows_of, share
from .scoring import measuring, run_prior, values
from .weights import Weights


@dataclass(frozen=True, repr=False)
class AnnealedEstimate:
    """log p(x) of each row of the data by annealed importance sampling, in nats.

    Args:
        log_p: log of the mean of the chains' weights, ``[N]``. Its expectation is a lower bound on
            log p(x).
        errors: standard error of each estimate, from the spread of the chains' weights, ``[N]``.
        acceptance: share of the Hamiltonian moves that were accepted, ``[N]``, 0 to 1.
    """

    log_p: Tensor
    errors: Tensor
    acceptance: Tensor

    def __repr__(self) -> str:
        shown = plus_minus(self.mean, standard_error(self.log_p))
        rows = counted(len(self.log_p), "row")
        return f"AnnealedEstimate(log p(x) = {shown} nats, mean of {rows})"

    @property
    def mean(self) -> float:
        """log p(x), mean over images."""
        return self.log_p.mean().item()


@dataclass(frozen=True)
class Sandwich:
    """A lower and an upper estimate of log p(x) of simulated images, in nats.

    Args:
        images: the simulated images, ``[N, C, H, W]``.
        lower: annealed from the prior to the posterior, ``[N]``. Its expectation is a lower bound
            on log p(x).
        upper: annealed back, from the latents that generated the image to the prior, ``[N]``. Its
            expectation is an upper bound on log p(x).
    """

    images: Tensor
    lower: Tensor
    upper: Tensor

    @property
    def width(self) -> float:
        """Mean of upper - lower: a bound on the error of annealing with these settings."""
        return (self.upper - self.lower).mean().item()

    @property
    def width_error(self) -> float:
        """Standard error of :attr:`width` over images."""
        return standard_error(self.upper - self.lower)


@spelled
def annealed(
    model: Any,
    data: Any,
    *,
    temperatures: int = 500,
    chains: int = 16,
    leapfrogs: int = 10,
    seed: int = 0,
    kwargs: Mapping[str, Any] | None = None,
    progress: Report = silent,
) -> AnnealedEstimate:
    """log p(x) of each row of the data by annealed importance sampling with Hamiltonian moves.

    Equation: log p̂(x) = log mean_k Π_t p(x | z_{t-1})^(β_t - β_{t-1}). z_0 is a draw from the
    prior. z_t follows from z_{t-1} by a move that leaves p(z) p(x | z)^β_t invariant.

    It needs no guide. The step sizes are adapted to an acceptance of 0.65, for each image and
    temperature, in a separate run, and are then fixed. A step size that depends on the past of its
    own chain would bias the estimate.

    Args:
        model: a Pyro program that meets :mod:`.scoring`, with real-valued latents.
        data: the rows to evaluate on: Images, a tensor, a tuple or a dict of tensors, a torch
            ``Dataset`` or ``DataLoader``, as for :func:`~pyro_vae.training.fit`. ``dynamic``
            pixels are drawn once, with ``seed``.
        temperatures: number of steps T from β = 0 to β = 1. They are closest together at both ends.
        chains: chains for each image, K.
        leapfrogs: leapfrog steps of a move.
        seed: of the draws of pixels, latents and momenta.
        kwargs: further arguments of both programs, the same for all rows.
        progress: is called with a description and the share that is done.

    Raises:
        InputError: no rows, a count below 1, a model that does not meet :mod:`.scoring`, or
            latents that are discrete or constrained.

    Paper: Neal 2001, Annealed importance sampling; Wu, Burda, Salakhutdinov & Grosse 2017, On the
    quantitative analysis of decoder-based generative models.

    Example:
        >>> from pyro_vae.evaluation.annealing import annealed
        >>> data = load_data("digits", binarize="threshold")
        >>> vae = VAE(data.shape, latent_size=2)
        >>> annealed(vae.model, data.test.subset(torch.arange(5)), temperatures=10).log_p.shape
        torch.Size([5])
    """
    path = schedule(temperatures)
    at_least_one("chains", chains, MOST_DRAWS)
    at_least_one("leapfrogs", leapfrogs, MOST_DRAWS)
    runs, done, rows = [], 0, rows_of(data)
    with measuring(model, seed=seed, device=device_of(data, model)):
        for x in batches_of(data, 100, seed, kwargs, model):
            ends = [share(done + len(x) * part_done, rows) for part_done in (0, 0.5, 1)]
            first, second = (part(progress, "annealing", *ends[i : i + 2]) for i in (0, 1))
            step = adapt_steps(model, x, path, min(chains, 4), leapfrogs, first)
            start = draw_from_prior(model, x, chains)
            runs.append(anneal(model, x, start, path, step, leapfrogs, second))
            done += len(x)
    log_w, accepted, _ = zip(*runs, strict=True)
    weights = weights_of(torch.cat(log_w, 1))
    return AnnealedEstimate(weights.log_mean(), weights.error(), torch.cat(accepted))


@spelled
def sandwich(
    model: Any,
    shape: tuple[int, ...],
    n: int = 100,
    *,
    temperatures: int = 500,
    chains: int = 16,
    leapfrogs: int = 10,
    seed: int = 0,
    progress: Report = silent,
) -> Sandwich:
    """Bidirectional Monte Carlo: how far annealing with these settings can be from log p(x).

    If the model generates an image from latents, these latents are an exact draw from the posterior
    of that image. Annealing from there back to the prior gives an upper bound on log p(x).

    Args:
        model: a Pyro program that meets :mod:`.scoring`, with real-valued latents.
        shape: ``(C, H, W)`` of an image.
        n: number of images to draw.
        temperatures, chains, leapfrogs, seed, progress: as for :func:`annealed`.

    Raises:
        InputError: a count below 1, a model that does not meet :mod:`.scoring`, or latents that are
            discrete or constrained.

    Paper: Grosse, Ghahramani & Adams 2015, Sandwiching the marginal likelihood using bidirectional
    Monte Carlo.

    Example:
        >>> from pyro_vae.evaluation.annealing import sandwich
        >>> vae = VAE((1, 8, 8), latent_size=2)
        >>> sandwich(vae.model, vae.shape, 5, temperatures=10).upper.shape
        torch.Size([5])
    """
    path = schedule(temperatures)
    for option, value in (("n", n), ("chains", chains), ("leapfrogs", leapfrogs)):
        at_least_one(option, value)
    weight = first_weight(model)
    like = torch.empty(0) if weight is None else weight
    # Simulated pixels may be outside [0, 1], which validation would refuse.
    with measuring(model, seed=seed, device=like.device), pyro.validation_enabled(False):
        x, z = simulate(model, Batch.of(like.new_zeros(n, *shape)))
        thirds = [
            part(progress, "annealing simulated images", i / 3, (i + 1) / 3) for i in range(3)
        ]
        step = adapt_steps(model, x, path, min(chains, 4), leapfrogs, thirds[0])
        start = draw_from_prior(model, x, chains)
        there, _, _ = anneal(model, x, start, path, step, leapfrogs, thirds[1])
        end = {name: v.expand(chains, *v.shape[1:]) for name, v in z.items()}
        back, _, _ = anneal(model, x, end, path.flip(0), step.flip(0), leapfrogs, thirds[2])
    return Sandwich(x.first_tensor(), weights_of(there).log_mean(), -weights_of(back).log_mean())


def weights_of(log_w: Tensor) -> Weights:
    """The sums over the chains' log-weights ``[K, N]``."""
    weights = Weights(len(log_w))
    weights.add(log_w)
    return weights


def schedule(temperatures: int) -> Tensor:
    """β_0 = 0 to β_T = 1 along a sigmoid, closest together at both ends, ``[T + 1]``."""
    at_least_one("temperatures", temperatures, MOST_DRAWS)
    curve = (4 * torch.linspace(-1, 1, temperatures + 1, dtype=torch.float64)).sigmoid()
    return (curve - curve[0]) / (curve[-1] - curve[0])


def simulate(model: Any, x: Batch) -> tuple[Batch, Latents]:
    """Draw images from the model, as many as ``x`` has.

    Returns:
        the images, and the latents that generated them, each ``[1, B, *]``.
    """
    sites = run_prior(poutine.uncondition(model), x, 1)
    nodes = poutine.trace(model).get_trace(*x.args, **x.named).nodes
    images = [name for name in sites if name in nodes and nodes[name]["is_observed"]]
    if len(images) != 1:
        raise InputError(
            f"the model observes {len(images)} sites; images can be simulated for a model with one"
        )
    latents = values(sites)
    return Batch.of(latents.pop(images[0])[0]), latents

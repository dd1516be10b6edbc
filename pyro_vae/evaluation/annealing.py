"""log p(x) by annealed importance sampling, and its error from both sides on simulated data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from ..data.images import Images
from ..errors import InputError
from ..latents import is_latent
from ..registry import at_least_one
from . import standard_error
from .importance import Weights
from .scoring import blocks, measuring, score, values

Latents = dict[str, Tensor]
"""The chains' latents by site, each ``[K, B, *]``."""


@dataclass(frozen=True)
class Annealed:
    """log p(x) of each image by annealed importance sampling; in nats.

    Args:
        log_p: log of the mean of the chains' weights, ``[N]``; in expectation a lower bound.
        errors: standard error of each estimate, by the spread of the chains' weights, ``[N]``.
        acceptance: share of the Hamiltonian moves that were accepted, ``[N]``.
    """

    log_p: Tensor
    errors: Tensor
    acceptance: Tensor

    @property
    def mean(self) -> float:
        """log p(x), mean over images."""
        return self.log_p.mean().item()


@dataclass(frozen=True)
class Sandwich:
    """log p(x) of simulated images between two estimates, in nats.

    Args:
        images: the simulated images, ``[N, C, H, W]``.
        lower: annealed from the prior to the posterior; in expectation below log p(x), ``[N]``.
        upper: annealed back from the latents that made the image; in expectation above, ``[N]``.
    """

    images: Tensor
    lower: Tensor
    upper: Tensor

    @property
    def width(self) -> float:
        """Mean of upper - lower: bounds the error of annealing at these settings."""
        return (self.upper - self.lower).mean().item()

    @property
    def width_error(self) -> float:
        """Standard error of :attr:`width` over images."""
        return standard_error(self.upper - self.lower)


def annealed(
    model: Any,
    images: Images,
    *,
    temperatures: int = 500,
    chains: int = 16,
    leapfrogs: int = 10,
    seed: int = 0,
) -> Annealed:
    """log p(x) of each image by annealed importance sampling with Hamiltonian moves.

    Equation: log p̂(x) = log mean_k Π_t p(x | z_{t-1})^(β_t - β_{t-1}), where z_t comes from
    z_{t-1} by a move that leaves p(z) p(x | z)^β_t as it is, and z_0 from the prior.

    It needs no guide. The step sizes are adapted to an acceptance of 0.65, for each image and
    temperature, in a run of their own, and then held fixed: a step that depended on its own
    chain's past would spoil the estimate.

    Args:
        model: a Pyro program that fits :mod:`.scoring`, with real-valued latents.
        images: what to evaluate on; ``dynamic`` pixels are drawn once, by ``seed``.
        temperatures: number of steps T from β = 0 to β = 1, closest together at both ends.
        chains: chains for each image, K.
        leapfrogs: leapfrog steps of a move.
        seed: of the draws of pixels, latents and momenta.

    Raises:
        InputError: no images, a count below 1, a model that does not fit, or latents that are
            discrete or constrained.

    Paper: Neal 2001, Annealed importance sampling; Wu, Burda, Salakhutdinov & Grosse 2017, On the
    quantitative analysis of decoder-based generative models.

    Example:
        >>> annealed(vae.model, data.test.subset(torch.arange(100))).mean
    """
    path = schedule(temperatures)
    at_least_one("chains", chains)
    at_least_one("leapfrogs", leapfrogs)
    runs = []
    with measuring(model, seed=seed, device=images.pixels.device):
        for x in blocks(images, 100, seed):
            step = adapted(model, x, path, min(chains, 4), leapfrogs)
            runs.append(anneal(model, x, prior(model, x, chains), path, step, leapfrogs))
    log_w, accepted, _ = zip(*runs, strict=True)
    weights = summed(torch.cat(log_w, 1))
    return Annealed(weights.log_mean(), weights.error(), torch.cat(accepted))


def sandwich(
    model: Any,
    shape: tuple[int, ...],
    n: int = 100,
    *,
    temperatures: int = 500,
    chains: int = 16,
    leapfrogs: int = 10,
    seed: int = 0,
) -> Sandwich:
    """Bidirectional Monte Carlo: how far annealing at these settings can be from log p(x).

    An image that the model itself drew comes with an exact draw of its posterior: the latents that
    it was made of. Annealing from there back to the prior bounds log p(x) from above.

    Args:
        model: a Pyro program that fits :mod:`.scoring`, with real-valued latents.
        shape: ``(C, H, W)`` of an image.
        n: number of images to draw.
        temperatures, chains, leapfrogs, seed: as for :func:`annealed`.

    Raises:
        InputError: a count below 1, a model that does not fit, or latents that are discrete or
            constrained.

    Paper: Grosse, Ghahramani & Adams 2015, Sandwiching the marginal likelihood using bidirectional
    Monte Carlo.

    Example:
        >>> print(sandwich(vae.model, vae.shape, 20).width)
    """
    path = schedule(temperatures)
    for option, value in (("n", n), ("chains", chains), ("leapfrogs", leapfrogs)):
        at_least_one(option, value)
    like = next(iter(model.parameters())) if isinstance(model, torch.nn.Module) else torch.empty(0)
    # Simulated pixels may lie outside the range that real ones have; that is no mistake here.
    with measuring(model, seed=seed, device=like.device), pyro.validation_enabled(False):
        x, z = simulate(model, like.new_zeros(n, *shape))
        step = adapted(model, x, path, min(chains, 4), leapfrogs)
        there, _, _ = anneal(model, x, prior(model, x, chains), path, step, leapfrogs)
        start = {name: v.expand(chains, *v.shape[1:]) for name, v in z.items()}
        back, _, _ = anneal(model, x, start, path.flip(0), step.flip(0), leapfrogs)
    return Sandwich(x, summed(there).log_mean(), -summed(back).log_mean())


def summed(log_w: Tensor) -> Weights:
    """The chains' log-weights ``[K, N]``, to be averaged."""
    weights = Weights(len(log_w))
    weights.add(log_w)
    return weights


def schedule(temperatures: int) -> Tensor:
    """β_0 = 0 to β_T = 1 along a sigmoid, closest together at both ends; ``[T + 1]``."""
    at_least_one("temperatures", temperatures)
    curve = (4 * torch.linspace(-1, 1, temperatures + 1, dtype=torch.float64)).sigmoid()
    return (curve - curve[0]) / (curve[-1] - curve[0])


def prior(model: Any, x: Tensor, chains: int) -> Latents:
    """Draw the latents of each chain and image from the prior."""
    with pyro.plate("_draws", chains, dim=-2):
        trace = poutine.trace(model).get_trace(x)
    latents = {name: site for name, site in trace.nodes.items() if is_latent(site)}
    for name, site in latents.items():
        support = site["fn"].support
        while isinstance(support, constraints.independent):
            support = support.base_constraint
        if support is not constraints.real:
            raise InputError(
                f"annealing moves real-valued latents, and site {name!r} is a "
                f"{type(site['fn']).__name__} on {support}; take importance sampling"
            )
    return values(latents)


def simulate(model: Any, x: Tensor) -> tuple[Tensor, Latents]:
    """Draw as many images as ``x`` has from the model, and the latents that they are made of,
    each ``[1, B, *]``."""
    with pyro.plate("_draws", 1, dim=-2):
        trace = poutine.trace(poutine.uncondition(model)).get_trace(x)
        observed = poutine.trace(model).get_trace(x).observation_nodes
    images = [name for name in trace.nodes if name in observed and is_latent(trace.nodes[name])]
    if len(images) != 1:
        raise InputError(f"the model observes {len(images)} sites, and only one image can be drawn")
    x = trace.nodes[images[0]]["value"][0]  # [B, C, H, W]
    latents = {n: s["value"] for n, s in trace.nodes.items() if is_latent(s) and n not in images}
    return x, latents


def density(model: Any, x: Tensor, z: Latents, beta: Tensor) -> tuple[Tensor, Tensor, Latents]:
    """log p(z) + β log p(x | z) and log p(x | z), each ``[K, B]``, and the gradient of the first in
    z."""
    with torch.enable_grad():
        z = {name: v.detach().requires_grad_() for name, v in z.items()}
        p, likelihood = score(model, x, z)
        target = sum((site["log_prob"] for site in p.values()), beta * likelihood)
        gradient = torch.autograd.grad(target.sum(), list(z.values()))
    return target.detach(), likelihood.detach(), dict(zip(z, gradient, strict=True))


def per_image(each: Tensor, like: Tensor) -> Tensor:
    """``[*, B]`` with trailing dimensions, to be multiplied with latents ``[K, B, *]``."""
    return each.reshape(*each.shape, *[1] * (like.dim() - 2))


def anneal(
    model: Any,
    x: Tensor,
    z: Latents,
    path: Tensor,
    step: Tensor,
    leapfrogs: int,
    adapt: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Take the chains that start at ``z`` along ``path``.

    Args:
        model, x: the model and its images, ``[B, C, H, W]``.
        z: where the chains start, a draw at ``path[0]``.
        path: β at each temperature, ``[T + 1]``.
        step: step size at each temperature for each image, ``[T + 1, B]``.
        leapfrogs: leapfrog steps of a move.
        adapt: after each move, make the step sizes of all later ones larger or smaller.

    Returns:
        the log-weights, ``[K, B]``; the share of moves that were accepted, ``[B]``; the step
        sizes that were used, ``[T + 1, B]``.
    """
    log_w = accepted = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    step = step.clone()
    for t in range(1, len(path)):
        now = density(model, x, z, path[t])
        log_w = log_w + (path[t] - path[t - 1]) * now[1].double()  # [K, B]
        z, took = move(model, x, z, now, path[t], step[t], leapfrogs)
        accepted = accepted + took.double().mean(0) / (len(path) - 1)  # [B]
        if adapt:
            step[t + 1 :] *= (0.2 * (took.to(step.dtype).mean(0) - 0.65)).exp()
    return log_w, accepted, step


def move(
    model: Any,
    x: Tensor,
    z: Latents,
    now: tuple[Tensor, Tensor, Latents],
    beta: Tensor,
    step: Tensor,
    leapfrogs: int,
) -> tuple[Latents, Tensor]:
    """One Hamiltonian move that leaves p(z) p(x | z)^β as it is.

    Args:
        now: what :func:`density` says of ``z`` at ``beta``.
        step: step size for each image, ``[B]``.

    Returns:
        the latents after it, and whether each chain's move was accepted, ``[K, B]``.
    """
    target, _, gradient = now
    size = {name: per_image(step, v) for name, v in z.items()}
    momentum = {n: torch.randn_like(v) for n, v in z.items()}
    energy = kinetic(momentum) - target  # [K, B]
    there = z
    for _ in range(leapfrogs):
        momentum = {n: m + size[n] / 2 * gradient[n] for n, m in momentum.items()}
        there = {n: v + size[n] * momentum[n] for n, v in there.items()}
        target, _, gradient = density(model, x, there, beta)
        momentum = {n: m + size[n] / 2 * gradient[n] for n, m in momentum.items()}
    change = energy + target - kinetic(momentum)
    took = torch.rand_like(change).log() < change  # A move to NaN is not taken.
    return {n: torch.where(per_image(took, v), there[n], v) for n, v in z.items()}, took


def kinetic(momentum: Latents) -> Tensor:
    """Half the square of all momenta of a chain, ``[K, B]``."""
    return torch.stack([m.square().flatten(2).sum(-1) / 2 for m in momentum.values()]).sum(0)


def adapted(model: Any, x: Tensor, path: Tensor, chains: int, leapfrogs: int) -> Tensor:
    """Step sizes at which about 0.65 of the moves are accepted, from a run of its own;
    ``[T + 1, B]``."""
    step = x.new_full((len(path), len(x)), 0.2)
    return anneal(model, x, prior(model, x, chains), path, step, leapfrogs, adapt=True)[2]

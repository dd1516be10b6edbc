"""Markov chains that move latents from the prior to the posterior, for annealing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..batch import Batch
from ..errors import InputError
from ..latents import Latents, is_real
from .scoring import run_model, run_prior, values


def draw_from_prior(model: Any, x: Batch, chains: int) -> Latents:
    """Draw the latents of each chain and image from the prior."""
    latents = run_prior(model, x, chains)
    for name, site in latents.items():
        if not is_real(site["fn"]):
            raise InputError(
                f"annealing needs real-valued latents, and site {name!r} is a "
                f"{type(site['fn']).__name__} on {site['fn'].support}; use importance sampling"
            )
        if site["value"].shape[1] != len(x):
            raise InputError(
                f"annealing needs the plate over the rows as the outermost one, and site {name!r} "
                "is in another plate outside it; use importance sampling"
            )
    return values(latents)


def log_densities(model: Any, x: Batch, z: Latents, beta: Tensor) -> tuple[Tensor, Tensor, Latents]:
    """log p(z) + β log p(x | z) and log p(x | z), each ``[K, B]``; and the gradient of the first
    with respect to z."""
    with torch.enable_grad():
        z = {name: v.detach().requires_grad_() for name, v in z.items()}
        p, likelihood = run_model(model, x, z)
        target = sum((site["log_prob"] for site in p.values()), beta * likelihood)
        gradient = torch.autograd.grad(target.sum(), list(z.values()))
    return target.detach(), likelihood.detach(), dict(zip(z, gradient, strict=True))


def per_image(each: Tensor, like: Tensor) -> Tensor:
    """``[*, B]`` with trailing dimensions of size 1, so that it broadcasts to latents
    ``[K, B, *]``."""
    return each.reshape(*each.shape, *[1] * (like.dim() - 2))


def anneal(
    model: Any,
    x: Batch,
    z: Latents,
    path: Tensor,
    step: Tensor,
    leapfrogs: int,
    tell: Callable[[float], None],
    adapt: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Move the chains from ``z`` along ``path``.

    Args:
        model, x: the model and its rows.
        z: the start of the chains, a draw from the distribution at ``path[0]``.
        path: β at each temperature, ``[T + 1]``.
        step: step size at each temperature for each image, ``[T + 1, B]``.
        leapfrogs: leapfrog steps of a move.
        tell: is called with the share of the temperatures that are done.
        adapt: after each move, correct the step sizes of all later moves.

    Returns:
        the log-weights, ``[K, B]``; the share of the moves that were accepted, ``[B]``; the step
        sizes that were used, ``[T + 1, B]``.
    """
    log_w = accepted = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    step = step.clone()
    for t in range(1, len(path)):
        now = log_densities(model, x, z, path[t])
        log_w = log_w + (path[t] - path[t - 1]) * now[1].double()  # [K, B]
        z, moved = move(model, x, z, now, path[t], step[t], leapfrogs)
        accepted = accepted + moved.double().mean(0) / (len(path) - 1)  # [B]
        if adapt:
            step[t + 1 :] *= (0.2 * (moved.to(step.dtype).mean(0) - 0.65)).exp()
        tell(t / (len(path) - 1))
    return log_w, accepted, step


def move(
    model: Any,
    x: Batch,
    z: Latents,
    now: tuple[Tensor, Tensor, Latents],
    beta: Tensor,
    step: Tensor,
    leapfrogs: int,
) -> tuple[Latents, Tensor]:
    """One Hamiltonian move, which leaves p(z) p(x | z)^β invariant.

    Args:
        now: :func:`log_densities` of ``z`` at ``beta``.
        step: step size for each image, ``[B]``.

    Returns:
        the latents after the move, and whether each chain's move was accepted, ``[K, B]``.
    """
    target, _, gradient = now
    size = {name: per_image(step, v) for name, v in z.items()}
    momentum = {n: torch.randn_like(v) for n, v in z.items()}
    energy = kinetic(momentum) - target  # [K, B]
    proposal = z
    for _ in range(leapfrogs):
        momentum = {n: m + size[n] / 2 * gradient[n] for n, m in momentum.items()}
        proposal = {n: v + size[n] * momentum[n] for n, v in proposal.items()}
        target, _, gradient = log_densities(model, x, proposal, beta)
        momentum = {n: m + size[n] / 2 * gradient[n] for n, m in momentum.items()}
    change = energy + target - kinetic(momentum)
    moved = torch.rand_like(change).log() < change  # False if the change is NaN
    return {n: torch.where(per_image(moved, v), proposal[n], v) for n, v in z.items()}, moved


def kinetic(momentum: Latents) -> Tensor:
    """Half the squared norm of the momenta of each chain, ``[K, B]``."""
    flat = [m.reshape(*m.shape[:2], -1) for m in momentum.values()]
    return torch.stack([m.square().sum(-1) / 2 for m in flat]).sum(0)


def adapt_steps(
    model: Any,
    x: Batch,
    path: Tensor,
    chains: int,
    leapfrogs: int,
    tell: Callable[[float], None],
) -> Tensor:
    """The step sizes at which about 0.65 of the moves are accepted, ``[T + 1, B]``."""
    step = x.zeros(len(path), len(x)) + 0.2
    start = draw_from_prior(model, x, chains)
    return anneal(model, x, start, path, step, leapfrogs, tell, adapt=True)[2]

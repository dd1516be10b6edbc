"""The step that several processes take together: their share of the loss, and their gradients.

One flat all-reduce adds up all gradients between ``backward`` and the optimizer. It is a hook of
the optimizer, so eager and compiled steps do the same. torch's ``DistributedDataParallel`` hooks
into the backward pass of one module's ``forward``. A compiled step has no backward pass, so it
could serve eager steps only. ``benchmarks/ranks.py`` measures both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from pyro.infer import ELBO
from torch import Tensor
from torch.optim import Optimizer

from ..errors import InputError
from .draws import Draws, random_state
from .group import Ranks


class Share(ELBO):
    """The part of an objective's loss that belongs to the images of this process.

    Equation: loss = Σ_b loss_b over the rows of this process. The sum over the processes is the
    objective's loss of the batch.

    Args:
        elbo: the objective.
        ranks: the processes.
    """

    def __init__(self, elbo: ELBO, ranks: Ranks) -> None:
        super().__init__()
        self.elbo: Any = elbo
        self.ranks = ranks

    def _get_trace(self, *args: Any) -> Any:
        return self.elbo._get_trace(*args)

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        with Draws(self.ranks):
            return self.elbo.loss(model, guide, *args, **kwargs)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        with Draws(self.ranks):
            return self.elbo.loss_and_grads(model, guide, *args, **kwargs)


@contextmanager
def exchanging(ranks: Ranks, optimizer: Any) -> Iterator[None]:
    """Sum the gradients over the processes before each update in this context.

    It must be entered before :meth:`~pyro_vae.schedules.Steering.on`, which limits the gradient of
    the whole batch.
    """
    if ranks.size == 1:
        yield
        return
    hook = optimizer.register_step_pre_hook(lambda opt, *_: sum_gradients(opt, ranks))
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def sum_gradients(optimizer: Optimizer, ranks: Ranks) -> None:
    """Replace each gradient by its sum over the processes.

    A parameter without a gradient in all processes keeps none, because Adam leaves it as it is.

    Raises:
        InputError: the processes have drawn unequal random numbers in this step.
    """
    held = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    drawn = random_state() % 256 if ranks.split else 0
    told = [float(p.grad is not None) for p in held] + [float(drawn), float(drawn**2)]
    pieces = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in held]
    flat = torch.cat([*pieces, held[0].new_tensor(told)])
    dist.all_reduce(flat)
    *has, drawns, squares = flat[-len(told) :].tolist()
    # The numbers of the processes are equal if and only if size Σ n² = (Σ n)².
    if ranks.size * squares != drawns**2:
        raise InputError(
            "the processes have drawn unequal random numbers in a step: a part draws until a value "
            "is accepted, or draws with other generators than torch's; take another part, or "
            "train in one process"
        )
    *sums, _ = flat.split([*(p.numel() for p in held), len(told)])
    for p, gradient, count in zip(held, sums, has, strict=True):
        p.grad = as_gradient(gradient, p) if count else None


def as_gradient(piece: Tensor, p: Tensor) -> Tensor:
    """A flat gradient in the shape, the type and the strides of its parameter."""
    piece = piece.view(p.shape)
    fits = piece.stride() == p.stride() and piece.dtype == p.dtype
    return piece if fits else torch.empty_like(p).copy_(piece)

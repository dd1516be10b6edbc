"""What makes the weights after an epoch better than those of its last step.

The average of the weights over the steps (:class:`Averaging`), and the moments of batch
normalization over the whole training set (:func:`moments_of_data`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as AnyBatchNorm
from torch.optim import Optimizer

from .errors import InputError
from .schedules import share

AVERAGE, TRAINED = "average", "trained"
"""The state of the optimizer holds either the average of a parameter, while steps are taken, or the
weights that the steps change, while the parameter itself is the average."""


class Averaging:
    """An exponential moving average of the weights.

    Equation: a_t = d_t a_{t-1} + (1 - d_t) w_t, with d_t = min(decay, (1 + t) / (10 + t)). So the
    first weights are soon forgotten.

    Steps change the weights w. Between epochs the parameters hold the average a, so that it is
    measured, stored and used. The other of the two is in the optimizer's state of each parameter,
    and is stored with it.

    Args:
        optimizer: the optimizer; anything but one of torch only without an average.
        decay: in [0, 1), for instance 0.999; None for no average.

    Attributes:
        taken: the number of steps t; the loop sets it before each step.

    Raises:
        InputError: another decay, an average for an optimizer that is not one of torch, or none
            for an optimizer that has one already.

    Paper: Polyak & Juditsky 1992, Acceleration of stochastic approximation by averaging.
    """

    def __init__(self, optimizer: Any, decay: float | None) -> None:
        self.optimizer, self.decay, self.taken = optimizer, decay, 0
        if decay is None:
            if isinstance(optimizer, Optimizer) and any(
                TRAINED in s for s in optimizer.state.values()
            ):
                raise InputError(
                    "the optimizer is that of a training with an average of the weights, and holds "
                    "the weights that its steps change; give average, or a new optimizer"
                )
            return
        share("average", decay)
        if not isinstance(optimizer, Optimizer):
            raise InputError(
                "the average of the weights works with an optimizer of torch, not with a "
                f"{type(optimizer).__name__}"
            )

    @contextmanager
    def on(self) -> Iterator[None]:
        """In this context steps are taken. Afterwards the parameters hold the average."""
        if self.decay is None:
            yield
            return
        exchange(self.optimizer, TRAINED, AVERAGE)
        hook = self.optimizer.register_step_post_hook(self.after_update)
        try:
            yield
        finally:
            hook.remove()
            exchange(self.optimizer, AVERAGE, TRAINED)

    @torch.no_grad()
    def after_update(self, optimizer: Optimizer, *_: Any) -> None:
        averages, weights = [], []
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            if p.grad is not None and AVERAGE not in optimizer.state[p]:
                optimizer.state[p][AVERAGE] = p.detach().clone()
            elif AVERAGE in optimizer.state.get(p, {}):
                averages.append(optimizer.state[p][AVERAGE])
                weights.append(p)
        if averages:
            decay = min(self.decay or 0.0, (1 + self.taken) / (10 + self.taken))
            torch._foreach_lerp_(averages, weights, 1 - decay)


@torch.no_grad()
def exchange(optimizer: Optimizer, before: str, after: str) -> None:
    """Exchange each parameter with the value that the optimizer keeps under ``before``, and keep
    the parameter's own under ``after``. Nothing is done where there is no such value."""
    for p, state in optimizer.state.items():
        if before in state:
            kept = state.pop(before)
            state[after] = p.detach().clone()
            p.copy_(kept)


def normalized(modules: Iterable[nn.Module]) -> list[AnyBatchNorm]:
    """The layers of batch normalization that keep moments."""
    every = (each for module in modules for each in module.modules())
    return [each for each in every if isinstance(each, AnyBatchNorm) and each.track_running_stats]


def moments_of_data(
    layers: Iterable[AnyBatchNorm], batches: Iterable[Any], run: Callable[[Any], Any]
) -> None:
    """Set the moments of batch normalization to their means over batches, with fixed weights.

    Training keeps moving averages, which are those of earlier weights.

    Args:
        layers: the layers, in training mode.
        batches: the batches of the training set.
        run: runs the layers on a batch.

    Paper: Ioffe & Szegedy 2015, Batch normalization, algorithm 2.
    """
    layers = list(layers)
    before = [layer.momentum for layer in layers]
    try:
        for count, batch in enumerate(batches, start=1):
            for layer in layers:
                layer.momentum = 1 / count  # the mean of all batches so far
            run(batch)
    finally:
        for layer, momentum in zip(layers, before, strict=True):
            layer.momentum = momentum

"""How the learning rate changes during training, and how large a step's gradient may be.

A schedule gives the learning rate as a share of ``lr``, from the share of the training that is
done. So it is a function of the step, and training that stops and goes on keeps it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from pyro.optim import PyroLRScheduler, PyroOptim
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from .compiling import FusedOptim
from .errors import InputError
from .options import is_number, number
from .registry import SCHEDULES
from .words import called


class Schedule:
    """A learning rate that changes; the base class of all schedules. This one is constant.

    Args:
        warmup: share of the training in which the rate rises from 0 in a straight line, in [0, 1).

    Raises:
        InputError: a share outside of [0, 1).
    """

    def __init__(self, warmup: float = 0.0) -> None:
        self.warmup = share("warmup", warmup)

    def __call__(self, done: float) -> float:
        """The learning rate as a share of ``lr``, at the share ``done`` of the training."""
        return self.shape(done) * (min(done / self.warmup, 1) if self.warmup > 0 else 1)

    def shape(self, done: float) -> float:
        """The share without the warm-up."""
        return 1.0


class Constant(Schedule):
    """The learning rate does not change, apart from a warm-up.

    Example:
        >>> from pyro_vae.schedules import Constant
        >>> Constant(warmup=0.2)(0.1)
        0.5
    """


class Cosine(Schedule):
    """Half a period of the cosine, from ``lr`` down to ``last`` times ``lr``.

    Equation: last + (1 - last) (1 + cos πt) / 2, t the share of the training that is done.

    Args:
        last: the share at the end, in [0, 1).
        warmup: as in :class:`Schedule`.

    Paper: Loshchilov & Hutter 2017, SGDR: stochastic gradient descent with warm restarts.

    Example:
        >>> from pyro_vae.schedules import Cosine
        >>> round(Cosine()(0.5), 6)
        0.5
    """

    def __init__(self, last: float = 0.0, warmup: float = 0.0) -> None:
        super().__init__(warmup)
        self.last = share("last", last)

    def shape(self, done: float) -> float:
        return self.last + (1 - self.last) * (1 + math.cos(math.pi * done)) / 2


class Step(Schedule):
    """The learning rate is multiplied by ``factor`` at each of some points.

    Args:
        at: the points, as shares of the training in (0, 1).
        factor: above 0.
        warmup: as in :class:`Schedule`.

    Example:
        >>> from pyro_vae.schedules import Step
        >>> Step(at=[0.5, 0.75], factor=0.5)(0.8)
        0.25
    """

    def __init__(
        self, at: Sequence[float] = (0.5, 0.75), factor: float = 0.1, warmup: float = 0.0
    ) -> None:
        super().__init__(warmup)
        listed = isinstance(at, Sequence) and not isinstance(at, str)
        if not listed or not all(is_number(point) and 0 < point < 1 for point in at):
            raise InputError(f"at is a list of numbers between 0 and 1, such as [0.5], not {at!r}")
        self.at = tuple(at)
        self.factor = number("factor", factor, above=0)

    def shape(self, done: float) -> float:
        return self.factor ** sum(done >= point for point in self.at)


class Burda(Schedule):
    """The schedule of the IWAE paper: eight stages, each three times as long as the one before.

    Equation: the rate is 10^(-i/7) in stage i = 0 … 7, which has 3^i of the training's 3,280 parts.

    Paper: Burda, Grosse & Salakhutdinov 2016, https://arxiv.org/abs/1509.00519. They train for
    3,280 epochs.

    Example:
        >>> from pyro_vae.schedules import Burda
        >>> round(Burda()(1.0), 6)
        0.1
    """

    def shape(self, done: float) -> float:
        # Stages 0 to i have (3^(i+1) - 1) / 2 parts together.
        stage = next((i for i in range(7) if 3280 * done < (3 ** (i + 1) - 1) / 2), 7)
        return 10 ** (-stage / 7)


SCHEDULES.base = Schedule
SCHEDULES.update({"constant": Constant, "cosine": Cosine, "step": Step, "iwae": Burda})


def share(option: str, value: Any) -> float:
    """``value`` if it is a number in [0, 1); else an InputError."""
    if not is_number(value) or not 0 <= value < 1:
        raise InputError(f"{called(option)} is a number of at least 0 and below 1, not {value!r}")
    return float(value)


class Steering:
    """Sets the learning rate and limits the gradient before each update of an optimizer.

    It is a hook of the optimizer, so that eager and compiled steps do the same. On CUDA, where a
    step may be one CUDA graph, the rates are tensors that are filled before each step, and only
    the limit is a hook.

    Args:
        optimizer: the optimizer; anything but one of torch only if nothing is to be done.
        schedule: a name of :data:`~pyro_vae.registry.SCHEDULES`, or a :class:`Schedule`.
        clip: the largest norm of the gradient of the loss per image; None for no limit.

    Raises:
        InputError: a schedule or a limit for an optimizer that is not one of torch.
    """

    def __init__(self, optimizer: Any, schedule: Any, clip: float | None) -> None:
        self.schedule = SCHEDULES.build(schedule)
        self.clip = None if clip is None else number("clip", clip, above=0)
        constant = type(self.schedule) is Constant and self.schedule.warmup == 0
        self.idle = constant and self.clip is None
        if not self.idle and not isinstance(optimizer, Optimizer):
            raise InputError(
                f"a schedule or clip works with an optimizer of torch, not with a "
                f"{type(optimizer).__name__}; Pyro's optimizers have clip_args and schedulers"
            )
        self.optimizer = optimizer
        self.done = 0.0
        self.images = 1
        self.rates: list[float] = []
        groups = [] if self.idle else optimizer.param_groups
        capturable = all(group.get("capturable") for group in groups)
        devices = [group["params"][0].device for group in groups if capturable]
        self.tensors = [torch.zeros((), device=device) for device in devices]

    def next(self, done: float, images: int) -> None:
        """Prepare for the next update.

        Args:
            done: the share of the training that is done.
            images: the number of images over which the step's loss is summed.
        """
        self.done, self.images = done, images
        for tensor, rate in zip(self.tensors, self.rates, strict=False):
            tensor.fill_(rate * self.schedule(done))

    @contextmanager
    def on(self) -> Iterator[None]:
        """The updates in this context are steered. Afterwards the optimizer is as before."""
        if self.idle:
            yield
            return
        groups = self.optimizer.param_groups
        self.rates = [group["lr"] for group in groups]
        for group, tensor in zip(groups, self.tensors, strict=False):
            group["lr"] = tensor
        hooked = self.clip is not None or not self.tensors
        hook = self.optimizer.register_step_pre_hook(self.before_update) if hooked else None
        try:
            yield
        finally:
            if hook is not None:
                hook.remove()
            for group, rate in zip(groups, self.rates, strict=True):
                group["lr"] = rate

    def before_update(self, optimizer: Optimizer, *_: Any) -> None:
        for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
            if not self.tensors:
                group["lr"] = rate * self.schedule(self.done)
        if self.clip is not None:
            held = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(held, self.clip * self.images)


def step_scheduler(optimizer: Any, loss: float) -> None:
    """Move the scheduler of an optimizer of Pyro after an epoch; others have none.

    Args:
        optimizer: any optimizer.
        loss: the loss of the epoch, which ``ReduceLROnPlateau`` needs.
    """
    if isinstance(optimizer, PyroLRScheduler):
        needs_loss = optimizer.pt_scheduler_constructor is ReduceLROnPlateau
        optimizer.step(*([loss] if needs_loss else []))
    elif isinstance(optimizer, FusedOptim):
        optimizer.step()


def state_of(optimizer: Any) -> Any:
    """A copy of the state of an optimizer of torch or of Pyro, such as the moments of Adam."""
    own = isinstance(optimizer, PyroOptim)
    return deepcopy(optimizer.get_state() if own else optimizer.state_dict())


def restore_state(optimizer: Any, state: Any) -> None:
    """Put the state of :func:`state_of` back."""
    if not isinstance(optimizer, PyroOptim):
        optimizer.load_state_dict(state)
        return
    if not isinstance(optimizer, FusedOptim):
        optimizer.optim_objs.clear()  # Pyro makes them anew, each with its part of the state
    elif optimizer.optimizer is not None:
        optimizer.optimizer.state.clear()
    optimizer.set_state(state)

"""What training records, and whom it tells: numbers, where training stands, and callbacks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .errors import InputError
from .spelling import spelled_class


@dataclass(frozen=True)
class Epoch:
    """The numbers of one epoch. All but ``epoch`` and ``seconds`` are in nats per image, or per row
    of data that is not images.

    ``loss`` is the objective's own loss, summed over the training batches of the epoch, over the
    number of their rows. If the plate of the rows says that a batch is a subsample, the loss of a
    batch stands for all rows, and ``loss`` is the mean over batches, over the number of all rows.
    All other numbers but ``measured_loss`` are those of the plain ELBO with β = 1, so that training
    and validation images, and runs with different objectives, can be compared. ``elbo`` =
    ``reconstruction`` - ``kl``. The KL is also given by latent site and, if a site's units are
    independent, by unit ``[Z]``.

    ``measured_on`` says which rows these numbers are of: ``validation``, or ``train`` for a
    ``Data`` without validation images. Runs of older versions measured on ``test`` images.
    ``train_elbo`` is that of as many training rows as there are validation rows.

    None stands for what was not measured. Without validation data only ``loss`` is measured.
    Programs whose ELBO is not a sum over rows, for instance because of a global latent, have no
    ``elbo``. ``measured_loss``, the objective's loss on the validation data, is then measured
    instead. ``train_elbo`` needs training data in memory.
    """

    epoch: int
    loss: float
    train_elbo: float | None = None
    elbo: float | None = None
    reconstruction: float | None = None
    kl: float | None = None
    seconds: float = 0.0
    kl_of_sites: dict[str, float] = field(default_factory=dict)
    kl_of_units: dict[str, list[float]] = field(default_factory=dict)
    measured_loss: float | None = None
    measured_on: str = "validation"


def measured(number: float | None) -> float:
    """A number of an epoch.

    Raises:
        InputError: the number is None.
    """
    if number is None:
        raise InputError(
            "an epoch has no ELBO: there was no validation data, or the ELBO of its programs is "
            "not a sum over rows; plot loss and measured_loss instead"
        )
    return number


@dataclass(frozen=True, eq=False)
class Best:
    """The weights of the epoch with the highest validation bound so far.

    Args:
        epoch: the number of the epoch.
        bound: its ELBO in nats per row, or minus the objective's loss where there is no ELBO.
        values: copies of all parameters, and then of all buffers.
    """

    epoch: int
    bound: float
    values: tuple[Tensor, ...]

    @torch.no_grad()
    def put(self, tensors: Sequence[Tensor]) -> None:
        """Give these parameters and buffers the values."""
        for tensor, value in zip(tensors, self.values, strict=True):
            tensor.copy_(value)


@spelled_class
@dataclass(frozen=True, eq=False)
class Position:
    """Where training stands. ``Position()`` is the beginning.

    Args:
        epoch: the number of whole epochs that are done.
        losses: the loss of each step of the epoch that has begun, summed over its batch, ``[S]``.
        best: the best weights so far, where a training has ``patience``.
    """

    epoch: int = 0
    losses: Tensor = field(default_factory=lambda: torch.zeros(0))
    best: Best | None = None


class CollapseWarning(UserWarning):
    """A layer of latents carries almost no information about the image."""


def collapsed(epoch: Epoch, below: float = 0.01) -> list[str]:
    """A sentence for each latent site whose mean KL per unit is below ``below`` nats."""
    sites = {
        name: (epoch.kl_of_sites[name] / len(kl), len(kl)) for name, kl in epoch.kl_of_units.items()
    }
    return [
        f"the latent layer {name} has collapsed: {max(each, 0):.4f} nats of KL in each of its "
        f"{units} units on average, below {below}; annealed or free-bits as objective, or batch "
        "normalization, may help"
        for name, (each, units) in sites.items()
        if each < below
    ]


class Callback:
    """What ``fit`` calls while it trains. Each method does nothing by default."""

    def on_compile(self) -> None:
        """Called before the step is compiled, which takes seconds."""

    def on_start(self) -> None:
        """Called before the first step."""

    def on_step(self, images: int, position: Position) -> None:
        """Called after one or more steps, with the number of images in them.

        An exception that is raised here ends ``fit``. With the weights, the optimizer and
        ``position`` as they are then, ``fit`` goes on as if it had not ended.
        """

    def on_best(self, best: Best) -> None:
        """Called before ``on_epoch`` if ``patience`` is given and the epoch is the best so far."""

    def on_epoch(self, record: Epoch) -> None:
        """Called after each epoch with its numbers."""

    def on_end(self, completed: bool) -> None:
        """Called once when ``fit`` ends, by an exception too.

        Args:
            completed: whether all epochs are done, or all that the patience allows.
        """


class Callbacks(Callback):
    """Several callbacks as one. They are called in their order.

    Args:
        callbacks: the callbacks.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.callbacks = callbacks

    def on_compile(self) -> None:
        for each in self.callbacks:
            each.on_compile()

    def on_start(self) -> None:
        for each in self.callbacks:
            each.on_start()

    def on_step(self, images: int, position: Position) -> None:
        for each in self.callbacks:
            each.on_step(images, position)

    def on_best(self, best: Best) -> None:
        for each in self.callbacks:
            each.on_best(best)

    def on_epoch(self, record: Epoch) -> None:
        for each in self.callbacks:
            each.on_epoch(record)

    def on_end(self, completed: bool) -> None:
        with ExitStack() as stack:  # one that fails does not keep the others from their end
            for each in reversed(self.callbacks):
                stack.callback(each.on_end, completed)

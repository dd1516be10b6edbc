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
    All other numbers but ``test_loss`` are those of the plain ELBO with β = 1, so that training and
    test images, and runs with different objectives, can be compared. ``elbo`` = ``reconstruction``
    - ``kl``. The KL of the test images is also given by latent site and, if a site's units are
    independent, by unit ``[Z]``.

    None stands for what was not measured. Without test data only ``loss`` is measured. Programs
    whose ELBO is not a sum over rows, for instance because of a global latent, have no ELBO of test
    data. ``test_loss``, the objective's loss on the test data, is then measured instead.
    ``train_elbo`` needs training data in memory.
    """

    epoch: int
    loss: float
    train_elbo: float | None = None
    test_elbo: float | None = None
    test_reconstruction: float | None = None
    test_kl: float | None = None
    seconds: float = 0.0
    kl_of_sites: dict[str, float] = field(default_factory=dict)
    kl_of_units: dict[str, list[float]] = field(default_factory=dict)
    test_loss: float | None = None


def measured(number: float | None) -> float:
    """A number of an epoch.

    Raises:
        InputError: the number is None.
    """
    if number is None:
        raise InputError(
            "an epoch has no ELBO of test data: there was no test data, or the ELBO of its "
            "programs is not a sum over rows; plot loss and test_loss instead"
        )
    return number


@spelled_class
@dataclass(frozen=True, eq=False)
class Position:
    """Where training stands. ``Position()`` is the beginning.

    Args:
        epoch: the number of whole epochs that are done.
        losses: the loss of each step of the epoch that has begun, summed over its batch, ``[S]``.
    """

    epoch: int = 0
    losses: Tensor = field(default_factory=lambda: torch.zeros(0))


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

    def on_epoch(self, record: Epoch) -> None:
        """Called after each epoch with its numbers."""

    def on_end(self, completed: bool) -> None:
        """Called once when ``fit`` ends, by an exception too.

        Args:
            completed: whether all epochs are done.
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

    def on_epoch(self, record: Epoch) -> None:
        for each in self.callbacks:
            each.on_epoch(record)

    def on_end(self, completed: bool) -> None:
        with ExitStack() as stack:  # one that fails does not keep the others from their end
            for each in reversed(self.callbacks):
                stack.callback(each.on_end, completed)

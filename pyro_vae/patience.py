"""Early stopping: the weights with the best validation bound, and when training ends."""

from __future__ import annotations

from torch import Tensor
from torch.optim import Optimizer

from .errors import InputError
from .history import Best, Epoch
from .options import at_least_one
from .pair import Pair
from .words import called


def bound_of(record: Epoch) -> float:
    """The validation bound of an epoch: the higher, the better."""
    if record.elbo is not None:
        return record.elbo
    assert record.measured_loss is not None  # check() refuses a training that measures nothing
    return -record.measured_loss


def is_over(epoch: int, best: int, patience: int | None) -> bool:
    """Whether ``patience`` epochs came after the best one, up to and with ``epoch``."""
    return patience is not None and epoch - best >= patience


class Patience:
    """Keeps the weights of the epoch with the best validation bound, and ends the training.

    An epoch is better if its bound is higher than that of all epochs before. Compared and kept are
    the weights that are measured after the epoch; with an average of the weights, the averages.
    Steps go on from their own weights. When training ends, the pair gets the best weights.

    Args:
        pair: the model and the guide.
        patience: the epochs without a better one after which training ends; None keeps nothing.
        best: the best weights of the epochs before.
    """

    def __init__(self, pair: Pair, patience: int | None, best: Best | None) -> None:
        self.pair, self.patience = pair, patience
        self.best = None if patience is None else best

    def tensors(self) -> list[Tensor]:
        """All parameters and buffers."""
        return [*self.pair.parameters(), *self.pair.buffers()]

    def better(self, record: Epoch) -> Best | None:
        """The best weights, if they are those of this epoch; else None."""
        if self.patience is None:
            return None
        bound = bound_of(record)
        if self.best is not None and bound <= self.best.bound:
            return None
        values = tuple(t.detach().clone() for t in self.tensors())
        self.best = Best(record.epoch, bound, values)
        return self.best

    def ended(self, epoch: int, epochs: int) -> bool:
        """Whether training ends after an epoch, of ``epochs`` at most."""
        over = self.best is not None and is_over(epoch, self.best.epoch, self.patience)
        return over or epoch >= epochs

    def chosen(self, history: list[Epoch]) -> Epoch:
        """The epoch whose weights the pair has at the end, or the last one of ``history``."""
        best = 0 if self.best is None else self.best.epoch
        return next((record for record in history if record.epoch == best), history[-1])

    def give(self) -> None:
        """Give the pair the best weights."""
        if self.best is not None:
            self.best.put(self.tensors())


def check(patience: int | None, optimizer: object, measured_on: str | None) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for a patience that cannot be had.

    Args:
        patience: the patience; None for none.
        optimizer: the optimizer. One of Pyro may make parameters in a later epoch.
        measured_on: what is measured after each epoch; None for nothing.
    """
    if patience is None:
        return
    check_measured(patience, measured_on)
    if not isinstance(optimizer, Optimizer):
        raise InputError(
            f"patience works with an optimizer of torch, not with a {type(optimizer).__name__}"
        )


def check_measured(patience: int | None, measured_on: str | None) -> None:
    """The part of :func:`check` that needs only the data."""
    if patience is None:
        return
    at_least_one("patience", patience)
    if measured_on != "validation":
        raise InputError(
            f"{called('patience')} compares the bound of validation data after each epoch, and "
            f"there is none; give {called('validation')}, or leave {called('patience')} out"
        )

"""The numbers of an epoch: the ELBO of each row where it can be measured, else the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from .batch import Batch
from .compiling import HANDLERS
from .errors import InputError, broken_distribution
from .evaluation import elbo
from .evaluation.rows import batches_of, rows_of
from .modules import mode
from .noise import STEP, seed_noise
from .pair import Pair
from .words import first_line

MEASURED = 10_000
"""The most images that are measured after an epoch if they stay on disk, or are training images."""

REFUSED = (InputError, RuntimeError, ValueError, IndexError)
"""What a program may raise that cannot be measured row by row."""


class Measures:
    """Measures a pair after each epoch, always with the same random numbers.

    The ELBO of each row, with its parts, can be measured if all latents belong to single rows
    (:mod:`~pyro_vae.evaluation.scoring`). Otherwise the objective's own loss on these rows is
    measured, and the numbers of single rows are None.

    Args:
        pair: the model and the guide.
        objective: the ELBO that is trained.
        rows: the data that is measured; None for none.
        measured_on: what it is: ``validation`` or ``train``.
        shown: training data to compare with the rows; None for none.
        batch_size: rows of a batch, for the loss.
        seed: of the random numbers.
        further: further arguments of the programs.
    """

    def __init__(
        self,
        pair: Pair,
        objective: Any,
        rows: Any,
        measured_on: str,
        shown: Any,
        batch_size: int,
        seed: int,
        further: Mapping[str, Any],
    ) -> None:
        self.pair, self.objective, self.rows, self.shown = pair, objective, rows, shown
        self.measured_on = measured_on
        self.batch_size, self.seed, self.further = batch_size, seed, further
        self.by_row = False

    def decide(self) -> None:
        """Find out what can be measured, from the first rows.

        Raises:
            InputError: the programs cannot be run on them.
        """
        if self.rows is None:
            return
        programs = (self.pair.model, self.pair.guide)
        first = next(batches_of(self.rows, self.batch_size, self.seed, self.further, *programs))
        try:
            elbo(*programs, first)
            self.by_row = True
            return
        except REFUSED as error:
            # Weights that are lost are told after the epoch.
            if broken_distribution(error):
                self.by_row = True
                return
        try:
            self.loss(first)
        except InputError:
            raise
        except REFUSED as error:
            raise InputError(
                f"the programs cannot be run on the first {len(first)} rows of the "
                f"{self.measured_on} data ({first_line(error):.200})"
            ) from error

    def __call__(self) -> dict[str, Any]:
        """The fields of an :class:`~pyro_vae.history.Epoch` that are measured."""
        if self.rows is None:
            return {}
        if not self.by_row:
            return {"measured_loss": self.loss(self.rows), "measured_on": self.measured_on}
        here, train = self.bound(self.rows), None if self.shown is None else self.bound(self.shown)
        return {
            "train_elbo": None if train is None else train.elbo,
            "elbo": here.elbo,
            "reconstruction": here.reconstruction,
            "kl": here.kl,
            "kl_of_sites": {name: kl.mean().item() for name, kl in here.kl_of_sites.items()},
            "kl_of_units": {name: kl.tolist() for name, kl in here.kl_of_units.items()},
            "measured_on": self.measured_on,
        }

    def bound(self, data: Any) -> Any:
        """The ELBO of each row of ``data``."""
        return elbo(self.pair.model, self.pair.guide, data, seed=self.seed, kwargs=self.further)

    def loss(self, data: Any) -> float:
        """The loss of the objective on ``data``, over the number of its rows."""
        programs, total, count = (self.pair.model, self.pair.guide), 0.0, 0
        with HANDLERS, torch.no_grad(), torch.random.fork_rng(), mode(False, *self.pair.modules):
            for i, batch in enumerate(
                batches_of(data, self.batch_size, self.seed, self.further, *programs)
            ):
                seed_noise(batch.device, self.seed, STEP, i)
                total += float(self.objective.loss(*programs, *batch.args, **batch.named))
                count += len(batch) if self.pair.full is None else self.pair.full
        return total / count


def measured_rows(data: Any, validation: Any) -> tuple[Any, str]:
    """The rows that are measured after each epoch, or None, and which rows they are.

    Args:
        data: a ``Data`` or a ``StoredData``; None for other data.
        validation: the validation data that the user gave; None for none.
    """
    if data is None or validation is not None:
        return validation, "validation"
    if data.validation is not None:
        return data.validation, "validation"
    return data.train.first(MEASURED), "train"


def lost(numbers: Mapping[str, Any]) -> bool:
    """Whether one of the measured numbers is NaN or infinite."""
    return not all(math.isfinite(n) for n in numbers.values() if isinstance(n, float))


def shown_of(train: Any, held_out: Any) -> Any:
    """As many training rows as there are held-out rows, which show how far the two are apart.

    Args:
        train: images, in memory or on disk, or a Batch; None for other data.
        held_out: the validation data; None for none.

    Returns:
        None without training data, and for validation data without a known length.
    """
    count = None if held_out is None or train is None else rows_of(held_out)
    if count is None:
        return None
    if isinstance(train, Batch):
        return train.cut(0, max(count, 1))
    return train.first(max(count, 1))

"""The loop of :func:`~pyro_vae.training.fit`: steps, epochs, and what seeds each of them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, NoReturn

import pyro
import torch
from pyro.infer import SVI
from pyro.optim import PyroOptim
from torch import Tensor

from .averaging import Averaging, moments_of_data, normalized
from .batch import Batch
from .compiling import HANDLERS, CompiledSVI, CompileError, in_bfloat16, without_rounding
from .contracts import Objective
from .errors import BROKEN, InputError, TrainingError, invalid
from .history import Callback, Epoch, Position
from .measures import Measures, lost
from .noise import STEP, seed_noise
from .pair import Pair
from .ranks import Ranks
from .ranks.exchange import Share, exchanging
from .ranks.refusing import shared
from .ranks.rows import OwnRows
from .registry import lookup
from .schedules import Steering, restore_state, state_of, step_scheduler
from .settings import TrainingOptions
from .sources import InMemory, Piece, Source, epochs_done, whole_batches

PRECISIONS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "float32": without_rounding,
    "bfloat16": in_bfloat16,
}

LONGEST = 1 << 20
"""The most steps of an epoch whose length is not known. The number of a step has 31 bits."""


class Loop:
    """The state of one call of :func:`fit`.

    Args:
        pair: the model and the guide.
        source: where the batches come from.
        objective: the ELBO that is minimised.
        optimizer: the optimizer of the pair's parameters.
        options: how to train.
        measures: measures the pair after an epoch.
        further: further arguments of the programs.
        ranks: the processes that share each batch.
    """

    def __init__(
        self,
        pair: Pair,
        source: Source,
        objective: Any,
        optimizer: torch.optim.Optimizer | PyroOptim,
        options: TrainingOptions,
        measures: Measures,
        further: Mapping[str, Any],
        ranks: Ranks,
    ) -> None:
        self.pair, self.source, self.elbo, self.optimizer = pair, source, objective, optimizer
        self.options, self.measures, self.further = options, measures, further
        self.ranks = ranks
        begin = OwnRows(ranks.rank, ranks.size).begin
        source.own = begin if ranks.size > 1 else None
        self.loss = Share(objective, ranks) if ranks.size > 1 else objective
        self.advance = Objective.schedule_of(objective)
        self.steering = Steering(optimizer, options.schedule, options.clip)
        self.averaging = Averaging(optimizer, options.average)
        self.precision = lookup("precision", options.precision, PRECISIONS)
        self.programs = (pair.model, pair.guide)
        first = Batch.of(source.first(), further)
        own = begin(source.batch_size)
        self.device, self.shapes = first.device, first.cut(own.start, own.stop).shapes()
        self.last = Piece(0)
        self.known = set(pyro.get_param_store().keys())

    def choose_step(self, compiled: bool | None, pays: bool, callback: Callback) -> None:
        """Decide how a step is computed: by Pyro as it is, or as one compiled graph.

        Args:
            compiled: whether steps are compiled; None leaves it to ``pays``, and programs that
                cannot be compiled then run eagerly, with a warning.
            pays: whether compiling saves time.
            callback: is told before compiling.
        """
        self.together = 1
        self.step: Callable[[Piece], Tensor] = self.eager_step
        memory = self.source if isinstance(self.source, InMemory) else None
        whole = memory is None or whole_batches(memory.count, memory.batch_size) > 0
        if not (pays if compiled is None else compiled) or not whole:
            return
        self.svi = CompiledSVI(
            *self.programs,
            self.optimizer,
            self.loss,
            None if memory is None else memory.prepare,
            before_step=self.before_step,
        )
        callback.on_compile()
        own = self.ranks.begin(self.source.batch_size)
        try:
            # Before training, so that all its steps are compiled, wherever it starts.
            with self.stepping(), self.pair.buffers_kept(), self.precision():
                if memory is None:
                    first = Batch.of(self.source.first(), self.further).cut(own.start, own.stop)
                    self.svi.compile_step(*first.args, **first.named)
                else:
                    index = torch.arange(self.source.batch_size, device=self.device)
                    self.svi.compile(memory.data, index[own], **self.further)
        except CompileError as error:
            if compiled is not None:
                raise
            warnings.warn(f"training runs without compiling: {error}", stacklevel=4)
            return
        # A schedule moves at each step; without one, many steps are one call.
        self.together = 32 if self.advance is None else 1
        self.step = self.compiled_step

    def compiled_step(self, piece: Piece) -> Tensor:
        """The steps of a piece, compiled; their losses, summed over the batch, ``[S]``."""
        if isinstance(self.source, InMemory):
            # A batch of another size would need its own graph, which does not pay.
            if piece.size != self.source.batch_size:
                return self.eager_step(piece)
            assert piece.rows is not None
            own = self.ranks.begin(piece.size)
            return self.svi.epoch(self.source.data, piece.rows[:, own], **self.further)
        own = self.ranks.begin(piece.size)
        batch = Batch.of(piece.cut(own).batch, self.further)
        if piece.size != self.source.batch_size or batch.shapes() != self.shapes:
            return self.eager_step(piece)
        self.before_step(piece.size)
        return torch.as_tensor(self.svi.step(*batch.args, **batch.named))[None]

    def eager_step(self, piece: Piece) -> Tensor:
        """The one step of a piece; the loss, summed over the batch, ``[1]``."""
        self.before_step(piece.size)
        own = self.ranks.begin(piece.size)
        piece = piece if self.ranks.size == 1 else piece.cut(own)
        batch = Batch.of(self.source.batch(piece), self.further)
        with HANDLERS:
            if isinstance(self.optimizer, PyroOptim):
                svi = SVI(*self.programs, self.optimizer, self.elbo)
                loss: Any = svi.step(*batch.args, **batch.named)
            else:
                loss = 0.0  # of a process without rows
                if own.start < own.stop:
                    loss = self.loss.loss_and_grads(*self.programs, *batch.args, **batch.named)
                self.optimizer.step()
                self.optimizer.zero_grad()
        if not self.ranks.split:
            self.ranks.follow_first(self.pair.buffers())  # only one process has seen rows
        return torch.as_tensor(loss)[None]

    def before_step(self, images: int | None = None) -> None:
        """Seed the noise of the next step and set its learning rate; its number is ``self.number``.

        Args:
            images: the rows of the step; None for a whole batch.
        """
        seed_noise(self.device, self.options.seed, STEP, self.number)
        self.steering.next(self.share_done(), images or self.source.batch_size)
        self.number += 1
        self.averaging.taken = self.number

    def share_done(self) -> float:
        """The share of the training that is done; in epochs if their length is not known."""
        if (steps := self.source.steps) is None:
            return self.begun.epoch / self.options.epochs
        return self.number / (self.options.epochs * steps)

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """The settings under which steps are taken and compiled."""
        self.pair.train(True)
        try:
            with (
                torch.random.fork_rng(),
                torch.enable_grad(),
                pyro.validation_enabled(False),  # a trial did it once, and it takes time
                shared(self.ranks, self.pair, self.elbo),
            ):
                yield
        finally:
            self.pair.train(False)

    def run(self, position: Position, callback: Callback) -> float:
        """Train to the end of the epoch; its loss in nats per row.

        Raises:
            TrainingError: the loss or a weight became NaN or infinite, or a distribution has
                invalid parameters. The VAE's parameters are then those from before this call.
        """
        self.good, self.good_optimizer = self.pair.copies(), state_of(self.optimizer)
        self.begun, done = position, len(position.losses)
        position = replace(position, losses=position.losses.to(self.device))
        first = position.epoch * (self.source.steps or LONGEST)  # number of the epoch's first step
        self.number = first + done
        seed, epoch, rows = self.options.seed, position.epoch + 1, 0
        with (
            self.stepping(),
            exchanging(self.ranks, self.optimizer),
            self.steering.on(),
            self.averaging.on(),
        ):
            for piece in self.source.epoch(seed, epoch, done, self.together):
                before = len(position.losses)
                if self.advance is not None:
                    self.advance(epochs_done(self.source, position))
                try:
                    with self.precision():  # neither the data nor the callback
                        losses = self.step(piece).detach()
                    now = self.ranks.total(losses.to(position.losses))
                except BROKEN as error:
                    step = self.number - first
                    self.stop(invalid(error), step, piece.numbers(step - before - 1))
                position = replace(position, losses=torch.cat([position.losses, now]))
                self.last, rows = piece, rows + piece.count
                if not now.isfinite().all():
                    step = int(position.losses.isfinite().long().argmin())
                    numbers = piece.numbers(step - before)
                    self.stop(f"the loss became {position.losses[step]}", step + 1, numbers)
                callback.on_step(piece.count, position)
        for p in self.pair.parameters():
            p.grad = None  # of parameters that the optimizer does not hold
        if rows == 0 and done == 0:
            raise InputError(
                f"the data gave no rows in epoch {epoch}; an iterable begins anew at each epoch"
            )
        self.taken = len(position.losses)
        if not all(p.isfinite().all() for p in self.pair.parameters()):
            self.stop("a weight became NaN or infinite", self.taken, self.last.numbers(-1))
        self.known = self.pair.take_new(self.optimizer, epoch, self.known)
        if self.options.chooses or epoch == self.options.epochs:
            try:
                self.normalize(epoch)
            except BROKEN as error:
                self.stop(invalid(error), self.taken, self.last.numbers(-1))
        counted = self.source.rows or rows + self.source.skipped
        if self.pair.full is not None:  # each batch stands for all rows
            counted = self.pair.full * self.taken
        loss = position.losses.double().sum().item() / counted
        step_scheduler(self.optimizer, loss)
        return loss

    def normalize(self, epoch: int) -> None:
        """Compute the moments of batch normalization anew over the training set, for the weights
        that are measured and used."""
        layers = normalized(self.pair.modules)
        if not layers:
            return

        def batches() -> Iterator[Batch]:
            for step, piece in enumerate(self.source.epoch(self.options.seed, epoch, 0, 1)):
                seed_noise(self.device, self.options.seed, STEP, step)
                own = self.ranks.begin(piece.size)
                cut = piece if self.ranks.size == 1 else piece.cut(own)
                if own.start < own.stop:
                    yield Batch.of(self.source.batch(cut), self.further)

        def run(batch: Batch) -> None:
            with self.precision():
                self.loss.loss(*self.programs, *batch.args, **batch.named)

        with HANDLERS, self.stepping(), torch.no_grad():
            moments_of_data(layers, batches(), run)
        if not self.ranks.split:
            self.ranks.follow_first(self.pair.buffers())

    def stop(self, what: str, step: int, rows: list[int]) -> NoReturn:
        """Restore parameters and optimizer from before :meth:`run` and raise a TrainingError.

        Args:
            what: what happened.
            step: the step in the epoch, from 1.
            rows: the rows of the step.
        """
        with torch.no_grad():
            for tensor, good in self.good:
                tensor.copy_(good)
        restore_state(self.optimizer, self.good_optimizer)
        epoch, done = self.begun.epoch, len(self.begun.losses)
        weights = f"epoch {epoch + 1}, step {done}" if done else f"epoch {epoch}"
        raise TrainingError(
            f"{what} in epoch {epoch + 1}, step {step}; the weights are those of {weights}, "
            "and a smaller learning rate often helps",
            epoch + 1,
            step,
            rows,
        )

    def measure(self, epoch: int, loss: float, began: float) -> Epoch:
        """The numbers after an epoch that began at ``began``.

        Raises:
            TrainingError: the weights give a distribution invalid parameters, such as σ = 0.
        """
        numbers = self.ranks.from_first(self.measured)
        if isinstance(numbers, str):
            self.stop(numbers, self.taken, self.last.numbers(-1))
        return Epoch(epoch, loss, seconds=time.perf_counter() - began, **numbers)

    def measured(self) -> dict[str, Any] | str:
        """The numbers that are measured; a sentence if they cannot be."""
        try:
            numbers = self.measures()
        except BROKEN as error:
            return invalid(error)
        return "the ELBO became NaN or infinite" if lost(numbers) else numbers

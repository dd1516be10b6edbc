"""The loop of :func:`~pyro_vae.training.fit`: steps, epochs, and what seeds each of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NoReturn

import pyro
import torch
from pyro import poutine
from pyro.infer import SVI
from pyro.optim import PyroOptim
from torch import Tensor

from . import checks, objectives  # noqa: F401  (objectives fills the table)
from .compiling import HANDLERS, CompiledSVI
from .contracts import Objective
from .data import Data
from .errors import InputError, TrainingError, broken_distribution
from .evaluation import elbo
from .history import Callback, Epoch, Position
from .modules import buffers_restored, mode
from .noise import EPOCH, STEP, seed_noise
from .pairing import fitting_objective
from .ranks import Ranks
from .ranks.exchange import Share, exchanging
from .ranks.refusing import checked, refuse, shared
from .registry import OBJECTIVES, lookup
from .schedules import Steering

PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}


class Loop:
    """The state of one call of :func:`fit`; its arguments are those of ``fit``."""

    def __init__(
        self,
        vae: Any,
        data: Data,
        objective: Any,
        optimizer: torch.optim.Optimizer | PyroOptim,
        batch_size: int,
        precision: str,
        seed: int,
        schedule: Any,
        clip: float | None,
        epochs: int,
        ranks: Ranks,
    ) -> None:
        weight = next(vae.parameters())
        data = data.to(weight.device)
        self.vae = vae
        self.data = data
        self.optimizer = optimizer
        self.batch_size = batch_size
        self.dtype = lookup("precision", precision, PRECISIONS)
        self.seed = seed
        self.prepare = partial(as_float, dtype=weight.dtype)
        train = data.train
        if objective is None:
            objective = fitting_objective(vae, self.prepare(train.batch(slice(0, 1))))
        self.elbo = OBJECTIVES.build(objective, data_size=len(train))
        self.advance = Objective.schedule_of(self.elbo)
        # As many training images as test images show how far the two ELBOs are apart.
        self.shown = train.first(max(len(data.test), 1))
        with torch.random.fork_rng():
            # One place in memory for the pixels of all epochs, as a CUDA graph needs it.
            self.pixels = train.drawn().pixels
        self.steering = Steering(optimizer, schedule, clip)
        self.ranks, self.loss = ranks, self.elbo
        if ranks.size > 1:
            refuse(ranks, vae, self.elbo, optimizer, min(batch_size, len(train)))
            ranks.check_equal(
                {
                    "images": data.checksum(),
                    "batch size": batch_size,
                    "epochs": epochs,
                    "seed": seed,
                    "weights": [(name, list(p.shape)) for name, p in vae.named_parameters()],
                }
            )
            ranks.follow_first((*vae.parameters(), *vae.buffers()))
            self.loss = Share(self.elbo, ranks)
        self.whole = whole_batches(len(train), batch_size)
        self.steps_per_epoch = steps_of_epoch(len(train), batch_size)
        self.steps = epochs * self.steps_per_epoch

    def check(self, start: Position) -> None:
        """Compute the loss of the first batch once, with all of Pyro's checks. Random numbers and
        buffers are afterwards as before.

        Raises:
            InputError: parts that do not fit the data, a batch of one image for a part that needs
                two, or more steps of an epoch than there are.
        """
        if not isinstance(start, Position):
            raise InputError(f"start is a pyro_vae.Position, not {start!r:.100}")
        if len(start.losses) > self.steps_per_epoch:
            raise InputError(
                f"start has {len(start.losses)} steps after epoch {start.epoch}, and an epoch of "
                f"these images has {self.steps_per_epoch}"
            )
        for p in (*self.vae.parameters(), *checks.held_by(self.optimizer).values()):
            p.grad = None  # a gradient from before would be added to that of the first step
        if self.advance is not None:
            self.advance(self.epochs_done(start))
        images = min(self.batch_size, len(self.pixels))
        x, begins = (
            self.prepare(self.pixels[self.ranks.begin(images)]),
            self.epochs_done(start) == 0,
        )
        try:
            with (
                checks.one_image_told(len(x), self.batch_size),
                checks.parameters_told() if begins else nullcontext(),
                HANDLERS,
                torch.random.fork_rng(),
                pyro.validation_enabled(),
                mode(True, self.vae),
                buffers_restored(self.vae),
                shared(self.ranks, self.vae, self.elbo),
                poutine.trace(param_only=True) as used,
            ):
                self.loss.loss(self.vae.model, self.vae.guide, x)
                if self.ranks.size > 1:
                    with checked(self.ranks, self.vae):
                        self.loss.loss(self.vae.model, self.vae.guide, x)
        except ValueError as error:
            # The weights of a training that goes on may be lost in its next step, which says so.
            if begins or not broken_distribution(error):
                raise
        checks.check_parameters(self.vae, used.trace)

    def choose_step(self, compiled: bool, callback: Callback) -> None:
        """Decide how a step is computed: by Pyro as it is, or as one compiled graph."""
        programs = (self.vae.model, self.vae.guide)
        self.together = 1
        self.step: Callable[[Tensor], Tensor] = self.eager_step
        if compiled and self.whole > 0:
            svi = CompiledSVI(
                *programs, self.optimizer, self.loss, self.prepare, before_step=self.before_step
            )
            callback.on_compile()
            with self.stepping(), buffers_restored(self.vae):
                # Before training, so that all its steps are compiled, wherever it starts.
                rows = torch.arange(self.batch_size, device=self.pixels.device)
                svi.compile(self.pixels, rows[self.ranks.begin(self.batch_size)])
            # A schedule moves at each step; without one, many steps are one call.
            self.together = 32 if self.advance is None else 1
            self.step = lambda rows: (
                # A batch of another size would need its own graph, which does not pay.
                svi.epoch(self.pixels, rows[:, self.ranks.begin(self.batch_size)])
                if rows.shape[1] == self.batch_size
                else self.eager_step(rows)
            )

    def eager_step(self, rows: Tensor) -> Tensor:
        """One step on the images ``rows`` ``[1, B]``; the loss, summed over the batch, ``[1]``."""
        programs = (self.vae.model, self.vae.guide)
        self.before_step(rows.shape[1])
        mine = rows[0, self.ranks.begin(rows.shape[1])]
        x = self.prepare(self.pixels.index_select(0, mine))
        with HANDLERS:
            if isinstance(self.optimizer, PyroOptim):
                loss = SVI(*programs, self.optimizer, self.elbo).step(x)
            else:
                loss = self.loss.loss_and_grads(*programs, x) if len(mine) else 0.0
                self.optimizer.step()
                self.optimizer.zero_grad()
        if not self.ranks.split:
            self.ranks.follow_first(self.vae.buffers())  # only one process has seen images
        return torch.as_tensor(loss)[None]

    def before_step(self, images: int | None = None) -> None:
        """Seed the noise of the next step and set its learning rate; its number is ``self.number``.

        Args:
            images: the images of the step; None for a whole batch.
        """
        seed_noise(self.pixels.device, self.seed, STEP, self.number)
        self.steering.next(self.number / self.steps, images or self.batch_size)
        self.number += 1

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """The settings under which steps are taken and compiled."""
        self.vae.train()
        try:
            with (
                torch.random.fork_rng(),
                torch.enable_grad(),
                pyro.validation_enabled(False),  # check() did it once, and it takes time
                # The cache would keep the casts of the epoch's first weights.
                torch.autocast(
                    self.pixels.device.type,
                    self.dtype,
                    enabled=bool(self.dtype),
                    cache_enabled=False,
                ),
                shared(self.ranks, self.vae, self.elbo),
            ):
                yield
        finally:
            self.vae.eval()

    def epochs_done(self, position: Position) -> float:
        """The epochs that are done, with the part of the epoch that has begun."""
        return position.epoch + len(position.losses) * self.batch_size / len(self.pixels)

    def draw(self, epoch: int) -> None:
        """Draw the pixels and the order of an epoch."""
        seed_noise(self.pixels.device, self.seed, EPOCH, epoch)
        self.data.train.drawn(out=self.pixels)
        self.order = torch.randperm(len(self.pixels), device=self.pixels.device)

    def run(self, position: Position, callback: Callback) -> float:
        """Train to the end of the epoch; its loss in nats per image.

        Raises:
            TrainingError: the loss or a weight became NaN or infinite. The VAE then has the
                weights from before this call.
        """
        self.good = {name: value.clone() for name, value in self.vae.state_dict().items()}
        self.begun = position
        done = len(position.losses)
        position = Position(position.epoch, position.losses.to(self.pixels.device))
        self.number = position.epoch * self.steps_per_epoch + done
        with self.stepping(), exchanging(self.ranks, self.optimizer), self.steering.on():
            self.draw(position.epoch + 1)
            for rows in batches(self.order, self.batch_size, self.together, done):
                if self.advance is not None:
                    self.advance(self.epochs_done(position))
                now = self.ranks.total(self.step(rows).to(position.losses))
                position = Position(position.epoch, torch.cat([position.losses, now]))
                if not now.isfinite().all():
                    step = int(position.losses.isfinite().long().argmin())
                    self.stop(f"the loss became {position.losses[step]}", step + 1)
                callback.on_step(rows.numel(), position)
        for p in self.vae.parameters():
            p.grad = None  # of parameters that the optimizer does not hold
        if not all(p.isfinite().all() for p in self.vae.parameters()):
            self.stop("a weight became NaN or infinite", self.steps_per_epoch)
        return position.losses.double().sum().item() / len(self.pixels)

    def stop(self, what: str, step: int) -> NoReturn:
        """Restore the weights from before :meth:`run` and raise a TrainingError.

        Args:
            what: what happened.
            step: the step in the epoch, from 1.
        """
        self.vae.load_state_dict(self.good)
        (rows,) = next(batches(self.order, self.batch_size, 1, step - 1))
        epoch, done = self.begun.epoch, len(self.begun.losses)
        weights = f"epoch {epoch + 1}, step {done}" if done else f"epoch {epoch}"
        raise TrainingError(
            f"{what} in epoch {epoch + 1}, step {step}; the weights are those of {weights}, "
            "and a smaller learning rate often helps",
            epoch + 1,
            step,
            rows.tolist(),
        )

    def measure(self, epoch: int, loss: float, began: float) -> Epoch:
        """The ELBO of test and training images after an epoch that began at ``began``.

        Raises:
            TrainingError: the weights give a distribution invalid parameters, such as σ = 0.
        """
        found = self.ranks.from_first(lambda: self.measured(epoch, loss, began))
        if isinstance(found, str):
            self.stop(found, self.steps_per_epoch)
        return found

    def measured(self, epoch: int, loss: float, began: float) -> Epoch | str:
        """As :meth:`measure`; where it raises, the sentence."""
        model, guide = self.vae.model, self.vae.guide
        try:
            test = elbo(model, guide, self.data.test, seed=self.seed)
            train = elbo(model, guide, self.shown, seed=self.seed)
        except ValueError as error:
            if not (reason := broken_distribution(error)):
                raise
            return f"a distribution has invalid parameters ({reason})"
        if not math.isfinite(test.elbo + train.elbo):
            return "the ELBO became NaN or infinite"
        return Epoch(
            epoch,
            loss,
            train.elbo,
            test.elbo,
            test.reconstruction,
            test.kl,
            time.perf_counter() - began,
            {name: kl.mean().item() for name, kl in test.kl_of_sites.items()},
            {name: kl.tolist() for name, kl in test.kl_of_units.items()},
        )


def whole_batches(count: int, size: int) -> int:
    """The batches of ``size`` images in an epoch; the images that remain are one batch more.

    A single last image is added to the batch before it, because batch normalization and some
    objectives need two images.
    """
    whole = count // size
    return whole - (count - whole * size == 1 and whole > 0 and size > 1)


def steps_of_epoch(images: int, batch_size: int) -> int:
    """How many steps an epoch has."""
    whole = whole_batches(images, batch_size)
    return whole + (whole * batch_size < images)


def batches(order: Tensor, size: int, together: int, done: int = 0) -> Iterator[Tensor]:
    """Cut the order of an epoch into batches, ``[together, size]`` at a time.

    A last batch of another size comes alone, ``[1, B]``.

    Args:
        order: the indices of all images.
        size, together: images in a batch, and batches that come together.
        done: the number of batches to leave out, because their steps are done.
    """
    whole = whole_batches(len(order), size)
    if done < whole:
        yield from order[done * size : whole * size].view(-1, size).split(together)
    if done <= whole and whole * size < len(order):
        yield order[None, whole * size :]


def as_float(pixels: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Stored pixels as numbers in [0, 1]; uint8 is divided by 255.

    ``dtype`` is the type of the result; None leaves it as it is.
    """
    return (pixels / 255 if pixels.dtype == torch.uint8 else pixels).to(dtype)

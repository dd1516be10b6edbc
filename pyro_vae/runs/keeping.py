"""What is written and checked while a run is trained."""

from __future__ import annotations

from pathlib import Path
from time import monotonic, perf_counter

import torch

from .. import figures
from ..history import Best, Callback, Epoch, Position
from ..storage import checkpoint
from ..storage.writing import written
from . import folder as files
from . import older
from .failing import remove_failure
from .setup import Run
from .stopping import Signals, Stopped


def state_at(run: Run, position: Position) -> checkpoint.Checkpoint:
    """The checkpoint of a run at a position."""
    return checkpoint.state_of(run.vae, run.optimizer, position, run.checksum, run.compiled)


class Follower(Callback):
    """What all processes but the first do between steps: they end when a signal has come."""

    def __init__(self, signals: Signals) -> None:
        self.signals = signals

    def on_start(self) -> None:
        self.signals.waiting = True

    def on_step(self, images: int, position: Position) -> None:
        self.signals.check()

    def on_epoch(self, record: Epoch) -> None:
        self.signals.check()


class Keeper(Callback):
    """Writes a run's checkpoints, metrics and pictures while it trains.

    The arguments are those of :func:`.working.train`.
    """

    def __init__(
        self, run: Run, folder: Path, pictures: int, minutes: float, signals: Signals
    ) -> None:
        self.run, self.folder, self.pictures, self.minutes = run, folder, pictures, minutes
        self.signals = signals
        self.best = run.start.best
        self.epochs = run.training["epochs"]
        self.compiling: list[float] = []  # the times at which compiling began and ended

    def on_compile(self) -> None:
        self.compiling.append(perf_counter())

    def on_start(self) -> None:
        """All that could be refused was refused, so the folder is changed from here on."""
        if self.compiling:
            self.compiling.append(perf_counter())
        files.write_metrics(self.folder, files.read_history(self.folder)[: self.run.start.epoch])
        files.set_epochs(self.folder, self.epochs)
        self.saved = monotonic()
        self.signals.waiting = True

    def on_step(self, images: int, position: Position) -> None:
        signal = self.signals.due()
        if signal or monotonic() - self.saved > 60 * self.minutes:
            self.save(position)
        if signal:
            raise Stopped(signal)

    def on_best(self, best: Best) -> None:
        self.best = best

    def on_epoch(self, record: Epoch) -> None:
        files.append(self.folder, record)
        self.save(Position(record.epoch, best=self.best))
        self.signals.check()
        if record.epoch % self.pictures == 0 and record.epoch < self.epochs:
            save_pictures(self.run, self.folder, record.epoch)

    def save(self, position: Position) -> None:
        """Write a checkpoint. What it replaces is removed.

        Weights that are lost are not written. ``fit`` says so at the latest after the epoch.
        """
        if not all(p.isfinite().all() for p in self.run.vae.parameters()):
            return
        checkpoint.save(self.folder, state_at(self.run, position))
        older.remove(self.folder)
        remove_failure(self.folder)
        self.saved = monotonic()

    def compile_time(self) -> str:
        """The end of a sentence: the seconds that compiling took; "" without compiling."""
        if len(self.compiling) < 2:
            return ""
        return f", of which {self.compiling[1] - self.compiling[0]:.0f} s to compile"


def save_pictures(run: Run, folder: Path, epoch: int, chosen: int | None = None) -> None:
    """Save reconstructions and samples of an epoch, for the same images and draws each time.

    Args:
        run: the run.
        folder: its folder.
        epoch: the epoch, which names the files.
        chosen: the epoch of the weights, where it is another one.
    """
    shown = f"epoch {chosen or epoch}"
    with torch.random.fork_rng():
        torch.manual_seed(run.training["seed"])
        few = run.shown()
        name = picture_of(epoch)
        with written(folder / "reconstructions" / name) as part:
            figures.save_reconstructions(run.vae, few, part, seed=run.training["seed"])
        with written(folder / "samples" / name) as part:
            if few.schema is not None:
                figures.save_marginals(run.vae, few, part, title=shown)
                return
            drawn, columns, caption = figures.prior_samples(run.vae, 144, few.context)
            (samples,) = figures.to_images(run.vae, drawn)
            figures.save_grid(samples, part, columns, f"{shown}: {caption}")


def picture_of(epoch: int) -> str:
    """The name of an epoch's pictures."""
    return f"epoch_{epoch:04d}.png"

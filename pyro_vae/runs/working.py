"""Begin, resume and train a run."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import torch
from rich.console import Console

from .. import checks, figures
from ..data import load_data
from ..errors import InputError, TrainingError
from ..history import Callback, CollapseWarning, Epoch, Position, collapsed
from ..progress import Bar
from ..storage import checkpoint
from ..storage.writing import remove_leftovers, written
from ..trackers import Tracker
from ..training import adam, fit
from ..words import counted
from . import folder as files
from . import older
from .config import refuse_links
from .failing import note_failure, remove_failure
from .images import check_source
from .resuming import check_sites, check_steps, refuse_other_data
from .setup import Run, built_objective
from .stopping import Signals


def begin(run: Run, folder: Path, compiled: bool | None = None) -> None:
    """Make a run's folder. After this call the run can be loaded and resumed.

    Args:
        run: a run that has not been trained.
        folder: the folder to make.
        compiled: whether steps are compiled; None leaves it to ``fit``.

    Raises:
        InputError: a folder that cannot be used, no test images, or no C++ compiler.
    """
    checks.check_data(run.data)
    if compiled:
        checks.check_compiler(next(run.vae.parameters()).device)
    run.checksum, run.compiled = run.data.checksum(), compiled
    config = {"vae": run.vae.config, "data": run.source, "training": run.training}
    files.create(folder, config, state_at(run, run.start))


def state_at(run: Run, position: Position) -> checkpoint.Checkpoint:
    """The checkpoint of a run at a position."""
    return checkpoint.state_of(run.vae, run.optimizer, position, run.checksum, run.compiled)


def resume(
    folder: Path,
    epochs: int | None,
    device: torch.device,
    data_dir: Path | None,
    trust: bool = False,
    *,
    compiled: bool | None = None,
    other_data: bool = False,
) -> Run:
    """A run as it stands at its checkpoint. Nothing is written yet.

    Args:
        folder: the run folder.
        epochs: epochs in total; None for the run's own number.
        device: where to train.
        data_dir: folder of downloaded data sets.
        trust: as for :func:`~pyro_vae.runs.folder.load_run`.
        compiled: whether steps are compiled; None for what the user said before.
        other_data: go on with images that are not those of before. The epoch that had begun then
            begins again.

    Raises:
        InputError: a run that already has this many epochs, other images, or a folder that cannot
            be read.
    """
    refuse_links(folder)
    vae, config = files.load_run(folder, device, trust=trust)
    if "training" not in config:
        raise InputError(
            f"{str(folder)!r} holds a VAE that was saved from Python, without what its training "
            "needs to go on; load it with pyro_vae.load() and train it with fit()"
        )
    training = config["training"]
    training["epochs"] = epochs or training["epochs"]
    history = files.read_history(folder)
    state = checkpoint.read(folder)
    done = len(history) if state is None else state.position.epoch
    trained = history[:done]
    if len(trained) < done or any(r.epoch != i for i, r in enumerate(trained, start=1)):
        raise InputError(
            f"{str(folder / files.METRICS)!r} does not hold the numbers of epochs 1 to {done}, "
            "which are trained; put the lines back in order"
        )
    if training["epochs"] < done or (training["epochs"] == done and finished(folder, done)):
        raise InputError(
            f"the run {str(folder)!r} already has {done} epochs; give --epochs a larger number"
        )
    if compiled:
        checks.check_compiler(device)
    check_source(config["data"]["name"])
    data = load_data(**config["data"], data_dir=data_dir).to(device)
    built_objective(training, data.train)
    check_sites(folder, trained, vae, data)
    source = folder / (checkpoint.NAME if state is not None else older.OPTIMIZER)
    if state is None:
        state = older.read(folder, vae, data, history, training)
    start, checksum = state.position, data.checksum()
    if state.data not in ("", checksum):
        refuse_other_data(config, list(data.shape), other_data)
        start = Position(start.epoch)
    check_steps(source, start, len(data.train), training["batch_size"])
    optimizer = adam(vae, training["lr"])
    checkpoint.load_optimizer(source, state, optimizer)
    compiled = state.compiled if compiled is None else compiled
    return Run(vae, data, config["data"], training, optimizer, start, checksum, compiled)


def train(
    run: Run,
    folder: Path,
    pictures: int,
    minutes: float,
    console: Console,
    signals: Signals,
    track: Sequence[type[Tracker]] = (),
) -> list[Epoch]:
    """Train to the end and show the progress.

    A checkpoint is written after each epoch, after every ``minutes`` minutes, and when a signal
    comes; pictures after every ``pictures`` epochs and after the last one. ``track`` are the
    trackers that are told.

    Raises:
        Stopped: a signal came. The checkpoint is that of the last step.
        TrainingError: the loss or a weight became NaN or infinite. The checkpoint is the last one
            before, and ``failed.json`` names the step.
    """
    remove_leftovers(folder)
    keeper = Keeper(run, folder, pictures, minutes, signals)
    epochs, batch_size = run.training["epochs"], run.training["batch_size"]
    bar = Bar(console, epochs, len(run.data.train), batch_size, run.start)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CollapseWarning)  # printed below, after the bar
            warnings.filterwarnings("ignore", "Encountered NaN")  # fit raises an error of it
            fit(
                run.vae,
                run.data,
                **run.training,
                compiled=run.compiled,
                optimizer=run.optimizer,
                start=run.start,
                callback=[keeper, *trackers_of(run, folder, pictures, track), bar],
                progress=False,  # the bar above is on the console of the command
            )
    except TrainingError as error:
        note_failure(folder, error, run.training["seed"])
        raise
    finally:
        signals.waiting = False
    signals.check()
    # Before anything is printed, so that a broken terminal or pipe does not lose them.
    history = files.read_history(folder)
    made = save_curves(history, folder)
    last = history[-1]
    save_pictures(run, folder, last.epoch)
    console.print(
        f"test ELBO {last.test_elbo:.2f} nats per image (reconstruction "
        f"{last.test_reconstruction:.2f}, KL {last.test_kl:.2f}) after "
        f"{counted(last.epoch, 'epoch')} in {sum(e.seconds for e in history):.0f} s"
        f"{keeper.compile_time()}"
    )
    for sentence in collapsed(last):
        console.print(sentence, style="yellow")
    for picture in (*made, f"reconstructions/{picture_of(last.epoch)}"):
        console.print(f"  {folder / picture}", soft_wrap=True)
    console.print(f"  {folder / 'samples' / picture_of(last.epoch)}", soft_wrap=True)
    return history


def trackers_of(
    run: Run, folder: Path, pictures: int, kinds: Sequence[type[Tracker]]
) -> list[Tracker]:
    """The trackers of a run."""
    options: dict[str, Any] = {
        "vae": run.vae,
        "images": run.data.test.first(4 * figures.COLUMNS),
        "config": {"data": run.source, "training": run.training},
        "every": pictures,
        "seed": run.training["seed"],
    }
    return [kind.of_run(folder, **options) for kind in kinds]


def picture_of(epoch: int) -> str:
    """The name of an epoch's pictures."""
    return f"epoch_{epoch:04d}.png"


def finished(folder: Path, epochs: int) -> bool:
    """Whether the last picture that a run of so many epochs makes is there."""
    return (folder / "samples" / picture_of(epochs)).is_file()


def save_curves(history: list[Epoch], folder: Path) -> list[str]:
    """Save the curves of a run; the names of the files."""
    curves = {"training.png": figures.training_curves(history)}
    if history[-1].kl_of_units:
        curves["kl.png"] = figures.kl_curves(history)
    for name, figure in curves.items():
        with written(folder / name) as part:
            figure.savefig(part, dpi=120)
    return list(curves)


class Keeper(Callback):
    """Writes a run's checkpoints, metrics and pictures while it trains.

    The arguments are those of :func:`train`.
    """

    def __init__(
        self, run: Run, folder: Path, pictures: int, minutes: float, signals: Signals
    ) -> None:
        self.run, self.folder, self.pictures, self.minutes = run, folder, pictures, minutes
        self.signals = signals
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
        if self.signals.number or monotonic() - self.saved > 60 * self.minutes:
            self.save(position)
        self.signals.check()

    def on_epoch(self, record: Epoch) -> None:
        files.append(self.folder, record)
        self.save(Position(record.epoch))
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


def save_pictures(run: Run, folder: Path, epoch: int) -> None:
    """Save reconstructions and samples of an epoch, for the same images and draws each time."""
    with torch.random.fork_rng():
        torch.manual_seed(run.training["seed"])
        few = run.data.test.first(4 * figures.COLUMNS)
        name = picture_of(epoch)
        with written(folder / "reconstructions" / name) as part:
            figures.save_reconstructions(run.vae, few, part, seed=run.training["seed"])
        with written(folder / "samples" / name) as part:
            caption = f"epoch {epoch}: means of p(x | z), z from the prior"
            (samples,) = figures.to_images(run.vae, run.vae.sample(144))
            figures.save_grid(samples, part, caption=caption)

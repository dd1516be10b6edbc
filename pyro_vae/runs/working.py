"""Begin, resume and train a run."""

from __future__ import annotations

import warnings
from pathlib import Path
from time import monotonic, perf_counter

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .. import checks, figures
from ..data import load_data
from ..errors import InputError, TrainingError
from ..history import Callback, CollapseWarning, Epoch, Position, collapsed
from ..storage import checkpoint
from ..storage.writing import remove_leftovers, written
from ..training import adam, fit
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
    run: Run, folder: Path, pictures: int, minutes: float, console: Console, signals: Signals
) -> list[Epoch]:
    """Train to the end and show the progress.

    A checkpoint is written after each epoch, after every ``minutes`` minutes, and when a signal
    comes; pictures after every ``pictures`` epochs and after the last one.

    Raises:
        Stopped: a signal came. The checkpoint is that of the last step.
        TrainingError: the loss or a weight became NaN or infinite. The checkpoint is the last one
            before, and ``failed.json`` names the step.
    """
    remove_leftovers(folder)
    progress = progress_bar(console)
    keeper = Keeper(run, folder, pictures, minutes, progress, signals)
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
                callback=keeper,
            )
    except TrainingError as error:
        note_failure(folder, error, run.training["seed"])
        raise
    finally:
        signals.waiting = False
        if progress.live.is_started:
            progress.stop()
    signals.check()
    # Before anything is printed, so that a broken terminal or pipe does not lose them.
    history = files.read_history(folder)
    made = save_curves(history, folder)
    last = history[-1]
    save_pictures(run, folder, last.epoch)
    console.print(
        f"test ELBO {last.test_elbo:.2f} nats per image (reconstruction "
        f"{last.test_reconstruction:.2f}, KL {last.test_kl:.2f}) after {last.epoch} epochs in "
        f"{sum(e.seconds for e in history):.0f} s{keeper.compile_time()}"
    )
    for sentence in collapsed(last):
        console.print(sentence, style="yellow")
    for picture in (*made, f"reconstructions/{picture_of(last.epoch)}"):
        console.print(f"  {folder / picture}", soft_wrap=True)
    console.print(f"  {folder / 'samples' / picture_of(last.epoch)}", soft_wrap=True)
    return history


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
    """Writes a run's checkpoints, metrics and pictures while it trains, and moves the progress bar.

    The arguments are those of :func:`train`.
    """

    def __init__(
        self,
        run: Run,
        folder: Path,
        pictures: int,
        minutes: float,
        progress: Progress,
        signals: Signals,
    ) -> None:
        self.run, self.folder, self.pictures, self.minutes = run, folder, pictures, minutes
        self.progress, self.signals = progress, signals
        self.epochs = run.training["epochs"]
        count, start = len(run.data.train), run.start
        batches = len(start.losses) * run.training["batch_size"]
        done = start.epoch * count + min(batches, count)
        self.task = progress.add_task("", total=self.epochs * count, completed=done)
        self.compiling: list[float] = []  # the times at which compiling began and ended

    def show(self, text: str) -> None:
        """Show a text before the bar, which appears with the first one."""
        self.progress.update(self.task, description=text)
        if not self.progress.live.is_started:
            self.progress.start()

    def on_compile(self) -> None:
        self.compiling.append(perf_counter())
        self.show("compiling a step takes some seconds")

    def on_start(self) -> None:
        """All that could be refused was refused, so the folder is changed from here on."""
        if self.compiling:
            self.compiling.append(perf_counter())
        files.write_metrics(self.folder, files.read_history(self.folder)[: self.run.start.epoch])
        files.set_epochs(self.folder, self.epochs)
        self.saved = monotonic()
        self.signals.waiting = True
        self.show(f"epoch {self.run.start.epoch + 1}/{self.epochs}")

    def on_step(self, images: int, position: Position) -> None:
        self.progress.advance(self.task, images)
        if self.signals.number or monotonic() - self.saved > 60 * self.minutes:
            self.save(position)
        self.signals.check()

    def on_epoch(self, record: Epoch) -> None:
        files.append(self.folder, record)
        self.save(Position(record.epoch))
        self.signals.check()
        self.show(
            f"epoch {record.epoch}/{self.epochs}, nats per image: "
            f"train {record.train_elbo:.2f}, test {record.test_elbo:.2f}"
        )
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


def progress_bar(console: Console) -> Progress:
    """A progress bar with a description, the percentage and the time that remains."""
    return Progress(
        TextColumn("{task.description}", markup=False),  # a name of a part may have brackets
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
        console=console,
    )


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
            figures.save_grid(run.vae.sample(144), part, caption=caption)

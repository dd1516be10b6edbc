"""Begin, resume and train a run."""

from __future__ import annotations

import warnings
from pathlib import Path
from time import perf_counter

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from .. import figures
from ..data import load_data
from ..errors import InputError
from ..history import Callback, CollapseWarning, Epoch, collapsed
from ..training import adam, fit
from . import folder as files
from .config import refuse_links
from .setup import Run, built_objective, check_source
from .writing import written


def begin(run: Run, folder: Path) -> None:
    """Make a run's folder. After this call the run can be loaded."""
    config = {"vae": run.vae.config, "data": run.source, "training": run.training}
    files.create(folder, config)
    files.save(folder, run.vae, run.optimizer)


def resume(
    folder: Path,
    epochs: int | None,
    device: torch.device,
    data_dir: Path | None,
    trust: bool = False,
) -> Run:
    """Continue a run after its last epoch.

    Args:
        folder: the run folder.
        epochs: epochs in total; None for the run's own number.
        device: where to train.
        data_dir: folder of downloaded data sets.
        trust: as for :func:`~pyro_vae.runs.folder.load_run`.

    Raises:
        InputError: a run that already has this many epochs, or a folder that cannot be read.
    """
    refuse_links(folder)
    vae, config = files.load_run(folder, device, trust=trust)
    training = config["training"]
    done = len(files.read_history(folder))
    training["epochs"] = epochs or training["epochs"]
    if training["epochs"] <= done:
        raise InputError(
            f"the run {str(folder)!r} already has {done} epochs; give --epochs a larger number"
        )
    optimizer = adam(vae, training["lr"])
    files.load_optimizer(folder, optimizer)
    check_source(config["data"]["name"])
    data = load_data(**config["data"], data_dir=data_dir).to(device)
    built_objective(training, data.train)
    files.write_config(folder, config)
    return Run(vae, data, config["data"], training, optimizer, done)


def train(
    run: Run, folder: Path, pictures: int, compiled: bool | None, console: Console
) -> list[Epoch]:
    """Train to the end and show the progress.

    Weights and metrics are written after each epoch, pictures after every ``pictures`` epochs and
    after the last one.
    """
    with progress_bar(console) as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)  # printed below, after the bar
        steps = (run.training["epochs"] - run.start) * len(run.data.train)
        keeper = Keeper(run, folder, pictures, progress, progress.add_task("", total=steps))
        fit(
            run.vae,
            run.data,
            **run.training,
            compiled=compiled,
            optimizer=run.optimizer,
            start=run.start,
            callback=keeper,
        )
        # Before anything is printed, so that a broken terminal or pipe does not lose them.
        history = files.read_history(folder)
        made = save_curves(history, folder)
    last = history[-1]
    console.print(
        f"test ELBO {last.test_elbo:.2f} nats per image (reconstruction "
        f"{last.test_reconstruction:.2f}, KL {last.test_kl:.2f}) after {last.epoch} epochs in "
        f"{sum(e.seconds for e in history):.0f} s{keeper.compile_time()}"
    )
    for sentence in collapsed(last):
        console.print(sentence, style="yellow")
    name = f"epoch_{last.epoch:04d}.png"
    for picture in (*made, f"reconstructions/{name}", f"samples/{name}"):
        console.print(f"  {folder / picture}", soft_wrap=True)
    return history


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
    """Writes a run's weights, metrics and pictures while it trains, and moves the progress bar."""

    def __init__(
        self, run: Run, folder: Path, pictures: int, progress: Progress, task: TaskID
    ) -> None:
        self.run, self.folder, self.pictures = run, folder, pictures
        self.progress, self.task = progress, task
        self.compiling: list[float] = []  # the times at which compiling began and ended
        self.epochs = run.training["epochs"]
        self.show(f"epoch {run.start + 1}/{self.epochs}")

    def show(self, text: str) -> None:
        self.progress.update(self.task, description=text)

    def on_compile(self) -> None:
        self.compiling.append(perf_counter())
        self.show("compiling a step takes some seconds")

    def on_step(self, images: int) -> None:
        self.progress.advance(self.task, images)
        if len(self.compiling) == 1:
            self.compiling.append(perf_counter())

    def on_epoch(self, record: Epoch) -> None:
        files.save(self.folder, self.run.vae, self.run.optimizer)
        files.append(self.folder, record)
        self.show(
            f"epoch {record.epoch}/{self.epochs}, nats per image: "
            f"train {record.train_elbo:.2f}, test {record.test_elbo:.2f}"
        )
        if record.epoch % self.pictures == 0 or record.epoch == self.epochs:
            save_pictures(self.run, self.folder, record.epoch)

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
        name = f"epoch_{epoch:04d}.png"
        with written(folder / "reconstructions" / name) as part:
            figures.save_reconstructions(run.vae, few, part, seed=run.training["seed"])
        with written(folder / "samples" / name) as part:
            caption = f"epoch {epoch}: means of p(x | z), z from the prior"
            figures.save_grid(run.vae.sample(144), part, caption=caption)

"""Begin, resume and train a run."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from .. import checks, figures
from ..data import Data
from ..errors import InputError, TrainingError
from ..history import Callback, CollapseWarning, Epoch, Position, collapsed
from ..pair import Pair
from ..patience import is_over
from ..progress import Bar
from ..ranks import Ranks
from ..settings import TrainingOptions
from ..storage import checkpoint
from ..storage.writing import remove_leftovers, written
from ..trackers import Tracker
from ..training import adam, begun, fit
from ..words import counted, word_of
from . import folder as files
from . import older
from .config import refuse_links
from .failing import note_failure
from .images import check_source, reopened
from .keeping import Follower, Keeper, picture_of, save_pictures, state_at
from .resuming import check_sites, check_steps, refuse_other_data
from .setup import NOT_STREAMED, Run, built_objective, placed
from .splits import checksums
from .stopping import Signals


def begin(run: Run, folder: Path, compiled: bool | None = None, ranks: Ranks | None = None) -> None:
    """Make a run's folder. After this call the run can be loaded and resumed.

    Args:
        run: a run that has not been trained.
        folder: the folder to make.
        compiled: whether steps are compiled; None leaves it to ``fit``.
        ranks: the processes of the training. The first one makes the folder.

    Raises:
        InputError: a folder that cannot be used, no training images, or no C++ compiler.
    """
    checks.check_data(run.data)
    if compiled:
        checks.check_compiler(next(run.vae.parameters()).device)
    run.checksum, run.compiled = run.data.checksum(), compiled
    if ranks is None or ranks.first:
        files.create(folder, config_of(run), state_at(run, run.start))


def refuse(run: Run, ranks: Ranks) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for what several processes cannot share.

    ``fit`` refuses it, too, but the folder of a new run is made before.
    """
    if ranks.size > 1:
        pair = Pair.of(run.vae)
        begun(pair, run.data, TrainingOptions(**run.training), run.optimizer, run.start)


def config_of(run: Run) -> dict[str, Any]:
    """What a run's folder holds of its settings."""
    return {"vae": run.vae.config, "data": run.source, "training": run.training}


def check_begun(run: Run, folder: Path) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` unless a folder holds a run like ``run``.

    It is then the run that torchrun began before it started the processes again. An equal run of
    somebody else ends in the same weights.
    """
    found = files.read_config(folder)
    wanted = json.loads(json.dumps(config_of(run)))
    if other := next((key for key in wanted if found.get(key) != wanted[key]), None):
        raise InputError(
            f"{str(folder)!r} holds a run with other settings ({other}); name another folder"
        )


def resume(
    folder: Path,
    epochs: int | None,
    device: torch.device,
    data_dir: Path | None,
    trust: bool = False,
    *,
    compiled: bool | None = None,
    other_data: bool = False,
    workers: int = 0,
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
        workers: how many processes read images that stay on disk.

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
    if workers and not config["data"].get("stream"):
        raise InputError(f"--workers read images that stay on disk, and {NOT_STREAMED}")
    best = None if state is None else state.position.best
    if best and is_over(done, best.epoch, training["patience"]) and finished(folder, done):
        raise InputError(
            f"the run {str(folder)!r} ended after {counted(done, 'epoch')}, because its validation "
            f"bound was not better than that of epoch {best.epoch} for {training['patience']}; "
            "begin another run with a larger --patience"
        )
    if state is not None and best:
        vae.load_state_dict(state.vae)  # training goes on from the last weights
    data = placed(reopened(config["data"], data_dir, workers=workers), device, vae)
    built_objective(training, data.train)
    check_sites(folder, trained, vae, data)
    source = folder / (checkpoint.NAME if state is not None else older.OPTIMIZER)
    if state is None:
        assert isinstance(data, Data)  # older versions had no others
        state = older.read(folder, vae, data, history, training)
    start, checksum = state.position, data.checksum()
    if state.data not in checksums(data):
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
    ranks: Ranks | None = None,
) -> list[Epoch]:
    """Train to the end and show the progress.

    A checkpoint is written after each epoch, after every ``minutes`` minutes, and when a signal
    comes; pictures after every ``pictures`` epochs and after the last one. ``track`` are the
    trackers that are told. Of several processes, ``ranks``, only the first writes and shows.

    Raises:
        Stopped: a signal came. The checkpoint is that of the last step.
        TrainingError: the loss or a weight became NaN or infinite. The checkpoint is the last one
            before, and ``failed.json`` names the step.
    """
    ranks = Ranks() if ranks is None else ranks
    keeper = Keeper(run, folder, pictures, minutes, signals)
    told: list[Callback] = [Follower(signals)]
    if ranks.first:
        remove_leftovers(folder)
        epochs, batch_size = run.training["epochs"], run.training["batch_size"]
        word = word_of(run.data.shape)
        bar = Bar(console, epochs, len(run.data.train), batch_size, run.start, word)
        told = [keeper, *trackers_of(run, folder, pictures, track), bar]
    signals.largest = ranks.largest
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CollapseWarning)  # printed below, after the bar
            warnings.filterwarnings("ignore", "Encountered NaN")  # fit raises an error of it
            fit(
                run.vae,
                run.measured_data(),
                **run.training,
                compiled=run.compiled,
                optimizer=run.optimizer,
                start=run.start,
                callback=told,
                progress=False,  # the bar above is on the console of the command
            )
    except TrainingError as error:
        if ranks.first:
            note_failure(folder, error, run.training["seed"])
        raise
    finally:
        signals.largest = Ranks().largest  # this process alone
    signals.waiting = False
    signals.check()
    if not ranks.first:
        return []
    # Before anything is printed, so that a broken terminal or pipe does not lose them.
    history = files.read_history(folder)
    made = save_curves(history, folder, word_of(run.vae.shape))
    last = history[-1]
    chosen = last if keeper.best is None else history[keeper.best.epoch - 1]
    save_pictures(run, folder, last.epoch, chosen.epoch)
    of_epoch = "" if keeper.best is None else f" of epoch {chosen.epoch}, the best,"
    console.print(
        f"{last.measured_on} ELBO {chosen.elbo:.2f} nats per {word_of(run.vae.shape)} "
        f"(reconstruction {chosen.reconstruction:.2f}, KL {chosen.kl:.2f}){of_epoch} after "
        f"{counted(last.epoch, 'epoch')} in {sum(e.seconds for e in history):.0f} s"
        f"{keeper.compile_time()}",
        soft_wrap=True,
    )
    for sentence in collapsed(chosen):
        console.print(sentence, style="yellow", soft_wrap=True)
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
        "images": run.shown(),
        "config": {"data": run.source, "training": run.training},
        "every": pictures,
        "seed": run.training["seed"],
    }
    return [kind.of_run(folder, **options) for kind in kinds]


def finished(folder: Path, epochs: int) -> bool:
    """Whether the last picture that a run of so many epochs makes is there."""
    return (folder / "samples" / picture_of(epochs)).is_file()


def save_curves(history: list[Epoch], folder: Path, word: str) -> list[str]:
    """Save the curves of a run, whose observations are called ``word``; the names of the files."""
    curves = {"training.png": figures.training_curves(history)}
    if history[-1].kl_of_units:
        curves["kl.png"] = figures.kl_curves(history)
    for name, figure in curves.items():
        figures.told_about(figure, word)
        with written(folder / name) as part:
            figure.savefig(part, dpi=120)
    return list(curves)

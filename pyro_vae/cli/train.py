"""The command `train`."""

from __future__ import annotations

import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError, RankError, TrainingError
from ..launch import restarts
from ..registry import own_classes
from ..runs.stopping import Signals, Stopped
from ..settings import Settings
from . import options as o
from .options import console
from .outputs import check_output, check_outside
from .values import place

PICTURES, MINUTES = 10, 10.0
"""The defaults of --pictures and --checkpoint-minutes."""


@o.with_settings()
def train(
    given: dict[str, Any],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            parser=place,
            help="The folder to make. Default: runs/DATA-1, -2, …",
            rich_help_panel="Run folder",
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            parser=place,
            help="Continue the run in this folder, to --epochs in total.",
            rich_help_panel="Run folder",
        ),
    ] = None,
    pictures: Annotated[
        int,
        typer.Option(
            metavar="N",
            help=f"Save pictures every N epochs. Default: {PICTURES}.",
            show_default=False,
            min=1,
            rich_help_panel="Run folder",
        ),
    ] = PICTURES,
    minutes: Annotated[
        float,
        typer.Option(
            "--checkpoint-minutes",
            metavar="X",
            help=f"Save within an epoch, too, every X minutes. Default: {MINUTES:g}.",
            show_default=False,
            rich_help_panel="Run folder",
        ),
    ] = MINUTES,
    track: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Also send it to tensorboard, mlflow or wandb. Repeatable.",
            rich_help_panel="Run folder",
        ),
    ] = None,
    other_data: Annotated[
        bool,
        typer.Option(
            "--other-data",
            help="With --resume: accept data that have changed.",
            rich_help_panel="Run folder",
        ),
    ] = False,
    replay: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Show what became NaN or infinite in a run that failed.",
            rich_help_panel="Run folder",
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="With --stream: read in N other processes. Default: 0.",
            show_default=False,
            min=0,
            rich_help_panel="Run",
        ),
    ] = 0,
    compiled: o.Compile = None,
    device: o.Device = "auto",
    trust: o.Trust = False,
    data_dir: o.DataDir = None,
) -> None:
    """Train a VAE and write a run folder: weights, config, metrics and pictures.

    `pyro-vae list` lists the names. A part may have options, "normal(scale=0.2)", or be a class of
    your own, mymodule:MyPrior. torchrun -m pyro_vae train … trains in several processes.
    """
    from .. import trackers
    from ..ranks import Ranks, joined
    from ..ranks.joining import local_device
    from ..runs import failing, setup, working
    from ..runs import folder as files
    from ..runs import replay as replaying
    from ..runs.locking import locked
    from ..runs.setup import Run
    from ..storage.creating import check_vacant

    if not 0 < minutes < float("inf"):
        raise InputError(f"--checkpoint-minutes is a number above 0, not {minutes}")
    if other_data and resume is None:
        raise InputError("--other-data belongs to --resume; --data names the data of a new run")
    tracked = trackers.chosen(track or [])
    named = {**given, **({"out": out} if out else {})}
    if replay is not None:
        refuse_settings("--replay", [*named, *(["resume"] if resume else [])])
        o.allow_classes_of(replay, trust)
        failure = failing.read_failure(replay)
        run = working.resume(replay, None, o.pick(device), data_dir, trust, compiled=compiled)
        for sentence in replaying.replay(run, failure):
            console.print(sentence, soft_wrap=True)
        return
    if trust and resume is None:
        raise InputError("--trust is for --resume; a class that you name yourself is imported")
    restarted, most = restarts()
    if most and not (resume or out):
        raise InputError(
            "torchrun --max-restarts goes on with the run in the folder --out, so give --out FOLDER"
        )
    folder = resume or out or setup.vacant_folder(given)
    place = o.pick(local_device(device))
    ranks = Ranks()

    def again() -> str:
        """The command that continues the run; "" if there is none yet."""
        if not (folder / files.CONFIG).is_file():
            return ""
        options = {
            "--epochs": given.get("epochs") if resume else None,
            "--pictures": None if pictures == PICTURES else pictures,
            "--checkpoint-minutes": None if minutes == MINUTES else minutes,
            "--workers": workers,
            "--device": None if device == "auto" else device,
            "--data-dir": data_dir,
        }
        words = [w for key, value in options.items() if value for w in (key, str(value))]
        words += [w for name in track or [] for w in ("--track", name)]
        words += ["--other-data"] if other_data else []
        words += ["--trust"] if trust or any(own_classes([*given.values()])) else []
        program = ["pyro-vae"]
        if ranks.size > 1:  # another number of processes would not give the same bits
            program = ["torchrun", "--nproc-per-node", str(ranks.size), "-m", "pyro_vae"]
        return shlex.join([*program, "train", "--resume", str(folder), *words])

    def advice() -> str:
        """The sentence that says how the run continues; "" if there is none yet."""
        command = again()
        return f"The run is in {folder}; continue it with: {command}" if command else ""

    def go_on() -> Run:
        """The run in the folder, where its checkpoint stands."""
        return working.resume(
            folder,
            given.get("epochs"),
            place,
            data_dir,
            trust or resume is None,  # a new run names the user's own classes
            compiled=compiled,
            other_data=other_data,
            workers=workers,
        )

    def train_on(run: Run) -> None:
        working.train(run, folder, pictures, minutes, console, signals, tracked, ranks)

    with Signals() as signals:
        try:
            with joined(place) as ranks:
                if ranks.watch is not None:
                    ranks.watch.advice = advice
                # The data is compared by its images: its place may be another one on each host.
                told = {k: v for k, v in vars(setup.settled(given)).items() if k != "data"}
                ranks.check_equal({"--resume": resume is not None, **told})
                lock = locked if ranks.first else nullcontext
                if resume is not None:
                    refuse_settings("--resume", [key for key in named if key != "epochs"])
                    o.allow_classes_of(folder, trust)  # before the lock would make the folder
                    if ranks.first:
                        check_output("--resume", folder)
                    with lock(folder):
                        train_on(go_on())
                    return
                begun = ranks.from_first(
                    lambda: restarted > 0 and (folder / files.CONFIG).is_file()
                )
                if ranks.first and not begun:
                    check_outside(folder, str(given.get("data", Settings.data)))
                    check_output("--out", folder)
                    check_vacant(folder)
                run = setup.prepare(given, place, data_dir, workers)
                if begun:
                    working.check_begun(run, folder)
                    with lock(folder):
                        train_on(go_on())
                    return
                if "recipe" in given:
                    console.print(setup.recipe_line(given), soft_wrap=True)
                if run.note:
                    console.print(run.note, soft_wrap=True)
                working.refuse(run, ranks)
                with lock(folder):
                    working.begin(run, folder, compiled, ranks)
                    train_on(run)
        except Stopped as stop:
            command = again()
            if not command:
                o.warn("Stopped. There is no run yet.")
            else:
                o.warn(f"Stopped. The run is in {folder}; continue it with: {command}")
            raise typer.Exit(stop.exit_code) from None
        except Exception as error:
            if ranks.watch is not None and not ranks.first:
                o.stderr.quiet = ranks.watch.told()
                o.warn(f"Process {ranks.rank} of 0 to {ranks.size - 1}:")
            if isinstance(error, TrainingError) and (folder / failing.NAME).is_file():
                replayed = shlex.join(["pyro-vae", "train", "--replay", str(folder)])
                o.warn(f"What went wrong in this step is shown by: {replayed}")
            # Of a step that failed, a resumed run would fail in the same step.
            midway = signals.waiting and ranks.first and not isinstance(error, TrainingError)
            if (midway or isinstance(error, RankError)) and (sentence := advice()):
                o.warn(sentence)
            raise


def refuse_settings(option: str, named: list[str]) -> None:
    """Refuse settings beside an option that works on a run with its own settings."""
    if named:
        listed = ", ".join(f"--{key.replace('_', '-')}" for key in named)
        but = "; --epochs can" if option == "--resume" else ""
        raise InputError(f"{option} takes the run's own settings, so {listed} cannot be given{but}")

"""The commands that train, `train` and `compare`, and the study `scales`."""

from __future__ import annotations

import os
import shlex
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError, TrainingError
from ..registry import own_classes, split_specs
from ..runs.stopping import Signals, Stopped
from ..settings import Settings
from . import options as o
from .options import console
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
            help="The run folder to make. Default: runs/DATA-1, -2, …",
            rich_help_panel="Run",
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            parser=place,
            help="Continue the run in this folder, to --epochs in total.",
            rich_help_panel="Run",
        ),
    ] = None,
    pictures: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Save pictures after every N epochs.",
            min=1,
            rich_help_panel="Run",
        ),
    ] = PICTURES,
    minutes: Annotated[
        float,
        typer.Option(
            "--checkpoint-minutes",
            metavar="X",
            help="Save a checkpoint every X minutes, and after each epoch.",
            rich_help_panel="Run",
        ),
    ] = MINUTES,
    other_data: Annotated[
        bool,
        typer.Option(
            "--other-data",
            help="With --resume: go on although the images are not those of before.",
            rich_help_panel="Run",
        ),
    ] = False,
    replay: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Show which site and which parameter became NaN or infinite in this run.",
            rich_help_panel="Run",
        ),
    ] = None,
    compiled: o.Compile = None,
    device: o.Device = "auto",
    trust: o.Trust = False,
    data_dir: o.DataDir = None,
) -> None:
    """Train a VAE and write a run folder: weights, config, metrics and pictures.

    A part is a name of `pyro-vae list`, with options if it has any: "normal(scale=0.2)"; or your
    own class: mymodule:MyPrior.
    """
    from ..runs import failing, setup, working
    from ..runs import folder as files
    from ..runs import replay as replaying
    from ..runs.config import specs
    from ..runs.locking import locked
    from ..storage.creating import check_vacant

    if not 0 < minutes < float("inf"):
        raise InputError(f"--checkpoint-minutes is a number above 0, not {minutes}")
    if other_data and resume is None:
        raise InputError("--other-data belongs to --resume; --data names the images of a new run")
    named = {**given, **({"out": out} if out else {})}
    if replay is not None:
        refuse_settings("--replay", [*named, *(["resume"] if resume else [])])
        if trust:
            o.allow_own_modules(specs(files.read_config(replay)))
        failure = failing.read_failure(replay)
        run = working.resume(replay, None, o.pick(device), data_dir, trust, compiled=compiled)
        for sentence in replaying.replay(run, failure):
            console.print(sentence, soft_wrap=True)
        return
    if trust and resume is None:
        raise InputError("--trust is for --resume; a class that you name yourself is imported")
    folder = resume or out or setup.vacant_folder(given)
    with Signals() as signals:
        try:
            if resume is not None:
                refuse_settings("--resume", [key for key in named if key != "epochs"])
                config = files.read_config(folder)  # before the lock would make the folder
                if trust:
                    o.allow_own_modules(specs(config))
                o.check_output("--resume", folder)
                with locked(folder):
                    run = working.resume(
                        folder,
                        given.get("epochs"),
                        o.pick(device),
                        data_dir,
                        trust,
                        compiled=compiled,
                        other_data=other_data,
                    )
                    working.train(run, folder, pictures, minutes, console, signals)
            else:
                o.check_outside(folder, str(given.get("data", Settings.data)))
                o.check_output("--out", folder)
                check_vacant(folder)
                run = setup.prepare(given, o.pick(device), data_dir)
                if "recipe" in given:
                    console.print(setup.recipe_line(given), soft_wrap=True)
                if run.note:
                    console.print(run.note, soft_wrap=True)
                with locked(folder):
                    working.begin(run, folder, compiled)
                    working.train(run, folder, pictures, minutes, console, signals)
        except Stopped as stop:
            if not (folder / files.CONFIG).is_file():
                o.warn("Stopped. There is no run yet.")
            else:
                options = {
                    "--epochs": given.get("epochs") if resume else None,
                    "--pictures": None if pictures == PICTURES else pictures,
                    "--checkpoint-minutes": None if minutes == MINUTES else minutes,
                    "--device": None if device == "auto" else device,
                    "--data-dir": data_dir,
                }
                words = [w for key, value in options.items() if value for w in (key, str(value))]
                words += ["--other-data"] if other_data else []
                words += ["--trust"] if trust or any(own_classes([*given.values()])) else []
                again = shlex.join(["pyro-vae", "train", "--resume", str(folder), *words])
                o.warn(f"Stopped. The run is in {folder}; continue it with: {again}")
            raise typer.Exit(stop.exit_code) from None
        except TrainingError:
            if (folder / failing.NAME).is_file():
                again = shlex.join(["pyro-vae", "train", "--replay", str(folder)])
                o.warn(f"What went wrong in this step is shown by: {again}")
            raise


def refuse_settings(option: str, named: list[str]) -> None:
    """Refuse settings beside an option that works on a run with its own settings."""
    if named:
        listed = ", ".join(f"--{key.replace('_', '-')}" for key in named)
        but = "; --epochs can" if option == "--resume" else ""
        raise InputError(f"{option} takes the run's own settings, so {listed} cannot be given{but}")


@o.with_settings("seed")
def compare(
    given: dict[str, Any],
    guides: Annotated[str | None, typer.Option(help="Guides, separated by commas.")] = None,
    priors: Annotated[str | None, typer.Option(help="Priors.")] = None,
    likelihoods: Annotated[str | None, typer.Option(help="Likelihoods.")] = None,
    objectives: Annotated[str | None, typer.Option(help="Objectives.")] = None,
    scales: Annotated[str | None, typer.Option(help="Scales.")] = None,
    recipes: Annotated[str | None, typer.Option(help="Recipes.")] = None,
    seeds: Annotated[int, typer.Option(help="Trainings of each VAE, with other seeds.", min=1)] = 3,
    samples: Annotated[
        int, typer.Option(help="Draws of z for each image to estimate log p(x).", min=1)
    ] = 200,
    gaps: Annotated[
        bool, typer.Option("--gaps", help="Measure the approximation and amortization gaps.")
    ] = False,
    gap_images: Annotated[
        int, typer.Option(help="Test images on which the gaps are measured.", min=1)
    ] = 200,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", parser=place, help="The folder to write.", rich_help_panel="Run"
        ),
    ] = Path("comparison"),
    compiled: o.Compile = None,
    device: o.Device = "auto",
    data_dir: o.DataDir = None,
) -> None:
    """Train several VAEs that differ in one setting, and write a table and a figure.

    Give one of --guides, --priors, --likelihoods, --objectives, --scales or --recipes. All other
    settings are the same for all VAEs.
    """
    varied = {
        "guide": guides,
        "prior": priors,
        "likelihood": likelihoods,
        "objective": objectives,
        "scale": scales,
        "recipe": recipes,
    }
    named = {key: split_specs(value) for key, value in varied.items() if value is not None}
    if len(named) != 1:
        raise InputError(
            "compare takes exactly one of --guides, --priors, --likelihoods, --objectives, "
            f"--scales and --recipes, not {len(named)} of them"
        )
    ((key, names),) = named.items()
    if key in given:
        raise InputError(f"--{key} and --{key}s cannot both be given")
    if os.path.lexists(out):
        raise InputError(f"--out {str(out)!r} already exists; name another folder")
    o.check_outside(out, str(given.get("data", Settings.data)))
    o.check_output("--out", out)
    o.allow_own_modules(names)

    from ..compare import compare as run_all
    from ..compare import markdown, write
    from ..runs.setup import settled
    from ..runs.working import progress_bar
    from ..storage.writing import written

    settings = {name: {**given, key: name} for name in names}
    progress = progress_bar(console)
    task = progress.add_task("", total=None)

    def on_start(name: str, seed: int, total: int) -> None:
        progress.start()  # not before, because settings that do not fit are refused first
        progress.update(task, description=f"{name}, seed {seed}", total=total)

    try:
        results = run_all(
            settings,
            seeds,
            device=o.pick(device),
            data_dir=data_dir,
            samples=samples,
            gap_images=gap_images if gaps else 0,
            compiled=compiled,
            on_start=on_start,
            on_step=lambda n: progress.advance(task, n),
        )
        protocol = {
            "varied": key,
            "settings": {name: asdict(settled(each)) for name, each in settings.items()},
            "seeds": seeds,
            "samples": samples,
        }
        # Before anything is printed, so that a broken terminal or pipe does not lose the results.
        with written(out) as part:
            write(results, protocol, part)
    finally:
        if progress.live.is_started:
            progress.stop()
    console.print(markdown(results), soft_wrap=True)
    console.print(f"  {out / 'comparison.png'}", soft_wrap=True)


def scales(
    seeds: Annotated[int, typer.Option(help="Repetitions, each with other seeds.", min=2)] = 5,
    quick: Annotated[
        bool, typer.Option("--quick", help="Take about a minute; the verdicts may be wrong.")
    ] = False,
    only: Annotated[
        str | None,
        typer.Option(help="Names of experiments, separated by commas. Default: all nine."),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", parser=place, help="The folder to write.")
    ] = Path("scales"),
) -> None:
    """Why log-variance? Measure nine claims about σ; write verdicts, figures and numbers."""
    from rich.progress import track

    from .. import log_variance_study

    o.check_output("--out", out)
    chosen = () if only is None else split_specs(only)
    progress = partial(track, console=console)
    verdicts = log_variance_study.run(out, quick=quick, seeds=seeds, only=chosen, track=progress)
    for line in log_variance_study.verdict_lines(verdicts, quick):
        console.print(line, markup=True)
    console.print(f"  {out / 'verdicts.md'}", soft_wrap=True)

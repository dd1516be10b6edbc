"""The commands that train several VAEs, `compare` and `scales`."""

from __future__ import annotations

import os
import shlex
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from ..registry import split_specs
from ..settings import Settings
from ..words import counted
from . import options as o
from .options import console
from .outputs import check_output, check_outside
from .values import duration, option_words


@o.with_settings("seed", "stream")
def compare(
    given: dict[str, Any],
    guides: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", help="Guides, separated by commas.", rich_help_panel="Comparison"
        ),
    ] = None,
    priors: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Priors.", rich_help_panel="Comparison")
    ] = None,
    likelihoods: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Likelihoods.", rich_help_panel="Comparison")
    ] = None,
    objectives: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Objectives.", rich_help_panel="Comparison")
    ] = None,
    scales: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Scales.", rich_help_panel="Comparison")
    ] = None,
    recipes: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Recipes.", rich_help_panel="Comparison")
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Trainings of each VAE, with other seeds.",
            min=1,
            rich_help_panel="Comparison",
        ),
    ] = 3,
    budget: Annotated[
        float | None,
        typer.Option(
            metavar="TIME",
            parser=duration,
            help="Train each for this time, 90s, 10m or 1.5h, in place of --epochs.",
            rich_help_panel="Comparison",
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Draws of z for each observation to estimate log p(x).",
            min=1,
            rich_help_panel="Comparison",
        ),
    ] = 200,
    gaps: Annotated[
        bool,
        typer.Option(
            "--gaps",
            help="Measure the approximation and amortization gaps.",
            rich_help_panel="Comparison",
        ),
    ] = False,
    gap_images: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Validation observations on which the gaps are measured.",
            min=1,
            rich_help_panel="Comparison",
        ),
    ] = 200,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", parser=o.place, help="The folder to write.", rich_help_panel="Run"
        ),
    ] = Path("comparison"),
    jobs: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Trainings at the same time, each in a process of its own.",
            min=1,
            rich_help_panel="Run",
        ),
    ] = 1,
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
    check_outside(out, str(given.get("data", Settings.data)))
    check_output("--out", out)
    o.allow_own_modules(names)

    from .. import comparison
    from ..compare import compare as run_all
    from ..progress import progress_bar
    from ..runs.setup import settled
    from ..storage.writing import written

    settings = {name: {**given, key: name} for name in names}
    trained = dict(settings)
    progress = progress_bar(console)
    task = progress.add_task("", total=None)

    def on_epochs(epochs: dict[str, int]) -> None:
        for name, n in epochs.items():
            trained[name] = {**settings[name], "epochs": n}
            console.print(f"{name}: {counted(n, 'epoch')} in {budget:g} seconds", soft_wrap=True)

    def on_start(name: str, seed: int, total: int) -> None:
        # Not before, because settings that do not fit are refused first.
        if console.is_interactive:
            progress.start()
        else:
            console.print(f"{name}, seed {seed}", soft_wrap=True)
        progress.update(task, description=f"{name}, seed {seed}", total=total)

    try:
        results, failures = run_all(
            settings,
            seeds,
            budget=budget,
            device=o.pick(device),
            data_dir=data_dir,
            samples=samples,
            gap_images=gap_images if gaps else 0,
            compiled=compiled,
            jobs=jobs,
            on_timing=lambda: console.print("Some epochs of each setting are timed first."),
            on_epochs=on_epochs,
            on_start=on_start,
            on_step=lambda n: progress.advance(task, n),
        )
        where = compiled, device, data_dir
        protocol = {
            "varied": key,
            "settings": {name: asdict(settled(each)) for name, each in trained.items()},
            "seeds": seeds,
            "samples": samples,
            "budget_seconds": budget,
            "commands": {
                name: [train_command({**each, "seed": seed}, *where) for seed in range(seeds)]
                for name, each in trained.items()
            },
        }
        # Before anything is printed, so that a broken terminal or pipe does not lose the results.
        if results:
            with written(out) as part:
                comparison.write(results, failures, protocol, part)
    finally:
        if progress.live.is_started:
            progress.stop()
    if results:
        if console.is_interactive:
            console.print(comparison.tables(results))
        else:
            console.print(comparison.markdown(results), soft_wrap=True)
        console.print(f"  {out / 'comparison.png'}", soft_wrap=True)
    for failure in failures:
        o.warn(f"{failure}.")
    if failures:
        raise typer.Exit(1)


def train_command(
    settings: dict[str, Any], compiled: bool | None, device: str, data_dir: Path | None
) -> str:
    """The command that repeats one training of a comparison."""
    words = option_words(settings)
    words += {None: [], True: ["--compile"], False: ["--no-compile"]}[compiled]
    words += ["--device", device] if device != "auto" else []
    words += ["--data-dir", str(data_dir)] if data_dir is not None else []
    return shlex.join(["pyro-vae", "train", *words])


def scales(
    seeds: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Repetitions, each with other seeds.",
            min=2,
            rich_help_panel="Experiments",
        ),
    ] = 5,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Take about a minute; the verdicts may be wrong.",
            rich_help_panel="Experiments",
        ),
    ] = False,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Names of experiments, separated by commas. Default: all nine.",
            rich_help_panel="Experiments",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", parser=o.place, help="The folder to write.", rich_help_panel="Output"
        ),
    ] = Path("scales"),
) -> None:
    """Measure nine claims about log-variance; write verdicts, figures and numbers."""
    from rich.progress import track

    from .. import log_variance_study

    check_output("--out", out)
    chosen = () if only is None else split_specs(only)
    progress = partial(track, console=console)
    verdicts = log_variance_study.run(out, quick=quick, seeds=seeds, only=chosen, track=progress)
    for line in log_variance_study.verdict_lines(verdicts, quick):
        console.print(line, markup=True)
    console.print(f"  {out / 'verdicts.md'}", soft_wrap=True)

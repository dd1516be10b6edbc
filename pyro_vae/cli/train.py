"""The commands that train: `train` one VAE, `compare` several; and `list`, what there is."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ..parts import InputError, split
from . import options as o
from .options import console


def train(
    data: o.Data = None,
    recipe: o.Recipe = None,
    binarize: o.Binarize = None,
    prior: o.Prior = None,
    likelihood: o.Likelihood = None,
    guide: o.Guide = None,
    scale: o.Scale = None,
    objective: o.Objective = None,
    latent: o.Latent = None,
    network: o.Network = None,
    hidden: o.Hidden = None,
    epochs: o.Epochs = None,
    batch_size: o.BatchSize = None,
    lr: o.LearningRate = None,
    precision: o.Precision = None,
    compiled: o.Compile = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the weights and of all noise.", show_default="0")
    ] = None,
    pictures: Annotated[int, typer.Option(help="Epochs between two sets of pictures.", min=1)] = 10,
    device: o.Device = "auto",
    data_dir: o.DataDir = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The run folder to make.", show_default="runs/DATA-1, -2, …"),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="A run folder to train on, to --epochs in all, with its own settings."),
    ] = None,
) -> None:
    """Train a VAE and leave a run folder: weights, config, metrics and pictures.

    A part is a name of `pyro-vae list`, with options where it has some: "normal(scale=0.2)"; or
    a class of your own: mymodule:MyPrior.
    """
    given = o.chosen(locals())
    from .. import checkpoints, runs

    if resume is not None:
        named = [key for key in (*given, *(["out"] if out else [])) if key != "epochs"]
        if named:
            listed = ", ".join(f"--{key.replace('_', '-')}" for key in named)
            raise InputError(
                f"--resume goes on with the run's own settings, so {listed} cannot be given; "
                "--epochs can"
            )
        run = runs.resume(resume, epochs, o.pick(device), data_dir)
        runs.train(run, resume, pictures, compiled, console)
        return
    folder = out or runs.vacant_folder(given)
    checkpoints.vacant(folder)
    run = runs.prepare(given, o.pick(device), data_dir)
    runs.begin(run, folder)
    runs.train(run, folder, pictures, compiled, console)


def compare(
    guides: Annotated[str | None, typer.Option(help="Guides, with commas between.")] = None,
    priors: Annotated[str | None, typer.Option(help="Priors.")] = None,
    likelihoods: Annotated[str | None, typer.Option(help="Likelihoods.")] = None,
    objectives: Annotated[str | None, typer.Option(help="Objectives.")] = None,
    scales: Annotated[str | None, typer.Option(help="Scales.")] = None,
    recipes: Annotated[str | None, typer.Option(help="Recipes.")] = None,
    seeds: Annotated[int, typer.Option(help="Trainings of each.", min=1)] = 3,
    samples: Annotated[
        int, typer.Option(help="Draws of z for each image, for log p̂(x).", min=1)
    ] = 200,
    gaps: Annotated[
        bool, typer.Option("--gaps", help="Measure the approximation and amortization gaps.")
    ] = False,
    gap_images: Annotated[
        int, typer.Option(help="Test images that the gaps are measured on.", min=1)
    ] = 200,
    data: o.Data = None,
    recipe: o.Recipe = None,
    binarize: o.Binarize = None,
    prior: o.Prior = None,
    likelihood: o.Likelihood = None,
    guide: o.Guide = None,
    scale: o.Scale = None,
    objective: o.Objective = None,
    latent: o.Latent = None,
    network: o.Network = None,
    hidden: o.Hidden = None,
    epochs: o.Epochs = None,
    batch_size: o.BatchSize = None,
    lr: o.LearningRate = None,
    precision: o.Precision = None,
    compiled: o.Compile = None,
    device: o.Device = "auto",
    data_dir: o.DataDir = None,
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("comparison"),
) -> None:
    """Train several VAEs that differ in one setting, and leave a table and a figure.

    Give one of --guides, --priors, --likelihoods, --objectives, --scales or --recipes; all other
    settings are the same for all.
    """
    given = o.chosen(locals())
    varied = {
        "guide": guides,
        "prior": priors,
        "likelihood": likelihoods,
        "objective": objectives,
        "scale": scales,
        "recipe": recipes,
    }
    named = {key: split(value) for key, value in varied.items() if value is not None}
    if len(named) != 1:
        raise InputError(
            "compare takes exactly one of --guides, --priors, --likelihoods, --objectives, "
            f"--scales and --recipes, not {len(named)} of them"
        )
    ((key, names),) = named.items()
    if key in given:
        raise InputError(f"--{key} and --{key}s cannot both be given")
    if out.exists():
        raise InputError(f"--out {str(out)!r} is there already; name another folder")

    from ..compare import compare as run_all
    from ..compare import markdown, write
    from ..runs import DEFAULTS, progress_bar

    settings = {name: {**given, key: name} for name in names}
    with progress_bar(console) as progress:
        task = progress.add_task("", total=None)

        def on_start(name: str, seed: int, total: int) -> None:
            progress.update(task, description=f"{name}, seed {seed}", total=total)

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
        "settings": {name: DEFAULTS | each for name, each in settings.items()},
        "seeds": seeds,
        "samples": samples,
    }
    write(results, protocol, out)
    console.print(markdown(results), soft_wrap=True)
    console.print(f"  {out / 'comparison.png'}", soft_wrap=True)


def scales(
    seeds: Annotated[int, typer.Option(help="Repetitions of what is random.", min=2)] = 5,
    quick: Annotated[
        bool, typer.Option("--quick", help="About a minute; its verdicts are worth little.")
    ] = False,
    only: Annotated[
        str | None,
        typer.Option(help="Experiments by name, with commas between.", show_default="all nine"),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("scales"),
) -> None:
    """Why log-variance? Measure nine claims about σ, and leave verdicts, figures and numbers."""
    from rich.progress import track

    from .. import log_variance_study

    chosen = split(only) if only else ()
    progress = partial(track, console=console)
    verdicts = log_variance_study.run(out, quick=quick, seeds=seeds, only=chosen, track=progress)
    for line in log_variance_study.verdict_lines(verdicts, quick):
        console.print(line)
    console.print(f"  {out / 'verdicts.md'}", soft_wrap=True)


def list_parts(
    kind: Annotated[
        str | None, typer.Argument(help="One kind alone: data, priors, guides, …")
    ] = None,
) -> None:
    """List the data sets, parts, networks and recipes that there are, each with a line."""
    from ..parts import lookup
    from ..runs import tables

    every = tables()
    wanted = every if kind is None else {kind: lookup("kind", kind, every)}
    for title, rows in wanted.items():
        table = Table(title=title, title_justify="left", title_style="bold", box=None)
        table.add_column(style="cyan", no_wrap=True)
        table.add_column()
        for name, line in rows.items():
            table.add_row(name, line)
        console.print(table)

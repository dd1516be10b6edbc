"""The commands that encode with a run and measure it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ..errors import InputError
from ..storage.writing import written
from ..words import counted, plus_minus
from . import options as o
from .draw import batch
from .options import console
from .values import filled, place


def encode(
    run: o.Run,
    data: o.OtherData = None,
    split: o.Which = o.Split.all,
    out: Annotated[
        Path, typer.Option(metavar="FILE", parser=place, help="The .npz file to write.")
    ] = Path("latents.npz"),
    seed: o.Seed = 0,
    device: o.Device = "auto",
    trust: o.Trust = False,
    data_dir: o.DataDir = None,
) -> None:
    """Write the posterior's μ and σ of each image: arrays `loc` and `scale`, [N, Z], and `labels`
    and `files` if the images have them."""
    import numpy as np

    from ..evaluation.latents import encode_images

    o.check_output("--out", out, [".npz"])
    vae, config = o.opened(run, device, seed, trust)
    images = o.images_of(config, data, split, data_dir, device)
    arrays: dict[str, Any] = encode_images(vae, images, seed)
    with written(out) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)
    console.print(f"μ and σ of {counted(len(images), 'image')} in {out}")


def evaluate(
    run: o.Run,
    samples: Annotated[
        int, typer.Option(help="Draws of z for each image to estimate log p(x).", min=1)
    ] = 1000,
    gaps: Annotated[
        bool, typer.Option("--gaps", help="Measure the approximation and amortization gaps.")
    ] = False,
    gap_images: Annotated[
        int, typer.Option(help="Images on which the gaps are measured.", min=1)
    ] = 100,
    annealed: Annotated[
        int,
        typer.Option(help="Images whose log p(x) is also estimated by annealing (slow).", min=0),
    ] = 0,
    probe: Annotated[
        bool, typer.Option("--probe", help="Measure how well the latents predict the labels.")
    ] = False,
    binarize: Annotated[
        str | None,
        typer.Option(
            help="Evaluate under another binarisation; needs --other-protocol. Default: the run's.",
            callback=filled("--binarize"),
        ),
    ] = None,
    other_protocol: Annotated[
        bool,
        typer.Option("--other-protocol", help="Accept another binarisation, and mark the result."),
    ] = False,
    data: o.OtherData = None,
    split: o.Which = o.Split.test,
    pictures: Annotated[
        Path | None,
        typer.Option(
            "--figures", metavar="FOLDER", parser=place, help="Also write figures to this folder."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    trust: o.Trust = False,
    data_dir: o.DataDir = None,
) -> None:
    """Measure a run, in nats per image: the ELBO with the Monte Carlo and with the analytic KL,
    log p(x) by importance sampling, rate and distortion, and the information in the latents."""
    from ..progress import reporting
    from ..report import table as report

    if pictures is not None:
        o.check_output("--figures", pictures)
    vae, config = o.opened(run, device, seed, trust)
    trained = config["data"]["binarize"]
    if config["data"]["name"] is None:  # nobody knows the protocol of its training
        trained = binarize or trained
    used, mark = report.choose_binarization(trained, binarize, anyway=other_protocol)
    config["data"]["binarize"] = used
    if used != trained:
        config["checksum"] = ""  # that of the pixels under the other protocol
    images = o.images_of(config, data, split, data_dir, device)
    labelled = o.images_of(config, data, o.Split.train, data_dir, device) if probe else None
    if labelled is not None and labelled.labels is None:
        raise InputError("--probe predicts the labels of images, and these images have none")
    source: dict[str, Any] = {
        "run": str(run),
        "data": data or config["data"]["name"],
        "split": split.value,
    }
    result = source | report.bounds(vae, images, seed)
    results = nullcontext() if pictures is None else written(pictures)
    with results as part, reporting(o.stderr) as progress:
        result |= report.evaluate(
            vae,
            images,
            train=labelled,
            samples=samples,
            gap_images=gap_images if gaps else 0,
            annealed_images=annealed,
            seed=seed,
            figures=part,
            title=f"{Path(source['data']).name}, {split.value} images, {used} binarisation",
            progress=progress,
        )
    if mark is not None:
        result["mark"] = mark
    if as_json:
        print(json.dumps(result, indent=2, allow_nan=False))  # no line breaks by the console
        return
    two = Table("nats per image", "Monte Carlo", "analytic KL", box=None, header_style="bold")
    for name in ("elbo", "reconstruction", "kl"):
        ways = [result[way] for way in ("monte_carlo", "analytic")]
        cells = [plus_minus(w[name], w[f"{name}_error"]) if w else "none" for w in ways]
        two.add_row(name, *cells)
    console.print(two)
    rest = Table(box=None, show_header=False)
    for line in lines(result):
        rest.add_row(*line)
    console.print(rest)
    console.print(
        f"means over {counted(len(images), f'{split.value} image')} of {source['data']}, {used} "
        f"binarisation, ± one standard error; log p(x) is estimated with "
        f"{counted(samples, 'draw')} of z"
    )
    if warning := result["prior_gap"].get("warning"):
        o.warn(f"Warning: {warning}.")
    if mark is not None:
        console.print(f"not comparable: {mark}", style="bold")


NESTED = (
    "active_units",
    "rate_of_sites",
    "curve",
    "trust",
    "aggregate",
    "prior_gap",
    "accuracy",
    "gaps",
    "annealed",
)


def lines(result: dict[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    """A row for each number of a report. A measure that is undefined says why."""
    for key, value in result.items():
        if key == "warning":  # printed as a sentence of its own
            continue
        site = within.startswith(("active units", "rate of sites", "prior gap"))
        name = f"{within}{key if site else key.replace('_', ' ')}"
        if isinstance(value, dict) and "why" in value:
            yield name, f"undefined: {value['why']}"
        elif isinstance(value, dict) and "mean" in value:
            yield name, plus_minus(value["mean"], value["error"], 3)
        elif isinstance(value, dict) and "count" in value:
            yield name, f"{value['count']} of {value['of']}"
        elif key in NESTED:
            yield from lines(value, f"{name}: ")
        elif within and value is not None:
            yield name, f"{value:.3f}" if isinstance(value, float) else str(value)


def audit(
    run: o.Run,
    data: o.OtherData = None,
    split: o.Which = o.Split.test,
    n: Annotated[int, typer.Option(help="Number of images.", min=1)] = 100,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    trust: o.Trust = False,
    data_dir: o.DataDir = None,
) -> None:
    """Show every site of the model and the guide: distributions, shapes, log p, log q, the KL, and
    whether this KL is analytic. A mistake that makes a bound wrong is an error."""
    from ..audit import audit as audited
    from ..audit import table
    from ..runs.setup import built_objective

    vae, config = o.opened(run, device, seed, trust)
    objective = None
    if "training" in config:
        trained = o.images_of(config, None, o.Split.train, data_dir, device)
        objective = built_objective(config["training"] | {"batch_size": n}, trained)
    x = batch(o.images_of(config, data, split, data_dir, device), n, seed)
    console.print(table(audited(vae, x, objective=objective)))


def score(
    run: o.Run,
    data: o.OtherData = None,
    split: o.Which = o.Split.all,
    samples: Annotated[int, typer.Option(help="Draws of z for each image.", min=1)] = 1000,
    out: Annotated[
        Path, typer.Option(metavar="FILE", parser=place, help="The .csv file to write.")
    ] = Path("scores.csv"),
    seed: o.Seed = 0,
    device: o.Device = "auto",
    trust: o.Trust = False,
    data_dir: o.DataDir = None,
) -> None:
    """Rank images by their estimated log p(x) in nats: one line each, the most unusual first, with
    file name and standard error."""
    from ..evaluation.importance import importance
    from ..evaluation.scores import write_scores
    from ..progress import reporting

    o.check_output("--out", out, [".csv"])
    vae, config = o.opened(run, device, seed, trust)
    images = o.images_of(config, data, split, data_dir, device)
    with reporting(o.stderr) as progress:
        result = importance(
            vae.model, vae.guide, images, samples=samples, seed=seed, progress=progress
        )
    with written(out) as part:
        write_scores(part, images, result)
    console.print(
        f"estimated log p(x) of {counted(len(images), 'image')} in {out}: mean "
        f"{plus_minus(result.mean, result.standard_error)} nats; {result.untrusted_share:.1%} of "
        "the estimates are unreliable (column `trusted`)"
    )

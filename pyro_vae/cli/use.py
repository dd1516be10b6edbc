"""The commands that use a run: look at it, draw from it, measure it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..errors import InputError
from . import options as o
from .options import console

if TYPE_CHECKING:
    import torch

    from ..data.images import Images


def sample(
    run: o.Run,
    n: Annotated[int, typer.Option(help="Images.", min=1)] = 144,
    vary: Annotated[
        str | None,
        typer.Option(
            help="A latent layer to vary, such as z_2: a row of images has one draw of the layers "
            "above it, and the layers below are at their mean.",
            show_default="all are drawn",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("samples.png"),
    seed: o.Seed = 0,
    device: o.Device = "auto",
) -> None:
    """Draw images from the prior: the decoder's mean for each draw of z."""
    from .. import figures

    vae, _ = o.opened(run, device, seed)
    if vary is None:
        figures.save_grid(vae.sample(n), out)
        console.print(f"{n} samples in {out}")
        return
    columns = min(n, figures.COLUMNS)
    rows = n // columns
    figures.save_grid(figures.vary(vae, vary, rows, columns), out, columns)
    console.print(f"{rows} rows of {columns} samples that differ in {vary}, in {out}")


def reconstruct(
    run: o.Run,
    n: Annotated[int, typer.Option(help="Images.", min=1)] = 48,
    data: o.OtherData = None,
    split: o.Which = o.Split.test,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("recon.png"),
    seed: o.Seed = 0,
    device: o.Device = "auto",
    data_dir: o.DataDir = None,
) -> None:
    """Put images above their reconstructions, through the guide and the model."""
    from ..figures import pairs, save_grid

    vae, config = o.opened(run, device, seed)
    x = batch(o.images_of(config, data, split, data_dir, device), n, seed)
    save_grid(pairs(x, vae.reconstruct(x)), out)
    console.print(f"{len(x)} images above their reconstructions in {out}")


def interpolate(
    run: o.Run,
    first: Annotated[int, typer.Option(help="Number of the image to start at, from 0.")] = 0,
    last: Annotated[int, typer.Option(help="Number of the image to end at, from 0.")] = 1,
    steps: Annotated[int, typer.Option(help="Images on the way, both ends included.")] = 12,
    data: o.OtherData = None,
    split: o.Which = o.Split.test,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("path.png"),
    seed: o.Seed = 0,
    device: o.Device = "auto",
    data_dir: o.DataDir = None,
) -> None:
    """Walk on a straight line in the latent space from one image to another."""
    from ..figures import save_grid

    vae, config = o.opened(run, device, seed)
    images = o.images_of(config, data, split, data_dir, device)
    for option, index in (("--first", first), ("--last", last)):
        if not 0 <= index < len(images):
            raise InputError(f"{option} {index} is no image: there are 0 to {len(images) - 1}")
    a, b = batch(images, max(first, last) + 1, seed)[[first, last]]
    save_grid(vae.interpolate(a, b, steps), out, columns=steps)
    console.print(f"{steps} steps from image {first} to image {last} in {out}")


def encode(
    run: o.Run,
    data: o.OtherData = None,
    split: o.Which = o.Split.all,
    out: Annotated[Path, typer.Option(help="The array file to write.")] = Path("latents.npz"),
    seed: o.Seed = 0,
    device: o.Device = "auto",
    data_dir: o.DataDir = None,
) -> None:
    """Write the posterior's μ and σ for each image: arrays `loc` and `scale`, [N, Z]; `labels`
    and `files` where there are some."""
    import numpy as np

    from ..evaluation.latents import encode_images

    vae, config = o.opened(run, device, seed)
    images = o.images_of(config, data, split, data_dir, device)
    arrays: dict[str, Any] = encode_images(vae, images, seed)
    np.savez_compressed(out, **arrays)
    console.print(f"μ and σ of {len(images)} images in {out}")


def evaluate(
    run: o.Run,
    samples: Annotated[
        int, typer.Option(help="Draws of z for each image, for log p̂(x).", min=1)
    ] = 1000,
    gaps: Annotated[
        bool, typer.Option("--gaps", help="Measure the approximation and amortization gaps.")
    ] = False,
    gap_images: Annotated[
        int, typer.Option(help="Test images that the gaps are measured on.", min=1)
    ] = 100,
    annealed: Annotated[
        int, typer.Option(help="Images to anneal for a tighter log p̂(x) (slow).", min=0)
    ] = 0,
    probe: Annotated[
        bool, typer.Option("--probe", help="Measure how well labels are read off the latents.")
    ] = False,
    binarize: Annotated[
        str | None,
        typer.Option(help="Another binarisation than the run's.", show_default="the run's own"),
    ] = None,
    other_protocol: Annotated[
        bool, typer.Option("--other-protocol", help="Evaluate under it all the same, marked.")
    ] = False,
    data: o.OtherData = None,
    split: o.Which = o.Split.test,
    pictures: Annotated[
        Path | None,
        typer.Option("--figures", help="A folder to draw the figures of the evaluation in."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of tables.")] = False,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    data_dir: o.DataDir = None,
) -> None:
    """Measure a run: the ELBO by the Monte Carlo and the analytic KL side by side, log p̂(x) by
    importance sampling, rate and distortion, what the latents carry; nats per image."""
    from ..evaluation import report

    vae, config = o.opened(run, device, seed)
    used, mark = report.protocol(config["data"]["binarize"], binarize, anyway=other_protocol)
    config["data"]["binarize"] = used
    images = o.images_of(config, data, split, data_dir, device)
    labelled = o.images_of(config, data, o.Split.train, data_dir, device) if probe else None
    if labelled is not None and labelled.labels is None:
        raise InputError("--probe reads labels off the latents, and these images have none")
    source: dict[str, Any] = {
        "run": str(run),
        "data": data or config["data"]["name"],
        "split": split.value,
    }
    result = source | report.bounds(vae, images, seed)
    result |= report.evaluate(
        vae,
        images,
        train=labelled,
        samples=samples,
        gap_images=gap_images if gaps else 0,
        annealed_images=annealed,
        seed=seed,
        figures=pictures,
    )
    if mark is not None:
        result["mark"] = mark
    if as_json:
        print(json.dumps(result, indent=2, allow_nan=False))
        return
    two = Table("nats per image", "Monte Carlo", "analytic KL", box=None, header_style="bold")
    for name in ("elbo", "reconstruction", "kl"):
        ways = [result[way] for way in ("monte_carlo", "analytic")]
        cells = [f"{w[name]:.2f} ± {w[f'{name}_error']:.2f}" if w else "none" for w in ways]
        two.add_row(name, *cells)
    console.print(two)
    rest = Table(box=None, show_header=False)
    for line in lines(result):
        rest.add_row(*line)
    console.print(rest)
    console.print(
        f"means over {len(images)} {split.value} images of {source['data']}, {used} binarisation, "
        f"± one standard error; log p̂(x) with {samples} draws of z"
    )
    if mark is not None:
        console.print(f"[bold]not comparable:[/] {mark}")


NESTED = (
    "active_units",
    "rate_of_sites",
    "curve",
    "trust",
    "aggregate",
    "accuracy",
    "gaps",
    "annealed",
)


def lines(result: dict[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    """A row for each number of a report; what is not defined tells why."""
    for key, value in result.items():
        site = within.startswith(("active units", "rate of sites"))
        name = f"{within}{key if site else key.replace('_', ' ')}"
        if isinstance(value, dict) and "why" in value:
            yield name, f"none: {value['why']}"
        elif isinstance(value, dict) and "mean" in value:
            error = value["error"]
            yield name, f"{value['mean']:.3f}" + ("" if error is None else f" ± {error:.3f}")
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
    n: Annotated[int, typer.Option(help="Images to run it on.", min=1)] = 100,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    data_dir: o.DataDir = None,
) -> None:
    """Show every site of the model and the guide: distributions, shapes, log p, log q and KL, and
    whether that KL is analytic; what would make a bound wrong is an error."""
    from ..audit import audit as audited
    from ..audit import table
    from ..objectives import OBJECTIVES

    vae, config = o.opened(run, device, seed)
    trained = o.images_of(config, None, o.Split.train, data_dir, device)
    spec = config["training"]["objective"]
    objective = OBJECTIVES.build(spec, data_size=len(trained))
    x = batch(o.images_of(config, data, split, data_dir, device), n, seed)
    console.print(table(audited(vae, x, objective=objective)))


def score(
    run: o.Run,
    data: o.OtherData = None,
    split: o.Which = o.Split.all,
    samples: Annotated[int, typer.Option(help="Draws of z for each image.", min=1)] = 1000,
    out: Annotated[Path, typer.Option(help="The table to write.")] = Path("scores.csv"),
    seed: o.Seed = 0,
    device: o.Device = "auto",
    data_dir: o.DataDir = None,
) -> None:
    """Rank images by log p̂(x): a line for each, the most unusual first, with its file name and
    standard error, in nats."""
    from ..evaluation.importance import importance
    from ..evaluation.report import write_scores

    vae, config = o.opened(run, device, seed)
    images = o.images_of(config, data, split, data_dir, device)
    result = importance(vae.model, vae.guide, images, samples=samples, seed=seed)
    write_scores(out, images, result)
    console.print(
        f"log p̂(x) of {len(images)} images in {out}: mean {result.mean:.2f} ± "
        f"{result.standard_error:.2f} nats; {result.untrusted_share:.1%} are not to be trusted "
        "(column `trusted`)"
    )


def batch(images: Images, n: int, seed: int) -> torch.Tensor:
    """The first ``n`` images, ``[n, C, H, W]``, their binarisation drawn with ``seed``."""
    import torch

    return images.batch(slice(0, n), torch.Generator().manual_seed(seed))

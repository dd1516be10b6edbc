"""The commands that draw pictures with a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from ..memory import check_memory
from ..storage.writing import written
from ..words import counted
from . import options as o
from .options import console
from .outputs import check_output
from .rows import sample_table
from .values import place

if TYPE_CHECKING:
    import torch

    from ..batch import Batch
    from ..data.images import Images
    from ..vae import VAE

TABLES = (".csv", ".tsv", ".parquet")
"""The endings of tables that are written."""

Picture = Annotated[
    Path,
    typer.Option(
        metavar="FILE", parser=place, help="The picture to write.", rich_help_panel="Output"
    ),
]
Count = Annotated[
    int, typer.Option(metavar="N", help="Number of observations.", min=1, rich_help_panel="Data")
]


def sample(
    run: o.Run,
    n: Count = 144,
    vary: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Vary one latent layer, such as z_2: the images of a row share one draw of the "
            "layers above it, and the layers below are at their mean. Default: draw all layers.",
            rich_help_panel="Data",
        ),
    ] = None,
    given: o.Given = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=place,
            help="The picture to write, a .npy file with the numbers or, of a table, a .csv, .tsv "
            "or .parquet file. Default: samples.png, of a table samples.csv.",
            show_default=False,
            rich_help_panel="Output",
        ),
    ] = None,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    trust: o.Trust = False,
) -> None:
    """Draw images or other observations from the prior: the decoder's mean for each draw of z.

    The rows of a table are draws of p(x), with the names and types of its columns. A run with
    classes draws a row of images for each class, or --n of the class --given; of a table as many
    rows for each class, with their label.
    """
    import numpy as np

    from .. import figures

    if out is not None:
        check_output("--out", out, (*o.PICTURES, ".npy", *TABLES))
    vae, config = o.opened(run, device, seed, trust)
    table = config["data"].get("schema")
    if out is None:
        out = Path("samples.csv" if table else "samples.png")
        check_output("--out", out)
    condition = vae.model.condition
    covariates = condition is not None and condition.classes is None and not vae.infers_y
    if out.suffix.lower() in TABLES:
        check_given(vae, given, needed=covariates)
        sample_table(vae, config["data"], n, vary, out, given)
        return
    if table and out.suffix.lower() in o.PICTURES:
        raise InputError(
            f"--out {str(out)!r} is a picture of images, and the run was trained on a table; give "
            "a .csv, .tsv or .parquet file for rows, or a .npy file for means"
        )
    check_grid("--n", n, vae.shape)
    check_given(vae, given, needed=vary is not None or covariates)
    columns = min(n, figures.COLUMNS)
    rows = n // columns
    if vary is None and given is None:
        images, across, caption = figures.prior_samples(vae, n)
        columns = min(columns, across)
        said = f"{counted(len(images), 'sample')} in {out}"
    elif vary is None:
        images, said = vae.sample(n, given=given), f"{counted(n, 'sample')} of {given} in {out}"
        caption = f"means of p(x | z, {given}), z from the prior"
    else:
        images = figures.vary(vae, vary, rows, columns, given)
        shown = f"{counted(rows, 'row')} of {counted(columns, 'sample')}"
        said = f"{shown} that differ in {vary}, in {out}"
        top = vary == figures.latent_names(vae)[0]
        caption = (
            f"draws of {vary}, the top layer"
            if top
            else f"each row has one draw of the layers above {vary}; {vary} varies"
        )
    if out.suffix.lower() == ".npy":
        with written(out) as part, part.open("wb") as file:
            np.save(file, images.cpu().numpy())
    else:
        save(vae, images, out, columns, caption)
    console.print(said, soft_wrap=True)


def reconstruct(
    run: o.Run,
    n: Count = 48,
    given: o.Given = None,
    data: o.OtherData = None,
    split: o.Which = o.Split.test,
    out: Picture = Path("recon.png"),
    seed: o.Seed = 0,
    device: o.Device = "auto",
    trust: o.Trust = False,
    data_dir: o.DataDir = None,
) -> None:
    """Put images above their reconstructions, which go through the guide and the model.

    With --given, they are decoded as this class: the class changes, and the rest stays.
    """
    from ..figures import save_reconstructions

    check_output("--out", out, o.PICTURES)
    vae, config = o.opened(run, device, seed, trust)
    images = o.images_of(config, data, split, data_dir, device)
    table = images.schema is not None
    if config["data"].get("schema") and not table:
        raise InputError(
            f"the run was trained on a table, and --data {data!r} is not one; give a .csv, .tsv or "
            ".parquet file, or take encode --out latents.npz for the latents of an array"
        )
    images = images.first(n)
    check_grid("--n", 3 * len(images), vae.shape)
    check_given(vae, given)
    with picture(out) as part:
        save_reconstructions(vae, images, part, given=given, seed=seed)
    said = f"{counted(len(images), 'image')} above the reconstructions in {out}"
    if table:
        rows = counted(len(images), "row")
        said = (
            f"how often each column has which values, in {rows} and the reconstructions, in {out}"
        )
    console.print(said, soft_wrap=True)


def interpolate(
    run: o.Run,
    first: Annotated[
        int,
        typer.Option(metavar="N", help="Index of the first image, from 0.", rich_help_panel="Data"),
    ] = 0,
    last: Annotated[
        int,
        typer.Option(metavar="N", help="Index of the last image, from 0.", rich_help_panel="Data"),
    ] = 1,
    steps: Annotated[
        int,
        typer.Option(
            metavar="N", help="Number of images, both ends included.", rich_help_panel="Data"
        ),
    ] = 12,
    given: o.Given = None,
    data: o.OtherData = None,
    split: o.Which = o.Split.test,
    out: Picture = Path("path.png"),
    seed: o.Seed = 0,
    device: o.Device = "auto",
    trust: o.Trust = False,
    data_dir: o.DataDir = None,
) -> None:
    """Draw the images along a straight line in the latent space from one image to another."""
    import torch

    check_output("--out", out, o.PICTURES)
    vae, config = o.opened(run, device, seed, trust)
    if config["data"].get("schema"):
        raise InputError(
            "interpolate draws images, and the run was trained on a table; take sample --out "
            "rows.csv for its rows, encode --out latents.npz for its latents, or vae.interpolate "
            "in Python"
        )
    check_grid("--steps", steps, vae.shape)
    check_given(vae, given)
    images = o.images_of(config, data, split, data_dir, device)
    for option, index in (("--first", first), ("--last", last)):
        if not 0 <= index < len(images):
            raise InputError(f"{option} is an index from 0 to {len(images) - 1}, not {index}")
    ends = batch(images, max(first, last) + 1, seed).map(lambda each: each[[first, last]])
    x, *context = ends.args
    a, b = x if (mask := ends.named.get("mask")) is None else torch.where(mask, x, torch.nan)
    path = vae.interpolate(a, b, steps, *context, given=given)
    save(vae, path, out, steps, f"from image {first} to image {last}")
    said = f"{counted(steps, 'step')} from image {first} to image {last} in {out}"
    console.print(said, soft_wrap=True)


def batch(images: Images, n: int, seed: int) -> Batch:
    """The first ``n`` observations with their context and mask, their binarisation drawn with
    ``seed``."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return images.rows(slice(0, n), generator)


def check_given(vae: VAE, given: str | None, needed: bool = False) -> None:
    """Refuse ``--given`` for a run without a condition, and its lack where it is needed.

    Args:
        vae: the VAE of the run.
        given: the value of the option.
        needed: whether a run with a condition needs it.
    """
    condition = vae.model.condition
    if given is not None:
        if condition is None:
            raise InputError("--given is for a run with a condition, and this run has none")
        condition.rows(given, 1)
    elif needed and condition is not None:
        names = condition.names or range(condition.classes or 0)
        what = f"one of the classes {', '.join(map(str, names))}"
        if condition.classes is None:
            what = f"real numbers of shape {list(condition.shape)}"
        raise InputError(f"this run is conditioned; say with --given on what to draw, {what:.300}")


def check_grid(option: str, n: int, shape: tuple[int, ...]) -> None:
    """Refuse a picture of more images than memory can hold."""
    from ..figures.images import zoom

    size = 4 * n * 3 * prod(shape[1:] if len(shape) == 3 else shape) * zoom(shape[-1]) ** 2
    check_memory(size, f"a picture of {counted(n, 'image')} ({option})")


def save(vae: VAE, x: torch.Tensor, path: Path, columns: int, caption: str) -> None:
    """Write a grid of images, or of other observations, as a picture with a caption."""
    from ..figures import save_grid, to_images

    (images,) = to_images(vae, x)
    with picture(path) as part:
        save_grid(images, part, columns, caption)


@contextmanager
def picture(path: Path) -> Iterator[Path]:
    """The name under which a picture is written. It is renamed to ``path`` at the end."""
    with written(path) as part:
        try:
            yield part
        except (ValueError, OverflowError) as error:  # Pillow, for a size that the format excludes
            raise OSError(None, str(error)) from error

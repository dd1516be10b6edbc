"""The command that fills missing entries with a run."""

from __future__ import annotations

import shlex
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from ..storage.writing import written
from ..words import counted, word_of
from . import options as o
from .draw import TABLES, check_grid, picture
from .options import console
from .outputs import check_output
from .values import place

if TYPE_CHECKING:
    import torch

    from ..data.images import Images
    from ..evaluation.imputation import Imputation
    from ..vae import VAE

ARRAYS = (".npy", ".npz")
"""The endings of arrays that are written."""


class Half(StrEnum):
    """Which half of each image is hidden."""

    bottom = "bottom"
    top = "top"
    left = "left"
    right = "right"


def impute(
    run: o.Run,
    data: o.OtherData = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=place,
            help="A .npy file for the numbers; a .npz file, also with their errors; of a table a "
            "file like its own; or a picture. Default: filled.npy, of a table filled.csv.",
            show_default=False,
            rich_help_panel="Output",
        ),
    ] = None,
    draws: Annotated[
        int,
        typer.Option(
            metavar="M",
            help="Draw M completions of each observation; of a table, M files. Default: the "
            "conditional mean; 4 in a picture.",
            show_default=False,
            min=0,
            rich_help_panel="Measures",
        ),
    ] = 0,
    samples: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Draws of z for each observation.",
            min=1,
            rich_help_panel="Measures",
        ),
    ] = 1000,
    hide: Annotated[
        Half | None,
        typer.Option(
            metavar="HALF",
            help="Hide the bottom, top, left or right half of the images in a picture.",
            rich_help_panel="Data",
        ),
    ] = None,
    n: Annotated[
        int,
        typer.Option(
            metavar="N", help="Number of images in a picture.", min=1, rich_help_panel="Data"
        ),
    ] = 12,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    trust: o.Trust = False,
    data_dir: o.DataDir = None,
) -> None:
    """Fill the missing entries of an array or a table; what was observed stays as it is.

    Missing is NaN, what an array `mask` in a .npz file leaves out, or an empty cell. Each hole gets
    its mean given the observed entries, of categories the most probable one, with an order the
    median; or with --draws M draws from their distribution. A table of M draws is M files,
    filled-1.csv and so on.

    A picture shows test images with holes above several completions of each.
    """
    from ..data.refillingtables import open_table
    from ..data.schema import listed
    from ..evaluation.imputation import impute as imputed
    from ..figures import save_completions
    from ..progress import reporting
    from ..runs.images import name_of

    shown = out is not None and out.suffix.lower() in o.PICTURES
    if out is not None:
        check_output("--out", out, (*o.PICTURES, *ARRAYS, *TABLES))
    if hide is not None and not shown:
        raise InputError(f"--hide is for a picture, and --out is {str(out or 'filled.npy')!r}")
    vae, config = o.opened(run, device, seed, trust)
    split = o.Split.test if shown else o.Split.all
    images = o.images_of(config, data, split, data_dir, device)
    file = Path(name_of(data or config["data"]["name"]))
    if out is None:
        out = Path("filled.npy" if images.schema is None else f"filled{file.suffix}")
    if shown:
        images = images.first(n)
        if hide is not None:
            images = replace(images, mask=half(images.pixels, hide))
    if images.mask is None:
        beside = inferred(vae, images, run, file)
        raise InputError(
            f"no entry{' that impute fills' * bool(beside)} is missing, so there is nothing to "
            f"impute; {beside}"
            "missing is NaN, False in an array 'mask' of a .npz file, or an empty cell of a table"
            f"{'; or give --hide' * shown}"
        )
    word = word_of(images.shape)
    if shown:
        draws = draws or 4
        check_grid("--n", (draws + 2) * len(images), vae.shape)
        with picture(out) as part:
            doubt = save_completions(vae, images, part, draws=draws, samples=samples, seed=seed)
        said = f"{counted(len(images), word)} above {draws} completions of each in {out}"
    else:
        outs = outputs(file, out, draws if images.schema is not None else 0)
        table = None if images.schema is None else open_table(file, images)
        with reporting(o.stderr) as progress:
            result = imputed(
                vae, images, samples=samples, draws=draws, seed=seed, progress=progress
            )
        doubt = result.doubt()
        if table is None:
            write_array(file, out, result)
        else:
            each = [result.x] if result.draws is None else result.draws
            for path, x in zip(outs, each, strict=True):
                with written(path) as part:
                    table.write(part, x)
        share = 1 - result.mask.double().mean().item()
        where = f"{outs[0]} to {outs[-1]}" if len(outs) > 1 else str(outs[0])
        said = (
            f"{counted(len(images), word)} in {where}, {100 * share:.3g} % of the "
            f"{'entries' if table is None else 'cells'} "
            f"{'drawn ' + str(draws) + ' times' if draws else 'imputed'}"
        )
        if images.schema is not None and images.schema.left_out:
            names = listed(list(images.schema.left_out))
            said += f"; the columns that the VAE does not know stay as they are: {names}"
    console.print(said, soft_wrap=True)
    if doubt:
        console.print(doubt[0].upper() + doubt[1:] + ".", soft_wrap=True)


def inferred(vae: VAE, images: Images, run: Path, file: Path) -> str:
    """What is said of a label or a target that is missing in some rows; "" if none is."""
    schema = images.schema
    if schema is None:
        return ""
    if schema.label and (images.labels is None or bool((images.labels < 0).any())):
        role, name, recipe, arrays = "label", schema.label, "m2", "the array loc_y"
    elif schema.target and (images.targets is None or bool(images.targets.isnan().any())):
        role, name, recipe, arrays = "target", schema.target, "m2-real", "the arrays loc_y, scale_y"
    else:
        return ""
    said = f"the {role} {name!r} is predicted and not imputed, "
    if not vae.infers_y:
        return f"{said}by a run of --recipe {recipe}; "
    command = shlex.join(["pyro-vae", "encode", str(run), "--data", str(file)])
    return f"{said}by `{command}` ({arrays}); "


def outputs(file: Path, out: Path, draws: int) -> list[Path]:
    """The files that are written: ``out``, or one for each draw, ``filled-1.csv`` and so on.

    Raises:
        InputError: data in no file that can be filled, or an output of another kind, that is the
            data, or that cannot be written.
    """
    kind = file.suffix.lower()
    if kind not in (*ARRAYS, *TABLES):
        raise InputError(f"impute fills {', '.join((*ARRAYS, *TABLES))} files, not {str(file)!r}")
    fitting = ARRAYS if kind in ARRAYS else (kind,)
    if out.suffix.lower() not in fitting:
        raise InputError(
            f"--out {str(out)!r} must end in {' or '.join(fitting)}, because the data are in "
            f"{file.name!r}"
        )
    outs = [out.with_stem(f"{out.stem}-{i}") for i in range(1, draws + 1)] or [out]
    for path in outs:
        if path.resolve() == file.resolve():
            raise InputError(f"--out would replace the data, {str(path)!r}; name another file")
        check_output("--out", path, fitting)
    return outs


def write_array(file: Path, out: Path, result: Imputation) -> None:
    """Write the array of a file with its missing entries filled."""
    import numpy as np

    from ..data.refilling import refilled

    filled = refilled(file, result.x if result.draws is None else result.draws)
    with written(out) as part, part.open("wb") as opened:
        if out.suffix.lower() == ".npy":
            np.save(opened, filled)
            return
        arrays: dict[str, Any] = {
            "errors": result.errors.cpu().numpy(),
            "effective": result.effective.cpu().numpy(),
            "pareto_k": result.pareto_k.cpu().numpy(),
            "trusted": result.trusted.cpu().numpy(),
        }
        np.savez_compressed(opened, images=filled, **arrays)


def half(pixels: torch.Tensor, hide: Half) -> torch.Tensor:
    """The mask of images ``[N, C, H, W]`` with one half hidden.

    Raises:
        InputError: observations that are not images.
    """
    import torch

    if pixels.dim() != 4:
        raise InputError(
            f"--hide hides half of an image, and the observations are {list(pixels.shape[1:])}"
        )
    mask = torch.ones_like(pixels, dtype=torch.bool)
    dim = 2 if hide in (Half.bottom, Half.top) else 3
    side = pixels.shape[dim]
    start = side // 2 if hide in (Half.bottom, Half.right) else 0
    mask.narrow(dim, start, side - side // 2 if start else side // 2).fill_(False)
    return mask

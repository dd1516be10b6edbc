"""The command that fills missing entries with a run."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from ..storage.writing import written
from ..words import counted
from . import options as o
from .draw import check_grid, picture
from .options import console
from .outputs import check_output
from .values import place

if TYPE_CHECKING:
    import torch


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
        Path,
        typer.Option(
            metavar="FILE",
            parser=place,
            help="A .npy file for the numbers; a .npz file, also with their errors; or a picture.",
            rich_help_panel="Output",
        ),
    ] = Path("filled.npy"),
    draws: Annotated[
        int,
        typer.Option(
            metavar="M",
            help="Draw M completions of each observation. Default: the conditional mean; 4 in a "
            "picture.",
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
            rich_help_panel="Images",
        ),
    ] = None,
    n: Annotated[
        int,
        typer.Option(
            metavar="N", help="Number of images in a picture.", min=1, rich_help_panel="Images"
        ),
    ] = 12,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    trust: o.Trust = False,
    data_dir: o.DataDir = None,
) -> None:
    """Fill the missing entries of an array file; observed entries keep their bits.

    Missing is NaN, or what an array `mask` in a .npz file leaves out. Each hole gets its mean given
    the observed entries, or with --draws M draws from their distribution.

    A picture shows test images with holes above several completions of each.
    """
    import numpy as np

    from ..data.refilling import refilled
    from ..evaluation.imputation import impute as imputed
    from ..figures import save_completions
    from ..progress import reporting

    shown = out.suffix.lower() in o.PICTURES
    check_output("--out", out, (*o.PICTURES, ".npy", ".npz"))
    if hide is not None and not shown:
        raise InputError(f"--hide is for a picture, and --out is {str(out)!r}")
    vae, config = o.opened(run, device, seed, trust)
    split = o.Split.test if shown else o.Split.all
    images = o.images_of(config, data, split, data_dir, device)
    if shown:
        images = images.first(n)
        if hide is not None:
            images = replace(images, mask=half(images.pixels, hide))
    if images.mask is None:
        raise InputError(
            "no entry is missing, so there is nothing to impute; missing is NaN, or False in an "
            f"array 'mask' of a .npz file{'; or give --hide' if shown else ''}"
        )
    file = Path(data or config["data"]["name"])
    if not shown and file.suffix.lower() not in (".npy", ".npz"):
        raise InputError(f"impute fills .npy and .npz files, not {str(file)!r}")
    if shown:
        draws = draws or 4
        check_grid("--n", (draws + 2) * len(images), vae.shape)
        with picture(out) as part:
            doubt = save_completions(vae, images, part, draws=draws, samples=samples, seed=seed)
        said = f"{counted(len(images), 'image')} above {draws} completions of each in {out}"
    else:
        with reporting(o.stderr) as progress:
            result = imputed(
                vae, images, samples=samples, draws=draws, seed=seed, progress=progress
            )
        doubt = result.doubt()
        filled = refilled(file, result.x if result.draws is None else result.draws)
        with written(out) as part, part.open("wb") as opened:
            if out.suffix.lower() == ".npy":
                np.save(opened, filled)
            else:
                arrays: dict[str, Any] = {
                    "errors": result.errors.cpu().numpy(),
                    "effective": result.effective.cpu().numpy(),
                    "pareto_k": result.pareto_k.cpu().numpy(),
                    "trusted": result.trusted.cpu().numpy(),
                }
                np.savez_compressed(opened, images=filled, **arrays)
        share = 1 - result.mask.double().mean().item()
        said = (
            f"{counted(len(images), 'observation')} in {out}, {100 * share:.2g} % of the entries "
            f"{'drawn ' + str(draws) + ' times' if draws else 'imputed'}"
        )
    console.print(said, soft_wrap=True)
    if doubt:
        console.print(doubt[0].upper() + doubt[1:] + ".", soft_wrap=True)


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

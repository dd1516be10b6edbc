"""The commands that use a run: look at it, draw from it, measure it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ..parts import InputError
from . import options as o
from .options import console

if TYPE_CHECKING:
    import torch

    from ..images import Images


def sample(
    run: o.Run,
    n: Annotated[int, typer.Option(help="Images.", min=1)] = 144,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("samples.png"),
    seed: o.Seed = 0,
    device: o.Device = "auto",
) -> None:
    """Draw images from the prior: the decoder's mean for each draw of z."""
    from ..figures import save_grid

    vae, _ = o.opened(run, device, seed)
    save_grid(vae.sample(n), out)
    console.print(f"{n} samples in {out}")


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

    from ..runs import latents

    vae, config = o.opened(run, device, seed)
    images = o.images_of(config, data, split, data_dir, device)
    arrays = latents(vae, images, seed)
    np.savez_compressed(out, allow_pickle=False, **arrays)
    console.print(f"μ and σ of {len(images)} images in {out}")


def evaluate(
    run: o.Run,
    data: o.OtherData = None,
    split: o.Which = o.Split.test,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of tables.")] = False,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    data_dir: o.DataDir = None,
) -> None:
    """Compute the ELBO and its two parts, in nats per image, by the Monte Carlo and the analytic
    objective side by side."""
    from ..runs import bounds

    vae, config = o.opened(run, device, seed)
    images = o.images_of(config, data, split, data_dir, device)
    result = {"run": str(run), **bounds(vae, images, seed), "data": config["data"]}
    if as_json:
        print(json.dumps(result, indent=2))
        return
    table = Table("nats per image", "Monte Carlo", "analytic KL", box=None, header_style="bold")
    for name in ("elbo", "reconstruction", "kl"):
        cells = [result[way] for way in ("monte_carlo", "analytic")]
        table.add_row(
            name, *(f"{c[name]:.2f} ± {c[f'{name}_error']:.2f}" if c else "none" for c in cells)
        )
    console.print(table)
    console.print(
        f"means over {len(images)} images of {config['data']['name']} "
        f"({config['data']['binarize']} binarisation), ± one standard error; one draw of z each"
    )
    if result["analytic"] is None:
        console.print(f"no analytic KL: {result['why']}")


def batch(images: Images, n: int, seed: int) -> torch.Tensor:
    """The first ``n`` images, ``[n, C, H, W]``, their binarisation drawn with ``seed``."""
    import torch

    return images.batch(slice(0, n), torch.Generator().manual_seed(seed))

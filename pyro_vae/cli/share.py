"""The commands that bring a run to other programs and other people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as o
from .options import console


def export(
    run: o.Run,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", parser=o.place, help="The folder to write.")
    ] = Path("exported"),
    trust: o.Trust = False,
) -> None:
    """Write encoder.pt2 (x to the mean and scale of q) and decoder.pt2 (z to the mean image).
    `torch.export.load` runs them without this library."""
    o.check_output("--out", out)
    vae, _ = o.opened(run, "cpu", 0, trust)
    vae.export(out)
    console.print(f"{out / 'encoder.pt2'} and {out / 'decoder.pt2'}", soft_wrap=True)

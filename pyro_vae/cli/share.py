"""The commands that bring a run to other programs and other people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as o
from .options import console
from .outputs import check_output
from .values import place

Name = Annotated[
    str,
    typer.Argument(
        metavar="USER/NAME", help="A repository of the Hugging Face hub.", show_default=False
    ),
]


def export(
    run: o.Run,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", parser=place, help="The folder to write.", rich_help_panel="Output"
        ),
    ] = Path("exported"),
    trust: o.Trust = False,
) -> None:
    """Write the encoder and the decoder as programs that run without this library.

    encoder.pt2 gives the mean and the scale of q for x, decoder.pt2 the mean image for z.
    `torch.export.load` reads them.
    """
    check_output("--out", out)
    vae, _ = o.opened(run, "cpu", 0, trust)
    vae.export(out)
    console.print(f"{out / 'encoder.pt2'} and {out / 'decoder.pt2'}", soft_wrap=True)


def card(
    run: o.Run,
    results: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=place,
            help="What `evaluate --json` printed for this run. The card then has its numbers.",
            rich_help_panel="Card",
        ),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Replace a README.md that somebody wrote or changed.",
            rich_help_panel="Card",
        ),
    ] = False,
    trust: o.Trust = False,
) -> None:
    """Write README.md into a run folder: parts, data, numbers, pictures, how to load it."""
    from ..runs import card as cards
    from ..runs.folder import METRICS, load_run, read_history

    o.allow_classes_of(run, trust)
    vae, config = load_run(run, trust=trust)
    found = None if results is None else cards.read_results(results, run)
    history = read_history(run) if (run / METRICS).is_file() else []
    cards.write_card(run, cards.card_of(run, vae, config, history, found), replace)
    console.print(f"the card of the run in {run / cards.NAME}", soft_wrap=True)


def push(
    run: o.Run,
    name: Name,
    private: Annotated[
        bool,
        typer.Option(
            "--private", help="Make a new repository private.", rich_help_panel="Repository"
        ),
    ] = False,
    trust: o.Trust = False,
) -> None:
    """Send a run to the Hugging Face hub, with its card and without the optimizer's state."""
    from ..runs import hub

    o.allow_classes_of(run, trust)
    console.print(hub.push(run, name, private=private, trust=trust), soft_wrap=True)


def pull(
    name: Name,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", parser=place, help="The folder to make.", rich_help_panel="Output"
        ),
    ],
    trust: o.Trust = False,
) -> None:
    """Get a run from the Hugging Face hub into a new folder, and check it."""
    from ..runs import hub

    check_output("--out", out)
    hub.pull(name, out, trust=trust)
    console.print(f"the run {name} in {out}", soft_wrap=True)

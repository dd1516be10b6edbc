"""Print the report of `evaluate`."""

from __future__ import annotations

import shlex
from typing import Any

from rich.table import Table

from ..words import about, plus_minus
from .options import console, warn


def print_report(result: dict[str, Any], command: list[str], word: str) -> None:
    """Print the numbers under headings, and then what is not to be trusted and what to run next.

    Args:
        result: the report.
        word: what an observation is called.
        command: the command that made it, without the options that advice may add.
    """
    from ..report.sections import advice, sections  # imports torch, which --help does not need

    two = Table(
        "Bounds, 1 draw of z", "KL by this draw", "analytic KL", box=None, header_style="bold"
    )
    for key, name in (("elbo", "ELBO"), ("reconstruction", "reconstruction"), ("kl", "KL")):
        ways = [result[way] for way in ("monte_carlo", "analytic")]
        two.add_row(name, *(plus_minus(w[key], w[f"{key}_error"]) if w else "none" for w in ways))
    console.print()
    console.print(two)
    console.print(
        " Below, the ELBO and its parts are estimated again from more draws of z, so they have "
        "less noise. distortion is the negative reconstruction, and rate is the KL.",
        soft_wrap=True,
    )
    for heading, rows in sections(result).items():
        console.print()
        console.print(f" {about(word, heading)}", style="bold")
        table = Table(box=None, show_header=False)
        table.add_column(min_width=34)
        for row in rows:
            table.add_row(*(about(word, cell) for cell in row))
        console.print(table)
    if warning := result["prior_gap"].get("warning"):
        warn(f"Warning: {about(word, warning)}.")
    if next_step := advice(result):
        sentence, options = next_step
        warn(f"Warning: {about(word, sentence)}\n  {shlex.join([*command, *options])}")

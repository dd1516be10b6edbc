"""The command `list`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from .options import console


def list_parts(
    kind: Annotated[
        str | None, typer.Argument(help="List only this kind: data, priors, guides, …")
    ] = None,
) -> None:
    """List all data sets, parts, networks and recipes, one line each."""
    from ..registry import lookup

    every = tables()
    wanted = every if kind is None else {kind: lookup("kind", kind, every)}
    for title, rows in wanted.items():
        table = Table(title=title, title_justify="left", title_style="bold", box=None)
        table.add_column(style="cyan", no_wrap=True)
        table.add_column()
        for name, line in rows.items():
            table.add_row(name, line)
        console.print(table)


def tables() -> dict[str, dict[str, str]]:
    """All names that a user can choose from, each with its line, by kind."""
    from .. import objectives, schedules, vae  # noqa: F401  (they fill the tables)
    from .. import registry as r
    from ..data import BINARIZE, DATASETS
    from ..networks import ACTIVATIONS
    from ..recipes import RECIPES

    parts: dict[str, Mapping[str, Any]] = {
        "priors": r.PRIORS,
        "likelihoods": r.LIKELIHOODS,
        "guides": r.GUIDES,
        "scales": r.SCALES,
        "schedules": r.SCHEDULES,
        "objectives": r.OBJECTIVES,
        "networks": r.NETWORKS,
    }
    return {
        "data": {name: row.summary for name, row in DATASETS.items()},
        "binarize": BINARIZE,
        **{kind: {n: r.summary(row) for n, row in t.items()} for kind, t in parts.items()},
        "recipes": {name: recipe.line for name, recipe in RECIPES.items()},
        "activations": {name: r.summary(row) for name, row in ACTIVATIONS.items()},
    }

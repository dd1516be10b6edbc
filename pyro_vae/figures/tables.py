"""Pictures of tables: how often each column has which values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.columns import Column
from ..data.images import Images
from ..data.schema import Schema
from ..errors import InputError

MOST = 24
"""The columns that a picture has room for."""
ACROSS = 4
MOST_LEVELS = 12
BINS = 20

Rows = tuple[Tensor, Tensor | None]
"""Rows of a table ``[N, D]``, and bool ``[N, D]``, False where a cell is missing, or None."""


def marginals(schema: Schema, sets: Mapping[str, Rows], *, title: str = "") -> Any:
    """The distribution of each column in several sets of rows: a panel for each column.

    Numbers are histograms of the share of rows; those above 0 have a logarithmic axis. The bins go
    from the 0.5 % to the 99.5 % quantile of the first set, and the outer bins hold what lies
    beyond. Columns with levels are bars. The first 24 columns are drawn.

    Args:
        schema: the columns.
        sets: the sets by name, for instance the data and samples.
        title: what the picture says about the data.

    Example:
        >>> import pandas as pd
        >>> from pyro_vae.data import Data
        >>> from pyro_vae.figures import marginals
        >>> table = Data.of_table(pd.DataFrame({"age": [31.5, 40.2, 55.1]})).train
        >>> len(marginals(table.schema, {"data": (table.pixels, table.mask)}).axes)
        1
    """
    from matplotlib.figure import Figure

    shown = schema.columns[:MOST]
    down, across = -(-len(shown) // ACROSS), min(ACROSS, len(shown))
    width, height = 2.6 * across + 0.4, 2.2 * down + 1.0
    figure = Figure(figsize=(width, height))
    panels = figure.subplots(down, across, squeeze=False).flatten()
    # Set by hand: matplotlib's own layouts take seconds for many panels.
    low, high = 0.8 / height, 1 - 0.8 / height
    figure.subplots_adjust(0.5 / width, low, 1 - 0.15 / width, high, wspace=0.3, hspace=0.65)
    for axes in panels[len(shown) :]:
        axes.remove()
    for number, (axes, column) in enumerate(zip(panels, shown, strict=False)):
        cells = {name: cells_of(*rows, number) for name, rows in sets.items()}
        (draw_levels if column.levels else draw_numbers)(axes, column, cells)
        axes.set_title(column.name, fontsize="medium")
        axes.tick_params(labelsize="small")
        axes.spines[["top", "right"]].set_visible(False)
    more = len(schema.columns) - len(shown)
    words = [title, f"share of rows; {more:,} more columns are not drawn" if more else ""]
    figure.suptitle("\n".join(filter(None, words)), fontsize="medium")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, loc="lower center", ncols=len(names))
    return figure


def cells_of(x: Tensor, mask: Tensor | None, number: int) -> NDArray[np.float64]:
    """The cells of a column that are there."""
    cells = x[:, number] if mask is None else x[mask[:, number], number]
    return cells.detach().cpu().double().numpy()


def draw_numbers(axes: Any, column: Column, sets: Mapping[str, NDArray[np.float64]]) -> None:
    """A histogram for each set."""
    values = {name: cells + column.offset for name, cells in sets.items()}
    first = next(iter(values.values()))
    low, high = np.quantile(first, [0.005, 0.995]) if len(first) else (0.0, 1.0)
    bins = np.linspace(low, high, BINS + 1)
    if column.type == "positive":
        bins = np.geomspace(low, high, BINS + 1)
        axes.set_xscale("log")
    elif column.type == "count":
        step = max(1, int(np.ceil((high - low + 1) / BINS)))
        bins = np.arange(low, high + step + 1, step) - 0.5
    if not (np.diff(bins) > 0).all():  # all cells are equal
        bins = np.array([low - 0.5, low + 0.5])
    for name, cells in values.items():
        inside = cells.clip(bins[0], bins[-1])
        weights = np.full(len(cells), 1 / max(len(cells), 1))
        axes.hist(inside, bins=bins, weights=weights, histtype="step", label=name, lw=1.5)


def draw_levels(axes: Any, column: Column, sets: Mapping[str, NDArray[np.float64]]) -> None:
    """A bar for each level and set; of many levels the first."""
    levels = column.levels[:MOST_LEVELS]
    width = 0.8 / len(sets)
    for i, (name, cells) in enumerate(sets.items()):
        counts = np.bincount(cells.round().astype(int), minlength=len(column.levels))
        shares = counts[: len(levels)] / max(len(cells), 1)
        axes.bar(
            np.arange(len(levels)) + (i - (len(sets) - 1) / 2) * width, shares, width, label=name
        )
    turned = sum(len(str(level)) + 2 for level in levels) > 24
    axes.set_xticks(range(len(levels)), [f"{level!s:.12}" for level in levels])
    axes.tick_params(axis="x", rotation=60 if turned else 0)


@torch.no_grad()
def drawn_rows(vae: Any, images: Images) -> Tensor:
    """Rows drawn from p(x), as many as ``images`` and with the same contexts."""
    batch = images.rows(slice(None))
    with vae.in_use():
        return vae.model(None, *batch.args[1:], n=len(images))


def table_marginals(
    vae: Any, images: Images, *, means: bool = False, given: Any = None, title: str = ""
) -> Any:
    """:func:`marginals` of rows of a table and of rows that a VAE draws.

    Args:
        vae: a VAE.
        images: the rows, of a table.
        means: compare with the means of p(x | z), z drawn for each row, in place of samples.
        given: the context that the means are decoded with; None for that of the rows.
        title: what the picture says about the data.

    Raises:
        InputError: rows that are not of a table.
    """
    if images.schema is None:
        raise InputError("marginals are drawn of a table, and these observations are not of one")
    sets: dict[str, Rows] = {"data": (images.pixels, images.mask)}
    if means:
        batch = images.rows(slice(None))
        # The same cells, so that both histograms are of the same rows.
        sets["reconstructions"] = (
            vae.reconstruct(*batch.args, given=given, **batch.kwargs),
            images.mask,
        )
    else:
        sets["samples"] = (drawn_rows(vae, images), None)
    return marginals(images.schema, sets, title=title)


def save_marginals(vae: Any, images: Images, path: str | Path, **options: Any) -> None:
    """Write :func:`table_marginals` as a picture."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    table_marginals(vae, images, **options).savefig(path, dpi=120)


def pixels_of(figure: Any) -> NDArray[np.uint8]:
    """A figure as uint8 ``[H, W, 3]``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]

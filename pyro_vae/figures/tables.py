"""Pictures of tables: how often each column has which values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import wrap
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
MARGIN = 0.25
"""How far bins go beyond the two quantiles, in units of the distance between them."""

Rows = tuple[Tensor, Tensor | None]
"""Rows of a table ``[N, D]``, and bool ``[N, D]``, False where a cell is missing, or None."""
Cells = Mapping[str, NDArray[np.float64]]
"""The cells of a column that are there, by the name of the set."""


def marginals(schema: Schema, sets: Mapping[str, Rows], *, title: str = "") -> Any:
    """The distribution of each column in several sets of rows: a panel for each column.

    Numbers are histograms of the share of rows; those above 0 have a logarithmic axis. The bins go
    from the 0.5 % to the 99.5 % quantile of the first set, and a quarter of this range further.
    Numbers outside are not drawn, and a note above the panel has their share. Columns with levels
    are bars for the first 12 levels; if a set has numbers far from all levels, they are histograms.
    The first 24 columns are drawn.

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
    more = len(schema.columns) - len(shown)
    share = "share of rows" + (f"; {more:,} more columns are not drawn" if more else "")
    down, across = -(-len(shown) // ACROSS), min(ACROSS, len(shown))
    width = 2.6 * across + 0.4
    lines = [*wrap(title, int(12 * width)), *wrap(share, int(12 * width))]
    above, below = 0.6 + 0.2 * len(lines), 1.1  # inches
    height = 2.3 * down - 0.9 + above + below
    figure = Figure(figsize=(width, height))
    panels = figure.subplots(down, across, squeeze=False).flatten()
    # Set by hand: matplotlib's own layouts take seconds for many panels.
    low, high = below / height, 1 - above / height
    figure.subplots_adjust(0.5 / width, low, 1 - 0.15 / width, high, wspace=0.3, hspace=0.9 / 1.4)
    for axes in panels[len(shown) :]:
        axes.remove()
    for number, (axes, column) in enumerate(zip(panels, shown, strict=False)):
        cells = {name: cells_of(*rows, number) for name, rows in sets.items()}
        note = (draw_levels if column.levels else draw_numbers)(axes, column, cells)
        axes.set_title(f"{column.name:.28}", fontsize="medium", pad=15 if note else 6)
        axes.text(0.5, 1.03, note, fontsize="x-small", ha="center", transform=axes.transAxes)
        axes.tick_params(labelsize="small")
        axes.spines[["top", "right"]].set_visible(False)
    figure.text(0.5, 1 - 0.1 / height, "\n".join(lines), ha="center", va="top", fontsize="medium")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, loc="lower center", ncols=len(names))
    return figure


def cells_of(x: Tensor, mask: Tensor | None, number: int) -> NDArray[np.float64]:
    """The cells of a column that are there."""
    cells = x[:, number] if mask is None else x[mask[:, number], number]
    return cells.detach().cpu().double().numpy()


def draw_numbers(axes: Any, column: Column, sets: Cells) -> str:
    """A histogram for each set; returns the note about what lies outside the bins."""
    values = {name: cells + column.offset for name, cells in sets.items()}
    return draw_histograms(axes, bins_of(axes, column, next(iter(values.values()))), values)


def bins_of(axes: Any, column: Column, cells: NDArray[np.float64]) -> NDArray[np.float64]:
    """The edges of the bins for a column of numbers with these cells. The axis of numbers above 0
    becomes logarithmic."""
    if len(cells) == 0:
        return np.linspace(0, 1, BINS + 1)
    logarithmic = column.type == "positive" and cells.min() > 0
    scaled = np.log(cells) if logarithmic else cells
    low, high = np.quantile(scaled, [0.005, 0.995])
    beyond = MARGIN * (high - low)
    low, high = low - beyond, high + beyond
    if logarithmic:
        low, high = np.exp(low), np.exp(high)
        axes.set_xscale("log")
    if column.type == "count":
        low, high = max(np.floor(low), 0), np.ceil(high)
        step = max(1, int(np.ceil((high - low + 1) / BINS)))
        return np.arange(low, high + step + 1, step) - 0.5
    if not low < high:  # all cells are equal
        return np.array([low - 0.5, low + 0.5])
    return (np.geomspace if logarithmic else np.linspace)(low, high, BINS + 1)


def draw_histograms(axes: Any, bins: NDArray[np.float64], sets: Cells) -> str:
    """The share of each set in each bin; returns the note about what lies outside the bins."""
    outside = []
    for name, cells in sets.items():
        inside = cells[(cells >= bins[0]) & (cells <= bins[-1])]
        weights = np.full(len(inside), 1 / max(len(cells), 1))
        axes.hist(inside, bins=bins, weights=weights, histtype="step", label=name, lw=1.5)
        if share := 1 - len(inside) / max(len(cells), 1):
            outside.append(f"{name} {'<1' if share < 0.01 else f'{100 * share:.0f}'} %")
    return f"outside: {', '.join(outside)}" if outside else ""


def draw_levels(axes: Any, column: Column, sets: Cells) -> str:
    """A bar for each of the first levels and each set; means count for the nearest level.

    Samples of a likelihood of numbers are not always near a level. Then each set is a histogram of
    the numbers, with the levels at their codes.

    Returns:
        the note about the levels and numbers that are not drawn.
    """
    count, note = len(column.levels), ""
    levels = column.levels[:MOST_LEVELS]
    if all(((cells >= -0.5) & (cells <= count - 0.5)).all() for cells in sets.values()):
        width = 0.8 / len(sets)
        for i, (name, cells) in enumerate(sets.items()):
            codes = cells.round().clip(0, count - 1).astype(int)
            shares = np.bincount(codes, minlength=count)[: len(levels)] / max(len(cells), 1)
            places = np.arange(len(levels)) + (i - (len(sets) - 1) / 2) * width
            axes.bar(places, shares, width, label=name)
    else:
        bins = np.arange(-1, len(levels) + 0.5, 0.25) - 0.125  # a bin has its level in its middle
        note = draw_histograms(axes, bins, sets)
    turned = sum(len(level_name(level)) + 2 for level in levels) > 24
    axes.set_xticks(range(len(levels)), [f"{level_name(level):.12}" for level in levels])
    axes.tick_params(axis="x", rotation=60 if turned else 0)
    first = f"first {len(levels)} of {count} values" if len(levels) < count else ""
    return "; ".join(filter(None, [first, note]))


def level_name(level: Any) -> str:
    """A level as it is written; a whole number without its ``.0``."""
    whole = isinstance(level, float) and level.is_integer()
    return str(int(level) if whole else level)


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

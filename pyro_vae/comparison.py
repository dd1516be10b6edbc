"""The table, the figure and the files of a comparison of several VAEs."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from math import isnan, nan
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Group
from rich.table import Table
from scipy.stats import t

from .compare import Result
from .storage.creating import versions
from .words import plus_minus

COLUMNS = {
    "elbo": "validation ELBO",
    "log_p": "log p̂(x), a lower bound",
    "approximation_gap": "approximation gap, a lower bound",
    "amortization_gap": "amortization gap",
    "parameters": "parameters",
    "epochs": "epochs",
    "training_seconds": "s of training",
}
"""The columns: what is measured, and its name in the table."""

WHOLE = ("parameters", "epochs")
"""The columns of whole numbers, which have no spread."""

OVER_IMAGES = ("elbo", "log_p", "approximation_gap", "amortization_gap")
"""The columns that are means over validation images."""


def mean_and_spread(results: Sequence[Result], column: str) -> tuple[float, float]:
    """Mean and standard deviation of a column over seeds; NaN for the second with one seed."""
    values = [r[column] for r in results]
    return mean(values), stdev(values) if len(values) > 1 else nan


def error_of(results: Sequence[Result], column: str) -> float:
    """The standard error of a column in one training, mean over seeds; NaN for what has none."""
    return mean(r.get(f"{column}_error", nan) for r in results)


def mean_and_bar(results: Sequence[Result], column: str) -> tuple[float, float]:
    """Mean and spread over seeds; with one seed, the standard error of the one result."""
    middle, spread = mean_and_spread(results, column)
    return middle, spread if len(results) > 1 else error_of(results, column)


def grouped(results: Sequence[Result]) -> dict[str, dict[str, list[Result]]]:
    """The results by observation space, then by name."""
    groups: dict[str, dict[str, list[Result]]] = {}
    for r in results:
        groups.setdefault(r["observation_space"], {}).setdefault(r["name"], []).append(r)
    return groups


def cells(results: Sequence[Result]) -> dict[str, list[list[str]]]:
    """The rows of a table for each observation space, the first of them its heading."""
    columns = [c for c in COLUMNS if c in results[0]]
    trained = max(len(runs) for rows in grouped(results).values() for runs in rows.values())
    heading = ["", *(f"{COLUMNS[c]}{legend(c, trained)}" for c in columns)]
    return {
        f"{title}; nats per image": [
            heading,
            *([name, *(cell(c, runs) for c in columns)] for name, runs in rows.items()),
        ]
        for title, rows in grouped(results).items()
    }


def legend(column: str, trained: int) -> str:
    """What the numbers of a column are, for its heading; ``trained`` is the number of seeds."""
    spread = " ± seeds" if trained > 1 and column not in WHOLE else ""
    return spread + (" (± images)" if column in OVER_IMAGES else "")


def notes(results: Sequence[Result], failures: Sequence[str]) -> list[str]:
    """The sentences below the tables."""
    trained = [len(runs) for rows in grouped(results).values() for runs in rows.values()]
    lines = best(results)
    if max(trained) > 1:
        lines.append(
            f"± seeds: one standard deviation over {max(trained)} trainings, all measured with the "
            "same draws of the pixels and of z."
        )
    lines.append(
        "(± images): one standard error of the mean over the validation images, in one training. "
        "log p̂(x) is a lower bound on log p(x) in the mean, and the errors are those of the bound."
    )
    sites = [f"{r['name']}, seed {r['seed']}: {r['collapsed']}." for r in results if r["collapsed"]]
    return [*lines, *sites, *(f"{failure}." for failure in failures)]


def best(results: Sequence[Result]) -> list[str]:
    """For each table of two rows or more, which has the highest mean of log p̂(x) over seeds, and
    how far the next is below it.

    With d_s the difference of the two at seed s of n seeds, the distance is d̄ and its t-interval is
    d̄ ± t_{n-1} sd(d) / √n. The differences are paired, because all trainings are measured with the
    same draws. A seed counts if it was trained with all settings of the table.
    """
    lines = []
    for title, rows in grouped(results).items():
        by_seed = {name: {r["seed"]: r["log_p"] for r in runs} for name, runs in rows.items()}
        seeds = sorted(set.intersection(*(set(each) for each in by_seed.values())))
        if len(rows) < 2 or not seeds:
            continue
        scores = {name: [each[seed] for seed in seeds] for name, each in by_seed.items()}
        first, second = sorted(scores, key=lambda name: -mean(scores[name]))[:2]
        d = [a - b for a, b in zip(scores[first], scores[second], strict=True)]
        among = f" of {title}" if len(grouped(results)) > 1 else ""
        line = (
            f"{first} has the highest validation log p̂(x){among}, {mean(d):.2f} nats above {second}"
        )
        if len(d) == 1:
            lines.append(f"{line}, with one seed; more seeds show whether this is chance.")
            continue
        half = t.ppf(0.975, len(d) - 1) * stdev(d) / len(d) ** 0.5
        low, high = mean(d) - half, mean(d) + half
        line += f" (95 % t-interval over {len(d)} paired seeds: {low:.2f} to {high:.2f})"
        if low <= 0 <= high:
            line += "; the interval contains zero, so the two cannot be told apart"
        lines.append(f"{line}.")
    return lines


def markdown(results: Sequence[Result], failures: Sequence[str] = ()) -> str:
    """A table in Markdown for each observation space, in nats per image.

    It shows mean ± standard deviation over seeds, and the standard error over the images.

    Args:
        results, failures: what :func:`~pyro_vae.compare.compare` returns, at least one result.
    """
    lines = []
    for title, (heading, *rows) in cells(results).items():
        lines += [
            title,
            "",
            f"| {' | '.join(heading)} |",
            f"| --- |{' ---: |' * (len(heading) - 1)}",
        ]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        lines.append("")
    return "\n".join(lines) + "\n" + "\n\n".join(notes(results, failures)) + "\n"


def tables(results: Sequence[Result], failures: Sequence[str] = ()) -> Group:
    """What :func:`markdown` shows, for a terminal."""
    shown: list[Any] = []
    for title, (heading, *rows) in cells(results).items():
        table = Table(title=title, title_justify="left")
        for i, name in enumerate(heading):
            table.add_column(name, justify="right" if i else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        shown.append(table)
    return Group(*shown, *notes(results, failures))


def cell(column: str, runs: Sequence[Result]) -> str:
    """A mean over seeds, its spread over them, and its error over the validation images."""
    middle, spread = mean_and_spread(runs, column)
    if column in WHOLE:
        low, high = (of(r[column] for r in runs) for of in (min, max))
        return f"{low:,}" if low == high else f"{low:,} to {high:,}"  # a patience ends some earlier
    if column == "training_seconds":
        return plus_minus(middle, spread, 1)
    error = error_of(runs, column) if column in OVER_IMAGES else nan
    shown = plus_minus(middle, spread)
    return shown if isnan(error) else f"{shown} (± {error:.2f})"


def figure(results: Sequence[Result]) -> Any:
    """The bounds of each name, a point for each seed and their mean; and the gaps as bars.

    Error bars are one standard deviation over seeds, or, with one seed, one standard error over the
    validation images.
    """
    from matplotlib.figure import Figure

    with_gaps = "approximation_gap" in results[0]
    groups = grouped(results)
    names = max(len(rows) for rows in groups.values())
    size = (5 + 4.5 * with_gaps, 1.2 + (1.0 + 0.45 * names) * len(groups))
    sheet = Figure(figsize=size, layout="constrained")
    panels = sheet.subplots(len(groups), 1 + with_gaps, squeeze=False)
    for (title, rows), panel in zip(groups.items(), panels, strict=True):
        places = range(len(rows))
        bounds = panel[0]
        for column, shift, colour in (("elbo", 0.12, "C0"), ("log_p", -0.12, "C1")):
            for place, runs in zip(places, rows.values(), strict=True):
                values = [r[column] for r in runs]
                bounds.plot(values, [place + shift] * len(values), ".", color=colour, alpha=0.5)
            middles, errors = zip(*(mean_and_bar(r, column) for r in rows.values()), strict=True)
            at = [place + shift for place in places]
            bounds.errorbar(
                middles, at, xerr=errors, fmt="d", capsize=3, color=colour, label=COLUMNS[column]
            )
        bounds.set(title=title, xlabel="nats per image")
        bounds.title.set_fontsize("medium")
        if with_gaps:
            left = [0.0] * len(rows)
            for column, colour in (("approximation_gap", "C2"), ("amortization_gap", "C3")):
                widths, errors = zip(*(mean_and_bar(r, column) for r in rows.values()), strict=True)
                label = COLUMNS[column]
                panel[1].barh(
                    places,
                    widths,
                    0.5,
                    left=left,
                    xerr=errors,
                    capsize=3,
                    color=colour,
                    label=label,
                )
                left = [a + b for a, b in zip(left, widths, strict=True)]
            panel[1].set(title="log p̂(x) - ELBO", xlabel="nats per image")
        for axes in panel:
            axes.set_yticks(list(places), list(rows))
            axes.set_ylim(len(rows) - 0.5, -0.5)  # the first row on top
            axes.margins(x=0.08)
            axes.spines[["top", "right"]].set_visible(False)
    # Below the panels, where no point is.
    drawn = [axes.get_legend_handles_labels() for axes in panels[0]]
    handles, labels = ([each for pair in drawn for each in pair[i]] for i in (0, 1))
    sheet.legend(
        handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize="small"
    )
    return sheet


def write(
    results: Sequence[Result], failures: Sequence[str], protocol: Mapping[str, Any], folder: Path
) -> None:
    """Write the results into ``folder``.

    ``comparison.csv`` has a line for each training, ``comparison.md`` has the table,
    ``comparison.png`` the figure, and ``protocol.json`` the settings and versions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "comparison.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(results[0]))
        writer.writeheader()
        writer.writerows(results)
    (folder / "comparison.md").write_text(markdown(results, failures), encoding="utf-8")
    figure(results).savefig(folder / "comparison.png", dpi=120)
    text = json.dumps({**protocol, "versions": versions()}, indent=2)
    (folder / "protocol.json").write_text(text + "\n", encoding="utf-8")

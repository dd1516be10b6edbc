"""Train several VAEs with the same budget and compare them.

One setting differs, for instance the guide. All others are equal. Each VAE is trained with several
seeds, in turn (a, b, c, a, b, c, …). So a machine that becomes slower affects all of them equally.
"""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from math import nan
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch

from .contracts import Likelihood
from .errors import InputError
from .evaluation.gaps import gaps
from .evaluation.importance import importance
from .history import Callback, CollapseWarning, Position, collapsed
from .runs.setup import prepare
from .storage.creating import versions
from .training import fit

COLUMNS = {
    "elbo": "test ELBO",
    "log_p": "log p̂(x)",
    "approximation_gap": "approximation gap",
    "amortization_gap": "amortization gap",
    "parameters": "parameters",
    "seconds_per_epoch": "s / epoch",
}
"""The columns: what is measured, and its name in the table."""

Result = dict[str, Any]
"""One trained VAE: ``name``, ``seed``, ``observation_space``, the columns, and ``collapsed``."""


def compare(
    settings: Mapping[str, Mapping[str, Any]],
    seeds: int,
    *,
    device: torch.device,
    data_dir: Path | None = None,
    samples: int = 200,
    gap_images: int = 0,
    compiled: bool | None = None,
    on_start: Callable[[str, int, int], None] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> list[Result]:
    """Train each of ``settings`` with seeds 0, 1, … and measure it on the test images.

    Args:
        settings: by name, the settings that differ from the defaults of
            :class:`~pyro_vae.settings.Settings`.
        seeds: the number of trainings of each.
        device: where to train.
        data_dir: folder of downloaded data sets.
        samples: draws of z for each image, K, for log p̂(x) by importance sampling.
        gap_images: how many test images the two gaps are measured on; 0 leaves the gaps out.
        compiled: whether steps are compiled, as in :func:`~pyro_vae.training.fit`.
        on_start: called before each training with its name, its seed, and the number of images in
            the steps of all trainings together.
        on_step: called after each step with the number of images in it.

    Returns:
        a result for each training, in the order in which they ran.

    Raises:
        InputError: ``seeds`` below 1, or settings that do not fit.
    """
    if seeds < 1:
        raise InputError(f"--seeds is a whole number of at least 1, not {seeds}")
    # Settings that do not fit raise here, before the first training.
    runs = [prepare(each, device, data_dir) for each in settings.values()]
    total = seeds * sum(run.training["epochs"] * len(run.data.train) for run in runs)
    results = []
    for seed in range(seeds):
        for name, each in settings.items():
            if on_start is not None:
                on_start(name, seed, total)
            run = prepare({**each, "seed": seed}, device, data_dir)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CollapseWarning)  # the table says it
                history = fit(
                    run.vae,
                    run.data,
                    **run.training,
                    compiled=compiled,
                    optimizer=run.optimizer,
                    callback=Steps(on_step),
                )
            model, guide, test = run.vae.model, run.vae.guide, run.data.test
            result = {
                "name": name,
                "seed": seed,
                "observation_space": observation_space(run.vae, run.source),
                "elbo": history[-1].test_elbo,
                "log_p": importance(model, guide, test, samples=samples, seed=seed).mean,
                "parameters": sum(p.numel() for p in run.vae.parameters()),
                "seconds_per_epoch": median(e.seconds for e in history),
                "collapsed": "; ".join(collapsed(history[-1])),
            }
            if gap_images > 0:
                few = test.first(gap_images)
                for key, value in gaps(model, guide, few, seed=seed).summary().items():
                    if key.endswith("_gap"):
                        result[key] = value["mean"]
            results.append(result)
    return results


class Steps(Callback):
    """Calls a function after each step with the number of images in it."""

    def __init__(self, on_step: Callable[[int], None] | None) -> None:
        self.call = on_step

    def on_step(self, images: int, position: Position) -> None:
        if self.call is not None:
            self.call(images)


def observation_space(vae: Any, source: Mapping[str, Any]) -> str:
    """The data, the pixels, and whether p(x | z) is a probability or a density.

    Nats can be compared only if all three are equal.
    """
    likelihood = Likelihood.of(vae.model.likelihood)
    discrete = likelihood.binary or likelihood.levels is not None
    pixels = {"none": "grey pixels"}.get(source["binarize"], f"{source['binarize']} binarisation")
    kind = "probabilities" if discrete else "densities on [0, 1]"
    return f"{Path(source['name']).name}, {pixels}, {kind}"


def mean_and_deviation(results: Sequence[Result], column: str) -> tuple[float, float]:
    """Mean and standard deviation of a column over seeds; with one seed the latter is NaN."""
    values = [r[column] for r in results]
    return mean(values), stdev(values) if len(values) > 1 else nan


def grouped(results: Sequence[Result]) -> dict[str, dict[str, list[Result]]]:
    """The results by observation space, then by name."""
    groups: dict[str, dict[str, list[Result]]] = {}
    for r in results:
        groups.setdefault(r["observation_space"], {}).setdefault(r["name"], []).append(r)
    return groups


def markdown(results: Sequence[Result]) -> str:
    """A table for each observation space: mean ± standard deviation over seeds, nats per image."""
    columns = [c for c in COLUMNS if c in results[0]]
    lines = []
    for title, rows in grouped(results).items():
        lines += [f"{title}; nats per image", ""]
        lines.append(f"| {' | '.join(['', *(COLUMNS[c] for c in columns)])} |")
        lines.append(f"| --- |{' ---: |' * len(columns)}")
        for name, runs in rows.items():
            cells = [cell(column, *mean_and_deviation(runs, column)) for column in columns]
            lines.append(f"| {' | '.join([name, *cells])} |")
        lines.append("")
    seeds = len({r["seed"] for r in results})
    lines += [f"± one standard deviation over {seeds} seeds." if seeds > 1 else "One seed.", ""]
    for r in results:
        if r["collapsed"]:
            lines += [f"{r['name']}, seed {r['seed']}: {r['collapsed']}.", ""]
    return "\n".join(lines)


def cell(column: str, middle: float, deviation: float) -> str:
    """A mean and a standard deviation as the table shows them."""
    if column == "parameters":
        return f"{middle:,.0f}"
    digits = 3 if column == "seconds_per_epoch" else 2
    return f"{middle:.{digits}f}" + (f" ± {deviation:.{digits}f}" if deviation == deviation else "")


def figure(results: Sequence[Result]) -> Any:
    """The bounds of each name, a point for each seed and for their mean; and the gaps as bars."""
    from matplotlib.figure import Figure

    with_gaps = "approximation_gap" in results[0]
    groups = grouped(results)
    names = max(len(rows) for rows in groups.values())
    size = (5 + 4.5 * with_gaps, 0.9 + (0.9 + 0.45 * names) * len(groups))
    sheet = Figure(figsize=size, layout="constrained")
    panels = sheet.subplots(len(groups), 1 + with_gaps, squeeze=False)
    for (title, rows), panel in zip(groups.items(), panels, strict=True):
        places = range(len(rows))
        bounds = panel[0]
        for column, shift, colour in (("elbo", 0.12, "C0"), ("log_p", -0.12, "C1")):
            for place, runs in zip(places, rows.values(), strict=True):
                values = [r[column] for r in runs]
                bounds.plot(values, [place + shift] * len(values), ".", color=colour, alpha=0.5)
            middles = [mean_and_deviation(runs, column)[0] for runs in rows.values()]
            at = [place + shift for place in places]
            bounds.plot(middles, at, "d", color=colour, label=COLUMNS[column])
        bounds.set(title=title, xlabel="nats per image")
        bounds.title.set_fontsize("medium")
        bounds.legend(frameon=False, fontsize="small")
        if with_gaps:
            left = [0.0] * len(rows)
            for column, colour in (("approximation_gap", "C2"), ("amortization_gap", "C3")):
                widths = [mean_and_deviation(runs, column)[0] for runs in rows.values()]
                panel[1].barh(places, widths, 0.5, left=left, color=colour, label=COLUMNS[column])
                left = [a + b for a, b in zip(left, widths, strict=True)]
            panel[1].set(title="log p̂(x) - ELBO", xlabel="nats per image")
            panel[1].legend(frameon=False, fontsize="small")
        for axes in panel:
            axes.set_yticks(list(places), list(rows))
            axes.invert_yaxis()
            axes.spines[["top", "right"]].set_visible(False)
    return sheet


def write(results: Sequence[Result], protocol: Mapping[str, Any], folder: Path) -> None:
    """Write the results into ``folder``.

    ``comparison.csv`` has a line for each training, ``comparison.md`` has the table,
    ``comparison.png`` the figure, and ``protocol.json`` the settings and versions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "comparison.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(results[0]))
        writer.writeheader()
        writer.writerows(results)
    (folder / "comparison.md").write_text(markdown(results), encoding="utf-8")
    figure(results).savefig(folder / "comparison.png", dpi=120)
    text = json.dumps({**protocol, "versions": versions()}, indent=2)
    (folder / "protocol.json").write_text(text + "\n", encoding="utf-8")

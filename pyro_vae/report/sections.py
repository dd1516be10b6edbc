"""A report as a person reads it: headings, numbers with errors, and what to run next."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ..evaluation.bound import error_of_share
from ..evaluation.trust import DRAWS
from ..words import counted, plus_minus
from .table import Table

Rows = list[tuple[str, str]]


def sections(table: Table) -> dict[str, Rows]:
    """The report of :func:`.table.evaluate` as rows of a name and a number, by heading.

    All numbers are in nats per image where nothing else is said. A measure that could not be
    computed says why.
    """
    every = {
        "log p(x)": estimates(table),
        "Can log p(x) be trusted?": trusted(table),
        f"Where the bound is lost, {measured_on(table.get('gaps'))}": lost(table.get("gaps")),
        "What the latents hold": latents(table),
        "Labels predicted from the latents": [
            (name, shown(value, 3)) for name, value in named(table.get("accuracy"), CLASSIFIERS)
        ],
        "Labels that the guide infers": [
            (name, shown(value, 4)) for name, value in named(table.get("classification"), INFERRED)
        ],
        "Targets that the guide infers": [
            (name, shown(value, 4)) for name, value in inferred(table.get("regression"))
        ],
        "Figures that cannot be drawn": [
            (key.removeprefix("figure_"), shown(value))
            for key, value in table.items()
            if key.startswith("figure_")
        ],
    }
    return {heading: rows for heading, rows in every.items() if rows}


CLASSIFIERS = {
    "linear": "accuracy of a linear classifier",
    "nearest": "accuracy of nearest neighbours",
}
INFERRED = {
    "accuracy": "accuracy of the most probable class",
    "calibration_error": "expected calibration error, 15 bins",
}
REGRESSION = {
    "rmse": "root mean square error, in units of the target",
    "coverage": "targets in the 90 % intervals",
}
LOST = {
    "log_p": "log p(x) from the best posteriors, at least",
    "elbo": "ELBO",
    "approximation_gap": "approximation gap, at least",
    "amortization_gap": "amortization gap",
}
AGGREGATE = {
    "mutual_information": "mutual information of x and z",
    "marginal_kl": "KL of the aggregate posterior to the prior",
    "total_correlation": "total correlation",
    "dimension_wise_kl": "sum of the units' KL to the prior",
}


def estimates(table: Table) -> Rows:
    samples = table["samples"]
    # The bound of 1 draw is the ELBO in the mean, which is in the report with less noise.
    fewer = {int(k): each for k, each in table["curve"].items() if 1 < int(k) < samples}
    rows = [
        (f"importance sampling, {counted(samples, 'draw')} of z", shown(table["log_p"])),
        *((f"importance sampling, the first {k:,}", shown(each)) for k, each in fewer.items()),
        (f"ELBO, {counted(samples, 'draw')} of z", shown(table["elbo"])),
        ("bits per dimension", shown(table["bits_per_dimension"], 3)),
    ]
    annealed = table.get("annealed", {})
    if "why" in annealed:
        rows.append(("annealing", shown(annealed)))
    elif annealed:
        few = counted(annealed["images"], "image")
        rows += [
            (f"annealing, {few}", shown(annealed["log_p"])),
            (f"importance sampling, the same {few}", shown(annealed["importance_on_the_same"])),
            ("annealing above it by", shown(annealed["difference"])),
            ("error of annealing, at most", shown(annealed["sandwich"])),
        ]
    return rows


def trusted(table: Table) -> Rows:
    trust, bias = table["trust"], table["trust"]["remaining_bias"]
    effective = plus_minus(trust["effective_samples"], None, 1)
    return [
        ("effective draws, median image", f"{effective} of {table['samples']}"),
        *tails(trust, table["samples"], table["images"]),
        ("rise over the last factor of 4 in draws", shown(trust["rise_of_curve"], 3)),
        ("bias that remains", "not settled" if bias is None else f"about {bias:.3f}"),
        ("so", trust["verdict"]),
    ]


def tails(trust: Table, samples: int, images: int) -> Rows:
    """What the Pareto k of the images say."""
    share = trust["untrusted_share"]
    if share is None:
        return [("Pareto k", f"undefined: it needs at least {DRAWS} draws of z, not {samples}")]
    k = "undefined" if trust["pareto_k"] is None else f"{trust['pareto_k']:.2f}"
    error = error_of_share(share, images)
    percent = f"{plus_minus(100 * share, 100 * error, 1)} % of the images"
    many = f"{round(share * images):,} of {counted(images, 'image')}"
    return [
        ("Pareto k, median image", f"{k} (too large above {trust['limit']:.2f})"),
        ("Pareto k too large", percent if math.isfinite(error) else many),
    ]


def measured_on(gaps: Table | None) -> str:
    return "" if gaps is None else counted(gaps["images"], "image")


def lost(gaps: Table | None) -> Rows:
    if gaps is not None and "why" in gaps:
        return [("gaps", shown(gaps))]
    return [(name, shown(value)) for name, value in named(gaps, LOST)]


def latents(table: Table) -> Rows:
    sites = table["rate_of_sites"]
    rows = [("rate (KL), 10 draws of z", shown(table["rate"]))]
    if len(sites) > 1:
        rows += [(f"rate of {site}", shown(each)) for site, each in sites.items()]
    rows.append(("distortion, 10 draws of z", shown(table["distortion"])))
    for key, what in (
        ("active_units", "active units of"),
        ("prior_gap", "distance of the encoded images from the prior,"),
    ):
        each = table[key]
        if "why" in each:
            rows.append((what.rstrip(",").removesuffix(" of"), shown(each)))
        else:
            rows += [(f"{what} {s}", shown(v)) for s, v in each.items() if s != "warning"]
    aggregate = table["aggregate"]
    if "why" in aggregate:
        return [*rows, ("aggregate posterior", shown(aggregate))]
    return [*rows, *((name, shown(value)) for name, value in named(aggregate, AGGREGATE))]


def named(values: Table | None, names: dict[str, str]) -> Iterator[tuple[str, Any]]:
    """The entries of a part of the report that have a name, in the order of the names."""
    if values is not None and "why" in values:
        yield "undefined", values
        return
    yield from ((names[key], values[key]) for key in names if values and key in values)


def inferred(values: Table | None) -> Iterator[tuple[str, Any]]:
    """The entries of the part about real targets; of several targets, with the number of each."""
    if values is None or "why" in values:
        yield from named(values, {})
        return
    for key, value in values.items():
        stem, _, number = key.partition("_")
        yield REGRESSION[stem] + (f", target {number}" if number else ""), value


def shown(value: Any, digits: int = 2) -> str:
    """A number of the report with its error; or why there is none."""
    if isinstance(value, dict) and "why" in value:
        return f"undefined: {value['why']}"
    if isinstance(value, dict) and "count" in value and value.get("error") is None:
        return f"{value['count']} of {value['of']}"
    if isinstance(value, dict):
        return plus_minus(value["mean"], value["error"], digits)
    return plus_minus(value, None, digits)


def advice(table: Table) -> tuple[str, list[str]] | None:
    """What to do if log p(x) is not to be trusted: a sentence, and the options of ``evaluate``.

    None if it can be trusted, or if annealing was done already.
    """
    samples = table["samples"]
    if table["trust"]["mean_trusted"] or "annealed" in table:
        return None
    said = "log p(x) is probably too low, and has no ±."
    if table["images"] == 1:
        said = "log p(x) may be too low, which one image cannot show."
    real = not any(isinstance(gap, dict) for gap in table["prior_gap"].values())
    if samples < 1000 or not real:
        return f"{said} More draws can help:", ["--samples", str(10 * samples)]
    return f"{said} Compare it with annealing, which takes minutes:", ["--annealed", "20"]

"""Means with their standard errors for a report, and which of them may have an error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..data.images import Images
from ..evaluation.bound import standard_error
from ..evaluation.importance import Importance
from ..evaluation.rows import with_labels
from ..evaluation.trust import DRAWS, OF_THE_MEAN, PARTS

Table = dict[str, Any]


def with_error(each: Tensor) -> Table:
    """The mean over images and its standard error."""
    return pair(each.mean().item(), standard_error(each))


def pair(mean: float, error: float) -> Table:
    """A mean and its standard error."""
    return {"mean": mean, "error": finite(error)}


def share(mean: float, error: float, n: int) -> Table:
    """A share of ``n`` observations, its standard error, and how many they are: ``count`` of
    ``of``."""
    return pair(mean, error) | {"count": round(mean * n), "of": n}


def shares(found: Mapping[str, tuple[float, float]], images: Images) -> Table:
    """Shares of the labelled images and their standard errors, by name."""
    _, labels = with_labels(images, "a share")
    return {name: share(*each, n=len(labels)) for name, each in found.items()}


def defined(value: Any) -> Any:
    """A report in which None stands for each number that is NaN or infinite."""
    if isinstance(value, dict):
        return {key: defined(each) for key, each in value.items()}
    if isinstance(value, list):
        return [defined(each) for each in value]
    return finite(value) if isinstance(value, float) else value


def finite(number: float) -> float | None:
    """``number``, or None if it is NaN or infinite, which JSON cannot hold."""
    return number if math.isfinite(number) else None


def covered(
    estimate: Importance, error: float, of: Tensor | None = None, unit: float = 1.0
) -> Table:
    """The mean of log p̂(x), with its error if the interval covers log p(x), else with None.

    Args:
        estimate: the estimate, which decides.
        error: the standard error of the mean, in nats.
        of: log p̂(x) of some of the images, whose mean it is; None for all.
        unit: the unit of the result, in nats.
    """
    mean = (estimate.log_p if of is None else of).mean().item()
    return pair(mean / unit, error / abs(unit) if estimate.covers(error) else math.nan)


def trust(estimate: Importance) -> Table:
    """Diagnostics of the importance estimates, over all images, and what follows from them.

    ``rise_of_curve`` is the rise of log p̂(x) over the last factor of 4 in K, ``remaining_bias``
    what it lets expect beyond K. ``images_trusted`` is about the errors of single images, and
    ``mean_trusted`` about that of the mean. ``verdict`` says it in a sentence. With too few draws
    for a Pareto k, ``pareto_k`` and ``untrusted_share`` are None.
    """
    covers = estimate.covers(estimate.standard_error)
    few = {"why": f"it needs at least {PARTS} draws of z, and there are {estimate.samples}"}
    fitted = estimate.samples >= DRAWS
    return {
        "effective_samples": estimate.effective.median().item(),
        "pareto_k": finite(estimate.pareto_k.median().item()),
        "limit": finite(estimate.limit),
        "untrusted_share": estimate.untrusted_share if fitted else None,
        "rise_of_curve": with_error(estimate.rises[0]) if estimate.samples >= PARTS else few,
        "remaining_bias": finite(estimate.bias),
        "images_trusted": estimate.trusted,
        "mean_trusted": covers,
        "verdict": verdict(estimate, covers),
    }


BOUND = "log p̂(x) is a lower bound on log p(x) in the mean"


def verdict(estimate: Importance, covers: bool) -> str:
    """What log p̂(x) is, in a sentence."""
    if covers:
        return f"{BOUND}; its bias is small beside its standard error over the images"
    if estimate.log_p.numel() == 1:
        return f"{BOUND}; one image has no ±, because it cannot show the bias of its estimate"
    left = (
        f"about {estimate.bias:.2g} nats or more are missing"
        if math.isfinite(estimate.bias)
        else "its curve over K does not settle"
    )
    return f"{BOUND}, and {left}, so it has no ±; more draws or annealing can help"


def withdraw(table: Table, error: float) -> None:
    """Take the errors of log p̂(x) out of a report in which annealing gives clearly more.

    Args:
        table: the report, with the part ``annealed``.
        error: the standard error of log p̂(x) over the images.
    """
    apart = table["annealed"]["difference"]
    if apart["error"] is None or apart["mean"] - 2 * apart["error"] <= OF_THE_MEAN * error:
        return
    table["log_p"] |= {"error": None, "monte_carlo_error": None}
    for each in (table["annealed"]["importance_on_the_same"], table["bits_per_dimension"]):
        each |= {"error": None} if "error" in each else {}
    table["trust"] |= {
        "images_trusted": False,
        "mean_trusted": False,
        "verdict": f"{BOUND}, and annealing gives {apart['mean']:.2g} nats more, so it has no ±",
    }

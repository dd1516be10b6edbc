"""Claim 3: error, operations and time of the KL without log σ²."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..scales import SCALES
from .base import COLOURS, Numbers, Setting, Verdict, join_words, median_interval, time_calls
from .precision import KLS, measure_errors, sigma_grid, value_and_gradient

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class OperationCounter(TorchDispatchMode):
    """Counts the operations of torch, gradients included. Views do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.total += not func.is_view
        return func(*args, **(kwargs or {}))


def measure_divergence(setting: Setting) -> Numbers:
    """Claim 3: error, operations and time of the KL without log σ².

    Each map computes the KL of a batch [128, 20] in float32, forward and backward. The four maps
    whose names begin with "log" compute it from log σ². The other maps compute it from σ. The error
    is the largest error of the KL and its gradient, relative to max(value, 1), over the σ from
    1e-12 to 1e12 inside the range of the map. There are 200 rounds, and each round times every map
    once. The time is that of the fastest round. The ratio to the time of log-variance is taken in
    each round; the median ratio has its 95 % interval from the order of the rounds.

    Rule: consider the maps that do not output a logarithm and do not clamp. The claim does not hold
    if one of them has at most ten times the error of log-variance over at least 0.7 times as many
    decades of σ. Otherwise it holds.
    """
    sigma = sigma_grid(-12, 12, 4 if setting.quick else 8)
    maps: Numbers = {}
    work = {}
    for name, cls in SCALES.items():
        scale = cls()
        formula = "log σ²" if name.startswith("log-") else "log σ"
        kl, raw = partial(KLS[formula], scale), scale.inverse(torch.rand(128, 20) + 0.5)
        work[name] = partial(value_and_gradient, kl, raw)
        with OperationCounter() as count:
            work[name]()
        error = measure_errors(scale, sigma, torch.float32)["kl"][formula]["error"]
        maps[name] = {
            "from": formula,
            "error": max(error),
            "decades": len(error) / len(sigma) * 24,
            "operations": count.total,
        }
    rounds = range(10 if setting.quick else 200)
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in setting.track(rounds, description="3 divergence"):
        for name, each in work.items():
            times[name].append(1e3 * time_calls(each, 5))
    for name, row in maps.items():
        row["microseconds"] = min(times[name])
        row["ratio"] = median_interval(
            [own / other for own, other in zip(times[name], times["log-variance"], strict=True)]
        )
    return {"rivals": maps, "rounds": len(rounds)}


def judge_divergence(results: dict[str, Numbers]) -> Verdict:
    rows = results["divergence"]["rivals"]
    reference = rows["log-variance"]
    others = {n: r for n, r in rows.items() if not n.startswith("log-") and n != "soft-clamped"}
    equal = [
        n
        for n, r in others.items()
        if r["error"] <= 10 * reference["error"] and r["decades"] >= 0.7 * reference["decades"]
    ]
    median, low, high = rows["softplus"]["ratio"]
    evidence = (
        "But the KL takes longer without log σ²: with softplus, "
        f"{median:.2f} times as long as with log-variance (median of "
        f"{results['divergence']['rounds']} rounds; 95 % interval {low:.2f} to {high:.2f}). "
        "Largest error in float32, operations and time of the KL and its gradient for a batch "
        "[128, 20]: "
        + "; ".join(
            f"{n}: {r['error']:.1e}, {r['operations']} operations, {r['microseconds']:.0f} µs"
            for n, r in {"log-variance": reference, **others}.items()
        )
        + "."
    )
    if not equal:
        return Verdict("holds", evidence)
    return Verdict(
        "does not hold",
        f"These maps compute the KL with at most ten times the error of log-variance: "
        f"{join_words(equal)}. {evidence}",
    )


def draw_divergence(numbers: Numbers, figure: Figure) -> None:
    axes = figure.subplots(1, 3, sharey=True)
    rows = numbers["rivals"]
    names = list(rows)[::-1]
    for ax, key, label in zip(
        axes,
        ("error", "operations", "microseconds"),
        ("largest error (float32)", "operations", "time, µs ([128, 20], with gradient)"),
        strict=True,
    ):
        value = [rows[n][key] for n in names]
        ax.barh(names, value, color=[COLOURS[n] for n in names])
        ax.set_xlabel(label)
    axes[0].ticklabel_format(axis="x", scilimits=(0, 0))

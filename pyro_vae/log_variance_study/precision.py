"""Claims 2 and 3: what floating point makes of the scale, of the KL and of their gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..scales import SCALES, Scale
from .base import COLOURS, Numbers, Setting, Verdict, listed, milliseconds

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def kl_direct(scale: Scale, raw: Tensor) -> Tensor:
    """KL(N(0, σ²) || N(0, 1)) from log σ², which no σ was computed for."""
    logvar = scale.logvar(raw)
    return 0.5 * (logvar.exp() - 1 - logvar)


def kl_of_square(scale: Scale, raw: Tensor) -> Tensor:
    """The same from σ, through log(σ²), as ``torch.distributions`` has it."""
    variance = scale.sigma(scale.shift(raw)).square()
    return 0.5 * (variance - 1 - variance.log())


def kl_of_scale(scale: Scale, raw: Tensor) -> Tensor:
    """The same from σ, through log σ."""
    sigma = scale.sigma(scale.shift(raw))
    return 0.5 * (sigma.square() - 1) - sigma.log()


FORMULAS = {"log σ²": kl_direct, "log(σ²)": kl_of_square, "log σ": kl_of_scale}


def sweep(per_decade: int) -> Tensor:
    """σ from 1e-12 to 1e12, float64."""
    return 10.0 ** torch.linspace(-12, 12, 24 * per_decade + 1, dtype=torch.float64)


def reachable(scale: Scale, sigma: Tensor) -> Tensor:
    low, high = scale.range
    return sigma[(sigma > low * 1.001) & (sigma < high * 0.999)]


def with_gradient(function: Callable[[Tensor], Tensor], raw: Tensor) -> tuple[Tensor, Tensor]:
    """f(raw) and df/draw, elementwise."""
    raw = raw.detach().requires_grad_()
    value = function(raw)
    (gradient,) = torch.autograd.grad(value.sum(), raw)
    return value.detach(), gradient


def deviation(found: Tensor, exact: Tensor, unit: float) -> Tensor:
    """|found - exact| / max(|exact|, unit); infinite where ``found`` is no finite number."""
    error = (found.double() - exact).abs() / exact.abs().clamp(min=unit)
    return torch.where(found.isfinite(), error, torch.inf)


def stability(setting: Setting) -> Numbers:
    """Claim 2: error of σ, of the KL and of their gradients over σ = 1e-12 … 1e12.

    The raw output is what a network in the given precision would hold: the exact one, rounded.
    ``rounding`` is the relative error of σ that this alone brings; the other numbers compare what
    is computed from the rounded output with float64 from the same output. Errors of σ and dσ/draw
    are relative; those of the KL and its gradient are relative to max(value, 1).

    Rule: a σ is served if the KL and its gradient are finite and within 32 roundings of exact. The
    claim holds if in every precision log σ² serves some σ < 1 that neither log(σ²) nor log σ does,
    the two taken from a σ = exp(½ log σ²) that was computed first.
    """
    sigma = sweep(4 if setting.quick else 8)
    numbers: Numbers = {"sigma": sigma.tolist(), "precisions": {}}
    for precision, dtype in setting.track(list(DTYPES.items()), description="2 precision"):
        numbers["precisions"][precision] = {
            name: floating(cls(), sigma, dtype) for name, cls in SCALES.items()
        }
    return numbers


def floating(scale: Scale, sigma: Tensor, dtype: torch.dtype) -> Numbers:
    """One rival in one precision, over the σ that it can reach."""
    sigma = reachable(scale, sigma)
    raw = scale.inverse(sigma).to(dtype)
    exact_raw = raw.double()
    exact_sigma, exact_slope = with_gradient(scale.sigma, exact_raw)
    found_sigma, found_slope = with_gradient(scale.sigma, raw)
    # Finite is not enough: a Normal takes no scale of 0.
    found_sigma = torch.where(found_sigma == 0, torch.nan, found_sigma)
    row: Numbers = {
        "sigma": sigma.tolist(),
        "rounding": deviation(exact_sigma, sigma, 0.0).tolist(),
        "scale": deviation(found_sigma, exact_sigma, 0.0).tolist(),
        "slope": deviation(found_slope, exact_slope, torch.finfo(dtype).tiny).tolist(),
        "kl": {},
    }
    exact_kl, exact_gradient = with_gradient(
        lambda r: 0.5 * (torch.expm1(scale.logvar(r)) - scale.logvar(r)), exact_raw
    )
    for formula, kl in FORMULAS.items():
        found_kl, found_gradient = with_gradient(partial(kl, scale), raw)
        error = torch.maximum(
            deviation(found_kl, exact_kl, 1.0), deviation(found_gradient, exact_gradient, 1.0)
        )
        served = sigma[error <= 32 * torch.finfo(dtype).eps].tolist()
        row["kl"][formula] = {
            "error": error.tolist(),
            "finite": error.isfinite().double().mean().item(),
            "served": [min(served), max(served)] if served else None,
        }
    return row


def judge_stability(results: dict[str, Numbers]) -> Verdict:
    precisions = results["stability"]["precisions"]
    regions, words = [], []
    for precision, rows in precisions.items():
        lowest = {f: k["served"][0] for f, k in rows["log-variance"]["kl"].items()}
        words.append(
            f"in {precision} down to {lowest['log σ²']:.0e} from log σ², {lowest['log(σ²)']:.0e} "
            f"through log(σ²) and {lowest['log σ']:.0e} through log σ"
        )
        if lowest["log σ²"] < min(lowest["log(σ²)"], lowest["log σ"]):
            regions.append(f"{precision} and σ is below {lowest['log σ']:.0e}")
    worst = "; ".join(
        f"{max(r['log-variance']['rounding']):.1g} in {p}" for p, r in precisions.items()
    )
    evidence = (
        f"Over σ = 1e-12 to 1e12 the KL and its gradient are right {'; '.join(words)}. Holding "
        f"log σ² costs accuracy: rounding it moves σ by a share of up to {worst}."
    )
    if len(regions) == len(precisions):
        return Verdict("holds", evidence)
    if regions:
        return Verdict("holds only where", evidence, f"the arithmetic is {listed(regions)}")
    return Verdict("does not hold", evidence)


def draw_stability(numbers: Numbers, figure: Figure) -> None:
    axes = figure.subplots(2, 3, sharex=True, sharey="row")
    heights = {"log σ²": 300.0, "log(σ²)": 60.0, "log σ": 12.0}
    for (above, below), (precision, rows) in zip(
        axes.T, numbers["precisions"].items(), strict=True
    ):
        row = rows["log-variance"]
        for colour, (formula, height) in zip(("C0", "C3", "C1"), heights.items(), strict=True):
            points = list(zip(row["sigma"], row["kl"][formula]["error"], strict=True))
            fine = [(s, e) for s, e in points if e is not None]
            lost = [s for s, e in points if e is None]
            above.plot(*zip(*fine, strict=True), ".", ms=3, color=colour, label=f"from {formula}")
            above.plot(lost, [height] * len(lost), "s", ms=2, color=colour)
        for name in ("softplus", "raw", "log-scale", "log-variance"):
            points = list(zip(rows[name]["sigma"], rows[name]["rounding"], strict=True))
            kept = [(s, e) for s, e in points if e]  # a logarithmic axis has no 0
            below.plot(*zip(*kept, strict=True), ".", ms=3, color=COLOURS[name], label=name)
        above.set(title=precision, yscale="log", xscale="log", ylim=(1e-9, 2e3))
        below.set(yscale="log", xlabel="σ", ylim=(1e-9, 1))
    axes[0, 0].set_ylabel("error of KL and gradient\n(squares on top: inf or NaN)")
    axes[1, 0].set_ylabel("relative error of σ\nfrom rounding the raw output")
    axes[0, 0].legend(fontsize=8, markerscale=3)
    axes[1, 0].legend(fontsize=8, markerscale=3)


class Count(TorchDispatchMode):
    """Counts the operations that torch carries out, gradients included; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.total += not func.is_view
        return func(*args, **(kwargs or {}))


def divergence(setting: Setting) -> Numbers:
    """Claim 3: the KL without log σ²: error, operations and time.

    Each rival computes the KL of a batch [128, 20], from log σ² where it has that without σ (the
    four whose names begin with log) and from its σ otherwise, in float32, forward and backward.
    The error is the largest over the σ in 1e-12 … 1e12 that the rival reaches, of the KL and its
    gradient, relative to max(value, 1). Times are those of the fastest of 200 rounds, the rivals
    in turn.

    Rule: the claim does not hold if some rival without a logarithm or a clamp comes within ten
    times the error of log σ², over at least 0.7 of the decades; else it holds.
    """
    sigma = sweep(4 if setting.quick else 8)
    rivals: Numbers = {}
    work = {}
    for name, cls in SCALES.items():
        scale = cls()
        formula = "log σ²" if name.startswith("log-") else "log σ"
        kl, raw = partial(FORMULAS[formula], scale), scale.inverse(torch.rand(128, 20) + 0.5)
        work[name] = partial(with_gradient, kl, raw)
        with Count() as count:
            work[name]()
        error = floating(scale, sigma, torch.float32)["kl"][formula]["error"]
        rivals[name] = {
            "from": formula,
            "error": max(error),
            "decades": len(error) / len(sigma) * 24,
            "operations": count.total,
        }
    for _ in setting.track(range(10 if setting.quick else 200), description="3 divergence"):
        for name, each in work.items():
            took = 1e3 * milliseconds(each, 5)
            rivals[name]["microseconds"] = min(took, rivals[name].get("microseconds", took))
    return {"rivals": rivals}


def judge_divergence(results: dict[str, Numbers]) -> Verdict:
    rows = results["divergence"]["rivals"]
    held = rows["log-variance"]
    free = {n: r for n, r in rows.items() if not n.startswith("log-") and n != "soft-clamped"}
    equal = [
        n
        for n, r in free.items()
        if r["error"] <= 10 * held["error"] and r["decades"] >= 0.7 * held["decades"]
    ]
    evidence = (
        f"From log σ² the KL is off by at most {held['error']:.1e} in float32 and takes "
        f"{held['operations']} operations and {held['microseconds']:.0f} µs for [128, 20] with its "
        "gradient; "
        + "; ".join(
            f"{n}: {r['error']:.1e}, {r['operations']} and {r['microseconds']:.0f} µs"
            for n, r in free.items()
        )
        + "."
    )
    if not equal:
        return Verdict("holds", evidence)
    return Verdict("does not hold", f"{listed(equal)} give the same KL. {evidence}")


def draw_divergence(numbers: Numbers, figure: Figure) -> None:
    axes = figure.subplots(1, 3, sharey=True)
    rows = numbers["rivals"]
    names = list(rows)[::-1]
    for ax, key, label in zip(
        axes,
        ("error", "operations", "microseconds"),
        ("largest error (float32)", "operations", "µs, [128, 20], with gradient"),
        strict=True,
    ):
        value = [rows[n][key] for n in names]
        ax.barh(names, value, color=[COLOURS[n] for n in names])
        ax.set_xlabel(label)
    axes[0].ticklabel_format(axis="x", scilimits=(0, 0))

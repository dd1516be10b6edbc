"""Claims 2 and 3: floating-point errors of σ, of the KL and of its gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..scales import SCALES, Scale
from .base import COLOURS, Numbers, Setting, Verdict, join_words, time_calls

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def kl_from_logvar(scale: Scale, raw: Tensor) -> Tensor:
    """KL(N(0, σ²) || N(0, 1)) from log σ², without σ; elementwise."""
    logvar = scale.logvar(raw)
    return 0.5 * (logvar.exp() - 1 - logvar)


def kl_from_variance(scale: Scale, raw: Tensor) -> Tensor:
    """The same KL from σ and log(σ²), as ``torch.distributions`` computes it."""
    variance = scale.sigma(scale.shift(raw)).square()
    return 0.5 * (variance - 1 - variance.log())


def kl_from_scale(scale: Scale, raw: Tensor) -> Tensor:
    """The same KL from σ and log σ."""
    sigma = scale.sigma(scale.shift(raw))
    return 0.5 * (sigma.square() - 1) - sigma.log()


FORMULAS = {"log σ²": kl_from_logvar, "log(σ²)": kl_from_variance, "log σ": kl_from_scale}


def sigma_grid(per_decade: int) -> Tensor:
    """σ from 1e-12 to 1e12 on a logarithmic grid, float64."""
    return 10.0 ** torch.linspace(-12, 12, 24 * per_decade + 1, dtype=torch.float64)


def keep_reachable(scale: Scale, sigma: Tensor) -> Tensor:
    """The elements of ``sigma`` inside the range of the map."""
    low, high = scale.range
    return sigma[(sigma > low * 1.001) & (sigma < high * 0.999)]


def value_and_gradient(function: Callable[[Tensor], Tensor], raw: Tensor) -> tuple[Tensor, Tensor]:
    """f(raw) and df/draw, elementwise."""
    raw = raw.detach().requires_grad_()
    value = function(raw)
    (gradient,) = torch.autograd.grad(value.sum(), raw)
    return value.detach(), gradient


def relative_error(found: Tensor, exact: Tensor, unit: float) -> Tensor:
    """|found - exact| / max(|exact|, unit); infinite if ``found`` is NaN or infinite."""
    error = (found.double() - exact).abs() / exact.abs().clamp(min=unit)
    return torch.where(found.isfinite(), error, torch.inf)


def measure_stability(setting: Setting) -> Numbers:
    """Claim 2: errors of σ, of the KL and of its gradient, for σ from 1e-12 to 1e12.

    A network in low precision stores a rounded raw output. So we round the exact raw output to the
    precision. ``rounding`` is the relative error of σ from this rounding alone. The errors of the
    KL and its gradient compare a result in the precision with float64, both from the same rounded
    raw output. They are relative to max(value, 1).

    The KL is computed in three ways: from log σ² directly; and from σ = exp(½ log σ²), with
    log(σ²) or with log σ.

    Rule: a way works at a σ if the errors of the KL and its gradient are at most 32 machine
    epsilons of the precision. The claim holds if in every precision the way from log σ² works at
    some σ < 1 at which both other ways fail. It holds only in some precisions if this is the case
    for some of them. Otherwise it does not hold.
    """
    sigma = sigma_grid(4 if setting.quick else 8)
    numbers: Numbers = {"precisions": {}}
    for precision, dtype in setting.track(list(DTYPES.items()), description="2 stability"):
        numbers["precisions"][precision] = {
            name: measure_precision(cls(), sigma, dtype) for name, cls in SCALES.items()
        }
    return numbers


def measure_precision(scale: Scale, sigma: Tensor, dtype: torch.dtype) -> Numbers:
    """Errors of one map in one precision, at the σ inside the range of the map."""
    sigma = keep_reachable(scale, sigma)
    raw = scale.inverse(sigma).to(dtype)
    exact_raw = raw.double()
    row: Numbers = {
        "sigma": sigma.tolist(),
        "rounding": relative_error(scale.sigma(exact_raw), sigma, 0.0).tolist(),
        "kl": {},
    }
    exact_kl, exact_gradient = value_and_gradient(
        lambda r: 0.5 * (torch.expm1(scale.logvar(r)) - scale.logvar(r)), exact_raw
    )
    for formula, kl in FORMULAS.items():
        found_kl, found_gradient = value_and_gradient(partial(kl, scale), raw)
        error = torch.maximum(
            relative_error(found_kl, exact_kl, 1.0),
            relative_error(found_gradient, exact_gradient, 1.0),
        )
        served = sigma[error <= 32 * torch.finfo(dtype).eps].tolist()
        row["kl"][formula] = {
            "error": error.tolist(),
            "served": [min(served), max(served)] if served else None,
        }
    return row


def judge_stability(results: dict[str, Numbers]) -> Verdict:
    precisions = results["stability"]["precisions"]
    regions, words = [], []
    for precision, rows in precisions.items():
        lowest = {f: k["served"][0] for f, k in rows["log-variance"]["kl"].items()}
        words.append(
            f"in {precision} down to σ = {lowest['log σ²']:.0e} from log σ², "
            f"{lowest['log(σ²)']:.0e} from log(σ²) and {lowest['log σ']:.0e} from log σ"
        )
        if lowest["log σ²"] < min(lowest["log(σ²)"], lowest["log σ"]):
            regions.append(f"{precision} and σ is below {lowest['log σ']:.0e}")
    worst = "; ".join(
        f"{max(r['log-variance']['rounding']):.1g} in {p}" for p, r in precisions.items()
    )
    evidence = (
        f"For σ from 1e-12 to 1e12, the KL and its gradient are accurate {'; '.join(words)}. "
        "Rounding log σ² to the precision changes σ by a relative error of up to "
        f"{worst}."
    )
    if len(regions) == len(precisions):
        return Verdict("holds", evidence)
    if regions:
        return Verdict(
            "holds only where", evidence, f"the precision is {join_words(regions, 'or')}"
        )
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
            finite = [(s, e) for s, e in points if e is not None]
            lost = [s for s, e in points if e is None]
            above.plot(
                *zip(*finite, strict=True), ".", ms=3, color=colour, label=f"KL from {formula}"
            )
            above.plot(lost, [height] * len(lost), "s", ms=2, color=colour)
        for name in ("softplus", "raw", "log-scale", "log-variance"):
            points = list(zip(rows[name]["sigma"], rows[name]["rounding"], strict=True))
            kept = [(s, e) for s, e in points if e]  # a logarithmic axis cannot show 0
            below.plot(*zip(*kept, strict=True), ".", ms=3, color=COLOURS[name], label=name)
        above.set(title=precision, yscale="log", xscale="log", ylim=(1e-9, 2e3))
        below.set(yscale="log", xlabel="σ", ylim=(1e-9, 1))
    axes[0, 0].set_ylabel("error of the KL and its gradient\n(squares at the top: inf or NaN)")
    axes[1, 0].set_ylabel("relative error of σ\nfrom rounding the raw output")
    axes[0, 0].legend(fontsize=8, markerscale=3)
    axes[1, 0].legend(fontsize=8, markerscale=3)


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
    1e-12 to 1e12 inside the range of the map. The time is that of the fastest of 200 rounds; each
    round times every map once.

    Rule: consider the maps that do not output a logarithm and do not clamp. The claim does not hold
    if one of them has at most ten times the error of log-variance over at least 0.7 times as many
    decades of σ. Otherwise it holds.
    """
    sigma = sigma_grid(4 if setting.quick else 8)
    maps: Numbers = {}
    work = {}
    for name, cls in SCALES.items():
        scale = cls()
        formula = "log σ²" if name.startswith("log-") else "log σ"
        kl, raw = partial(FORMULAS[formula], scale), scale.inverse(torch.rand(128, 20) + 0.5)
        work[name] = partial(value_and_gradient, kl, raw)
        with OperationCounter() as count:
            work[name]()
        error = measure_precision(scale, sigma, torch.float32)["kl"][formula]["error"]
        maps[name] = {
            "from": formula,
            "error": max(error),
            "decades": len(error) / len(sigma) * 24,
            "operations": count.total,
        }
    for _ in setting.track(range(10 if setting.quick else 200), description="3 divergence"):
        for name, each in work.items():
            duration = 1e3 * time_calls(each, 5)
            maps[name]["microseconds"] = min(duration, maps[name].get("microseconds", duration))
    return {"rivals": maps}


def judge_divergence(results: dict[str, Numbers]) -> Verdict:
    rows = results["divergence"]["rivals"]
    reference = rows["log-variance"]
    others = {n: r for n, r in rows.items() if not n.startswith("log-") and n != "soft-clamped"}
    equal = [
        n
        for n, r in others.items()
        if r["error"] <= 10 * reference["error"] and r["decades"] >= 0.7 * reference["decades"]
    ]
    evidence = (
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

"""Claim 2: floating-point errors of σ, of the KL, of the log-density, and of their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import Normal

from ..scales import SCALES, Scale
from .base import COLOURS, Numbers, Setting, Verdict, join_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)


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


def density_from_logvar(scale: Scale, raw: Tensor) -> Tensor:
    """log N(z; 0, σ²) at the draw z = σ from log σ²; elementwise."""
    z, logvar = scale.sigma(scale.shift(raw)), scale.logvar(raw)
    return -0.5 * (z * (-0.5 * logvar).exp()).square() - 0.5 * logvar - HALF_LOG_2_PI


def density_from_scale(scale: Scale, raw: Tensor) -> Tensor:
    """The same density from σ, as the Normal of torch and of Pyro computes it."""
    sigma = scale.sigma(scale.shift(raw))
    return Normal(torch.zeros_like(sigma), sigma, validate_args=False).log_prob(sigma)


KLS = {"log σ²": kl_from_logvar, "log(σ²)": kl_from_variance, "log σ": kl_from_scale}
DENSITIES = {"log σ²": density_from_logvar, "σ": density_from_scale}
QUANTITIES = {"kl": KLS, "density": DENSITIES}
NAMES = {"kl": "the KL", "density": "the log-density"}


def sigma_grid(low: float, high: float, per_decade: int) -> Tensor:
    """σ from 10^low to 10^high on a logarithmic grid, float64."""
    count = round((high - low) * per_decade) + 1
    return 10.0 ** torch.linspace(low, high, count, dtype=torch.float64)


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
    """Claim 2: errors of σ, of the KL and of the log-density, down to the smallest σ.

    σ goes from 1e-30 to 1e12 in each precision, and from the precision's smallest normal number
    where that is below 1e-30. A network in low precision stores a rounded raw output. So we round
    the exact raw output to the precision. ``rounding`` is the relative error of σ from this
    rounding alone. All other errors compare a result in the precision with the exact one, both from
    the same rounded raw output. They are relative to max(value, 1), and they are those of a value
    or of its gradient by the raw output, whichever is larger. There are no random numbers.

    The KL from a standard Normal is computed in three ways: from log σ² directly; and from
    σ = exp(½ log σ²), with log(σ²), as torch does, or with log σ. The log-density is that of the
    draw z = μ + σ with μ = 0, computed in two ways: from log σ², and from σ by the Normal of torch,
    which Pyro uses too. Pyro's Monte Carlo ELBO needs the log-density; the analytic KL does not.

    Rule: a way works at a σ if its error is at most 32 machine epsilons of the precision. The claim
    holds for a quantity in a precision if the way from log σ² works at some σ < 1 at which all
    ways from σ fail. The claim holds if this is so for both quantities in every precision. It holds
    only in some cases if it is so for some of them. Otherwise it does not hold.
    """
    numbers: Numbers = {"precisions": {}}
    for precision, dtype in setting.track(list(DTYPES.items()), description="2 stability"):
        low = min(-30.0, math.ceil(math.log10(torch.finfo(dtype).smallest_normal)))
        sigma = sigma_grid(low, 12, 4 if setting.quick else 8)
        numbers["precisions"][precision] = {
            name: measure_errors(cls(), sigma, dtype) for name, cls in SCALES.items()
        }
    return numbers


def measure_errors(scale: Scale, sigma: Tensor, dtype: torch.dtype) -> Numbers:
    """Errors of one map in one precision, at the σ inside the range of the map.

    ``works`` holds the smallest and the largest σ at which a way works, and ``fails_below`` the
    largest σ < 1 at which it does not.
    """
    sigma = keep_reachable(scale, sigma)
    raw = scale.inverse(sigma).to(dtype)
    exact_raw = raw.double()
    logvar, slope = value_and_gradient(scale.logvar, exact_raw)
    exact = {
        "kl": (0.5 * (torch.expm1(logvar) - logvar), 0.5 * torch.expm1(logvar) * slope),
        "density": (-0.5 - 0.5 * logvar - HALF_LOG_2_PI, -0.5 * slope),
    }
    row: Numbers = {
        "sigma": sigma.tolist(),
        "rounding": relative_error(scale.sigma(exact_raw), sigma, 0.0).tolist(),
    }
    for quantity, ways in QUANTITIES.items():
        row[quantity] = {}
        for way, function in ways.items():
            found = value_and_gradient(partial(function, scale), raw)
            value, gradient = (
                relative_error(a, b, 1.0) for a, b in zip(found, exact[quantity], strict=True)
            )
            error = torch.maximum(value, gradient)
            good = error <= 32 * torch.finfo(dtype).eps
            works, fails = sigma[good].tolist(), sigma[~good & (sigma < 1)].tolist()
            row[quantity][way] = {
                "error": error.tolist(),
                "works": [min(works), max(works)] if works else None,
                "fails_below": max(fails) if fails else None,
            }
    return row


def advantage(row: Numbers, quantity: str) -> float | None:
    """The largest σ < 1 at which log σ² works and every way from σ fails; None if there is none."""
    ways = row[quantity]
    limits = [way["fails_below"] for name, way in ways.items() if name != "log σ²"]
    below = min(limits) if all(limits) else None
    # Below its own limit, log σ² fails too.
    own = ways["log σ²"]["fails_below"] or 0.0
    return below if below and below > own else None


def judge_stability(results: dict[str, Numbers]) -> Verdict:
    rows = {p: row["log-variance"] for p, row in results["stability"]["precisions"].items()}

    def limit_text(way: Numbers) -> str:
        below = way["fails_below"]
        return (
            f"works down to {way['works'][0]:.0e}" if below is None else f"fails below {below:.0e}"
        )

    words = [
        f"{precision}: "
        + "; ".join(
            f"{NAMES[quantity]} "
            + ", ".join(f"from {w} {limit_text(way)}" for w, way in row[quantity].items())
            for quantity in QUANTITIES
        )
        for precision, row in rows.items()
    ]
    found = {
        quantity: {p: below for p, row in rows.items() if (below := advantage(row, quantity))}
        for quantity in QUANTITIES
    }
    worst = "; ".join(f"{max(row['rounding']):.1g} in {p}" for p, row in rows.items())
    evidence = (
        f"The smallest σ, by precision and way. {'. '.join(words)}. So the KL needs log σ² only in "
        f"{join_words(found['kl'])}, because log σ can take the place of log(σ²), and the "
        f"log-density of torch needs it in {join_words(found['density'])}. Rounding log σ² to the "
        f"precision changes σ by a relative error of up to {worst}."
    )
    regions = [
        f"{NAMES[quantity]} is computed "
        + join_words([f"in {p} below σ = {below:.0e}" for p, below in where.items()], "or")
        for quantity, where in found.items()
        if where
    ]
    if all(len(where) == len(rows) for where in found.values()):
        return Verdict("holds", evidence)
    if regions:
        return Verdict("holds only where", evidence, ", and where ".join(regions))
    return Verdict("does not hold", evidence)


def draw_stability(numbers: Numbers, figure: Figure) -> None:
    axes = figure.subplots(3, 4, sharey="row")
    colours = {"log σ²": "C0", "log(σ²)": "C3", "log σ": "C1", "σ": "C3"}
    for (*errors, below), (precision, rows) in zip(
        axes.T, numbers["precisions"].items(), strict=True
    ):
        row = rows["log-variance"]
        for ax, quantity in zip(errors, QUANTITIES, strict=True):
            for i, way in enumerate(QUANTITIES[quantity]):
                points = list(zip(row["sigma"], row[quantity][way]["error"], strict=True))
                # A logarithmic axis cannot show 0, and infinity is a square at the top.
                kept = [(s, max(e, 1e-18)) for s, e in points if e is not None]
                lost = [s for s, e in points if e is None]
                ax.plot(
                    *zip(*kept, strict=True), ".", ms=3, color=colours[way], label=f"from {way}"
                )
                ax.plot(lost, [1e4 / 30**i] * len(lost), "s", ms=2, color=colours[way])
            ax.set(yscale="log", xscale="log", ylim=(1e-19, 1e6))
        for name in ("softplus", "raw", "log-scale", "log-variance"):
            points = list(zip(rows[name]["sigma"], rows[name]["rounding"], strict=True))
            kept = [(s, e) for s, e in points if e]  # a logarithmic axis cannot show 0
            below.plot(*zip(*kept, strict=True), ".", ms=3, color=COLOURS[name], label=name)
        errors[0].set_title(precision)
        below.set(yscale="log", xscale="log", xlabel="σ", ylim=(1e-19, 1))
    for ax, quantity in zip(axes[:, 0], QUANTITIES, strict=False):
        ax.set_ylabel(f"error of {NAMES[quantity]}\n(squares: inf or NaN)")
        ax.legend(fontsize=7, markerscale=3)
    axes[2, 0].set_ylabel("relative error of σ\nfrom rounding the raw output")
    axes[2, 0].legend(fontsize=7, markerscale=3)

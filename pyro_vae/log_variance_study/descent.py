"""Claim 4: gradient, curvature and number of steps to a known optimum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ..scales import SCALES, Scale
from .base import COLOURS, Numbers, Setting, Verdict, join_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": torch.optim.SGD,
    "Adam": torch.optim.Adam,
}
# No start is an optimum, because a coordinate that starts at its optimum needs no step. The head of
# an untrained encoder starts near 1.
STARTS = (0.01, 0.08, 0.12, 0.8, 1.2, 10.0)
OPTIMA = (0.03, 0.1, 0.3, 1.0)
RATES = tuple(2.0**k for k in range(-17, 5))
REFERENCES = ("raw", "absolute")


def negative_elbo(sigma: Tensor, optimum: Tensor | float) -> Tensor:
    """-ELBO as a function of σ, up to a constant, for z ~ N(0, 1), x ~ N(z, s²).

    Equation: ½ (σ/σ*)² - log σ, with the optimum 1/σ*² = 1 + 1/s².
    """
    return 0.5 * (sigma / optimum).square() - sigma.log()


def steps_to_reach(
    loss: Callable[[Tensor], Tensor],
    start: Tensor,
    reached: Callable[[Tensor], Tensor],
    rates: Sequence[float],
    optimiser: str,
    limit: int,
) -> Tensor:
    """The number of steps after which each coordinate is at its goal and stays there.

    Args:
        loss: elementwise, coordinates ``[...]`` -> losses ``[...]``.
        start: coordinates at step 0, any shape ``[...]``.
        reached: elementwise, coordinates ``[...]`` -> True if the coordinate is at its goal.
        rates: learning rates; the descent runs once with each.
        optimiser: ``"SGD"`` or ``"Adam"``.
        limit: the largest number of steps.

    Returns:
        ``[len(rates), ...]``; infinite if the coordinate is not at its goal after ``limit`` steps.
    """
    rate = torch.tensor(rates, dtype=start.dtype).view(-1, *[1] * start.dim())
    points = start.expand(len(rates), *start.shape).clone().requires_grad_()
    optimizer = OPTIMISERS[optimiser]([points], lr=1.0)
    outside = torch.full(points.shape, -1.0)
    for step in range(limit + 1):
        before = points.detach().clone()
        outside = torch.where(reached(before), outside, float(step))
        optimizer.zero_grad()
        loss(points).sum().backward()
        optimizer.step()
        # A step of SGD or Adam is proportional to the learning rate. So the optimiser runs with
        # rate 1, and one tensor serves all rates.
        with torch.no_grad():
            points.copy_(before + rate * (points - before))
    return torch.where(outside < limit, outside + 1, torch.inf)


def gradient_and_curvature(scale: Scale, sigma: Tensor, optimum: float) -> tuple[Tensor, Tensor]:
    """dL/draw and d²L/draw² at each σ, both of the shape of ``sigma``."""
    raw = scale.inverse(sigma).requires_grad_()
    loss = negative_elbo(scale(raw), optimum).sum()
    (gradient,) = torch.autograd.grad(loss, raw, create_graph=True)
    (curvature,) = torch.autograd.grad(gradient.sum(), raw)
    return gradient.detach(), curvature


def fisher_information(scale: Scale, sigma: Tensor) -> Tensor:
    """The Fisher information of the raw output at each σ, of the shape of ``sigma``.

    Equation: the second derivative of KL(N(0, σ₀²) || N(0, σ²)) by the raw output, at σ = σ₀. It is
    2 (d log σ / draw)².
    """
    raw = scale.inverse(sigma).requires_grad_()
    kl = kl_divergence(Normal(0.0, sigma), Normal(0.0, scale.sigma(raw))).sum()
    (slope,) = torch.autograd.grad(kl, raw, create_graph=True)
    return torch.autograd.grad(slope.sum(), raw)[0]


def condition_number(curvatures: Iterable[float]) -> float:
    """The largest curvature divided by the smallest."""
    values = list(curvatures)
    return max(values) / min(values)


def measure_descent(setting: Setting) -> Numbers:
    """Claim 4: gradient, curvature and steps where the optimum is known.

    The model is z ~ N(0, 1), x ~ N(z, s²), in float64. The loss has no noise, so the numbers are
    exact for this model and have no spread. The optima σ* are 0.03, 0.1, 0.3 and 1. The starts are
    σ = 0.01, 0.08, 0.12, 0.8, 1.2 and 10; none of them is an optimum. The head of an untrained
    encoder starts near 1. The goal is |log(σ / σ*)| < 0.01 for every σ*.

    All σ* share one learning rate, because a network also has one learning rate for all units. For
    each start we choose the learning rate with which the slowest σ* needs the fewest steps, out of
    2^-17, 2^-16, ..., 2^4. An optimum or a start outside the range of a map is left out. The
    condition numbers are those of the Hessian at the optimum over all σ*: for the raw outputs
    alone, and together with the means, whose curvature is 1/σ*² for every map. The Fisher
    information is that of N(0, σ²) for the raw output, for σ from 0.001 to 100.

    Rule: for an optimiser and a start, log σ² is easier than another map if that map needs at least
    1.5 times as many steps, and harder if log σ² needs at least 1.5 times as many steps. The claim
    holds if log σ² is easier than raw, absolute and softplus for every optimiser and start. It
    holds only in some cases if log σ² is easier than raw and absolute for some optimiser and start.
    Otherwise it does not hold. The verdict also names the cases in which log σ² is harder than raw
    and absolute.
    """
    limit = 300 if setting.quick else 2000
    sigma = 10 ** torch.linspace(-3, 2, 26 if setting.quick else 101, dtype=torch.float64)
    numbers: Numbers = {"limit": limit, "rates": RATES, "optima": OPTIMA, "rivals": {}}
    for name in setting.track(list(SCALES), description="4 descent"):
        scale = SCALES[name]()
        low, high = scale.range
        starts = [s for s in STARTS if low < s < high]
        optima = [b for b in OPTIMA if low < b < high]
        inside = sigma[(sigma > low * 1.01) & (sigma < high * 0.99)]
        gradient, curvature = gradient_and_curvature(scale, inside, 0.1)
        curvatures_at_optima = [
            gradient_and_curvature(scale, torch.tensor([b]).double(), b)[1].item() for b in optima
        ]
        row: Numbers = {
            "sigma": inside.tolist(),
            "gradient": gradient.abs().tolist(),
            "curvature": curvature.abs().tolist(),
            "condition": condition_number(curvatures_at_optima),
            "condition_with_means": condition_number(
                curvatures_at_optima + [b**-2 for b in optima]
            ),
            "fisher": fisher_information(scale, inside).tolist(),
            "unreachable": [b for b in OPTIMA if b not in optima],
        }
        goal = torch.tensor(optima).double()  # [optima]
        begin = torch.tensor(starts).double()[:, None].expand(-1, len(optima))
        for optimiser in OPTIMISERS:
            steps = steps_to_reach(
                lambda raw, s=scale, g=goal: negative_elbo(s.sigma(raw), g),  # type: ignore[misc]
                scale.inverse(begin),
                lambda raw, s=scale, g=goal: (s.sigma(raw) / g).log().abs() < 0.01,  # type: ignore[misc]
                RATES,
                optimiser,
                limit,
            ).amax(-1)  # [rates, starts]
            row[optimiser] = {
                str(start): {"steps": int(column.min()), "rate": RATES[int(column.argmin())]}
                for start, column in zip(starts, steps.T, strict=True)
                if column.isfinite().any()
            }
        numbers["rivals"][name] = row
    return numbers


def judge_descent(results: dict[str, Numbers]) -> Verdict:
    limit, rows = results["descent"]["limit"], results["descent"]["rivals"]

    def steps(name: str, optimiser: str, start: float) -> float:
        return rows[name][optimiser].get(str(start), {"steps": math.inf})["steps"]

    def steps_text(name: str, optimiser: str, start: float) -> str:
        count = steps(name, optimiser, start)
        return f"{count:.0f}" if math.isfinite(count) else f"over {limit}"

    def slower(name: str, others: Iterable[str], optimiser: str, start: float) -> bool:
        """Whether a map needs at least 1.5 times as many steps as each of the others."""
        counts = [steps(n, optimiser, start) for n in others]
        return max(counts) < math.inf and 1.5 * max(counts) <= steps(name, optimiser, start)

    def easier(others: Iterable[str], optimiser: str, start: float) -> bool:
        return all(slower(n, ["log-variance"], optimiser, start) for n in others)

    cells = [(o, s) for o in OPTIMISERS for s in STARTS]

    def places(found: list[tuple[str, float]]) -> str:
        spots = {o: [f"{s:g}" for p, s in found if p == o] for o in OPTIMISERS}
        return join_words(
            [f"{o} starts at σ = {join_words(s, 'or')}" for o, s in spots.items() if s], "or"
        )

    where = [cell for cell in cells if easier(REFERENCES, *cell)]
    harder = [cell for cell in cells if slower("log-variance", REFERENCES, *cell)]
    names = ("log-variance", "softplus", "absolute", "raw")
    information = {n: (min(rows[n]["fisher"]), max(rows[n]["fisher"])) for n in names}
    evidence = (
        f"Steps until all σ* from 0.03 to 1 are reached, for {join_words(names)}: "
        + "; ".join(
            f"{o} from {s:g}: " + ", ".join(steps_text(n, o, s) for n in names) for o, s in cells
        )
        + f". The learning rates are chosen from {rates_text()}; results.json has the chosen ones. "
        + f"log-variance is harder than raw and absolute where {places(harder)}. "
        "Condition number of the Hessian of the raw outputs: "
        f"{rows['log-variance']['condition']:.0f} with log-variance, "
        f"{rows['softplus']['condition']:.1f} with softplus and "
        f"{rows['raw']['condition']:.0f} with raw. Condition number of the Hessian of means and "
        f"raw outputs together: {rows['log-variance']['condition_with_means']:.0f}, "
        f"{rows['softplus']['condition_with_means']:.0f} and "
        f"{rows['raw']['condition_with_means']:.0f}. Smallest and largest Fisher information of "
        "the raw output: "
        + ", ".join(f"{n} {low:.2g} and {high:.2g}" for n, (low, high) in information.items())
        + ". The loss has no noise, so these numbers have no spread."
    )
    if all(easier(("raw", "absolute", "softplus"), *cell) for cell in cells):
        return Verdict("holds", evidence)
    if where:
        region = places(where) + (
            f"; the opposite is true where {places(harder)}" if harder else ""
        )
        return Verdict("holds only where", evidence, region)
    return Verdict("does not hold", evidence)


def rates_text() -> str:
    """The learning rates that were tried, as powers of 2."""
    low, high = (round(math.log2(rate)) for rate in (RATES[0], RATES[-1]))
    return f"2^{low}, 2^{low + 1}, ..., 2^{high}"


DRAWN_MAPS = ("log-variance", "log-scale", "softplus", "softplus-variance", "raw")


def draw_slopes(numbers: Numbers, ax: Axes, key: str = "gradient") -> None:
    """The gradient or the curvature of the loss with respect to the raw output, over σ."""
    for name in DRAWN_MAPS:
        row = numbers["rivals"][name]
        ax.plot(row["sigma"], row[key], color=COLOURS[name], label=name)
    ax.axvline(0.1, color="grey", lw=0.8, ls=":")
    ax.set(xscale="log", yscale="log", ylim=(1e-3, 1e7), xlabel="σ (optimum at 0.1)")
    ax.set_title(f"|{key}| of the loss by the raw output")


def draw_descent(numbers: Numbers, figure: Figure) -> None:
    (slope, bend), step_axes = figure.subplots(2, 2)
    draw_slopes(numbers, slope)
    slope.legend(fontsize=8, loc="lower right")
    draw_slopes(numbers, bend, "curvature")
    names = list(numbers["rivals"])
    for ax, optimiser in zip(step_axes, OPTIMISERS, strict=True):
        cells = [[numbers["rivals"][n][optimiser].get(str(s)) for s in STARTS] for n in names]
        ax.imshow(
            [[math.log10(cell["steps"]) if cell else math.nan for cell in row] for row in cells],
            aspect="auto",
            cmap="YlGnBu",
            vmin=0.5,
            vmax=4.5,
        )
        for i, name in enumerate(names):
            low, high = SCALES.build(name).range
            for j, (start, cell) in enumerate(zip(STARTS, cells[i], strict=True)):
                text = "never" if low < start < high else "out of range"
                if cell:
                    text = f"{cell['steps']} ($2^{{{round(math.log2(cell['rate']))}}}$)"
                ax.text(j, i, text, ha="center", va="center", fontsize=7)
        ax.set_xticks(range(len(STARTS)), [f"{s:g}" for s in STARTS])
        ax.set_xlabel("σ at the start")
        ax.set_yticks(range(len(names)), names)
        ax.set_title(f"{optimiser}: steps (learning rate); never: over {numbers['limit']:,}")

"""Claim 4: gradient, curvature and number of steps to a known optimum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..scales import SCALES, Scale
from .base import COLOURS, Numbers, Setting, Verdict, join_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": torch.optim.SGD,
    "Adam": torch.optim.Adam,
}
STARTS = (0.01, 0.1, 1.0, 10.0)
OPTIMA = (0.03, 0.1, 0.3, 1.0)


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


def condition_number(curvatures: Iterable[float]) -> float:
    """The largest curvature divided by the smallest."""
    values = list(curvatures)
    return max(values) / min(values)


def measure_descent(setting: Setting) -> Numbers:
    """Claim 4: gradient, curvature and steps where the optimum is known.

    The model is z ~ N(0, 1), x ~ N(z, s²), in float64. The loss has no noise, so the numbers are
    exact for this model and have no spread. The optima σ* are 0.03, 0.1, 0.3 and 1. The starts are
    σ = 0.01, 0.1, 1 and 10. The goal is |log(σ / σ*)| < 0.01 for every σ*.

    All σ* share one learning rate, because a network also has one learning rate for all units. For
    each start we choose the learning rate of a grid with which the slowest σ* needs the fewest
    steps. An optimum or a start outside the range of a map is left out. The condition numbers are
    those of the Hessian at the optimum over all σ*: for the raw outputs alone, and together with
    the means, whose curvature is 1/σ*² for every map.

    Rule: for an optimiser and a start, log σ² is easier than another map if that map needs at least
    1.5 times as many steps. The claim holds if log σ² is easier than raw, absolute and softplus for
    every optimiser and start. It holds only in some cases if log σ² is easier than raw and absolute
    for some optimiser and start. Otherwise it does not hold.
    """
    limit = 300 if setting.quick else 2000
    rates = [2.0**k for k in range(-17, 5)]
    sigma = 10 ** torch.linspace(-3, 2, 26 if setting.quick else 101, dtype=torch.float64)
    numbers: Numbers = {"limit": limit, "rates": rates, "optima": OPTIMA, "rivals": {}}
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
            "unreachable": [b for b in OPTIMA if b not in optima],
        }
        goal = torch.tensor(optima).double()  # [optima]
        begin = torch.tensor(starts).double()[:, None].expand(-1, len(optima))
        for optimiser in OPTIMISERS:
            steps = steps_to_reach(
                lambda raw, s=scale, g=goal: negative_elbo(s.sigma(raw), g),  # type: ignore[misc]
                scale.inverse(begin),
                lambda raw, s=scale, g=goal: (s.sigma(raw) / g).log().abs() < 0.01,  # type: ignore[misc]
                rates,
                optimiser,
                limit,
            ).amax(-1)  # [rates, starts]
            row[optimiser] = {
                str(start): {"steps": int(column.min()), "rate": rates[int(column.argmin())]}
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

    def easier(others: Iterable[str], optimiser: str, start: float) -> bool:
        mine = steps("log-variance", optimiser, start)
        return all(1.5 * mine <= steps(n, optimiser, start) for n in others) and mine < math.inf

    cells = [(o, s) for o in OPTIMISERS for s in STARTS]
    where = [cell for cell in cells if easier(("raw", "absolute"), *cell)]
    names = ("log-variance", "softplus", "absolute", "raw")
    evidence = (
        f"Steps until all σ* from 0.03 to 1 are reached, for {join_words(names)}: "
        + "; ".join(
            f"{o} from {s:g}: " + ", ".join(steps_text(n, o, s) for n in names) for o, s in cells
        )
        + ". Condition number of the Hessian of the raw outputs: "
        f"{rows['log-variance']['condition']:.0f} with log-variance, "
        f"{rows['softplus']['condition']:.1f} with softplus and "
        f"{rows['raw']['condition']:.0f} with raw. Condition number of the Hessian of means and "
        f"raw outputs together: {rows['log-variance']['condition_with_means']:.0f}, "
        f"{rows['softplus']['condition_with_means']:.0f} and "
        f"{rows['raw']['condition_with_means']:.0f}. The loss has no noise, so these numbers have "
        "no spread."
    )
    if all(easier(("raw", "absolute", "softplus"), *cell) for cell in cells):
        return Verdict("holds", evidence)
    if where:
        spots = {o: [f"{s:g}" for p, s in where if p == o] for o in OPTIMISERS}
        regions = [f"{o} starts at σ = {join_words(s, 'or')}" for o, s in spots.items() if s]
        return Verdict("holds only where", evidence, join_words(regions, "or"))
    return Verdict("does not hold", evidence)


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
        grid = [
            [
                numbers["rivals"][n][optimiser].get(str(s), {"steps": math.nan})["steps"]
                for s in STARTS
            ]
            for n in names
        ]
        ax.imshow(
            [[math.log10(v) for v in row] for row in grid],
            aspect="auto",
            cmap="YlGnBu",
            vmin=0.5,
            vmax=4.5,
        )
        for i, name in enumerate(names):
            low, high = SCALES.build(name).range
            for j, start in enumerate(STARTS):
                never = "never" if low < start < high else "out of range"
                text = f"{grid[i][j]:.0f}" if math.isfinite(grid[i][j]) else never
                ax.text(j, i, text, ha="center", va="center", fontsize=8)
        ax.set_xticks(range(len(STARTS)), [f"σ = {s:g}" for s in STARTS])
        ax.set_xlabel("start")
        ax.set_yticks(range(len(names)), names)
        ax.set_title(f"{optimiser}: steps to all optima (never: over {numbers['limit']:,})")

"""Claims 4 and 5: the way down to a known optimum, by gradient, curvature and steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ..scales import SCALES, Scale
from .base import COLOURS, Numbers, Setting, Verdict, listed

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": torch.optim.SGD,
    "Adam": torch.optim.Adam,
}
STARTS = (0.01, 0.1, 1.0, 10.0)
OPTIMA = (0.03, 0.1, 0.3, 1.0)


def negative_elbo(sigma: Tensor, best: Tensor | float) -> Tensor:
    """-ELBO by σ, up to a constant, of z ~ N(0, 1), x ~ N(z, s²): the optimum is known.

    With 1/best² = 1 + 1/s² it is ½ (σ/best)² - log σ.
    """
    return 0.5 * (sigma / best).square() - sigma.log()


def steps_to_reach(
    loss: Callable[[Tensor], Tensor],
    start: Tensor,
    reached: Callable[[Tensor], Tensor],
    rates: Sequence[float],
    optimiser: str,
    limit: int,
) -> Tensor:
    """Steps after which each coordinate is at its goal and stays there.

    Args:
        loss: elementwise, coordinates ``[...]`` -> losses ``[...]``.
        start: coordinates at step 0, any shape ``[...]``.
        reached: coordinates -> whether each is at its goal.
        rates: learning rates; the coordinates are descended once with each.
        optimiser: ``"SGD"`` or ``"Adam"``.
        limit: number of steps.

    Returns:
        ``[len(rates), ...]``; infinite where the goal was not reached for good within ``limit``.
    """
    points = [start.clone().requires_grad_() for _ in rates]
    groups = [{"params": [p], "lr": rate} for p, rate in zip(points, rates, strict=True)]
    optimizer = OPTIMISERS[optimiser](groups)
    outside = torch.full((len(rates), *start.shape), -1.0)
    for step in range(limit + 1):
        joint = torch.stack(points)
        outside = torch.where(reached(joint.detach()), outside, float(step))
        optimizer.zero_grad()
        loss(joint).sum().backward()
        optimizer.step()
    return torch.where(outside < limit, outside + 1, torch.inf)


def shape_of_loss(scale: Scale, sigma: Tensor, best: float) -> tuple[Tensor, Tensor]:
    """dL/draw and d²L/draw² at each σ."""
    raw = scale.inverse(sigma).requires_grad_()
    loss = negative_elbo(scale(raw), best).sum()
    (gradient,) = torch.autograd.grad(loss, raw, create_graph=True)
    (curvature,) = torch.autograd.grad(gradient.sum(), raw)
    return gradient.detach(), curvature


def condition(curvatures: Iterable[float]) -> float:
    values = list(curvatures)
    return max(values) / min(values)


def descent(setting: Setting) -> Numbers:
    """Claim 4: gradient, curvature and steps where the optimum is known.

    The model is z ~ N(0, 1), x ~ N(z, s²), in float64, without noise, so that there is no
    uncertainty: the numbers are exact for this model. The goal is |log(σ / σ*)| < 0.01 for every
    σ* in ``OPTIMA``, from a start in ``STARTS``. One learning rate serves all σ*, as one has to in
    a network: for each start the one of the grid with which the slowest σ* is reached first. Pairs
    outside a rival's range are left out and counted. The condition numbers are those of the
    Hessian at the optimum over all ``OPTIMA``, for the raw outputs alone and together with the
    means, whose curvature is 1/σ*² whatever the scale.

    Rule: for each optimiser and start, log σ² is easier than a rival if it takes at most 1/1.5 of
    its steps, harder if 1.5 times as many. The claim holds if log σ² is easier than raw σ, |σ| and
    softplus for every optimiser and start; it holds only where it is easier than raw σ and |σ|;
    if that is nowhere, it does not hold.
    """
    limit = 300 if setting.quick else 2000
    rates = [10 ** (k / 2) for k in range(-10, 3)]
    sigma = 10 ** torch.linspace(-3, 2, 26 if setting.quick else 101, dtype=torch.float64)
    numbers: Numbers = {"limit": limit, "rates": rates, "optima": OPTIMA, "rivals": {}}
    for name in setting.track(list(SCALES), description="4 descent"):
        scale = SCALES[name]()
        low, high = scale.range
        starts = [s for s in STARTS if low < s < high]
        optima = [b for b in OPTIMA if low < b < high]
        inside = sigma[(sigma > low * 1.01) & (sigma < high * 0.99)]
        gradient, curvature = shape_of_loss(scale, inside, 0.1)
        bends = [shape_of_loss(scale, torch.tensor([b]).double(), b)[1].item() for b in optima]
        row: Numbers = {
            "sigma": inside.tolist(),
            "gradient": gradient.abs().tolist(),
            "curvature": curvature.abs().tolist(),
            "condition": condition(bends),
            "condition_with_means": condition(bends + [b**-2 for b in optima]),
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

    def told(name: str, optimiser: str, start: float) -> str:
        found = steps(name, optimiser, start)
        return f"{found:.0f}" if math.isfinite(found) else f"over {limit}"

    def easier(rivals: Iterable[str], optimiser: str, start: float) -> bool:
        mine = steps("log-variance", optimiser, start)
        return all(1.5 * mine <= steps(n, optimiser, start) for n in rivals) and mine < math.inf

    cells = [(o, s) for o in OPTIMISERS for s in STARTS]
    where = [cell for cell in cells if easier(("raw", "absolute"), *cell)]
    evidence = (
        "Steps to every σ* from 0.03 to 1, log-variance / softplus / |σ| / raw: "
        + "; ".join(
            f"{o} from σ₀ = {s:g}: "
            + " / ".join(told(n, o, s) for n in ("log-variance", "softplus", "absolute", "raw"))
            for o, s in cells
        )
        + f". Condition number of the scales' own Hessian: {rows['log-variance']['condition']:.0f} "
        f"for log-variance, {rows['softplus']['condition']:.1f} for softplus, "
        f"{rows['raw']['condition']:.0f} for raw; with the means in it "
        f"{rows['log-variance']['condition_with_means']:.0f}, "
        f"{rows['softplus']['condition_with_means']:.0f} and "
        f"{rows['raw']['condition_with_means']:.0f}. Exact, without noise."
    )
    if all(easier(("raw", "absolute", "softplus"), *cell) for cell in cells):
        return Verdict("holds", evidence)
    if where:
        spots = {o: [f"{s:g}" for p, s in where if p == o] for o in OPTIMISERS}
        told_where = [f"{o} starts from σ₀ = {listed(s)}" for o, s in spots.items() if s]
        return Verdict("holds only where", evidence, listed(told_where))
    return Verdict("does not hold", evidence)


def draw_descent(numbers: Numbers, figure: Figure) -> None:
    (slope, bend), tables = figure.subplots(2, 2)
    for name in ("log-variance", "log-scale", "softplus", "softplus-variance", "raw"):
        row = numbers["rivals"][name]
        slope.plot(row["sigma"], row["gradient"], color=COLOURS[name], label=name)
        bend.plot(row["sigma"], row["curvature"], color=COLOURS[name])
    for ax, label in ((slope, "|gradient| by the raw output"), (bend, "|curvature|")):
        ax.axvline(0.1, color="grey", lw=0.8, ls=":")
        ax.set(
            xscale="log", yscale="log", ylim=(1e-3, 1e7), xlabel="σ (optimum at 0.1)", title=label
        )
    slope.legend(fontsize=8)
    names = list(numbers["rivals"])
    for ax, optimiser in zip(tables, OPTIMISERS, strict=True):
        grid = [
            [
                numbers["rivals"][n][optimiser].get(str(s), {"steps": math.nan})["steps"]
                for s in STARTS
            ]
            for n in names
        ]
        ax.imshow(torch.tensor(grid).log10(), aspect="auto", cmap="YlGnBu", vmin=0.5, vmax=4.5)
        for i, name in enumerate(names):
            low, high = SCALES[name].range
            for j, start in enumerate(STARTS):
                never = "never" if low < start < high else "out of range"
                text = f"{grid[i][j]:.0f}" if math.isfinite(grid[i][j]) else never
                ax.text(j, i, text, ha="center", va="center", fontsize=8)
        ax.set_xticks(range(len(STARTS)), [f"σ₀ = {s:g}" for s in STARTS])
        ax.set_yticks(range(len(names)), names)
        ax.set_title(f"{optimiser}: steps to all optima, best learning rate")


class Tiny(nn.Module):
    """A Gaussian VAE small enough to descend in float64: x [N, 8], z [N, 3].

    Args:
        scale: how the raw output becomes σ.
        stretch: factor on the weights that give the raw output, at the start.
        seed: of the weights.
    """

    def __init__(self, scale: Scale, stretch: float, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.scale = scale
        self.features = nn.Sequential(nn.Linear(8, 16), nn.Tanh())
        self.loc, self.raw = nn.Linear(16, 3), nn.Linear(16, 3)
        self.decoder = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 8))
        self.double()
        with torch.no_grad():
            for parameter in self.raw.parameters():
                parameter.mul_(stretch)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """-ELBO in nats per row, up to a constant, with unit noise on x."""
        h = self.features(x)  # [N, 16]
        loc, raw = self.loc(h), self.raw(h)  # each [N, 3]
        sigma, logvar = self.scale(raw), self.scale.logvar(raw)
        kl = 0.5 * (loc.square() + sigma.square() - 1 - logvar).sum(-1)  # [N]
        return (0.5 * (x - self.decoder(loc + sigma * noise)).square().sum(-1) + kl).mean()


def path(name: str, stretch: float, optimiser: str, rate: float, factor: float, seed: int,
         steps: int) -> Tensor:  # fmt: skip
    """The losses of a :class:`Tiny` descended with ``rate``, times ``factor`` for the raw head."""
    model = Tiny(SCALES[name](), stretch, seed)
    head = list(model.raw.parameters())
    rest = [p for n, p in model.named_parameters() if not n.startswith("raw.")]
    optimizer = OPTIMISERS[optimiser](
        [{"params": rest, "lr": rate}, {"params": head, "lr": rate * factor}]
    )
    source = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(64, 8, generator=source, dtype=torch.float64)
    losses = []
    for _ in range(steps):
        loss = model(x, torch.randn(64, 3, generator=source, dtype=torch.float64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64)


def factor_two(setting: Setting) -> Numbers:
    """Claim 5: log σ² against log σ in the same network, data and noise, float64.

    The weights of the raw head start equal, or doubled for log σ² so that both begin with the same
    σ for every x; its learning rate is multiplied by ½, 1, 2 or 4. The distance is the largest
    difference between the two loss curves, in nats, over the steps and seeds.

    Rule: curves coincide below 1e-3 nats. The claim holds if they do in the plain case (equal
    weights, factor 1) for both optimisers; it holds only where they do in some other case; else
    it does not hold.
    """
    steps = 100 if setting.quick else 500
    rates = {"SGD": 0.03, "Adam": 0.01}
    cases = [(stretch, factor) for stretch in (1.0, 2.0) for factor in (0.5, 1.0, 2.0, 4.0)]
    numbers: Numbers = {"steps": steps, "rates": rates, "optimisers": {}}
    for optimiser, rate in setting.track(list(rates.items()), description="5 factor two"):
        base = [
            path("log-scale", 1.0, optimiser, rate, 1.0, s, steps) for s in range(setting.seeds)
        ]
        rows = []
        for stretch, factor in cases:
            apart = torch.stack([
                path("log-variance", stretch, optimiser, rate, factor, s, steps) - base[s]
                for s in range(setting.seeds)
            ]).abs()  # fmt: skip
            rows.append(
                {
                    "stretch": stretch,
                    "factor": factor,
                    "distance": apart.max().item(),
                    "curve": apart.max(0).values.tolist(),
                }
            )
        numbers["optimisers"][optimiser] = rows
    return numbers


def judge_factor_two(results: dict[str, Numbers]) -> Verdict:
    cases = results["factor_two"]["optimisers"]
    plain = {
        o: next(r for r in rows if r["stretch"] == r["factor"] == 1) for o, rows in cases.items()
    }
    same = {o: [r for r in rows if r["distance"] < 1e-3] for o, rows in cases.items()}
    evidence = "Largest distance between the loss curves: " + "; ".join(
        f"{o} {plain[o]['distance']:.2g} nats as it stands, "
        + ", ".join(
            f"{r['distance']:.1g} with the head's learning rate × {r['factor']:g}"
            for r in rows
            if r["stretch"] == 2
        )
        + " and its weights doubled"
        for o, rows in cases.items()
    )
    if all(row["distance"] < 1e-3 for row in plain.values()):
        return Verdict("holds", evidence + ".")
    if any(same.values()):
        times = {o: [f"{row['factor']:g}" for row in rows] for o, rows in same.items() if rows}
        region = listed(
            f"{o} gives the raw head {listed(t)} times the rate" for o, t in times.items()
        )
        return Verdict(
            "holds only where", evidence + ".", f"{region}, from a head with doubled weights"
        )
    return Verdict("does not hold", evidence + ".")


def draw_factor_two(numbers: Numbers, figure: Figure) -> None:
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (optimiser, rows) in zip(axes, numbers["optimisers"].items(), strict=True):
        for i, row in enumerate(rows):
            ax.plot(
                [max(v, 1e-17) for v in row["curve"]],
                "--" if row["stretch"] == 1 else "-",
                color=f"C{i % 4}",
                label=f"weights × {row['stretch']:g}, rate × {row['factor']:g}",
            )
        ax.set(title=optimiser, xlabel="step", yscale="log", ylim=(1e-17, 1e3))
    axes[0].set_ylabel("|loss(log σ²) - loss(log σ)|, nats")
    axes[0].legend(
        fontsize=7, ncols=2, title="log σ² relative to log σ, raw head only", title_fontsize=7
    )

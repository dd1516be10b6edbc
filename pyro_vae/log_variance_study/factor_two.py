"""Claim 5: log σ² and log σ in the same network, with the same data and noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..scales import SCALES, Scale
from .base import Numbers, Setting, Verdict, join_words
from .descent import OPTIMISERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class SmallVAE(nn.Module):
    """A small Gaussian VAE in float64: x ``[N, 8]``, z ``[N, 3]``.

    Args:
        scale: the map from the raw output to σ.
        stretch: factor on the initial weights and biases of the raw head, the layer that computes
            the raw output.
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
        """-ELBO in nats per row, up to a constant. The likelihood is Normal with σ = 1."""
        h = self.features(x)  # [N, 16]
        loc, raw = self.loc(h), self.raw(h)  # each [N, 3]
        sigma, logvar = self.scale(raw), self.scale.logvar(raw)
        kl = 0.5 * (loc.square() + sigma.square() - 1 - logvar).sum(-1)  # [N]
        return (0.5 * (x - self.decoder(loc + sigma * noise)).square().sum(-1) + kl).mean()


def train_small_vae(
    name: str,
    stretch: float,
    optimiser: str,
    rate: float,
    factor: float,
    seed: int,
    steps: int,
) -> Tensor:
    """The losses of a :class:`SmallVAE`, one for each training step, ``[steps]``.

    The learning rate is ``rate``, and ``rate * factor`` for the raw head.
    """
    model = SmallVAE(SCALES[name](), stretch, seed)
    head = list(model.raw.parameters())
    others = [p for n, p in model.named_parameters() if not n.startswith("raw.")]
    optimizer = OPTIMISERS[optimiser](
        [{"params": others, "lr": rate}, {"params": head, "lr": rate * factor}]
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


def measure_factor_two(setting: Setting) -> Numbers:
    """Claim 5: log σ² and log σ in the same network, with the same data and noise, in float64.

    In one case, the raw head has the same initial weights for both maps. In the other case, log σ²
    starts with doubled weights; then both maps start with the same σ for every x. The learning rate
    of the raw head of log σ² is multiplied by ½, 1, 2 or 4. The distance is the largest difference
    between the two loss curves, in nats, over all steps and seeds.

    Rule: two curves are the same if their distance is below 1e-3 nats. The claim holds if they are
    the same with equal weights and factor 1, for both optimisers. It holds only in some cases if
    they are the same with other weights or factors. Otherwise it does not hold.
    """
    steps = 100 if setting.quick else 500
    rates = {"SGD": 0.03, "Adam": 0.01}
    cases = [(stretch, factor) for stretch in (1.0, 2.0) for factor in (0.5, 1.0, 2.0, 4.0)]
    numbers: Numbers = {"steps": steps, "rates": rates, "optimisers": {}}
    for optimiser, rate in setting.track(list(rates.items()), description="5 factor_two"):
        reference = [
            train_small_vae("log-scale", 1.0, optimiser, rate, 1.0, s, steps)
            for s in range(setting.seeds)
        ]
        rows = []
        for stretch, factor in cases:
            curves = [
                train_small_vae("log-variance", stretch, optimiser, rate, factor, s, steps)
                for s in range(setting.seeds)
            ]
            difference = (torch.stack(curves) - torch.stack(reference)).abs()  # [seeds, steps]
            rows.append(
                {
                    "stretch": stretch,
                    "factor": factor,
                    "distance": difference.max().item(),
                    "curve": difference.max(0).values.tolist(),
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
    evidence = "Largest distance between the two loss curves: "
    evidence += "; ".join(
        f"{o}: {plain[o]['distance']:.2f} nats with equal weights and equal learning rates; with "
        "doubled weights of the raw head, "
        + ", ".join(
            f"{r['distance']:.1g} at {r['factor']:g} times the learning rate"
            for r in rows
            if r["stretch"] == 2
        )
        for o, rows in cases.items()
    )
    if all(row["distance"] < 1e-3 for row in plain.values()):
        return Verdict("holds", evidence + ".")
    if any(same.values()):
        times = {o: [f"{row['factor']:g}" for row in rows] for o, rows in same.items() if rows}
        rates = join_words(f"by {join_words(t, 'or')} for {o}" for o, t in times.items())
        region = "the raw head of log σ² starts with doubled weights and its learning rate is "
        region += f"multiplied {rates}"
        return Verdict("holds only where", evidence + ".", region)
    return Verdict("does not hold", evidence + ".")


def draw_factor_two(numbers: Numbers, figure: Figure) -> None:
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (optimiser, rows) in zip(axes, numbers["optimisers"].items(), strict=True):
        for i, row in enumerate(rows):
            ax.plot(
                [max(v, 1e-17) for v in row["curve"]],
                "--" if row["stretch"] == 1 else "-",
                color=f"C{i % 4}",
                label=f"weights × {row['stretch']:g}, lr × {row['factor']:g}",
            )
        ax.set(title=optimiser, xlabel="step", yscale="log", ylim=(1e-18, 1e3))
    axes[0].set_ylabel("difference of the losses, nats\n(0 is drawn at 1e-17)")
    handles, labels = axes[0].get_legend_handles_labels()
    title = "raw head of log σ²,\nrelative to log σ"
    figure.legend(handles, labels, loc="outside right center", fontsize=8, title=title)

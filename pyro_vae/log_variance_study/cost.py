"""Claim 6: what the exponential costs, next to a whole training step."""

from __future__ import annotations

from statistics import median
from typing import Any

import pyro
import torch
from matplotlib.figure import Figure
from pyro.infer import Trace_ELBO

from ..scales import SCALES
from ..training import adam
from ..vae import VAE
from .base import COLOURS, Numbers, Setting, Verdict, interval, milliseconds
from .precision import with_gradient

RIVALS = ("absolute", "softplus", "log-scale", "log-variance")


def stepper(name: str, x: torch.Tensor) -> Any:
    """A training step of a 784-400-20 VAE with this scale, ready to be called."""
    torch.manual_seed(0)
    vae = VAE(
        tuple(x.shape[1:]), 20, guide=f"mean-field(scale='{name}(initial=1.0)')", hidden=(400,)
    )
    optimizer, objective = adam(vae, 1e-3), Trace_ELBO()

    def step() -> None:
        with pyro.validation_enabled(False):
            objective.loss_and_grads(vae.model, vae.guide, x)
        optimizer.step()
        optimizer.zero_grad()

    return step


def cost(setting: Setting) -> Numbers:
    """Claim 6: the exponential's share of a training step.

    A step of the 784-400-20 VAE at batch 128 (objective, gradients, Adam), and exp(½ raw) with its
    gradient on the same [128, 20], are timed in turn, round after round, so that a busy machine
    slows them alike; so is the step with other scales, of which the fastest round is given. The
    uncertainty of the share is the 95 % interval over rounds.

    Rule: the claim does not hold if exp takes less than 2 % of the step, upper end of the interval
    included; it holds if it takes more than 5 %, lower end included.
    """
    rounds, times = (5, 5) if setting.quick else (20, 20)
    x = (torch.rand(128, 1, 28, 28) > 0.8).float()
    raw = torch.randn(128, 20)
    scale = SCALES["log-variance"]()
    work = {name: stepper(name, x) for name in RIVALS}
    work["exp"] = lambda: with_gradient(scale, raw)
    # What asking for a gradient costs by itself: the same with nothing to compute.
    work["nothing"] = lambda: with_gradient(torch.clone, raw)
    for each in work.values():
        milliseconds(each, 3)
    took: dict[str, list[float]] = {name: [] for name in work}
    for _ in setting.track(range(rounds), description="6 cost"):
        for name, each in work.items():
            took[name].append(milliseconds(each, times * (1 if name in RIVALS else 20)))
    shares = [
        100 * (e - n) / s
        for e, n, s in zip(took["exp"], took["nothing"], took["log-variance"], strict=True)
    ]
    return {
        "fastest": {name: min(times) for name, times in took.items()},
        "typical": {name: median(times) for name, times in took.items()},
        "share": interval(shares),
        "rounds": rounds,
    }


def judge_cost(results: dict[str, Numbers]) -> Verdict:
    numbers = results["cost"]
    share, spread = numbers["share"]
    fastest, typical = numbers["fastest"], numbers["typical"]
    evidence = (
        f"exp with its gradient takes {share:.2f} ± {spread:.2f} % of a training step of "
        f"{typical['log-variance']:.1f} ms (784-400-20, batch 128, CPU); the fastest whole step of "
        f"{numbers['rounds']} rounds takes {fastest['log-variance']:.2f} ms with log-variance, "
        f"{fastest['softplus']:.2f} with softplus and {fastest['absolute']:.2f} with |σ|."
    )
    if share + spread < 2:
        return Verdict("does not hold", evidence)
    if share - spread > 5:
        return Verdict("holds", evidence)
    return Verdict("holds only where", evidence, "a few per cent of a step count")


def draw_cost(numbers: Numbers, figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    left.bar(RIVALS, [numbers["fastest"][n] for n in RIVALS], color=[COLOURS[n] for n in RIVALS])
    left.set(ylabel="ms", title="a whole training step, fastest of the rounds")
    share, spread = numbers["share"]
    right.bar(["exp and its gradient", "all the rest"], [share, 100 - share], color=["C3", "0.7"])
    right.errorbar(0, share, spread, color="black", capsize=4)
    right.set(
        ylabel="% of a training step", title=f"{share:.2f} ± {spread:.2f} %, 95 % over rounds"
    )

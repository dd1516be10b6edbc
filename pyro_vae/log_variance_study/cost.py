"""Claim 6: the time of the exponential, compared with a whole training step."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro.infer import Trace_ELBO

from ..scales import SCALES
from ..training import adam
from ..vae import VAE
from .base import COLOURS, Numbers, Setting, Verdict, median_interval, time_calls
from .precision import value_and_gradient

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TIMED_MAPS = ("absolute", "softplus", "log-scale", "log-variance")


def build_step(name: str, x: torch.Tensor) -> Any:
    """A function that does one training step of a 784-400-20 VAE with this map."""
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


def measure_cost(setting: Setting) -> Numbers:
    """Claim 6: the share of a training step that the exponential takes.

    Two things are timed: a step of the 784-400-20 VAE at batch 128 (objective, gradients, Adam),
    and exp(½ raw) with its gradient on a tensor [128, 20]. Each round times both, so that other
    load on the machine slows both. The step is also timed with other maps; the verdict quotes the
    fastest round. The share is the median over rounds, with its 95 % interval from their order.

    Rule: the claim does not hold if the upper end of the interval is below 2 % of the step. It
    holds if the lower end is above 5 %.
    """
    rounds, times = (8, 3) if setting.quick else (20, 20)
    x = (torch.rand(128, 1, 28, 28) > 0.8).float()
    raw = torch.randn(128, 20)
    scale = SCALES["log-variance"]()
    work = {name: build_step(name, x) for name in TIMED_MAPS}
    work["exp"] = lambda: value_and_gradient(scale, raw)
    # The same call without exp: its time is subtracted, because autograd itself takes time.
    work["nothing"] = lambda: value_and_gradient(torch.clone, raw)
    for each in work.values():
        time_calls(each, 3)
    measured: dict[str, list[float]] = {name: [] for name in work}
    for _ in setting.track(range(rounds), description="6 cost"):
        for name, each in work.items():
            measured[name].append(time_calls(each, times * (1 if name in TIMED_MAPS else 20)))
    shares = [
        100 * (e - n) / s
        for e, n, s in zip(
            measured["exp"], measured["nothing"], measured["log-variance"], strict=True
        )
    ]
    return {
        "fastest": {name: min(times) for name, times in measured.items()},
        "typical": {name: median(times) for name, times in measured.items()},
        "share": median_interval(shares),
        "rounds": rounds,
    }


def judge_cost(results: dict[str, Numbers]) -> Verdict:
    numbers = results["cost"]
    share, low, high = numbers["share"]
    fastest, typical = numbers["fastest"], numbers["typical"]
    evidence = (
        f"exp and its gradient take {share:.2f} % of a training step (median of "
        f"{numbers['rounds']} rounds, 95 % interval {low:.2f} to {high:.2f} %). The median step "
        f"takes {typical['log-variance']:.1f} ms (784-400-20, batch 128, CPU). The fastest step "
        f"takes {fastest['log-variance']:.2f} ms with log-variance, {fastest['softplus']:.2f} ms "
        f"with softplus and {fastest['absolute']:.2f} ms with absolute."
    )
    if high < 2:
        return Verdict("does not hold", evidence)
    if low > 5:
        return Verdict("holds", evidence)
    return Verdict("holds only where", evidence, "a few per cent of a training step matter")


def draw_cost(numbers: Numbers, figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    left.bar(
        TIMED_MAPS,
        [numbers["fastest"][n] for n in TIMED_MAPS],
        color=[COLOURS[n] for n in TIMED_MAPS],
    )
    left.set(ylabel="ms", title="a whole training step, fastest round")
    share, low, high = numbers["share"]
    right.bar(
        ["exp and its gradient", "rest of the step"], [share, 100 - share], color=["C3", "0.7"]
    )
    right.errorbar(0, share, [[share - low], [high - share]], color="black", capsize=4)
    right.set(
        ylabel="% of a training step",
        title=f"{share:.2f} % ({low:.2f} to {high:.2f} %: 95 % interval over rounds)",
    )

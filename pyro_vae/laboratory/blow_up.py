"""Claim 7: learning rates and initial weights at which a scale stops the training."""

from __future__ import annotations

import warnings
from collections import Counter
from functools import partial
from math import isfinite
from typing import Any

import pyro
import torch
from matplotlib.figure import Figure
from pyro.infer import Trace_ELBO
from torch import Tensor

from ..data import Data
from ..errors import InputError
from ..guides import MeanField
from ..networks import MLP
from ..scales import SCALES, Scale
from ..training import adam
from ..vae import VAE
from .base import Numbers, Setting, Verdict, digits, listed


def untrained(scale: Scale, seed: int, gain: float = 1.0) -> VAE:
    """A 784-100-10 VAE; ``gain`` multiplies the weights that give the raw output."""
    torch.manual_seed(seed)
    shape, hidden = (1, 28, 28), (100,)
    posterior = MeanField(MLP(shape, hidden).encoder(), 10)
    vae = VAE(shape, 10, guide=posterior, hidden=hidden)
    # Only now, since a VAE looks at its own posterior when it is built, and refuses a bad one.
    posterior.scale = scale
    with torch.no_grad():
        for parameter in posterior.head.parameters():
            parameter[10:] *= gain
    return vae


def by_pyro(vae: VAE, x: Tensor) -> float:
    """-ELBO with its gradients, as Pyro has it; nats, summed over the batch."""
    return Trace_ELBO().loss_and_grads(vae.model, vae.guide, x)


def by_hand(vae: VAE, x: Tensor) -> float:
    """-ELBO with its gradients, KL from the raw output's log σ²; nats, summed over the batch.

    Pyro's Normal holds σ and takes its logarithm anew; this is the loss of the public code, which
    holds log σ² and never takes one.
    """
    posterior: Any = vae.guide.posterior
    loc, raw = posterior.head(posterior.encoder(x)).chunk(2, -1)  # each [B, Z]
    sigma, logvar = posterior.scale(raw), posterior.scale.logvar(raw)
    kl = 0.5 * (loc.square() + sigma.square() - 1 - logvar).sum()
    z = loc + sigma * torch.randn_like(loc)
    loss = kl - vae.model.likelihood(z).log_prob(x).sum()
    loss.backward()
    return loss.item()


LOSSES = {"Pyro": by_pyro, "KL by hand": by_hand}


def ending(
    vae: VAE, data: Data, lr: float, steps: int, seed: int, loss: str = "Pyro"
) -> tuple[str, int]:
    """Train with Adam at batch 50 until the end or the first failure: what it was, and the step."""
    loss_of, optimizer = partial(LOSSES[loss], vae), adam(vae, lr)
    torch.manual_seed(seed)
    done = 0
    while True:
        for x in data.train.batches(50, shuffle=True):
            if done == steps:
                return "trained", done
            with pyro.validation_enabled(False), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Encountered NaN")
                try:
                    value = loss_of(x)
                except InputError:
                    return "σ zero or less", done
            if not isfinite(value):
                return cause(vae, x), done
            optimizer.step()
            optimizer.zero_grad()
            done += 1


@torch.no_grad()
def cause(vae: VAE, x: Tensor) -> str:
    """What the scales of a failed step look like."""
    posterior: Any = vae.guide.posterior
    sigma = posterior.scale(posterior.head(posterior.encoder(x)).chunk(2, -1)[1])
    if sigma.isnan().any():
        return "weights NaN"
    ends = (bool(sigma.isinf().any()), bool((sigma == 0).any()))
    return CAUSES[ends]


CAUSES = {
    (True, False): "σ infinite",
    (False, True): "σ zero",
    (True, True): "σ infinite and zero",
    (False, False): "σ finite",
}


RATES, GAINS = (1e-3, 1e-2, 1e-1, 1.0), (1.0, 10.0, 100.0, 1000.0)


def blow_up(setting: Setting) -> Numbers:
    """Claim 7: share of runs that end in NaN, over learning rate × initial weights of the raw head.

    A 784-100-10 VAE on MNIST-5k, Adam, batch 50, float32, σ = 1 at raw 0, 40 steps, 2 seeds. Checks
    are off, so that what fails is the arithmetic: the loss NaN or infinite, or for raw a σ of zero
    or less. With the loss as Pyro has it, whose Normal holds σ, and as public code has it, with the
    KL from log σ². The scales of the step that fails tell overflow from underflow; where the
    weights are NaN by then, a gradient was NaN under a finite loss, and neither is told.

    Rule: the claim does not hold if no run of log-variance fails with an infinite σ, under either
    loss; it holds if some do at the smallest rate with weights as they are initialised; else it
    holds only where they do.
    """
    steps = 15 if setting.quick else 40
    rates, gains = (RATES[::3], GAINS[::3]) if setting.quick else (RATES, GAINS)
    seeds = range(1 if setting.quick else min(setting.seeds, 2))
    data = digits(setting)

    def cell(name: str, loss: str, lr: float, gain: float) -> dict[str, int]:
        scale = SCALES[name](initial=1.0)
        ends = [ending(untrained(scale, s, gain), data, lr, steps, s, loss)[0] for s in seeds]
        return dict(Counter(ends))

    rivals = {
        name: {
            loss: [[cell(name, loss, lr, gain) for gain in gains] for lr in rates]
            for loss in LOSSES
        }
        for name in setting.track(list(SCALES), description="7 blow-up")
    }
    return {"steps": steps, "rates": rates, "gains": gains, "seeds": len(seeds), "rivals": rivals}


def total(grid: list[list[dict[str, int]]]) -> Counter[str]:
    """How the runs of a whole grid ended."""
    return sum((Counter(cell) for row in grid for cell in row), Counter())


def failed(ends: dict[str, int]) -> float:
    return 1 - ends.get("trained", 0) / sum(ends.values())


def judge_blow_up(results: dict[str, Numbers]) -> Verdict:
    numbers = results["blow_up"]
    rivals, rates, gains = (numbers[k] for k in ("rivals", "rates", "gains"))
    overflows = sorted(
        {
            (lr, gain)
            for grid in rivals["log-variance"].values()
            for lr, row in zip(rates, grid, strict=True)
            for gain, ends in zip(gains, row, strict=True)
            if any("infinite" in end for end in ends)
        }
    )
    runs = len(rates) * len(gains) * numbers["seeds"]
    by_cause = {
        loss: ", ".join(f"{end} {n}" for end, n in total(grid).items() if end != "trained")
        for loss, grid in rivals["log-variance"].items()
    }
    shares = "; ".join(
        f"{loss}: " + ", ".join(f"{n} {failed(total(g[loss])):.0%}" for n, g in rivals.items())
        for loss in LOSSES
    )
    evidence = (
        f"Share that fails of {runs} runs over learning rates {rates[0]:g} to {rates[-1]:g} and "
        f"raw heads initialised {gains[0]:g} to {gains[-1]:g} times as large as usual, by the "
        f"loss. {shares}. What log-variance fails of: "
        + "; ".join(f"{loss}: {causes or 'nothing'}" for loss, causes in by_cause.items())
        + "."
    )
    if not overflows:
        return Verdict("does not hold", evidence)
    if (rates[0], gains[0]) in overflows:
        return Verdict("holds", evidence)
    usual = [lr for lr, gain in overflows if gain == gains[0]]
    wide = [gain for lr, gain in overflows if lr == rates[0]]
    region = [f"the learning rate is {min(usual):g} or more"] if usual else []
    region += [f"the raw head starts {min(wide):g} times as large as usual"] if wide else []
    both = listed(f"{lr:g} × {gain:g}" for lr, gain in overflows)
    return Verdict("holds only where", evidence, " or ".join(region) or f"rate × size is {both}")


def draw_blow_up(numbers: Numbers, figure: Figure) -> None:
    *bars, heat = figure.subplots(1, 3, width_ratios=(3, 3, 4))
    names = list(SCALES)[::-1]
    ends = (
        "σ infinite",
        "σ infinite and zero",
        "σ zero",
        "σ zero or less",
        "σ finite",
        "weights NaN",
    )
    colours = dict(
        zip(ends, ("#d62728", "#8c2d04", "#1f77b4", "#bcbd22", "0.5", "0.75"), strict=True)
    )
    for ax, loss in zip(bars, LOSSES, strict=True):
        done = {name: total(numbers["rivals"][name][loss]) for name in names}
        left = [0.0] * len(names)
        for end, colour in colours.items():
            width = [100 * done[n][end] / sum(done[n].values()) for n in names]
            if any(width):
                ax.barh(names, width, left=left, color=colour, label=end)
            left = [a + b for a, b in zip(left, width, strict=True)]
        ax.set(title=f"loss: {loss}", xlabel="runs that fail, %", xlim=(0, 100))
    bars[1].set_yticks([])
    handles = {h.get_label(): h for ax in bars for h in ax.containers}
    figure.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=6, fontsize=8)
    grid = [[failed(ends) for ends in row] for row in numbers["rivals"]["log-variance"]["Pyro"]]
    heat.imshow(grid, vmin=0, vmax=1, cmap="Reds", origin="lower", aspect="auto")
    for i, row in enumerate(grid):
        for j, value in enumerate(row):
            ink = "white" if value > 0.6 else "black"
            heat.text(j, i, f"{value:.0%}", ha="center", va="center", color=ink)
    heat.set_xticks(range(len(numbers["gains"])), [f"{g:g}" for g in numbers["gains"]])
    heat.set_yticks(range(len(numbers["rates"])), [f"{r:g}" for r in numbers["rates"]])
    heat.set(
        title="log-variance, Pyro: share that fails",
        xlabel="initial weights of the raw head, times the usual",
        ylabel="learning rate (Adam)",
    )

"""Claim 1: an encoder that gives σ as it is, and the sign that this lets through."""

from __future__ import annotations

import warnings
from statistics import fmean

import pyro
import torch
from matplotlib.figure import Figure
from pyro.infer import Trace_ELBO
from torch import Tensor

from ..scales import SCALES, Raw, Scale
from .base import COLOURS, Numbers, Setting, Verdict, digits, listed
from .blow_up import ending, untrained
from .choice import compared


class Unchecked(Raw):
    """σ = raw, without the check that :class:`~pyro_vae.scales.Raw` makes: what naive code does."""

    def forward(self, raw: Tensor) -> Tensor:
        return Scale.forward(self, raw)


def sign(setting: Setting) -> Numbers:
    """Claim 1: a raw σ at the start and during training.

    A 784-100-10 VAE on MNIST-5k, whose encoder's output is taken as σ as it is. First the share of
    σ below zero before any training; then what Pyro says of it with its checks on, and what the
    loss is with them off. Then the fairest case: raw + 1, so that every σ starts near 1, trained
    with Adam until a σ is zero or less; the same for log-variance.

    Rule: the claim holds if raw σ stops every run, even from 1, and log-variance none; it holds
    only where if raw stops some; else it does not. Whether other positive maps end at the same
    NLL is claim 8's number, and is quoted.
    """
    seeds, steps = setting.seeds, 60 if setting.quick else 600
    data = digits(setting)
    x = data.test.batch(slice(0, 200), torch.Generator().manual_seed(0))
    numbers: Numbers = {"negative": [], "steps": steps, "losses": [], "runs": {}}
    for seed in range(seeds):
        vae = untrained(Unchecked(), seed)
        with torch.no_grad(), pyro.validation_enabled(False), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Encountered NaN")
            sigma = vae.encode(x).base_dist.scale  # [B, Z]
            numbers["negative"].append((sigma < 0).double().mean().item())
            numbers["losses"].append(Trace_ELBO().loss(vae.model, vae.guide, x))
    try:
        with pyro.validation_enabled(True):
            Trace_ELBO().loss(vae.model, vae.guide, x)
        numbers["pyro"] = "nothing"
    except ValueError as error:
        told = str(error).partition(", but found")[0].replace("to satisfy", "has to satisfy")
        numbers["pyro"] = f"{type(error).__name__}: {told}"
    cells = [(n, lr) for n in ("raw", "log-variance") for lr in (1e-4, 1e-3, 1e-2)]
    for name, lr in setting.track(cells, description="1 sign"):
        runs = [
            ending(untrained(SCALES[name](initial=1.0), s), data, lr, steps, s)
            for s in range(seeds)
        ]
        numbers["runs"].setdefault(name, {})[str(lr)] = [
            step if what != "trained" else None for what, step in runs
        ]
    return numbers


def judge_sign(results: dict[str, Numbers]) -> Verdict:
    numbers = results["sign"]
    runs = {n: [s for cell in by.values() for s in cell] for n, by in numbers["runs"].items()}
    stopped = {n: [s for s in each if s is not None] for n, each in runs.items()}
    lost = numbers["losses"].count(None)  # what JSON cannot hold was no finite number
    kind, _, said = numbers["pyro"].partition(": ")
    negative = numbers["negative"]
    evidence = (
        f"With a raw output {fmean(negative):.0%} of all σ are negative at the start "
        f"({min(negative):.0%} to {max(negative):.0%} over seeds). Pyro's checks raise {kind} "
        f"(the scale has {said.partition(' has ')[2]}); with them off the first loss is "
        f"no finite number in {lost} of {len(numbers['losses'])} runs. Started at σ = 1, raw stops "
        f"in {len(stopped['raw'])} of {len(runs['raw'])} runs within {numbers['steps']} steps"
        + (f" (the earliest after {min(stopped['raw'])})" if stopped["raw"] else "")
        + f", log-variance in {len(stopped['log-variance'])} of {len(runs['log-variance'])}."
    )
    if "choice" in results:
        found = compared(results["choice"])
        evidence += " Any positive map lifts the constraint; their test NLL next to log-variance: "
        evidence += "; ".join(f"{how}: {listed(names)}" for how, names in found.items() if names)
        evidence += "."
    if not stopped["log-variance"]:
        if len(stopped["raw"]) == len(runs["raw"]):
            return Verdict("holds", evidence)
        if stopped["raw"]:
            where = [lr for lr, cell in numbers["runs"]["raw"].items() if None not in cell]
            region = "raw σ starts around zero"
            if where:
                region += f", or from 1 at a learning rate of {listed(where)}"
            return Verdict("holds only where", evidence, region)
    return Verdict("does not hold", evidence)


def draw_sign(numbers: Numbers, figure: Figure) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(1, 2))
    left.bar(["negative", "positive"], [fmean(numbers["negative"]), 1 - fmean(numbers["negative"])],
             color=[COLOURS["raw"], COLOURS["log-variance"]])  # fmt: skip
    left.set(title="raw output taken as σ, untrained", ylabel="share of all σ", ylim=(0, 1))
    for name, by in numbers["runs"].items():
        for i, cell in enumerate(by.values()):
            alive = [numbers["steps"] if s is None else s for s in cell]
            offset = 0.15 if name == "raw" else -0.15
            right.plot(alive, [i + offset] * len(alive), "x" if name == "raw" else "o", ms=7, mew=2,
                       color=COLOURS[name], alpha=0.7, label=name if i == 0 else None)  # fmt: skip
    right.set_yticks(range(3), [f"Adam, rate {lr}" for lr in numbers["runs"]["raw"]])
    right.axvline(numbers["steps"], color="grey", ls=":")
    right.set(
        xscale="symlog",
        xlim=(0, None),
        ylim=(-0.5, 2.5),
        title="started at σ = 1: steps until the first σ of zero or less",
        xlabel="step (dotted: end of the training)",
    )
    right.legend()

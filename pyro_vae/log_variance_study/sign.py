"""Claim 1: the encoder outputs σ directly, and the output can be negative."""

from __future__ import annotations

import warnings
from statistics import fmean
from typing import TYPE_CHECKING

import pyro
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from ..scales import SCALES, Raw, Scale
from .base import COLOURS, Numbers, Setting, Verdict, join_words, load_mnist_5k, share_text
from .blow_up import build_untrained, train_until_failure
from .choice import group_maps

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class UncheckedRaw(Raw):
    """σ = raw, without the check of :class:`~pyro_vae.scales.Raw`: the simplest code."""

    def forward(self, raw: Tensor) -> Tensor:
        return Scale.forward(self, raw)


def measure_sign(setting: Setting) -> Numbers:
    """Claim 1: a raw σ before training and during training.

    The model is a 784-100-10 VAE on MNIST-5k. It uses the encoder's raw output as σ. We measure
    three things:

    1. The share of negative σ before training.
    2. The error that Pyro raises with its checks on, and the loss with its checks off.
    3. The most favourable case for a raw σ: σ = raw + 1, so that every σ starts near 1. Adam trains
       with batch 50 and the analytic KL until one σ is zero or less, for at most 3,000 steps.
       Log-variance gets the same training.

    Raw has twice as many seeds as ``--seeds`` says, because its runs stop early. The intervals of
    shares are those of Clopper and Pearson, 95 %.

    Rule: the claim holds if every run with a raw σ fails, even with a start at σ = 1, and no run
    with log-variance fails. It holds only in some cases if some runs with a raw σ fail. Otherwise
    it does not hold. Claim 8 measures whether other positive maps reach the same NLL.
    """
    seeds, steps = setting.seeds, 60 if setting.quick else 3000
    data = load_mnist_5k(setting)
    x = data.test.batch(slice(0, 200), torch.Generator().manual_seed(0))
    numbers: Numbers = {"negative": [], "steps": steps, "losses": [], "runs": {}}
    for seed in range(seeds):
        vae = build_untrained(UncheckedRaw(), seed)
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
        text = str(error).partition(", but found")[0].replace("to satisfy", "has to satisfy")
        numbers["pyro"] = f"{type(error).__name__}: {text}"
    cells = [(n, lr) for n in ("raw", "log-variance") for lr in (1e-4, 1e-3, 1e-2)]
    for name, lr in setting.track(cells, description="1 sign"):
        runs = [
            train_until_failure(
                build_untrained(SCALES[name](initial=1.0), seed),
                data,
                lr,
                steps,
                seed,
                "KL by hand",
            )
            for seed in range(2 * seeds if name == "raw" else seeds)
        ]
        numbers["runs"].setdefault(name, {})[str(lr)] = [
            step if end != "trained" else None for end, step in runs
        ]
    return numbers


def judge_sign(results: dict[str, Numbers]) -> Verdict:
    numbers = results["sign"]
    runs = {n: [s for cell in by.values() for s in cell] for n, by in numbers["runs"].items()}
    failed = {n: [s for s in each if s is not None] for n, each in runs.items()}
    lost = numbers["losses"].count(None)  # JSON stores NaN and infinity as null
    stops = "; ".join(
        f"{lr}: {share_text(len(cell) - cell.count(None), len(cell))}"
        + (f", after step {min(found)} to {max(found)}" if found else "")
        for lr, cell in numbers["runs"]["raw"].items()
        for found in [[step for step in cell if step is not None]]
    )
    kind, _, message = numbers["pyro"].partition(": ")
    negative = numbers["negative"]
    evidence = (
        f"Before training, {fmean(negative):.0%} of all raw σ are negative "
        f"({min(negative):.0%} to {max(negative):.0%} over {len(negative)} seeds). With Pyro's "
        f"checks on, the loss raises {kind} (the scale has {message.partition(' has ')[2]}). With "
        f"the checks off, the first loss is NaN or infinite in {lost} of {len(numbers['losses'])} "
        f"runs. With a start at σ = 1 and {numbers['steps']:,} steps, these runs with raw "
        f"fail, by learning rate. {stops}. Of the runs with log-variance, "
        f"{share_text(len(failed['log-variance']), len(runs['log-variance']))} fail."
    )
    if "choice" in results:
        groups = group_maps(results["choice"])
        evidence += " Every positive map removes the constraint. Test NLL of the other maps, "
        evidence += "compared with log-variance: "
        evidence += "; ".join(
            f"{how}: {join_words(names)}" for how, names in groups.items() if names
        )
        evidence += "."
    if not failed["log-variance"]:
        if len(failed["raw"]) == len(runs["raw"]):
            return Verdict("holds", evidence)
        if failed["raw"]:
            rates = [lr for lr, cell in numbers["runs"]["raw"].items() if None not in cell]
            region = "σ starts near 0"
            if rates:
                region += f", or starts at 1 with a learning rate of {join_words(rates, 'or')}"
            return Verdict("holds only where", evidence, region)
    return Verdict("does not hold", evidence)


def draw_sign(numbers: Numbers, figure: Figure) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(1, 2))
    left.bar(["negative", "positive"], [fmean(numbers["negative"]), 1 - fmean(numbers["negative"])],
             color=[COLOURS["raw"], COLOURS["log-variance"]])  # fmt: skip
    left.set(title="raw output used as σ, before training", ylabel="share of all σ", ylim=(0, 1))
    for name, by in numbers["runs"].items():
        for i, cell in enumerate(by.values()):
            last = [numbers["steps"] if s is None else s for s in cell]
            offset = 0.15 if name == "raw" else -0.15
            right.plot(last, [i + offset] * len(last), "x" if name == "raw" else "o", ms=7, mew=2,
                       color=COLOURS[name], alpha=0.7, label=name if i == 0 else None)  # fmt: skip
    right.set_yticks(range(3), [f"Adam, learning rate {lr}" for lr in numbers["runs"]["raw"]])
    right.axvline(numbers["steps"], color="grey", ls=":")
    right.set(
        xscale="symlog",
        xlim=(0, None),
        ylim=(-0.5, 2.5),
        title="start at σ = 1: steps until one σ is zero or less",
        xlabel="step (dotted line: end of the training)",
    )
    right.legend()

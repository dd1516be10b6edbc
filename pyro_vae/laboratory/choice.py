"""Claim 8: the test NLL and the active units that each scale ends with."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data import Data, load
from ..errors import InputError, TrainingError
from ..evaluation.importance import importance
from ..evaluation.latents import active_units
from ..scales import SCALES
from ..training import fit
from ..vae import VAE
from .base import COLOURS, Numbers, Setting, Verdict, digits, interval, listed

RIVALS = tuple(name for name in SCALES if name != "raw")
FOREMOST = ("log-variance", "log-scale", "softplus", "log-variance-hardtanh")
RATES = (3e-4, 1e-3, 3e-3, 1e-2)


def built(name: str, data: Data, hidden: int, seed: int) -> VAE:
    """A VAE with 20 latent dimensions; equal seeds give rivals equal weights and σ = 1 at raw 0."""
    torch.manual_seed(seed)
    return VAE(data.shape, 20, guide=f"mean-field(scale='{name}(initial=1.0)')", hidden=(hidden,))


def ended(name: str, data: Data, *, hidden: int, seed: int, **options: Any) -> tuple[VAE, float]:
    """Train, and give the VAE with its last test ELBO; -inf if the training stopped."""
    vae = built(name, data, hidden, seed)
    try:
        return vae, fit(vae, data, seed=seed, **options)[-1].test_elbo
    except (TrainingError, InputError):
        return vae, float("-inf")


def choice(setting: Setting) -> Numbers:
    """Claim 8: what each scale ends with, at its own best learning rate.

    MNIST-5k (4,000 + 1,000), dynamic binarisation, 784-100-20 VAE, Bernoulli, standard Normal,
    Monte Carlo ELBO, Adam, batch 100, 40 epochs, every rival from σ = 1 at raw 0 with equal weights
    for equal seeds, and twice the asked number of seeds. The learning rate of each rival is that of
    ``RATES`` with the best ELBO on 500 images held out of the training set (one seed, not used
    again). NLL: 200 importance samples on the test set, binarised once for all. Active units:
    variance of the posterior mean over the test images above 0.01. Then, if the full MNIST is at
    hand, the four of ``FOREMOST`` once, 784-200-20, 10 epochs, batch 128, at the same learning
    rates, NLL on the first 2,000 test images.

    Differences from log-variance are paired by seed; their intervals are Student's, 95 % for all
    rivals together (Bonferroni). On the full MNIST they are paired by image, so that they do not
    tell the spread over seeds.

    Rule: a rival differs if its interval leaves out zero, and is the same if it contains zero and
    reaches no further than 1 nat; else it is left open. The claim holds if all are the same, holds
    only among those that are, and does not hold if none is.
    """
    epochs = 2 if setting.quick else 40
    rates = RATES[2:3] if setting.quick else RATES
    samples = 20 if setting.quick else 200
    data = digits(setting)
    tuning = Data(data.name, *data.train.split(0.125, seed=1))
    options: dict[str, Any] = {"hidden": 100, "epochs": epochs, "batch_size": 100}
    count = setting.seeds if setting.quick else 2 * setting.seeds
    rivals: Numbers = {}
    for name in setting.track(RIVALS, description="8 choice"):
        tried = {lr: ended(name, tuning, seed=1000, lr=lr, **options)[1] for lr in rates}
        best = max(tried, key=lambda lr: tried[lr])
        seeds: list[Numbers | None] = []
        for seed in range(count):
            vae, elbo = ended(name, data, seed=seed, lr=best, **options)
            if elbo == float("-inf"):
                seeds.append(None)
                continue
            estimate = importance(vae.model, vae.guide, data.test, samples=samples, seed=0)
            active = int((active_units(vae.guide, data.test)["z"] > 0.01).sum())
            seeds.append({"nll": -estimate.mean, "elbo": elbo, "active": active})
        rivals[name] = {"tried": tried, "rate": best, "seeds": seeds}
    compare(rivals)
    numbers: Numbers = {"epochs": epochs, "samples": samples, "rates": rates, "rivals": rivals}
    if not setting.quick:
        numbers["full"] = full(setting, {name: rivals[name]["rate"] for name in FOREMOST})
    return numbers


def compare(rivals: Numbers) -> None:
    """Add to each rival's row its mean NLL and its difference from log-variance.

    A rival whose training stopped with more than all but one seed has neither: null.
    """
    held = rivals["log-variance"]["seeds"]
    for row in rivals.values():
        both = [(mine, its) for mine, its in zip(row["seeds"], held, strict=True) if mine and its]
        if len(both) < 2:
            row["difference"] = row["nll"] = row["active"] = None
            continue
        apart = [mine["nll"] - its["nll"] for mine, its in both]
        row["difference"] = interval(apart, 1 - 0.05 / (len(rivals) - 1))
        for key in ("nll", "active"):
            row[key] = interval([mine[key] for mine, _ in both])


def full(setting: Setting, rates: dict[str, float]) -> Numbers:
    """The four foremost on the full MNIST, one seed."""
    try:
        data = load("mnist", binarize="dynamic")
    except InputError as error:
        return {"absent": str(error)}
    some = data.test.subset(torch.arange(2000))
    numbers: Numbers = {"epochs": 10, "images": len(some), "rivals": {}}
    held = None
    for name, lr in setting.track(list(rates.items()), description="8 full MNIST"):
        vae, elbo = ended(name, data, hidden=200, seed=0, lr=lr, epochs=10, batch_size=128)
        estimate = importance(vae.model, vae.guide, some, samples=200, seed=0)
        held = estimate.log_p if held is None else held
        apart = held - estimate.log_p  # [N]
        numbers["rivals"][name] = {
            "rate": lr,
            "elbo": elbo,
            "nll": -estimate.mean,
            "difference": apart.mean().item(),
            "half_width": 1.96 * apart.std().item() / len(apart) ** 0.5,
            "active": int((active_units(vae.guide, some)["z"] > 0.01).sum()),
        }
    return numbers


def compared(numbers: Numbers) -> dict[str, list[str]]:
    """The rivals of log-variance by how their test NLL compares."""
    how = ("the same", "higher", "lower", "left open", "stopped")
    found: dict[str, list[str]] = {key: [] for key in how}
    for name, row in numbers["rivals"].items():
        if name == "log-variance":
            continue
        if row["difference"] is None:
            found["stopped"].append(name)
            continue
        mean, half = row["difference"]
        if abs(mean) > half:
            found["higher" if mean > 0 else "lower"].append(name)
        else:
            found["the same" if abs(mean) + half <= 1 else "left open"].append(name)
    return found


def judge_choice(results: dict[str, Numbers]) -> Verdict:
    numbers = results["choice"]
    found = compared(numbers)

    def told(names: Sequence[str]) -> str:
        rows = {n: numbers["rivals"][n]["difference"] for n in names}
        return listed(f"{n} {row[0]:+.2f} ± {row[1]:.2f}" if row else n for n, row in rows.items())

    mine = numbers["rivals"]["log-variance"]
    evidence = (
        f"Test NLL of log-variance {mine['nll'][0]:.2f} ± {mine['nll'][1]:.2f} nats over "
        f"{len(mine['seeds'])} seeds, {mine['active'][0]:.1f} active units. Differences from it: "
        + "; ".join(f"{how}: {told(names)}" for how, names in found.items() if names)
        + "."
    )
    rows = numbers.get("full", {}).get("rivals", {})
    if rows:
        evidence += " On the full MNIST, one seed, NLL: " + ", ".join(
            f"{n} {r['nll']:.2f}"
            + (f" ({r['difference']:+.2f} ± {r['half_width']:.2f})" if n != "log-variance" else "")
            for n, r in rows.items()
        ) + "."  # fmt: skip
    if len(found["the same"]) == len(numbers["rivals"]) - 1:
        return Verdict("holds", evidence)
    if found["the same"]:
        region = f"one chooses among {listed(['log-variance', *found['the same']])}"
        return Verdict("holds only where", evidence, region)
    return Verdict("does not hold", evidence)


def ranked(numbers: Numbers) -> list[str]:
    """The rivals that were trained to the end, worst first."""
    rows = numbers["rivals"]
    return sorted((n for n in rows if rows[n]["nll"]), key=lambda n: -rows[n]["nll"][0])


def draw_differences(numbers: Numbers, ax: Axes) -> None:
    """Test NLL of each rival, next to log-variance."""
    names = ranked(numbers)
    for i, name in enumerate(names):
        mean, half = numbers["rivals"][name]["difference"]
        ax.errorbar(mean, i, xerr=half, fmt="o", capsize=4, color=COLOURS[name])
    ax.axvline(0, color="black", lw=0.8)
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="nats", title="test NLL minus that of log-variance")


def draw_choice(numbers: Numbers, figure: Figure) -> None:
    rows, names = numbers["rivals"], ranked(numbers)
    left, middle, right = figure.subplots(1, 3, sharey=True, width_ratios=(3, 3, 2))
    for i, name in enumerate(names):
        ends = [end for end in rows[name]["seeds"] if end]
        ink = COLOURS[name]
        left.plot([end["nll"] for end in ends], [i] * len(ends), "o", ms=5, alpha=0.6, color=ink)
        left.plot(fmean(end["nll"] for end in ends), i, "|", ms=18, mew=2, color=ink)
        right.barh(i, rows[name]["active"][0], xerr=rows[name]["active"][1], color=ink)
    draw_differences(numbers, middle)
    left.set_yticks(range(len(names)), [f"{n}, rate {rows[n]['rate']:g}" for n in names])
    left.set(xlabel="nats", title="test NLL: each seed, and the mean")
    right.set(xlabel="of 20", xlim=(0, 20), title="active units")

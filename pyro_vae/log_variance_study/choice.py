"""Claim 8: the test NLL and the active units of each map after training."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from ..data import Data, load_data
from ..errors import InputError, TrainingError
from ..evaluation.importance import importance
from ..evaluation.latents import active_units
from ..history import measured
from ..scales import SCALES
from ..training import fit
from ..vae import VAE
from .base import (
    COLOURS,
    Numbers,
    Setting,
    Verdict,
    confidence_interval,
    join_words,
    load_mnist_5k,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POSITIVE_MAPS = tuple(name for name in SCALES if name != "raw")
FULL_MNIST_MAPS = ("log-variance", "log-scale", "softplus", "log-variance-hardtanh")
TRIED_RATES = (3e-4, 1e-3, 3e-3, 1e-2)


def build_vae(name: str, data: Data, hidden: int, seed: int) -> VAE:
    """A VAE with 20 latent dimensions and σ = 1 at raw output 0; the seed fixes the weights."""
    torch.manual_seed(seed)
    return VAE(data.shape, 20, guide=f"mean-field(scale='{name}(initial=1.0)')", hidden=(hidden,))


def train_vae(
    name: str, data: Data, *, hidden: int, seed: int, **options: Any
) -> tuple[VAE, float]:
    """Train a VAE; return it with its last test ELBO in nats, or -inf if the training failed."""
    vae = build_vae(name, data, hidden, seed)
    try:
        return vae, measured(fit(vae, data, seed=seed, **options)[-1].test_elbo)
    except (TrainingError, InputError):
        return vae, float("-inf")


def measure_choice(setting: Setting) -> Numbers:
    """Claim 8: the result of each map after training, at its own best learning rate.

    The data are MNIST-5k (4,000 training and 1,000 test images) with dynamic binarisation. The
    model is a 784-100-20 VAE with a Bernoulli likelihood and a standard Normal prior. It is trained
    with the Monte Carlo ELBO, Adam, batch 100 and 40 epochs. Every map starts at σ = 1 for raw
    output 0. Equal seeds give equal weights. The number of seeds is twice the value of ``--seeds``.

    The learning rate of each map is 3e-4, 1e-3, 3e-3 or 1e-2: the one with the best ELBO on 500
    images that are held out of the training set. This search uses one seed, which is not used
    again. The NLL is estimated with 200 importance samples on the test set, which is binarised once
    for all maps. A unit is active if the variance of its posterior mean over the test images is
    above 0.01.

    If the full MNIST is available, log-variance, log-scale, softplus and log-variance-hardtanh are
    also trained on it with one seed: 784-200-20, 10 epochs, batch 128, the same learning rates, NLL
    on the first 2,000 test images.

    Differences from log-variance are paired by seed. Their intervals are Student's t intervals,
    95 % for all maps together (Bonferroni). On the full MNIST the differences are paired by image,
    so these intervals do not show the spread over seeds.

    Rule: a map differs from log-variance if its interval does not contain zero. It is the same if
    its interval contains zero and is inside ±1 nat. Otherwise it is undecided. The claim holds if
    all maps are the same. It does not hold if no map is the same. Otherwise it holds only among the
    maps that are the same.
    """
    epochs = 2 if setting.quick else 40
    rates = TRIED_RATES[2:3] if setting.quick else TRIED_RATES
    samples = 20 if setting.quick else 200
    data = load_mnist_5k(setting)
    tuning = Data(data.name, *data.train.split(0.125, seed=1))
    options: dict[str, Any] = {"hidden": 100, "epochs": epochs, "batch_size": 100}
    count = setting.seeds if setting.quick else 2 * setting.seeds
    maps: Numbers = {}
    for name in setting.track(POSITIVE_MAPS, description="8 choice"):
        tried = {lr: train_vae(name, tuning, seed=1000, lr=lr, **options)[1] for lr in rates}
        best = max(tried, key=lambda lr: tried[lr])
        seeds: list[Numbers | None] = []
        for seed in range(count):
            vae, elbo = train_vae(name, data, seed=seed, lr=best, **options)
            if elbo == float("-inf"):
                seeds.append(None)
                continue
            estimate = importance(vae.model, vae.guide, data.test, samples=samples, seed=0)
            active = int((active_units(vae.guide, data.test)["z"] > 0.01).sum())
            seeds.append({"nll": -estimate.mean, "elbo": elbo, "active": active})
        maps[name] = {"tried": tried, "rate": best, "seeds": seeds}
    add_differences(maps)
    numbers: Numbers = {"epochs": epochs, "samples": samples, "rates": rates, "rivals": maps}
    if not setting.quick:
        numbers["full"] = measure_full_mnist(
            setting, {name: maps[name]["rate"] for name in FULL_MNIST_MAPS}
        )
    return numbers


def add_differences(maps: Numbers) -> None:
    """Add to the row of each map its mean NLL, active units and difference from log-variance.

    The values are None if fewer than two seeds were trained to the end.
    """
    reference = maps["log-variance"]["seeds"]
    for row in maps.values():
        pairs = [
            (own, other)
            for own, other in zip(row["seeds"], reference, strict=True)
            if own and other
        ]
        if len(pairs) < 2:
            row["difference"] = row["nll"] = row["active"] = None
            continue
        differences = [own["nll"] - other["nll"] for own, other in pairs]
        row["difference"] = confidence_interval(differences, 1 - 0.05 / (len(maps) - 1))
        for key in ("nll", "active"):
            row[key] = confidence_interval([own[key] for own, _ in pairs])


def measure_full_mnist(setting: Setting, rates: dict[str, float]) -> Numbers:
    """Train each map of ``rates`` on the full MNIST, with one seed."""
    try:
        data = load_data("mnist", binarize="dynamic")
    except InputError as error:
        return {"absent": str(error)}
    test = data.test.subset(torch.arange(2000))
    numbers: Numbers = {"epochs": 10, "images": len(test), "rivals": {}}
    reference = None
    for name, lr in setting.track(list(rates.items()), description="8 full MNIST"):
        vae, elbo = train_vae(name, data, hidden=200, seed=0, lr=lr, epochs=10, batch_size=128)
        estimate = importance(vae.model, vae.guide, test, samples=200, seed=0)
        reference = estimate.log_p if reference is None else reference
        difference = reference - estimate.log_p  # [N]
        numbers["rivals"][name] = {
            "rate": lr,
            "elbo": elbo,
            "nll": -estimate.mean,
            "difference": difference.mean().item(),
            "half_width": 1.96 * difference.std().item() / len(difference) ** 0.5,
            "active": int((active_units(vae.guide, test)["z"] > 0.01).sum()),
        }
    return numbers


def group_maps(numbers: Numbers) -> dict[str, list[str]]:
    """Names of the other maps, grouped by their test NLL compared with log-variance."""
    how = ("the same", "higher", "lower", "undecided", "failed")
    groups: dict[str, list[str]] = {key: [] for key in how}
    for name, row in numbers["rivals"].items():
        if name == "log-variance":
            continue
        if row["difference"] is None:
            groups["failed"].append(name)
            continue
        mean, half = row["difference"]
        if abs(mean) > half:
            groups["higher" if mean > 0 else "lower"].append(name)
        else:
            groups["the same" if abs(mean) + half <= 1 else "undecided"].append(name)
    return groups


def judge_choice(results: dict[str, Numbers]) -> Verdict:
    numbers = results["choice"]
    groups = group_maps(numbers)

    def differences(names: Sequence[str]) -> str:
        rows = {n: numbers["rivals"][n]["difference"] for n in names}
        return join_words(
            f"{n} {row[0]:+.2f} ± {row[1]:.2f}" if row else n for n, row in rows.items()
        )

    mine = numbers["rivals"]["log-variance"]
    evidence = (
        f"Test NLL of log-variance: {mine['nll'][0]:.2f} ± {mine['nll'][1]:.2f} nats over "
        f"{len(mine['seeds'])} seeds, with {mine['active'][0]:.1f} active units. Differences from "
        "log-variance: "
        + "; ".join(f"{how}: {differences(names)}" for how, names in groups.items() if names)
        + "."
    )
    rows = numbers.get("full", {}).get("rivals", {})
    if rows:
        evidence += " On the full MNIST with one seed, the NLL is: " + ", ".join(
            f"{n} {r['nll']:.2f}"
            + (f" ({r['difference']:+.2f} ± {r['half_width']:.2f})" if n != "log-variance" else "")
            for n, r in rows.items()
        ) + ". These intervals are over images, not over seeds."  # fmt: skip
    if len(groups["the same"]) == len(numbers["rivals"]) - 1:
        return Verdict("holds", evidence)
    if groups["the same"]:
        region = f"the choice is among {join_words(['log-variance', *groups['the same']])}"
        return Verdict("holds only where", evidence, region)
    return Verdict("does not hold", evidence)


def sort_maps(numbers: Numbers) -> list[str]:
    """The maps that were trained to the end, the highest NLL first."""
    rows = numbers["rivals"]
    return sorted((n for n in rows if rows[n]["nll"]), key=lambda n: -rows[n]["nll"][0])


def draw_differences(numbers: Numbers, ax: Axes) -> None:
    """Difference of the test NLL of each map from log-variance."""
    names = sort_maps(numbers)
    for i, name in enumerate(names):
        mean, half = numbers["rivals"][name]["difference"]
        ax.errorbar(mean, i, xerr=half, fmt="o", capsize=4, color=COLOURS[name])
    ax.axvline(0, color="black", lw=0.8)
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="nats", title="test NLL minus that of log-variance")


def draw_choice(numbers: Numbers, figure: Figure) -> None:
    rows, names = numbers["rivals"], sort_maps(numbers)
    left, middle, right = figure.subplots(1, 3, sharey=True, width_ratios=(3, 3, 2))
    for i, name in enumerate(names):
        ends = [end for end in rows[name]["seeds"] if end]
        colour = COLOURS[name]
        left.plot([end["nll"] for end in ends], [i] * len(ends), "o", ms=5, alpha=0.6, color=colour)
        left.plot(fmean(end["nll"] for end in ends), i, "|", ms=18, mew=2, color=colour)
        right.barh(i, rows[name]["active"][0], xerr=rows[name]["active"][1], color=colour)
    draw_differences(numbers, middle)
    left.set_yticks(range(len(names)), [f"{n}, lr {rows[n]['rate']:g}" for n in names])
    left.set(xlabel="nats", title="test NLL: each seed, and mean")
    right.set(xlabel="units (of 20)", xlim=(0, 20), title="active units")

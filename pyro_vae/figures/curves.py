"""Curves of a training: the ELBO, its parts, and the KL of each latent."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import Any

import torch

from ..errors import InputError
from ..history import Epoch, measured
from ..words import about, counted


def kl_curves(history: Sequence[Epoch]) -> Any:
    """The KL of each latent layer and of each unit over the epochs; a matplotlib figure.

    Units are sorted by their KL after the last epoch, the largest on top. The numbers beside a map
    are those of the units; a layer of many units shows some of them.

    Raises:
        InputError: a history without the KL of units, because the units of the guide are dependent.
    """
    from matplotlib.figure import Figure

    names = sorted(history[-1].kl_of_units)
    if not names:
        raise InputError(
            "the units of these latents are dependent, so the KL of a single unit is not defined"
        )
    epochs = [e.epoch for e in history]
    figure = Figure(figsize=(4.5 + 2.6 * len(names), 3.6), layout="constrained")
    curves, *maps = figure.subplots(
        1, 1 + len(names), width_ratios=[2, *[1] * len(names)], squeeze=False
    )[0]
    for name in names:
        kls = [e.kl_of_sites[name] for e in history]
        curves.plot(epochs, kls, marker=marker(history), label=name)
    curves.set(title="KL of each layer", ylabel="nats per image", ylim=(0, None))
    curves.spines[["top", "right"]].set_visible(False)
    if len(names) > 1:
        curves.legend(frameon=False)
    units = {n: torch.tensor([e.kl_of_units[n] for e in history]).T for n in names}  # [Z, E]
    most = max(max(kl.max().item() for kl in units.values()), 0.1)
    for axes, (name, kl) in zip(maps, units.items(), strict=True):
        order = kl[:, -1].argsort(descending=True)
        shown = axes.imshow(
            kl[order].clamp(min=0).numpy(),
            aspect="auto",
            interpolation="nearest",
            vmin=0,
            vmax=most,
            extent=(epochs[0] - 0.5, epochs[-1] + 0.5, len(kl), 0),
        )
        axes.set(title=f"{name}: {counted(len(kl), 'unit')}")
        labelled = range(0, len(kl), -(-len(kl) // 20))  # at most 20 labels have room
        numbers = [str(order[place].item()) for place in labelled]
        axes.set_yticks([place + 0.5 for place in labelled], numbers, fontsize="x-small")
        axes.tick_params(axis="y", length=0)
    for axes in (curves, *maps):
        axes.set_xlabel("epoch")
        whole_ticks(axes)
    maps[0].set_ylabel("unit, the largest KL on top")
    figure.colorbar(shown, ax=maps, label="KL of a unit, nats per image")
    return figure


def training_curves(history: Sequence[Epoch]) -> Any:
    """The ELBO of training and validation images over the epochs, and its two parts on the latter.

    Other images than the validation images are named as :class:`~pyro_vae.history.Epoch` says.

    The axis of the ELBO leaves out the first tenth of the epochs if they are far below the others.

    Returns:
        a matplotlib figure.

    Raises:
        InputError: an epoch without an ELBO.
    """
    from matplotlib.figure import Figure

    epochs, elbos = [e.epoch for e in history], [measured(e.elbo) for e in history]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    style = {"marker": marker(history)}
    # A run of an older version that goes on has epochs that were measured on other images.
    places = dict.fromkeys(e.measured_on for e in history)
    names = {p: "training images" if p == "train" else f"{p} images" for p in places}
    trained = [e.train_elbo for e in history]
    if any(each is not None for each in trained):
        left.plot(
            epochs, [nan if n is None else n for n in trained], label="training images", **style
        )
    for i, place in enumerate(places, start=1):
        own = [
            elbo if e.measured_on == place else nan for e, elbo in zip(history, elbos, strict=True)
        ]
        left.plot(epochs, own, label=names[place], color=f"C{i}", **style)
    left.annotate(
        f"{elbos[-1]:.1f}",
        (epochs[-1], elbos[-1]),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        color="C1",
        fontsize="small",
    )
    pairs = [(y, y if x is None else x) for x, y in zip(trained, elbos, strict=True)]
    both = sorted(map(min, pairs))
    lowest, best = both[len(history) // 10], max(map(max, pairs))
    title = "ELBO"
    if lowest < best:
        bottom = lowest - 0.1 * (best - lowest)
        left.set_ylim(bottom=bottom)
        title += " (the first epochs are below)" if both[0] < bottom else ""
    left.set(title=title, xlabel="epoch", ylabel="nats per image")
    distortions = [-measured(e.reconstruction) for e in history]
    kls = [measured(e.kl) for e in history]
    right.plot(epochs, distortions, label="distortion, -E[log p(x | z)]", **style)
    right.plot(epochs, kls, label="rate, KL(q || p)", **style)
    right.set(title=f"Distortion and rate of the {' and '.join(names.values())}", xlabel="epoch")
    if min(*distortions, *kls) >= 0:  # a density can be above 1, so that -log p is negative
        right.set_ylim(bottom=0)
    for axes in (left, right):
        # Below the axes, where no curve can be.
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
        axes.spines[["top", "right"]].set_visible(False)
        whole_ticks(axes)
    return figure


def marker(history: Sequence[Epoch]) -> str:
    """The marker of a curve: points for few epochs, because one epoch gives no line."""
    return "o" if len(history) <= 20 else ""


def whole_ticks(axes: Any) -> None:
    """Put the ticks of the x axis at whole numbers, such as epochs."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def told_about(figure: Any, word: str) -> None:
    """Call observations ``word`` in all texts of a figure, which speak of images."""
    if word == "image":
        return
    from matplotlib.text import Text  # matplotlib is imported where a figure is drawn

    for text in figure.findobj(Text):
        text.set_text(about(word, text.get_text()))

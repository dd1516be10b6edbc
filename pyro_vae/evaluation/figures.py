"""Pictures of an evaluation; every function gives a matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..data.images import Images
from ..figures import grid, pairs
from . import elbo, standard_error
from .gaps import Gaps
from .importance import Importance
from .latents import means, side_by_side
from .scoring import blocks


def blank(width: float = 5.5, height: float = 3.4) -> tuple[Any, Any]:
    """A figure with one pair of axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def sample_curve(results: Mapping[str, Importance]) -> Any:
    """log p̂(x) over the number of draws, a line for each guide, ± one standard error of the draws
    alone; a line that still rises has not arrived."""
    figure, axes = blank()
    for name, result in results.items():
        draws = list(result.curve)
        axes.plot(draws, [v.mean().item() for v in result.curve.values()], "o-", label=name)
        axes.errorbar(draws[-1], result.mean, yerr=result.monte_carlo_error, color="black")
    axes.set(xscale="log", xlabel="draws of z for each image, K", ylabel="log p̂(x), nats per image")
    axes.legend(frameon=False, loc="lower right")
    return figure


def gap_bars(results: Mapping[str, Gaps]) -> Any:
    """What is lost of log p̂(x) by each guide: the family's share below, the encoder's above."""
    figure, axes = blank(1.5 + 1.1 * len(results))
    names = list(results)
    family = [r.approximation for r in results.values()]
    encoder = [r.amortization for r in results.values()]
    low = [v.mean().item() for v in family]
    for bottom, values, label in (
        ([0.0] * len(names), family, "approximation gap: the family"),
        (low, encoder, "amortization gap: the encoder"),
    ):
        heights = [v.mean().item() for v in values]
        errors = [standard_error(v) for v in values]
        bars = axes.bar(names, heights, bottom=bottom, yerr=errors, label=label, width=0.6)
        axes.bar_label(bars, [f"{h:.2f}" for h in heights], label_type="center")
    axes.set(ylabel="log p̂(x) - ELBO, nats per image")
    figure.legend(frameon=False, loc="outside upper center")
    return figure


def unit_bars(kl: Mapping[str, Tensor]) -> Any:
    """The KL of each latent unit, the largest first, in a colour for each latent site.

    Args:
        kl: nats of each unit by latent site, each ``[Z]``.
    """
    figure, axes = blank()
    start = 1
    for name, each in sorted(kl.items()):
        ordered = each.sort(descending=True).values.tolist()
        axes.bar(range(start, start + len(ordered)), ordered, width=0.8, label=name)
        start += len(ordered)
    axes.set(xlabel="latent unit, sorted", ylabel="KL, nats per image")
    if len(kl) > 1:
        axes.legend(frameon=False)
    return figure


def latent_map(guide: Any, images: Images, *, seed: int = 0) -> Any:
    """The posterior means of the images, coloured by label where there are labels; their first two
    principal components where z has more than two dimensions."""
    figure, axes = blank(5.5, 4.6)
    points = side_by_side(means(guide, images, seed=seed)).cpu()  # [N, Z]
    names = ["z_1", "z_2"]
    if points.shape[1] != 2:
        centred = points - points.mean(0)
        spread, directions = torch.linalg.svd(centred, full_matrices=False)[1:]
        share = (spread**2 / (spread**2).sum())[:2].tolist()
        points = centred @ directions[:2].T
        names = [f"component {i + 1} ({s:.0%} of the variance)" for i, s in enumerate(share)]
    if images.labels is None:
        axes.scatter(*points.T, s=6)
    else:
        for label in images.labels.unique().tolist():
            name = images.classes[label] if images.classes else str(label)
            axes.scatter(*points[images.labels.cpu() == label].T, s=6, label=name)
        axes.legend(frameon=False, markerscale=3, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set(xlabel=names[0], ylabel=names[1])
    return figure


def best_to_worst(vae: Any, images: Images, *, columns: int = 12, seed: int = 0) -> Any:
    """Three rows of images above their reconstructions, from the best to the worst of the set by
    E_q[log p(x | z)], evenly spaced in rank."""
    each = elbo(vae.model, vae.guide, images, samples=10, seed=seed).reconstructions
    order = each.argsort(descending=True)
    ranks = torch.linspace(0, len(order) - 1, min(3 * columns, len(order))).round().long()
    x = torch.cat(list(blocks(images, 500, seed)))[order[ranks.to(order.device)]]
    figure, axes = blank(0.75 * columns, 5)
    picture = grid(pairs(x, vae.reconstruct(x), columns), columns)
    axes.imshow(picture.permute(1, 2, 0).cpu().numpy())
    best, worst = each[order[0]].item(), each[order[-1]].item()
    axes.set_title(f"from {best:.0f} to {worst:.0f} nats of log p(x | z); images above")
    axes.set_axis_off()
    return figure

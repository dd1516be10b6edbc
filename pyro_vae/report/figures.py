"""Pictures of an evaluation. Every function gives a matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..data.images import Images
from ..errors import InputError
from ..evaluation.annealing import AnnealedEstimate
from ..evaluation.bound import elbo
from ..evaluation.gaps import Gaps
from ..evaluation.importance import Importance
from ..evaluation.latents import joined_sites, posterior_means
from ..evaluation.rows import blocks
from ..evaluation.scoring import measuring
from ..figures import grid, reconstructions, stack_rows, table_marginals, to_images


def blank(width: float = 5.5, height: float = 3.6) -> tuple[Any, Any]:
    """A figure with one pair of axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def set_title(axes: Any, *parts: str) -> None:
    """Write the parts that are not empty as the title, each on its own line."""
    axes.set_title("\n".join(part for part in parts if part), fontsize="medium")


def images_of(*counts: int) -> str:
    """``counts`` of images in words."""
    return " and ".join(map(str, sorted(counts))) + (" image" if counts == (1,) else " images")


def sample_curve(
    results: Mapping[str, Importance],
    annealed: AnnealedEstimate | None = None,
    *,
    title: str = "",
) -> Any:
    """log p̂(x) over the number of draws K, a curve for each guide.

    Each point is a lower bound on log p(x) in the mean. The error bar is one standard error, from
    the draws of z only; a curve that still rises at the largest K has not converged and has none.

    Args:
        results: estimates for the same images, by name.
        annealed: an estimate by annealing for the first of these images. It is drawn as a line,
            together with the curves of the same images.
        title: what the picture says about the data.
    """
    figure, axes = blank(height=4.0)
    few = max(len(r.log_p) for r in results.values()) if annealed is None else len(annealed.log_p)
    for i, (name, result) in enumerate(results.items()):
        draws = list(result.curve)
        means = [v.mean().item() for v in result.curve.values()]
        axes.plot(draws, means, "o-", color=f"C{i}", label=name)
        if result.covers(result.monte_carlo_error):
            axes.errorbar(draws[-1], result.mean, yerr=result.monte_carlo_error, color="black")
        if few < len(result.log_p):
            means = [v[:few].mean().item() for v in result.curve.values()]
            label = f"{name}, the first {images_of(few)}"
            axes.plot(draws, means, "o--", color=f"C{i}", alpha=0.5, label=label)
    if annealed is not None:
        error = (annealed.errors.square().sum().sqrt() / few).item()
        label = f"annealing, the first {images_of(few)} (± one standard error)"
        axes.axhline(annealed.mean, color="black", lw=1, label=label)
        axes.axhspan(annealed.mean - error, annealed.mean + error, color="black", alpha=0.15)
    axes.set(xscale="log", xlabel="draws of z for each image, K", ylabel="log p̂(x), nats per image")
    many = {len(result.log_p) for result in results.values()}
    what = "at the largest K: ± one standard error, from the draws of z alone"
    set_title(axes, title, f"importance sampling, {images_of(*many)}", what)
    figure.legend(frameon=False, loc="outside lower center", fontsize="small")
    return figure


def gap_bars(results: Mapping[str, Gaps], *, title: str = "") -> Any:
    """The approximation gap (below) and the amortization gap (above), a bar for each guide.

    Error bars are one standard error over images. An approximation gap without one is only a lower
    bound.

    Args:
        results: gaps by name.
        title: what the picture says about the data.
    """
    figure, axes = blank(max(1.5 + 1.1 * len(results), 4.0), 4.2)
    names = list(results)
    family = [r.approximation for r in results.values()]
    encoder = [r.amortization for r in results.values()]
    low = [v.mean().item() for v in family]
    summaries = [r.summary() for r in results.values()]
    for bottom, values, key, label in (
        ([0.0] * len(names), family, "approximation_gap", "approximation gap (the guide's family)"),
        (low, encoder, "amortization_gap", "amortization gap (the encoder)"),
    ):
        heights = [v.mean().item() for v in values]
        errors = [summary[key]["error"] for summary in summaries]
        axes.bar(names, heights, bottom=bottom, yerr=errors, label=label, width=0.6)
        for i, (start, height) in enumerate(zip(bottom, heights, strict=True)):
            # Beside the bar, because the error bar is in its middle.
            axes.text(i + 0.33, start + height / 2, f"{height:.2f}", va="center", fontsize="small")
    axes.set(ylabel="log p̂(x) - ELBO, nats per image")
    if len(names) == 1:
        axes.set_xlim(-1, 1)
    many = {len(r.log_p) for r in results.values()}
    draws = sorted({r.best.samples for r in results.values()})
    what = f"{images_of(*many)}, K = {' and '.join(map(str, draws))}"
    set_title(axes, title, what, "error bars: one standard error over images")
    figure.legend(frameon=False, loc="outside lower center", fontsize="small")
    return figure


def unit_bars(kl: Mapping[str, Tensor], *, title: str = "") -> Any:
    """The KL of each latent unit, the largest first, with a panel for each latent site.

    Args:
        kl: nats of each unit by latent site, each ``[Z]``.
        title: what the picture says about the data.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.5 + 3 * len(kl), 3.6), layout="constrained")
    panels = figure.subplots(1, len(kl), sharey=True, squeeze=False)[0]
    for axes, (name, each) in zip(panels, sorted(kl.items()), strict=True):
        ordered, units = each.sort(descending=True)
        axes.bar(range(len(ordered)), ordered.tolist(), width=0.8)
        labelled = range(0, len(units), -(-len(units) // 20))  # at most 20 labels have room
        axes.set_xticks(labelled, [str(units[i].item()) for i in labelled], fontsize="x-small")
        axes.set(xlabel=f"unit of {name}")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set(ylabel="KL, nats per image")
    words = [title, "KL of each latent unit, the largest first"]
    figure.suptitle("\n".join(filter(None, words)), fontsize="medium")
    return figure


def latent_map(guide: Any, images: Images, *, seed: int = 0, title: str = "") -> Any:
    """The posterior means of the images, coloured by label if the images have labels.

    One unit is drawn as a histogram, and two units are the axes. More than two units are projected
    onto their first two principal components (PCA). The title says how much of the variance these
    two hold.

    Raises:
        InputError: one image with more than two units, because PCA needs at least two images.
    """
    from matplotlib.ticker import MaxNLocator

    points = joined_sites(posterior_means(guide, images, seed=seed)).cpu()  # [N, Z]
    count, units = points.shape
    what, names = f"posterior means of {images_of(count)}", ["unit 0", "unit 1"]
    if units > 2:
        if count < 2:
            raise InputError(f"a map of {units} latent units needs PCA of at least 2 images, not 1")
        from sklearn.decomposition import PCA

        pca = PCA(2)
        points = torch.from_numpy(pca.fit_transform(points.double().numpy()))
        first, second = pca.explained_variance_ratio_.tolist()
        names = [f"component {i} ({s:.0%} of the variance)" for i, s in ((1, first), (2, second))]
        what += f"\nPCA of {units} latent units; two components hold {first + second:.0%}"
    groups: dict[str | None, Tensor] = {None: points}
    if images.labels is not None:
        labels = images.labels.cpu()
        groups = {
            name_of(images, label): points[labels == label] for label in labels.unique().tolist()
        }
    figure, axes = blank(5.5, 4.6)
    if units == 1:
        parts = [group[:, 0].numpy() for group in groups.values()]
        axes.hist(parts, bins=40, stacked=True, label=list(groups))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        names[1] = "number of images"
    else:
        for name, group in groups.items():
            axes.scatter(*group.T, s=6, label=name)
    axes.set(xlabel=names[0], ylabel=names[1])
    axes.xaxis.set_major_locator(MaxNLocator(5))  # more labels of several digits would touch
    if images.labels is not None:
        scale = {} if units == 1 else {"markerscale": 3}
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), **scale)
    set_title(axes, title, what)
    return figure


def best_to_worst(
    vae: Any, images: Images, *, columns: int = 12, seed: int = 0, title: str = ""
) -> Any:
    """Images above their reconstructions, from the best to the worst by E_q[log p(x | z)].

    There are three rows of pairs, evenly spaced in rank. If the pixels are ``dynamic``, the grey
    images are shown above the binarized pixels.
    """
    each = elbo(vae.model, vae.guide, images, samples=10, seed=seed).reconstructions.cpu()
    order = each.argsort(descending=True)
    ranks = torch.linspace(0, len(order) - 1, min(3 * columns, len(order))).round().long()
    chosen = order[ranks]
    columns = min(columns, len(chosen))
    drawn = torch.cat([batch.args[0] for batch in blocks(images, 500, seed)])
    scored = drawn[chosen.to(images.pixels.device)]
    rows = reconstructions(vae, images.subset(chosen), pixels=scored)
    best, worst = each[order[0]].item(), each[order[-1]].item()
    what = f"from the best, {best:.0f} nats of log p(x | z), to the worst, {worst:.0f} nats"
    picture = stack_rows(*to_images(vae, *rows.values()), columns=columns)
    return picture_of(picture, columns, title, what, f"from top to bottom: {', '.join(rows)}")


def traversal_grid(vae: Any, images: Images, *, seed: int = 0, title: str = "") -> Any:
    """:meth:`~pyro_vae.vae.VAE.traverse` of the first image, a row for each unit."""
    columns = 11
    with measuring(vae.model, vae.guide, seed=seed, device=images.pixels.device):
        first = next(blocks(images, 1, seed))
        x, *given = first.args
        rows = vae.traverse(x, steps=columns, context=given[0] if given else None)
    return picture_of(
        to_images(vae, rows.flatten(0, 1))[0],
        columns,
        title,
        "each unit from -3σ to 3σ of the prior",
        "all other units at the posterior mean of the first image",
        rows=[f"unit {d}" for d in range(len(rows))],
    )


def column_marginals(vae: Any, images: Images, *, seed: int = 0, title: str = "") -> Any:
    """The distribution of each column of a table, in the data and in as many samples."""
    with measuring(vae.model, vae.guide, seed=seed, device=images.pixels.device):
        return table_marginals(vae, images, title=title)


def picture_of(images: Tensor, columns: int, *words: str, rows: list[str] | None = None) -> Any:
    """A grid of images with a title, and with a name for each row."""
    picture = grid(images, columns).permute(1, 2, 0).cpu().numpy()
    height, width = picture.shape[:2]
    wide = 0.75 * columns  # inches
    figure, axes = blank(max(wide, 5.5), wide * height / width + 0.25 + 0.25 * len(words))
    axes.imshow(picture)
    axes.set(xticks=[], yticks=[])
    if rows is not None:
        axes.set_yticks([(i + 0.5) * height / len(rows) for i in range(len(rows))], rows)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    set_title(axes, *words)
    return figure


def name_of(images: Images, label: int) -> str:
    """The name of a class; a label of -1 is not known."""
    if label < 0:
        return "no label"
    return images.classes[label] if images.classes else str(label)

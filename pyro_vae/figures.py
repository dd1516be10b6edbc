"""Pictures: grids of images, and the curves of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from .errors import InputError
from .history import Epoch
from .latents import is_latent
from .programs import AtMean, mean_image

COLUMNS = 12


def grid(images: Tensor, columns: int = COLUMNS) -> Tensor:
    """Images side by side, ``columns`` to a row, small ones enlarged; ``[C, H', W']``.

    Args:
        images: ``[N, C, H, W]`` in [0, 1]; values outside are cut off.
    """
    from torchvision.utils import make_grid

    zoom = max(1, round(56 / images.shape[-1]))  # whole steps keep the pixels square
    large = images.clamp(0, 1).repeat_interleave(zoom, -2).repeat_interleave(zoom, -1)
    return make_grid(large, nrow=columns, padding=2, pad_value=0.5)


def save_grid(images: Tensor, path: Path, columns: int = COLUMNS) -> None:
    """Write :func:`grid` as a picture; the ending of ``path`` says in which format."""
    from torchvision.utils import save_image

    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(grid(images, columns), path)


def pairs(originals: Tensor, reconstructions: Tensor, columns: int = COLUMNS) -> Tensor:
    """Rows of originals, each with the row of its reconstructions under it; ``[2N, C, H, W]``."""
    rows = zip(originals.split(columns), reconstructions.split(columns), strict=True)
    return torch.cat([row for pair in rows for row in pair])


def walk(vae: Any, side: int = 15, device: str | torch.device = "cpu") -> Tensor:
    """Mean images over a square of a two-dimensional latent space, ``[side², C, H, W]``.

    The square's points are the quantiles 0.02 to 0.98 of the standard Normal in each direction,
    so that each cell stands for the same share of the prior.
    """
    q = torch.linspace(0.02, 0.98, side, device=device)
    points = torch.distributions.Normal(0.0, 1.0).icdf(q)
    z = torch.cartesian_prod(points.flip(0), points).flip(-1)  # [side², 2], z_2 upwards
    with torch.no_grad():
        return mean_image(poutine.condition(vae.model, data={"z": z}), len(z))


def vary(vae: Any, site: str, rows: int = 6, columns: int = COLUMNS) -> Tensor:
    """Mean images of p(x | z) that differ in one layer of a hierarchy; ``[N, C, H, W]``.

    A row has one draw of the layers above ``site``; along it ``site`` is drawn anew for each image,
    and each layer below is at its mean given those above it.

    Args:
        vae: a VAE with one or more layers of latents.
        site: the layer's name, "z_1" next to the image.
        rows, columns: N = rows · columns images.

    Raises:
        InputError: a latent site that the model has not.

    Example:
        >>> save_grid(vary(vae, "z_2"), Path("z_2.png"))
    """
    with torch.no_grad():
        sites: Any = poutine.trace(vae.model).get_trace(None, n=rows).nodes
        names = [n for n, node in sites.items() if is_latent(node) and n != "x"]
        if site not in names:
            raise InputError(f"the latent sites are {', '.join(names)}, and {site!r} is none")
        place = names.index(site)
        above = {k: sites[k]["value"].repeat_interleave(columns, 0) for k in names[:place]}
        model = poutine.condition(vae.model, data=above)
        return mean_image(AtMean(*names[place + 1 :])(model), rows * columns)


def kl_curves(history: Sequence[Epoch]) -> Any:
    """The KL of each latent layer over the epochs, and that of each of its units, the largest at
    the end on top; a matplotlib figure.

    Raises:
        InputError: epochs without the KL of units, as those of guides with dependent units.
    """
    from matplotlib.figure import Figure

    names = sorted(history[-1].kl_of_units)
    if not names:
        raise InputError("the units of these latents are not independent, so none has its own KL")
    epochs = [e.epoch for e in history]
    figure = Figure(figsize=(4.5 + 2.3 * len(names), 3.6), layout="constrained")
    curves, *maps = figure.subplots(
        1, 1 + len(names), width_ratios=[2, *[1] * len(names)], squeeze=False
    )[0]
    for name in names:
        curves.plot(epochs, [e.kl_of_sites[name] for e in history], label=name)
    curves.set(title="KL of each layer", xlabel="epoch", ylabel="nats per image", ylim=(0, None))
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
        axes.set(title=f"the {len(kl)} units of {name}", xlabel="epoch", yticks=[])
    figure.colorbar(shown, ax=maps, label="nats per image")
    return figure


def training_curves(history: Sequence[Epoch]) -> Any:
    """The bound over the epochs, training and test, beside its two parts; a matplotlib figure."""
    from matplotlib.figure import Figure

    epochs = [e.epoch for e in history]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(epochs, [e.train_elbo for e in history], label="training images")
    left.plot(epochs, [e.test_elbo for e in history], label="test images")
    left.set(title="ELBO", xlabel="epoch", ylabel="nats per image")
    best = max(history, key=lambda e: e.test_elbo)
    left.annotate(
        f"{history[-1].test_elbo:.1f}",
        (epochs[-1], history[-1].test_elbo),
        xytext=(3, 0),
        textcoords="offset points",
        va="center",
        color="C1",
        fontsize="small",
    )
    # The first epochs of a run fall off the picture of all that follows.
    lowest = sorted(e.test_elbo for e in history)[len(history) // 10]
    left.set_ylim(bottom=lowest - 0.1 * abs(best.test_elbo - lowest))
    left.legend(frameon=False, loc="lower right")
    right.plot(epochs, [-e.test_reconstruction for e in history], label="distortion, -log p(x | z)")
    right.plot(epochs, [e.test_kl for e in history], label="rate, KL(q || p)")
    right.set(title="Its two parts on the test images", xlabel="epoch", ylim=(0, None))
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure

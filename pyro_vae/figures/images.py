"""Grids of images: samples, reconstructions, and what each latent changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from ..data.images import Images, describe
from ..errors import InputError
from ..latents import is_latent
from ..programs import AtMean, mean_image
from .tables import save_marginals

COLUMNS = 12
"""Images in a row."""
DPI = 100


def zoom(width: int) -> int:
    """How many times :func:`grid` enlarges images: a whole number, so that pixels stay square."""
    return max(1, round(56 / width))


def grid(images: Any, columns: int = COLUMNS) -> Tensor:
    """One picture of many images, ``columns`` in a row; ``[C, H', W']``. Small images are enlarged.

    Args:
        images: a tensor or a NumPy array ``[N, C, H, W]`` in [0, 1], or one image ``[C, H, W]``;
            values outside are clamped.

    Raises:
        InputError: something else.
    """
    from torchvision.utils import make_grid

    if isinstance(images, np.ndarray):
        images = torch.from_numpy(images)
    if isinstance(images, Tensor) and images.dim() == 3:
        images = images[None]
    if not isinstance(images, Tensor) or images.dim() != 4 or images.shape[1] not in (1, 3):
        raise InputError(
            "a grid shows images [N, C, H, W], or one [C, H, W], of 1 or 3 channels, not "
            f"{describe(images)}"
        )
    times = zoom(images.shape[-1])
    large = images.clamp(0, 1).repeat_interleave(times, -2).repeat_interleave(times, -1)
    # A third of an enlarged pixel, so that images of few pixels are seen to be apart.
    return make_grid(large, nrow=columns, padding=max(2, times // 3), pad_value=0.5)


def to_images(vae: Any, *sets: Tensor) -> list[Tensor]:
    """Observations as images for :func:`grid`, ``[N, C, H, W]`` in [0, 1].

    Images of 1 or 3 channels with pixels come back as they are. Other observations become grey
    images: a vector is one row, the channels of a signal are rows, and the channels and slices of
    all others stand side by side. Each channel goes from its smallest number (black) to its largest
    (white) in all sets together.

    Args:
        vae: the VAE, whose shape and scaling say what the numbers are.
        sets: each ``[N, *shape]``.

    Example:
        >>> from pyro_vae.figures.images import to_images
        >>> (rows,) = to_images(VAE((7,), 2, likelihood="student-t"), torch.randn(5, 7))
        >>> rows.shape, rows.max()
        (torch.Size([5, 1, 1, 7]), tensor(1.))
    """
    shape = vae.shape
    if len(shape) == 3 and shape[0] in (1, 3) and vae.config["scaling"] is None:
        return list(sets)
    every = torch.cat([s.float() for s in sets])
    of_channel = every.flatten(2).transpose(1, 2).flatten(0, 1) if every.dim() > 2 else every
    low, high = of_channel.amin(0), of_channel.amax(0)  # [C]
    low, high = (v.view(-1, *[1] * (every.dim() - 2)) for v in (low, high))
    every = (every - low) / torch.where(high > low, high - low, 1)
    if len(shape) < 3:  # [N, rows, columns]
        every = every.reshape(len(every), -1, shape[-1])
    else:  # channels and slices side by side, each [H, W]
        every = torch.cat(every.flatten(1, -3).unbind(1), -1)
    return list(every.unsqueeze(1).split([len(s) for s in sets]))


def save_grid(images: Any, path: str | Path, columns: int = COLUMNS, caption: str = "") -> None:
    """Write :func:`grid` as a picture, with ``caption`` above it.

    Args:
        images: ``[N, C, H, W]`` in [0, 1].
        path: the file. Its suffix gives the format.
        columns: images in a row.
        caption: what the picture shows; "" for no caption.
    """
    from torchvision.utils import save_image

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    picture = grid(images, columns)
    save_image(captioned(picture, caption) if caption else picture, path)


def captioned(picture: Tensor, caption: str) -> Tensor:
    """A picture ``[C, H, W]`` below a caption, pixel by pixel; ``[3, H', W']``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    _, height, width = picture.shape
    across = max(width, 210)  # enough for 30 characters of 7 pixels
    lines = wrap(caption, across // 7)
    total = height + 8 + 16 * len(lines)
    figure = Figure(figsize=(across / DPI, total / DPI), dpi=DPI)
    pixels = picture.mul(255).add(0.5).clamp(0, 255).byte()  # rounded as save_image does
    figure.figimage(pixels.permute(1, 2, 0).cpu().numpy(), 0, 0)
    figure.text(4 / across, 1 - 4 / total, "\n".join(lines), va="top", fontsize=9)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = torch.from_numpy(np.array(canvas.buffer_rgba()))  # [H', W', 4]
    return drawn[..., :3].permute(2, 0, 1) / 255


def stack_rows(*sets: Tensor, columns: int = COLUMNS) -> Tensor:
    """Sets of images under each other, for a grid of ``columns``.

    A row of the first set comes first, below it the same row of the second set, and so on. Grey
    images fill the rest of the last rows.

    Args:
        sets: each ``[N, C, H, W]``.
        columns: images in a row.

    Returns:
        ``[M, C, H, W]``; M is a multiple of ``columns``.

    Example:
        >>> from pyro_vae.figures import stack_rows
        >>> stack_rows(x, 1 - x, columns=5).shape          # x has 8 images: two rows for each set
        torch.Size([20, 1, 28, 28])
    """
    missing = -len(sets[0]) % columns
    full = [torch.cat([s, s.new_full((missing, *s.shape[1:]), 0.5)]).split(columns) for s in sets]
    return torch.cat([row for rows in zip(*full, strict=True) for row in rows])


def pairs(originals: Tensor, reconstructions: Tensor, columns: int = COLUMNS) -> Tensor:
    """Originals above their reconstructions, row by row, as :func:`stack_rows` does."""
    return stack_rows(originals, reconstructions, columns=columns)


def reconstructions(
    vae: Any, images: Images, *, pixels: Tensor | None = None, given: Any = None, seed: int = 0
) -> dict[str, Tensor]:
    """The images, what the VAE sees of them, and their reconstructions; each ``[N, *shape]``.

    Args:
        vae: a :class:`~pyro_vae.vae.VAE`.
        images: the images, all in one batch.
        pixels: the pixels that the VAE sees; by default :meth:`Images.batch` makes them.
        given: the context that is decoded with; None for that of the images.
        seed: of the draws of ``dynamic`` pixels, if ``pixels`` is None.

    Returns:
        tensors by name: ``grey images``, only if the pixels are ``dynamic``; then ``binarized
        pixels`` or ``images``; then ``reconstructions``, the mean images of p(x | z).
    """
    batch = images.rows(slice(None), torch.Generator().manual_seed(seed))
    x = batch.args[0] if pixels is None else pixels
    rows = {"images": x}
    if images.binarize == "dynamic":
        grey = replace(images, binarize="none").batch(slice(None))
        rows = {"grey images": grey, "binarized pixels": x}
    name = "reconstructions" if given is None else f"reconstructions given {given}"
    other = {} if given is None else {"given": given}
    return rows | {name: vae.reconstruct(x, *batch.args[1:], **other, **batch.kwargs)}


def save_reconstructions(
    vae: Any, images: Images, path: str | Path, *, given: Any = None, seed: int = 0
) -> None:
    """Write :func:`reconstructions` as a picture, with a caption that says what each row shows; of
    a table the marginals of both."""
    if images.schema is not None:
        save_marginals(vae, images, path, means=True, given=given)
        return
    rows = reconstructions(vae, images, given=given, seed=seed)
    columns = min(COLUMNS, len(images))
    picture = stack_rows(*to_images(vae, *rows.values()), columns=columns)
    save_grid(picture, path, columns, caption=f"from top to bottom: {', '.join(rows)}")


def by_class(vae: Any, columns: int = COLUMNS) -> Tensor:
    """Mean images of p(x | z, y), a row for each class; ``[K · columns, *shape]``.

    The images of a column have equal random numbers. Under a prior without classes they are one
    draw of z, so that a column shows one style.

    Args:
        vae: a VAE with a condition of classes.
        columns: images in a row.

    Raises:
        InputError: the VAE has no classes.

    Example:
        >>> from pyro_vae.figures import by_class
        >>> by_class(VAE((1, 28, 28), 2, condition=10), columns=3).shape
        torch.Size([30, 1, 28, 28])
    """
    condition = vae.model.condition
    if condition is None or condition.classes is None:
        raise InputError(f"the VAE has no classes; it is conditioned on {condition}")
    seed, rows = int(torch.randint(2**63 - 1, ())), []
    for label in range(condition.classes):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            rows.append(vae.sample(columns, torch.full((columns,), label)))
    return torch.cat(rows)


def prior_samples(vae: Any, n: int, context: Tensor | None = None) -> tuple[Tensor, int, str]:
    """About ``n`` mean images of p(x | z), the number of images in a row, and a caption.

    Args:
        vae: the VAE. If it has classes, there is a row for each, :func:`by_class`.
        n: how many images.
        context: covariates ``[N, ...]``, repeated as often as they are needed.
    """
    condition, caption = vae.model.condition, "means of p(x | z), z from the prior"
    if condition is not None and condition.classes is not None:
        columns = min(max(n // condition.classes, 1), COLUMNS)
        row = f"{caption}; a row for each class, equal noise in a column"
        return by_class(vae, columns), columns, row
    if condition is not None and context is not None:
        rows = torch.arange(n, device=context.device) % len(context)
        return vae.sample(given=context[rows]), COLUMNS, f"{caption}; covariates of the data"
    return vae.sample(n), COLUMNS, caption


def walk(vae: Any, side: int = 15) -> Tensor:
    """Mean images over a square of a two-dimensional latent space, ``[side², C, H, W]``.

    In each direction the points are the quantiles 0.02 to 0.98 of the standard Normal, so every
    cell has the same share of the prior.
    """
    q = torch.linspace(0.02, 0.98, side, device=next(vae.parameters()).device)
    points = torch.distributions.Normal(0.0, 1.0).icdf(q)
    z = torch.cartesian_prod(points.flip(0), points).flip(-1)  # [side², 2], z_2 upwards
    return vae.decode(z)


def latent_names(vae: Any) -> list[str]:
    """The names of a VAE's latent sites in the model's order: the top layer comes first."""
    condition = vae.model.condition
    context = None if condition is None else vae.rows(condition.example(1), 1)
    with torch.no_grad():
        sites: Any = poutine.trace(vae.model).get_trace(None, context, n=1).nodes
    return [name for name, node in sites.items() if is_latent(node) and name != "x"]


def vary(vae: Any, site: str, rows: int = 6, columns: int = COLUMNS, given: Any = None) -> Tensor:
    """Mean images of p(x | z) that differ in one layer of a hierarchy; ``[N, C, H, W]``.

    Each row has one draw of the layers above ``site``. Each image of a row has a new draw of
    ``site``. Each layer below is at its mean given the layers above it.

    Args:
        vae: a VAE with one or more layers of latents.
        site: the name of the layer; "z_1" is the layer next to the image.
        rows, columns: the size of the grid; N = rows · columns.
        given: the context of all images, for a VAE with a condition.

    Raises:
        InputError: the model does not have this latent site.

    Example:
        >>> from pyro_vae.figures import vary
        >>> vae = VAE((1, 28, 28), (4, 2), guide="ladder")
        >>> vary(vae, "z_2", rows=2, columns=3).shape
        torch.Size([6, 1, 28, 28])
    """
    with torch.no_grad():
        few, all_rows = (vae.rows(given, n) for n in (rows, rows * columns))
        sites: Any = poutine.trace(vae.model).get_trace(None, few, n=rows).nodes
        names = [n for n, node in sites.items() if is_latent(node) and n != "x"]
        if site not in names:
            raise InputError(
                f"there is no latent site {site!r}; the latent sites are {', '.join(names)}"
            )
        place = names.index(site)
        above = {k: sites[k]["value"].repeat_interleave(columns, 0) for k in names[:place]}
        model = poutine.condition(vae.model, data=above)
        return mean_image(AtMean(*names[place + 1 :])(model), rows * columns, all_rows)

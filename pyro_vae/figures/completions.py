"""Pictures of images with holes and their completions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..data.images import Images
from ..errors import InputError
from ..evaluation.imputation import impute
from .images import COLUMNS, save_grid, stack_rows, to_images


def save_completions(
    vae: Any,
    images: Images,
    path: str | Path,
    *,
    draws: int = 4,
    samples: int = 1000,
    seed: int = 0,
) -> str:
    """Write a picture of images with holes above their completions and the conditional mean.

    Args:
        vae: a :class:`~pyro_vae.vae.VAE`.
        images: the images, with their mask. Holes are shown in middle grey.
        path: the file. Its suffix gives the format.
        draws: completions of each image.
        samples, seed: as for :func:`~pyro_vae.evaluation.imputation.impute`.

    Returns:
        a sentence about the images whose completions cannot be trusted; "" if all can.

    Raises:
        InputError: rows of a table.
    """
    if images.schema is not None:
        raise InputError(
            "a picture of completions is for images, and these are the rows of a table; "
            'vae.impute fills them in Python, and schema.frame(x).to_csv("filled.csv") writes them'
        )
    result = impute(vae, images, samples=samples, draws=draws, seed=seed)
    assert result.draws is not None
    columns = min(COLUMNS, len(images))
    mean, *drawn = to_images(vae, result.x, *result.draws)
    observed = result.mask.to(result.x)
    mask, _ = to_images(vae, observed, 1 - observed)  # both, so that it goes from 0 to 1
    first = torch.where(mask > 0, mean, 0.5)
    caption = f"from top to bottom: what is observed, {draws} completions, the conditional mean"
    save_grid(stack_rows(first, *drawn, mean, columns=columns), path, columns, caption)
    return result.doubt()

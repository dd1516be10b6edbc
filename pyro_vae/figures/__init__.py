"""Pictures: grids of images, and curves of a training.

The grids are in :mod:`~pyro_vae.figures.images`, the curves in :mod:`~pyro_vae.figures.curves`.
The pictures of an evaluation are in :mod:`~pyro_vae.report.figures`.
"""

from .curves import kl_curves, training_curves
from .images import (
    COLUMNS,
    grid,
    latent_names,
    pairs,
    reconstructions,
    save_grid,
    save_reconstructions,
    stack_rows,
    to_images,
    vary,
    walk,
)

__all__ = [
    "COLUMNS",
    "grid",
    "kl_curves",
    "latent_names",
    "pairs",
    "reconstructions",
    "save_grid",
    "save_reconstructions",
    "stack_rows",
    "to_images",
    "training_curves",
    "vary",
    "walk",
]

"""Pictures: grids of images in :mod:`~pyro_vae.figures.images`, curves of a training in :mod:`~pyro_vae.figures.curves`.

The pictures of an evaluation are in :mod:`~pyro_vae.evaluation.figures`.
"""

from .curves import kl_curves, training_curves
from .images import (
    COLUMNS,
    grid,
    pairs,
    reconstructions,
    save_grid,
    save_reconstructions,
    stack_rows,
    traversals,
    vary,
    walk,
)

__all__ = [
    "COLUMNS",
    "grid",
    "kl_curves",
    "pairs",
    "reconstructions",
    "save_grid",
    "save_reconstructions",
    "stack_rows",
    "training_curves",
    "traversals",
    "vary",
    "walk",
]

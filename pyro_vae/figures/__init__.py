"""Pictures: grids of images, the columns of tables, and curves of a training.

The grids are in :mod:`~pyro_vae.figures.images`, the columns in :mod:`~pyro_vae.figures.tables`,
the curves in :mod:`~pyro_vae.figures.curves`.
The pictures of an evaluation are in :mod:`~pyro_vae.report.figures`.
"""

from .completions import save_completions
from .curves import kl_curves, told_about, training_curves
from .images import (
    COLUMNS,
    by_class,
    grid,
    latent_names,
    pairs,
    prior_samples,
    reconstructions,
    save_grid,
    save_reconstructions,
    stack_rows,
    to_images,
    vary,
    walk,
)
from .tables import drawn_rows, marginals, pixels_of, save_marginals, table_marginals

__all__ = [
    "COLUMNS",
    "by_class",
    "drawn_rows",
    "grid",
    "kl_curves",
    "latent_names",
    "marginals",
    "pairs",
    "pixels_of",
    "prior_samples",
    "reconstructions",
    "save_completions",
    "save_grid",
    "save_marginals",
    "save_reconstructions",
    "stack_rows",
    "table_marginals",
    "to_images",
    "told_about",
    "training_curves",
    "vary",
    "walk",
]

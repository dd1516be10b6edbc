"""Whether images that are sampled from the prior can be as good as reconstructions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..data.images import Images
from ..evaluation.moments import moment_gap
from ..likelihoods import Normal
from ..likelihoods.located import Located
from ..priors import NormalPrior, StandardNormal
from ..programs import ModelProgram

POOR = {"total": 2.0, "unit": 0.5}
"""From these distances between encoded images and prior, in nats, samples are poor: the sum over
all units, and one unit."""


def prior_gap(
    model: Any, guide: Any, images: Images, sites: Iterable[str], seed: int
) -> dict[str, Any]:
    """The distance of the encoded images from the prior, in nats, by latent site.

    If it is so large that samples will be poor, the entry ``warning`` says so in a sentence.

    Args:
        model, guide: Pyro programs that meet :mod:`~pyro_vae.evaluation.scoring`.
        images: the images to encode; the first 2,000 are used.
        sites: the names of the latent sites.
        seed: of the draws.
    """
    gaps = moment_gap(model, guide, images.first(2000), seed=seed)
    why = "its latents are not real numbers, so their means and variances are not compared"
    table: dict[str, Any] = {n: gaps[n].total if n in gaps else {"why": why} for n in sites}
    far = {name: gap for name, gap in gaps.items() if gap.exceeds(**POOR)}
    if far:
        site = max(far, key=lambda name: far[name].total)
        unit, most = far[site].worst
        table["warning"] = (
            f"the means and variances of the encoded images and of the prior differ by "
            f"{table[site]:.2f} nats in {site}, the most in unit {unit} ({most:.2f} nats), so "
            f"sampled images will be worse than reconstructions. {remedies(model)} can help"
        )
    return table


def remedies(model: Any) -> str:
    """What can bring the encoded images and the prior together, and the model does not have."""
    found = []
    if isinstance(model, ModelProgram):
        if isinstance(model.prior, StandardNormal | NormalPrior):
            found.append("a prior that learns from the images (vamp, flow, mixture)")
        if isinstance(model.likelihood, Located) and not model.likelihood.bounded:
            found.append("a likelihood with bounded means (bounded=True)")
        if isinstance(model.likelihood, Normal):
            found.append("a likelihood that learns its scale (normal-learned)")
    words = ", ".join([*found, "more training"]) + " or fewer latent dimensions"
    return words[0].upper() + words[1:]

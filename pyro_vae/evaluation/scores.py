"""Scores of single images: which images are unusual under a model."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.images import Images
from ..errors import InputError
from ..options import at_least_one
from ..progress import Report, silent
from ..spelling import spelled
from ..words import protocol_of
from .importance import Importance, importance


@spelled
def score_images(
    model: Any,
    guide: Any,
    images: Images,
    *,
    samples: int = 1000,
    pixel_draws: int = 1,
    seed: int = 0,
    progress: Report = silent,
) -> Importance:
    """log p̂(x) of each image, as a mean over draws of its pixels where they are ``dynamic``.

    With one draw, ``log_p`` and ``errors`` are those of this draw: another seed draws other pixels,
    and the errors do not say by how much log p̂(x) then changes. With several draws, ``log_p`` is
    their mean, ``errors`` its standard error, which contains the pixels and z, and the other
    entries are means over the draws.

    Args:
        model, guide: Pyro programs that meet :mod:`.scoring`.
        images: the images to score.
        samples: draws of z for each image and draw of its pixels, K.
        pixel_draws: draws of the pixels.
        seed: of the draws of pixels and of z.
        progress: as for :func:`.importance.importance`.

    Raises:
        InputError: as for :func:`.importance.importance`; ``pixel_draws`` below 1, or above 1 for
            pixels that are not ``dynamic``.

    Example:
        >>> from pyro_vae.evaluation.scores import score_images
        >>> data = load_data("digits", binarize="dynamic")
        >>> vae = VAE(data.shape, latent_size=2)
        >>> some = data.test.first(20)
        >>> one, ten = (
        ...     score_images(vae.model, vae.guide, some, samples=50, pixel_draws=n) for n in (1, 10)
        ... )
        >>> bool(ten.errors.mean() > one.errors.mean())  # it contains the spread over the pixels
        True
    """
    at_least_one("pixel_draws", pixel_draws, most=10_000)
    if pixel_draws > 1 and images.binarize != "dynamic":
        raise InputError(
            f"{pixel_draws} draws of the pixels need dynamic binarisation; these images have "
            f"{protocol_of(images.binarize)}, and their pixels are always the same"
        )
    # Not seed + 1 and so on, which the user may take for another result.
    seeds = [seed, *np.random.SeedSequence(seed).generate_state(pixel_draws - 1).tolist()]
    each = []
    for i, own in enumerate(seeds):
        tell = share_of(progress, i, pixel_draws)
        each.append(importance(model, guide, images, samples=samples, seed=own, progress=tell))
    if pixel_draws == 1:
        return each[0]

    def mean(of: Callable[[Importance], Tensor]) -> Tensor:
        return torch.stack([of(one) for one in each]).mean(0)

    spread = torch.stack([one.log_p for one in each]).std(0)
    return replace(
        each[0],
        log_p=mean(lambda one: one.log_p),
        errors=spread / math.sqrt(pixel_draws),
        effective=mean(lambda one: one.effective),
        pareto_k=mean(lambda one: one.pareto_k),
        elbos=mean(lambda one: one.elbos),
        elbo_errors=torch.stack([one.elbos for one in each]).std(0) / math.sqrt(pixel_draws),
        curve={k: torch.stack([one.curve[k] for one in each]).mean(0) for k in each[0].curve},
        rises=mean(lambda one: one.rises),
    )


def share_of(progress: Report, number: int, of: int) -> Report:
    """Report one of several equal parts of the work."""
    return lambda what, share: progress(what, (number + share) / of)


def write_scores(path: Path, images: Images, splits: Sequence[str], result: Importance) -> None:
    """Write a CSV file with a line for each image, the lowest log p̂(x) first.

    The columns are the file (or number) of the image, its split, log p̂(x) and its standard error in
    nats, Pareto k, and whether the errors of these images are trusted. If they are not, there are
    none.

    Args:
        path: the file to write.
        images: the images.
        splits: the split of each image, such as "test"; "" for images that nobody has split.
        result: the estimates for these images.
    """
    names = images.files or [str(i) for i in range(len(images))]
    trusted = result.trusted
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["file", "split", "log_p", "standard_error", "pareto_k", "trusted"])
        for i in result.log_p.argsort().tolist():
            numbers = (result.log_p[i], result.errors[i], result.pareto_k[i])
            cells = [f"{n.item():.4f}" for n in numbers]
            if not trusted:
                cells[1] = ""
            lines.writerow([names[i], splits[i], *cells, str(trusted).lower()])


def auroc(usual: Tensor, unusual: Tensor) -> float:
    """The area under the ROC curve of a score that separates unusual images from usual ones.

    It is the probability that an unusual image has the lower score of the two. 0.5 means that the
    score does not separate them.

    Args:
        usual, unusual: the scores, for instance log p̂(x), ``[N]`` and ``[M]``.
    """
    from sklearn.metrics import roc_auc_score

    scores = torch.cat([usual, unusual]).cpu()
    labels = torch.cat([torch.ones(len(usual)), torch.zeros(len(unusual))])
    return float(roc_auc_score(labels.numpy(), scores.numpy()))

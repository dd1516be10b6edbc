"""How well a guide predicts labels and real targets, and whether its errors can be believed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.images import Images
from ..data.labelled import by_classes
from ..errors import InputError
from .bound import error_of_share, standard_error
from .rows import blocks, with_labels
from .scoring import measuring

BINS = 15
"""The bins of the confidence in the calibration error."""


def classes_of(vae: Any, images: Images) -> Tensor:
    """The labels of labelled images as classes of a VAE that infers them, ``[N]``.

    Raises:
        InputError: a label of a class that the VAE does not know.
    """
    assert images.labels is not None
    condition = vae.model.condition
    names = condition.names
    labels = by_classes(images.labels, images.classes, names) if names else images.labels
    condition.check(labels)
    return labels


def predictions(vae: Any, images: Images, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """q(y | x) of each image, ``[N, K]``, and its label as one of the VAE's classes, ``[N]``.

    Args:
        vae: a :class:`~pyro_vae.vae.VAE` whose guide infers labels.
        images: labelled images. The guide does not see their labels.
        seed: of the draws of ``dynamic`` pixels.

    Raises:
        InputError: images without labels, or with labels of a class that the VAE does not know.
    """
    images, _ = with_labels(images, "the accuracy")
    labels = classes_of(vae, images)
    with measuring(vae.guide, seed=seed, device=images.pixels.device):
        rows = blocks(images, 500, seed, vae.guide)
        probs = [vae.predict(batch.args[0], mask=batch.named.get("mask")) for batch in rows]
    return torch.cat(probs).cpu(), labels.cpu()


def accuracy(probs: Tensor, labels: Tensor) -> tuple[float, float]:
    """The share of images whose most probable class is their label, and its standard error, as
    :func:`.bound.error_of_share` gives it."""
    share = (probs.argmax(-1) == labels).double().mean().item()
    return share, error_of_share(share, len(labels))


def calibration_error(
    probs: Tensor, labels: Tensor, *, bins: int = BINS, resamples: int = 200, seed: int = 0
) -> tuple[float, float]:
    """The expected calibration error of predictions, and its standard error by the bootstrap. The
    latter is NaN if all resamples are equal, as those of one image are.

    Equation: ECE = Σ_m (n_m / N) · abs(accuracy_m - confidence_m). Bin m holds the images whose
    largest probability, the confidence, is in (m / bins, (m + 1) / bins].

    Args:
        probs: ``[N, K]``.
        labels: int64 ``[N]``.
        bins: how many bins of equal width.
        resamples: of the images, for the standard error.
        seed: of the resamples.

    Paper: Guo et al. 2017, On calibration of modern neural networks.

    Example:
        >>> from pyro_vae.evaluation.calibration import calibration_error
        >>> probs = torch.tensor([[0.8, 0.2]]).expand(10, 2)
        >>> round(calibration_error(probs, torch.tensor([0] * 7 + [1] * 3))[0], 4)  # 0.8 - 0.7
        0.1
    """
    confidence, predicted = (each.numpy() for each in probs.double().max(-1))
    excess = confidence - (predicted == labels.numpy())  # [N]
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)

    def error(rows: Any) -> float:
        total = np.bincount(place[rows], excess[rows], minlength=bins)
        return float(np.abs(total).sum() / len(labels))

    random = np.random.RandomState(seed)
    draws = [error(random.randint(len(labels), size=len(labels))) for _ in range(resamples)]
    return error(slice(None)), float(np.std(draws)) if np.ptp(draws) > 0 else math.nan


def regressions(vae: Any, images: Images, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """The mean and the standard deviation of q(y | x) and the target itself, ``[N, n]`` each.

    Args:
        vae: a :class:`~pyro_vae.vae.VAE` whose guide infers real targets.
        images: observations with targets, of which some may be NaN. The guide does not see them.
        seed: of the draws of ``dynamic`` pixels.

    Raises:
        InputError: observations without targets, or with another number of them.
    """
    size = vae.model.condition.size
    if images.targets is None or images.targets.isnan().all():
        raise InputError("the error of predictions needs rows with targets, and these have none")
    if images.targets.shape[1] != size:
        raise InputError(
            f"the VAE infers {size} targets, and these data have {images.targets.shape[1]}"
        )
    with measuring(vae.guide, seed=seed, device=images.pixels.device):
        rows = blocks(replace(images, context=None), 500, seed, vae.guide)
        each = [vae.predict(batch.args[0], mask=batch.named.get("mask")) for batch in rows]
    mean, scale = (torch.cat(part).cpu().double() for part in zip(*each, strict=True))
    return mean, scale, images.targets.cpu().double()


def root_mean_square(errors: Tensor) -> tuple[float, float]:
    """The root of the mean square of errors ``[N]``, and its standard error by the delta method;
    NaN for one error.

    Example:
        >>> from pyro_vae.evaluation.calibration import root_mean_square
        >>> root_mean_square(torch.tensor([3.0, -3.0]))
        (3.0, 0.0)
    """
    squares = errors.double().square()
    root = squares.mean().sqrt().item()
    spread = standard_error(squares)
    return root, spread / (2 * root) if root else spread


def coverage(mean: Tensor, scale: Tensor, truth: Tensor, level: float = 0.9) -> tuple[float, float]:
    """The share of targets ``[N]`` in the central intervals of Normals, and its standard error, as
    :func:`.bound.error_of_share` gives it.

    Args:
        mean, scale: of the Normals, ``[N]``.
        truth: the targets, ``[N]``.
        level: the probability of an interval.
    """
    reach = scale * torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=scale.dtype))
    share = ((truth - mean).abs() <= reach).double().mean().item()
    return share, error_of_share(share, len(truth))

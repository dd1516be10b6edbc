"""Scores of single images: which images are unusual under a model."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..data.images import Images
from .importance import Importance


def write_scores(path: Path, images: Images, splits: Sequence[str], result: Importance) -> None:
    """Write a CSV file with a line for each image, the lowest log p̂(x) first.

    The columns are the file (or number) of the image, its split, log p̂(x) and its standard error in
    nats, Pareto k, and whether Pareto k is within the limit.

    Args:
        path: the file to write.
        images: the images.
        splits: the split of each image, such as "test"; "" for images that nobody has split.
        result: the estimates for these images.
    """
    names = images.files or [str(i) for i in range(len(images))]
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["file", "split", "log_p", "standard_error", "pareto_k", "trusted"])
        for i in result.log_p.argsort().tolist():
            numbers = (result.log_p[i], result.errors[i], result.pareto_k[i])
            trusted = str(bool(result.trusted[i])).lower()
            lines.writerow([names[i], splits[i], *(f"{n.item():.4f}" for n in numbers), trusted])


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

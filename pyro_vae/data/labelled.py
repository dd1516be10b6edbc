"""Labels and real targets as a context: by the classes of a VAE, and with most of them hidden."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..options import is_whole
from ..words import called, counted, either

HIDDEN = -1
"""The label of an observation whose label is not known."""


def check_beside(
    n: int, labels: Tensor | None, context: Tensor | None, targets: Tensor | None
) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for labels, a context or real targets that do not
    fit ``n`` observations."""
    for name, given in (("labels", labels), ("targets", targets), ("contexts", context)):
        if given is not None and not isinstance(given, Tensor):
            raise InputError(
                f"{name} are a tensor with a row for each observation, not a {type(given).__name__}"
            )
    if context is not None and len(context) != n:
        raise InputError(
            f"the context has {counted(len(context), 'row')} for {counted(n, 'observation')}; it "
            "needs a row for each"
        )
    if labels is not None and tuple(labels.shape) != (n,):
        raise InputError(
            f"labels are a tensor [{n}], one for each image, not a tensor of shape "
            f"{list(labels.shape)}"
        )
    if labels is not None and (labels.is_floating_point() or labels.is_complex()):
        raise InputError(
            "labels are whole numbers from 0, one for each image, not a tensor of type "
            f"{str(labels.dtype).removeprefix('torch.')}; real numbers are targets [{n}, n]"
        )
    if targets is None:
        return
    if targets.dim() != 2 or len(targets) != n or not targets.is_floating_point():
        raise InputError(
            f"targets are real numbers [{n}, n], a row for each observation, not a tensor of type "
            f"{str(targets.dtype).removeprefix('torch.')} and shape {list(targets.shape)}"
        )
    if targets.isinf().any():
        raise InputError("a target is infinite; one that is missing is NaN")


def by_classes(labels: Tensor, names: Sequence[str], classes: Sequence[str] | None) -> Tensor:
    """Labels as the numbers of other classes, which have the same names.

    Args:
        labels: int64 ``[N]``, index into ``names``; :data:`HIDDEN` stays as it is.
        names: the names of the labels' own classes.
        classes: the names that the result counts by; None for ``names``.

    Raises:
        InputError: a label whose class is not among ``classes``.

    Example:
        >>> from pyro_vae.data.labelled import by_classes
        >>> by_classes(torch.tensor([0, 1, 0]), ["bee", "ant"], ["ant", "bee"])
        tensor([1, 0, 1])
    """
    if classes is None or list(names) == list(classes):
        return labels
    for label in labels.unique().tolist():
        if label != HIDDEN and names[label] not in classes:
            raise InputError(
                f"the class {names[label]!r} was never seen in training; the classes are "
                f"{', '.join(classes):.200}"
            )
    known = [classes.index(name) if name in classes else HIDDEN for name in names]
    return torch.tensor([*known, HIDDEN], device=labels.device)[labels]  # the last is that of -1


def context_of(images: Any, on: Any, classes: Sequence[str] | None) -> Tensor:
    """The context of images; the arguments are those of :meth:`.images.Images.conditioned`.

    Raises:
        InputError: another condition, images without labels, or a label that is not in ``classes``.
    """
    if isinstance(on, np.ndarray) and on.dtype.kind in "biuf":
        on = torch.tensor(on)
    if isinstance(on, Tensor):
        if on.is_floating_point() and on.dim() < 2:
            raise InputError(
                f"covariates are a tensor [N, n], not one of shape {list(on.shape)}; one number "
                "each is [N, 1]"
            )
        if on.is_floating_point() and not on.isfinite().all():
            raise InputError("covariates are finite numbers, and some of these are NaN or infinite")
        return on
    if not isinstance(on, str) or on not in ("label", "target"):
        given = f"an array of {on.dtype}" if isinstance(on, np.ndarray) else f"{on!r:.100}"
        raise InputError(f"a condition is 'label', 'target' or numbers [N, ...], not {given}")
    if on == "target":
        if images.targets is None:
            raise InputError("a condition on targets needs data with them, and these have none")
        if count := int(images.targets.isnan().sum()):
            raise InputError(
                f"a condition on the targets needs all of them, and {count:,} of "
                f"{images.targets.numel():,} are missing; to infer those take data.labelled(), on "
                "the command line --recipe m2-real without --condition"
            )
        return images.targets
    if images.labels is not None and (images.labels == HIDDEN).any():
        count = int((images.labels == HIDDEN).sum())
        raise InputError(
            f"a condition on the labels needs all of them, and {count:,} of {len(images):,} are "
            "missing; to infer those take "
            + either("data.labelled()", "--recipe m2 without --condition")
        )
    return labels_of(images, classes)


def labels_of(images: Any, classes: Sequence[str] | None) -> Tensor:
    """The labels of images by ``classes``, as in :func:`by_classes`; some may be hidden.

    Raises:
        InputError: images without labels, or a label that is not in ``classes``.
    """
    if images.labels is None:
        raise InputError(
            "a condition on the labels needs data with labels, and these have none; those of a "
            f"table are the column that {called('label')} names, or {called('target')} for numbers"
        )
    names = images.classes or tuple(map(str, range(int(images.labels.max()) + 1)))
    return by_classes(images.labels, names, classes)


def some_labels(labels: Tensor, count: int, seed: int) -> Tensor:
    """The labels with all but ``count`` hidden. Each class keeps as many, to within one.

    Args:
        labels: int64 ``[N]``; :data:`HIDDEN` stays as it is.
        count: how many stay.
        seed: of the draw. Those that stay for a smaller count stay for a larger one, too.

    Raises:
        InputError: fewer labels than classes, or more than there are.
    """
    labels = labels.cpu()
    there = labels != HIDDEN
    classes, most = labels[there].unique().tolist(), int(there.sum())
    if not is_whole(count) or not len(classes) <= count <= most:
        raise InputError(
            f"{either('the number of labels that stay known', '--known-labels')} is a whole number "
            f"from {len(classes)}, one for each class, to {most}, the number of observations with "
            f"a label, not {count!r}"
        )
    random = np.random.RandomState(seed)
    # The place of a row among those of its class; a row without a label comes after all others.
    rank = torch.full((len(labels),), len(labels) * len(classes))
    for place, label in enumerate(classes):
        rows = torch.where(labels == label)[0]
        order = torch.from_numpy(random.permutation(len(rows)))
        rank[rows[order]] = torch.arange(len(rows)) * len(classes) + place
    return torch.where(rank.argsort().argsort() < count, labels, HIDDEN)


def some_targets(targets: Tensor, count: int, seed: int) -> Tensor:
    """The targets ``[N, n]`` with NaN in all but ``count`` of the rows that have any.

    Args:
        targets: NaN where one is missing.
        count: how many rows keep theirs.
        seed: of the draw. Those that stay for a smaller count stay for a larger one, too.

    Raises:
        InputError: fewer than 2, or more than there are.
    """
    there = torch.where((~targets.isnan()).any(1))[0].cpu()
    if not is_whole(count) or not 2 <= count <= len(there):
        raise InputError(
            f"{either('the number of targets that stay known', '--known-labels')} is a whole "
            "number from 2 to "
            f"{len(there)}, the number of observations with a target, not {count!r}"
        )
    order = torch.from_numpy(np.random.RandomState(seed).permutation(len(there)))
    kept = torch.full_like(targets, torch.nan)
    rows = there[order[:count]].to(targets.device)
    kept[rows] = targets[rows]
    return kept


def partly_known(images: Any, count: int | None, seed: int) -> Tensor:
    """The context of training data for semi-supervised learning, as
    :meth:`.loading.Data.labelled` describes it."""
    if images.targets is not None:
        return images.targets if count is None else some_targets(images.targets, count, seed)
    labels = labels_of(images, None)
    return labels if count is None else some_labels(labels, count, seed).to(labels.device)

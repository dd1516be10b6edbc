"""The unit of real targets: their means and standard deviations where they are known."""

from __future__ import annotations

import torch
from torch import Tensor

from .contracts import Guide
from .errors import InputError
from .registry import Choice, class_of

SMALLEST, LARGEST = 1e-12, 1e18
"""The standard deviations of a target with which float32 can compute."""


def target_moments(context: Tensor | None, choice: Choice) -> list[list[float]] | None:
    """The means and the standard deviations of real targets ``[N, n]`` where they are known; None
    if the guide infers no targets.

    Raises:
        InputError: a target of which no value is known, that does not change, or whose unit is
            beyond what float32 can square.
    """
    kind = class_of(choice)
    if context is None or not (issubclass(kind, Guide) and kind.infers_targets):
        return None
    if context.dim() != 2 or not context.is_floating_point():
        return None  # the VAE refuses it
    known = ~context.isnan()
    if not known.any(0).all():
        raise InputError("a target is known in none of the training rows")
    y, count = torch.where(known, context, 0).double(), known.sum(0)
    mean = y.sum(0) / count
    variance = torch.where(known, y - mean, 0).square().sum(0) / count
    constant = variance <= (mean.abs() * 1e-6).square()
    if constant.any():
        i = int(constant.nonzero()[0])
        if count[i] == 1:
            raise InputError(
                "a target is known in one training row only, and nothing can be learned of one; "
                "give more rows whose target is known"
            )
        raise InputError(
            f"a target is {mean[i].item():g} in all {int(count[i]):,} training rows where it is "
            "known, to six digits, and nothing can be learned of a constant; give another target, "
            "or its difference to this number, or more rows whose target is known"
        )
    scale = variance.sqrt()
    for each in scale.tolist():
        if not SMALLEST <= each <= LARGEST:
            raise InputError(
                f"a target has the standard deviation {each:g}; give it in another unit, so that "
                f"this is between {SMALLEST:g} and {LARGEST:g}, which float32 can square"
            )
    return [mean.tolist(), scale.tolist()]

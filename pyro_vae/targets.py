"""The units of real targets and covariates: their means and standard deviations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .conditions import Condition
from .contracts import Guide, Likelihood
from .errors import InputError
from .registry import Choice, class_of

SMALLEST, LARGEST = 1e-12, 1e18
"""The standard deviations of a target, which float32 can square."""
LEAST, MOST = 1e-30, 1e30
"""The standard deviations of a covariate, by which float32 can divide."""


def context_moments(context: Tensor | None, choice: Choice) -> list[list[float]] | None:
    """The means and the standard deviations of real targets or covariates ``[N, n]``.

    Args:
        context: of the training data; None for none.
        choice: the guide, which infers targets or not.

    Returns:
        two lists of n numbers; None for labels, and for what the VAE refuses.

    Raises:
        InputError: numbers that :func:`covariate_moments` or :func:`target_moments` refuses.
    """
    if context is None or context.dim() < 2 or context.is_complex():
        return None
    kind = class_of(choice)
    if not (issubclass(kind, Guide) and kind.infers_targets):
        covariates = context.flatten(1).double()
        return covariate_moments(covariates) if covariates.isfinite().all() else None
    if context.dim() != 2 or not context.is_floating_point():
        return None  # the VAE refuses it
    return target_moments(context)


def covariate_moments(covariates: Tensor) -> list[list[float]]:
    """Means and standard deviations of covariates, float64 ``[N, n]``. The standard deviation of a
    covariate that does not change is given as 1.

    Raises:
        InputError: a covariate whose standard deviation is too small or too large for float32.
    """
    scale, mean = torch.std_mean(covariates, 0, correction=0)
    changes = covariates.amax(0) > covariates.amin(0)
    lost = changes & ((scale < mean.abs() * 1e-6) | (scale < LEAST) | (scale > MOST))
    if lost.any():
        i = int(lost.nonzero()[0])
        raise InputError(
            f"a covariate has the mean {mean[i].item():g} and the standard deviation "
            f"{scale[i].item():g}, which is too small or too large for float32; give it in another "
            "unit, or its difference to this mean"
        )
    return [mean.tolist(), torch.where(changes, scale, 1).tolist()]


def target_moments(targets: Tensor) -> list[list[float]]:
    """Means and standard deviations of targets ``[N, n]`` where they are known.

    Raises:
        InputError: a target of which no value is known, that does not change, or whose unit is
            beyond what float32 can square.
    """
    known = ~targets.isnan()
    if not known.any(0).all():
        raise InputError("a target is known in none of the training rows")
    y, count = torch.where(known, targets, 0).double(), known.sum(0)
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


def refuse_scaling(scaling: Any, given: Condition | None) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for a scaling of a context without real numbers.

    Args:
        scaling: the argument ``context_scaling`` of a VAE.
        given: its condition.
    """
    if scaling is not None and (given is None or not given.shape):
        what = "no condition" if given is None else f"the condition {given}"
        raise InputError(
            "context_scaling is for a VAE with a condition of real covariates or targets, and this "
            f"one has {what}; leave it out"
        )


class Units(nn.Module):
    """Covariates ``[B, n]`` in units of their standard deviations, from their means.

    Args:
        mean, scale: the means and the standard deviations, ``[n]``.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        # They are saved with the weights, because weights fit only what they were trained on.
        self.register_buffer("mean", mean.clone())
        self.register_buffer("scale", scale.clone())

    @classmethod
    def of(cls, condition: Condition | None) -> nn.Module:
        """Those of a condition; without a scaling, numbers stay as they are."""
        scaling = None if condition is None else condition.scaling
        return nn.Identity() if scaling is None else cls(*scaling)

    def forward(self, covariates: Tensor) -> Tensor:
        return (covariates - self.mean) / self.scale


def in_units(
    given: Condition | None, scaling: tuple[Tensor, Tensor] | None, part: Likelihood
) -> Condition | None:
    """The condition of real covariates with their ``scaling``; another one as it is.

    A likelihood that takes the context itself, such as one with a size factor, gets it as it is,
    and so do the other parts. Parts that infer targets apply the scaling themselves.
    """
    if given is None or given.inferred or not given.shape or part.takes("context"):
        return given
    return replace(given, scaling=scaling)

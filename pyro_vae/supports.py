"""What values an entry of x can have: the support of a likelihood, in words and as a check."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from .errors import InputError

ROUNDING = 8 * torch.finfo(torch.float32).eps  # how far rounding takes a number out of its bounds


class OpenUnit(constraints.Constraint):
    """Numbers between 0 and 1, both excluded."""

    lower_bound, upper_bound = 0.0, 1.0

    def check(self, value: Tensor) -> Tensor:
        return (value > 0) & (value < 1)


open_unit = OpenUnit()


class EachEntry(constraints.Constraint):
    """A support that each entry of x has for itself.

    Args:
        supports: a constraint for each group of entries.
        places: the numbers of the entries of each group in the flattened x.
        inside: a value in the support of each entry, of the shape of x.
    """

    def __init__(self, supports: Sequence[Any], places: Sequence[Tensor], inside: Tensor) -> None:
        self.supports, self.places, self.inside = supports, places, inside

    def check(self, value: Tensor) -> Tensor:
        flat = value.reshape(*value.shape[: value.dim() - self.inside.dim()], -1)
        ok = torch.ones_like(flat, dtype=torch.bool)
        for support, where in zip(self.supports, self.places, strict=True):
            ok[..., where] = support.check(flat[..., where])
        return ok.reshape(value.shape)


def is_boolean(support: Any) -> bool:
    """Whether a support is 0 and 1. A copy of torch's own object is another object."""
    return isinstance(support, type(constraints.boolean))


def bounds(support: Any) -> tuple[float, float]:
    """The lower and the upper bound of a support; infinite where it has none."""
    if is_boolean(support):
        return 0.0, 1.0
    # Only some of torch's constraints have bounds, under these names.
    low, high = (getattr(support, f"{side}_bound", None) for side in ("lower", "upper"))
    return -inf if low is None else float(low), inf if high is None else float(high)


def some_value(support: Any) -> float | Tensor:
    """A number in a support, away from its bounds if numbers between them are in it; a tensor of
    the shape of x if each entry has a support of its own."""
    if isinstance(support, EachEntry):
        return support.inside
    low, high = bounds(support)
    if isfinite(low) and isfinite(high):
        return low if support.is_discrete else (low + high) / 2
    if isfinite(low):
        return low + 1
    return high - 1 if isfinite(high) else 0.0


def words(support: Any) -> str:
    """A support in words, such as "numbers above 0"."""
    if is_boolean(support):
        return "0 and 1"
    if isinstance(support, OpenUnit):
        return "numbers between 0 and 1, both excluded"
    what, (low, high) = "whole numbers" if support.is_discrete else "numbers", bounds(support)
    if isinstance(support, type(constraints.positive)):
        return f"{what} above {low:g}"
    return f"{what} {between(low, high)}" if isfinite(low) else f"finite {what}"


def between(low: float, high: float) -> str:
    """The end of a phrase about numbers: ``in [0, 1]``, ``of at least 0``."""
    return f"in [{low:g}, {high:g}]" if isfinite(high) else f"of at least {low:g}"


def place(ok: Tensor, x: Tensor) -> str:
    """The first entry of ``x`` that is not ``ok``, with its value: ``x[3, 0] is -1``."""
    index = tuple((~ok).nonzero()[0].tolist())
    where = f"x[{', '.join(map(str, index))}]"
    return f"{where} is {x[index].item():.7g}" if len(index) == x.dim() else where


def refuse_outside(x: Tensor, support: Any, who: str) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` if a value of ``x`` is outside of a support.

    The sentence names the first such value and its place.

    Args:
        x: a batch, ``[B, *shape]``.
        support: a constraint of torch, for each entry or for the whole of an observation.
        who: who scores x, as the subject of the sentence.
    """
    ok = support.check(x)
    if ok.shape == x.shape:
        ok = ok & x.isfinite()
    if not ok.all():
        raise InputError(f"{place(ok, x)}, and {who} scores {words(support)}{suggest(x, support)}")


def within(x: Tensor, low: float, high: float) -> Tensor:
    """``x``, with what rounding took out of [low, high] brought back.

    Raises:
        InputError: a value that is farther out, NaN or infinite. The sentence names the first one.
    """
    if x.is_floating_point():
        least, most = (number.item() for number in x.aminmax())  # one pass; NaN if x has one
        if low <= least and most <= high and isfinite(least) and isfinite(most):
            return x
    ok = (x >= low - ROUNDING) & (x <= high + ROUNDING) & x.isfinite()
    if not ok.all():
        what = f"numbers {between(low, high)}" if isfinite(low) else "finite numbers"
        hint = suggest(x, constraints.interval(low, high))
        raise InputError(f"{place(ok, x)}, and the likelihood of this VAE scores {what}{hint}")
    return x.clamp(low, high)


def suggest(x: Tensor, support: Any) -> str:
    """The end of an error message: what would make ``x`` fit."""
    low, high = x.min().item(), x.max().item()
    if bounds(support) != (0.0, 1.0) or not (isfinite(low) and isfinite(high)):
        return ""
    if 0 <= low <= high <= 1:
        return ""
    return suggest_scaling(low, high) or "; a likelihood of all real numbers is student-t"


def suggest_scaling(low: float, high: float) -> str:
    """The end of an error message: how pixels from ``low`` to ``high`` probably become [0, 1]."""
    if low >= -ROUNDING and 2 < high <= 255 + 255 * ROUNDING:
        return "; divide them by 255"
    if low >= -1 - ROUNDING and high <= 1 + ROUNDING:
        return "; if they were scaled to [-1, 1], add 1 and divide by 2"
    if low >= -0.5 and high <= 1.5:
        return "; if an interpolation overshot, clip them to it"
    return ""

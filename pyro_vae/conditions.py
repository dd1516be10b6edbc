"""What a VAE is conditioned on: labels of classes, or real covariates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from .contracts import Guide
from .data import Images
from .data.labelled import HIDDEN
from .errors import InputError
from .latents import Shape
from .options import is_whole
from .registry import Choice, class_of
from .words import either, word_of

CONDITIONED = ("likelihood", "guide")
"""The parts that can get the context beside z or x."""


@dataclass(frozen=True)
class Condition:
    """What a VAE is conditioned on: labels of classes, or real covariates.

    Args:
        classes: the number of classes; the context is then int64 labels ``[B]`` from 0.
        shape: the shape of the covariates of one observation; the context is then ``[B, *shape]``.
        names: the names of the classes; empty if they have none.
        inferred: whether a label may be -1, and a covariate NaN, which stand for one that is not
            known. Covariates are then called targets.
        scaling: means and standard deviations of covariates, ``[size]`` each, in whose units the
            parts get them; None for 0 and 1.
    """

    classes: int | None = None
    shape: Shape = ()
    names: tuple[str, ...] = ()
    inferred: bool = False
    scaling: tuple[Tensor, Tensor] | None = field(default=None, compare=False)

    @classmethod
    def of(cls, condition: Any) -> Self | None:
        """The condition that a user gives: a number of classes, the names of classes, or the shape
        of covariates.

        Raises:
            InputError: something else.
        """
        if condition is None:
            return None
        if is_whole(condition) and condition > 1:
            return cls(classes=condition)
        listed = isinstance(condition, Sequence) and not isinstance(condition, str)
        if listed and condition and all(is_whole(n) and n > 0 for n in condition):
            return cls(shape=tuple(condition))
        named = listed and all(isinstance(name, str) for name in condition)
        if named and len(set(condition)) == len(condition) > 1:
            return cls(classes=len(condition), names=tuple(condition))
        raise InputError(
            "condition is a number of classes from 2, such as 10, or their names, each once, or "
            f"the shape of real covariates, such as (3,), not {condition!r}"
        )

    @property
    def size(self) -> int:
        """How many numbers the parts get."""
        return self.classes or prod(self.shape)

    def __str__(self) -> str:
        if self.classes:
            return f"labels of {self.classes} classes, a whole number for each observation"
        what = "targets" if self.inferred else "covariates"
        return f"real {what} of shape {list(self.shape)} for each observation"

    def rows(self, given: Any, n: int) -> Tensor:
        """A context of ``n`` rows from what a user gives.

        Args:
            given: one class or one set of covariates for all rows, or a tensor with a row for each,
                or a list with a class for each.
                A class is its name or its number from 0; if the names of all classes are numbers,
                it is the one with this name. Covariates may be a text, ``"0.5,1"``.
            n: the number of rows.

        Raises:
            InputError: a class that there is not, or something else.
        """
        if isinstance(given, Tensor) and given.dim() > 0 and given.dim() != len(self.shape):
            return given
        if self.classes is not None:
            if isinstance(given, list | tuple):
                return torch.tensor([self.number(each) for each in given])
            return torch.full((n,), self.number(given))
        try:
            given = given.split(",") if isinstance(given, str) else given
            real = not np.iscomplexobj(np.asarray(given))
            one = torch.as_tensor(np.asarray(given, dtype=np.float64 if real else None))
            one = one.reshape(1) if self.shape == (1,) and one.dim() == 0 else one
        except (TypeError, ValueError, OverflowError):
            one = torch.zeros(())
        numbers = ~one.isinf() if self.inferred else one.isfinite()
        if tuple(one.shape) != self.shape or one.is_complex() or not numbers.all():
            hidden = ", NaN where one is not known" if self.inferred else ""
            raise InputError(
                f"this VAE is conditioned on {self}; given is finite numbers of shape "
                f"{list(self.shape)}{hidden}, or a tensor with a row for each observation, not "
                f"{given!r:.200}"
            )
        return one.expand(n, *self.shape)

    def example(self, n: int) -> Tensor:
        """Some context of ``n`` rows: the first class, or mean covariates."""
        if self.scaling is not None:
            return self.scaling[0].float().reshape(self.shape).expand(n, *self.shape)
        return torch.zeros(n, *self.shape, dtype=torch.int64 if self.classes else torch.float32)

    def number(self, given: Any) -> int:
        """The number of the class that a user names; -1 stays, where labels are inferred.

        Raises:
            InputError: there is no such class.
        """
        scalar = isinstance(given, Tensor | np.ndarray | np.generic) and not given.ndim
        text, names = str(given.item() if scalar else given), self.names
        if text in names:
            return names.index(text)
        if self.inferred and text == str(HIDDEN):
            return HIDDEN
        numbers = names and all(re.fullmatch(r"[+-]?\d+", name) for name in names)
        if not numbers and text.isdecimal() and int(text) < self.size:
            return int(text)
        quoted = (repr(name) if "," in name else name for name in names)
        known = f"{', '.join(quoted):.200}" if names else f"0 to {self.size - 1}"
        hidden = f", and {HIDDEN} is one that is not known" if self.inferred else ""
        raise InputError(f"there is no class {given!r}; the classes are {known}{hidden}")

    def encode(self, context: Tensor, like: Tensor) -> Tensor:
        """What the parts get, ``[B, size]``: labels as one-of-K, covariates as they are. A label
        that is not known is zeros.

        Args:
            context: labels or covariates.
            like: a tensor of the type and the device that the numbers get.

        Raises:
            InputError: a context of another type or shape, or a label that is not a class.
        """
        if self.classes is None:
            if tuple(context.shape[1:]) != self.shape or context.is_complex():
                raise InputError(
                    f"the context of this VAE is {self}, not a tensor of shape "
                    f"{list(context.shape)}"
                )
            return context.to(like).flatten(1)
        if context.dim() != 1 or context.is_floating_point() or context.dtype == torch.bool:
            kind = str(context.dtype).removeprefix("torch.")
            raise InputError(
                f"the context of this VAE is {self}, not a tensor of type {kind} and shape "
                f"{list(context.shape)}"
            )
        if not self.inferred:
            return one_hot(context.long(), self.classes).to(like)
        known = (context != HIDDEN).unsqueeze(-1)
        return one_hot(context.long().clamp(min=0), self.classes).to(like) * known

    def check(self, context: Tensor) -> None:
        """Raise :class:`~pyro_vae.errors.InputError` for a label that is not a class, or a
        covariate that is not finite; NaN is a target that is not known. Pyro's validation switches
        the check on."""
        if self.classes is not None:
            hidden = context == HIDDEN
            if hidden.any() and not self.inferred:
                raise InputError(
                    "a label is -1, which stands for one that is not known, and this VAE does not "
                    "infer labels; take the guide labelled"
                )
            ok = (context >= 0) & (context < self.classes) | hidden
            if not ok.all():
                raise InputError(
                    f"the label {context[~ok][0].item()} was never seen: it is not one of the "
                    f"{self.classes} classes, 0 to {self.classes - 1}"
                )
        elif self.inferred:
            if context.isinf().any():
                raise InputError("a target is infinite; one that is not known is NaN")
        elif not context.isfinite().all():
            raise InputError("the context has NaN or infinite numbers")


def condition_of(images: Images) -> int | list[int] | list[str] | None:
    """What a VAE for ``images`` is conditioned on: the classes of their context by name, or their
    number, or the shape of its covariates; None for images without a context.

    Raises:
        InputError: no label is known, or all that are known are of one class, or they do not count
            from 0.
    """
    context, labels = images.context, images.labels
    if context is None:
        return None
    if context.dim() == 1 and not context.is_floating_point():
        known = context[context != HIDDEN]
        if len(known) == 0:
            raise InputError(
                f"the label is known in none of the {len(context):,} training "
                f"{word_of(images.shape)}s, and nothing can be learned of it; give some labels, or "
                "train without labels"
            )
        if len(known.unique()) == 1:
            name = images.classes[0] if len(images.classes) == 1 else known[0].item()
            raise InputError(
                f"the label is {name!r} in all {len(known):,} training {word_of(images.shape)}s "
                "where it is known, and nothing can be learned of one class; give labels of 2 "
                "classes or more, or train without labels"
            )
        # A context of labels is counted by their classes. Some of them may be hidden.
        own = labels is not None and ((context == labels) | (context == HIDDEN)).all()
        if own and len(images.classes) > 1:
            return list(images.classes)
        count = int(context.max()) + 1
        if count > max(len(context), 100):
            raise InputError(
                f"labels count the classes from 0, and the largest is {count - 1}, so there would "
                f"be more classes than training {word_of(images.shape)}s; number the classes from 0"
            )
        return count
    if context.dim() == 1:
        raise InputError(
            f"the context of {len(context):,} real numbers is one number for each "
            f"{word_of(images.shape)}, which is a covariate of shape [N, 1]; give context[:, None]"
        )
    return list(context.shape[1:])


def sizes_of(condition: Condition | None, conditioned: Any) -> tuple[int, int]:
    """How many numbers of the context the likelihood and the guide get beside z and x.

    Args:
        condition: what the VAE is conditioned on.
        conditioned: the parts that get it, of :data:`CONDITIONED`.

    Raises:
        InputError: something else.
    """
    listed = isinstance(conditioned, Sequence) and not isinstance(conditioned, str)
    if not listed or not all(part in CONDITIONED for part in conditioned):
        raise InputError(
            f"conditioned is a list of the parts {' and '.join(CONDITIONED)}, not {conditioned!r}"
        )
    size = 0 if condition is None else condition.size
    likelihood, guide = (size if part in conditioned else 0 for part in CONDITIONED)
    return likelihood, guide


def inferring(choice: Choice, given: Condition | None, conditioned: Sequence[str]) -> bool:
    """Whether a guide infers the labels or the real targets that are not known.

    Raises:
        InputError: it does, and the VAE is not conditioned on classes or on targets, or only some
            parts are.
    """
    kind = class_of(choice)
    if not (issubclass(kind, Guide) and (kind.infers_labels or kind.infers_targets)):
        return False
    if kind.infers_labels and (given is None or given.classes is None):
        raise InputError(
            f"the guide {choice.name} infers labels, so it is for a VAE with a condition of "
            "classes; "
            + either(
                "give the VAE condition=10, or the data labels, data.labelled(100); the guide of "
                "real targets is targeted",
                "give --known-labels 100, or all, for data with labels, and --recipe m2-real for a "
                "real target",
            )
        )
    if kind.infers_targets and (given is None or len(given.shape) != 1):
        raise InputError(
            f"the guide {choice.name} infers real targets, so it is for a VAE with a condition of "
            "n real numbers; "
            + either(
                "give the VAE condition=(1,), or the data targets [N, 1] and data.labelled(100)",
                "give --target COLUMN and --known-labels all, for a table with a real target",
            )
        )
    if tuple(conditioned) != CONDITIONED:
        raise InputError(
            f"the guide {choice.name} hands what it infers to the likelihood; leave conditioned out"
        )
    return True

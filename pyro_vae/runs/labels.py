"""The labels or targets of a run: a condition, or inferred where they are not known."""

from __future__ import annotations

from typing import Any

from ..data import Data, StoredData
from ..errors import InputError
from ..settings import Settings
from ..sources import known_labels
from ..vae import VAE
from ..words import word_of


def context_of(settings: Settings) -> dict[str, Any]:
    """The entries of a run's ``data`` that say what its context is.

    Raises:
        InputError: another condition than the labels, or labels that are given and inferred.
    """
    if settings.condition not in (None, "label", "target"):
        raise InputError(
            "--condition is label, the labels of the images, or target, the column --target of a "
            f"table, not {settings.condition!r}; a VAE is conditioned on other covariates from "
            "Python"
        )
    if settings.known_labels is None:
        return {} if settings.condition is None else {"condition": settings.condition}
    if settings.condition is not None:
        raise InputError(
            "--condition gives all labels to model and guide, and --known-labels infers those that "
            "are not known; give one of the two"
        )
    return {"labels": settings.known_labels, "labels_seed": settings.seed}


def check_labels(vae: VAE, settings: Settings) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for labels that are given to a guide that infers
    them, or the other way round."""
    if settings.known_labels is not None and not vae.infers_y:
        raise InputError(
            f"--known-labels is for a guide that infers labels, which {settings.guide} does not; "
            "take --recipe m2 or --guide labelled, or give all labels by --condition label"
        )
    if settings.condition is not None and vae.infers_y:
        raise InputError(
            f"the guide {settings.guide} infers the labels that are not known, and --condition "
            "gives all of them, those of the test images too; take --known-labels all"
        )


def label_note(data: Data | StoredData) -> str:
    """What is said of labels; "" for data whose labels are not used."""
    context = data.train.context if isinstance(data, Data) else None
    if isinstance(data, Data) and context is None and data.train.targets is not None:
        return "The target is not used; --recipe m2-real infers it, --condition target gives it."
    if context is None or isinstance(data, StoredData):
        return ""
    real = context.is_floating_point()
    if data.test.context is not None:
        what = "target" if real else f"label, one of {len(data.train.classes)} classes"
        return f"Model and guide are given the {what}."
    word, rows = "target" if real else "label", f"{word_of(data.shape)}s"
    return (
        f"{known_labels(context):,} of {len(context):,} training {rows} keep their {word}, and the "
        f"others are inferred, as are those of the validation and test {rows}."
    )

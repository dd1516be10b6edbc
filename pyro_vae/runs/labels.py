"""The labels of a run: a condition, or inferred where they are not known."""

from __future__ import annotations

from typing import Any

from ..data import Data, StoredData
from ..data.labelled import HIDDEN
from ..errors import InputError
from ..settings import Settings
from ..vae import VAE


def context_of(settings: Settings) -> dict[str, Any]:
    """The entries of a run's ``data`` that say what its context is.

    Raises:
        InputError: another condition than the labels, or labels that are given and inferred.
    """
    if settings.condition not in (None, "label"):
        raise InputError(
            f"--condition is label, the labels of the images, not {settings.condition!r}; a VAE is "
            "conditioned on covariates from Python"
        )
    if settings.labels is None:
        return {} if settings.condition is None else {"condition": settings.condition}
    if settings.condition is not None:
        raise InputError(
            "--condition gives all labels to model and guide, and --labels infers those that are "
            "not known; give one of the two"
        )
    return {"labels": settings.labels, "labels_seed": settings.seed}


def check_labels(vae: VAE, settings: Settings) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for labels that are given to a guide that infers
    them, or the other way round."""
    if settings.labels is not None and not vae.infers_labels:
        raise InputError(
            f"--labels is for a guide that infers labels, which {settings.guide} does not; take "
            "--recipe m2 or --guide labelled, or give all labels by --condition label"
        )
    if settings.condition is not None and vae.infers_labels:
        raise InputError(
            f"the guide {settings.guide} infers the labels that are not known, and --condition "
            "gives all of them, those of the test images too; take --labels all"
        )


def label_note(data: Data | StoredData) -> str:
    """What is said of labels; "" for data whose labels are not used."""
    context = data.train.context if isinstance(data, Data) else None
    if context is None or isinstance(data, StoredData):
        return ""
    if data.test.context is not None:
        return f"Model and guide are given the label, one of {len(data.train.classes)} classes."
    known = int((context != HIDDEN).sum())
    return (
        f"{known:,} of {len(context):,} training images keep their label, and the others are "
        "inferred, as are those of the validation and test images."
    )

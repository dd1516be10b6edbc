"""All settings of a training run, each written once.

The defaults of :class:`~pyro_vae.vae.VAE` and :func:`~pyro_vae.training.fit`, the options of
``pyro-vae train`` and ``pyro-vae compare``, and the contents of a run's ``config.json`` come from
:class:`Settings`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from .errors import InputError


def option(
    default: Any,
    help: str,
    group: str,
    *,
    flag: str = "",
    shown: str = "",
    least: int | None = None,
) -> Any:
    """A field of :class:`Settings`, with what the command line shows of it.

    Args:
        default: the default value.
        help: the help text.
        group: the group of options in ``--help``.
        flag: the name of the option; by default the field's name with dashes.
        shown: the default as ``--help`` shows it; by default the value itself.
        least: the smallest value that the command line accepts.
    """
    return field(
        default=default,
        metadata={
            "help": help,
            "group": group,
            "flag": flag,
            "shown": shown or str(default),
            "least": least,
        },
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run is trained on, what its VAE is made of, and how it is trained."""

    data: str = option(
        "mnist-5k",
        "A data set of `pyro-vae list data`, a folder of images, or a .npy or .npz array.",
        "Data",
    )
    binarize: str | None = option(
        None,
        "How grey pixels become 0 or 1: dynamic, static, threshold, or none.",
        "Data",
        shown="dynamic for a Bernoulli likelihood, else none",
    )
    prior: Any = option(
        None, "p(z).", "Parts", shown="the prior that fits the guide: standard-normal"
    )
    likelihood: Any = option("bernoulli", "p(x | z).", "Parts")
    guide: Any = option("mean-field", "q(z | x).", "Parts")
    scale: str | None = option(
        None,
        "How the guide's raw output becomes σ; the same as --guide 'mean-field(scale=…)'.",
        "Parts",
        shown="log-variance",
    )
    objective: Any = option(
        None,
        "What training minimises.",
        "Parts",
        shown="the objective that fits the guide: monte-carlo",
    )
    latent: Any = option(
        20,
        "Latent dimensions. For several layers those of each, z_1 first: 64,32,16, or "
        "8x14x14,8x7x7,32 for layers with the layout of an image.",
        "Parts",
    )
    network: Any = option("mlp", "What encoder and decoder are made of.", "Parts")
    hidden: Any = option(
        None,
        "The network's layer sizes: units for mlp, channels for residual, channels and then units "
        "for conv.",
        "Parts",
        shown="the network's own: 400, 32,64,128 or 32,64,256",
    )
    epochs: int = option(200, "Passes over the training images.", "Training", least=1)
    batch_size: int = option(128, "Images in a step.", "Training", least=1)
    lr: float = option(1e-3, "Learning rate of Adam.", "Training", flag="--lr")
    precision: str = option(
        "float32",
        "Precision of the matrix products: float32, or bfloat16, which is faster and less exact.",
        "Training",
    )
    seed: int = option(0, "Seed of the weights and of all random numbers.", "Training")

    @classmethod
    def names(cls) -> list[str]:
        """The names of all settings, in order."""
        return [f.name for f in fields(cls)]


TRAINING = ("objective", "epochs", "batch_size", "lr", "precision", "seed")
"""The settings that :func:`~pyro_vae.training.fit` takes."""


def positive(**numbers: float) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` unless all numbers are above 0 and finite."""
    for name, value in numbers.items():
        if not 0 < value < float("inf"):
            raise InputError(f"{name} is a number above 0, not {value}")

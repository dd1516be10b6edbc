"""All settings of a training run, each written once.

The defaults of :class:`~pyro_vae.vae.VAE` and :func:`~pyro_vae.training.fit`, the options of
``pyro-vae train`` and ``pyro-vae compare``, and the contents of a run's ``config.json`` come from
:class:`Settings`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, TypedDict

from .errors import InputError
from .options import at_least_one, is_whole, number
from .spelling import spelled_class
from .words import called


def option(
    default: Any,
    help: str,
    group: str,
    *,
    value: str = "NAME",
    shown: str | None = None,
    least: int | None = None,
) -> Any:
    """A field of :class:`Settings`, with what the command line shows of it.

    Args:
        default: the default value.
        help: the help text.
        group: the group of options in ``--help``.
        value: the word for the value in ``--help``; "" for an option without a value.
        shown: the default as ``--help`` shows it; by default the value itself. "" shows nothing.
        least: the smallest value that the command line accepts.
    """
    shown = str(default) if shown is None else shown
    return field(
        default=default,
        metadata={
            "help": f"{help} Default: {shown}." if shown else help,
            "group": group,
            "value": value,
            "least": least,
        },
    )


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a run is trained on, and what its VAE is made of."""

    data: str = option(
        "mnist-5k",
        "A data set, a folder, an array or a table.",
        "Data",
    )
    binarize: str | None = option(
        None,
        "How grey becomes 0 or 1: dynamic, static, threshold or none.",
        "Data",
        shown="",
    )
    size: Any = option(
        None,
        "Resize the images of a folder, to 64 or 48x64 pixels.",
        "Data",
        value="HxW",
        shown="",
    )
    crop: bool = option(
        False, "With --size: cut the edges of other aspect ratios.", "Data", value="", shown=""
    )
    grey: bool = option(
        False, "Turn the colour images of a folder into grey.", "Data", value="", shown=""
    )
    stream: bool = option(
        False, "Leave a folder or .npy file on disk and read batches.", "Data", value="", shown=""
    )
    condition: str | None = option(
        None, "What x is conditioned on: label or target of each row.", "Data", shown=""
    )
    known_labels: Any = option(
        None,
        "Of m2 and m2-real: how many training rows keep theirs, or all.",
        "Data",
        value="N",
        shown="",
    )
    schema: Any = option(
        None,
        "A JSON file with the types of the columns. Default: inferred.",
        "Data",
        value="FILE",
        shown="",
    )
    label: str | None = option(
        None, "The column of a table that holds the classes of its rows.", "Data", shown=""
    )
    target: str | None = option(
        None, "The column of a table that holds a real target.", "Data", shown=""
    )
    validation: Any = option(
        None,
        "Held out to show progress.",
        "Data",
        value="N",
        shown="10000 of mnist, else a tenth",
    )
    prior: Any = option(None, "p(z).", "Parts", shown="the prior that fits the guide")
    likelihood: Any = option("auto", "p(x | z).", "Parts", shown="auto, the one that fits the data")
    guide: Any = option("mean-field", "q(z | x).", "Parts")
    scale: str | None = option(None, "How the guide computes σ.", "Parts", shown="log-variance")
    latent: Any = option(
        20,
        "Latent dimensions; 64,32,16 are three layers.",
        "Parts",
        value="SIZES",
    )
    network: Any = option("mlp", "The kind of encoder and decoder.", "Parts")
    hidden: Any = option(
        None,
        "Units or channels of the network's layers, such as 400,200.",
        "Parts",
        value="SIZES",
        shown="",
    )


@spelled_class
@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How :func:`~pyro_vae.training.fit` trains. Each is an argument of ``fit``.

    Args:
        objective: a name of :data:`~pyro_vae.registry.OBJECTIVES`, or any Pyro ELBO. None takes
            the objective that fits the guide.
        epochs: passes over the training data, with those before ``start``.
        batch_size: rows in a step. If the last batch would have one row, this row is added to the
            batch before it. A ``DataLoader`` has a batch size of its own.
        lr: learning rate of Adam.
        schedule: how the learning rate changes, a name of :data:`~pyro_vae.registry.SCHEDULES`. It
            is a function of the share of ``epochs`` that is done.
        clip: the largest norm of a step's gradient, of the loss per row; None for no limit.
        average: decay of an exponential moving average of the weights, for instance 0.999; None for
            none. The VAE then has the averaged weights after each epoch, and they are measured.
        patience: the number of epochs without a higher validation bound after which training ends;
            None for no end before the last epoch. The VAE then gets the weights of the epoch with
            the highest bound; with ``average``, the averages are compared and kept. A patience of
            ``epochs`` keeps the best weights and trains to the last epoch.
        precision: ``float32``, or ``bfloat16`` for linear layers and convolutions.
            Under ``float32`` the numbers have the type of the data and the weights.
        seed: of the order of the rows and of all random numbers.

    Raises:
        InputError: a number out of range.

    Example:
        >>> from pyro_vae.settings import TrainingOptions
        >>> TrainingOptions(epochs=5).batch_size
        128
    """

    objective: Any = option(
        None, "The loss to minimise.", "Parts", shown="the one that fits the guide"
    )
    epochs: int = option(200, "Passes over the training data.", "Training", value="N", least=1)
    batch_size: int = option(128, "Observations in a step.", "Training", value="N", least=1)
    lr: float = option(1e-3, "Learning rate of Adam.", "Training", value="X")
    schedule: Any = option("constant", "How the learning rate changes: cosine, step.", "Training")
    clip: float | None = option(
        None,
        "Largest norm of the gradient, per row. Default: no limit.",
        "Training",
        value="X",
        shown="",
    )
    average: float | None = option(
        None,
        "Moving average of the weights, such as 0.999. Default: none.",
        "Training",
        value="X",
        shown="",
    )
    patience: int | None = option(
        None,
        "Keep the best weights; stop N epochs after them. Default: never.",
        "Training",
        value="N",
        shown="",
        least=1,
    )
    precision: str = option("float32", "float32, or bfloat16 for layers.", "Training")
    seed: int = option(0, "Seed of all random numbers.", "Training", value="N")

    @property
    def chooses(self) -> bool:
        """Whether the weights of each epoch, and not of the last one only, may be used."""
        return self.average is not None or self.patience is not None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            at_least_one(name, value, MOST)
        number("lr", self.lr, above=0)
        check_seed(self.seed)


class TrainingArguments(TypedDict, total=False):
    """The fields of :class:`TrainingOptions`, as type checkers see them in a call of ``fit``."""

    objective: Any
    epochs: int
    batch_size: int
    lr: float
    schedule: Any
    clip: float | None
    average: float | None
    patience: int | None
    precision: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Settings(TrainingOptions, Setup):
    """What a run is trained on, what its VAE is made of, and how it is trained."""


TRAINING = tuple(each.name for each in fields(TrainingOptions))
"""The settings that :func:`~pyro_vae.training.fit` takes."""

CONTEXT = ("condition", "labels")
"""The entries of a run's ``data`` that say what the context of model and guide is."""

OF_TABLES = ("schema", "label", "target")
"""The settings that say how a table is read."""

READING = ("size", "crop", "grey", "stream", *OF_TABLES)
"""The settings that say how the user's own data are read."""

MOST = 10**9
"""The largest number of epochs, and of images in a batch."""

LARGEST_SEED = 2**32 - 1
"""numpy and scikit-learn accept seeds from 0 to this number."""


def check_seed(seed: Any) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for a seed that numpy does not accept."""
    if not is_whole(seed) or not 0 <= seed <= LARGEST_SEED:
        raise InputError(
            f"{called('seed')} is a whole number from 0 to {LARGEST_SEED}, not {seed!r}"
        )

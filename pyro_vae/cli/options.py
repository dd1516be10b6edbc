"""The options that several commands share, and how their values are read and checked."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import Field, fields
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ..errors import InputError
from ..registry import own_classes
from ..settings import Settings, check_seed
from .values import filled, image_size, label_count, latent_sizes, place, sizes, validation_size

if TYPE_CHECKING:
    import torch

    from ..data.images import Images
    from ..vae import VAE

# Without markup and emoji, because the name of a file may contain "[red]" or ":smile:".
console = Console(highlight=False, markup=False, emoji=False)
stderr = Console(stderr=True, highlight=False, markup=False, emoji=False)

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pdf")


Given = Annotated[
    str | None,
    typer.Option(
        metavar="CLASS",
        help="For a run with a condition: the class that is drawn, by name or number.",
        show_default=False,
        rich_help_panel="Data",
    ),
]


class Split(StrEnum):
    """Which images of a data set. ``all`` is train, validation and test."""

    train = "train"
    test = "test"
    validation = "validation"
    all = "all"


def seed_in_range(seed: int) -> int:
    check_seed(seed)
    return seed


Compile = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile",
        help="Compile the step. Default: where it saves time.",
        rich_help_panel="Run",
    ),
]
Run = Annotated[
    Path, typer.Argument(help="A run folder of `train`.", show_default=False, parser=place)
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Import the run's classes `module:Class`; runs their code.",
        rich_help_panel="Run",
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        parser=place,
        help="Data sets. Default: $PYRO_VAE_DATA_DIR or a cache.",
        rich_help_panel="Run",
    ),
]
OtherData = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="NAME",
        help="Other data: a name, a folder, an array file or a table. Default: those of the run.",
        callback=filled("--data"),
        rich_help_panel="Data",
    ),
]
Which = Annotated[
    Split,
    typer.Option(
        "--split",
        metavar="SPLIT",
        help="train, validation, test or all of them.",
        rich_help_panel="Data",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Seed of all random numbers.",
        callback=seed_in_range,
        rich_help_panel="Run",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="cpu, cuda, cuda:1, … Default: a GPU if there is one.",
        show_default=False,
        rich_help_panel="Run",
    ),
]


def with_settings(*left_out: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for each of :class:`~pyro_vae.settings.Settings`.

    The command has an argument ``given``: a dict of the settings that the user gave.

    Args:
        left_out: settings that the command has no option for.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters
        settings = [f for f in fields(Settings) if f.name not in left_out]
        added = [setting_parameter(f) for f in settings]
        before = [p.replace(kind=p.KEYWORD_ONLY) for p in own.values() if p.name != "given"]

        @wraps(command)
        def run(**options: Any) -> None:
            values = {f.name: options.pop(f.name) for f in settings}
            values["recipe"] = options.pop("recipe")
            command(given=read(values), **options)

        # The order of the groups in --help is the order of their first options.
        order = ["Parts", "Data", "Training"]
        added.sort(key=lambda p: order.index(p.annotation.__metadata__[0].rich_help_panel))
        parameters = [RECIPE, *added, *before]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def setting_parameter(setting: Field[Any]) -> inspect.Parameter:
    """The command-line option of one setting. None means that the user did not give it."""
    about = setting.metadata
    kind = {"int": int, "float": float, "bool": bool}.get(
        str(setting.type).removesuffix(" | None"), str
    )
    option = typer.Option(
        f"--{setting.name.replace('_', '-')}",
        help=about["help"],
        metavar=about["value"] or None,
        show_default=False,
        rich_help_panel=about["group"],
        min=about["least"],
    )
    return keyword(setting.name, Annotated[kind | None, option])


def keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


RECIPE = keyword(
    "recipe",
    Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A model of the literature; the other options override it.",
            rich_help_panel="Parts",
        ),
    ],
)


def read(options: dict[str, Any]) -> dict[str, Any]:
    """The settings that the user gave, their texts read."""
    for name, value in options.items():
        if isinstance(value, str):
            filled(f"--{name.replace('_', '-')}")(value)
    texts = {
        "hidden": sizes("--hidden", options["hidden"]),
        "known_labels": label_count(options["known_labels"]),
        "latent": latent_sizes(options["latent"]),
        "size": image_size(options["size"]),
        "validation": validation_size(options["validation"]),
    }
    given = {key: value for key, value in (options | texts).items() if value is not None}
    allow_own_modules([value for key, value in given.items() if key != "data"])
    return given


def allow_own_modules(specs: list[Any]) -> None:
    """Let a spec ``module:Class`` name a module in the current folder.

    The folder comes last on the path, so that a file in it cannot replace an installed module.
    """
    if any(own_classes(specs)) and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def allow_classes_of(run: Path, trust: bool) -> None:
    """As :func:`allow_own_modules`, for the classes that a run names, if the user trusts it.

    Raises:
        InputError: there is no run folder, or its config cannot be read.
    """
    from ..runs.config import specs
    from ..runs.folder import read_config

    config = read_config(run)
    if trust:
        allow_own_modules(specs(config))


def warn(sentence: str) -> None:
    """Print a sentence on stderr."""
    stderr.print(sentence, soft_wrap=True)


def pick(device: str) -> torch.device:
    """The device that ``--device`` names."""
    import torch

    from ..modules import refuse_device

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device).item()  # "meta" holds no numbers
    except Exception:  # each backend of torch raises its own kinds of errors
        raise InputError(
            f"--device {device!r} is not there; take auto, or cpu, which every machine has"
        ) from None
    refuse_device(torch.device(device))
    return torch.device(device)


def opened(run: Path, device: str, seed: int, trust: bool) -> tuple[VAE, dict[str, Any]]:
    """The VAE and the config of a run, with the ``checksum`` of its data. Sets the seed.

    For a VAE that was saved from Python, the name of the data is None.
    """
    import torch

    from ..runs.folder import load_run
    from ..runs.images import unnamed_data
    from ..storage import checkpoint

    allow_classes_of(run, trust)
    torch.manual_seed(seed)
    vae, config = load_run(run, pick(device), trust=trust)
    state = checkpoint.read(run)
    config["checksum"] = "" if state is None else state.data
    config.setdefault("data", unnamed_data(vae))
    return vae, config


def images_of(
    config: dict[str, Any], data: str | None, split: Split, data_dir: Path | None, device: str
) -> Images:
    """The images that a command on a run works on, with the run's own binarisation.

    It is said on stderr if they are the run's own and have changed.
    """
    from ..runs.images import images_of as select

    return select(config, data, split.value, data_dir, say=warn).to(pick(device))

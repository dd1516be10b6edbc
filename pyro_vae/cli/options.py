"""The options that several commands share, and how their values are read."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import Field, fields
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ..errors import InputError
from ..settings import Settings

if TYPE_CHECKING:
    import torch

    from ..data.images import Images
    from ..vae import VAE

console = Console(highlight=False)


class Split(StrEnum):
    """Which images of a data set."""

    train = "train"
    test = "test"
    all = "all"


Compile = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile", help="Compile the step.", show_default="where it pays back"
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        help="A name of the literature, see `pyro-vae list recipes`; other options override it.",
        show_default="none",
    ),
]

# Where things are, and with which noise: most commands.
Run = Annotated[Path, typer.Argument(help="A run folder that `train` made.", show_default=False)]
DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder of downloaded data sets.",
        show_default="PYRO_VAE_DATA_DIR, else a cache folder of yours",
    ),
]
OtherData = Annotated[
    str | None,
    typer.Option(
        "--data", help="Images to use: a name, a folder or an array.", show_default="the run's own"
    ),
]
Which = Annotated[Split, typer.Option("--split", help="Which of the images.")]
Seed = Annotated[int, typer.Option(help="Seed of all noise.")]
Device = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:1, …; auto takes a GPU where there is one.")
]


def sizes(option: str, text: str | None) -> list[int] | None:
    """``"400,200"`` -> ``[400, 200]``."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"{option} takes whole numbers with commas between, like 400,200, not {text!r}"
        ) from None


def latent_sizes(text: str | None) -> int | list[int | list[int]] | None:
    """``"20"`` -> ``20``; ``"8x14x14,32"`` -> ``[[8, 14, 14], 32]``."""
    if text is None:
        return None
    try:
        parts = [[int(n) for n in part.split("x")] for part in text.split(",")]
    except ValueError:
        raise InputError(
            "--latent takes a whole number, or one for each layer such as 64,32,16, or channels, "
            f"height and width of a layer such as 8x7x7, not {text!r}"
        ) from None
    layers = [part[0] if len(part) == 1 else part for part in parts]
    return layers[0] if len(layers) == 1 and isinstance(layers[0], int) else layers


def with_settings(*left_out: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for each of :class:`~pyro_vae.settings.Settings`.

    The command has an argument ``given``. It gets a dict of the settings that the user gave.

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

        parameters = [RECIPE, *added, *before]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def setting_parameter(setting: Field[Any]) -> inspect.Parameter:
    """The command-line option of one setting. None stands for "not given"."""
    about = setting.metadata
    kind = {"int": int, "float": float}.get(str(setting.type), str)
    flag = about["flag"] or f"--{setting.name.replace('_', '-')}"
    option = typer.Option(
        flag,
        help=about["help"],
        show_default=about["shown"],
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
            help="A model of the literature, see `pyro-vae list recipes`. Other options override "
            "its settings.",
            show_default="none",
            rich_help_panel="Parts",
        ),
    ],
)


def read(options: dict[str, Any]) -> dict[str, Any]:
    """The settings that the user gave, their texts read."""
    texts = {
        "hidden": sizes("--hidden", options["hidden"]),
        "latent": latent_sizes(options["latent"]),
    }
    return {key: value for key, value in (options | texts).items() if value is not None}


def pick(device: str) -> torch.device:
    """The device that ``--device`` names."""
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, ValueError):
        raise InputError(
            f"--device {device!r} is not there; take auto, or cpu, which always is"
        ) from None
    return torch.device(device)


def opened(run: Path, device: str, seed: int) -> tuple[VAE, dict[str, Any]]:
    """The VAE and the config of a run, and the seed set."""
    import torch

    from ..runs.folder import load_run

    torch.manual_seed(seed)
    return load_run(run, pick(device))


def images_of(
    config: dict[str, Any], data: str | None, split: Split, data_dir: Path | None, device: str
) -> Images:
    """The images that a command on a run works on, by the run's own protocol."""
    from ..runs.setup import images_of as select

    return select(config, data, split.value, data_dir).to(pick(device))

"""The options that several commands share, and what their values are turned into."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ..parts import InputError

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


# What a VAE is made of and how it is trained: `train` and `compare`.
Data = Annotated[
    str | None,
    typer.Option(
        help="A data set of `pyro-vae list data`, a folder of images, or a .npy or .npz array.",
        show_default="mnist-5k",
    ),
]
Binarize = Annotated[
    str | None,
    typer.Option(
        help="How grey pixels become 0 or 1: dynamic, static, threshold, or none.",
        show_default="dynamic for a Bernoulli likelihood, else none",
    ),
]
Prior = Annotated[
    str | None, typer.Option(help="p(z).", show_default="what fits the guide: standard-normal")
]
Likelihood = Annotated[str | None, typer.Option(help="p(x | z).", show_default="bernoulli")]
Guide = Annotated[str | None, typer.Option(help="q(z | x).", show_default="mean-field")]
Scale = Annotated[
    str | None,
    typer.Option(
        help="How the guide's raw output becomes σ; the same as --guide 'mean-field(scale=…)'.",
        show_default="log-variance",
    ),
]
Objective = Annotated[
    str | None,
    typer.Option(help="What training minimises.", show_default="what fits the guide: monte-carlo"),
]
Latent = Annotated[
    str | None,
    typer.Option(
        help="Latent dimensions; for a hierarchy those of each layer, z_1 first: 64,32,16, or "
        "8x14x14,8x7x7,32 where layers are laid out like images.",
        show_default="20",
    ),
]
Network = Annotated[
    str | None, typer.Option(help="What encoder and decoder are made of.", show_default="mlp")
]
Hidden = Annotated[
    str | None,
    typer.Option(
        help="The network's layer sizes: units for mlp, channels for residual; for conv channels, "
        "then units.",
        show_default="the network's own: 400, 32,64,128 or 32,64,256",
    ),
]
Epochs = Annotated[
    int | None, typer.Option(help="Passes over the training images.", min=1, show_default="200")
]
BatchSize = Annotated[int | None, typer.Option(help="Images in a step.", min=1, show_default="128")]
LearningRate = Annotated[
    float | None, typer.Option("--lr", help="Learning rate of Adam.", show_default="0.001")
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="Of the matrix products: float32, or bfloat16, which is quicker and coarser.",
        show_default="float32",
    ),
]
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


def chosen(options: dict[str, Any]) -> dict[str, Any]:
    """The settings among a command's options that the user gave."""
    from ..runs import DEFAULTS

    read = {
        "hidden": sizes("--hidden", options["hidden"]),
        "latent": latent_sizes(options["latent"]),
    }
    options = {**options, **read}
    keys = [key for key in (*DEFAULTS, "recipe") if key in options]
    return {key: options[key] for key in keys if options[key] is not None}


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

    from ..checkpoints import load

    torch.manual_seed(seed)
    return load(run, pick(device))


def images_of(
    config: dict[str, Any], data: str | None, split: Split, data_dir: Path | None, device: str
) -> Images:
    """The images that a command on a run works on, by the run's own protocol."""
    from ..runs import images

    return images(config, data, split.value, data_dir).to(pick(device))

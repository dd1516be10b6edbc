"""Make the folder of a run, or of a VAE that was trained in Python."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..history import Position
from . import checkpoint
from .checkpoint import FORMAT, Checkpoint
from .tensors import check_finite
from .writing import check_utf8, written

CONFIG = "config.json"


def create(folder: Path, config: dict[str, Any], state: Checkpoint) -> None:
    """Write a checkpoint and a config with the installed versions to a new folder.

    The config comes last. A folder without it is not a run yet, and can be used for a new one.

    Args:
        folder: the folder to make.
        config: the arguments of the VAE, ``vae``; of a run also ``data`` and ``training``; of
            the VAE of a table that was saved from Python also its ``schema``.
        state: the checkpoint.

    Raises:
        InputError: the folder already holds a run, is a file, or the config contains objects that
            cannot be stored.
    """
    check(folder, config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {str(folder)!r} cannot be made: {error.strerror}") from None
    checkpoint.save(folder, state)
    write_config(folder, {"format": FORMAT, **config, "versions": versions()})


def save_vae(folder: Path, vae: nn.Module, config: dict[str, Any]) -> None:
    """Write a VAE that was trained in Python to a new folder.

    Args:
        folder: the folder to make.
        vae: the VAE.
        config: what it was built from, ``vae``; of the VAE of a table also its ``schema``.

    Raises:
        InputError: as :func:`create`; or the VAE could not be loaded again, because its weights
            are not finite float32 numbers.
    """
    check_utf8(f"the folder {str(folder)!r}", folder)
    check_finite("the VAE", vae)
    for name, weight in vae.named_parameters():
        if weight.dtype != torch.float32:
            dtype = str(weight.dtype).removeprefix("torch.")
            raise InputError(
                f"a VAE is stored in float32, and its weight {name} is in {dtype}; save vae.float()"
            )
    create(folder, config, Checkpoint(vae.state_dict(), {}, Position()))


def check(folder: Path, config: dict[str, Any]) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` if :func:`create` would."""
    check_vacant(folder)
    for name, value in (*config["vae"].items(), *config.get("training", {}).items()):
        try:
            json.dumps(value)
        except TypeError:
            raise InputError(
                f"a run stores the names of its parts, and the {name} was given as an object; name "
                "it like module:Class"
            ) from None


def check_vacant(folder: Path) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` unless a new run can use ``folder``."""
    if os.path.isfile(folder):
        raise InputError(f"{str(folder)!r} is a file; name a folder for the run")
    if os.path.exists(folder / CONFIG):
        raise InputError(f"{str(folder)!r} holds a run already; name another folder")
    if run := next(folder.glob(f"*/{CONFIG}"), None):
        raise InputError(
            f"{str(folder)!r} is a folder of runs, such as {run.parent.name!r}; name a new folder "
            "in it"
        )


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write a run's config, replacing the old one."""
    text = json.dumps(config, indent=2) + "\n"
    with written(folder / CONFIG) as part:
        part.write_text(text, encoding="utf-8")


def versions() -> dict[str, str]:
    """The versions of the packages that a result depends on."""
    names = ("pyro-vae", "pyro-ppl", "torch", "torchvision", "numpy")
    return {"python": python_version(), **{name: version(name) for name in names}}

"""A run folder: all that is needed to use a trained VAE again, or to train it further.

======================  ==========================================================================
``config.json``         the VAE's parts, the data set and its protocol, the training, the versions
``weights.safetensors`` the VAE's weights
``optimizer.safetensors``  the optimizer's state
``metrics.jsonl``       a line for each epoch, in nats per image
======================  ==========================================================================
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model

from .parts import InputError
from .training import Epoch
from .vae import VAE

CONFIG, WEIGHTS, OPTIMIZER, METRICS = (
    "config.json",
    "weights.safetensors",
    "optimizer.safetensors",
    "metrics.jsonl",
)


def create(folder: Path, config: dict[str, Any]) -> None:
    """Begin a run: make its folder and write ``config``, with the versions it runs on.

    Raises:
        InputError: the folder holds a run already, is a file, or the config names objects that no
            file can hold.
    """
    vacant(folder)
    try:
        json.dumps(config)
    except TypeError:
        raise InputError(
            "a run is stored by the names of its parts, and one of them was given as an object; "
            "name it like module:Class"
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    (folder / METRICS).write_text("")
    write_config(folder, {**config, "versions": versions()})


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write a run's config over the one of before."""
    text = json.dumps(config, indent=2) + "\n"
    replace(folder / CONFIG, lambda path: Path(path).write_text(text))


def vacant(folder: Path) -> None:
    """Raise :class:`InputError` unless a run can begin in ``folder``."""
    if folder.is_file():
        raise InputError(f"--out {str(folder)!r} is a file; name a folder for the run")
    if (folder / CONFIG).exists():
        raise InputError(f"--out {str(folder)!r} holds a run already; name another folder")


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    names = ("pyro-vae", "pyro-ppl", "torch", "torchvision", "numpy")
    return {"python": python_version(), **{name: version(name) for name in names}}


def save(folder: Path, vae: VAE, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Write the weights, and the optimizer's state if there is one, over those of before."""
    replace(folder / WEIGHTS, lambda path: save_model(vae, path))
    if optimizer is not None:
        state = {
            f"{index}.{key}": torch.as_tensor(value).contiguous()
            for index, entries in optimizer.state_dict()["state"].items()
            for key, value in entries.items()
        }
        replace(folder / OPTIMIZER, lambda path: save_file(state, path))


def replace(path: Path, write: Any) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    write(str(part))
    os.replace(part, path)


def log(folder: Path, epoch: Epoch) -> None:
    """Add an epoch's numbers to ``metrics.jsonl``."""
    with (folder / METRICS).open("a") as file:
        file.write(json.dumps(asdict(epoch)) + "\n")


def history(folder: Path) -> list[Epoch]:
    """The numbers of all epochs of a run."""
    return [Epoch(**json.loads(line)) for line in needed(folder, METRICS).open()]


def load(folder: Path, device: str | torch.device = "cpu") -> tuple[VAE, dict[str, Any]]:
    """The VAE of a run with its weights, and the run's config.

    Raises:
        InputError: the folder is no run, lacks a file, or its weights do not fit its config.

    Example:
        >>> vae, config = load(Path("runs/digits"))
    """
    config = read_config(folder)
    weights = needed(folder, WEIGHTS)
    vae = VAE(**config["vae"])
    try:
        load_model(vae, weights)
    except (SafetensorError, RuntimeError) as error:
        reason = next(line for line in reversed(str(error).splitlines()) if line.strip())
        raise InputError(
            f"the weights in {str(weights)!r} do not fit the run's config ({reason.strip()})"
        ) from None
    return vae.to(device).eval(), config


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    """Give ``optimizer`` the state that the run's had."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in load_file(needed(folder, OPTIMIZER)).items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def read_config(folder: Path) -> dict[str, Any]:
    """A run's config, each key of it known."""
    if not folder.is_dir():
        raise InputError(f"there is no run folder {str(folder)!r}")
    path = needed(folder, CONFIG)
    try:
        config = json.loads(path.read_text())
        known(path, config, ("vae", "data", "training", "versions"))
        known(path, config["vae"], inspect.signature(VAE).parameters)
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        raise InputError(f"{str(path)!r} is no run's config: it is not readable as JSON") from None
    return config


def known(path: Path, config: dict[str, Any], keys: Iterable[str]) -> None:
    wrong = config.keys() ^ set(keys)
    if extra := sorted(wrong & config.keys()):
        raise InputError(f"{str(path)!r} has unknown keys: {', '.join(extra)}")
    if wrong:
        raise InputError(f"{str(path)!r} lacks {', '.join(sorted(wrong))}")


def needed(folder: Path, name: str) -> Path:
    """The path of a run's file; an :class:`InputError` if it is not there."""
    if not (folder / name).is_file():
        raise InputError(f"the run folder {str(folder)!r} lacks {name}")
    return folder / name

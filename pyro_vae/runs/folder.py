"""A run folder: all that is needed to use a trained VAE again, or to train it further.

=========================  =======================================================================
``config.json``            the VAE's parts, the data and its binarisation, the training, versions
``weights.safetensors``    the VAE's weights
``optimizer.safetensors``  the optimizer's state
``metrics.jsonl``          one line for each epoch, in nats per image
=========================  =======================================================================
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model

from ..errors import InputError
from ..history import Epoch
from ..vae import VAE

CONFIG, WEIGHTS, OPTIMIZER, METRICS = (
    "config.json",
    "weights.safetensors",
    "optimizer.safetensors",
    "metrics.jsonl",
)


def create(folder: Path, config: dict[str, Any]) -> None:
    """Make the folder of a new run and write ``config`` with the installed versions.

    Raises:
        InputError: the folder already holds a run, is a file, or the config contains objects that
            cannot be stored.
    """
    check_vacant(folder)
    try:
        json.dumps(config)
    except TypeError:
        raise InputError(
            "a run stores the names of its parts, and one part was given as an object; name it "
            "like module:Class"
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    (folder / METRICS).write_text("")
    write_config(folder, {**config, "versions": versions()})


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write a run's config, replacing the old one."""
    text = json.dumps(config, indent=2) + "\n"
    replace(folder / CONFIG, lambda path: Path(path).write_text(text))


def check_vacant(folder: Path) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` unless a new run can use ``folder``."""
    if folder.is_file():
        raise InputError(f"--out {str(folder)!r} is a file; name a folder for the run")
    if (folder / CONFIG).exists():
        raise InputError(f"--out {str(folder)!r} holds a run already; name another folder")


def versions() -> dict[str, str]:
    """The versions of the packages that a result depends on."""
    names = ("pyro-vae", "pyro-ppl", "torch", "torchvision", "numpy")
    return {"python": python_version(), **{name: version(name) for name in names}}


def save(folder: Path, vae: VAE, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Write the weights and, if given, the optimizer's state, replacing the old files."""
    replace(folder / WEIGHTS, lambda path: save_model(vae, path))
    if optimizer is not None:
        state = {
            f"{index}.{key}": torch.as_tensor(value).contiguous()
            for index, entries in optimizer.state_dict()["state"].items()
            for key, value in entries.items()
        }
        replace(folder / OPTIMIZER, lambda path: save_file(state, path))


def replace(path: Path, write: Callable[[str], Any]) -> None:
    """Write a file under another name and then rename it, so that it is never half written."""
    part = path.with_name(path.name + ".part")
    write(str(part))
    os.replace(part, path)


def append(folder: Path, epoch: Epoch) -> None:
    """Add an epoch's numbers to ``metrics.jsonl``."""
    with (folder / METRICS).open("a") as file:
        file.write(json.dumps(asdict(epoch)) + "\n")


def read_history(folder: Path) -> list[Epoch]:
    """The numbers of all epochs of a run."""
    return [Epoch(**json.loads(line)) for line in needed(folder, METRICS).open()]


def load_run(folder: str | Path, device: str | torch.device = "cpu") -> tuple[VAE, dict[str, Any]]:
    """The VAE of a run with its weights, and the run's config.

    Raises:
        InputError: the folder is not a run folder, lacks a file, or its weights do not fit its
            config.

    Example:
        >>> vae, config = load_run("runs/digits")  # doctest: +SKIP
    """
    folder = Path(folder)
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
    """Give ``optimizer`` the state that the run's optimizer had."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in load_file(needed(folder, OPTIMIZER)).items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def read_config(folder: Path) -> dict[str, Any]:
    """A run's config. Unknown and missing keys are refused."""
    if not folder.is_dir():
        raise InputError(f"there is no run folder {str(folder)!r}")
    path = needed(folder, CONFIG)
    try:
        config = json.loads(path.read_text())
        check_keys(path, config, ("vae", "data", "training", "versions"))
        check_keys(path, config["vae"], inspect.signature(VAE).parameters)
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        raise InputError(
            f"{str(path)!r} is not a run's config: it is not readable as JSON"
        ) from None
    return config


def check_keys(path: Path, config: dict[str, Any], keys: Iterable[str]) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` unless ``config`` has exactly these keys."""
    wrong = config.keys() ^ set(keys)
    if extra := sorted(wrong & config.keys()):
        raise InputError(f"{str(path)!r} has unknown keys: {', '.join(extra)}")
    if wrong:
        raise InputError(f"{str(path)!r} lacks {', '.join(sorted(wrong))}")


def needed(folder: Path, name: str) -> Path:
    """The path of a run's file. A missing file is an InputError."""
    if not (folder / name).is_file():
        raise InputError(f"the run folder {str(folder)!r} lacks {name}")
    return folder / name

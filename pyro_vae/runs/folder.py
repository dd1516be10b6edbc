"""A run folder: the files of a trained VAE, to use it again or to train it further.

=========================  =======================================================================
``config.json``            the VAE's parts, the data and its binarisation, the training, versions
``weights.safetensors``    the VAE's weights
``optimizer.safetensors``  the optimizer's state
``metrics.jsonl``          one line for each epoch, in nats per image
=========================  =======================================================================
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model

from ..budget import Budget
from ..errors import InputError
from ..history import Epoch
from ..memory import check_memory
from ..settings import READING, TRAINING, Settings
from ..vae import VAE
from .config import (
    ADDED,
    FIELDS,
    LONGEST,
    check_fields,
    check_trust,
    epoch_of,
    read_bytes,
    read_object,
)
from .older import as_written_now
from .tensors import check_finite, check_shapes, state_of_adam
from .writing import check_utf8, written

CONFIG, WEIGHTS, OPTIMIZER, METRICS = (
    "config.json",
    "weights.safetensors",
    "optimizer.safetensors",
    "metrics.jsonl",
)
ROOM = 1 << 28
"""The bytes that any VAE may take while it is built."""


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
    with written(folder / CONFIG) as part:
        part.write_text(text, encoding="utf-8")


def check_vacant(folder: Path) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` unless a new run can use ``folder``."""
    if os.path.isfile(folder):
        raise InputError(f"--out {str(folder)!r} is a file; name a folder for the run")
    if os.path.exists(folder / CONFIG):
        raise InputError(f"--out {str(folder)!r} holds a run already; name another folder")
    if run := next(folder.glob(f"*/{CONFIG}"), None):
        raise InputError(
            f"--out {str(folder)!r} is a folder of runs, such as {run.parent.name!r}; name a new "
            "folder in it"
        )


def versions() -> dict[str, str]:
    """The versions of the packages that a result depends on."""
    names = ("pyro-vae", "pyro-ppl", "torch", "torchvision", "numpy")
    return {"python": python_version(), **{name: version(name) for name in names}}


def save(folder: Path, vae: VAE, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Write the weights and, if given, the optimizer's state, replacing the old files.

    Raises:
        OSError: a file cannot be written; the old file is then unchanged.
    """
    save_tensors(folder / WEIGHTS, lambda part: save_model(vae, part))
    if optimizer is not None:
        state = {
            f"{index}.{key}": torch.as_tensor(value).contiguous()
            for index, entries in optimizer.state_dict()["state"].items()
            for key, value in entries.items()
        }
        save_tensors(folder / OPTIMIZER, lambda part: save_file(state, part))


def save_tensors(path: Path, save: Callable[[str], None]) -> None:
    """Write a safetensors file by ``save(temporary name)``."""
    with written(path) as part:
        try:
            save(str(part))
        except SafetensorError as error:  # also for a full disk
            raise OSError(None, str(error)) from error


def append(folder: Path, epoch: Epoch) -> None:
    """Add an epoch's numbers to ``metrics.jsonl``.

    Raises:
        OSError: the line cannot be written; the file is then unchanged.
    """
    path = folder / METRICS
    size = path.stat().st_size
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(epoch)) + "\n")
    except OSError as error:  # a full disk may have taken half of the line
        os.truncate(path, size)
        raise OSError(error.errno, error.strerror, str(path)) from error


def read_history(folder: Path) -> list[Epoch]:
    """The numbers of all epochs of a run.

    Raises:
        InputError: the file is missing or one of its lines cannot be read.
    """
    path = needed(folder, METRICS)
    epochs = []
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST + 1), b""), start=1):
            try:
                epochs.append(epoch_of(line))
            except ValueError:
                raise InputError(
                    f"line {number} of {str(path)!r} is not the numbers of an epoch; delete the "
                    "line"
                ) from None
    return epochs


def load_run(
    folder: str | Path, device: str | torch.device = "cpu", *, trust: bool = False
) -> tuple[VAE, dict[str, Any]]:
    """The VAE of a run with its weights, and the run's config.

    A run folder may come from a stranger. Nothing in it is executed, and what it asks for is
    checked before memory is taken for it.

    Args:
        folder: the run folder.
        device: where the VAE is put.
        trust: whether a class ``module:Class`` that the config names is imported, which runs its
            code.

    Raises:
        InputError: the folder is not a run folder, lacks a file, names a class that is not
            trusted, or its weights do not fit its config.

    Example:
        >>> vae, config = load_run("runs/digits")  # doctest: +SKIP
    """
    folder = Path(folder)
    config = read_config(folder)
    check_trust(folder / CONFIG, config, trust)
    weights = needed(folder, WEIGHTS)
    # A likelihood may be built twice, and a part may need more tensors than it keeps.
    room = 4 * weights.stat().st_size + ROOM
    try:
        check_memory(4 * math.prod(config["vae"]["shape"]), "an image of the run")
        with Budget("the VAE that it describes", room):
            vae = VAE(**config["vae"])
    except Exception as error:  # a wrong option raises many kinds of errors in torch and Pyro
        raise InputError(
            f"{str(folder / CONFIG)!r} does not describe a VAE ({first_line(error)})"
        ) from error
    check_shapes(weights, vae.state_dict())
    try:
        load_model(vae, weights)
    except (SafetensorError, RuntimeError) as error:
        reason = next(line for line in reversed(str(error).splitlines()) if line.strip())
        raise InputError(
            f"the weights in {str(weights)!r} do not fit the run's config ({reason.strip()})"
        ) from None
    check_finite(weights, vae)
    return vae.to(device).eval(), config


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    """Give ``optimizer`` the state that the run's optimizer had.

    Raises:
        InputError: the file is missing, damaged, or belongs to another VAE.
    """
    path = needed(folder, OPTIMIZER)
    check_shapes(path, state_of_adam(optimizer))
    state: dict[int, dict[str, torch.Tensor]] = {}
    try:
        for name, tensor in load_file(path).items():
            if not tensor.isfinite().all():
                raise ValueError(f"{name} has NaN or infinite numbers")
            index, key = name.split(".")
            state.setdefault(int(index), {})[key] = tensor
        if any(len(entries) < 3 for entries in state.values()):
            raise ValueError("a parameter lacks a part of its state")
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    except (SafetensorError, ValueError) as error:
        raise InputError(
            f"the optimizer's state in {str(path)!r} cannot be used ({first_line(error)})"
        ) from None


def first_line(error: Exception) -> str:
    """The first line of an error's message. Some messages of torch and Pyro are whole tables."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def read_config(folder: Path) -> dict[str, Any]:
    """A run's config. Unknown and missing keys are refused."""
    if not os.path.isdir(folder):
        raise InputError(f"there is no run folder {str(folder)!r}")
    check_utf8(f"the run folder {str(folder)!r}", folder)
    path = needed(folder, CONFIG)
    try:
        config = read_object(read_bytes(path))
        check_keys(path, config, ("vae", "data", "training", "versions"))
        check_keys(path, config["vae"], FIELDS["vae"].keys() - set(ADDED), ADDED)
        check_keys(path, config["data"], ("name", "binarize"), READING)
        check_keys(path, config["training"], ("objective",), TRAINING)
        check_fields(path, config)
        config["training"] = {key: getattr(Settings, key) for key in TRAINING} | config["training"]
        config["vae"] = as_written_now(config["vae"])
    except (ValueError, AttributeError) as error:
        reason = str(error) if type(error) is ValueError else "it is not JSON"
        reason = "its parts are not objects" if isinstance(error, AttributeError) else reason
        raise InputError(f"{str(path)!r} is not a run's config ({reason})") from None
    return config


def check_keys(
    path: Path, config: dict[str, Any], keys: Collection[str], optional: Collection[str] = ()
) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` unless ``config`` has these keys and no others.

    Args:
        path: the file that the error message names.
        config: what is checked.
        keys: the keys that ``config`` must have.
        optional: keys that ``config`` may have.
    """
    if extra := sorted(config.keys() - set(keys) - set(optional)):
        raise InputError(f"{str(path)!r} has unknown keys: {', '.join(map(repr, extra)):.100}")
    if missing := sorted(set(keys) - config.keys()):
        raise InputError(f"{str(path)!r} lacks {', '.join(missing)}")


def needed(folder: Path, name: str) -> Path:
    """The path of a run's file. A missing file is an InputError."""
    if not os.path.isfile(folder / name):
        raise InputError(f"the run folder {str(folder)!r} lacks {name}")
    return folder / name

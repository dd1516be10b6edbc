"""A run folder: the files of a trained VAE, to use it again or to train it further.

==========================  ======================================================================
``config.json``             the VAE's parts, the data and its binarisation, the training, versions
``checkpoint.safetensors``  the weights, and all else that training needs to go on
``metrics.jsonl``           one line for each epoch, in nats per image
``failed.json``             the step at which the loss or a weight became NaN or infinite, if any
``lock``                    the host and the process that trains the run, while it does
==========================  ======================================================================

Runs of older versions have ``weights.safetensors`` and ``optimizer.safetensors`` instead of the
checkpoint (:mod:`.older`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import torch

from ..budget import Budget
from ..errors import InputError
from ..history import Epoch
from ..memory import check_memory
from ..settings import READING, TRAINING, Settings
from ..vae import VAE
from . import checkpoint, older
from .checkpoint import FORMAT, Checkpoint, check_format, first_line
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
from .tensors import check_finite, check_shapes
from .writing import check_utf8, written

CONFIG, METRICS = "config.json", "metrics.jsonl"
ROOM = 1 << 28
"""The bytes that any VAE may take while it is built."""


def create(folder: Path, config: dict[str, Any], state: Checkpoint) -> None:
    """Make the folder of a new run, with its first checkpoint and the installed versions.

    The config comes last. A folder without it is not a run yet, and can be used for a new one.

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
    write_metrics(folder, [])
    checkpoint.save(folder, state)
    write_config(folder, {"format": FORMAT, **config, "versions": versions()})


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write a run's config, replacing the old one."""
    text = json.dumps(config, indent=2) + "\n"
    with written(folder / CONFIG) as part:
        part.write_text(text, encoding="utf-8")


def set_epochs(folder: Path, epochs: int) -> None:
    """Write a run's number of epochs into its config, if it is another one."""
    config = read_config(folder)
    if config["training"]["epochs"] != epochs:
        config["training"]["epochs"] = epochs
        write_config(folder, config)


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


def write_metrics(folder: Path, history: list[Epoch]) -> None:
    """Write ``metrics.jsonl`` anew."""
    with written(folder / METRICS) as part:
        part.write_text("".join(map(line_of, history)), encoding="utf-8")


def line_of(epoch: Epoch) -> str:
    """The line of ``metrics.jsonl`` for an epoch."""
    return json.dumps(asdict(epoch)) + "\n"


def append(folder: Path, epoch: Epoch) -> None:
    """Add an epoch's numbers to ``metrics.jsonl``.

    Raises:
        OSError: the line cannot be written; the file is then unchanged.
    """
    path = folder / METRICS
    size = path.stat().st_size
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line_of(epoch))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # a full disk may have taken half of the line
        os.truncate(path, size)
        raise OSError(error.errno, error.strerror, str(path)) from error


def read_history(folder: Path) -> list[Epoch]:
    """The numbers of all epochs of a run. A last line that is cut off is left out.

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
                if len(line) <= LONGEST and not line.endswith(b"\n"):
                    break
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
    weights = needed(folder, older.WEIGHTS if is_old(folder, config) else checkpoint.NAME)
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
    old = weights.name == older.WEIGHTS
    check_shapes(weights, vae.state_dict() if old else checkpoint.wanted(vae))
    try:
        state = None if old else checkpoint.read(folder)
        if state is None:
            older.load_weights(weights, vae)
        else:
            vae.load_state_dict(state.vae)
    except (ValueError, RuntimeError) as error:
        reason = next(line for line in reversed(str(error).splitlines()) if line.strip())
        raise InputError(
            f"the weights in {str(weights)!r} do not fit the run's config ({reason.strip()})"
        ) from None
    check_finite(weights, vae)
    return vae.to(device).eval(), config


def read_config(folder: Path) -> dict[str, Any]:
    """A run's config. Unknown and missing keys are refused."""
    if not os.path.isdir(folder):
        raise InputError(f"there is no run folder {str(folder)!r}")
    check_utf8(f"the run folder {str(folder)!r}", folder)
    path = needed(folder, CONFIG)
    try:
        config = read_object(read_bytes(path))
        check_format(path, config.get("format", 1))
        check_keys(path, config, ("vae", "data", "training", "versions"), ("format",))
        check_keys(path, config["vae"], FIELDS["vae"].keys() - set(ADDED), ADDED)
        check_keys(path, config["data"], ("name", "binarize"), READING)
        check_keys(path, config["training"], ("objective",), TRAINING)
        check_fields(path, config)
        config["training"] = {key: getattr(Settings, key) for key in TRAINING} | config["training"]
        config["vae"] = older.as_written_now(config["vae"])
    except (ValueError, AttributeError) as error:
        reason = str(error) if type(error) is ValueError else "it is not JSON"
        reason = "its parts are not objects" if isinstance(error, AttributeError) else reason
        raise InputError(f"{str(path)!r} is not a run's config ({reason})") from None
    return config


def is_old(folder: Path, config: dict[str, Any]) -> bool:
    """Whether a version without checkpoints wrote this run, and it was not trained further."""
    return config.get("format", 1) < FORMAT and not (folder / checkpoint.NAME).is_file()


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

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
from pathlib import Path
from typing import Any

import torch

from ..budget import Budget
from ..data import Schema
from ..errors import InputError
from ..history import Epoch
from ..memory import check_memory
from ..settings import CONTEXT, READING, TRAINING, Settings
from ..spelling import spelled
from ..storage import checkpoint, creating
from ..storage.checkpoint import FORMAT, Checkpoint, check_format
from ..storage.creating import CONFIG, write_config
from ..storage.tensors import check_finite, check_shapes
from ..storage.writing import check_utf8, written
from ..vae import VAE
from ..words import counted, first_line
from . import older
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

METRICS = "metrics.jsonl"
ROOM = 1 << 28
"""The bytes that any VAE may take while it is built."""


def create(folder: Path, config: dict[str, Any], state: Checkpoint) -> None:
    """Make the folder of a new run, with its first checkpoint and the installed versions.

    Raises:
        InputError: as :func:`~pyro_vae.storage.creating.create`.
    """
    creating.check(folder, config)
    folder.mkdir(parents=True, exist_ok=True)
    write_metrics(folder, [])
    creating.create(folder, config, state)


def set_epochs(folder: Path, epochs: int) -> None:
    """Write a run's number of epochs into its config, if it is another one."""
    config = read_config(folder)
    if config["training"]["epochs"] != epochs:
        config["training"]["epochs"] = epochs
        write_config(folder, config)


def write_metrics(folder: Path, history: list[Epoch]) -> None:
    """Write ``metrics.jsonl`` anew."""
    with written(folder / METRICS) as part:
        part.write_text("".join(map(line_of, history)), encoding="utf-8")


def line_of(epoch: Epoch) -> str:
    """The line of ``metrics.jsonl`` for an epoch."""
    measured = {name: value for name, value in asdict(epoch).items() if value is not None}
    return json.dumps(measured) + "\n"


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


@spelled
def load_run(
    folder: str | Path, device: str | torch.device = "cpu", *, trust: bool = False
) -> tuple[VAE, dict[str, Any]]:
    """The VAE of a run with its weights, and the run's config.

    The config of a VAE that was saved from Python has no ``data`` and no ``training``. The VAE of
    a table has its schema. Of a run with ``patience``, the weights are the best so far.

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
    vae.schema = schema_of(folder / CONFIG, config)
    old = weights.name == older.WEIGHTS
    check_shapes(weights, vae.state_dict() if old else checkpoint.wanted(vae))
    try:
        state = None if old else checkpoint.read(folder)
        if state is None:
            older.load_weights(weights, vae)
        else:
            vae.load_state_dict(state.vae)
            if state.position.best is not None:
                state.position.best.put([*vae.parameters(), *vae.buffers()])
    except (ValueError, RuntimeError) as error:
        reason = next(line for line in reversed(str(error).splitlines()) if line.strip())
        raise InputError(
            f"the weights in {str(weights)!r} do not fit the run's config ({reason.strip()})"
        ) from None
    check_finite(repr(str(weights)), vae)
    return vae.to(device).eval(), config


def schema_of(path: Path, config: dict[str, Any]) -> Schema | None:
    """The schema of the table that a config is about; None for other data.

    Raises:
        InputError: a schema that is none, or that has another number of columns than the VAE.
    """
    entries = config["data"].get("schema") if "data" in config else config.get("schema")
    if entries is None:
        return None
    schema = Schema.from_json(entries)
    if config["vae"]["shape"] != [len(schema.columns)]:
        raise InputError(
            f"the schema in {str(path)!r} has {counted(len(schema.columns), 'column')}, and its "
            f"VAE is for observations of shape {config['vae']['shape']}"
        )
    return schema


@spelled
def load(folder: str | Path, device: str | torch.device = "cpu", *, trust: bool = False) -> VAE:
    """The VAE of a run folder or of :meth:`VAE.save() <pyro_vae.vae.VAE.save>`, in evaluation mode.

    The arguments and errors are those of :func:`load_run`.

    Example:
        >>> from PIL import Image
        >>> VAE((1, 28, 28), latent_size=2).save("saved")
        >>> vae = load("saved")
        >>> vae.encode(Image.new("L", (28, 28))).mean.shape
        torch.Size([2])
    """
    return load_run(folder, device, trust=trust)[0]


def read_config(folder: Path) -> dict[str, Any]:
    """A run's config. Unknown and missing keys are refused.

    The folder of ``vae.save()`` has no ``data`` and no ``training``.
    """
    if not os.path.isdir(folder):
        raise InputError(f"there is no run folder {str(folder)!r}")
    check_utf8(f"the run folder {str(folder)!r}", folder)
    path = needed(folder, CONFIG)
    try:
        config = read_object(read_bytes(path))
        check_format(path, config.get("format", 1))
        trained = ("data", "training") if config.keys() & {"data", "training"} else ()
        table = () if trained else ("schema",)
        check_keys(path, config, ("vae", *trained, "versions"), ("format", *table))
        check_keys(path, config["versions"], (), config["versions"])  # an object, of any keys
        config["vae"] = older.renamed(config["vae"])
        check_keys(path, config["vae"], FIELDS["vae"].keys() - set(ADDED), ADDED)
        if trained:
            optional = (*READING, *CONTEXT, "labels_seed", "validation")
            check_keys(path, config["data"], ("name", "binarize"), optional)
            check_keys(path, config["training"], ("objective",), TRAINING)
        check_fields(path, config)
        if trained:
            usual = {key: getattr(Settings, key) for key in TRAINING}
            config["training"] = usual | config["training"]
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

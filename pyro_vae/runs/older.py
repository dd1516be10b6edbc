"""Runs of older versions: their defaults were others, and their state was in several files.

Weights and optimizer were two files that were replaced one after another, and the lines of the
metrics were counted. So a run that was killed between two of them has files of different epochs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model
from torch import Tensor, nn

from ..data import Data
from ..errors import InputError
from ..evaluation import elbo
from ..history import Epoch, Position, measured
from ..registry import parse, spec
from ..sources import steps_of_epoch
from ..storage.checkpoint import Checkpoint
from ..storage.tensors import check_shapes, state_of_adam
from ..words import first_line

WEIGHTS, OPTIMIZER = "weights.safetensors", "optimizer.safetensors"

THEN: dict[str, dict[str, dict[str, Any]]] = {
    "likelihood": {
        name: {"bounded": False}
        for name in (
            "normal",
            "normal-learned",
            "normal-per-pixel",
            "laplace",
            "log-cosh",
            "discretized-logistic",
        )
    },
    "network": {"conv": {"kernel": 3}},
}
"""Options that did not exist, with the values that they had in effect, by part and name."""


RENAMED = {"target_scaling": "context_scaling"}
"""Arguments of the VAE that have another name now."""


def renamed(vae: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the VAE in a run's config, by the names of this version."""
    return {RENAMED.get(name, name): value for name, value in vae.items()}


def as_written_now(vae: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the VAE in a run's config, as this version would write them."""
    if "standardize" in vae:
        return vae
    now = {**vae, "standardize": None}
    for part, rows in THEN.items():
        if isinstance(vae[part], str):
            name, options = parse(vae[part])
            now[part] = spec(name, {**rows.get(name, {}), **options})
    return now


def load_weights(path: Path, vae: nn.Module) -> None:
    """Load the weights of an old run.

    Raises:
        ValueError: the file is damaged.
        RuntimeError: the weights are those of another VAE.
    """
    try:
        load_model(vae, path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def read(
    folder: Path, vae: Any, data: Data, history: list[Epoch], training: dict[str, Any]
) -> Checkpoint:
    """The state of an old run, if its three files are of the same epoch.

    The optimizer's count of steps must be that of the epochs in ``metrics.jsonl``, and the weights
    must give the test ELBO of its last line.

    Args:
        folder: the run folder.
        vae: the VAE with the weights of the run.
        data: the data of the run.
        history: the numbers of its epochs.
        training: its settings.

    Raises:
        InputError: a file is missing or damaged, or the files are of different epochs.
    """
    path = folder / OPTIMIZER
    if not path.is_file():
        raise InputError(f"the run folder {str(folder)!r} lacks {OPTIMIZER}")
    check_shapes(path, state_of_adam(torch.optim.Adam(vae.parameters())))
    optimizer: dict[int, dict[str, Tensor]] = {}
    try:
        for name, tensor in load_file(path).items():
            index, key = name.split(".")
            optimizer.setdefault(int(index), {})[key] = tensor
        steps = {int(entries["step"]) for entries in optimizer.values()} or {0}
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(
            f"the optimizer's state in {str(path)!r} cannot be used ({first_line(error)})"
        ) from None
    expected = len(history) * steps_of_epoch(len(data.train), training["batch_size"])
    if steps != {expected} or (history and not agrees(vae, data, history[-1], training["seed"])):
        raise InputError(
            f"the weights, the optimizer's state and the metrics in {str(folder)!r} are not of the "
            "same epoch, because an older version was stopped while it wrote them, so the run "
            "cannot go on; it can still be used"
        )
    return Checkpoint(vae.state_dict(), optimizer, Position(len(history)))


def agrees(vae: Any, data: Data, last: Epoch, seed: int) -> bool:
    """Whether the weights give the test ELBO of an epoch; other machines round differently."""
    now = elbo(vae.model, vae.guide, data.test, seed=seed).elbo
    then = measured(last.elbo)
    return abs(now - then) <= 1e-5 * abs(then)


def remove(folder: Path) -> None:
    """Remove the files that a checkpoint has replaced."""
    for name in (WEIGHTS, OPTIMIZER):
        (folder / name).unlink(missing_ok=True)

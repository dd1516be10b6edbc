"""The checkpoint of a run: one file with all that training needs to go on.

``checkpoint.safetensors`` holds these tensors:

- ``vae.NAME``: the weights and buffers of the VAE;
- ``optimizer.INDEX.KEY``: the state of the optimizer for each parameter, in their order;
- ``losses``: the loss of each step of the epoch that has begun, ``[S]``;
- ``best.INDEX``: where a training has ``patience``, the parameters and buffers of the best epoch so
  far, in their order. They are the weights of the run for all but training.

Its metadata holds a JSON object: the format, the whole epochs that are done, the steps after them,
the checksum of the data, whether the user chose to compile, and the best epoch with its bound.
Random numbers have no state, because they are a function of (seed, step). Schedules are functions
of the epochs that are done.

A new checkpoint is written beside the old one, flushed, and renamed over it. So at each moment
there is one whole checkpoint. Nothing else says how far a run is: ``metrics.jsonl`` may be one
line ahead, and is cut when training goes on.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from ..averaging import AVERAGE, TRAINED
from ..errors import InputError
from ..history import Best, Position
from ..options import is_number
from ..words import first_line
from .tensors import state_of_adam
from .writing import written

NAME = "checkpoint.safetensors"
KEY = "pyro_vae"
FORMAT = 2
"""The format of run folders that this version writes. Format 1 had no checkpoint."""
MOST_STEPS = 1 << 26
"""The steps of an epoch that are read; 256 MB of losses."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Args:
        vae: the VAE's state by name.
        optimizer: the optimizer's state, by the index of a parameter and by key.
        position: where training stands.
        data: the checksum of the data; "" if it is not known.
        compiled: whether steps are compiled; None if the user did not say.
    """

    vae: dict[str, Tensor]
    optimizer: dict[int, dict[str, Tensor]]
    position: Position
    data: str = ""
    compiled: bool | None = None


def state_of(
    vae: nn.Module,
    optimizer: torch.optim.Optimizer,
    position: Position,
    data: str,
    compiled: bool | None,
) -> Checkpoint:
    """The checkpoint of a training as it stands. The tensors are those in use, not copies.

    If the weights are averaged, the VAE's are the averages, and the optimizer's state has the
    weights that steps change, within an epoch too.
    """
    state = {
        index: {key: torch.as_tensor(value) for key, value in entries.items()}
        for index, entries in optimizer.state_dict()["state"].items()
    }
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    averages: dict[int, Tensor] = {}
    for index, entries in state.items():
        if AVERAGE in entries:
            averages[id(parameters[index])] = entries.pop(AVERAGE)
            entries[TRAINED] = parameters[index]
    named = vae.named_parameters(remove_duplicate=False)  # tied weights have several names
    averaged = {name: averages[id(p)] for name, p in named if id(p) in averages}
    return Checkpoint({**vae.state_dict(), **averaged}, state, position, data, compiled)


def save(folder: Path, state: Checkpoint) -> None:
    """Write a checkpoint in place of the one before.

    Raises:
        OSError: it cannot be written; the one before is then unchanged.
    """
    if not folder.is_dir():  # written() would make it again
        raise FileNotFoundError(errno.ENOENT, "the run folder is gone", str(folder))
    tensors = {f"vae.{name}": value for name, value in state.vae.items()}
    tensors["losses"] = state.position.losses
    for index, entries in state.optimizer.items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in entries.items()}
    about: dict[str, Any] = {
        "format": FORMAT,
        "epoch": state.position.epoch,
        "step": len(state.position.losses),
        "data": state.data,
        "compiled": state.compiled,
    }
    if best := state.position.best:
        about["best"] = {"epoch": best.epoch, "bound": best.bound}
        tensors |= {f"best.{index}": value for index, value in enumerate(best.values)}
    # Copies, because safetensors refuses tensors that share memory, such as tied weights.
    copies = {
        name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()
    }
    content = to_bytes(copies, {KEY: json.dumps(about)})
    with written(folder / NAME) as part:
        part.write_bytes(content)


def read(folder: Path) -> Checkpoint | None:
    """The checkpoint in a run folder; None if there is none.

    Raises:
        InputError: the file is damaged, or a newer version wrote it.
    """
    path = folder / NAME
    if not os.path.isfile(path):
        return None
    vae: dict[str, Tensor] = {}
    optimizer: dict[int, dict[str, Tensor]] = {}
    values: dict[int, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()[KEY])
            check_format(path, about["format"])
            step = about["step"]
            if file.get_slice("losses").get_shape() != [step] or step > MOST_STEPS:
                raise ValueError("its steps and losses do not fit")
            losses = file.get_tensor("losses")
            for name in file.keys():  # noqa: SIM118  (it is not a dict)
                kind, _, rest = name.partition(".")
                if kind == "vae":
                    vae[rest] = file.get_tensor(name)
                elif kind == "optimizer":
                    index, _, key = rest.partition(".")
                    optimizer.setdefault(int(index), {})[key] = file.get_tensor(name)
                elif kind == "best":
                    values[int(rest)] = file.get_tensor(name)
        epoch, data, compiled = (about[key] for key in ("epoch", "data", "compiled"))
        best = best_of(about.get("best"), values, epoch)
        good = type(epoch) is int and epoch >= 0
        good = good and losses.is_floating_point() and bool(losses.isfinite().all())
        if not (good and isinstance(data, str) and compiled in (None, True, False)):
            raise ValueError("its epoch or its losses are of a wrong type or value")
    # A type of numbers that torch has no arithmetic for is a NotImplementedError.
    except (
        SafetensorError,
        ValueError,
        TypeError,
        KeyError,
        RecursionError,
        NotImplementedError,
    ) as error:
        raise InputError(
            f"{str(path)!r} is damaged or is not a run's checkpoint ({first_line(error)})"
        ) from None
    return Checkpoint(vae, optimizer, Position(epoch, losses, best), data, compiled)


def best_of(about: Any, values: dict[int, Tensor], epoch: int) -> Best | None:
    """The best weights in a checkpoint; None if there are none.

    Raises:
        ValueError, KeyError: they are not whole, or are of a later epoch.
    """
    if about is None and not values:
        return None
    best, bound = about["epoch"], about["bound"]
    good = type(best) is int and 1 <= best <= epoch and is_number(bound)
    if not good or values.keys() != set(range(len(values))):
        raise ValueError("its best weights are not whole")
    return Best(best, bound, tuple(values[index] for index in range(len(values))))


def wanted(vae: nn.Module) -> dict[str, Tensor | None]:
    """The names and shapes of what a checkpoint may hold. None is any shape."""
    weights = {f"vae.{name}": value for name, value in vae.state_dict().items()}
    moments = state_of_adam(torch.optim.Adam(vae.parameters()))
    state = {f"optimizer.{name}": value for name, value in moments.items()}
    kept = {f"best.{i}": t for i, t in enumerate((*vae.parameters(), *vae.buffers()))}
    return {**weights, **state, **kept, "losses": None}


def check_format(path: Path, version: Any) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for a format that this version does not know."""
    if type(version) is not int or version < 1:
        raise InputError(f"{str(path)!r} has the format {version!r}, which is not a whole number")
    if version > FORMAT:
        raise InputError(
            f"{str(path)!r} has the format {version}, which a newer version of pyro-vae wrote; "
            f"install that version, because this one reads formats up to {FORMAT}"
        )


def load_optimizer(path: Path, state: Checkpoint, optimizer: torch.optim.Optimizer) -> None:
    """Give ``optimizer`` the state in a checkpoint.

    Args:
        path: the file that the error message names.
        state: the checkpoint.
        optimizer: an optimizer over the same parameters as the one that was saved.

    Raises:
        InputError: the state belongs to other parameters, or is missing although training began.
    """
    if not state.optimizer and (state.position.epoch or len(state.position.losses)):
        raise InputError(
            f"{str(path)!r} has no state of the optimizer, because it was shared without it, so "
            "training cannot go on to the same bits; the run can be used, and fit() can train the "
            "VAE of pyro_vae.load()"
        )
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, entries in state.optimizer.items():
        fits = index < len(parameters) and all(
            value.dim() == 0 or value.shape == parameters[index].shape for value in entries.values()
        )
        lost = any(impossible(key, value) for key, value in entries.items())
        if lost or not fits or entries.keys() - {TRAINED} != {"step", "exp_avg", "exp_avg_sq"}:
            what = "has impossible numbers" if lost else "does not fit the weights of the VAE"
            raise InputError(f"the optimizer's state in {str(path)!r} {what}")
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state.optimizer})


def impossible(key: str, value: Tensor) -> bool:
    """Whether Adam cannot have a state. Its mean of squared gradients may overflow to infinity."""
    squares = key == "exp_avg_sq"
    wrong = value.isnan() | (value < 0 if squares else value.isinf())
    return bool(wrong.any())

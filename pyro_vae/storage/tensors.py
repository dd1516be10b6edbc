"""The tensors of a run folder, read as the data of a stranger."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..averaging import TRAINED
from ..errors import InputError


def check_shapes(path: Path, wanted: Mapping[str, Tensor | None]) -> None:
    """Compare the header of a safetensors file with the tensors that it should hold.

    A tensor that is missing is not an error here: tied weights are stored once.

    Raises:
        InputError: the file is not a safetensors file, or holds a tensor of another name, shape or
            kind of number.
    """
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (it is not a dict)
                stored = file.get_slice(name)
                shape, kind = stored.get_shape(), stored.get_dtype()
                if name not in wanted:
                    raise InputError(
                        f"{str(path)!r} holds {name!r:.60}, which the VAE does not have"
                    )
                here = wanted[name]
                if here is None:  # of any shape
                    continue
                if (
                    shape != list(here.shape)
                    or kind.startswith(("F", "BF")) != here.is_floating_point()
                ):
                    raise InputError(
                        f"the tensors in {str(path)!r} do not fit the run's config ({name} has the "
                        f"shape {shape} and the type {kind}, and the VAE's has {list(here.shape)} "
                        f"and {str(here.dtype).removeprefix('torch.')})"
                    )
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{str(path)!r} is not a safetensors file, or is damaged ({error!s:.200})"
        ) from None


def state_of_adam(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The names of the tensors in the state of Adam, each with a tensor of its shape."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    each = {"step": torch.zeros(())}
    return {
        f"{index}.{key}": tensor
        for index, p in enumerate(parameters)
        for key, tensor in {**each, "exp_avg": p, "exp_avg_sq": p, TRAINED: p}.items()
    }


def check_finite(where: str, module: torch.nn.Module) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` if a weight is NaN or infinite.

    Args:
        where: what holds the weights, for the error message.
        module: what is checked.
    """
    for name, weight in module.named_parameters():
        if not weight.isfinite().all():
            raise InputError(f"the weight {name} in {where} has NaN or infinite numbers")
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point() and buffer.isnan().any():
            raise InputError(f"the buffer {name} in {where} has NaN")

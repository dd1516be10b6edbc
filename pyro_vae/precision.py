"""The precision of a training: float32, or matrix products in bfloat16."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .registry import lookup

PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}


class ResultsInFloat32(TorchFunctionMode):
    """A context in which a product of float32 tensors is float32, also under torch's autocast.

    Autocast alone gives bfloat16, and the operations after a product keep it. A log-probability of
    about -100 nats would then be a multiple of half a nat, and an importance weight
    exp(log p - log q) would be wrong by a quarter. Tensors that the programs themselves make
    bfloat16 stay bfloat16.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not has_bfloat16([result]) or func is Tensor.bfloat16:
            return result
        if has_bfloat16(args) or has_bfloat16(kwargs.values()):
            return result
        if isinstance(result, tuple):  # of a recurrent network
            return tuple(each.float() for each in result)
        return result.float()


def has_bfloat16(values: Iterable[Any]) -> bool:
    """Whether this dtype, or a tensor of it, is among the values or in lists and tuples of them."""
    return any(
        value is torch.bfloat16
        or (isinstance(value, Tensor) and value.dtype == torch.bfloat16)
        or (isinstance(value, (list, tuple)) and has_bfloat16(value))
        for value in values
    )


@contextmanager
def in_precision(name: str, device: str) -> Iterator[None]:
    """A context in which programs compute in this precision.

    Args:
        name: ``float32``, or ``bfloat16`` for the matrix products alone.
        device: the type of the device, such as ``cuda``.
    """
    dtype = lookup("precision", name, PRECISIONS)
    if dtype is None:
        yield
        return
    # The cache would keep the casts of the epoch's first weights.
    with torch.autocast(device, dtype, cache_enabled=False), ResultsInFloat32():
        yield

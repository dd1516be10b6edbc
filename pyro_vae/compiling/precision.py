"""Linear layers and convolutions in bfloat16, and everything else in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointError

from ..errors import InputError

LAYERS = {
    F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d,
    F.conv_transpose3d,
}  # fmt: skip
ROUNDED = ContextVar("ROUNDED", default=False)


class LayersInBfloat16(TorchFunctionMode):
    """A context in which a layer of float32 tensors multiplies in bfloat16 and gives float32.

    torch's autocast would go further. It gives bfloat16, so that a log-probability of -100 nats
    becomes a multiple of half a nat, and it rounds the products inside of densities, which a
    covariance with a small eigenvalue does not bear.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in LAYERS and ROUNDED.get():
            given = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
            if all(x.dtype == torch.float32 for x in given):
                named = {name: rounded(x) for name, x in kwargs.items()}
                return func(*map(rounded, args), **named).float()
        return func(*args, **kwargs)


def rounded(x: Any) -> Any:
    """A tensor in bfloat16; anything else as it is."""
    return x.bfloat16() if isinstance(x, Tensor) else x


@contextmanager
def in_bfloat16() -> Iterator[None]:
    """A context in which programs compute linear layers and convolutions in bfloat16.

    These are ``torch.nn.Linear`` and the convolutions of ``torch.nn``, their functions, and what
    calls them in Python, if their tensors are float32. Attention, recurrent layers, scripted
    modules and layers in other threads stay in float32. So do layers that ``checkpoint`` computes
    again in the backward pass, which torch runs outside of the context.

    Raises:
        InputError: ``checkpoint(use_reentrant=False)``, whose layers must be the same both times.
    """
    before = ROUNDED.set(True)
    try:
        with without_autocast(), LayersInBfloat16():
            yield
    except CheckpointError as error:
        raise InputError(
            "torch.utils.checkpoint computed other layers the second time, as it does in bfloat16; "
            "give checkpoint(use_reentrant=True), or the precision float32"
        ) from error
    finally:
        ROUNDED.reset(before)


@contextmanager
def without_rounding() -> Iterator[None]:
    """A context in which neither :func:`in_bfloat16` nor torch's autocast rounds."""
    before = ROUNDED.set(False)
    try:
        with without_autocast():
            yield
    finally:
        ROUNDED.reset(before)


@contextmanager
def without_autocast() -> Iterator[None]:
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


def rounds() -> bool:
    """Whether layers are computed in a lower precision here."""
    return ROUNDED.get() or autocasts()


def autocasts() -> bool:
    """Whether torch's autocast is on."""
    return any(map(torch.is_autocast_enabled, ("cpu", "cuda")))

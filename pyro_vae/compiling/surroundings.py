"""What stands around a call and changes its numbers: settings, handlers of Pyro, modes of torch."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro.infer import ELBO, TraceGraph_ELBO
from pyro.poutine.trace_messenger import TraceMessenger

from .checking import validates
from .kinds import is_own_code
from .precision import rounds
from .private import FUNCTION_MODES, HANDLER_STACK, SAVED_TENSORS_HOOKS, DeviceContext


def torch_settings() -> tuple[Any, ...]:
    """Global settings of torch that change what a program computes."""
    devices = [d for d in ("cpu", "cuda") if torch.is_autocast_enabled(d)]
    return (
        *((d, torch.get_autocast_dtype(d)) for d in devices),
        rounds(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        validates(),
        *map(pyro.settings.get, NUMERICAL),
    )


# Settings of Pyro that change a number.
NUMERICAL = [name for name in pyro.settings.get() if not name.startswith(("validate", "module"))]


def context_of_torch() -> str:
    """A context of torch around the call that may change numbers, as a reason; "" if none does."""
    if torch.is_anomaly_enabled():
        return "torch's detection of anomalies is on"
    if SAVED_TENSORS_HOOKS(False) is not None:
        return "it is called inside torch's saved_tensors_hooks"
    if torch._C._len_torch_dispatch_stack():
        return "it is called inside a dispatch mode of torch"
    for mode in FUNCTION_MODES():
        if not (isinstance(mode, DeviceContext) or is_own_code(type(mode))):
            return f"it is called inside torch's mode {type(mode).__name__}"
    return ""


def eager_reason(elbo: ELBO) -> str:
    """Why this call cannot be compiled; empty if it can."""
    if isinstance(elbo, TraceGraph_ELBO):
        return "TraceGraph_ELBO keeps running averages in the parameter store"
    if pyro.settings.get("module_local_params"):
        return "module_local_params is on"
    for handler in HANDLER_STACK:
        if not (isinstance(handler, TraceMessenger) and handler.param_only):
            return f"it is called inside Pyro's {type(handler).__name__}"
    return context_of_torch()

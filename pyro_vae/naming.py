"""The names of modules in Pyro's parameter store: each module has its own."""

from __future__ import annotations

import warnings
from itertools import count
from weakref import WeakKeyDictionary

import pyro
from pyro.nn import PyroModule
from torch import nn

from .errors import InputError

_names: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
_numbers = count(1)


def register(module: nn.Module, label: str) -> None:
    """Register a module's parameters with Pyro under a name that no other module has had.

    Pyro's parameter store is global and keeps the first tensor under each name. If a second module
    used the same name, it would compute with its own weights while the optimizer changed those of
    the first module. So every module, a copy included, gets its own number. If the store holds
    another tensor under the name nevertheless (a store that was loaded from a file), the module's
    own weights are used.

    Raises:
        InputError: weights that are not contiguous. Pyro's store keeps contiguous copies of them.
    """
    name = unique_name(module, label)
    for key, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if not parameter.is_contiguous():
            raise InputError(
                f"the weights {key!r} of the {label} are not contiguous in memory, and Pyro's "
                "store would train a contiguous copy of them; make them contiguous, for instance "
                "by vae.to(memory_format=torch.contiguous_format)"
            )
        full = f"{name}$$${key}"  # the form that pyro.module uses
        pyro.param(full, parameter)  # its result can be wrapped by a handler of Pyro
        if pyro.get_param_store()[full] is not parameter:
            warnings.warn(
                f"Pyro's parameter store held other values for {full}; the module's own are used "
                "(weights are loaded with load_state_dict)",
                stacklevel=3,
            )
            pyro.get_param_store()[full] = parameter
            pyro.param(full, parameter)


def unique_name(module: nn.Module, label: str) -> str:
    """The name of a module in Pyro's store; it is made when it is first asked for."""
    name = _names.get(module)
    if name is None:
        name = _names[module] = f"{label}_{next(_numbers)}"
        name_pyro_modules(module, name)
    return name


def name_pyro_modules(module: nn.Module, name: str) -> None:
    """Give every ``PyroModule`` inside a module a full name that begins with ``name``.

    A ``PyroModule`` looks up its parameters in Pyro's store by its full name. One that stands in a
    plain module has no such name, so that two of them would share their weights.
    """
    for path, part in module.named_modules():
        if isinstance(part, PyroModule) and not isinstance(parent_of(module, path), PyroModule):
            part._pyro_set_supermodule(f"{name}.{path}", part._pyro_context)


def parent_of(module: nn.Module, path: str) -> nn.Module:
    """The module that holds the one at ``path``."""
    return module.get_submodule(path.rpartition(".")[0])

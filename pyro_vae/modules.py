"""What is done to a torch module and undone again: its mode, its buffers, Pyro's marks."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from .errors import InputError

UNUSABLE = {
    "mps": "has no float64, in which losses and weights are summed",
    "meta": "holds no numbers",
}
"""Devices of torch that training and evaluation cannot use, and why."""


def refuse_device(device: torch.device) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for a device that cannot be used."""
    if why := UNUSABLE.get(device.type):
        raise InputError(f"the device {device.type} {why}; take cpu or cuda")


@contextmanager
def mode(training: bool, *modules: nn.Module) -> Iterator[None]:
    """Put modules into training or evaluation mode; afterwards each has its own mode again."""
    before = [(each, each.training) for module in modules for each in module.modules()]
    for each, _ in before:
        each.training = training
    try:
        yield
    finally:
        for each, was in before:
            each.training = was


@contextmanager
def buffers_restored(module: nn.Module) -> Iterator[None]:
    """Put a module's buffers back afterwards, such as the moments of batch normalization."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


def drop_weakrefs(module: nn.Module) -> None:
    """Remove the weak references that Pyro puts on parameters, because they cannot be pickled.

    Pyro puts them back when it next looks up a parameter.
    """
    for parameter in module.parameters():
        vars(parameter).pop("unconstrained", None)


def module_of(program: Any) -> nn.Module | None:
    """The module that a program is, or that it is a method of; None for other functions.

    A ``functools.partial`` is looked into, and so is a program inside one of Pyro's handlers, such
    as ``poutine.scale(model, scale=2.0)``, because Pyro makes a ``partial`` of it.
    """
    if isinstance(program, partial):
        parts = (program.func, *program.args)
        return next((m for m in map(module_of, parts) if m is not None), None)
    owner = program.__self__ if inspect.ismethod(program) else program
    return owner if isinstance(owner, nn.Module) else None


def modules_of(programs: Iterable[Any]) -> list[nn.Module]:
    """The modules that the programs are, or are methods of, each once."""
    found = [module for program in programs if (module := module_of(program)) is not None]
    return list(dict.fromkeys(found))

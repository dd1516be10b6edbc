"""What is done to a torch module and undone again: its mode, its buffers, Pyro's marks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


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

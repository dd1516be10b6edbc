"""The arguments of a call as the inputs of a graph, and what of them a graph depends on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .floats import fits
from .places import SCALARS

ARGUMENT = object()
"""Stands in the place of an input."""


def is_tensor(x: Any) -> bool:
    return isinstance(x, Tensor)


def is_tensor_or_float(x: Any) -> bool:
    return isinstance(x, Tensor) or (isinstance(x, float) and fits(x))


def as_input(x: Any, device: Any) -> Tensor:
    return x if isinstance(x, Tensor) else torch.tensor(x, device=device)


def argument_key(leaf: Any) -> Any:
    """The part of an argument that decides which step it belongs to."""
    if isinstance(leaf, Tensor):
        return tensor_key(leaf)
    if isinstance(leaf, float):
        return type(leaf), fits(leaf) or repr(leaf)
    return (type(leaf), leaf) if isinstance(leaf, SCALARS) else id(leaf)


def tensor_key(t: Tensor) -> tuple[Any, ...]:
    """The properties of a tensor that a graph depends on, besides its values."""
    strides = t.stride() if t.layout is torch.strided else None
    return t.requires_grad, t.dtype, t.device, t.shape, strides


def first_places(inputs: Sequence[Any]) -> tuple[int, ...]:
    """For each input the place of the first one that is the same object; () if all differ.

    Programs can tell ``model(x, x)`` from ``model(x, x.clone())``.
    """
    if len({id(x) for x in inputs}) == len(inputs):
        return ()
    first: dict[int, int] = {}
    return tuple(first.setdefault(id(x), place) for place, x in enumerate(inputs))


def told_apart(inputs: Iterable[Any]) -> str:
    """Why programs can tell an argument from the tensor that stands for it while they are traced;
    "" if they cannot."""
    for x in inputs:
        if isinstance(x, nn.Parameter):
            return "an argument is a parameter of torch.nn"
        if isinstance(x, Tensor) and (own := [name for name in vars(x) if not by_pyro(name)]):
            return f"a tensor among the arguments has the attribute {own[0]!r}"
    return ""


def by_pyro(name: str) -> bool:
    """Whether Pyro keeps an attribute of this name on tensors."""
    return name.startswith("_pyro_") or name == "unconstrained"


class Zeros:
    """The gradients of zero that a step leaves, as ``SVI`` does.

    Each parameter has one tensor of zeros, so that none is filled at each step. One that an
    optimizer was given, or that somebody wrote into, is not used again.
    """

    def __init__(self) -> None:
        self.of: dict[Tensor, Tensor] = {}

    def leave(self, p: Tensor) -> None:
        """Set the gradient of a parameter to zero."""
        zero = self.of.get(p)
        if zero is None or zero._version or p.grad is zero:
            zero = self.of[p] = torch.zeros_like(p)
        p.grad = zero

    def forget(self, p: Tensor) -> None:
        """Drop a gradient that moves nothing: it is zero again, or there is none."""
        if p in self.of:
            self.leave(p)
        else:
            p.grad = None

    def is_left(self, p: Tensor) -> bool:
        """Whether the gradient of a parameter is still that of :meth:`leave`, or it has none."""
        return p.grad is None or (p.grad is self.of.get(p) and not p.grad._version)


def deliver(leaf: Tensor, gradient: Tensor, replaces: bool = False) -> None:
    """Add a gradient to that of its tensor, as ``backward`` does.

    Args:
        leaf: the tensor.
        gradient: its gradient.
        replaces: whether a gradient that is there is known to be zero.
    """
    if leaf.is_leaf and (replaces or leaf.grad is None):
        # With the strides of its parameter, as a fused optimizer needs it. On a GPU, Inductor pads
        # some matrices.
        same = gradient.stride() == leaf.stride()
        leaf.grad = gradient if same else torch.empty_like(leaf).copy_(gradient)
    else:
        torch.autograd.backward(leaf, gradient)

"""A new graph is run once beside the programs: both must give the same loss and gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .precision import autocasts, rounds, without_rounding
from .private import tree_flatten

TRIES, NUDGE = 3, 1e-3
"""How often a compiled graph may be run again with other weights, and by which share of each weight
they are changed."""
LOSS = "its graph gave other numbers than the programs"
GRADIENTS = f"{LOSS} for the gradients"


def difference(run: Callable[..., Any], compiled: Any, plain: Any, inputs: Sequence[Tensor]) -> str:
    """How a graph differs from the programs on the same inputs with the same random numbers.

    A compiled graph rounds in another way than the programs. This can put the input of a ReLU, or
    of another function with a kink, on the other side of the kink. A gradient then differs by more
    than rounding, and the loss does not. So a compiled graph with the right loss and other
    gradients is accepted on two conditions: the graph that is not compiled gives the numbers of the
    programs, and the compiled one does so with slightly other weights.

    In a lower precision, two gradients that are both right differ by as much as it rounds. So they
    may differ by twice the rounding error of the programs' own gradient (:func:`rounding_errors`).

    Args:
        run: the programs, as a function of tensors; it calls ``loss_and_grads`` or ``loss``.
        compiled: the compiled graph with its tensors, a ``BoundGraph``.
        plain: the same graph, not compiled.
        inputs: the inputs.

    Returns:
        what differs; empty if nothing does.
    """
    wrong = difference_here(run, compiled, inputs)
    if wrong != GRADIENTS or compiled.function is plain.function:
        return wrong
    if in_graph := difference_here(run, plain, inputs):
        return in_graph
    own = {id(x) for x in inputs}
    weights = [t for t in compiled.leaves(inputs) if id(t) not in own]
    for seed in range(TRIES):
        with unchanged(weights):
            torch.manual_seed(seed)
            with torch.no_grad():
                for weight in weights:
                    weight.mul_(1 + NUDGE * torch.randn_like(weight))
            if not difference_here(run, compiled, inputs):
                return ""
    return wrong


def difference_here(run: Callable[..., Any], bound: Any, inputs: Sequence[Tensor]) -> str:
    """:func:`difference` of one graph, with the random numbers that come next."""
    copies = [x.detach().clone().requires_grad_(x.requires_grad) for x in inputs]
    leaves = bound.leaves(copies)
    with unchanged([*leaves, *bound.graph.captured]):
        loss = tree_flatten(run(*copies))[0]
        gradients = [p.grad for p in leaves]
    with unchanged(bound.graph.captured):
        try:
            done = bound(copies)
        except (RuntimeError, AssertionError) as error:
            return f"the graph cannot be run ({str(error).partition(chr(10))[0]})"
    if not done.losses:  # it raised an error, which may be one of Pyro's checks in another call
        return "the graph cannot be run"
    tolerance = 5e-2 if rounds() else 1e-3
    slopes = [
        (torch.zeros_like(b) if a is None else a, b)
        for a, b in zip(gradients, done.gradients, strict=True)
    ]
    # A gradient that is zero in theory has rounding errors of the size of the others.
    largest = max((size(a) for a, _ in slopes), default=0.0)
    if not equal_losses(loss, done.losses):
        return LOSS
    near = [close(a, b, tolerance, tolerance * (size(a) + 0.01 * largest)) for a, b in slopes]
    if rounds() and not all(near):
        with unchanged([*leaves, *bound.graph.captured]):
            errors = rounding_errors(run, copies, leaves, [a for a, _ in slopes])
        near = [
            fine or (a.to(b) - b).norm().item() <= 2 * error
            for fine, (a, b), error in zip(near, slopes, errors, strict=True)
        ]
    return "" if all(near) else GRADIENTS


def equal_losses(loss: Any, in_graph: Sequence[Tensor]) -> bool:
    """Whether the loss of the programs is the one of their graph, up to rounding."""
    tolerance = 5e-2 if autocasts() else 1e-3  # autocast rounds log-densities, too
    parts = [torch.as_tensor(a).detach().cpu() for a in tree_flatten(loss)[0]]
    each = zip(parts, in_graph, strict=True)
    return all(close(a, b.cpu(), tolerance, tolerance * size(a)) for a, b in each)


def rounding_errors(
    run: Callable[..., Any], inputs: Sequence[Tensor], leaves: list[Tensor], slopes: list[Tensor]
) -> list[float]:
    """The norm of the error of each gradient from a lower precision, from a run without it.

    In a deep network it can be a tenth of the gradient, in the programs and in the graph.
    """
    try:
        with without_rounding():
            run(*inputs)
    except RuntimeError:  # the programs mix types, which autocast alone allows
        return [0.0 for _ in slopes]
    exact = (
        torch.zeros_like(a) if p.grad is None else p.grad
        for p, a in zip(leaves, slopes, strict=True)
    )
    return [(e.to(a) - a).norm().item() for e, a in zip(exact, slopes, strict=True)]


def close(a: Tensor, b: Tensor, relative: float, absolute: float) -> bool:
    return torch.allclose(a.to(b), b, relative, absolute + 1e-6, equal_nan=True)


def size(values: Tensor) -> float:
    """The largest absolute value."""
    return values.abs().nan_to_num(posinf=0.0).max().item() if values.numel() else 0.0


@contextmanager
def unchanged(tensors: Sequence[Tensor]) -> Iterator[None]:
    """A context that sets back the values and gradients of tensors and torch's random numbers."""
    kept = [(t, t.detach().clone(), t.grad) for t in tensors if t.is_leaf]
    for t, _, _ in kept:
        t.grad = None
    try:
        with torch.random.fork_rng():
            yield
    finally:
        with torch.no_grad():
            for t, value, gradient in kept:
                if not torch.equal(t, value):
                    t.copy_(value)
                t.grad = gradient

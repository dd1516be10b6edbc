"""Floats among the arguments: inputs of a graph where that is the same, else constants.

A KL weight changes at each step, so a float is an input, a 0-dim tensor. A tensor is not a float,
though: ``isinstance(b, float)`` and ``if b > 0`` tell them apart, and 0.1 has fewer digits in
float32. :func:`are_inputs` compares both ways once, when a step is traced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .tracing import Graph

# The relative error with which a float may enter as a tensor.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def fits(x: float) -> bool:
    """Whether a float is a normal number of torch's default dtype."""
    limits = torch.finfo(torch.get_default_dtype())
    return x == 0 or (math.isfinite(x) and limits.tiny <= abs(x) <= limits.max)


def shifted(x: float) -> float:
    """A number near ``x`` at which a formula has no special value, unlike at 0 and 1."""
    return x * 1.015625 + 0.00390625


def are_inputs(
    graph: Graph,
    trace: Callable[[dict[int, float]], Graph],
    inputs: Sequence[Tensor],
    floats: dict[int, float],
) -> bool:
    """Whether a graph computes the same with floats as inputs and with floats as constants.

    Args:
        graph: the graph with tensors for the floats.
        trace: makes the graph in which given floats are constants.
        inputs: the inputs of the graph.
        floats: the floats by their positions in ``inputs``.
    """
    other = {place: shifted(x) for place, x in floats.items()}
    constant = trace(other)
    tensors = [
        torch.as_tensor(other[i], dtype=x.dtype, device=x.device) if i in other else x
        for i, x in enumerate(inputs)
    ]
    a, b = (outputs(g, tensors) for g in (graph, constant))
    return len(a) == len(b) and all(map(close, a, b))


def outputs(graph: Graph, inputs: Sequence[Tensor]) -> Any:
    """What a graph returns on copies of its inputs, under a fixed seed."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        return graph.module(*(t.detach().clone() for t in (*inputs, *graph.captured)))


def close(a: Tensor, b: Tensor) -> bool:
    tolerance = TOLERANCE.get(a.dtype, 0.0)
    scale = b.abs().max().item() if b.numel() and b.is_floating_point() else 0.0
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True)

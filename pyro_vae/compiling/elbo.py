"""An ELBO whose ``loss_and_grads`` is one compiled graph, for any model and guide."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import pyro
import torch
from pyro.infer import ELBO, TraceGraph_ELBO
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..errors import InputError
from .steps import BACKENDS, LOCK, Compiled, Step, build, kind
from .tracing import Graph
from .watching import SCALARS


class CompiledELBO(ELBO):
    """A Pyro ELBO whose ``loss_and_grads`` is one compiled graph; used where an ELBO is.

    The first call with new shapes runs eagerly, the second is traced and compiled (seconds), the
    others run the graph: same loss, same gradients, same random numbers. Floats among the
    arguments are inputs of the graph; integers, strings and the like are part of what is compiled,
    a new value a new graph. Tensors, parameters and buffers are always read live.

    Run as Pyro runs them, said once: ``TraceGraph_ELBO``; sequential plates with random
    subsamples; a model without parameters to train; a call inside other Pyro handlers; under
    ``module_local_params``; programs whose state changes at each call, or more than 8 times; more
    than 64 kinds of arguments. ``loss`` is not compiled.

    What a model writes but does not read (a stored tensor, a printed line) happens only while it
    is traced.

    Args:
        elbo: any ELBO of Pyro or of this package.
        backend: ``"inductor"`` compiles; ``"eager"`` runs the graph operation by operation.

    Raises:
        CompileError: what a graph would freeze, with the line it stands in: a branch on a tensor,
            a number drawn by Python or NumPy, state that changes between calls unseen.

    Example:
        >>> svi = SVI(model, guide, FusedAdam({"lr": 1e-3}), loss=CompiledELBO(Trace_ELBO()))
        >>> svi.step(x)
    """

    MOST_STEPS = 64

    def __init__(self, elbo: Any, backend: str = "inductor") -> None:
        jit = type(elbo).__name__.startswith("Jit")
        if jit or isinstance(elbo, CompiledELBO) or not isinstance(elbo, ELBO):
            raise InputError(f"CompiledELBO takes an ELBO such as Trace_ELBO(), not {elbo!r}")
        if backend not in BACKENDS:
            raise InputError(f"a backend is one of {', '.join(BACKENDS)}, not {backend!r}")
        super().__init__()
        vars(self).update(vars(elbo))
        self.elbo: Any = elbo
        self.backend = backend
        self.steps: dict[Any, Step] = {}
        self.graphs: dict[str, Compiled] = {}

    def _get_trace(self, *args: Any) -> Any:
        return self.elbo._get_trace(*args)

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        return self.elbo.loss(model, guide, *args, **kwargs)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        call = partial(self.elbo.loss_and_grads, model, guide)
        with LOCK:
            step, inputs = self.step_for(call, (model, guide), args, kwargs)
            bound = step.find(inputs)
            if bound is None:
                loss = call(*args, **kwargs)
                step.ran_eagerly()
                return loss
        values, gradients = bound(inputs)
        for leaf, gradient in zip(bound.leaves(inputs), gradients, strict=True):
            if leaf.is_leaf and leaf.grad is None:
                leaf.grad = gradient
            else:
                torch.autograd.backward(leaf, gradient)
        announce(bound.graph.params)
        return tree_unflatten([warned(v.item()) for v in values], bound.graph.loss)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        call = partial(self.elbo.loss_and_grads, model, guide)
        with LOCK:
            step, inputs = self.step_for(call, (model, guide), args, kwargs)
            bound = step.find(inputs)
            if bound is None:
                loss = self.elbo.differentiable_loss(model, guide, *args, **kwargs)
                step.ran_eagerly()
                return loss
        (value,), gradients = bound(inputs)
        announce(bound.graph.params)
        return WithGradients.apply(value, gradients, *bound.leaves(inputs))

    def build(self, graph: Graph, inputs: Sequence[Tensor]) -> Compiled:
        """The graph, compiled; graphs of equal text are compiled once."""
        if graph.text not in self.graphs:
            self.graphs[graph.text] = build(graph, inputs, self.backend)
        return self.graphs[graph.text]

    def step_for(
        self, call: Any, programs: Sequence[Any], args: Any, kwargs: Any
    ) -> tuple[Step, list[Tensor]]:
        """The step that ``call(*args, **kwargs)`` is one of, and the tensors in its arguments."""
        leaves, spec = tree_flatten((args, kwargs))
        inputs = [x for x in leaves if isinstance(x, Tensor)]
        if len(inputs) < len(leaves):
            device = inputs[0].device if inputs else None
            inputs = [as_input(x, device) for x in leaves if isinstance(x, INPUTS)]
        key = (*map(identity, programs), spec, *map(sort_of, leaves), *modes())
        reason = eager_reason(self.elbo)
        if key not in self.steps and len(self.steps) >= self.MOST_STEPS:
            reason = f"it has met more than {self.MOST_STEPS} kinds of arguments"
        step = self.steps.get(reason or key)
        if step is None:
            slots = [SLOT if isinstance(x, INPUTS) else x for x in leaves]

            def run(*tensors: Tensor) -> Any:
                rest = iter(tensors)
                args, kwargs = tree_unflatten([next(rest) if x is SLOT else x for x in slots], spec)
                return call(*args, **kwargs)

            step = Step(run, [*programs, self.elbo, slots], self.build)
            self.steps[reason or key] = step
            if reason:
                step.stay_eager(reason)
        return step, inputs


INPUTS = (Tensor, float)
SLOT = object()


def as_input(x: Any, device: Any) -> Tensor:
    return x if isinstance(x, Tensor) else torch.tensor(x, device=device)


def sort_of(leaf: Any) -> Any:
    """What of an argument is part of a step's identity."""
    if isinstance(leaf, Tensor):
        return kind(leaf)
    if isinstance(leaf, INPUTS):
        return float
    return (type(leaf), leaf) if isinstance(leaf, SCALARS) else id(leaf)


def identity(program: Any) -> Any:
    """A program's identity: bound methods are made anew each time they are asked for."""
    return getattr(program, "__func__", program), id(getattr(program, "__self__", None))


def modes() -> tuple[Any, ...]:
    devices = [d for d in ("cpu", "cuda") if torch.is_autocast_enabled(d)]
    return (*((d, torch.get_autocast_dtype(d)) for d in devices), torch.get_default_dtype())


def eager_reason(elbo: ELBO) -> str:
    """Why this call cannot be compiled; empty if it can."""
    if isinstance(elbo, TraceGraph_ELBO):
        return "TraceGraph_ELBO keeps running averages in the parameter store"
    if pyro.settings.get("module_local_params"):
        return "module_local_params is on"
    for handler in _PYRO_STACK:
        if not (isinstance(handler, TraceMessenger) and handler.param_only):
            return f"it is called inside Pyro's {type(handler).__name__}"
    return ""


def announce(params: dict[str, Tensor]) -> None:
    """Tell the handler around the step, SVI's own, which parameters took part."""
    if _PYRO_STACK:
        for name in params:
            pyro.param(name)


def warned(loss: float) -> float:
    if loss != loss:
        warnings.warn("Encountered NaN: loss", stacklevel=4)
    return loss


class WithGradients(torch.autograd.Function):
    """A loss whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *leaves: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> Any:
        return None, None, *(weight * gradient for gradient in ctx.gradients)

"""An ELBO whose ``loss_and_grads`` runs one compiled graph, for any model and guide."""

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
from .steps import BACKENDS, LOCK, GraphFunction, Step, compile_graph, tensor_key
from .tracing import Graph
from .watching import SCALARS


class CompiledELBO(ELBO):
    """A Pyro ELBO whose ``loss_and_grads`` is one compiled graph; use it like any other ELBO.

    The first call with new shapes runs eagerly. The second call is traced and compiled, which takes
    seconds. Later calls run the graph: same loss, same gradients, same random numbers.

    Tensors and floats among the arguments are inputs of the graph. Other arguments (integers,
    strings, ...) are constants of the graph, so a new value needs a new graph. The graph reads
    parameters, buffers and other tensors at each call. Numbers and tensors in attributes, closures,
    globals, lists and dicts are compared at each call. If one has changed, and no graph exists for
    the new state, this call runs eagerly and the next one is traced.

    **What runs eagerly**, with one warning that gives the reason:

    - ``TraceGraph_ELBO``;
    - a sequential plate with a random subsample;
    - a model and a guide without a parameter to train;
    - a call inside another Pyro handler, or with ``module_local_params`` switched on;
    - programs whose state changes at each of 16 calls, or that need more than 8 different graphs;
    - new combinations of programs and kinds of arguments, after the first 64;
    - a step that torch cannot compile, for example because there is no C++ compiler.

    ``loss`` is never compiled.

    **What raises** :class:`CompileError`, which names the line:

    - Python reads the value of a tensor: ``if x.sum() > 0``, ``float(x)``, ``x.numpy()``,
      ``x.tolist()``; a tensor has a shape that depends on values. ``x.item()`` is allowed: it stays
      a tensor.
    - Two traces of the same call differ, for example because of ``random.random()``,
      ``np.random.rand()`` or a counter that the model increments.
    - A later check finds a difference. At calls 4, 16, 64, ... the step is traced again and
      compared with the graph in use.

    **What can stay unnoticed**: a change is noticed only if the compared state or the two traces
    differ. Attributes of classes and of Python modules (``config.beta``), sets,
    ``SimpleNamespace``, the inside of NumPy arrays, files and ``os.environ`` are not compared at
    each call. Such a change is noticed at the next check, and until then the graph uses the old
    value. A random number of Python that only decides a rare branch (``random.random() < 0.001``)
    can be equal for both traces; then the graph always takes the branch that it was traced with.

    Side effects in Python, such as a printed line, happen in eager calls and while tracing, not
    when a graph runs. Attributes that a program sets while it is traced are set back.

    Args:
        elbo: any ELBO of Pyro or of this package.
        backend: ``"inductor"`` compiles the graph; ``"eager"`` runs it operation by operation.

    Raises:
        InputError: ``elbo`` is not an ELBO, or is a ``Jit...`` one; ``backend`` is unknown.
        CompileError: a call cannot be represented by one graph, see above.

    Example:
        >>> from pyro_vae import VAE, CompiledELBO, FusedAdam
        >>> vae, optim = VAE((1, 28, 28), latent_size=8), FusedAdam({"lr": 1e-3})
        >>> loss = CompiledELBO(Trace_ELBO(), backend="eager")
        >>> losses = [SVI(vae.model, vae.guide, optim, loss=loss).step(x) for _ in range(3)]
        >>> len(loss.graphs)
        1
    """

    MOST_STEPS = 64

    def __init__(self, elbo: Any, backend: str = "inductor") -> None:
        jit = type(elbo).__name__.startswith("Jit")
        if jit or isinstance(elbo, CompiledELBO) or not isinstance(elbo, ELBO):
            raise InputError(f"CompiledELBO takes an ELBO such as Trace_ELBO(), not {elbo!r}")
        if backend not in BACKENDS:
            raise InputError(f"backend must be one of {', '.join(BACKENDS)}, not {backend!r}")
        super().__init__()
        vars(self).update(vars(elbo))
        self.elbo: Any = elbo
        self.backend = backend
        self.steps: dict[Any, Step] = {}
        self.graphs: dict[str, GraphFunction] = {}

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
        report_params(bound.graph.params)
        return tree_unflatten([with_nan_warning(v.item()) for v in values], bound.graph.loss)

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
        report_params(bound.graph.params)
        return WithGradients.apply(value, gradients, *bound.leaves(inputs))

    def compiled_graph(self, graph: Graph, inputs: Sequence[Tensor]) -> GraphFunction:
        """The compiled graph; graphs with equal text are compiled once."""
        if graph.text not in self.graphs:
            self.graphs[graph.text] = compile_graph(graph, inputs, self.backend)
        return self.graphs[graph.text]

    def step_for(
        self, call: Any, programs: Sequence[Any], args: Any, kwargs: Any
    ) -> tuple[Step, list[Tensor]]:
        """The step that ``call(*args, **kwargs)`` belongs to, and the tensors in its arguments."""
        leaves, spec = tree_flatten((args, kwargs))
        inputs = [x for x in leaves if isinstance(x, Tensor)]
        if len(inputs) < len(leaves):
            device = inputs[0].device if inputs else None
            inputs = [as_input(x, device) for x in leaves if isinstance(x, INPUTS)]
        key = (*map(program_key, programs), spec, *map(argument_key, leaves), *torch_settings())
        reason = eager_reason(self.elbo)
        if key not in self.steps and len(self.steps) >= self.MOST_STEPS:
            reason = f"more than {self.MOST_STEPS} different kinds of arguments were given"
        step = self.steps.get(reason or key)
        if step is None:
            slots = [SLOT if isinstance(x, INPUTS) else x for x in leaves]

            def run(*tensors: Tensor) -> Any:
                rest = iter(tensors)
                args, kwargs = tree_unflatten([next(rest) if x is SLOT else x for x in slots], spec)
                return call(*args, **kwargs)

            step = Step(run, [*programs, self.elbo, slots], self.compiled_graph)
            self.steps[reason or key] = step
            if reason:
                step.stay_eager(reason)
        return step, inputs


INPUTS = (Tensor, float)
SLOT = object()


def as_input(x: Any, device: Any) -> Tensor:
    return x if isinstance(x, Tensor) else torch.tensor(x, device=device)


def argument_key(leaf: Any) -> Any:
    """The part of an argument that decides which step it belongs to."""
    if isinstance(leaf, Tensor):
        return tensor_key(leaf)
    if isinstance(leaf, INPUTS):
        return float
    return (type(leaf), leaf) if isinstance(leaf, SCALARS) else id(leaf)


def program_key(program: Any) -> Any:
    """Identifies a program, which is the user's own object.

    Python makes a new bound method at each access, so a method is identified by its function and
    its object. A program that is not a method does not have these attributes.
    """
    return getattr(program, "__func__", program), id(getattr(program, "__self__", None))


def torch_settings() -> tuple[Any, ...]:
    """Global settings of torch that change what a program computes."""
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


def report_params(params: dict[str, Tensor]) -> None:
    """Tell the handlers around the step, such as that of SVI, which parameters were used."""
    if _PYRO_STACK:
        for name in params:
            pyro.param(name)


def with_nan_warning(loss: float) -> float:
    """The loss; warns as Pyro does if it is NaN."""
    if loss != loss:
        warnings.warn("Encountered NaN: loss", stacklevel=4)
    return loss


class WithGradients(torch.autograd.Function):
    """A loss whose gradients were already computed."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *leaves: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> Any:
        return None, None, *(weight * gradient for gradient in ctx.gradients)

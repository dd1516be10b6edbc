"""An ELBO whose ``loss_and_grads`` and ``loss`` run one compiled graph each, for any programs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from operator import is_not
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor

from ..errors import InputError
from .bound import BACKENDS, BoundGraph, Call, GraphFunction, compile_graph
from .inputs import (
    ARGUMENT,
    argument_key,
    as_input,
    deliver,
    first_places,
    is_tensor,
    is_tensor_or_float,
    told_apart,
)
from .private import HANDLER_STACK, tree_flatten, tree_unflatten
from .refusing import CompileError, EagerReason
from .steps import LOCK, Step
from .surroundings import eager_reason, torch_settings
from .tracing import Graph


class CompiledELBO(ELBO):
    """A Pyro ELBO whose ``loss_and_grads`` is one compiled graph; use it like any other ELBO.

    ``loss``, and so ``SVI.evaluate_loss``, is a graph of its own, without gradients.

    The first call with new shapes runs eagerly, and so does a call at which parameters are new to
    Pyro's store. The next call is traced and compiled, which takes seconds. Later calls run the
    graph: same loss, same gradients, same random numbers.

    Tensors and floats among the arguments are inputs of the graph; a float is a constant, if the
    programs tell it apart from a tensor. Other arguments are constants, so a new value needs a new
    graph. The graph reads parameters, buffers and other tensors at each call. All other state that
    the programs read is compared at each call, wherever Python keeps it. If it has changed, and no
    graph exists for the new state, this call runs eagerly and the next one is traced. A new graph
    runs once beside the programs before it is used, and must give the same numbers.

    **What runs eagerly**, with one warning that gives the reason:

    - programs that write state (a counter, a value that is stored for the user), read a clock, a
      file or ``tensor.grad``, handle torch's generator, start a thread or a profiler, evaluate
      text, or read what cannot be compared, such as a large NumPy array;
    - a step in which a parameter has a hook;
    - an argument that is an ``nn.Parameter``, has attributes, or is read elsewhere, too;
    - ``TraceGraph_ELBO``;
    - a sequential plate with a random subsample;
    - ``loss_and_grads`` of a model and a guide without a parameter to train;
    - a call inside another Pyro handler, a mode of torch, ``saved_tensors_hooks`` or the detection
      of anomalies, or with ``module_local_params`` switched on;
    - programs whose state changes at each of 16 calls, or that need more than 8 different graphs;
    - new combinations of programs and kinds of arguments, after the first 64;
    - a step that torch cannot compile, for example because there is no C++ compiler.

    **What raises** :class:`CompileError`, which names the line:

    - Python reads the value of a tensor: ``if x.sum() > 0``, ``float(x)``, ``x.numpy()``,
      ``x.tolist()``; a tensor has a shape that depends on values. ``x.item()`` is allowed: it stays
      a tensor.
    - Python or NumPy draws a random number: ``random.random()``, ``np.random.rand()``.
    - The result of :meth:`differentiable_loss` is differentiated with ``create_graph=True``.
    - A later check finds a difference. At calls 4, 16, 64, ... the step is traced again and
      compared with the graph in use. A graph that no longer holds is dropped.

    With Pyro's validation on, a value outside its support or a parameter outside its constraint
    raises the error of eager SVI at the same call.

    ``docs/compiled-svi.md`` has the table of what is guaranteed and what is not.

    Args:
        elbo: any ELBO of Pyro or of this package.
        backend: ``"inductor"`` compiles the graph; ``"eager"`` runs it operation by operation.
        static: what does not change although it cannot be compared, or what the programs may write
            although a graph does not: objects, and names of attributes and variables.

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

    def __init__(self, elbo: Any, backend: str = "inductor", static: Sequence[Any] = ()) -> None:
        jit = type(elbo).__name__.startswith("Jit")
        if jit or isinstance(elbo, CompiledELBO) or not isinstance(elbo, ELBO):
            raise InputError(f"CompiledELBO takes an ELBO such as Trace_ELBO(), not {elbo!r}")
        if backend not in BACKENDS:
            raise InputError(f"backend must be one of {', '.join(BACKENDS)}, not {backend!r}")
        self.elbo: Any = elbo
        self.backend = backend
        self.static = static
        self.steps: dict[Any, Step] = {}
        self.graphs: dict[str, GraphFunction] = {}

    def __getattr__(self, name: str) -> Any:
        """The attributes of the ELBO inside, such as ``num_particles``."""
        if name == "elbo":  # not set yet, as in a copy
            raise AttributeError(name)
        return getattr(self.elbo, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute that the ELBO inside has on that ELBO."""
        inside = "elbo" in vars(self) and name in vars(self.elbo)
        setattr(self.elbo, name, value) if inside else super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        """A copy begins without graphs, which belong to the programs and cannot be copied."""
        return {**vars(self), "steps": {}, "graphs": {}}

    def _get_trace(self, *args: Any) -> Any:
        return self.elbo._get_trace(*args)

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        call = partial(self.elbo.loss, model, guide)
        return self.called(call, call, numbers, (model, guide), args, kwargs, trains=False)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        call = partial(self.elbo.loss_and_grads, model, guide)
        return self.called(call, call, numbers, (model, guide), args, kwargs)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        eagerly = partial(self.elbo.differentiable_loss, model, guide)  # not every ELBO has one
        call = partial(self.elbo.loss_and_grads, model, guide)
        return self.called(call, eagerly, differentiable, (model, guide), args, kwargs)

    def called(
        self,
        call: Any,
        eagerly: Any,
        result: Any,
        programs: Sequence[Any],
        args: Any,
        kwargs: Any,
        trains: bool = True,
    ) -> Any:
        """The result of a method of the ELBO, by its graph if there is a valid one.

        Args:
            call: the method that is traced.
            eagerly: the method that runs if there is no valid graph or the graph refuses the call.
            result: makes the result from what the graph gave.
            programs, args, kwargs: model and guide, and what they are called with.
            trains: whether the traced method gives gradients.
        """
        with LOCK:
            step, inputs = self.step_for(call, programs, args, kwargs, trains)
            bound = step.find(inputs)
            if bound is None:
                with step.eager():
                    return eagerly(*args, **kwargs)
        done = bound(inputs)
        if bound.refused(inputs, done):
            with LOCK, step.eager():
                loss = eagerly(*args, **kwargs)
            step.accept(bound, done, loss)
            return loss
        report_params(bound.graph.params)
        return result(bound, inputs, done)

    def compiled_graph(self, graph: Graph, inputs: Sequence[Tensor]) -> GraphFunction:
        """The compiled graph; graphs with equal text are compiled once."""
        if graph.text not in self.graphs:
            self.graphs[graph.text] = compile_graph(graph, inputs, self.backend)
        return self.graphs[graph.text]

    def step_for(
        self, call: Any, programs: Sequence[Any], args: Any, kwargs: Any, trains: bool = True
    ) -> tuple[Step, list[Tensor]]:
        """The step that ``call(*args, **kwargs)`` belongs to, and the tensors in its arguments.

        ``trains`` is whether the call gives gradients.
        """
        leaves, spec = tree_flatten((args, kwargs))
        inputs = [x for x in leaves if isinstance(x, Tensor)]
        floats: dict[int, float] = {}
        kinds = map(argument_key, leaves)
        key = (
            trains,
            first_places(inputs),
            *map(program_key, programs),
            spec,
            *kinds,
            *torch_settings(),
        )
        is_input = is_tensor
        if len(inputs) < len(leaves):
            if key in self.steps and self.steps[key].constant_floats:
                key = (*key, *(x for x in leaves if isinstance(x, float)))
            else:
                is_input = is_tensor_or_float
            device = inputs[0].device if inputs else None
            given = [x for x in leaves if is_input(x)]
            floats = {i: x for i, x in enumerate(given) if not isinstance(x, Tensor)}
            inputs = [as_input(x, device) for x in given]
        reason = eager_reason(self.elbo) or told_apart(inputs)
        if key not in self.steps and len(self.steps) >= self.MOST_STEPS:
            reason = f"more than {self.MOST_STEPS} different kinds of arguments were given"
        step = self.steps.get(reason or key)
        if step is None:
            same = first_places(inputs)
            slots = [ARGUMENT if is_input(x) else x for x in leaves]

            def run(*tensors: Tensor, floats: dict[int, float] | None = None) -> Any:
                one = [tensors[place] for place in same] or tensors
                rest = iter([(floats or {}).get(i, x) for i, x in enumerate(one)])
                given = [next(rest) if x is ARGUMENT else x for x in slots]
                args, kwargs = tree_unflatten(given, spec)
                loss = call(*args, **kwargs)
                now, spec_now = tree_flatten((args, kwargs))
                if spec_now != spec or any(map(is_not, now, given)):
                    raise EagerReason("the programs change the containers in their arguments")
                return loss

            roots = [*programs, self.elbo, slots]
            step = Step(run, roots, self.compiled_graph, self.static, trains)
            self.steps[reason or key] = step
            if reason:
                step.stay_eager(reason)
        step.floats = floats
        return step, inputs


def program_key(program: Any) -> Any:
    """Identifies a program, which is the user's own object; two of them may be equal.

    Python makes a new bound method at each access, so a method is identified by its function and
    its object. A program that is not a method does not have these attributes.
    """
    return id(getattr(program, "__func__", program)), id(getattr(program, "__self__", None))


def report_params(params: dict[str, Tensor]) -> None:
    """Tell the handlers around the step, such as that of SVI, which parameters were used."""
    if HANDLER_STACK:
        for name in params:
            pyro.param(name)


def numbers(bound: BoundGraph, inputs: list[Tensor], done: Call) -> Any:
    """The losses of a graph as numbers; the parameters get their gradients."""
    for leaf, gradient in zip(bound.leaves(inputs), done.gradients, strict=True):
        deliver(leaf, gradient)
    return tree_unflatten([with_nan_warning(x.item()) for x in done.losses], bound.graph.loss)


def differentiable(bound: BoundGraph, inputs: list[Tensor], done: Call) -> Tensor:
    """The loss of a graph as a tensor with its gradients."""
    (value,) = done.losses
    return WithGradients.apply(value, done.gradients, *bound.leaves(inputs))


def with_nan_warning(loss: float) -> float:
    """The loss; warns as Pyro does if it is NaN."""
    if loss != loss:
        warnings.warn("Encountered NaN: loss", stacklevel=5)
    return loss


class WithGradients(torch.autograd.Function):
    """A loss whose gradients were already computed."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *leaves: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> Any:
        if torch.is_grad_enabled():  # with create_graph=True
            raise CompileError(
                "the gradients of a compiled loss are numbers, which cannot be differentiated "
                "again; for create_graph=True take the ELBO that is not compiled"
            )
        return None, None, *(weight * gradient for gradient in ctx.gradients)

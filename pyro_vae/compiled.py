"""Pyro's SVI step as one compiled graph.

    svi = SVI(model, guide, optim, loss=CompiledELBO(Trace_ELBO()))
    svi.step(x)

Any model and guide, any ELBO. How a step becomes a graph, what is refused and how a graph that no
longer holds is noticed stands in :mod:`~pyro_vae.compiling`; here is the whole step around it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer

from .compiling.elbo import CompiledELBO
from .compiling.steps import LOCK, Bound, Step
from .compiling.tripwire import CompileError
from .optim import bare_adam

__all__ = ["CompileError", "CompiledELBO", "CompiledSVI"]


class CompiledSVI:
    """SVI with the whole step compiled: cutting the batch, loss, gradients, optimizer.

    Equation: θ ← θ - Adam(∇ loss(prepare(data[index]))), once for each row of indices.

    :meth:`epoch` runs many steps with next to no Python in between; :meth:`step` is that of
    ``pyro.infer.SVI``. On CUDA, where the optimizer is ``capturable`` and all tensors are on the
    device, a step of an epoch is captured as one CUDA graph and replayed (written with care, not
    yet run on a card).

    Args:
        model, guide: Pyro programs.
        optim: a ``PyroOptim`` (:class:`~pyro_vae.optim.FusedOptim` for speed), or a torch
            optimizer over the parameters of both.
        loss: an ELBO.
        prepare: from a batch of the data, as it is stored, to what the programs take; becomes part
            of the graph. It is run under torch's generators, so that it may draw.
        backend: as in :class:`CompiledELBO`, which also says what is compiled and what raises.

    Example:
        >>> svi = CompiledSVI(model, guide, FusedAdam({"lr": 1e-3}), Trace_ELBO(),
        ...                   prepare=lambda pixels: torch.bernoulli(pixels / 255))
        >>> losses = svi.epoch(pixels, torch.randperm(60_000)[: 468 * 128].view(468, 128))
    """

    def __init__(
        self,
        model: Any,
        guide: Any,
        optim: Any,
        loss: ELBO,
        prepare: Callable[[Tensor], Any] | None = None,
        backend: str = "inductor",
    ) -> None:
        self.model = model
        self.guide = guide
        self.optim = optim
        self.elbo = CompiledELBO(loss, backend)
        self.prepare = prepare

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """One step on a batch; the loss, summed over the batch, in nats."""
        call = partial(self.elbo.elbo.loss_and_grads, self.model, self.guide)
        with LOCK:
            step, inputs = self.elbo.step_for(call, (self.model, self.guide), args, kwargs)
            bound = step.find(inputs)
            if bound is None:
                return self.eagerly(step, call, args, kwargs).tolist()
        return self.compiled(bound, inputs).tolist()

    def epoch(self, data: Tensor, batches: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """One step for each row of ``batches``.

        Args:
            data: all images, ``[N, ...]``, in memory or on the device.
            batches: indices into ``data``, int64 ``[S, B]``, on the same device.
            args, kwargs: what the programs take besides the images.

        Returns:
            The losses, ``[S]``, each summed over its batch.
        """
        args = (data, batches[0], *args)
        programs = (self.model, self.guide, self.prepare)
        with LOCK:
            step, inputs = self.elbo.step_for(self.on_batch, programs, args, kwargs)
        losses: list[Tensor] = []
        work: Callable[[list[Tensor]], Tensor] | None = None
        for index in batches.unbind():
            inputs[1] = index
            # No code but ours runs between two steps: once a graph holds, it holds to the end.
            if work is None:
                with LOCK:
                    bound = step.find(inputs)
                    if bound is None:
                        now = (data, index, *args[2:])
                        losses.append(self.eagerly(step, self.on_batch, now, kwargs))
                        continue
                work = self.replayed(bound, inputs)
                step.calls += len(batches) - len(losses) - 1
            losses.append(work(inputs))
        return torch.stack(losses)

    def on_batch(self, data: Tensor, index: Tensor, *args: Any, **kwargs: Any) -> Any:
        batch = data.index_select(0, index)
        x = batch if self.prepare is None else self.prepare(batch)
        return self.elbo.elbo.loss_and_grads(self.model, self.guide, x, *args, **kwargs)

    def eagerly(self, step: Step, call: Any, args: Any, kwargs: Any) -> Tensor:
        with poutine.trace(param_only=True) as sites:
            loss = call(*args, **kwargs)
        values: list[Any] = [site["value"] for site in sites.trace.nodes.values()]
        self.update({value.unconstrained() for value in values})
        step.ran_eagerly()
        return torch.as_tensor(loss)

    def compiled(self, bound: Bound, inputs: list[Tensor], adam: Any = None) -> Tensor:
        values, gradients = bound(inputs)
        if adam is not None:
            adam(gradients)
        else:
            for leaf, gradient in zip(bound.leaves(inputs), gradients, strict=True):
                leaf.grad = gradient
            self.update(bound.params)
        return values[0] if len(values) == 1 else torch.stack(values)

    def update(self, params: set[Tensor]) -> None:
        if isinstance(self.optim, PyroOptim):
            self.optim(list(params))
        else:
            self.optim.step()
            self.optim.zero_grad()
        for p in params:
            p.grad = None

    def replayed(self, bound: Bound, inputs: list[Tensor]) -> Callable[[list[Tensor]], Tensor]:
        """The compiled step; on CUDA, its replay."""
        adam = bare_adam(self.optim, bound.leaves(inputs))
        work = partial(self.compiled, bound, adam=adam)
        optimizer = getattr(self.optim, "optimizer", self.optim)
        groups = optimizer.param_groups if isinstance(optimizer, Optimizer) else [{}]
        on_device = all(t.is_cuda for t in (*inputs, *bound.graph.captured))
        if not on_device or not all(group.get("capturable") for group in groups):
            return work
        # A replay knows memory by its address and numbers by their value.
        state = [s for p in optimizer.state.values() for s in p.values() if isinstance(s, Tensor)]
        fixed = (
            [t.data_ptr() for t in (inputs[0], *bound.graph.captured, *state)],
            [{k: v for k, v in group.items() if k != "params"} for group in groups],
        )
        if bound.replay is None or bound.replay.fixed != fixed:
            bound.replay = Replay(work, inputs, fixed)
        return bound.replay


class Replay:
    """A step on CUDA: run three times (real steps, which warm everything up), then captured as one
    CUDA graph and replayed, one launch in place of hundreds.

    Args:
        work: the step, a function of its inputs.
        inputs: the data, which stay where they are, and what changes from step to step.
        fixed: what the capture takes as it is; another value asks for another replay.
    """

    def __init__(self, work: Any, inputs: list[Tensor], fixed: Any) -> None:
        self.work = work
        self.inputs = [inputs[0], *(x.clone() for x in inputs[1:])]
        self.fixed = fixed
        self.warm = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, inputs: list[Tensor]) -> Tensor:
        self.warm += 1
        if self.warm <= 3:
            return self.work(inputs)
        for mine, given in zip(self.inputs[1:], inputs[1:], strict=True):
            mine.copy_(given)
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.loss = self.work(self.inputs)
        self.graph.replay()
        return self.loss.clone()

"""SVI with the whole step compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import Tensor

from .bound import BoundGraph, Call
from .calls import arguments
from .elbo import CompiledELBO
from .inputs import Zeros, deliver
from .optim import bare_adam, hooks_of, runs_known_code, torch_optimizer
from .private import tree_leaves, tree_map
from .steps import LOCK, Step

MOST_RUNS = 3
"""Eager runs before a step is compiled; a program may create things in the first ones."""


class CompiledSVI:
    """SVI with the whole step compiled: cutting the batch, loss, gradients, optimizer.

    Equation: θ ← θ - Adam(∇ loss(prepare(data[index]))), once for each row of indices.

    :meth:`epoch` runs many steps with very little Python between them. :meth:`step` takes one
    batch, as ``pyro.infer.SVI.step`` does. On CUDA, :meth:`epoch` captures the step as a CUDA graph
    and replays it, if the optimizer is ``capturable`` and has no hooks, and all tensors are on the
    device. Numbers on the CPU that the programs read are copied to the device before each step.

    Args:
        model, guide: Pyro programs.
        optim: a ``PyroOptim`` (:class:`FusedOptim` is the fastest), or a torch optimizer over the
            parameters of both programs.
        loss: an ELBO.
        prepare: a function from a stored batch to the batch that the programs take, which are
            called as in :func:`.calls.arguments`. It becomes part of the graph. It may draw random
            numbers with torch.
        backend: ``"inductor"`` or ``"eager"``, as in :class:`CompiledELBO`.
        before_step: called before each step of :meth:`epoch`, for example to seed torch. The state
            of the programs is then compared before each step, and so it is with an optimizer that
            runs code of the user's; otherwise once in an epoch.
        static: as in :class:`CompiledELBO`.

    Raises:
        CompileError: as :class:`CompiledELBO` does; its documentation also lists what runs eagerly.

    Example:
        >>> from pyro_vae import VAE, CompiledSVI, FusedAdam
        >>> vae = VAE((1, 28, 28), latent_size=8)
        >>> pixels = torch.randint(256, (64, 1, 28, 28))
        >>> svi = CompiledSVI(vae.model, vae.guide, FusedAdam({"lr": 1e-3}), Trace_ELBO(),
        ...                   prepare=lambda batch: torch.bernoulli(batch / 255), backend="eager")
        >>> svi.epoch(pixels, torch.randperm(64).view(4, 16)).shape
        torch.Size([4])
    """

    def __init__(
        self,
        model: Any,
        guide: Any,
        optim: Any,
        loss: ELBO,
        prepare: Callable[[Tensor], Any] | None = None,
        backend: str = "inductor",
        before_step: Callable[[], None] | None = None,
        static: Sequence[Any] = (),
    ) -> None:
        self.model = model
        self.guide = guide
        self.optim = optim
        self.elbo = CompiledELBO(loss, backend, static)
        self.prepare = prepare
        self.before_step = before_step
        self.zeros = Zeros()

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Take one step on a batch; returns the loss in nats, summed over the batch."""
        call = partial(self.elbo.elbo.loss_and_grads, self.model, self.guide)
        with LOCK:
            step, inputs = self.elbo.step_for(call, (self.model, self.guide), args, kwargs)
            bound = step.find(inputs)
            eagerly = partial(self.run_eagerly, step, call, args, kwargs, bound)
            if bound is None:
                return eagerly().tolist()
        return self.run_compiled(bound, eagerly, inputs).tolist()

    def epoch(self, data: Any, batches: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Take one step for each row of ``batches``.

        Args:
            data: all observations, in memory or on the device: a tensor ``[N, ...]``, or a tuple or
                a dict of such tensors. The programs are called as in :func:`.calls.arguments`.
            batches: indices into ``data``, int64 ``[S, B]``, on the same device.
            args, kwargs: further arguments of the programs, after the data.

        Returns:
            The losses in nats, ``[S]``, each summed over its batch.
        """
        args = (batches[0], data, *args)
        with LOCK:
            step, inputs = self.step_of_epoch(args, kwargs)
        losses: list[Tensor] = []
        last, undisturbed = None, False
        bound: BoundGraph | None
        for index in batches.unbind():
            inputs[0] = index
            if self.before_step is not None:
                self.before_step()
            eagerly = partial(self.run_eagerly, step, self.on_batch, (index, *args[1:]), kwargs)
            if last is not None and undisturbed:
                step.calls += 1
                bound = last
            else:
                with LOCK:
                    bound = step.find(inputs)
                    if bound is None:
                        losses.append(eagerly().to(index.device))
                        continue
            if bound is not last:
                last, work = bound, self.replayed(bound, inputs, 1 + len(tree_leaves(data)))
                # Without code of the user's between two steps, a valid graph stays valid.
                undisturbed = self.before_step is None and runs_known_code(self.optim)
            losses.append(work(partial(eagerly, bound), inputs).to(index.device))
        return torch.stack(losses)

    def compile(self, data: Any, index: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compile the step of :meth:`epoch` without taking one.

        Otherwise the first step of an epoch runs eagerly, because the programs may create things in
        it. Parameters stay as they are. The programs may change buffers and random numbers.

        Args:
            data, args, kwargs: as in :meth:`epoch`.
            index: the indices of one batch, int64 ``[B]``.
        """
        args = (index, data, *args)
        with LOCK:
            self.run_until_compiled(*self.step_of_epoch(args, kwargs), self.on_batch, args, kwargs)

    def compile_step(self, *args: Any, **kwargs: Any) -> None:
        """Compile :meth:`step` for arguments of these shapes without taking a step."""
        call = partial(self.elbo.elbo.loss_and_grads, self.model, self.guide)
        with LOCK:
            step, inputs = self.elbo.step_for(call, (self.model, self.guide), args, kwargs)
            self.run_until_compiled(step, inputs, call, args, kwargs)

    def run_until_compiled(
        self, step: Step, inputs: list[Tensor], call: Any, args: Any, kwargs: Any
    ) -> None:
        """Run a call without updates until its graph is made."""
        for _ in range(MOST_RUNS):
            if step.find(inputs) is not None:
                break
            with step.eager():
                _, params = self.gradients(call, args, kwargs)
            for p in params:
                self.zeros.forget(p)

    def step_of_epoch(self, args: Any, kwargs: Any) -> tuple[Step, list[Tensor]]:
        """The step that :meth:`on_batch` with these arguments belongs to, and its tensors."""
        programs = (self.model, self.guide, self.prepare)
        return self.elbo.step_for(self.on_batch, programs, args, kwargs)

    def on_batch(self, index: Tensor, data: Any, *args: Any, **kwargs: Any) -> Any:
        batch = tree_map(lambda stored: stored.index_select(0, index), data)
        first, named = arguments(batch if self.prepare is None else self.prepare(batch))
        loss_and_grads = self.elbo.elbo.loss_and_grads
        return loss_and_grads(self.model, self.guide, *first, *args, **named, **kwargs)

    def run_eagerly(
        self,
        step: Step,
        call: Any,
        args: Any,
        kwargs: Any,
        bound: BoundGraph | None = None,
        refused: Call | None = None,
    ) -> Tensor:
        """One eager step; it repeats a call that the graph ``bound`` refused, if one is given."""
        with LOCK, step.eager():
            loss, params = self.gradients(call, args, kwargs)
        if bound is not None and refused is not None:
            step.accept(bound, refused, loss)
        self.update(params)
        return torch.as_tensor(loss)

    def gradients(self, call: Any, args: Any, kwargs: Any) -> tuple[Any, set[Tensor]]:
        """The loss of an eager call, and the parameters, which then have their gradients."""
        with poutine.trace(param_only=True) as sites:
            loss = call(*args, **kwargs)
        values: list[Any] = [site["value"] for site in sites.trace.nodes.values()]
        return loss, {value.unconstrained() for value in values}

    def run_compiled(
        self, bound: BoundGraph, eagerly: Any, inputs: list[Tensor], adam: Any = None
    ) -> Tensor:
        """One compiled step; ``eagerly`` takes it if Pyro's own checks must see it."""
        done = bound(inputs)
        if bound.refused(inputs, done):
            return eagerly(done)
        leaves = bound.leaves(inputs)
        if adam is not None and all(map(self.zeros.is_left, leaves)):
            adam(done.gradients)
        else:
            for leaf, gradient in zip(leaves, done.gradients, strict=True):
                deliver(leaf, gradient, replaces=self.zeros.is_left(leaf))
            self.update(bound.params)
        return done.losses[0] if len(done.losses) == 1 else torch.stack(done.losses)

    def update(self, params: set[Tensor]) -> None:
        """Move the parameters. A gradient is then zero, so that a later step in which a parameter
        has none moves it by its momentum, as ``SVI`` does."""
        if isinstance(self.optim, PyroOptim):
            self.optim(list(params))
            for p in params:
                if p.grad is not None:
                    self.zeros.leave(p)
        else:
            self.optim.step()
            self.optim.zero_grad()
            for p in params:
                p.grad = None

    def replayed(
        self, bound: BoundGraph, inputs: list[Tensor], fixed_before: int
    ) -> Callable[..., Tensor]:
        """The compiled step as a function of its inputs; on CUDA, its replay.

        The inputs are the index, the data up to the place ``fixed_before``, and further arguments.
        """
        leaves = bound.leaves(inputs)
        adam = bare_adam(self.optim, leaves)
        waiting = not all(map(self.zeros.is_left, leaves))  # to be added to the gradients
        if adam is not None and not waiting:
            for leaf in leaves:  # this step does not touch their gradients
                self.zeros.leave(leaf)
        work: Any = partial(self.run_compiled, bound, adam=adam)
        optimizer = torch_optimizer(self.optim)
        on_device = all(t.is_cuda for t in (*inputs, *bound.graph.read))
        if optimizer is None or not on_device or hooks_of(optimizer) or waiting:
            return work
        if not all(group.get("capturable") for group in optimizer.param_groups):
            return work
        # A CUDA graph stores the addresses of tensors and the values of Python numbers.
        data = inputs[1:fixed_before]
        state = [s for p in optimizer.state.values() for s in p.values() if isinstance(s, Tensor)]
        fixed = (
            [t.data_ptr() for t in (*data, *bound.graph.read, *state)],
            [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups],
        )
        if bound.replay is None or bound.replay.fixed != fixed:
            bound.replay = Replay(work, bound.refresh, inputs, fixed_before, fixed)
        return bound.replay


class Replay:
    """A step on CUDA that is captured as one CUDA graph and replayed: one launch, not hundreds.

    The first three calls are normal steps. They warm up the kernels and the memory.

    Args:
        work: the step, a function of its inputs.
        refresh: fills what the step reads from the CPU.
        inputs: the index, the data, whose addresses must not change, and the further tensors.
        fixed_before: the place in ``inputs`` at which the further tensors begin.
        fixed: addresses and numbers that the capture stores. If they change, a new replay is made.
    """

    def __init__(
        self, work: Any, refresh: Any, inputs: list[Tensor], fixed_before: int, fixed: Any
    ) -> None:
        self.work, self.refresh = work, refresh
        # The index and the further tensors change at each step, so they are copied to one place.
        self.changing = [0, *range(fixed_before, len(inputs))]
        self.inputs = [x.clone() if i in self.changing else x for i, x in enumerate(inputs)]
        self.fixed = fixed
        self.warm = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, eagerly: Any, inputs: list[Tensor]) -> Tensor:
        self.warm += 1
        if self.warm <= 3:
            return self.work(eagerly, inputs)
        for i in self.changing:
            self.inputs[i].copy_(inputs[i])
        self.refresh()
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.loss = self.work(None, self.inputs)
        self.graph.replay()
        return self.loss.clone()

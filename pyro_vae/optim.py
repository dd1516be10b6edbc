"""One torch optimizer for all of Pyro's parameters, where ``pyro.optim`` keeps one for each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, cast

import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer

from .errors import InputError

# How an optimizer computes, as opposed to what: no part of a stored state.
MEANS = {"params", "foreach", "fused", "capturable", "differentiable"}


class FusedOptim(PyroOptim):
    """A ``PyroOptim`` with a single torch optimizer, fused where torch has it so.

    The mathematics is that of ``pyro.optim``: each parameter has its own moments, its own count of
    steps and is clipped on its own. A step over a VAE's ten tensors is one call to torch instead
    of ten optimizers. States are read and written in the form of ``pyro.optim``.

    Args:
        optim_constructor: a torch optimizer's class.
        optim_args: its options; or a function from a parameter's name to its options.
        clip_args: ``clip_norm`` and ``clip_value``, as in ``pyro.optim``.
        scheduler: makes a torch scheduler of the optimizer, for instance
            ``partial(ExponentialLR, gamma=0.99)``; :meth:`step` moves it.

    Raises:
        InputError: a scheduler together with options that differ between parameters.

    Example:
        >>> optim = FusedOptim(torch.optim.Adam, {"lr": 1e-3}, clip_args={"clip_norm": 10.0})
        >>> svi = SVI(model, guide, optim, loss=Trace_ELBO())
    """

    def __init__(
        self,
        optim_constructor: type[Optimizer],
        optim_args: dict[str, Any] | Callable[[str], dict[str, Any]],
        clip_args: dict[str, Any] | None = None,
        scheduler: Callable[[Optimizer], Any] | None = None,
    ) -> None:
        super().__init__(optim_constructor, optim_args, clip_args)
        if scheduler is not None and callable(optim_args):
            raise InputError("a scheduler takes one set of options for all parameters")
        self.make_scheduler = scheduler
        self.scheduler: Any = None
        self.optimizer: Optimizer | None = None
        self.groups: list[tuple[dict[str, Any], dict[str, Any]]] = []  # options -> group of torch
        self.group_of: dict[Tensor, dict[str, Any]] = {}

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """One step for ``params``, which need not be all that are known."""
        params = params if isinstance(params, set) else set(params)
        if params != self.group_of.keys():
            self.add(params - self.group_of.keys())
        if self.pt_clip_args:
            for p in params:
                if p.grad is not None and (clip := self._get_grad_clip(cast(Any, p))):
                    clip(p)
        others = [(p, p.grad) for p in self.group_of.keys() - params]
        for p, _ in others:
            p.grad = None
        assert self.optimizer is not None
        self.optimizer.step(*args, **kwargs)
        for p, grad in others:
            p.grad = grad

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Move the scheduler; the arguments are those of its own ``step``."""
        if self.scheduler is not None:
            self.scheduler.step(*args, **kwargs)

    def add(self, params: Iterable[Tensor]) -> None:
        """Take up new parameters, in the order of their names."""
        name_of = pyro.get_param_store().param_name
        for p in sorted(params, key=lambda p: str(name_of(p))):
            options = self._get_optim_args(p)
            group = next((group for known, group in self.groups if known == options), None)
            if group is None:
                group = self.new_group(p, options)
                self.groups.append((options, group))
            else:
                group["params"].append(p)
            self.group_of[p] = group
            state = self._state_waiting_to_be_consumed.pop(name_of(p), None)
            if state is not None:
                self.load_param(p, state)

    def new_group(self, p: Tensor, options: dict[str, Any]) -> dict[str, Any]:
        options = {**options, "params": [p]}
        if self.optimizer is None:
            make = cast(Callable[..., Optimizer], self.pt_optim_constructor)
            takes = inspect.signature(make).parameters
            how: dict[str, Any] = {"fused": True} if "fused" in takes else {}
            if p.device.type == "cuda" and "capturable" in takes:
                how["capturable"] = True  # so that the step can be part of a CUDA graph
            self.optimizer = make([options], **how)
            if self.make_scheduler is not None:
                self.scheduler = self.make_scheduler(self.optimizer)
        else:
            self.optimizer.add_param_group(options)
        return self.optimizer.param_groups[-1]

    def get_state(self) -> dict[str, Any]:
        """The state of each parameter by its name, as ``pyro.optim`` writes it."""
        return {name: self.param_state(p) for p, name in self.named()}

    def set_state(self, state_dict: dict[str, Any]) -> None:
        """Take a state of :meth:`get_state` or of ``pyro.optim``: at once for the parameters that
        are known, at their first step for the others."""
        self._state_waiting_to_be_consumed.update(state_dict)
        for p, name in self.named():
            if name in state_dict:
                self.load_param(p, self._state_waiting_to_be_consumed.pop(name))

    def named(self) -> list[tuple[Tensor, str]]:
        """The parameters that Pyro's store still holds, with their names."""
        names = ((p, pyro.get_param_store().param_name(p)) for p in self.group_of)
        return [(p, name) for p, name in names if name is not None]

    def param_state(self, p: Tensor) -> dict[str, Any]:
        assert self.optimizer is not None
        group = {k: v for k, v in self.group_of[p].items() if k not in MEANS}
        values = self.optimizer.state.get(p, {})
        state = {
            "state": {0: dict(values)} if values else {},
            "param_groups": [{**group, "params": [0]}],
        }
        if self.scheduler is None:
            return state
        return {"scheduler": self.scheduler.state_dict(), "optimizer": state}

    def load_param(self, p: Tensor, state: dict[str, Any]) -> None:
        assert self.optimizer is not None
        if "scheduler" in state:
            if self.scheduler is not None:
                self.scheduler.load_state_dict(state["scheduler"])
            state = state["optimizer"]
        group = self.group_of[p]
        group.update({k: v for k, v in state["param_groups"][0].items() if k not in MEANS})
        for key, value in state["state"].get(0, {}).items():
            if isinstance(value, Tensor):
                # A count of steps lives where the optimizer wants it, moments with the parameter.
                there = group.get("capturable") or key != "step"
                value = value.detach().clone().to(p.device if there else "cpu")
            self.optimizer.state[p][key] = value


def FusedAdam(optim_args: Any, clip_args: dict[str, Any] | None = None) -> FusedOptim:
    """``pyro.optim.Adam`` with one fused optimizer."""
    return FusedOptim(torch.optim.Adam, optim_args, clip_args)


def bare_adam(optim: Any, params: list[Tensor]) -> Callable[[list[Tensor]], None] | None:
    """The step of a fused Adam over ``params`` as a function of their gradients: the same call to
    torch, without the 0.1 ms in which ``Adam.step`` gathers what stays as it is between two steps.

    None where something else is asked of the optimizer: clipping, hooks, a scheduler, groups.
    """
    optimizer = getattr(optim, "optimizer", optim)
    if type(optimizer) is not torch.optim.Adam or getattr(optim, "pt_clip_args", None):
        return None
    group, *others = optimizer.param_groups
    states: list[Any] = [optimizer.state.get(p) for p in params]
    special = ("amsgrad", "capturable", "differentiable", "decoupled_weight_decay")
    hooks = [v for k, v in vars(optimizer).items() if k.startswith("_optimizer_step")]
    if (
        others
        or set(group["params"]) != set(params)
        or not all(states)
        or not group["fused"]
        or any(group.get(name) for name in special)
        or any(hooks)
        or "step" in vars(optimizer)  # where a scheduler puts its own
    ):
        return None
    means, squares, counts = ([s[k] for s in states] for k in ("exp_avg", "exp_avg_sq", "step"))
    options = {name: group[name] for name in ("lr", "weight_decay", "eps", "maximize")}
    beta1, beta2 = group["betas"]

    @torch.no_grad()
    def step(gradients: list[Tensor]) -> None:
        torch._foreach_add_(counts, 1)
        torch._fused_adam_(
            params, gradients, means, squares, [], counts,
            beta1=beta1, beta2=beta2, amsgrad=False, **options,
        )  # fmt: skip

    return step

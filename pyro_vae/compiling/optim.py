"""A single torch optimizer for all Pyro parameters; ``pyro.optim`` makes one for each parameter."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, cast

import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer

from ..errors import InputError
from .kinds import from_library, is_own_code
from .private import OPTIMIZER_HOOKS

# Options that choose an implementation and do not change the result; a stored state omits them.
IMPLEMENTATION = {"params", "foreach", "fused", "capturable", "differentiable"}

CLEARED_EVERY = 100
"""Moments are cleared at the steps of a parameter whose number is a multiple of this."""


class FusedOptim(PyroOptim):
    """A ``PyroOptim`` with a single torch optimizer, fused if torch has a fused version.

    It computes the same as ``pyro.optim``: each parameter has its own moments and its own step
    count, and its gradient is clipped alone. A step over a VAE's ten tensors is one call to torch
    instead of ten. States are read and written in the format of ``pyro.optim``. On a CPU, moments
    of Adam near the least normal number become 0 (:func:`clear_subnormals`).

    Args:
        optim_constructor: the class of a torch optimizer.
        optim_args: its options, or a function from a parameter's name to the options.
        clip_args: ``clip_norm`` and ``clip_value``, as in ``pyro.optim``.
        scheduler: a function from the optimizer to a torch scheduler, for example
            ``partial(ExponentialLR, gamma=0.99)``; :meth:`step` moves the scheduler.

    Raises:
        InputError: a scheduler was given together with options that depend on the parameter.

    Example:
        >>> from pyro_vae.compiling import FusedOptim
        >>> vae = VAE((1, 28, 28), latent_size=8)
        >>> optim = FusedOptim(torch.optim.Adam, {"lr": 1e-3}, clip_args={"clip_norm": 10.0})
        >>> loss = SVI(vae.model, vae.guide, optim, loss=Trace_ELBO()).step(x)
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
            raise InputError(
                "optim_args is a function and a scheduler was given; with a scheduler, optim_args "
                "must be one set of options for all parameters"
            )
        self.make_scheduler = scheduler
        self.scheduler: Any = None
        self.optimizer: Optimizer | None = None
        self.groups: list[tuple[dict[str, Any], dict[str, Any]]] = []  # (options, torch's group)
        self.group_of: dict[Tensor, dict[str, Any]] = {}

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """Take one step for ``params``; other parameters of the optimizer stay as they are."""
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
        """Move the scheduler; the arguments go to its own ``step``."""
        if self.scheduler is not None:
            self.scheduler.step(*args, **kwargs)

    def add(self, params: Iterable[Tensor]) -> None:
        """Add new parameters to the optimizer, sorted by name."""
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
            if type(self.optimizer) in (torch.optim.Adam, torch.optim.AdamW):
                clear_subnormals(self.optimizer)
            if self.make_scheduler is not None:
                self.scheduler = self.make_scheduler(self.optimizer)
        else:
            self.optimizer.add_param_group(options)
        return self.optimizer.param_groups[-1]

    def get_state(self) -> dict[str, Any]:
        """The state of each parameter by its name, in the format of ``pyro.optim``."""
        return {name: self.param_state(p) for p, name in self.named()}

    def set_state(self, state_dict: dict[str, Any]) -> None:
        """Load a state from :meth:`get_state` or from ``pyro.optim``.

        Parameters that the optimizer already has are loaded now, others at their first step.
        """
        self._state_waiting_to_be_consumed.update(state_dict)
        for p, name in self.named():
            if name in state_dict:
                self.load_param(p, self._state_waiting_to_be_consumed.pop(name))

    def named(self) -> list[tuple[Tensor, str]]:
        """The parameters that are still in Pyro's store, with their names."""
        names = ((p, pyro.get_param_store().param_name(p)) for p in self.group_of)
        return [(p, name) for p, name in names if name is not None]

    def param_state(self, p: Tensor) -> dict[str, Any]:
        assert self.optimizer is not None
        group = {k: v for k, v in self.group_of[p].items() if k not in IMPLEMENTATION}
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
        group.update({k: v for k, v in state["param_groups"][0].items() if k not in IMPLEMENTATION})
        for key, value in state["state"].get(0, {}).items():
            if isinstance(value, Tensor):
                # Torch keeps the step count on the CPU, unless the optimizer is capturable.
                with_parameter = group.get("capturable") or key != "step"
                value = value.detach().clone().to(p.device if with_parameter else "cpu")
            self.optimizer.state[p][key] = value


def FusedAdam(optim_args: Any, clip_args: dict[str, Any] | None = None) -> FusedOptim:
    """``pyro.optim.Adam`` with one fused optimizer."""
    return FusedOptim(torch.optim.Adam, optim_args, clip_args)


def torch_optimizer(optim: Any) -> Optimizer | None:
    """The single torch optimizer behind ``optim``; None if there is not exactly one yet."""
    found = optim.optimizer if isinstance(optim, FusedOptim) else optim
    return found if isinstance(found, Optimizer) else None


def clear_subnormals(optimizer: Optimizer) -> None:
    """Register a hook that keeps the arithmetic of Adam fast on a CPU.

    The weights of a pixel that is nearly always black get gradients of exactly 0. Their first
    moment then shrinks by β1 at each step. In float32 it is subnormal, below 1.2e-38, after some
    800 steps. It never reaches 0, because 0.9 times the least number above 0 is rounded to that
    number. Arithmetic with subnormal numbers is slow on some processors: on an Intel Xeon a step of
    Adam took three times as long.

    So at every 100th step of a parameter, first moments below 1.2e-33 and second moments below
    2.4e-38 become 0 (float64: the same multiples of its least normal number). Parameters stay the
    same, because a step divides by √v + ε, and ε is much larger. If ε is less than 1e-12, nothing
    is done. The limits fit β1 of 0.9 or more; with a smaller one, some moments are subnormal for a
    few steps. Other types and other devices are left as they are.

    A copy of the optimizer does not have the hook.

    Args:
        optimizer: ``Adam`` or ``AdamW`` of torch.

    Raises:
        InputError: another optimizer, whose state this function does not know.
    """
    if not isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        raise InputError(
            f"clear_subnormals is for Adam and AdamW of torch, not {type(optimizer).__name__}"
        )
    optimizer.register_step_post_hook(without_subnormals)


def without_subnormals(optimizer: Optimizer, *_: Any) -> None:
    """The hook of :func:`clear_subnormals`."""
    for group in optimizer.param_groups:
        for p in group["params"] if can_be_cleared(group) else ():
            if p.grad is not None and p.device.type == "cpu" and (state := optimizer.state.get(p)):
                clear_if_due(state["step"], state["exp_avg"], state["exp_avg_sq"])


def can_be_cleared(group: dict[str, Any]) -> bool:
    return group["eps"] >= 1e-12


def clear_if_due(step: Any, mean: Tensor, square: Tensor) -> None:
    if int(step) % CLEARED_EVERY == 0 and mean.dtype in (torch.float32, torch.float64):
        least = torch.finfo(mean.dtype).tiny
        mean.masked_fill_(mean.abs() < 1e5 * least, 0.0)  # 0.9 ** 100 = 3e-5
        square.masked_fill_(square < 2 * least, 0.0)


def all_hooks_of(optimizer: Optimizer) -> list[Any]:
    """The functions that must run before or after each step of an optimizer."""
    own = [v for k, v in vars(optimizer).items() if k.startswith("_optimizer_step")]
    return [hook for hooks in (*own, *OPTIMIZER_HOOKS) for hook in hooks.values()]


def hooks_of(optimizer: Optimizer) -> list[Any]:
    """The hooks of an optimizer, without that of :func:`clear_subnormals`."""
    return [hook for hook in all_hooks_of(optimizer) if hook is not without_subnormals]


def runs_known_code(optim: PyroOptim | Optimizer) -> bool:
    """Whether a step of an optimizer runs code of torch, Pyro and this package only."""
    single = torch_optimizer(optim)
    each: list[Any] = [] if single is None else [single]
    code: list[Any] = []
    if isinstance(optim, PyroOptim):
        each += optim.optim_objs.values()
        code.append(optim.pt_optim_constructor)  # it may not have been called yet
    code += [*map(type, (optim, *each)), *(hook for one in each for hook in hooks_of(one))]
    replaced = any("step" in vars(one) for one in each)  # on the object
    return not replaced and all(from_library(item) or is_own_code(item) for item in code)


def bare_adam(optim: Any, params: list[Tensor]) -> Callable[[list[Tensor]], None] | None:
    """A step of fused Adam over ``params``, as a function of their gradients.

    It makes the same call to torch as ``Adam.step``, but it collects the lists of tensors once.
    ``Adam.step`` collects them at every step, which takes 0.1 ms.

    Returns:
        None if the optimizer is not a plain fused Adam over exactly ``params``, or if it has
        clipping, a scheduler, several groups, or hooks besides that of :func:`clear_subnormals`.
    """
    optimizer = torch_optimizer(optim)
    clips = isinstance(optim, FusedOptim) and optim.pt_clip_args
    known = type(optim) in (FusedOptim, torch.optim.Adam)
    if not known or type(optimizer) is not torch.optim.Adam or clips:
        return None
    group, *others = optimizer.param_groups
    states: list[Any] = [optimizer.state.get(p) for p in params]
    special = ("amsgrad", "capturable", "differentiable", "decoupled_weight_decay")
    if (
        others
        or set(group["params"]) != set(params)
        or not all(states)
        or not group["fused"]
        or any(group.get(name) for name in special)
        or hooks_of(optimizer)
        or "step" in vars(optimizer)  # a scheduler replaces the method on the object
    ):
        return None
    means, squares, counts = ([s[k] for s in states] for k in ("exp_avg", "exp_avg_sq", "step"))
    names = ("lr", "weight_decay", "eps", "maximize")
    clears = without_subnormals in all_hooks_of(optimizer)
    clears &= all(p.device.type == "cpu" for p in params)

    @torch.no_grad()
    def step(gradients: list[Tensor]) -> None:
        options = {name: group[name] for name in names}  # they may change between two steps
        beta1, beta2 = group["betas"]
        torch._foreach_add_(counts, 1)
        torch._fused_adam_(
            params, gradients, means, squares, [], counts,
            beta1=beta1, beta2=beta2, amsgrad=False, **options,
        )  # fmt: skip
        if clears and can_be_cleared(group):
            for state in zip(counts, means, squares, strict=True):
                clear_if_due(*state)

    return step

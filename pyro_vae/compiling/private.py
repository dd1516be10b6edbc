"""The private names of torch, Pyro and NumPy that this package uses, and what would replace each.

A name that starts with an underscore may go in any release. All of them are listed here, so that a
failing import names the place to change. ``tests/test_compiled_private.py`` reads both tables.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import numpy as np
import torch
from pyro.infer.util import Dice
from pyro.params.param_store import ParamStoreDict
from pyro.poutine.runtime import _PYRO_STACK as HANDLER_STACK
from torch._C._dynamo.guards import TensorGuards
from torch._subclasses.fake_tensor import (
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.distributions import distribution, kl
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.nn.modules import module as nn_module
from torch.optim import optimizer
from torch.overrides import _get_current_function_mode_stack as FUNCTION_MODES
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map, tree_unflatten

__all__ = [
    "FUNCTION_MODES",
    "HANDLER_STACK",
    "DeviceContext",
    "Dice",
    "DynamicOutputShapeException",
    "FakeTensor",
    "FakeTensorMode",
    "TensorGuards",
    "TorchDispatchMode",
    "TreeSpec",
    "get_proxy_mode",
    "make_fx",
    "tree_flatten",
    "tree_leaves",
    "tree_map",
    "tree_unflatten",
]

NUMPY_GENERATOR: Any = np.random.mtrand._rand  # behind np.random.rand
bootstrap: Any = importlib._bootstrap
IMPORTING: Any = bootstrap._find_and_load.__code__
CachedFunction: Any = functools._lru_cache_wrapper
SAVED_TENSORS_HOOKS: Any = torch._C._autograd._top_saved_tensors_default_hooks
KL_REGISTRY: Any = kl._KL_REGISTRY
OPTIMIZER_HOOKS: Any = (
    optimizer._global_optimizer_pre_hooks,
    optimizer._global_optimizer_post_hooks,
)
GLOBAL_HOOKS = [
    v for k, v in vars(nn_module).items() if k.startswith("_global_") and isinstance(v, dict)
]
# Torch 2.15 checks constraints in a function of its own; earlier versions do it in place.
CONSTRAINT_CHECK: Any = getattr(distribution, "_all_true_or_runtime_assert", None)

REPLACEMENTS = {
    "pyro.poutine.runtime._PYRO_STACK": "a handler of our own that meets the message of a param",
    "pyro.infer.util.Dice": "run enumeration with score functions eagerly",
    "torch._C._dynamo.guards.TensorGuards": "compare shape, strides and so on, 0.03 ms slower",
    "torch._subclasses.fake_tensor.FakeTensorMode": "make_fx with tracing_mode='fake'",
    "torch._subclasses.fake_tensor.FakeTensor": "torch.compiler's public test for fake tensors",
    "torch._subclasses.fake_tensor.DynamicOutputShapeException": "the text of the RuntimeError",
    "torch.fx.experimental.proxy_tensor.make_fx": "torch.export of a function with its backward",
    "torch.fx.experimental.proxy_tensor.get_proxy_mode": "no line in an error message",
    "torch.overrides._get_current_function_mode_stack": "do not notice a mode around a step",
    "torch._C._len_torch_dispatch_stack": "do not notice a dispatch mode around a step",
    "torch.utils._device.DeviceContext": "run eagerly inside torch.device(...), too",
    "torch._C._autograd._top_saved_tensors_default_hooks": "do not notice such hooks",
    "torch.optim.optimizer._global_optimizer_pre_hooks": "do not notice hooks of all optimizers",
    "torch.optim.optimizer._global_optimizer_post_hooks": "the same",
    "torch.distributions.kl._KL_REGISTRY": "do not notice a function that replaces another",
    "torch.utils._python_dispatch.TorchDispatchMode": "refuse captured 0-dim tensors outright",
    "torch.utils._pytree.tree_flatten": "a flattening of dicts, lists and tuples of our own",
    "torch.utils._pytree.tree_unflatten": "the inverse of that",
    "torch.utils._pytree.tree_leaves": "the first part of its result",
    "torch.utils._pytree.tree_map": "a function of that and of its inverse",
    "torch.utils._pytree.TreeSpec": "the structure that that returns",
    "torch._inductor.compile": "torch.compile(module, fullgraph=True)",
    "torch._foreach_add_": "Adam.step, 0.1 ms slower",
    "torch._fused_adam_": "Adam.step, 0.1 ms slower",
    "torch.nn.modules.module._global_forward_hooks": "do not notice hooks of all modules",
    "numpy.random.mtrand._rand": "np.random.get_state and set_state",
    "importlib._bootstrap._find_and_load": "a first call that imports modules may read files",
    "functools._lru_cache_wrapper": "type(functools.lru_cache(len))",
}
"""Each private name, and what to do if it is gone."""

ATTRIBUTES = {
    (ParamStoreDict(), "_params"): "compare the values of the store, which makes constrained ones",
    (ParamStoreDict(), "_constraints"): "the constraints in get_state() of the store",
    (torch.Tensor, "_is_view"): "always copy a gradient",
    (torch.Tensor, "_backward_hooks"): "run parameters with hooks as if they had none",
    (torch.Tensor, "_post_accumulate_grad_hooks"): "the same",
    (torch.fx.Graph(), "_root"): "insert inputs before the first node of the graph",
}
"""Private attributes of their objects, and what to do if one is gone."""

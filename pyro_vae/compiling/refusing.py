"""Raises, while a program is traced, where Python reads the value of a tensor.

A graph always repeats the operations that were recorded. If Python decides something from the value
of a tensor, the graph would repeat that decision for every other value. :class:`RefusingMode`
raises :class:`CompileError` instead, with the line of the program.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.util import warn_if_inf, warn_if_nan
from torch import Tensor
from torch.distributions import Distribution
from torch.overrides import TorchFunctionMode

from ..errors import InputError
from .origins import OWN, PYRO, USER, line_of, whose
from .private import (
    CONSTRAINT_CHECK,
    Dice,
    FakeTensor,
    TorchDispatchMode,
    get_proxy_mode,
    tree_leaves,
    tree_map,
)


class CompileError(InputError):
    """One graph cannot represent the program; the message names the line."""


class EagerReason(Exception):
    """The program must run eagerly; the message gives the reason."""


DATA: Any = Tensor.data
GRAD: Any = Tensor.grad
VERSION: Any = Tensor._version
# These functions give Python the value of a tensor; while tracing, a tensor has no value.
VALUE_READS = {
    Tensor.__bool__: "a branch on a tensor",
    Tensor.__contains__: "`in` on a tensor",
    Tensor.__float__: "float(tensor)",
    Tensor.__int__: "int(tensor)",
    Tensor.__index__: "a tensor as a Python index",
    Tensor.__complex__: "complex(tensor)",
    Tensor.__array__: "a NumPy array of a tensor",
    Tensor.numpy: "tensor.numpy()",
    Tensor.tolist: "tensor.tolist()",
    Tensor.is_nonzero: "tensor.is_nonzero()",
    Tensor.equal: "tensor.equal()",
    Tensor.allclose: "tensor.allclose()",
    Tensor.__format__: "the text of a tensor",
    Tensor.__repr__: "the text of a tensor",
    DATA.__set__: "an assignment to tensor.data",
    torch.is_nonzero: "torch.is_nonzero",
    torch.equal: "torch.equal",
    torch.allclose: "torch.allclose",
}
# These change from step to step and are no operation of a graph. This library compares versions of
# weights within one call, where they do not change.
BOOKS = {GRAD.__get__: "tensor.grad", VERSION.__get__: "tensor._version"}
IS_LEAF: Any = Tensor.is_leaf
GRAD_FN: Any = Tensor.grad_fn
# These belong to the object that holds the numbers. A tensor of a graph is another one.
OBJECT = {
    IS_LEAF.__get__: "tensor.is_leaf",
    GRAD_FN.__get__: "tensor.grad_fn",
    Tensor.storage_offset: "tensor.storage_offset()",
    Tensor.data_ptr: "tensor.data_ptr()",
    Tensor.untyped_storage: "tensor.untyped_storage()",
    Tensor._is_view: "tensor._is_view()",
}
DICE = Dice.compute_expectation.__code__
# Pyro and torch branch on tensors, too. Most of these branches check values; the eager call before
# has passed them, so while tracing each gets the answer with which it passes. `loss_and_grads`
# checks each loss for NaN again. Dice asks whether a term has no zeros; "no" is always correct.
ANSWERS = {
    DICE: False,
    warn_if_nan.__code__: False,
    warn_if_inf.__code__: False,
    Distribution.__init__.__code__: True,
    Distribution._validate_sample.__code__: True,
    getattr(CONSTRAINT_CHECK, "__code__", None): True,
}


class RefusingMode(TorchFunctionMode):
    """Sees each torch function while a program is traced.

    ``item`` returns a tensor, ``backward`` is collected and done at the end, and a function that
    gives Python a value raises :class:`CompileError`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Tensor] = []
        self.turns: Counter[FrameType] = Counter()  # of each loop over a sequential plate
        self.ranges: list[Tensor] = []  # the indices of whole plates
        self.literals: list[Tensor] = []  # tensors of Python numbers, whose values do not change

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.item:
            index = self.plate_index(calling_frame(), args[0])
            return as_number(args[0]) if index is None else index
        if func is Tensor.backward:
            weight = dict(enumerate(args)).get(1, (kwargs or {}).get("gradient"))
            self.losses.append(args[0] if weight is None else (args[0] * weight).sum())
            return None
        if func == DATA.__get__:  # tensor.data would not be recorded; detach() is the same here
            return args[0].detach()
        if func in (Tensor.__bool__, Tensor.register_hook, Tensor.masked_select):
            code = calling_frame().f_code
            if code is DICE and func is Tensor.masked_select:
                return torch.where(args[1], args[0], 0)  # equal sum, known shape
            if code in ANSWERS:
                return ANSWERS[code]
        if func is Tensor.random_ and len(args) > 2:
            raise CompileError("tensor.random_(low, high), unlike torch.randint(low, high, size)")
        if func in VALUE_READS:
            raise CompileError(VALUE_READS[func])
        if func in BOOKS and not calling_frame().f_code.co_filename.startswith(OWN):
            raise EagerReason(f"{line_of(sys._getframe(1))} reads {BOOKS[func]}")
        if func in OBJECT and is_users(calling_frame()):
            raise EagerReason(f"{line_of(sys._getframe(1))} reads {OBJECT[func]}")
        generators = [*args, *(kwargs or {}).values()]
        if any(isinstance(x, torch.Generator) for x in generators):
            raise EagerReason(f"{line_of(sys._getframe(1))} draws from a generator of its own")
        result = func(*args, **(kwargs or {}))
        if func is torch.arange and calling_frame().f_code.co_filename.startswith(PYRO):
            self.ranges.append(result)
        if func is torch.tensor:
            self.literals.append(result)
        note_line(line_of(sys._getframe(1)))
        return result

    def plate_index(self, frame: FrameType, value: Tensor) -> int | None:
        """The index of a sequential plate's loop, if the plate calls ``item``; else None.

        Each turn of the loop becomes a part of the graph of its own, so its index must be an int.
        """
        if frame.f_code is not IndepMessenger.__iter__.__code__:
            return None
        plate = frame.f_locals["self"]
        if not any(plate.indices is known for known in self.ranges):
            raise EagerReason(
                f"the sequential plate {plate.name!r} takes a random subsample, or was made before"
            )
        self.turns[frame] += 1
        return self.turns[frame] - 1

    def gradients(self) -> tuple[list[Tensor], list[Tensor]]:
        """The leaves that ``backward`` reaches, and the gradient of each."""
        nodes: list[Any] = [loss.grad_fn for loss in self.losses]
        seen: dict[Any, None] = {}
        while nodes:
            node = nodes.pop()
            if node is not None and node not in seen:
                seen[node] = None
                nodes += [parent for parent, _ in node.next_functions]
        # Among autograd's nodes only those of leaves have a `variable`, the leaf itself.
        leaves = [node.variable for node in seen if hasattr(node, "variable")]
        if not leaves:
            raise EagerReason("there is no parameter to train")
        gradients = torch.autograd.grad(self.losses, leaves, allow_unused=True)
        reached = [(p, g) for p, g in zip(leaves, gradients, strict=True) if g is not None]
        # An optimizer may write into a gradient: each needs its own memory and the strides of its
        # parameter.
        own = [torch.empty_like(p).copy_(g) if aliased(g, p) else g for p, g in reached]
        return [p for p, _ in reached], own


class Dispatches(TorchDispatchMode):
    """Sees each operation of torch while a program is traced, below the functions of Python.

    It refuses what Python cannot see: torch itself reads the value of a 0-dim tensor. ``x[:t]``,
    ``torch.full(size, t)`` and ``alpha=t`` do so. While tracing, the programs' inputs have no
    values, but the tensors that they find elsewhere, and constants made of them, do. A tensor that
    the programs make of a Python number may be read.

    It keeps what the programs find from being written. ``buffer.add_(1.0)``, which has no tensor
    without data among its arguments, would change the buffer while it is recorded. So such an
    operation gets views of its tensors, and a view that is made while tracing has no data.
    """

    def __init__(self, literals: list[Tensor]) -> None:
        super().__init__()
        self.literals = literals

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        reads = func is torch.ops.aten._local_scalar_dense.default
        if reads and not any(args[0] is literal for literal in self.literals):
            raise CompileError("torch reads the value of a tensor as a Python number")
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if not func._schema.is_mutable or any(isinstance(x, FakeTensor) for x in tensors):
            return func(*args, **kwargs)
        views = {id(x): torch.ops.aten.alias.default(x) for x in tensors}
        args, kwargs = tree_map(lambda x: views.get(id(x), x), (args, kwargs))
        own = {id(views[id(x)]): x for x in tensors}
        return tree_map(lambda x: own.get(id(x), x), func(*args, **kwargs))


def as_number(t: Tensor) -> Tensor:
    """What stands for ``t.item()``: a tensor. An integer of Python does not overflow at 255."""
    value = t.detach().reshape(())
    exact = value.dtype.is_floating_point or value.is_complex() or value.dtype == torch.bool
    return value if exact else value.long()


@contextmanager
def without_keys() -> Iterator[None]:
    """Refuse, while tracing, that a program looks a tensor up in a dict or a set.

    A tensor is found by its identity. The number that it stands for would be found by its value.
    """
    plain: Any = Tensor.__hash__

    def hashed(tensor: Tensor) -> int:
        if isinstance(tensor, FakeTensor) and is_users(sys._getframe(1)):
            raise CompileError("a tensor as the key of a dict or an element of a set")
        return plain(tensor)

    Tensor.__hash__ = hashed  # type: ignore[method-assign]
    try:
        yield
    finally:
        Tensor.__hash__ = plain  # type: ignore[method-assign]


def calling_frame() -> FrameType:
    """The frame that called the torch function that the mode sees."""
    frame: FrameType = sys._getframe(2)
    while frame.f_code.co_filename in (torch.overrides.__file__, torch._tensor.__file__):
        assert frame.f_back is not None
        frame = frame.f_back
    return frame


def is_users(frame: FrameType) -> bool:
    """Whether a frame is of the user's code."""
    own = frame.f_code.co_filename.startswith(OWN)
    return whose(frame.f_code, frame.f_globals) is USER and not own


def aliased(gradient: Tensor, leaf: Tensor) -> bool:
    """Whether a gradient is a view, or has other strides than its parameter."""
    return gradient._is_view() or gradient.stride() != leaf.stride()


def note_line(line: str) -> None:
    """Note the user's line at the newest nodes of the graph that is being traced."""
    # Torch's mode is None outside of tracing, and only some of its modes have a tracer.
    tracer: Any = getattr(get_proxy_mode(), "tracer", None)
    for node in reversed(tracer.graph.nodes if tracer is not None else []):
        if "line" in node.meta:
            break
        node.meta["line"] = line

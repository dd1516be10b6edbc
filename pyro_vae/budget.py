"""Refuse tensors that do not fit into memory, before torch allocates them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from .errors import InputError
from .memory import total_memory

MOST = 100_000
"""The number of operations that may build a VAE; most take some hundreds, a flow prior 7,000."""

PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)


class Budget(TorchDispatchMode):
    """A context in which an operation is refused if its result does not fit into memory.

    A formula for the size of a VAE would have to know all networks and parts, and those of the
    user. This context looks at each operation of torch, and asks torch for the size of its result
    on the device "meta", which holds no memory.

    Args:
        what: the subject of the error message.
        limit: bytes that all new tensors together may have; None for the memory of this machine.

    Raises:
        InputError: a result, or all new tensors together, do not fit.

    Example:
        >>> with Budget("this layer"):
        ...     layer = torch.nn.Linear(10**6, 10**9)
        Traceback (most recent call last):
        pyro_vae.errors.InputError: this layer needs at least 4,000,000.0 GB of memory, ...
    """

    def __init__(self, what: str, limit: int | None = None) -> None:
        super().__init__()
        self.what = what
        self.memory = total_memory()
        self.limit = self.memory if limit is None else min(limit, self.memory)
        self.made, self.count = 0.0, 0
        self.refusal: InputError | None = None

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operation imports torch's compiler, which takes seconds

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        self.count += 1
        if self.count > MOST:
            self.refuse(f"more than {MOST:,} operations; give fewer layers")
        if not func.is_view and not func._schema.is_mutable:  # these two take no new memory
            given = list(leaves([*args, *options.values()]))
            tensors = sorted(t.numel() for t in given if isinstance(t, Tensor))
            numbers = math.prod(n for n in given if type(n) is int and n > 1)
            # No operation gives more numbers than this, and none of torch's takes 16 bytes each.
            most = 16 * numbers * math.prod(tensors[-2:])
            if tensors and most > self.memory:
                self.check(result_size(func, args, options), self.memory)
            elif not tensors:
                self.made += most if most < 1e6 else result_size(func, args, options)
                self.check(self.made, self.limit)
        return func(*args, **options)

    def check(self, size: float, limit: int) -> None:
        """Refuse an operation if ``size`` is above ``limit``."""
        if size > limit:
            needs = f"at least {size / 1e9:,.1f}" if size < math.inf else "more than 1,000,000,000"
            self.refuse(
                f"{needs} GB of memory, and there are {limit / 1e9:,.1f} GB for it; give fewer or "
                "smaller ones"
            )

    def refuse(self, needs: str) -> NoReturn:
        self.refusal = InputError(f"{self.what} needs {needs}")
        raise self.refusal

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        super().__exit__(kind, error, trace)
        if error is None and self.refusal is not None:  # a trial run ignores an InputError
            raise self.refusal


def leaves(values: Any) -> Iterator[Any]:
    """The tensors and numbers in nested lists of arguments."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from leaves(value)
        else:
            yield value


def result_size(func: Any, args: Sequence[Any], options: dict[str, Any]) -> float:
    """The bytes of an operation's result, ∞ if torch cannot count them."""
    if func in PRODUCTS:  # torch would import its compiler for them
        a, b = args[-2:]
        return a.shape[0] * b.shape[1] * a.element_size()
    where = {"device": torch.device("meta")} if "device" in options else {}
    try:
        args, options = tree_map_only(Tensor, without_memory, (tuple(args), options))
        result = func(*args, **{**options, **where})
    except Exception as error:  # an operation that reads values gives no more than it reads
        return math.inf if "overflow" in str(error).lower() else 0
    return sum(t.numel() * t.element_size() for t in leaves([result]) if isinstance(t, Tensor))


def without_memory(tensor: Tensor) -> Tensor:
    """A tensor on the device "meta" with the shape and the type of ``tensor``."""
    shape, stride = tensor.shape, tensor.stride()
    return torch.empty_strided(shape, stride, dtype=tensor.dtype, device="meta")

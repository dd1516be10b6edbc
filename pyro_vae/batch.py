"""A batch: what model and guide are called with, and how many rows it has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from .compiling import arguments
from .errors import InputError


@dataclass(frozen=True, eq=False)
class Batch:
    """The arguments of model and guide for some rows.

    A row is one observation. The first dimension of each tensor counts the rows.

    Args:
        args, kwargs: the arguments that hold the rows.
        further: further arguments by name, the same for all rows.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    further: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: Any, further: Mapping[str, Any] | None = None) -> Batch:
        """A batch from what a data set gives.

        Args:
            batch: a tensor is ``model(x)``, a tuple or a list is ``model(*batch)``, and a dict is
                ``model(**batch)``. A Batch keeps its rows.
            further: further arguments by name.

        Raises:
            InputError: there is no tensor that counts the rows, or an argument is there twice.

        Example:
            >>> from pyro_vae.batch import Batch
            >>> len(Batch.of((torch.zeros(5, 2), torch.zeros(5))))
            5
        """
        if isinstance(batch, Batch):
            made = replace(batch, further=further) if further else batch
        else:
            made = cls(*arguments(batch), further or {})
        if made.counted() is None:
            raise InputError(
                "a batch is a tensor, or a tuple or a dict of tensors, whose first dimension "
                f"counts the rows, not a {type(batch).__name__}"
            )
        if twice := made.kwargs.keys() & made.further.keys():
            raise InputError(f"the argument {min(twice)!r} is in the data and in kwargs; give one")
        return made

    def masked(self) -> Batch:
        """The batch with a mask of what was observed, if x, its first argument, has NaN and no mask
        comes with it. The mask is the third argument of the programs, ``mask``."""
        x = self.args[0] if self.args else self.kwargs.get("x")
        if not isinstance(x, Tensor) or "mask" in self.named or len(self.args) > 2:
            return self
        if not x.isnan().any():
            return self
        if len(self.args) == 2:
            return replace(self, args=(*self.args, ~x.isnan()))
        return replace(self, args=(), kwargs={"x": x, **self.kwargs, "mask": ~x.isnan()})

    def tensors(self) -> list[Tensor]:
        """The tensors that hold the rows."""
        leaves, _ = tree_flatten((self.args, dict(self.kwargs)))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def counted(self) -> Tensor | None:
        """The tensor whose first dimension counts the rows."""
        return next((each for each in self.tensors() if each.dim() > 0), None)

    def first_tensor(self) -> Tensor:
        """The tensor that counts the rows. New tensors are made like it."""
        found = self.counted()
        assert found is not None  # of() has refused the others
        return found

    def __len__(self) -> int:
        return len(self.first_tensor())

    @property
    def device(self) -> torch.device:
        """The device of the rows."""
        return self.first_tensor().device

    @property
    def named(self) -> dict[str, Any]:
        """All arguments by name."""
        return {**self.kwargs, **self.further}

    def zeros(self, *shape: int) -> Tensor:
        """Zeros on the device of the rows, of their type if this is one of real numbers."""
        real = (each.dtype for each in self.tensors() if each.is_floating_point())
        dtype = next(real, torch.get_default_dtype())
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def map(self, function: Any) -> Batch:
        """The batch with ``function`` applied to each tensor that holds the rows."""

        def apply(leaf: Any) -> Any:
            return function(leaf) if isinstance(leaf, Tensor) else leaf

        args, kwargs = tree_map(apply, (self.args, dict(self.kwargs)))
        return replace(self, args=args, kwargs=kwargs)

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        return self.map(lambda leaf: leaf.to(device, non_blocking=True))

    def cut(self, start: int, stop: int) -> Batch:
        """Some of the rows. A tensor without rows stays whole."""
        count = len(self)

        def part(leaf: Tensor) -> Tensor:
            return leaf[start:stop] if leaf.dim() > 0 and len(leaf) == count else leaf

        return self.map(part)

    def split(self, size: int) -> Iterator[Batch]:
        """The rows in order, at most ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.cut(start, start + size) if len(self) > size else self

    def shapes(self) -> list[Any]:
        """What a compiled step depends on: the shape and the type of each tensor."""
        return [(each.shape, each.dtype) for each in self.tensors()]

"""The processes that train together: which images each of them has, and what they tell each other.

gloo serves CPUs. NCCL serves GPUs; that path has not been run on GPUs yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import InputError, RankError
from .alive import UNKNOWN, Watch
from .draws import draw
from .rows import OwnRows


class Sum(torch.autograd.Function):
    """The sum of a tensor over all processes.

    A loss of the whole training is the sum of the losses of the processes. So the gradient of a sum
    is the sum of the gradients.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        # These operations, unlike dist.all_reduce, can be a part of a compiled graph.
        ops: Any = torch.ops._c10d_functional
        group: Any = dist.group.WORLD
        return ops.wait_tensor(ops.all_reduce(x.contiguous(), "sum", group.group_name))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return Sum.apply(gradient)


class Ranks(OwnRows):
    """The processes of a training, seen from one of them.

    Attributes:
        watch: the signs of life of the processes, inside :func:`.joining.joined`; else None.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        super().__init__(rank, size)
        self.watch: Watch | None = None

    def whole(self, x: Tensor, dim: int = 0) -> Tensor:
        if not self.split:
            return x
        before, after = list(x.shape), list(x.shape)
        before[dim], after[dim] = self.start, self.images - self.stop
        return self.sum(torch.cat([x.new_zeros(before), x, x.new_zeros(after)], dim))

    def sum(self, x: Tensor) -> Tensor:
        result: Any = Sum.apply(x) if self.split else x
        return result

    def draw(self, fn: Any) -> Tensor:
        return draw(self, fn, len(fn.batch_shape) - 1) if self.split else fn()

    def total(self, losses: Tensor) -> Tensor:
        """The losses of steps, summed over the processes."""
        if self.size > 1:
            dist.all_reduce(losses)
        return losses

    def largest(self, number: int) -> int:
        """The largest of a number of each process."""
        if self.size == 1:
            return number
        found = torch.tensor([number])
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def from_first(self, compute: Callable[[], Any]) -> Any:
        """What the process 0 computes. The others wait for it."""
        if self.size == 1:
            return compute()
        found = [compute() if self.first else None]
        dist.broadcast_object_list(found, device=torch.device("cpu"))
        return found[0]

    def follow_first(self, tensors: Iterable[Tensor]) -> None:
        """Fill tensors with those of the process 0."""
        for tensor in tensors if self.size > 1 else ():
            value = tensor.detach().contiguous()
            dist.broadcast(value, 0)
            tensor.detach().copy_(value)

    def check_equal(self, values: Mapping[str, Any]) -> None:
        """Raise :class:`~pyro_vae.errors.InputError` unless all processes have the same values.

        Args:
            values: what is compared, by its name in the error.
        """
        if self.size == 1:
            return
        others: list[Any] = [None] * self.size
        dist.all_gather_object(others, dict(values))
        for name in values:
            for rank, other in enumerate(others):
                if other[name] != others[0][name]:
                    raise InputError(
                        f"all processes train with the same {name}, and process 0 has "
                        f"{others[0][name]!r:.100} and process {rank} has {other[name]!r:.100}; "
                        "start them with the same command, on the same data"
                    )


def current() -> Ranks:
    """The processes of ``torch.distributed``; this one alone where it is not initialised."""
    if not (dist.is_available() and dist.is_initialized()):
        return Ranks()
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    ranks.watch = WATCHES[-1] if WATCHES else None
    return ranks


WATCHES: list[Watch] = []
"""That of :func:`.joining.joined`, inside this context."""


@contextmanager
def loss_told(ranks: Ranks) -> Iterator[None]:
    """Turn the error of a broken connection between processes into a RankError.

    Raises:
        RankError: a process ended or cannot be reached.
    """
    try:
        yield
    except RuntimeError as error:
        words = ("gloo", "NCCL", "Connection", "Broken pipe", "Socket")
        broken = isinstance(error, dist.DistError) or any(word in str(error) for word in words)
        if ranks.size == 1 or not broken:
            raise
        raise RankError(UNKNOWN if ranks.watch is None else ranks.watch.lost()) from error

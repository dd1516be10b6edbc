"""Which rows of a batch one of several processes has."""

from __future__ import annotations

from torch import Tensor

from ..sharing import Rows


class OwnRows(Rows):
    """The rows of one of several processes.

    A batch of B rows is cut into the rows ``B r // size`` to ``B (r + 1) // size`` of the process
    r. The process 0 takes a batch with fewer rows than processes alone.

    Args:
        rank: the number of this process, from 0.
        size: the number of processes.

    Attributes:
        images: the rows of the batch.
        start, stop: the rows of this process.
        state: while :func:`.trial.checked` looks, the state of torch's random numbers after the
            last draw that was split; else None.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self.images = self.start = self.stop = 0
        self.state: int | None = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and shows numbers."""
        return self.rank == 0

    def begin(self, images: int) -> slice:
        """Begin a batch of so many rows; those of this process."""
        self.images = images
        if images >= self.size:
            self.start = images * self.rank // self.size
            self.stop = images * (self.rank + 1) // self.size
        else:
            self.start, self.stop = 0, images if self.first else 0
        return slice(self.start, self.stop)

    @property
    def split(self) -> bool:  # type: ignore[override]
        return self.size > 1 and self.images >= self.size

    def own(self, x: Tensor, dim: int = 0) -> Tensor:
        return x.narrow(dim, self.start, self.stop - self.start) if self.split else x

    def count(self, rows: int) -> int:
        return rows // (self.stop - self.start) * self.images if self.split else rows

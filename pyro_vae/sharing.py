"""The rows of a batch, for the parts that look across them."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class Rows:
    """The rows of a batch, one for each image, which are all in this process.

    Batch normalization and the objectives with a term for the whole batch compute through these
    methods. :class:`~pyro_vae.ranks.Ranks` overrides them where several processes share a batch.
    """

    split = False
    """Whether other processes have images of this batch, too."""

    def whole(self, x: Tensor, dim: int = 0) -> Tensor:
        """The rows of all images of the batch, from the rows of the images of this process.

        Gradients flow back to the process that a row comes from.

        Args:
            x: one row for each image of this process.
            dim: the dimension of the images.
        """
        return x

    def own(self, x: Tensor, dim: int = 0) -> Tensor:
        """The rows of the images of this process, from the rows of all images."""
        return x

    def sum(self, x: Tensor) -> Tensor:
        """The sum of a tensor over the processes; gradients flow back to all of them."""
        return x

    def count(self, rows: int) -> int:
        """The number of rows in all processes, of which this process has ``rows``."""
        return rows

    def draw(self, fn: Any) -> Tensor:
        """A draw from a distribution whose batch shape is that of the images of this process."""
        return fn()


WHOLE = Rows()


class AcrossRows:
    """A part that looks across the rows of a batch, or draws for its rows outside of pyro.sample.

    It computes through ``self.batch``, so that several processes can share the rows.
    """

    batch: Rows = WHOLE
    """Where the rows of a batch are; :func:`~pyro_vae.ranks.refusing.shared` sets it."""

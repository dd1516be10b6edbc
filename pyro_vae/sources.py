"""Where the batches of an epoch come from: one contract, and the data that is in memory.

The loop of :func:`~pyro_vae.training.fit` sees data through :class:`Source` only. Data in memory is
a source of this module, so that an epoch can be a few compiled calls. Data that comes in batches
(a ``Dataset``, a ``DataLoader``) is a source of :mod:`~pyro_vae.streams`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from .batch import Batch
from .data import Images
from .data.labelled import HIDDEN
from .errors import InputError
from .history import Position
from .noise import EPOCH, seed_noise


@dataclass(frozen=True, eq=False)
class Piece:
    """One or more steps of an epoch, each with as many rows.

    Args:
        size: the rows of each step.
        rows: the numbers of the rows, ``[steps, size]``; None if they are not known.
        batch: what the step is taken on; None for data in memory, which is cut by ``rows``.
        own: whether ``batch`` has the rows of this process only.
    """

    size: int
    rows: Tensor | None = None
    batch: Any = None
    own: bool = False

    @property
    def count(self) -> int:
        """The number of rows in all steps."""
        return self.size if self.rows is None else self.rows.numel()

    def cut(self, own: slice) -> Piece:
        """Some of the rows of each step, for the process that takes them."""
        rows = None if self.rows is None else self.rows[:, own]
        batch, count = self.batch, own.stop - own.start
        if batch is not None:
            start = 0 if self.own else own.start
            batch = Batch.of(batch).cut(start, start + count)
        return Piece(count, rows, batch)

    def numbers(self, step: int) -> list[int]:
        """The numbers of the rows of one step, from 0; empty if they are not known."""
        return [] if self.rows is None else self.rows[step].tolist()


class Source:
    """The batches of each epoch, as a function of the seed and of the number of the epoch.

    Each piece holds the rows of whole batches, in the order of the training. Of several processes
    (:mod:`~pyro_vae.ranks`), each sees the whole batches and takes its rows by :meth:`Piece.cut`:
    the random numbers that rows are loaded with belong to their batch. A source that can load
    single rows (``own``) gives each process its own.

    Args:
        batch_size: rows in a step.
        rows: rows in an epoch; None if they are not known before its end.
        steps: steps in an epoch; None if they are not known.

    Attributes:
        labelled: the rows whose label is known; None if this is not known.
        skipped: the rows that :meth:`epoch` left out, where ``rows`` is None.
        own: the rows of this process in a batch of so many; None if one process trains.
    """

    own: Callable[[int], slice] | None = None
    labelled: int | None = None

    def __init__(self, batch_size: int, rows: int | None, steps: int | None) -> None:
        self.batch_size, self.rows, self.steps = batch_size, rows, steps
        self.skipped = 0

    def first(self) -> Any:
        """A batch like those of training, to try the programs on."""
        raise NotImplementedError

    def epoch(self, seed: int, epoch: int, done: int, together: int) -> Iterator[Piece]:
        """The pieces of an epoch.

        Args:
            seed: of the order.
            epoch: the number of the epoch, from 1.
            done: the steps of the epoch that are left out, because they are done.
            together: the most steps in a piece.
        """
        raise NotImplementedError

    def batch(self, piece: Piece) -> Any:
        """The batch of a piece of one step, as the programs take it."""
        return piece.batch


class InMemory(Source):
    """Tensors in memory: all rows in random order.

    If one batch holds all rows, they keep their order, because the programs may have parameters for
    each row.

    Args:
        data: a tensor, or a tuple or a dict of tensors, with one entry for each row.
        batch_size: as in :class:`Source`.
        prepare: a function from a stored batch to the batch that the programs take. It becomes a
            part of the compiled step.

    Raises:
        InputError: no rows, or tensors of different lengths.
    """

    def __init__(
        self, data: Any, batch_size: int, prepare: Callable[[Any], Any] | None = None
    ) -> None:
        lengths = {len(leaf) for leaf in tree_leaves(data)}
        if len(lengths) > 1:
            raise InputError(
                f"the tensors of the data have {' and '.join(map(str, sorted(lengths)))} rows; "
                "each needs one entry for each row (what is the same for all rows goes to kwargs)"
            )
        (count,) = lengths
        self.device = tree_leaves(data)[0].device
        if count == 0:
            raise InputError("there is nothing to train on: the data has no rows")
        self.data, self.count = data, count
        if isinstance(data, tuple | list) and len(data) > 1:
            self.labelled = known_labels(data[1])
        self.prepare = prepare
        self.shuffled = batch_size < count
        super().__init__(batch_size, count, steps_of_epoch(count, batch_size))

    def cut(self, index: Tensor) -> Any:
        """The rows at ``index``, as the programs take them."""
        batch = tree_map(lambda leaf: leaf.index_select(0, index), self.data)
        return batch if self.prepare is None else self.prepare(batch)

    def first(self) -> Any:
        device, count = self.device, min(self.batch_size, self.count)
        return self.cut(torch.arange(count, device=device))

    def draw(self) -> None:
        """What is drawn anew at each epoch, before the order."""

    def epoch(self, seed: int, epoch: int, done: int, together: int) -> Iterator[Piece]:
        seed_noise(self.device, seed, EPOCH, epoch)
        self.draw()
        arrange = torch.randperm if self.shuffled else torch.arange
        order = arrange(self.count, device=self.device)
        for rows in batches(order, self.batch_size, together, done):
            yield Piece(rows.shape[1], rows)

    def batch(self, piece: Piece) -> Any:
        assert piece.rows is not None
        return self.cut(piece.rows[0])


class ImagesInMemory(InMemory):
    """Images in memory, with their contexts and masks. ``dynamic`` pixels are drawn anew at each
    epoch.

    Args:
        images: the images.
        batch_size: as in :class:`Source`.
        dtype: the type of the programs' weights.
    """

    def __init__(self, images: Images, batch_size: int, dtype: torch.dtype | None) -> None:
        self.images = images
        with torch.random.fork_rng():
            torch.manual_seed(0)  # so that all processes try the programs on equal pixels
            # One place in memory for the pixels of all epochs, as a CUDA graph needs it.
            self.pixels = images.drawn().pixels
        data: Any = self.pixels
        if images.context is not None:
            data = tuple(t for t in (self.pixels, images.context, images.mask) if t is not None)
        elif images.mask is not None:
            data = {"x": self.pixels, "mask": images.mask}
        super().__init__(data, batch_size, partial(with_x, change=partial(as_float, dtype=dtype)))
        self.shuffled = True

    def draw(self) -> None:
        self.images.drawn(out=self.pixels)


def known_labels(context: Any) -> int | None:
    """How many rows have a known label or target, if a context is labels, int64 ``[N]``, or real
    targets, ``[N, n]``; else None."""
    if not isinstance(context, Tensor):
        return None
    if context.dim() == 2 and context.is_floating_point():
        return int((~context.isnan()).any(1).sum())
    labels = context.dim() == 1 and context.dtype == torch.int64
    return int((context != HIDDEN).sum()) if labels else None


def epochs_done(source: Source, position: Position) -> float:
    """The epochs that are done, with the part of the epoch that has begun; whole epochs if their
    length is not known."""
    part = len(position.losses) * source.batch_size / source.rows if source.rows else 0.0
    return position.epoch + part


def whole_batches(count: int, size: int) -> int:
    """The batches of ``size`` rows in an epoch; the rows that remain are one batch more.

    A single last row is added to the batch before it, because batch normalization and some
    objectives need two images.
    """
    whole = count // size
    return whole - (count - whole * size == 1 and whole > 0 and size > 1)


def steps_of_epoch(rows: int, batch_size: int) -> int:
    """How many steps an epoch has."""
    whole = whole_batches(rows, batch_size)
    return whole + (whole * batch_size < rows)


def batches(order: Tensor, size: int, together: int, done: int = 0) -> Iterator[Tensor]:
    """Cut the order of an epoch into batches, ``[together, size]`` at a time.

    A last batch of another size comes alone, ``[1, B]``.

    Args:
        order: the numbers of all rows.
        size, together: rows in a batch, and batches that come together.
        done: the number of batches to leave out, because their steps are done.
    """
    whole = whole_batches(len(order), size)
    if done < whole:
        yield from order[done * size : whole * size].view(-1, size).split(together)
    if done <= whole and whole * size < len(order):
        yield order[None, whole * size :]


def as_float(pixels: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Stored pixels as numbers in [0, 1]; uint8 is divided by 255.

    ``dtype`` is the type of the result; None leaves it as it is.
    """
    return (pixels / 255 if pixels.dtype == torch.uint8 else pixels).to(dtype)


def with_x(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A batch with ``x`` changed: a tensor x, a tuple whose first entry is x, or a dict."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, dict):
        return {**batch, "x": change(batch["x"])}
    return (change(batch[0]), *batch[1:])

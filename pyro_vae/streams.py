"""Data that comes in batches: a torch ``Dataset``, map-style or iterable, or a ``DataLoader``.

Only some batches are in memory at a time, so that the data can be larger than memory.

- **Map-style data** (``dataset[i]``): the order of the rows is a function of (seed, epoch), and the
  random numbers that a row is loaded with, for instance by an augmentation, are a function of
  (seed, epoch, batch). So training that stops and goes on is exact, with any number of workers, if
  the random numbers are those of torch, NumPy or Python. Of several processes, each loads the whole
  batches, except for :class:`~pyro_vae.data.StoredImages`: their drawn pixels are a function of
  (seed, epoch, batch, row), and each process loads its own rows.
- **Iterable data** is read from its beginning at each epoch, and once more before the first one,
  and batches whose steps are done are read and dropped. So training that goes on is exact only if
  the iterable gives the same batches each time it begins under the same random numbers.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, Sampler

from .batch import Batch
from .data import Images, StoredImages
from .errors import InputError
from .noise import Randomness
from .sources import ImagesInMemory, InMemory, Piece, Source, batches, steps_of_epoch

ORDER, LOADING = 0, 1
"""What random numbers are for: the order of an epoch, and the rows of one of its batches."""
END = object()


def apart(loader: Iterable[Any], *key: int) -> Iterator[Any]:
    """What an iterable gives, drawn with :class:`Randomness` of its own."""
    randomness = Randomness(*key)
    with randomness.used():
        iterator = iter(loader)
    while True:
        with randomness.used():
            batch = next(iterator, END)
        if batch is END:
            return
        yield batch


@dataclass(frozen=True)
class Asked:
    """A batch that is to be loaded: its rows, and the key of its random numbers."""

    rows: list[Any]
    key: tuple[int, ...]


class Rows(Dataset[Any]):
    """A map-style data set that loads a whole :class:`Asked` batch, in any process."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitems__(self, asked: Asked) -> Any:
        """What torch calls for a batch; ``__getitems__`` is its protocol for whole batches."""
        many = getattr(type(self.dataset), "__getitems__", None)
        with Randomness(*asked.key).used():
            if many is not None:
                return many(self.dataset, asked.rows)
            return [self.dataset[row] for row in asked.rows]


class Shuffled(Sampler[list[int]]):
    """The batches of all rows in random order; in their own order if one batch holds all rows."""

    def __init__(self, count: int, batch_size: int) -> None:
        self.count, self.batch_size = count, batch_size

    def __len__(self) -> int:
        return steps_of_epoch(self.count, self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        arrange = torch.randperm if self.batch_size < self.count else torch.arange
        for rows in batches(arrange(self.count), self.batch_size, 1):
            yield rows[0].tolist()


class Loaded(Source):
    """The batches of a ``DataLoader`` over a map-style data set. Its sampler decides the order.

    Args:
        loader: the loader. Its workers, its ``collate_fn`` and its sampler are used. If the sampler
            has a generator, the generator is seeded at each epoch.
        device: where the programs are.
        by_row: whether a row does not depend on the other rows that are loaded with it, so that
            each of several processes may load its own.
        masked: as in :func:`source_of`.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        device: torch.device | None,
        by_row: bool = False,
        masked: bool = False,
    ) -> None:
        self.sampler, self.device, self.by_row = loader.batch_sampler, device, by_row
        self.masked = masked
        self.generators = [
            found
            for each in (loader, loader.sampler)
            if isinstance(found := vars(each).get("generator"), torch.Generator)
        ]
        self.distributed = loader.sampler
        self.asked: list[Asked] = []
        workers = loader.num_workers
        self.loader: DataLoader[Any] = DataLoader(
            Rows(loader.dataset),
            batch_sampler=self.asked,  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context if workers else None,
            generator=torch.Generator(),
            prefetch_factor=loader.prefetch_factor,
            persistent_workers=loader.persistent_workers,
        )
        first = self.order(0, 1)
        if not first:
            raise InputError("there is nothing to train on: the data has no rows")
        self.rows_tried = first[0]
        self.trial: Batch | None = None
        super().__init__(len(first[0]), sum(map(len, first)), len(first))

    def order(self, seed: int, epoch: int) -> list[list[Any]]:
        """The rows of each batch of an epoch."""
        randomness = Randomness(seed, epoch, ORDER)
        if isinstance(self.distributed, DistributedSampler):
            self.distributed.set_epoch(epoch)
        with randomness.used():
            for generator in self.generators:
                generator.manual_seed(int(torch.randint(2**63 - 1, ())))
            return [list(rows) for rows in self.sampler or ()]

    def load(self, asked: Sequence[Asked]) -> Iterator[Any]:
        """Load batches, in workers if the loader has some."""
        self.asked[:] = asked
        try:
            yield from self.loader
        except InputError as error:  # torch puts the traceback of another process before it
            raise InputError(str(error).rpartition("errors.InputError: ")[2].strip()) from None

    def first(self) -> Any:
        if self.trial is None:  # to start workers takes time, so it is loaded once
            (batch,) = self.load([Asked(self.rows_tried, (0, 0, LOADING))])
            self.trial = on_device(batch, self.device, self.masked)
        return self.trial

    def epoch(self, seed: int, epoch: int, done: int, together: int) -> Iterator[Piece]:
        order = self.order(seed, epoch)
        cut = self.own if self.by_row else None
        asked = []
        for i, rows in enumerate(order):
            # A process without rows loads one, so that its batch has the shape of a batch.
            own = rows if cut is None else rows[cut(len(rows))] or rows[:1]
            asked.append(Asked(own, (seed, epoch, LOADING, i)))
        for each, batch in zip(order[done:], self.load(asked[done:]), strict=True):
            known = all(isinstance(row, int) for row in each)
            numbers = torch.tensor([each]) if known else None
            yield Piece(
                len(each), numbers, on_device(batch, self.device, self.masked), cut is not None
            )


class Iterated(Source):
    """The batches of a ``DataLoader`` that cannot be asked for single rows.

    Args:
        loader: a loader over an ``IterableDataset``, or one whose data set gives whole batches.
        device: where the programs are.
        masked: as in :func:`source_of`.
    """

    def __init__(
        self, loader: DataLoader[Any], device: torch.device | None, masked: bool = False
    ) -> None:
        self.loader, self.device, self.masked = loader, device, masked
        data: Any = loader.dataset
        if isinstance(data, IterableDataset) and iter(data) is iter(data):
            raise InputError(
                f"the __iter__ of the data set {type(data).__name__} gives the same iterator each "
                "time, which can be read once, and fit reads the data at each epoch; let __iter__ "
                "make a new iterator"
            )
        batch = next(self.read(0, 1, 0), None)
        if batch is None:
            raise InputError("there is nothing to train on: the data has no rows")
        self.trial = batch
        super().__init__(len(Batch.of(batch)), None, None)

    def read(self, seed: int, epoch: int, done: int) -> Iterator[Any]:
        """The batches of an epoch from number ``done`` on."""
        self.skipped = 0
        for number, batch in enumerate(apart(self.loader, seed, epoch, ORDER)):
            if number < done:
                self.skipped += len(Batch.of(batch))
            else:
                yield on_device(batch, self.device, self.masked)

    def first(self) -> Any:
        return self.trial

    def epoch(self, seed: int, epoch: int, done: int, together: int) -> Iterator[Piece]:
        for batch in self.read(seed, epoch, done):
            yield Piece(len(Batch.of(batch)), None, batch)


def ignore_interrupts(worker: int) -> None:
    """What a process that reads does first: Ctrl-C reaches it too, and the training ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def on_device(batch: Any, device: torch.device | None, masked: bool) -> Batch:
    """A batch on the device of the programs; where it is if this is not known. If ``masked``, NaN
    in x makes a mask."""
    made = Batch.of(batch).masked() if masked else Batch.of(batch)
    return made if device is None else made.to(device)


def source_of(
    data: Any,
    batch_size: int,
    device: torch.device | None,
    dtype: torch.dtype | None,
    masked: bool = False,
) -> Source:
    """The source of the batches of any data that ``fit`` takes.

    Args:
        data: see :func:`~pyro_vae.training.fit`.
        batch_size: rows in a step, except for a ``DataLoader``, which has its own.
        device: the device of the programs' weights; None if they have none, and the data stays.
        dtype: the type of the programs' weights, for the pixels of Images; None leaves the type.
        masked: whether NaN in x makes a mask (:meth:`~pyro_vae.batch.Batch.masked`).

    Raises:
        InputError: data of another type, or without rows.
    """
    if isinstance(data, Images):
        return ImagesInMemory(data if device is None else data.to(device), batch_size, dtype)
    if isinstance(data, DataLoader):
        if isinstance(data.dataset, IterableDataset) or data.batch_sampler is None:
            return Iterated(data, device, masked)
        return Loaded(data, device, masked=masked)
    if isinstance(data, IterableDataset):
        return Iterated(DataLoader(data, batch_size), device, masked)
    if isinstance(data, Dataset):
        sampler = Shuffled(count_of(data), batch_size)
        workers = data.workers if isinstance(data, StoredImages) else 0
        loader = DataLoader(
            data, batch_sampler=sampler, num_workers=workers, worker_init_fn=ignore_interrupts
        )
        return Loaded(loader, device, by_row=isinstance(data, StoredImages), masked=masked)
    if tensors_of(data):
        moved = on_device(data, device, masked)
        return InMemory(moved.kwargs or moved.args, batch_size)
    raise InputError(
        "fit takes data as a tensor, a tuple or a dict of tensors, a torch Dataset or DataLoader, "
        "or a Data with its splits, which load_data gives (a NumPy array becomes a "
        f"tensor by torch.from_numpy), not a {type(data).__name__}"
    )


def tensors_of(data: Any) -> list[Tensor]:
    """The tensors of a tensor, or of a tuple, a list or a dict of tensors; else an empty list."""
    if isinstance(data, Tensor):
        return [data] if data.dim() > 0 else []
    several = data.values() if isinstance(data, dict) else data
    if not isinstance(data, tuple | list | dict):
        return []
    found = [each for each in several if isinstance(each, Tensor) and each.dim() > 0]
    return found if len(found) == len(data) else []


def count_of(dataset: Any) -> int:
    """The number of rows of a map-style data set.

    Raises:
        InputError: a data set that does not say how many rows it has.
    """
    try:
        return len(dataset)
    except (TypeError, NotImplementedError):
        raise InputError(
            f"the data set {type(dataset).__name__} has no length; give it a method __len__, or "
            "derive it from IterableDataset"
        ) from None

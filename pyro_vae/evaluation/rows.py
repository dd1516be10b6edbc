"""The rows that evaluation measures: any data, as batches of arguments of the programs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..batch import Batch
from ..data.images import Images
from ..errors import InputError
from ..modules import modules_of
from ..streams import apart

READ = 500
"""How many rows of a map-style data set are read at once."""


def batches_of(
    data: Any, size: int, seed: int, further: Mapping[str, Any] | None, *programs: Any
) -> Iterator[Batch]:
    """The rows in order, at most ``size`` at a time.

    Args:
        data: Images, a tensor, a tuple or a dict of tensors, a torch ``Dataset`` or ``DataLoader``.
            A loader gives its own order. Data that is not in memory is read batch by batch.
        size: how many rows a batch has at most.
        seed: of the draws of ``dynamic`` pixels, and of what a loader draws.
        further: further arguments of the programs, the same for all rows.
        programs: what is called with the rows. Images get the type of their weights, and rows that
            are read their device.

    Raises:
        InputError: no rows, or a program that does not take them.
    """
    empty = True
    for batch in read(data, size, seed, further, *programs):
        if empty:
            check_arguments(batch, *programs)
        empty = False
        yield from batch.split(size)
    if empty:
        raise InputError("there are no rows to evaluate on: the data is empty")


def read(
    data: Any, size: int, seed: int, further: Mapping[str, Any] | None, *programs: Any
) -> Iterator[Batch]:
    """The batches of :func:`batches_of`, not yet cut."""
    if isinstance(data, Images):
        yield from blocks(data, size, seed, *programs, further=further)
    elif isinstance(data, Dataset | DataLoader):
        weight = first_weight(*programs)
        loader = data if isinstance(data, DataLoader) else DataLoader(data, READ)
        for each in apart(loader, seed):
            batch = Batch.of(each, further)
            yield batch if weight is None else batch.to(weight.device)
    else:
        batch = Batch.of(data, further)
        if len(batch) > 0:
            yield batch


def blocks(
    images: Images,
    size: int,
    seed: int,
    *programs: Any,
    further: Mapping[str, Any] | None = None,
) -> Iterator[Batch]:
    """The images in order, at most ``size`` at a time, with their context and mask.

    ``dynamic`` pixels depend only on ``seed``. They are drawn for 500 images at a time and then
    cut, so every estimate with the same seed uses the same pixels.

    Args:
        images: the images.
        size: how many images a block has.
        seed: of the draws of pixels.
        programs: the pixels get the type of their weights. Without weights, and for functions,
            whose weights are not known, the pixels keep their own type.
        further: further arguments of the programs.
    """
    if len(images) == 0:
        raise InputError("there are no images to evaluate on: this split of the data set is empty")
    weight = first_weight(*programs)
    generator = torch.Generator(images.pixels.device).manual_seed(seed)
    for start in range(0, len(images), 500):
        batch = Batch.of(images.rows(slice(start, start + 500), generator), further)
        if start == 0:
            check_arguments(batch, *programs)
        if weight is not None:
            x, *context = batch.args
            batch = replace(batch, args=(x.to(weight.dtype), *context))
        yield from batch.split(size)


def with_labels(images: Images, what: str) -> tuple[Images, Tensor]:
    """The images whose label is known, and their labels ``[N]``.

    Args:
        images: images; a label of -1 is not known.
        what: what needs labels, as the subject of the error message.

    Raises:
        InputError: no image has a label.
    """
    known = None if images.labels is None else images.labels >= 0
    if known is None or images.labels is None or not known.any():
        raise InputError(f"{what} needs images with labels, and these have none")
    if known.all():
        return images, images.labels
    return images.subset(known.nonzero()[:, 0]), images.labels[known]


def rows_of(data: Any) -> int | None:
    """The number of rows; None if it is not known before they are read."""
    if isinstance(data, DataLoader | IterableDataset):
        return None
    if isinstance(data, Images | Dataset):
        return len(data)  # type: ignore[arg-type]
    return len(Batch.of(data))


def device_of(data: Any, *programs: Any) -> torch.device:
    """The device of the rows when they are measured."""
    if isinstance(data, Images):
        return data.pixels.device
    if isinstance(data, Dataset | DataLoader):
        weight = first_weight(*programs)
        return torch.device("cpu") if weight is None else weight.device
    return Batch.of(data).device


def share(done: float, rows: int | None) -> float:
    """The share of the rows that is done; 0 if their number is not known."""
    return 0.0 if rows is None else min(done / rows, 1.0)


def first_weight(*programs: Any) -> Tensor | None:
    """The first weight of the modules that the programs are, or are methods of; else None."""
    weights = (
        p for module in modules_of(programs) for p in module.parameters() if p.is_floating_point()
    )
    return next(weights, None)


def check_arguments(batch: Batch, *programs: Any) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` unless the programs can be called for a batch."""
    for program in programs:
        function = program.forward if isinstance(program, nn.Module) else program
        try:
            signature = inspect.signature(function)
        except ValueError:  # a function without a Python signature
            continue
        try:
            signature.bind(*batch.args, **batch.named)
        except TypeError:
            names = [*(f"argument {i}" for i in range(1, len(batch.args) + 1)), *batch.named]
            given = "one argument, the rows" if names == ["argument 1"] else ", ".join(names)
            raise InputError(
                f"a program is called with {given}, and this one takes {signature}; give a "
                "function of the rows that passes the other arguments, or give them in the data "
                "or in kwargs"
            ) from None

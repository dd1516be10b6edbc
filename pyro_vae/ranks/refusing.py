"""What several processes cannot share, refused in one sentence before the first step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DistributedSampler

from ..batch import Batch
from ..errors import InputError
from ..history import Position
from ..networks import BatchNorm
from ..objectives.terms import Checked
from ..pair import Pair
from ..settings import TrainingOptions
from ..sharing import AcrossRows
from ..sources import ImagesInMemory, InMemory, Source
from ..streams import Loaded
from .group import Ranks

SUMS = (Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO)
"""Pyro's ELBOs whose loss is a sum over the rows of a plate."""


def refuse(
    ranks: Ranks,
    pair: Pair,
    source: Source,
    elbo: ELBO,
    optimizer: Any,
    options: TrainingOptions,
    start: Position,
) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for what several processes cannot share.

    Args:
        ranks: the processes.
        pair: the model and the guide.
        source: where the batches come from.
        elbo: the objective.
        optimizer: the optimizer.
        options: how to train.
        start: where training goes on.
    """
    weights = [(name, list(p.shape)) for name, p in pair.named_parameters()]
    told = {name: described(value) for name, value in vars(options).items()}
    told |= {"batch size": source.batch_size, "objective": described(elbo)}
    told |= {"start": (start.epoch, len(start.losses)), "optimizer": described(optimizer)}
    ranks.check_equal({**told, "weights": weights, "data": checksum(source)})
    rows = min(source.batch_size, source.rows or source.batch_size)
    if rows < ranks.size:
        raise InputError(
            f"a batch of {rows} rows cannot be shared by {ranks.size} processes; give a larger "
            "batch size, or start fewer processes"
        )
    if isinstance(source, Loaded) and isinstance(source.distributed, DistributedSampler):
        raise InputError(
            "fit shares each batch of the DataLoader between the processes itself; give a loader "
            "of all rows, without DistributedSampler"
        )
    name = type(elbo).__name__
    alone = isinstance(elbo, Checked) and not (elbo.per_image or elbo.across_ranks)
    if alone or not (isinstance(elbo, Checked) or type(elbo) in SUMS):
        raise InputError(
            f"the loss of {name} is not known to be a sum over rows, so that several processes "
            "cannot share a batch; train in one process, or take another objective"
        )
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(
            "several processes add up their gradients before the step of one optimizer of torch, "
            f"and a {type(optimizer).__name__} has one for each parameter; take torch.optim"
        )
    for module in modules(pair):
        norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if norm and not isinstance(module, BatchNorm):
            raise InputError(
                f"a network has a {type(module).__name__} of torch, which would normalise the rows "
                "of each process by themselves; take pyro_vae.networks.BatchNorm for vectors or "
                "ChannelNorm for channels, which look at all of them, or train in one process"
            )


def described(value: Any, deep: int = 2) -> Any:
    """A value that can be compared with that of another process.

    Of an object, it is its class and its attributes, and of an optimizer of torch, its settings.

    Args:
        value: the value.
        deep: into how many objects within objects it looks.
    """
    if isinstance(value, int | float | str | bool | tuple | None):
        return value
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: described(each, deep) for key, each in value.items()}
    held: Any = getattr(value, "__dict__", {})
    if isinstance(value, torch.optim.Optimizer):
        held = {f"{k} {i}": v for i, g in enumerate(value.param_groups) for k, v in g.items()}
        held = {key: v for key, v in held.items() if not key.startswith("params ")}
    return type(value).__name__, {k: described(v, deep - 1) for k, v in held.items() if deep}


def checksum(source: Source) -> str:
    """A text that tells unequal data apart; of data that comes in batches, its first batch."""
    data: Any = Batch.of(source.first()).tensors()
    if isinstance(source, InMemory):
        data = source.data
        if isinstance(source, ImagesInMemory):
            data = source.images.tensors()
    digest = hashlib.blake2b(str(source.rows).encode(), digest_size=8)
    for leaf in tree_leaves(data):
        values: Tensor = leaf.detach().cpu().contiguous()
        digest.update(f"{values.dtype} {values.shape}".encode())
        digest.update(values.numpy().data)
    return digest.hexdigest()


def modules(pair: Pair) -> Iterator[nn.Module]:
    """All modules of the programs, with those inside."""
    for module in pair.modules:
        yield from module.modules()


@contextmanager
def shared(ranks: Ranks, pair: Pair, elbo: ELBO) -> Iterator[None]:
    """Let the parts that look across the rows of a batch see those of all processes."""
    parts = [part for part in (*modules(pair), elbo) if isinstance(part, AcrossRows)]
    before = [part.batch for part in parts]
    for part in parts:
        part.batch = ranks
    try:
        yield
    finally:
        for part, batch in zip(parts, before, strict=True):
            part.batch = batch

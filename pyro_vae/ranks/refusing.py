"""What several processes cannot share, refused in one sentence before the first step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import nn

from ..errors import InputError
from ..networks import BatchNorm
from ..objectives.terms import Checked, PerImage
from .draws import check_state, random_state
from .group import Ranks

SUMS = (Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO)
"""Pyro's ELBOs whose loss is a sum over the images of a plate."""


def refuse(ranks: Ranks, vae: nn.Module, elbo: ELBO, optimizer: Any, images: int) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for what several processes cannot share.

    Args:
        ranks: the processes.
        vae: the VAE.
        elbo: the objective.
        optimizer: the optimizer.
        images: the number of images in a batch.
    """
    if images < ranks.size:
        raise InputError(
            f"a batch of {images} images cannot be shared by {ranks.size} processes; give a larger "
            "batch size, or start fewer processes"
        )
    name = type(elbo).__name__
    alone = isinstance(elbo, Checked) and not (elbo.per_image or elbo.across_ranks)
    if alone or not (isinstance(elbo, Checked) or type(elbo) in SUMS):
        raise InputError(
            f"the loss of {name} is not known to be a sum over images, so that several processes "
            "cannot share a batch; train in one process, or take another objective"
        )
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(
            "several processes add up their gradients before the step of one optimizer of torch, "
            f"and a {type(optimizer).__name__} has one for each parameter; take torch.optim"
        )
    for where, module in vae.named_modules():
        norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if norm and not isinstance(module, BatchNorm):
            raise InputError(
                f"{where} is a {type(module).__name__}, which would normalise the images of each "
                "process by themselves; take pyro_vae.networks.BatchNorm, which looks at all of "
                "them, or train in one process"
            )


@contextmanager
def checked(ranks: Ranks, vae: nn.Module) -> Iterator[None]:
    """While the loss of a batch is computed once: look for what the processes would not share.

    Raises:
        InputError: random numbers that were not split, or a buffer that the programs change.
    """
    own = {id(b) for m in vae.modules() if isinstance(m, BatchNorm) for b in m.buffers()}
    before = [(n, b, b.clone()) for n, b in vae.named_buffers() if id(b) not in own]
    ranks.state = random_state()
    try:
        yield
        check_state(ranks)
    finally:
        ranks.state = None
    for name, buffer, value in before:
        if not torch.equal(buffer, value):
            raise InputError(
                f"the programs change the buffer {name}, which several processes would change in "
                "different ways; train in one process"
            )


@contextmanager
def shared(ranks: Ranks, vae: nn.Module, elbo: ELBO) -> Iterator[None]:
    """Let batch normalization and the objective see the images of all processes."""
    parts: list[Any] = [module for module in vae.modules() if isinstance(module, BatchNorm)]
    parts += [elbo] if isinstance(elbo, PerImage) else []
    before = [part.batch for part in parts]
    for part in parts:
        part.batch = ranks
    try:
        yield
    finally:
        for part, batch in zip(parts, before, strict=True):
            part.batch = batch

"""A batch is tried before training: shared by the processes, and whole in each of them.

The losses and the gradients of the processes have to add up to those of the whole batch. They do
if the loss is a sum over rows. A regulariser outside of the plate of the rows is counted once in
each process, and a mean over the rows of a process is not that over the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyro
import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ..batch import Batch
from ..errors import InputError
from ..networks import BatchNorm
from ..pair import Pair
from ..settings import LARGEST_SEED
from .draws import random_state
from .exchange import Share
from .group import Ranks
from .refusing import modules, shared


def try_share(ranks: Ranks, pair: Pair, elbo: ELBO, batch: Batch, begins: bool, seed: int) -> None:
    """Compute the loss of a batch, shared and whole, from the weights of the process 0.

    Args:
        ranks, pair, elbo: as for :func:`.refusing.refuse`.
        batch: a batch like those of training.
        begins, seed: as for :meth:`Pair.tried() <pyro_vae.pair.Pair.tried>`.

    Raises:
        InputError: random numbers that cannot be shared, a buffer that the programs change, or
            losses or gradients that do not add up to those of the whole batch.
    """
    ranks.follow_first((*pair.parameters(), *pair.buffers()))
    own = ranks.begin(len(batch))
    rows, share = batch.cut(own.start, own.stop), Share(elbo, ranks)
    alone = Ranks()
    alone.begin(len(batch))
    with (
        pyro.validation_enabled(),
        pair.tried(True, begins, batch, seed),
        shared(ranks, pair, elbo),
    ):
        # This call finds out how many plates there are, and draws for it.
        share.loss(pair.model, pair.guide, *rows.args, **rows.named)
    # A second seed, because rounding may change a discrete draw.
    for number in (seed, LARGEST_SEED - seed):
        with pair.tried(True, begins, batch, number), shared(ranks, pair, elbo):
            with checked(ranks, pair):
                ours = measured(share, pair, rows)
            drawn = random_state()
        with pair.tried(True, begins, batch, number):
            whole = measured(Share(elbo, alone), pair, batch)
            drawn_alone = random_state()
        if ranks.largest(int(drawn != drawn_alone)):
            raise InputError(
                "a part draws random numbers for its rows outside of pyro.sample, such as dropout, "
                "and several processes cannot share them; take a part without them, or train in "
                "one process"
            )
        what = unequal(ranks, ours, whole, tolerance(pair, batch))
        if not ranks.largest(int(bool(what))):
            return
    what = ranks.from_first(lambda: what or "losses")  # random numbers may differ in either
    raise InputError(
        f"the {what} of {ranks.size} processes do not add up to that of the whole "
        "batch, because something in the programs is not a sum over rows, such as pyro.factor or "
        "an observed site outside the plate of the rows, a scale or a mean that depends on the "
        "batch, or a random number that is not of torch; put it into the plate, or train in one "
        "process"
    )


def unequal(ranks: Ranks, ours: Measured, whole: Measured, share: float) -> str:
    """What of the processes does not add up to that of the whole batch; "" if all does.

    The loss is compared with the sum of the magnitudes of its terms, and the gradient with the sum
    of its norms in the processes, because both may be close to 0 where large terms cancel.

    Args:
        ranks: the processes.
        ours: the loss of this process, and its gradient.
        whole: those of the whole batch.
        share: the largest difference that is rounding, as a share of these sums.
    """
    loss = ranks.total(ours.loss.clone())
    gradient = ranks.total(ours.gradient.clone())
    norm = ranks.total(ours.gradient.norm())
    if (loss - whole.loss).abs() > share * whole.terms:
        return "losses"
    return "gradients" if (gradient - whole.gradient).norm() > share * norm else ""


def tolerance(pair: Pair, batch: Batch) -> float:
    """The largest relative difference that is rounding: the root of the coarsest type's ε."""
    tensors = [each for each in (*pair.parameters(), *batch.tensors()) if each.is_floating_point()]
    return float(max(torch.finfo(each.dtype).eps for each in tensors) ** 0.5)


class Measured(NamedTuple):
    """What one call of an objective gives.

    Args:
        loss: the loss, ``[]``.
        gradient: that of all parameters, flat.
        terms: the sum of |log p| over all sites, ``[]``.
    """

    loss: Tensor
    gradient: Tensor
    terms: Tensor


class Sizes(Messenger):
    """A handler that adds up the magnitudes of the terms of a loss, |log p| of each site."""

    def __init__(self) -> None:
        super().__init__()
        self.total: Any = 0.0

    def _pyro_post_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):
            terms = msg["fn"].log_prob(msg["value"]).detach()
            terms = scale_and_mask(terms, msg["scale"], msg["mask"])
            self.total = self.total + terms.double().abs().sum()


def measured(elbo: Any, pair: Pair, batch: Batch) -> Measured:
    """Compute the loss of a batch and its gradient."""
    held = [p for p in pair.parameters() if p.requires_grad]
    with torch.enable_grad(), Sizes() as sizes:
        loss = elbo.loss_and_grads(pair.model, pair.guide, *batch.args, **batch.named)
    pieces = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in held]
    for p in held:
        p.grad = None
    gradient = torch.cat([piece.double() for piece in pieces])
    return Measured(
        gradient.new_tensor(float(loss)), gradient, gradient.new_tensor(float(sizes.total))
    )


@contextmanager
def checked(ranks: Ranks, pair: Pair) -> Iterator[None]:
    """While the loss of a batch is computed once: look for what the processes would not share."""
    own = {id(b) for m in modules(pair) if isinstance(m, BatchNorm) for b in m.buffers()}
    before = [(b, b.clone()) for b in pair.buffers() if id(b) not in own]
    ranks.state = random_state()
    try:
        yield
    finally:
        ranks.state = None
    for buffer, value in before:
        if not torch.equal(buffer, value):
            raise InputError(
                f"the programs change a buffer of the shape {list(buffer.shape)}, which several "
                "processes would change in different ways; train in one process"
            )

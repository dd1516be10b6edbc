"""Draws for the images of one process that are those of one process with the whole batch.

All processes seed torch equally at each step. At a sample site, each draws the random numbers of
the whole batch and keeps the rows of its images. So the noise of an image does not depend on the
number of processes, and the random numbers stay equal in all of them.
"""

from __future__ import annotations

import zlib
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..errors import InputError
from ..latents import is_latent
from ..objectives.checks import PARTICLES
from .rows import OwnRows

FILLS = {
    Tensor.normal_,
    Tensor.uniform_,
    Tensor.exponential_,
    Tensor.cauchy_,
    Tensor.log_normal_,
    Tensor.geometric_,
}
"""They fill a tensor with independent draws."""
LIKES = {torch.rand_like, torch.randn_like}
SIZES = {torch.rand, torch.randn}


class WholeBatch(TorchFunctionMode):
    """While a distribution is drawn from: torch draws for the whole batch and keeps our rows.

    A distribution draws numbers whose first dimensions are its batch shape. One of them is that of
    the images. A draw that does not have this form, or whose random numbers depend on a parameter
    (gamma), is not split here; :func:`draw` then finds that the state of torch's random numbers is
    not ``ranks.state``.

    Args:
        ranks: the processes.
        batch: the batch shape of the distribution, with the images of this process.
        place: the dimension of the images in it, from the left.
    """

    def __init__(self, ranks: OwnRows, batch: torch.Size, place: int) -> None:
        super().__init__()
        self.ranks, self.batch, self.place = ranks, batch, place

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = self.split(func, args, kwargs)
        if result is None:
            return func(*args, **kwargs)
        if self.ranks.state is not None:
            self.ranks.state = random_state()
        return result

    def split(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
        """The rows of our images of a draw for the whole batch; None for another function."""
        if func in FILLS and self.fits(args[0].shape):
            whole = args[0].new_empty(self.whole_shape(args[0].shape))
            return args[0].copy_(self.own(func(whole, *args[1:], **kwargs)))
        if func in LIKES and self.fits(args[0].shape):
            return self.own(func(args[0].new_empty(self.whole_shape(args[0].shape)), **kwargs))
        if func in SIZES:
            sizes = torch.Size(args if isinstance(args[0], int) else args[0])
            return self.own(func(self.whole_shape(sizes), **kwargs)) if self.fits(sizes) else None
        if func is torch.normal and len(args) == 2 and isinstance(args[0], Tensor):
            loc, scale = torch.broadcast_tensors(*map(torch.as_tensor, args))
            if self.fits(loc.shape):
                noise = loc.new_empty(self.whole_shape(loc.shape)).normal_()
                return loc + scale * self.own(noise)
        if func is torch.bernoulli and self.fits(args[0].shape):
            return self.own(func(self.filled(args[0]), *args[1:], **kwargs))
        # Categorical draws from the rows of a matrix, which are its flattened batch.
        if func is torch.multinomial and args[0].shape[0] == self.batch.numel():
            whole = self.filled(args[0].unflatten(0, self.batch))
            drawn = func(whole.flatten(0, len(self.batch) - 1), *args[1:], **kwargs)
            drawn = drawn.unflatten(0, self.whole_shape(self.batch))
            return self.own(drawn).flatten(0, len(self.batch) - 1)
        return None

    def fits(self, shape: torch.Size) -> bool:
        """Whether the first dimensions of a draw are the batch shape."""
        return shape[: len(self.batch)] == self.batch

    def whole_shape(self, shape: torch.Size) -> torch.Size:
        """The shape of a draw for the whole batch."""
        return torch.Size([*shape[: self.place], self.ranks.images, *shape[self.place + 1 :]])

    def own(self, whole: Tensor) -> Tensor:
        """The rows of our images."""
        return self.ranks.own(whole, self.place)

    def filled(self, probs: Tensor) -> Tensor:
        """Probabilities of the whole batch: our own, and any in the rows of other processes.

        For these draws, each row takes the same number of random numbers for any probability.
        """
        rows = torch.arange(self.ranks.images, device=probs.device) - self.ranks.start
        return probs.index_select(self.place, rows.clamp(0, probs.shape[self.place] - 1))


class Draws(Messenger):
    """A Pyro handler that draws the latents of our images as one process would draw them.

    It is the outermost handler, so that it sees each distribution as Pyro would draw from it, with
    all plates.

    Args:
        ranks: the processes, which have begun a batch.

    Raises:
        InputError: a latent site that is not in one plate of the images, or a plate that draws a
            subsample of them.
    """

    def __init__(self, ranks: OwnRows) -> None:
        super().__init__()
        self.ranks = ranks

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            self.refuse_subsample(msg["name"], msg["fn"])
        if not is_latent(msg) or msg["value"] is not None:  # a replayed site has its value
            return
        rows = self.ranks.stop - self.ranks.start
        plates = [
            frame.dim
            for frame in msg["cond_indep_stack"]
            if frame.vectorized
            and frame.name != PARTICLES
            and frame.size == rows
            and frame.full_size in (None, rows)
        ]
        if len(plates) != 1:
            raise InputError(
                f"site {msg['name']!r} is in {len(plates)} plates of the images of its batch, and "
                "several processes share the images of one plate; move the site into one "
                "pyro.plate of all images, or train in one process"
            )
        fn = msg["fn"]
        place = len(fn.batch_shape) + plates[0]
        msg["value"] = draw(self.ranks, fn, place, *msg["args"], **msg["kwargs"])

    def refuse_subsample(self, name: str, fn: Any) -> None:
        """Raise an InputError for a plate that draws some of the rows of this process."""
        rows = self.ranks.stop - self.ranks.start
        if fn.size in (rows, self.ranks.images) and (fn.subsample_size or fn.size) < fn.size:
            raise InputError(
                f"the plate {name!r} draws a subsample of {fn.subsample_size} of {fn.size} rows, "
                "and several processes cannot share this draw; leave subsample_size out and give "
                "fit a batch_size, or train in one process"
            )


def draw(ranks: OwnRows, fn: Any, place: int, *args: Any, **kwargs: Any) -> Tensor:
    """A draw from a distribution, for our images.

    Args:
        ranks: the processes, which have begun a batch.
        fn: the distribution, with the parameters of our images.
        place: the dimension of the images in its batch shape, from the left.
        args, kwargs: handed to the distribution.

    Raises:
        InputError: while the processes are checked, random numbers that were not split.
    """
    if ranks.state is not None:
        ranks.state = random_state()
    with WholeBatch(ranks, fn.batch_shape, place):
        value = fn(*args, **kwargs)
    if ranks.state is not None and ranks.state != random_state():
        raise InputError(
            f"the draws of {type(fn).__name__} take as many random numbers as their values need, "
            "so that several processes cannot share them; take another distribution, or train in "
            "one process"
        )
    return value


def random_state() -> int:
    """A number that is another one, almost surely, after torch has drawn a random number."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():
        states.append(torch.cuda.get_rng_state())
    return zlib.crc32(b"".join(state.numpy().tobytes() for state in states))

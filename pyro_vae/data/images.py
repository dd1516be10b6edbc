"""Images and other observations in memory, and their batches after binarisation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..batch import Batch
from ..errors import InputError
from ..spelling import spelled_class
from ..supports import ROUNDING
from ..words import word_of
from .drawing import bernoulli
from .labelled import check_beside, context_of
from .schema import Schema
from .splitting import split_rows

BINARIZE = {
    "none": "the grey pixels, unchanged",
    "dynamic": "Bernoulli draws, made again each time an image enters a batch",
    "static": "Bernoulli draws of our own, made once with a seed",
    "threshold": "1 where the pixel is at least half bright",
}


@spelled_class
@dataclass(frozen=True)
class Images:
    """Images, or other observations of one shape, with their labels and file names.

    Args:
        pixels: the observations, ``[N, *shape]``: images ``[N, C, H, W]``, vectors ``[N, D]``,
            signals ``[N, C, L]``. uint8 are pixels of 8 bits, k / 255. Numbers of any other type
            are themselves: floats in [0, 1] of images, real numbers, counts, numbers of categories.
            Under ``static`` and ``threshold`` they are 0 or 255.
        labels: ``[N]`` int64, index into ``classes``, -1 for a label that is missing; None when the
            classes are not known.
        classes: the names of the classes.
        files: the name of each image's file; None when the images are not from files.
        binarize: the binarisation that :meth:`batch` applies, a name in :data:`BINARIZE`. All but
            ``none`` are for numbers in [0, 1].
        mask: bool, of the shape of ``pixels``, True where an entry was observed; None if all were.
            NaN in the pixels makes one. What is not observed is kept as 0.
        context: ``[N, ...]``, the labels or covariates that model and guide are given; None for
            none.
        targets: ``[N, n]``, real targets, NaN for one that is missing; None where there are none.
        schema: the columns of a table; None for other data.

    Example:
        >>> from pyro_vae.data import Images
        >>> Images(torch.randn(100, 7)).shape
        (7,)
    """

    pixels: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    files: tuple[str, ...] | None = None
    binarize: str = "none"
    mask: Tensor | None = None
    context: Tensor | None = None
    schema: Schema | None = None
    targets: Tensor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.pixels, Tensor) or self.pixels.dim() == 0:
            raise InputError(f"pixels are a tensor [N, *shape], not {describe(self.pixels)}")
        if self.pixels.is_complex():
            raise InputError("pixels are real numbers, not complex ones")
        if self.mask is None and self.pixels.is_floating_point():
            missing = self.pixels.isnan()
            if missing.any():
                object.__setattr__(self, "mask", ~missing)
        if self.mask is not None:
            if self.mask.dtype != torch.bool or self.mask.shape != self.pixels.shape:
                raise InputError(
                    f"the mask is a tensor of bool {list(self.pixels.shape)}, True where an entry "
                    f"was observed, not {describe(self.mask)}"
                )
            nothing = self.pixels.new_zeros(())
            object.__setattr__(self, "pixels", torch.where(self.mask, self.pixels, nothing))
        check_beside(len(self.pixels), self.labels, self.context, self.targets)

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one observation, ``(C, H, W)`` of an image."""
        if self.pixels.dim() < 2:
            raise InputError(
                "observations are a tensor [N, *shape], such as vectors [N, D], not "
                f"{describe(self.pixels)}; one number each is [N, 1]"
            )
        return tuple(self.pixels.shape[1:])

    def to(self, device: str | torch.device) -> Images:
        """The same images on another device; their batches are on this device too."""
        moved: dict[str, Any] = {name: each.to(device) for name, each in self.tensors().items()}
        return replace(self, **moved)

    def tensors(self) -> dict[str, Tensor]:
        """The fields that have an entry for each observation, without those that are None."""
        fields = {
            "pixels": self.pixels,
            "labels": self.labels,
            "mask": self.mask,
            "context": self.context,
            "targets": self.targets,
        }
        return {name: each for name, each in fields.items() if each is not None}

    def subset(self, index: Tensor) -> Images:
        """The images at ``index`` (int64), in this order, with their labels and files."""
        where = index.to(self.pixels.device)
        files = None if self.files is None else tuple(self.files[i] for i in index.tolist())
        cut: dict[str, Any] = {k: each.index_select(0, where) for k, each in self.tensors().items()}
        return replace(self, files=files, **cut)

    def first(self, count: int) -> Images:
        """The first ``count`` images, or all if there are fewer."""
        return self.subset(torch.arange(min(count, len(self))))

    def joined(self, other: Images) -> Images:
        """These images, followed by those of ``other``, which is from the same data set."""
        own, further = self.tensors(), other.tensors()
        for images, others in ((own, self.pixels), (further, other.pixels)):
            if "mask" in own.keys() ^ further.keys():
                images.setdefault("mask", torch.ones_like(others, dtype=torch.bool))
        files = None
        if self.files is not None and other.files is not None:
            files = self.files + other.files
        both = own.keys() & further.keys()
        joined: dict[str, Any] = dict.fromkeys(own)
        joined |= {name: torch.cat([own[name], further[name]]) for name in both}
        return replace(self, files=files, **joined)

    def split(self, test_fraction: float, seed: int) -> tuple[Images, Images]:
        """Hold out a share of the images as a test set: ``(train, test)``.

        With labels the split is stratified: each class gives its share, to within one image.
        Each part is in random order, so that its first images are a random sample of it.

        Args:
            test_fraction: share of the test set, in [0, 1). With 0 the test set is empty and the
                images keep their order.
            seed: seed of the split.

        Raises:
            InputError: the fraction is outside [0, 1), or there are fewer than two images.
        """
        if test_fraction == 0:
            return self, self.subset(torch.arange(0))
        labels = None if self.labels is None else self.labels.numpy()
        parts = split_rows(len(self), labels, test_fraction, seed, word_of(self.shape))
        train, rest = (self.subset(torch.from_numpy(part)) for part in parts)
        return train, rest

    def conditioned(self, on: Any, classes: Sequence[str] | None = None) -> Images:
        """The same images with a context for model and guide.

        Args:
            on: "label" for the labels, "target" for the real targets, or covariates, a tensor
                ``[N, ...]``.
            classes: the names that the labels are counted by; None for those of the images.

        Raises:
            InputError: no labels, a missing or another label, or covariates that are not finite.
        """
        return replace(self, context=context_of(self, on, classes))

    def binarized(self, protocol: str, random: np.random.RandomState) -> Images:
        """The same images under a protocol in :data:`BINARIZE`.

        Args:
            protocol: the name of the protocol.
            random: the random numbers that ``static`` draws with.

        Raises:
            InputError: another protocol than ``none`` for numbers that are not in [0, 1].
        """
        pixels = self.pixels
        if protocol != "none" and not self.in_unit_interval:
            raise InputError(
                f"the binarisation {protocol} is for pixels, numbers in [0, 1], and the data reach "
                f"from {pixels.min().item():.7g} to {pixels.max().item():.7g}; take none"
            )
        if protocol == "threshold":
            half = 128 if pixels.dtype == torch.uint8 else 0.5
            pixels = (pixels >= half).to(torch.uint8) * 255
        elif protocol == "static":
            size = tuple(pixels.shape)
            if pixels.dtype == torch.uint8:
                noise = torch.from_numpy(random.randint(255, size=size, dtype=np.uint8))
            else:
                noise = torch.from_numpy(random.random_sample(size))
            pixels = (noise < pixels).to(torch.uint8) * 255
        return replace(self, pixels=pixels, binarize=protocol)

    def batch(
        self, index: Tensor | slice | Sequence[int], generator: torch.Generator | None = None
    ) -> Tensor:
        """A batch, float32 ``[B, *shape]``, binarised; pixels are in [0, 1], and NaN is missing.

        Args:
            index: which images.
            generator: what ``dynamic`` draws from, on the generator's own device; by default
                torch's global generator of the pixels' device.
        """
        rows = self.rows(index, generator)
        return rows.args[0].masked_fill(~rows.kwargs["mask"], nan) if rows.kwargs else rows.args[0]

    def _numbers(self, index: Tensor | slice, generator: torch.Generator | None) -> Tensor:
        """As :meth:`batch`, with 0 for what is missing."""
        pixels = self.pixels[index]
        if self.binarize == "dynamic":
            # Through uint8, because bool to float takes six times as long.
            return bernoulli(pixels, generator).view(torch.uint8).float()
        if pixels.dtype == torch.uint8:
            return pixels / 255
        return pixels.clone() if pixels.is_floating_point() else pixels.float()

    def rows(
        self, index: Tensor | slice | Sequence[int], generator: torch.Generator | None = None
    ) -> Batch:
        """What model and guide are called with for a batch: x, its context and mask, if any."""
        if not isinstance(index, slice):
            index = torch.as_tensor(index, dtype=torch.int64, device=self.pixels.device)
        args: tuple[Tensor, ...] = (self._numbers(index, generator),)
        if self.context is not None:
            args = (*args, self.context[index])
        return Batch(args, {} if self.mask is None else {"mask": self.mask[index]})

    def drawn(self, out: Tensor | None = None) -> Images:
        """All images after one ``dynamic`` draw; under the other protocols the images unchanged.

        Args:
            out: where to write the drawn pixels, uint8 (0 or 255); by default a new tensor.
        """
        if self.binarize != "dynamic":
            return self
        pixels = torch.empty_like(self.pixels, dtype=torch.uint8) if out is None else out
        bernoulli(self.pixels, out=pixels.view(torch.bool))
        return replace(self, pixels=pixels.mul_(255), binarize="static")

    def batches(
        self, batch_size: int, generator: torch.Generator | None = None, *, shuffle: bool = False
    ) -> Iterator[Tensor]:
        """The batches of one epoch by :meth:`batch`; the last may be smaller."""
        order = None
        if shuffle:
            device = self.pixels.device if generator is None else generator.device
            order = torch.randperm(len(self), generator=generator, device=device)
            order = order.to(self.pixels.device)
        for start in range(0, len(self), batch_size):
            cut = slice(start, start + batch_size)
            yield self.batch(cut if order is None else order[cut], generator)

    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """E[x] and E[x²] of each entry of :meth:`batch` over the observations that have it, and in
        how many observations it was observed, ``shape`` each. E[x] of an entry that was never
        observed is 0."""
        count = first = second = torch.zeros(
            self.shape, dtype=torch.float64, device=self.pixels.device
        )
        for start in range(0, len(self), 1000):  # so that memory does not grow with the images
            some = self.pixels[start : start + 1000]
            x = some.double() / (255 if some.dtype == torch.uint8 else 1)
            if self.mask is None:
                count = count + len(x)
            else:
                observed = self.mask[start : start + 1000]
                x, count = x * observed, count + observed.sum(0)
            first = first + x.sum(0)
            # A drawn pixel is 0 or 1, so that its square is itself.
            second = second + (x if self.binarize == "dynamic" else x.square()).sum(0)
        return first / count.clamp(1), second / count.clamp(1), count

    def levels(self) -> int:
        """The number of different values in :meth:`batch`, counted up to 256."""
        if self.binarize == "dynamic":
            return 2
        if self.pixels.dtype == torch.uint8:
            return int(self._histogram().count_nonzero())
        # To sort all pixels is slow. Often the first images have 256 levels already.
        few = len(self.pixels[:64].unique())
        return min(256, few if few >= 256 else len(self.pixels.unique()))

    @property
    def in_unit_interval(self) -> bool:
        """Whether every number of :meth:`batch` is in [0, 1], as pixels are."""
        if self.pixels.dtype in (torch.uint8, torch.bool) or len(self) == 0:
            return True
        low, high = self.pixels.min().item(), self.pixels.max().item()
        return low >= -ROUNDING and high <= 1 + ROUNDING

    @property
    def is_binary(self) -> bool:
        """Whether every number of :meth:`batch` is 0 or 1, which a Bernoulli likelihood needs."""
        if self.binarize == "dynamic":
            return True
        if self.pixels.dtype == torch.uint8:
            return not self._histogram()[1:255].any()
        return bool(((self.pixels == 0) | (self.pixels == 1)).all())

    def _histogram(self) -> Tensor:
        """The number of pixels of each of the 256 levels, in one pass (under 0.1 s for MNIST)."""
        return self.pixels.flatten().bincount(minlength=256)


def describe(array: Any) -> str:
    """The type and the shape of an array, for error messages."""
    shape = f" of shape {list(array.shape)}" if isinstance(array, Tensor | np.ndarray) else ""
    return f"a {type(array).__name__}{shape}"

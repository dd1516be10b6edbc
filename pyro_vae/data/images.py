"""Images and other observations in memory, and their batches after binarisation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.random import PCG64, SFC64
from torch import Tensor

from ..errors import InputError
from ..supports import ROUNDING
from .splitting import split_rows

BINARIZE = {
    "none": "the grey pixels, unchanged",
    "dynamic": "Bernoulli draws, made again each time an image enters a batch",
    "static": "Bernoulli draws, made once with a seed",
    "threshold": "1 where the pixel is at least half bright",
}


@dataclass(frozen=True)
class Images:
    """Images, or other observations of one shape, with their labels and file names.

    Args:
        pixels: the observations, ``[N, *shape]``: images ``[N, C, H, W]``, vectors ``[N, D]``,
            signals ``[N, C, L]``. uint8 are pixels of 8 bits, k / 255. Numbers of any other type
            are themselves: floats in [0, 1] of images, real numbers, counts, numbers of categories.
            Under ``static`` and ``threshold`` they are 0 or 255.
        labels: ``[N]`` int64, index into ``classes``; None when the classes are not known.
        classes: the names of the classes.
        files: the name of each image's file; None when the images are not from files.
        binarize: the binarisation that :meth:`batch` applies, a name in :data:`BINARIZE`. All but
            ``none`` are for numbers in [0, 1].

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

    def __post_init__(self) -> None:
        if not isinstance(self.pixels, Tensor) or self.pixels.dim() == 0:
            raise InputError(f"pixels are a tensor [N, *shape], not {describe(self.pixels)}")
        if self.labels is not None and tuple(self.labels.shape) != (len(self.pixels),):
            raise InputError(
                f"labels are a tensor [{len(self.pixels)}], one for each image, not "
                f"{describe(self.labels)}"
            )

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
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, pixels=self.pixels.to(device), labels=labels)

    def subset(self, index: Tensor) -> Images:
        """The images at ``index`` (int64), in this order, with their labels and files."""
        where = index.to(self.pixels.device)
        return replace(
            self,
            pixels=self.pixels.index_select(0, where),
            labels=None if self.labels is None else self.labels.index_select(0, where),
            files=None if self.files is None else tuple(self.files[i] for i in index.tolist()),
        )

    def first(self, count: int) -> Images:
        """The first ``count`` images, or all if there are fewer."""
        return self.subset(torch.arange(min(count, len(self))))

    def joined(self, other: Images) -> Images:
        """These images, followed by those of ``other``, which is from the same data set."""
        labels = files = None
        if self.labels is not None and other.labels is not None:
            labels = torch.cat([self.labels, other.labels])
        if self.files is not None and other.files is not None:
            files = self.files + other.files
        pixels = torch.cat([self.pixels, other.pixels])
        return replace(self, pixels=pixels, labels=labels, files=files)

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
        parts = split_rows(len(self), labels, test_fraction, seed)
        train, rest = (self.subset(torch.from_numpy(part)) for part in parts)
        return train, rest

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
        """A batch, float32 ``[B, *shape]``; pixels are in [0, 1] and binarised.

        Args:
            index: which images.
            generator: what ``dynamic`` draws from, on the generator's own device; by default
                torch's global generator of the pixels' device.
        """
        if isinstance(index, slice):
            pixels = self.pixels[index]
        else:
            where = torch.as_tensor(index, dtype=torch.int64, device=self.pixels.device)
            pixels = self.pixels.index_select(0, where)  # [B, C, H, W]
        if self.binarize == "dynamic":
            # Through uint8, because bool to float takes six times as long.
            return bernoulli(pixels, generator).view(torch.uint8).float()
        if pixels.dtype == torch.uint8:
            return pixels / 255
        return pixels.clone() if pixels.is_floating_point() else pixels.float()

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
        """The batches of one epoch; the last is smaller when ``batch_size`` does not divide N."""
        order = None
        if shuffle:
            device = self.pixels.device if generator is None else generator.device
            order = torch.randperm(len(self), generator=generator, device=device)
            order = order.to(self.pixels.device)
        for start in range(0, len(self), batch_size):
            cut = slice(start, start + batch_size)
            yield self.batch(cut if order is None else order[cut], generator)

    def moments(self) -> tuple[Tensor, Tensor]:
        """E[x] and E[x²] of each entry of :meth:`batch` over all observations, ``shape`` each."""
        first = second = torch.zeros(self.shape, dtype=torch.float64, device=self.pixels.device)
        for some in self.pixels.split(1000):  # so that the memory does not grow with the images
            x = some.double() / (255 if some.dtype == torch.uint8 else 1)
            first = first + x.sum(0)
            # A drawn pixel is 0 or 1, so that its square is itself.
            second = second + (x if self.binarize == "dynamic" else x.square()).sum(0)
        return first / len(self), second / len(self)

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


def bernoulli(
    pixels: Tensor, generator: torch.Generator | None = None, out: Tensor | None = None
) -> Tensor:
    r"""Draw x ~ Bernoulli(p) as bool.

    Equation:
        For float32, p = pixel. For uint8, p = pixel / 255, drawn as
        :math:`x = [r < \text{pixel}]` with r uniform on 0, …, 254. So p is exact: a pixel of 0
        always gives 0, and a pixel of 255 always gives 1.

    Args:
        pixels: of any shape, uint8 or float32 in [0, 1].
        generator: what to draw from; by default torch's global generator of the pixels' device.
        out: where to write the draws, bool, of the shape of ``pixels``.
    """
    device = pixels.device if generator is None else generator.device
    if out is None:
        out = torch.empty(pixels.shape, dtype=torch.bool, device=pixels.device)
    if pixels.dtype != torch.uint8 and device.type == "cpu":
        # From a generator of NumPy, which is independent of torch's with the same seed.
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        uniform = np.random.Generator(SFC64(seed)).random(tuple(pixels.shape), np.float32)
        noise = torch.from_numpy(uniform)
    elif pixels.dtype != torch.uint8:
        noise = torch.rand(pixels.shape, generator=generator, device=device)
    elif device.type != "cpu":
        noise = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
        noise.random_(0, 255, generator=generator)
    else:
        here = out.cpu()
        draw_on_threads(pixels.cpu(), here, generator)
        return out.copy_(here)
    return torch.lt(noise.to(pixels.device), pixels, out=out)


PIECE = 1 << 18  # pixels; the noise of this many fits the cache of a core


def draw_on_threads(pixels: Tensor, out: Tensor, generator: torch.Generator | None) -> None:
    """Draw uint8 pixels on a CPU, in pieces that several threads share.

    torch's generator is slow on a CPU, so it only seeds a faster generator for each piece. The
    draws do not depend on the number of threads.
    """
    seed = torch.randint(2**63 - 1, (), generator=generator)
    cuts = range(0, pixels.numel(), PIECE)
    seeds = np.random.SeedSequence(int(seed)).spawn(len(cuts))
    flat, drawn = pixels.reshape(-1).numpy(), out.view(-1).numpy()

    def draw_piece(start: int, seed: np.random.SeedSequence) -> None:
        piece = flat[start : start + PIECE]
        random, other = (np.random.Generator(kind(seed)) for kind in (SFC64, PCG64))
        # Eight bytes from each word, uniform on 0, …, 255. Bytes of 255 (1 in 256) are drawn again,
        # from a second stream, so that no draw depends on the number of images that follow.
        words = random.integers(0, 2**64, (len(piece) + 7) // 8, dtype=np.uint64)
        noise = words.view(np.uint8)[: len(piece)]
        again = np.flatnonzero(noise == 255)
        noise[again] = other.integers(0, 255, len(again), dtype=np.uint8)
        np.less(noise, piece, out=drawn[start : start + PIECE])

    if len(cuts) == 1:
        draw_piece(0, seeds[0])
    else:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(draw_piece, cuts, seeds))

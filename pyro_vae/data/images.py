"""Images in memory: bytes, cut into batches of floats in [0, 1] by a binarisation protocol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.random import PCG64, SFC64
from torch import Tensor

from pyro_vae.errors import InputError

BINARIZE = {
    "none": "the grey pixels as they are",
    "dynamic": "Bernoulli draws, anew each time an image is asked for",
    "static": "Bernoulli draws, made once with a seed",
    "threshold": "1 where the pixel is at least half bright",
}


@dataclass(frozen=True)
class Images:
    """Images, with what is known about each.

    Args:
        pixels: ``[N, C, H, W]``, uint8; or float32 in [0, 1] when the user's array held values
            that 8 bits cannot. Under ``static`` and ``threshold`` they are 0 or 255 already.
        labels: ``[N]`` int64, index into ``classes``; None when there are none.
        classes: the names of the classes.
        files: the name of each image's file; None when the images are no files.
        binarize: the protocol that :meth:`batch` follows.
    """

    pixels: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    files: tuple[str, ...] | None = None
    binarize: str = "none"

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of one image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def to(self, device: str | torch.device) -> Images:
        """The same images on another device; batches are then cut there."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, pixels=self.pixels.to(device), labels=labels)

    def subset(self, index: Tensor) -> Images:
        """The images at ``index`` (int64), in that order, with their labels and files."""
        where = index.to(self.pixels.device)
        return replace(
            self,
            pixels=self.pixels.index_select(0, where),
            labels=None if self.labels is None else self.labels.index_select(0, where),
            files=None if self.files is None else tuple(self.files[i] for i in index.tolist()),
        )

    def joined(self, other: Images) -> Images:
        """These images, then those of ``other``, of one data set."""
        labels = files = None
        if self.labels is not None and other.labels is not None:
            labels = torch.cat([self.labels, other.labels])
        if self.files is not None and other.files is not None:
            files = self.files + other.files
        pixels = torch.cat([self.pixels, other.pixels])
        return replace(self, pixels=pixels, labels=labels, files=files)

    def split(self, test_fraction: float, seed: int) -> tuple[Images, Images]:
        """Hold out a share of the images: ``(train, test)``.

        With labels the split is stratified: each class gives its share, to within one image.
        Each part is in random order, so that its first dozen is a fair picture of it. With
        ``test_fraction`` 0 the test set is empty and the images keep their order.

        Raises:
            InputError: a fraction outside [0, 1), or fewer than two images to split.
        """
        count = len(self)
        if not 0 <= test_fraction < 1:
            raise InputError(f"test fraction {test_fraction} does not lie in [0, 1)")
        if test_fraction == 0:
            return self, self.subset(torch.arange(0))
        if count < 2:
            raise InputError("1 image cannot be split into train and test; give at least 2")
        held = min(max(round(count * test_fraction), 1), count - 1)
        # numpy keeps the stream of RandomState the same for ever, so that a split does too.
        random = np.random.RandomState(seed)
        order = random.permutation(count)
        if self.labels is not None:
            order = order[np.argsort(self.labels.numpy()[order], kind="stable")]
        # Evenly spaced places in the order by class: every class gives its share.
        test = np.zeros(count, dtype=bool)
        test[((np.arange(held) + 0.5) * count / held).astype(int)] = True
        parts = (random.permutation(order[~test]), random.permutation(order[test]))
        train, rest = (self.subset(torch.from_numpy(part)) for part in parts)
        return train, rest

    def binarized(self, protocol: str, random: np.random.RandomState) -> Images:
        """The same images under a protocol; ``random`` feeds the draws of ``static``."""
        pixels = self.pixels
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
        """Cut a batch: float32 ``[B, C, H, W]`` in [0, 1], binarised by the protocol.

        ``generator`` feeds the draws of ``dynamic``, on the device that it lives on; without one
        they come from torch's global generator of the pixels' device.
        """
        if isinstance(index, slice):
            pixels = self.pixels[index]
        else:
            where = torch.as_tensor(index, dtype=torch.int64, device=self.pixels.device)
            pixels = self.pixels.index_select(0, where)  # [B, C, H, W]
        if self.binarize == "dynamic":
            # By way of uint8, because bool to float takes six times as long.
            return bernoulli(pixels, generator).view(torch.uint8).float()
        return pixels / 255 if pixels.dtype == torch.uint8 else pixels.clone()

    def drawn(self, out: Tensor | None = None) -> Images:
        """The images with ``dynamic`` pixels drawn, all at once, from torch's global generator:
        uint8, 0 or 255, in ``out`` if given; under the other protocols the images as they are."""
        if self.binarize != "dynamic":
            return self
        pixels = torch.empty_like(self.pixels, dtype=torch.uint8) if out is None else out
        bernoulli(self.pixels, out=pixels.view(torch.bool))
        return replace(self, pixels=pixels.mul_(255), binarize="static")

    def batches(
        self, batch_size: int, generator: torch.Generator | None = None, *, shuffle: bool = False
    ) -> Iterator[Tensor]:
        """One epoch of batches; the last is smaller when ``batch_size`` does not divide N."""
        order = None
        if shuffle:
            device = self.pixels.device if generator is None else generator.device
            order = torch.randperm(len(self), generator=generator, device=device)
            order = order.to(self.pixels.device)
        for start in range(0, len(self), batch_size):
            cut = slice(start, start + batch_size)
            yield self.batch(cut if order is None else order[cut], generator)

    def levels(self, limit: int = 256) -> int:
        """How many different values the pixels of :meth:`batch` take, counted up to ``limit``."""
        if self.binarize == "dynamic":
            return 2
        if self.pixels.dtype == torch.uint8:
            return min(limit, int(self._histogram().count_nonzero()))
        # To sort all pixels is slow, and a few images tell when there are many levels.
        few = len(self.pixels[:64].unique())
        return limit if few >= limit else min(limit, len(self.pixels.unique()))

    @property
    def is_binary(self) -> bool:
        """Whether every pixel of :meth:`batch` is 0 or 1, as a Bernoulli likelihood needs."""
        if self.binarize == "dynamic":
            return True
        if self.pixels.dtype == torch.uint8:
            return not self._histogram()[1:255].any()
        return bool(((self.pixels == 0) | (self.pixels == 1)).all())

    def _histogram(self) -> Tensor:
        """How many pixels have each of the 256 levels: one pass, under 0.1 s for all of MNIST."""
        return self.pixels.flatten().bincount(minlength=256)


def bernoulli(
    pixels: Tensor, generator: torch.Generator | None = None, out: Tensor | None = None
) -> Tensor:
    r"""Draw x ~ Bernoulli(p) as bool, p = pixel / 255 (uint8) or p = pixel (float32).

    For uint8, :math:`x = [r < \text{pixel}]` with r uniform on 0, …, 254: p is exact, and 0 and
    255 are certain.
    """
    device = pixels.device if generator is None else generator.device
    if out is None:
        out = torch.empty(pixels.shape, dtype=torch.bool, device=pixels.device)
    if pixels.dtype != torch.uint8:
        noise = torch.rand(pixels.shape, generator=generator, device=device)
    elif device.type != "cpu":
        noise = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
        noise.random_(0, 255, generator=generator)
    else:
        here = out.cpu()
        on_threads(pixels.cpu(), here, generator)
        return out.copy_(here)
    return torch.lt(noise.to(pixels.device), pixels, out=out)


PIECE = 1 << 18  # pixels whose noise stays in a core's cache


def on_threads(pixels: Tensor, out: Tensor, generator: torch.Generator | None) -> None:
    """Draw uint8 pixels on a CPU, where torch's generator would take most of the time: it seeds a
    faster one for each piece. Threads share the pieces, and no draw depends on their number."""
    seed = torch.randint(2**63 - 1, (), generator=generator)
    cuts = range(0, pixels.numel(), PIECE)
    seeds = np.random.SeedSequence(int(seed)).spawn(len(cuts))
    flat, drawn = pixels.reshape(-1).numpy(), out.view(-1).numpy()

    def draw(start: int, seed: np.random.SeedSequence) -> None:
        piece = flat[start : start + PIECE]
        random, other = (np.random.Generator(kind(seed)) for kind in (SFC64, PCG64))
        # Eight bytes from each word, uniform on 0, …, 255; the 1 in 256 that is 255 once more, from
        # a stream of its own, so that no draw depends on how many images follow.
        words = random.integers(0, 2**64, (len(piece) + 7) // 8, dtype=np.uint64)
        noise = words.view(np.uint8)[: len(piece)]
        again = np.flatnonzero(noise == 255)
        noise[again] = other.integers(0, 255, len(again), dtype=np.uint8)
        np.less(noise, piece, out=drawn[start : start + PIECE])

    if len(cuts) == 1:
        draw(0, seeds[0])
    else:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(draw, cuts, seeds))

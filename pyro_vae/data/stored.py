"""Images that stay on disk and are read when they are asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import InputError
from ..memory import check_memory
from ..words import called, either
from .images import Images
from .reader import Files, Look, Mapped
from .splitting import split_rows

SAMPLE = 1 << 28
"""The bytes that the pixels of a sample have at most."""


@dataclass(frozen=True)
class Store:
    """All images of a folder or of a ``.npy`` file.

    Args:
        name: the path as the user wrote it.
        source: reads the rows.
        look: what some of the images tell about all.
        labels: the class of each image, index into ``classes``; None if they are not known.
        classes: the names of the classes.
    """

    name: str
    source: Files | Mapped
    look: Look
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class StoredImages(Dataset[Tensor]):
    """A torch ``Dataset`` of images on disk: row i is float32 ``[C, H, W]`` in [0, 1], binarised.

    Only the rows that are asked for are in memory. :func:`.open_data` makes them.

    Args:
        store: where the images are.
        index: the numbers of the rows in the store, ``[N]``.
        binarize: ``none``, ``dynamic`` or ``threshold``. Dynamic pixels are a function of the
            number of the row and of a number that torch's global generator draws for each batch.
        workers: how many processes read batches ahead while ``fit`` trains; with 0 the training
            reads them itself.
        binary: whether pixels other than 0 and 1 are an error, as a Bernoulli likelihood needs.
    """

    store: Store
    index: NDArray[np.int64]
    binarize: str = "none"
    workers: int = 0
    binary: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image, ``(C, H, W)``."""
        return self.store.look.shape

    @property
    def bytes(self) -> int:
        """The bytes of the pixels of one image in memory."""
        return self.store.source.dtype.itemsize * math.prod(self.shape)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, row: int) -> Tensor:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[Tensor]:
        """The rows, each ``[C, H, W]``. torch's loaders ask for a whole batch by this method."""
        pixels = self.pixels(rows)
        if self.binarize == "dynamic":
            seed = int(torch.randint(2**63 - 1, ()))
            return list(bernoulli(pixels, seed, self.index[np.asarray(rows)]))
        if self.binarize == "threshold":
            x = (pixels >= (128 if pixels.dtype == torch.uint8 else 0.5)).float()
        else:
            x = pixels / 255 if pixels.dtype == torch.uint8 else pixels
        if self.binary and not ((x == 0) | (x == 1)).all():
            raise InputError(
                f"an image of {self.store.name!r} has grey pixels, and the likelihood scores "
                "pixels that are 0 or 1, as those of the sample are; give "
                f"{called('binarize', 'dynamic')} or {called('binarize', 'threshold')}, or another "
                "likelihood"
            )
        return list(x)

    def pixels(self, rows: Sequence[int] | range) -> Tensor:
        """The stored pixels of rows, ``[B, C, H, W]``, uint8 or float32.

        Raises:
            InputError: an image that does not fit the others, or is not one.
        """
        where = self.index[np.asarray(rows, dtype=np.int64)]
        return self.store.source.read(where, self.store.look)

    def read_once(self) -> None:
        """Read all of these images, so that one that cannot be read raises before training."""
        rows = range(len(self))
        for i in rows[::500]:
            self.pixels(rows[i : i + 500])

    def subset(self, index: NDArray[np.int64]) -> StoredImages:
        """The images at ``index``, in this order."""
        return replace(self, index=self.index[index])

    def first(self, count: int) -> StoredImages:
        """The first ``count`` images, or all if there are fewer."""
        return replace(self, index=self.index[:count])

    def joined(self, other: StoredImages) -> StoredImages:
        """These images, followed by those of ``other``, which is from the same store."""
        return replace(self, index=np.concatenate([self.index, other.index]))

    def split(self, test_fraction: float, seed: int) -> tuple[StoredImages, StoredImages]:
        """As :meth:`.Images.split`, with the same rows in both parts."""
        labels = None if self.store.labels is None else self.store.labels[self.index]
        train, test = split_rows(len(self), labels, test_fraction, seed)
        return self.subset(train), self.subset(test)

    def loaded(self) -> Images:
        """All of these images in memory, with their labels and the names of their files, or the
        numbers of the rows of an array.

        Raises:
            InputError: they do not fit into memory.
        """
        what = f"to hold {len(self):,} images of {self.store.name!r} at once"
        fewer = either("take fewer by first()", "give a smaller --split, or other images by --data")
        check_memory(len(self) * self.bytes, what, fewer)
        rows = range(len(self))
        pixels = torch.cat([self.pixels(rows[i : i + 500]) for i in rows[::500]])
        if pixels.is_floating_point():
            # Floats that are all k / 255 are pixels of 8 bits, as in memory.
            steps = (pixels * 255).round()
            whole = bool(((steps / 255 - pixels).abs() <= torch.finfo(torch.float32).eps).all())
            pixels = steps.to(torch.uint8) if whole else pixels
        labels, name = self.store.labels, self.store.source.name
        return Images(
            pixels,
            None if labels is None else torch.from_numpy(labels[self.index]),
            self.store.classes,
            tuple(map(name, self.index.tolist())),
        ).binarized(self.binarize, np.random.RandomState(0))

    def sample(self, count: int = 10_000, seed: int = 0) -> Images:
        """Some images at random, in memory: what :meth:`VAE.for_data` measures.

        The levels of grey, the mean image and whether all pixels are 0 or 1 are then those of the
        sample, and not of all images. A sample has at most 256 MB.
        """
        count = min(count, max(SAMPLE // self.bytes, 2))
        order = np.random.RandomState(seed).permutation(len(self))
        return self.subset(order[:count]).loaded()


def bernoulli(pixels: Tensor, seed: int, rows: NDArray[np.int64]) -> Tensor:
    """Draw x ~ Bernoulli(pixel) as :func:`.images.bernoulli`, each row from a stream of its own.

    Args:
        pixels: ``[B, C, H, W]``, uint8, or float32 in [0, 1].
        seed: of all rows.
        rows: the number of each row, ``[B]``.
    """
    shape, grey = tuple(pixels.shape[1:]), pixels.dtype == torch.uint8
    noise = np.empty(pixels.shape, np.uint8 if grey else np.float32)
    for place, row in zip(noise, rows, strict=True):
        random = np.random.Generator(np.random.Philox(key=np.array([seed, row], np.uint64)))
        place[:] = random.integers(0, 255, shape, np.uint8) if grey else random.random(shape, "f4")
    return (torch.from_numpy(noise) < pixels).float()


def in_memory(images: Images | StoredImages) -> Images:
    """Images that may be on disk, in memory."""
    return images.loaded() if isinstance(images, StoredImages) else images

"""Images that stay on disk and are read when they are asked for."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import InputError
from ..memory import check_memory
from ..options import is_whole
from ..registry import lookup
from .datasets import DATASETS
from .folders import find_files
from .images import BINARIZE, Images, split_rows
from .loading import check_size, find_path
from .reader import Files, Look, Mapped

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

    Only the rows that are asked for are in memory. :func:`open_images` makes one.

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
                "pixels that are 0 or 1, as those of the sample are; give --binarize dynamic or "
                "threshold, or another --likelihood"
            )
        return list(x)

    def pixels(self, rows: Sequence[int] | range) -> Tensor:
        """The stored pixels of rows, ``[B, C, H, W]``, uint8 or float32.

        Raises:
            InputError: an image that does not fit the others, or is not one.
        """
        where = self.index[np.asarray(rows, dtype=np.int64)]
        return self.store.source.read(where, self.store.look)

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
        check_memory(
            len(self) * self.bytes, what, "give a smaller --split, or other images by --data"
        )
        rows = range(len(self))
        pixels = torch.cat([self.pixels(rows[i : i + 500]) for i in rows[::500]])
        if (
            pixels.is_floating_point()
        ):  # as in memory: floats that are all k / 255 are pixels of 8 bits
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


@dataclass(frozen=True)
class StoredData:
    """Images that stay on disk, and their split; the fields are those of :class:`.Data`."""

    name: str
    train: StoredImages
    test: StoredImages
    validation: StoredImages | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image, ``(C, H, W)``."""
        return self.train.shape

    def binarized(self, protocol: str) -> StoredData:
        """The same images, binarised by ``protocol``.

        Raises:
            InputError: an unknown protocol, or ``static``.
        """
        check_protocol(protocol)
        validation = self.validation
        return replace(
            self,
            train=replace(self.train, binarize=protocol),
            test=replace(self.test, binarize=protocol),
            validation=None if validation is None else replace(validation, binarize=protocol),
        )

    def checksum(self) -> str:
        """A text of 32 letters that is another one if an image is new, is gone, or has another name
        or size in bytes, if one of 200 images has other bytes, or if the split is another one.

        The other images are not read, so a change that leaves their sizes is not seen.
        """
        digest = hashlib.blake2b(self.train.store.source.digest(), digest_size=16)
        for part in (self.train, self.test):
            digest.update(f"{len(part)}".encode())
            digest.update(np.ascontiguousarray(part.index).data)
        return digest.hexdigest()


def check_protocol(protocol: str) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for a binarisation that is not one of streams."""
    lookup("binarisation", protocol, BINARIZE)
    if protocol == "static":
        raise InputError(
            "the binarisation static draws all images once, which needs them in memory; take "
            "dynamic or threshold, or leave --stream out"
        )


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


def open_data(
    path: str | Path,
    *,
    binarize: str = "none",
    test_fraction: float = 0.2,
    split_seed: int = 0,
    size: int | Sequence[int] | None = None,
    crop: bool = False,
    grey: bool = False,
    workers: int = 0,
) -> StoredData:
    """As :func:`open_images`; the parts of a folder that is split already may have a validation."""
    if str(path) in DATASETS:
        raise InputError(
            f"{str(path)!r} is a data set that is read into memory; images that stay on disk are "
            "those of a folder or a .npy file"
        )
    check_protocol(binarize)
    if not is_whole(workers) or workers < 0:
        raise InputError(f"workers is a whole number of at least 0, not {workers!r}")
    found, pair = find_path(path), check_size(size, crop)
    source: Files | Mapped
    parts: dict[str, NDArray[np.int64]] = {}
    names: list[str] = []
    if found.is_dir():
        files, parts = find_files(found)
        source = Files(found, [file for file, _ in files], pair, crop, grey)
        names = [name for _, name in files if name is not None]
    else:
        if pair or grey:
            raise InputError("size, crop and grey change the image files of a folder")
        source = Mapped(found)
    if len(source) < 2:
        raise InputError(f"{str(found)!r} has fewer than 2 images, so there is no test set")
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    if len(names) == len(source):  # only if all have a class, as in memory
        found_classes, labels = np.unique(names, return_inverse=True)
        classes = tuple(map(str, found_classes))
    store = Store(str(path), source, source.look(), labels, classes)
    whole = StoredImages(store, np.arange(len(source)), binarize, workers)
    if not parts:
        return StoredData(str(path), *whole.split(test_fraction, split_seed))
    cut = {part: whole.subset(where) for part, where in parts.items()}
    return StoredData(str(path), cut["train"], cut["test"], cut.get("validation"))


def open_images(
    path: str | Path,
    *,
    binarize: str = "none",
    test_fraction: float = 0.2,
    split_seed: int = 0,
    size: int | Sequence[int] | None = None,
    crop: bool = False,
    grey: bool = False,
    workers: int = 0,
) -> tuple[StoredImages, StoredImages]:
    """The training and the test images of a folder or a ``.npy`` file, without reading them.

    It serves images that do not fit into memory; :func:`~pyro_vae.data.load_data` reads all others
    faster. The split is that of ``load_data``. Whether all images are grey or masks is told by 100
    of them, and an image that contradicts them is an error when it is read.

    Args:
        path: a folder of image files, as for ``load_data``, or a ``.npy`` file of images.
        binarize: ``none``, ``dynamic`` or ``threshold``.
        test_fraction: the share of the images that becomes the test set, in (0, 1). A folder that
            is split already ignores it.
        split_seed: seed of the split.
        size, crop, grey: as for ``load_data``.
        workers: how many processes read batches ahead while ``fit`` trains.

    Returns:
        two torch ``Dataset``, for ``fit(vae, train, test=test)`` or a ``DataLoader``.

    Raises:
        InputError: nothing is there, it cannot be read, or there are fewer than two images.

    Example:
        >>> import numpy as np
        >>> np.save("grey.npy", np.arange(50 * 64, dtype=np.uint8).reshape(50, 8, 8))
        >>> from pyro_vae.data import open_images
        >>> train, test = open_images("grey.npy")
        >>> history = fit(VAE.for_data(train.sample(), 2), train, test=test, epochs=1)
    """
    if not 0 < test_fraction < 1:
        raise InputError(f"test_fraction is a number between 0 and 1, not {test_fraction!r}")
    data = open_data(
        path,
        binarize=binarize,
        test_fraction=test_fraction,
        split_seed=split_seed,
        size=size,
        crop=crop,
        grey=grey,
        workers=workers,
    )
    return data.train, data.test


def in_memory(images: Images | StoredImages) -> Images:
    """Images that may be on disk, in memory."""
    return images.loaded() if isinstance(images, StoredImages) else images

"""Open images that stay on disk: find them, split them and look at some."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..options import is_whole
from ..registry import lookup
from ..spelling import spelled
from ..words import called
from .datasets import DATASETS
from .finding import check_size, find_path
from .folders import find_files
from .images import BINARIZE
from .reader import Files, Mapped
from .splitting import VALIDATION, cut_validation
from .stored import Store, StoredImages

MOST_WORKERS = 1000
"""The most processes that read. Each has its own memory."""


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
        for part in (self.train, self.test, self.validation):
            if part is None:
                continue
            digest.update(f"{len(part)}".encode())
            digest.update(np.ascontiguousarray(part.index).data)
        return digest.hexdigest()


def check_protocol(protocol: str) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for a binarisation that is not one of streams."""
    lookup("binarisation", protocol, BINARIZE)
    if protocol == "static":
        raise InputError(
            "the binarisation static draws all images once, which needs them in memory; take "
            "dynamic or threshold, or read the images into memory"
        )


@spelled
def open_data(
    path: str | Path,
    *,
    binarize: str = "none",
    test_fraction: float = 0.2,
    validation: float | None = None,
    split_seed: int = 0,
    size: int | Sequence[int] | None = None,
    crop: bool = False,
    grey: bool = False,
    workers: int = 0,
) -> StoredData:
    """The images of a folder or of a ``.npy`` file, without reading them.

    It serves images that do not fit into memory; :func:`~pyro_vae.data.load_data` reads all others
    faster. The split is that of ``load_data``. Whether all images are grey or masks is told by 100
    of them, and an image that contradicts them is an error when it is read.

    Args:
        path: a folder of image files, as for ``load_data``, or a ``.npy`` file of images.
        binarize: ``none``, ``dynamic`` or ``threshold``.
        test_fraction: the share of the images that becomes the test set, in [0, 1). A folder that
            is split already ignores it.
        validation: how many of the training images become the validation images, or which share
            of them, as for ``load_data``.
        split_seed: seed of the split.
        size, crop, grey: as for ``load_data``.
        workers: how many processes read batches ahead while ``fit`` trains.

    Returns:
        the training, the validation and the test images, each a torch ``Dataset``, for
        ``fit(vae, data)`` or a ``DataLoader``.

    Raises:
        InputError: the name of a data set, nothing is there, it cannot be read, there are fewer
            than two images, or an option has a wrong value.

    Example:
        >>> import numpy as np
        >>> np.save("grey.npy", np.arange(50 * 64, dtype=np.uint8).reshape(50, 8, 8))
        >>> from pyro_vae.data import open_data
        >>> data = open_data("grey.npy")
        >>> history = fit(VAE.for_data(data.train.sample(), 2), data, epochs=1)
    """
    if str(path) in DATASETS:
        raise InputError(
            f"{str(path)!r} is a data set that is read into memory; images that stay on disk are "
            "those of a folder or a .npy file"
        )
    check_protocol(binarize)
    if not is_whole(workers) or not 0 <= workers <= MOST_WORKERS:
        raise InputError(
            f"{called('workers')} is a whole number from 0 to {MOST_WORKERS}, not {workers!r}"
        )
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
            raise InputError(
                f"{called('size')}, {called('crop')} and {called('grey')} change the image files "
                f"of a folder, and {str(found)!r} is an array; leave them out"
            )
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
    cut = {part: whole.subset(where) for part, where in parts.items()}
    if parts:
        train, test = cut["train"], cut["test"]
    else:
        train, test = whole.split(test_fraction, split_seed)
    usual, own = VALIDATION if len(test) else 0, cut.get("validation")
    train, held_out = cut_validation(train, validation, split_seed, usual, own)
    return StoredData(str(path), train, test, held_out)

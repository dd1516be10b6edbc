"""Images that stay on disk and are read when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import InputError
from ..registry import lookup
from .arrays import to_pixels
from .folders import list_files
from .imagefiles import decode
from .images import BINARIZE, Images, bernoulli
from .loading import check_size, find_path

LOOKED = 100
"""The images that are looked at to decide between grey and colour."""


class StoredImages(Dataset[Tensor]):
    """A torch ``Dataset`` of images on disk: row i is float32 ``[C, H, W]`` in [0, 1], binarised.

    Only the rows that are asked for are in memory. :func:`open_images` makes one.

    Args:
        name: the path, for error messages.
        source: the array in a ``.npy`` file, which is mapped into memory, or the image files.
        index: the numbers of the rows in ``source``, int64.
        binarize: ``none``, ``dynamic`` or ``threshold``. Dynamic pixels are drawn by torch's global
            generator each time a row is read.
        size, crop, grey: how image files are read, as in :func:`~pyro_vae.data.load_data`.
    """

    def __init__(
        self,
        name: str,
        source: NDArray[Any] | Sequence[Path],
        index: NDArray[np.int64],
        binarize: str = "none",
        size: tuple[int, int] | None = None,
        crop: bool = False,
        grey: bool = False,
    ) -> None:
        self.name, self.source, self.index, self.binarize = name, source, index, binarize
        self.size, self.crop, self.grey = size, crop, grey
        self.shape = tuple(self.pixels([0]).shape[1:])

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, row: int) -> Tensor:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[Tensor]:
        """The rows, each ``[C, H, W]``. torch's loaders ask for a whole batch by this method."""
        pixels = self.pixels(rows)
        if tuple(pixels.shape[1:]) != self.shape:
            raise InputError(f"an image of {self.name!r} has the shape {list(pixels.shape[1:])}")
        if self.binarize == "dynamic":
            drawn = bernoulli(pixels).view(torch.uint8).float()
        elif self.binarize == "threshold":
            drawn = (pixels >= (128 if pixels.dtype == torch.uint8 else 0.5)).float()
        else:
            drawn = pixels / 255 if pixels.dtype == torch.uint8 else pixels
        return list(drawn)

    def pixels(self, rows: Sequence[int]) -> Tensor:
        """The stored pixels of rows, ``[B, C, H, W]``, uint8 or float32.

        Raises:
            InputError: images of different sizes, or pixels that are not numbers in [0, 1].
        """
        where = self.index[np.asarray(rows, dtype=np.int64)]
        if isinstance(self.source, np.ndarray):
            order = np.argsort(where)  # a disk is read faster in its own order
            some = np.empty((len(where), *self.source.shape[1:]), self.source.dtype)
            some[order] = self.source[where[order]]
            return to_pixels(some, self.name)
        images = [self.decoded(self.source[i]) for i in where]
        if len({image.shape for image in images}) > 1:
            sizes = sorted({" x ".join(map(str, image.shape)) for image in images})
            raise InputError(
                f"images of {self.name!r} have the sizes {', '.join(sizes[:3])} (height x width x "
                "channels); give a size, such as size=64"
            )
        return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy())

    def decoded(self, file: Path) -> NDArray[np.uint8]:
        """The pixels of an image file, ``[H, W, 1]`` if this set is grey, else ``[H, W, 3]``."""
        image = decode(file, self.size, self.crop, self.grey)
        if image.ndim == 2:
            image = image[..., None]
        return image if self.grey or image.shape[2] == 3 else image.repeat(3, axis=2)

    def sample(self, count: int = 10_000, seed: int = 0) -> Images:
        """Some images at random, in memory: what :meth:`VAE.for_data` measures.

        The levels of grey, the mean image and whether all pixels are 0 or 1 are then those of the
        sample, and not of all images.
        """
        random = np.random.RandomState(seed)
        rows = random.permutation(len(self))[:count].tolist()
        parts = [self.pixels(rows[i : i + 500]) for i in range(0, len(rows), 500)]
        return Images(torch.cat(parts)).binarized(self.binarize, random)


def open_images(
    path: str | Path,
    *,
    binarize: str = "none",
    test_fraction: float = 0.2,
    split_seed: int = 0,
    size: int | Sequence[int] | None = None,
    crop: bool = False,
    grey: bool = False,
) -> tuple[StoredImages, StoredImages]:
    """The training and the test images of a folder or a ``.npy`` file, without reading them.

    It serves images that do not fit into memory; :func:`~pyro_vae.data.load_data` reads all others
    faster. The split is random and not stratified by classes, and labels are not read.

    Args:
        path: a folder of image files, with or without sub-folders, or a ``.npy`` file of uint8 or
            float numbers in [0, 1] in one of the layouts of ``load_data``.
        binarize: ``none``, ``dynamic`` or ``threshold``.
        test_fraction: the share of the images that becomes the test set, in (0, 1).
        split_seed: seed of the split.
        size, crop, grey: as for ``load_data``. Without ``grey``, a folder is read as grey if its
            first 100 images are.

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
    if binarize == "static":
        raise InputError(
            "binarize='static' draws all images once, which needs them in memory; take dynamic or "
            "threshold, or load_data"
        )
    lookup("binarisation", binarize, BINARIZE)
    if not 0 < test_fraction < 1:
        raise InputError(f"test_fraction is a number between 0 and 1, not {test_fraction!r}")
    found, pair = find_path(path), check_size(size, crop)
    source: NDArray[Any] | list[Path]
    if found.is_dir():
        source = [file for file, _ in list_files(found)]
        few = [decode(file, pair, crop, grey) for file in source[:LOOKED]]
        grey = grey or all(image.ndim == 2 for image in few)
    else:
        if pair or grey:
            raise InputError("size, crop and grey change the image files of a folder")
        try:
            source = np.load(found, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise InputError(f"{str(found)!r} is not a readable .npy file ({error})") from None
        if not isinstance(source, np.ndarray):
            raise InputError(f"{str(found)!r} is no .npy file; an .npz file is read by load_data")
    if len(source) < 2:
        raise InputError(f"{str(found)!r} has fewer than 2 images, so there is no test set")
    order = np.random.RandomState(split_seed).permutation(len(source))
    held = min(max(round(len(order) * test_fraction), 1), len(order) - 1)
    options: Any = {"binarize": binarize, "size": pair, "crop": crop, "grey": grey}
    train, test = (
        StoredImages(str(found), source, part, **options) for part in (order[held:], order[:held])
    )
    return train, test

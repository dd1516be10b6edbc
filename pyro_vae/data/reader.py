"""Read single rows of image files or of a mapped array, as if all had been read at once."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from ..words import called, either
from .arrays import holds_images, to_pixels
from .imagefiles import decode, is_grey

LOOKED = 100
"""The images that are looked at to tell grey from colour, and masks from grey."""
HASHED = 200
"""The images whose bytes are a part of a checksum."""


@dataclass(frozen=True)
class Files:
    """Image files that are decoded when they are asked for.

    :func:`~.imagefiles.read_files` looks at all images to tell grey from colour and masks from
    grey. This class looks at :data:`LOOKED` of them. An image that is read later and contradicts
    them is an error.

    Args:
        root: the folder that the names start from.
        paths: the files.
        size, crop, grey: as for ``read_files``.
        dtype: the type of the pixels that are read.
    """

    root: Path
    paths: Sequence[Path]
    size: tuple[int, int] | None = None
    crop: bool = False
    grey: bool = False
    dtype: torch.dtype = torch.uint8

    def look(self) -> Look:
        """What some of the images tell about all; it is said where it changes the pixels."""
        few = [self.decoded(row) for row in spread(len(self.paths), LOOKED)]
        channels = 1 if all(map(is_grey, few)) else 3
        if channels == 1 and any(image.ndim == 3 for image in few):
            warnings.warn(
                f"the {len(few)} images of {str(self.root)!r} that were looked at are grey and "
                "stored as colour (R = G = B); all are read as one channel, as "
                f"{called('grey', True)} does",
                stacklevel=2,
            )
        return Look((channels, *few[0].shape[:2]), told_masks(few, str(self.root)))

    def decoded(self, row: int) -> NDArray[np.uint8]:
        """An image, ``[H, W]`` or ``[H, W, 3]``."""
        return decode(self.paths[row], self.size, self.crop, self.grey)

    def read(self, rows: NDArray[np.int64], look: Look) -> Tensor:
        """The pixels of rows, uint8 ``[B, C, H, W]``."""
        pixels = np.empty((len(rows), *look.shape), np.uint8)
        for place, row in zip(pixels, rows.tolist(), strict=True):
            image, path = self.decoded(row), self.paths[row]
            if image.shape[:2] != look.shape[1:]:
                (h, w), (_, height, width) = image.shape[:2], look.shape
                raise InputError(
                    f"image {str(path)!r} is {h} x {w} (height x width), and the first one is "
                    f"{height} x {width}; all images must have one size, which "
                    f"the options {called('size')} and {called('crop')} give them"
                )
            if look.shape[0] == 1 and not is_grey(image):
                raise InputError(
                    f"image {str(path)!r} has colour, and the images that were looked at have "
                    f"none; give {called('grey', True)}, or take it out of the folder"
                )
            if look.shape[0] == 1 and image.ndim == 3:
                image = image[..., 0]
            place[:] = image.transpose(2, 0, 1) if image.ndim == 3 else image
            look.check(place, str(path))
        return torch.from_numpy(look.scaled(pixels))

    def name(self, row: int) -> str:
        """The name of a file, from the folder on."""
        return self.paths[row].relative_to(self.root).as_posix()

    def digest(self) -> bytes:
        """Of the names and the sizes of all files, and of the bytes of some."""
        found = hashlib.blake2b(digest_size=16)
        for row, path in enumerate(self.paths):
            found.update(f"{self.name(row)} {path.stat().st_size}\n".encode())
        for row in spread(len(self.paths), HASHED):
            found.update(self.paths[row].read_bytes())
        return found.digest()

    def __len__(self) -> int:
        return len(self.paths)


class Mapped:
    """An array in a ``.npy`` file, which is mapped into memory and not read.

    Args:
        path: the file.

    Raises:
        InputError: it is not a readable ``.npy`` file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError):
            raise InputError(
                f"{str(path)!r} is not a .npy file, is cut short, or holds objects and not numbers"
            ) from None
        if not isinstance(array, np.ndarray):
            raise InputError(f"{str(path)!r} is not a .npy file; a .npz file cannot stay on disk")
        self.array: NDArray[Any] = array
        self.dtype = torch.float32 if array.dtype.kind == "f" else torch.uint8

    def __reduce__(self) -> Any:  # a process that reads maps the file itself
        return Mapped, (self.path,)

    def look(self) -> Look:
        """As :meth:`Files.look`."""
        name = str(self.path)
        if not holds_images(self.array[spread(len(self), LOOKED)]):
            raise InputError(
                f"the array {name!r} has shape {self.array.shape} and type {self.array.dtype}, and "
                "its numbers are not pixels; only images can stay on disk, so "
                f"{either('read it with load_data', 'leave --stream out')}"
            )
        few = to_pixels(self.array[spread(len(self), LOOKED)], name)
        masks = self.array.dtype == np.uint8 and told_masks([few.numpy()], name)
        return Look(tuple(few.shape[1:]), masks)

    def read(self, rows: NDArray[np.int64], look: Look) -> Tensor:
        """The pixels of rows, ``[B, C, H, W]``; float32 of an array of floats, else uint8."""
        order = np.argsort(rows)  # a disk is read faster in its own order
        some = np.empty((len(rows), *self.array.shape[1:]), self.array.dtype)
        some[order] = self.array[rows[order]]
        pixels = to_pixels(some, str(self.path))
        if self.dtype == torch.float32:
            # The type must not depend on the rows that are read together.
            return pixels / 255 if pixels.dtype == torch.uint8 else pixels
        look.check(pixels.numpy(), str(self.path))
        return torch.from_numpy(look.scaled(pixels.numpy()))

    def name(self, row: int) -> str:
        """The number of a row."""
        return str(row)

    def digest(self) -> bytes:
        """Of the shape and the type, and of the bytes of some rows."""
        found = hashlib.blake2b(f"{self.array.dtype} {self.array.shape}".encode(), digest_size=16)
        found.update(np.ascontiguousarray(self.array[spread(len(self), HASHED)]).data)
        return found.digest()

    def __len__(self) -> int:
        return len(self.array)


@dataclass(frozen=True)
class Look:
    """What some images tell about all.

    Args:
        shape: ``(C, H, W)``.
        masks: whether the pixels are 0 and 1, and 1 is white.
    """

    shape: tuple[int, ...]
    masks: bool

    def check(self, pixels: NDArray[np.uint8], name: str) -> None:
        """Raise :class:`~pyro_vae.errors.InputError` for grey among masks."""
        if self.masks and pixels.max() > 1:
            raise InputError(
                f"{name!r} has the pixel {pixels.max()}, and the images that were looked at are "
                "masks, with the values 0 and 1 only; write masks as 0 and 255"
            )

    def scaled(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The pixels, with 255 for 1 if they are masks."""
        return pixels * np.uint8(255) if self.masks else pixels


def spread(count: int, most: int) -> list[int]:
    """The numbers of at most so many rows, evenly spaced."""
    return np.linspace(0, count - 1, min(count, most)).astype(int).tolist()


def told_masks(few: Sequence[NDArray[np.uint8]], name: str) -> bool:
    """Whether images are masks; a warning tells it."""
    masks = few[0].dtype == np.uint8 and max(image.max() for image in few) == 1
    if masks:
        warnings.warn(
            f"the images of {name!r} that were looked at have 8 bits and only the values 0 and 1; "
            "all are read as masks, 1 is white (and not as grey of 1/255)",
            stacklevel=3,
        )
    return masks

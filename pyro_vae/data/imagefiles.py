"""The user's own images: a folder of image files, or an array in a .npy or .npz file."""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pyro_vae.data.images import Images
from pyro_vae.errors import InputError

SUFFIXES = (
    ".bmp",
    ".gif",
    ".jpeg",
    ".jpg",
    ".pbm",
    ".pgm",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)


def read_own(path: Path, test_fraction: float, seed: int) -> tuple[Images, Images]:
    """Read the user's own images and split them: ``(train, test)``.

    A folder holds images, or one sub-folder of images for each class; the order is that of the
    names. Folders called ``train`` and ``test``, and no others, are the split, and each is then
    such a folder. A .npz file holds the images, and their labels if need be.

    Raises:
        InputError: what is there is no images, or they cannot be read or do not fit together.
    """
    if not path.exists():
        raise InputError(f"there is no file or folder {str(path)!r}")
    if not path.is_dir():
        return read_array(path).split(test_fraction, seed)
    if {folder.name for folder in _visible(path) if folder.is_dir()} == {"train", "test"}:
        first = list_files(path / "train")
        images = read_files(path, first + list_files(path / "test"))
        index = torch.arange(len(images))
        return images.subset(index[: len(first)]), images.subset(index[len(first) :])
    return read_files(path, list_files(path)).split(test_fraction, seed)


def _visible(folder: Path) -> list[Path]:
    """What a folder holds, by name, without the hidden files that some systems leave there."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def list_files(folder: Path) -> list[tuple[Path, str | None]]:
    """The image files of a folder by name, each with its class; no sub-folders, no classes."""

    def images(where: Path) -> list[Path]:
        return [p for p in _visible(where) if p.suffix.lower() in SUFFIXES and not p.is_dir()]

    beside = [(file, None) for file in images(folder)]
    inside = [(file, sub.name) for sub in _visible(folder) if sub.is_dir() for file in images(sub)]
    if beside and inside:
        raise InputError(
            f"folder {str(folder)!r} holds images both beside and inside its sub-folders; "
            "keep all in the folder, or all in one sub-folder for each class"
        )
    if not beside and not inside:
        raise InputError(
            f"folder {str(folder)!r} holds no images, and its sub-folders hold none "
            f"({', '.join(SUFFIXES)})"
        )
    return [*beside, *inside]


def read_files(root: Path, files: list[tuple[Path, str | None]]) -> Images:
    """Decode image files of one size; grey ones become colour only where others are colour."""
    arrays = [decode(file) for file, _ in files]
    for (file, _), array in zip(files, arrays, strict=True):
        if array.shape[:2] != arrays[0].shape[:2]:
            (h, w), (first_h, first_w) = array.shape[:2], arrays[0].shape[:2]
            raise InputError(
                f"image {str(file)!r} is {h} x {w} (height x width), but {str(files[0][0])!r} is "
                f"{first_h} x {first_w}; all images must have one size"
            )
    channels = 3 if any(array.ndim == 3 for array in arrays) else 1
    pixels = np.empty((len(files), channels, *arrays[0].shape[:2]), dtype=np.uint8)
    for image, array in zip(pixels, arrays, strict=True):
        image[:] = array.transpose(2, 0, 1) if array.ndim == 3 else array
    names = [name for _, name in files if name is not None]
    classes = tuple(sorted(set(names)))
    return Images(
        torch.from_numpy(pixels),
        torch.tensor([classes.index(n) for n in names]) if len(names) == len(files) else None,
        classes if len(names) == len(files) else (),
        tuple(file.relative_to(root).as_posix() for file, _ in files),
    )


def decode(file: Path) -> NDArray[np.uint8]:
    """The pixels of an image file, upright: ``[H, W]`` if grey, ``[H, W, 3]`` if colour.

    What is transparent lies over black: a pixel is its colour times its alpha.
    """
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
    # Pillow's readers raise SyntaxError and ValueError, too, for files that are damaged.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(
            f"image {str(file)!r} is unreadable or cut short ({error}); "
            "take it out of the folder or replace it"
        ) from None
    if image.mode.startswith(("I", "F")):
        raise InputError(
            f"image {str(file)!r} has pixels of more than 8 bits (mode {image.mode}); "
            "allowed are 8 bits, grey or colour, or an array of floats in [0, 1]"
        )
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, "black")
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return np.asarray(image.convert(mode))


def read_array(path: Path) -> Images:
    """Read a .npy file, or a .npz file with ``images`` (or a single array) and ``labels``."""
    if path.suffix.lower() not in (".npy", ".npz"):
        raise InputError(f"{str(path)!r} is neither a folder of images nor a .npy or .npz file")
    try:
        with open(path, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            arrays = {"images": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except (OSError, ValueError, EOFError, BadZipFile, ZlibError):
        raise InputError(
            f"the array file {str(path)!r} is unreadable: damaged, not of that format, "
            "or holding objects and not numbers"
        ) from None
    labels = arrays.pop("labels", None)
    if "images" not in arrays and len(arrays) != 1:
        raise InputError(
            f"{str(path)!r} holds the arrays {', '.join(arrays) or '(none)'}; "
            "call the images 'images' and their classes, if any, 'labels'"
        )
    array = arrays["images"] if "images" in arrays else next(iter(arrays.values()))
    pixels = as_pixels(array, str(path))
    if labels is None:
        return Images(pixels)
    if labels.shape != (len(pixels),):
        raise InputError(
            f"the labels in {str(path)!r} have shape {labels.shape}; "
            f"there are {len(pixels)} images, so it must be ({len(pixels)},)"
        )
    classes, index = np.unique(labels, return_inverse=True)
    return Images(pixels, torch.from_numpy(index.astype(np.int64)), tuple(map(str, classes)))


def as_pixels(array: NDArray, name: str) -> torch.Tensor:
    """An array in one of the three layouts -> ``[N, C, H, W]``, uint8 where 8 bits suffice.

    Layouts are ``[N, H, W]``, ``[N, C, H, W]`` and ``[N, H, W, C]``, with 1 or 3 channels. The
    channels are the axis of size 1 or 3; if both could be, they come first.

    Values are uint8, bool, or float in [0, 1]. Floats that are whole 255ths are kept as uint8,
    others as float32. uint8 with nothing above 1 is black and white, 1 being white.
    """
    if array.ndim not in (3, 4):
        raise InputError(
            f"the array {name!r} has shape {array.shape}, of rank {array.ndim}; "
            "allowed are [N, H, W], [N, C, H, W] and [N, H, W, C]"
        )
    if array.size == 0:
        raise InputError(f"the array {name!r} holds no pixels: its shape is {array.shape}")
    if array.ndim == 3:
        array = array[:, None]  # [N, 1, H, W]
    elif array.shape[1] not in (1, 3):
        if array.shape[3] not in (1, 3):
            raise InputError(
                f"the array {name!r} has shape {array.shape}, with 1 or 3 channels neither "
                "second ([N, C, H, W]) nor last ([N, H, W, C])"
            )
        array = array.transpose(0, 3, 1, 2)  # [N, C, H, W]
    if array.dtype == np.bool_ or (array.dtype == np.uint8 and array.max() <= 1):
        array = array.astype(np.uint8) * 255
    elif np.issubdtype(array.dtype, np.floating):
        array = _bytes(array, name)
    elif array.dtype != np.uint8:
        raise InputError(
            f"the array {name!r} is of type {array.dtype}; "
            "allowed are uint8, bool, and float in [0, 1]"
        )
    return torch.from_numpy(np.ascontiguousarray(array))


def _bytes(array: NDArray, name: str) -> NDArray:
    """Floats in [0, 1] as uint8 if all are whole 255ths, else as float32."""
    missing = np.isnan(array).any(axis=(1, 2, 3))
    if missing.any():
        raise InputError(
            f"image {missing.argmax()} of the array {name!r} has NaN pixels ({missing.sum()} of "
            f"{len(array)} images have); allowed are numbers in [0, 1]"
        )
    low, high = array.min(), array.max()
    if low < 0 or high > 1:
        hint = "; divide them by 255" if low >= 0 and high <= 255 else ""
        raise InputError(
            f"the pixels of the array {name!r} run from {low:g} to {high:g}; "
            f"floats must lie in [0, 1]{hint}"
        )
    steps = np.rint(array * 255)
    if np.all(np.abs(steps / 255 - array) <= np.finfo(array.dtype).eps):
        return steps.astype(np.uint8)
    return array.astype(np.float32)

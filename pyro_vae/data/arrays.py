"""Read the user's own images or other numbers from an array in a .npy or .npz file."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import IO
from zipfile import ZipFile, ZipInfo

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray

from ..errors import InputError
from ..memory import check_memory, on_disk
from ..supports import ROUNDING, suggest_scaling
from .holed import fill_holes
from .images import Images
from .rounding import refuse_rounded

BESIDE = ("labels", "mask")
"""The arrays of a .npz file that stand beside the observations."""


def read_array(path: Path) -> Images:
    """Read a .npy file, or a .npz file with ``images`` (or a single array), ``labels``, ``mask``.

    Of a file that ``pyro-vae encode`` wrote, the posterior means are the observations. An array of
    images is read by :func:`to_pixels`, any other array by :func:`to_numbers`. NaN is a missing
    entry, and so is an entry that ``mask`` leaves out. A label that is an empty word is missing.

    Raises:
        InputError: the file is unreadable, or its arrays are not observations and their labels.
    """
    if path.suffix.lower() not in (".npy", ".npz"):
        raise InputError(
            f"{str(path)!r} is neither a folder of images, a .npy or .npz file, nor a table (.csv, "
            ".tsv, .parquet or .h5ad)"
        )
    if not path.is_file():  # to open a pipe would wait for ever
        raise InputError(f"{str(path)!r} is not a regular file but a pipe, a socket or a device")
    try:
        array, labels, observed = open_arrays(path)
    except InputError:
        raise
    except Exception:  # numpy and zipfile raise many kinds of errors for damaged files
        raise InputError(
            f"the array file {str(path)!r} is unreadable: it is damaged, has another format, "
            "or holds objects instead of numbers"
        ) from None
    array, observed = fill_holes(array, observed, path)
    if is_images := holds_images(array):
        pixels = masks_as_pixels(to_pixels(array, str(path)), f"the array in {str(path)!r}")
    else:
        pixels = to_numbers(array, str(path), observed)
    mask = None
    if observed is not None:  # the mask takes the same way, so that its layout is that of x
        mask = to_pixels(observed, "mask") > 0 if is_images else torch.from_numpy(observed)
    if labels is None:
        return Images(pixels, mask=mask)
    if labels.shape != (len(pixels),):
        raise InputError(
            f"the labels in {str(path)!r} have shape {labels.shape}; "
            f"there are {len(pixels)} images, so it must be ({len(pixels)},)"
        )
    check_labels(labels, path)
    classes, index = np.unique(labels, return_inverse=True)
    if missing := classes[0] == "":  # an empty word; it comes before all others
        classes, index = classes[1:], index - 1
    if missing and not len(classes):
        return Images(pixels, mask=mask)
    numbers = torch.from_numpy(index.astype(np.int64))
    return Images(pixels, numbers, tuple(map(str, classes)), mask=mask)


def holds_images(array: NDArray) -> bool:
    """Whether an array is one of images: the rank of images, and pixels of 8 bits, truth values, or
    floats in [0, 1] with 1 or 3 channels."""
    if array.ndim not in (3, 4) or array.dtype in (np.uint8, np.bool_):
        return array.ndim in (3, 4)
    channels = array.ndim == 3 or {array.shape[1], array.shape[3]} & {1, 3}
    if array.dtype.kind != "f" or not channels or array.size == 0:
        return False
    return bool(((array >= -ROUNDING) & (array <= 1 + ROUNDING) | np.isnan(array)).all())


def to_numbers(array: NDArray, name: str, observed: NDArray | None = None) -> torch.Tensor:
    """Convert an array ``[N, *shape]`` of real numbers, counts or categories to a tensor.

    Floats become float32, whole numbers a type that is not that of pixels. If the array has the
    rank of images, a warning tells that it is not read as images.

    Args:
        array: the observations.
        name: what error messages call the array.
        observed: where an entry was observed; None if all were.

    Raises:
        InputError: the array has no observations or holds no numbers, or a number is NaN, infinite
            or too large for float32, or numbers are too near each other for it.
    """
    if array.dtype.kind not in "biuf":
        raise InputError(
            f"the array {name!r} is of type {array.dtype}; allowed are uint8, bool, whole numbers "
            "and floats"
        )
    if array.ndim < 2 or array.size == 0:
        raise InputError(
            f"the array {name!r} holds no observations: its shape is {array.shape}, and allowed is "
            "[N, *shape], such as vectors [N, D] or images [N, C, H, W]"
        )
    if array.dtype.kind != "f":
        numbers = array.astype(np.promote_types(array.dtype, np.int8))
        if numbers.dtype.kind == "f":  # uint64
            numbers = numbers.astype(np.int64)
    else:
        with np.errstate(over="ignore"):
            numbers = array.astype(np.float32)
        if not np.isfinite(numbers).all():
            place = tuple(np.argwhere(~np.isfinite(numbers))[0].tolist())
            raise InputError(
                f"the array {name!r} has the number {array[place]} at {list(place)}; allowed are "
                "finite numbers, in the range of float32"
            )
    refuse_rounded(array, observed, f"the array {name!r}")
    if array.ndim in (3, 4):
        low, high = float(numbers.min()), float(numbers.max())
        hint = suggest_scaling(low, high).replace("; ", "; for pixels: ", 1)
        warnings.warn(
            f"the array {name!r} has {array.dtype} numbers from {low:.7g} to {high:.7g}, and is "
            f"read as numbers of shape {list(array.shape[1:])} and not as pixels{hint}",
            stacklevel=3,
        )
    return torch.from_numpy(np.ascontiguousarray(numbers))


def check_labels(labels: NDArray, path: Path) -> None:
    """Raise an InputError unless the labels are whole numbers, words or truth values."""
    kind = labels.dtype.kind  # "f" are floats, which may hold whole numbers
    if kind not in "biuSUf" or (kind == "f" and not np.array_equal(labels, np.rint(labels))):
        raise InputError(
            f"the labels in {str(path)!r} are of type {labels.dtype}, and not all of them are "
            "whole numbers or words; each label names the class of an image"
        )


def open_arrays(path: Path) -> tuple[NDArray, NDArray | None, NDArray | None]:
    """The arrays of images, of labels and of the mask in a file."""
    with open(path, "rb") as file:
        is_zip = file.read(2) == b"PK"
        file.seek(0)
        if not is_zip:
            return read_npy(file, path.stat().st_size, path), None, None
        with ZipFile(file) as archive:
            members = {
                info.filename.removesuffix(".npy"): info
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
            candidates = [name for name in members if name not in BESIDE]
            if not candidates and "mask" in members:  # observations that are called so
                candidates = ["mask"]
            encoded = "images" not in members and {"loc", "scale"} <= members.keys()
            if encoded:
                candidates = ["loc"]
                named = {"classes": "labels"} if "classes" in members else {"labels": "labels"}
                kept = {"loc": "loc", **named}
                members = {kept[k]: info for k, info in members.items() if k in kept}
            if "images" not in members and len(candidates) != 1:
                raise InputError(
                    f"{str(path)!r} holds the arrays {', '.join(candidates) or '(none)'}; "
                    "call the images 'images', their classes, if any, 'labels', and the mask of "
                    "what was observed, if any, 'mask'"
                )
            refuse_more_images(archive, members, path)
            arrays = {}
            for name in ("images" if "images" in members else candidates[0], *BESIDE):
                if name in members and name not in arrays:
                    with archive.open(members[name]) as stream:
                        arrays[name] = read_npy(stream, members[name].file_size, path)
            array = arrays.pop(next(iter(arrays)))
            return array, arrays.get("labels"), arrays.get("mask")


def refuse_more_images(archive: ZipFile, members: dict[str, ZipInfo], path: Path) -> None:
    """Raise an InputError for a second array with the rank of images, which would be ignored."""
    for name in members.keys() - {"images", *BESIDE} if "images" in members else ():
        with archive.open(members[name]) as stream:
            shape, _ = read_header(stream)
        if len(shape) > 2:
            raise InputError(
                f"{str(path)!r} holds 'images' and also {name!r} of shape {shape}, which would not "
                "be read; keep one of the two, and for a split of your own give each part as a "
                "sub-folder of image files"
            )


def read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and the type of numbers of an array in the format of a .npy file."""
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype


def read_npy(stream: IO[bytes], size: int, path: Path) -> NDArray:
    """Read one array, and refuse a false header before numpy allocates what it claims.

    Args:
        stream: the array in the format of a .npy file.
        size: the number of bytes of ``stream``.
        path: the file that error messages name.
    """
    shape, dtype = read_header(stream)
    if dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError("not numbers, or a negative length")
    claimed, held = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if claimed > held:
        raise InputError(
            f"the array file {str(path)!r} is unreadable: its header claims an array of "
            f"{claimed:,} bytes, and {held:,} bytes follow it"
        )
    held_apart = {"instead": on_disk()} if path.suffix.lower() == ".npy" else {}
    check_memory(claimed, f"the array in {str(path)!r}", **held_apart)
    stream.seek(0)
    return npy.read_array(stream, allow_pickle=False)


def to_pixels(array: NDArray, name: str) -> torch.Tensor:
    """Convert an array in one of three layouts to ``[N, C, H, W]``.

    The layouts are ``[N, H, W]``, ``[N, C, H, W]`` and ``[N, H, W, C]``, with 1 or 3 channels. The
    axis of size 1 or 3 holds the channels; if two axes could, the second axis does.

    Values are uint8, bool, or float in [0, 1]. Floats that are all multiples of 1/255 become uint8,
    other floats become float32.

    Args:
        array: the images.
        name: what error messages call the array.

    Raises:
        InputError: the array has another layout, type or range.
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
                f"the array {name!r} has shape {array.shape}; 1 or 3 channels must be the second "
                "axis ([N, C, H, W]) or the last one ([N, H, W, C])"
            )
        array = array.transpose(0, 3, 1, 2)  # [N, C, H, W]
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif np.issubdtype(array.dtype, np.floating):
        array = convert_floats(array, name)
    elif array.dtype != np.uint8:
        raise InputError(
            f"the array {name!r} is of type {array.dtype}; "
            "allowed are uint8, bool, and float in [0, 1]"
        )
    return torch.from_numpy(np.ascontiguousarray(array))


def masks_as_pixels(pixels: torch.Tensor, name: str) -> torch.Tensor:
    """The pixels of a whole set, with 255 for 1 if the set is of masks: 8 bits, only 0 and 1.

    Read as grey, all of its images would be black. A warning tells that they are read as masks.

    Args:
        pixels: the pixels of all images of the set.
        name: what the warning calls the set.
    """
    if pixels.dtype != torch.uint8 or pixels.max() != 1:
        return pixels
    warnings.warn(
        f"{name} has 8 bits and only the values 0 and 1; it is read as masks, 1 is white (and not "
        "as grey of 1/255)",
        stacklevel=3,
    )
    return pixels * 255


def convert_floats(array: NDArray, name: str) -> NDArray:
    """Floats in [0, 1] as uint8 if all are multiples of 1/255, else as float32."""
    missing = np.isnan(array).any(axis=(1, 2, 3))
    if missing.any():
        raise InputError(
            f"image {missing.argmax()} of the array {name!r} has NaN pixels ({missing.sum()} of "
            f"{len(array)} images have); allowed here are numbers in [0, 1]"
        )
    low, high = float(array.min()), float(array.max())
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise InputError(
            f"the pixels of the array {name!r} run from {low:.7g} to {high:.7g}; "
            f"floats must be in [0, 1]{suggest_scaling(low, high)}"
        )
    if low < 0 or high > 1:
        array = array.clip(0, 1)
    steps = np.rint(array * 255)
    if np.all(np.abs(steps / 255 - array) <= np.finfo(array.dtype).eps):
        return steps.astype(np.uint8)
    return array.astype(np.float32)

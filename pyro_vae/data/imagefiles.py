"""Decode image files to pixels of one size."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from ..errors import InputError
from ..memory import check_memory, on_disk
from ..words import called
from .arrays import masks_as_pixels
from .images import Images

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""The formats that are read, whatever the name of a file is. For EPS, Pillow would run the
PostScript of the file in an external program."""


def read_files(
    root: Path,
    files: list[tuple[Path, str | None]],
    size: tuple[int, int] | None = None,
    crop: bool = False,
    grey: bool = False,
) -> Images:
    """Decode image files. Grey images get three channels if any image has colour.

    If all images are grey, those that store it as colour (R = G = B) are read as one channel. If
    all have only the values 0 and 1, they are masks and 1 is white. A warning tells both.

    Args:
        root: the folder that the names of the files start from.
        files: each file with its class, or with None. The images have labels only if all
            files have a class.
        size: ``(H, W)`` that each image is resized to.
        crop: whether an image of another aspect ratio loses its edges.
        grey: whether colour becomes grey.

    Raises:
        InputError: a file is unreadable, would lose something, or has another size.
    """
    if size is not None:
        height, width = size
        check_memory(len(files) * height * width, f"images of {height} x {width} pixels", on_disk())
    arrays: list[NDArray[np.uint8]] = []
    for file, _ in files:
        array = decode(file, size, crop, grey)
        if not arrays:
            check_memory(len(files) * array.nbytes, f"the images of {str(root)!r}", on_disk())
        elif array.shape[:2] != arrays[0].shape[:2]:
            (h, w), (first_h, first_w) = array.shape[:2], arrays[0].shape[:2]
            raise InputError(
                f"image {str(file)!r} is {h} x {w} (height x width), but {str(files[0][0])!r} is "
                f"{first_h} x {first_w}; all images must have one size, which "
                f"the options {called('size')} and {called('crop')} give them"
            )
        arrays.append(array)
    if any(array.ndim == 3 for array in arrays) and all(map(is_grey, arrays)):
        warnings.warn(
            f"the images of {str(root)!r} are grey and stored as colour (R = G = B); they are read "
            f"as one channel, as {called('grey', True)} does",
            stacklevel=2,
        )
        arrays = [array[..., 0] if array.ndim == 3 else array for array in arrays]
    channels = 3 if any(array.ndim == 3 for array in arrays) else 1
    pixels = np.empty((len(files), channels, *arrays[0].shape[:2]), dtype=np.uint8)
    for image, array in zip(pixels, arrays, strict=True):
        image[:] = array.transpose(2, 0, 1) if array.ndim == 3 else array
    names = [name for _, name in files if name is not None]
    classes = tuple(sorted(set(names)))
    number = {name: i for i, name in enumerate(classes)}
    labelled = len(names) == len(files)
    return Images(
        masks_as_pixels(torch.from_numpy(pixels), f"the set of images in {str(root)!r}"),
        torch.tensor([number[name] for name in names]) if labelled else None,
        classes if labelled else (),
        tuple(file.relative_to(root).as_posix() for file, _ in files),
    )


def is_grey(array: NDArray[np.uint8]) -> bool:
    """Whether the pixels ``[H, W]`` or ``[H, W, 3]`` have no colour."""
    return array.ndim == 2 or bool((array == array[..., :1]).all())


def decode(
    file: Path, size: tuple[int, int] | None = None, crop: bool = False, grey: bool = False
) -> NDArray[np.uint8]:
    """The pixels of an image file, upright: ``[H, W]`` if grey, ``[H, W, 3]`` if colour.

    A transparent pixel is its colour times its alpha, as if it were over black.

    Raises:
        InputError: the file is unreadable, would lose something, or does not fit ``size``.
    """
    try:
        with Image.open(file, formats=FORMATS) as opened:
            check_content(opened, file)
            if is_transparent(opened):
                warnings.warn(
                    "some images have transparent pixels, which are read as if over black",
                    stacklevel=2,
                )
            image = flatten(ImageOps.exif_transpose(opened))
    except InputError:
        raise
    except Exception as error:  # Pillow raises many kinds of errors for damaged files
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"image {str(file)!r} is unreadable or cut short ({reason}); "
            "take it out of the folder or replace it"
        ) from None
    if grey:
        image = image.convert("L")
    if size is not None:
        image = resize(image, size, crop, file)
    return np.asarray(image)


def check_content(opened: ImageFile.ImageFile, file: Path) -> None:
    """Raise an InputError for an image that Pillow would read only in part.

    The second picture of an MPO file is not counted: cameras put a preview of the first one there.
    """
    # getattr: Pillow gives only the formats that can hold several frames this attribute.
    frames = 1 if opened.format == "MPO" else getattr(opened, "n_frames", 1)
    if frames > 1:
        raise InputError(
            f"image {str(file)!r} holds {frames} pages or frames; save each of them as a file"
        )
    if opened.mode.startswith(("I", "F")) or has_16_bit_channels(opened):
        raise InputError(
            f"image {str(file)!r} has pixels of more than 8 bits in a channel; "
            "allowed are 8 bits, grey or colour, or an array of floats in [0, 1]"
        )


def has_16_bit_channels(opened: ImageFile.ImageFile) -> bool:
    """Whether the file stores more than 8 bits in a channel of a colour image.

    Pillow has no such mode and cuts these pixels to 8 bits without a warning, so the answer comes
    from what its reader of each format found in the file's header.
    """
    if opened.format == "TIFF":
        bits_per_sample = 258
        return max(opened.tag_v2.get(bits_per_sample, (1,))) > 8  # type: ignore[attr-defined]
    layout = opened.tile[0][3] if opened.tile else None
    if opened.format == "PPM" and isinstance(layout, tuple):
        return any(isinstance(highest, int) and highest > 255 for highest in layout)
    return opened.format == "PNG" and isinstance(layout, str) and layout.endswith(";16B")


def is_transparent(image: Image.Image) -> bool:
    """Whether a pixel is not opaque."""
    if not image.has_transparency_data:
        return False
    return bool((np.asarray(image.convert("RGBA"))[..., 3] < 255).any())


def flatten(image: Image.Image) -> Image.Image:
    """The image without transparency and palette: mode L if it is grey, else RGB."""
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    has_palette = image.mode.startswith("P")
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, "black")
        image = Image.alpha_composite(black, image.convert("RGBA"))
    image = image.convert(mode)
    if has_palette:  # GIF has no other kind of grey
        red, green, blue = image.split()
        if red == green == blue:
            return red
    return image


def resize(image: Image.Image, size: tuple[int, int], crop: bool, file: Path) -> Image.Image:
    """Resize an image until it covers ``size`` = ``(H, W)``, and keep the centre.

    Raises:
        InputError: without ``crop``, more than half a pixel of the result would be cut off.
    """
    height, width = size
    scale = max(height / image.height, width / image.width)
    excess = max(image.height * scale - height, image.width * scale - width)
    if excess > 0.5 and not crop:
        raise InputError(
            f"image {str(file)!r} is {image.height} x {image.width} (height x width) and has "
            f"another aspect ratio than size {height} x {width}; give {called('crop', True)} to "
            "cut its edges off, or another size"
        )
    return ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)

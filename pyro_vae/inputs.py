"""What users hand to a VAE as images: tensors, NumPy arrays and PIL images."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from .data import Images
from .data.arrays import to_pixels
from .data.imagefiles import flatten, is_grey
from .errors import InputError
from .latents import Shape


def as_tensor(x: Any, shape: Shape, module: nn.Module) -> Tensor:
    """An array or a PIL image as a tensor on the module's device.

    The values of a tensor are x itself. It stays on its own device, and the VAE's programs check
    its shape. A NumPy array holds uint8 (x = k / 255), bool (0 or 1) or float in [0, 1], whatever
    the other images of the call are. Its layout is ``[B, C, H, W]``, ``[B, H, W, C]`` or, of grey
    images, ``[B, H, W]``. One image, a tensor or an array without the first axis or a PIL image,
    becomes a batch of one.

    Args:
        x: the images.
        shape: ``(C, H, W)`` of one image.
        module: the module that takes them.

    Raises:
        InputError: something else, or an array or a PIL image of another shape.
    """
    if isinstance(x, Tensor):
        return x[None] if x.shape == shape else x  # the VAE's programs check a batch
    if isinstance(x, Image.Image):
        x = from_pil(x, shape[0])
    if not isinstance(x, np.ndarray):
        raise InputError(
            "images are a tensor [B, C, H, W], a NumPy array or a PIL image, not a "
            f"{type(x).__name__}"
        )
    c, h, w = shape
    last = x.shape[1:]
    if x.shape in (shape, (h, w, c)) or (c == 1 and x.shape == (h, w)):
        x, last = x[None], x.shape
    elif last not in (shape, (h, w, c)) and not (c == 1 and last == (h, w)):
        raise InputError(
            f"expected images of shape {list(shape)} or {[h, w, c]}, one or a batch of them, not "
            f"an array of shape {list(x.shape)}"
        )
    if last != shape and len(last) == 3:
        x = x.transpose(0, 3, 1, 2)  # [B, C, H, W]
    pixels = to_pixels(x.copy(), "x")  # torch does not take arrays that are read-only
    device = next(chain(module.parameters(), module.buffers()), torch.zeros(())).device
    return Images(pixels).batch(slice(None)).to(device)


def one_image(x: Any, shape: Shape, module: nn.Module) -> Tensor:
    """One image as a batch of one, ``[1, C, H, W]``; as :func:`as_tensor`.

    Raises:
        InputError: several images, or one of another shape.
    """
    x = as_tensor(x, shape, module)
    if x.shape != (1, *shape):
        raise InputError(
            f"expected one image of shape {list(shape)}, not {list(x.shape)}; give one image of a "
            "batch, such as x[0]"
        )
    return x


def from_pil(image: Image.Image, channels: int) -> Any:
    """The pixels of a PIL image as ``load_data`` reads them from a file, as a NumPy array."""
    if image.mode.startswith(("I", "F")):
        raise InputError(
            f"the PIL image has the mode {image.mode!r}, with more than 8 bits in a channel; give "
            "8 bits, grey or colour, or an array of floats in [0, 1]"
        )
    image = flatten(ImageOps.exif_transpose(image))
    pixels = np.asarray(image.convert("RGB") if channels == 3 else image)
    return pixels[..., 0] if channels == 1 and is_grey(pixels) and pixels.ndim == 3 else pixels

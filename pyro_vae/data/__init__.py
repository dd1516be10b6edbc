"""Load a data set: a name of the table, or the user's own images.

    data = load("mnist-5k", binarize="dynamic")
    for x in data.train.batches(128, shuffle=True):     # [B, C, H, W]
        svi.step(x)

Binarisation is a property of the data, and part of a result's protocol:

- ``none``: the grey pixels as they are, pixel / 255;
- ``dynamic``: x ~ Bernoulli(pixel / 255), drawn anew each time an image is asked for
  (Burda, Grosse & Salakhutdinov, 2016, https://arxiv.org/abs/1509.00519);
- ``static``: the same draw, made once with a seed. It is a draw of our own and not the files of
  Larochelle & Murray (2011), so that its results stand beside theirs and not among them;
- ``threshold``: 1 where pixel / 255 >= 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from pyro_vae.data.datasets import DATASETS, DataSet, data_folder
from pyro_vae.data.imagefiles import read_own
from pyro_vae.data.images import BINARIZE, Images
from pyro_vae.errors import InputError
from pyro_vae.registry import lookup

__all__ = ["BINARIZE", "DATASETS", "Data", "DataSet", "Images", "data_folder", "load"]


@dataclass(frozen=True)
class Data:
    """A data set with its split: ``train`` and ``test``, each :class:`Images`."""

    name: str
    train: Images
    test: Images

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of one image."""
        return self.train.shape

    def to(self, device: str | torch.device) -> Data:
        """The same data on another device."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


def load(
    name: str | Path,
    *,
    data_dir: str | Path | None = None,
    binarize: str = "none",
    binarize_seed: int = 0,
    split_seed: int = 0,
    test_fraction: float = 0.2,
) -> Data:
    """Load a data set of :data:`DATASETS`, or the user's own images, split and binarised.

    Args:
        name: a name of the table, or the path of a folder of images, a .npy or an .npz file.
        data_dir: where downloaded sets lie; else ``PYRO_VAE_DATA_DIR``, else a per-user cache.
        binarize: ``none``, ``dynamic``, ``static`` or ``threshold``.
        binarize_seed: seed of the ``static`` draw.
        split_seed: seed of the split of the user's own images; sets of the table keep the
            split that they are known by.
        test_fraction: share of the user's own images that is held out, in [0, 1). With 0 the
            test set is empty and the images keep their order.

    Raises:
        InputError: an unknown name; images that cannot be read or do not fit together; a set
            that is not on disk and cannot be downloaded.

    Example:
        >>> data = load("digits", binarize="threshold")
        >>> data.train.batch([0, 1]).shape
        torch.Size([2, 1, 8, 8])
    """
    lookup("binarisation", binarize, BINARIZE)
    if str(name) in DATASETS:
        train, test = DATASETS[str(name)].read(str(name), data_folder(data_dir))
    else:
        train, test = read_own(_path(name), test_fraction, split_seed)
    random = np.random.RandomState(binarize_seed)
    return Data(str(name), train.binarized(binarize, random), test.binarized(binarize, random))


def _path(name: str | Path) -> Path:
    """The path that ``name`` is; a word that is none was meant as a name of the table."""
    path = Path(name).expanduser()
    if path.exists() or len(path.parts) > 1 or path.suffix in (".npy", ".npz"):
        return path
    try:
        lookup("data set", str(name), DATASETS)
    except InputError as error:
        raise InputError(
            f"{error}; or the path of a folder of images, a .npy or a .npz file"
        ) from None
    return path

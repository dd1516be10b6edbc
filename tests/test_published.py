"""Published splits from small files of their formats: static MNIST and the Omniglot of Burda."""

import gzip

import numpy as np
import pytest
import torch
from scipy.io import savemat
from support.commands import TINY, typed

from pyro_vae import InputError, load_data
from pyro_vae.data import open_data
from pyro_vae.runs.folder import read_config, read_history
from pyro_vae.words import protocol_of

PARTS = {"train": ("train", 20), "valid": ("validation", 6), "test": ("test", 5)}


@pytest.fixture
def amat(tmp_path):
    """A folder of static MNIST, and the pixels of each part, ``[N, 784]`` of 0 and 1."""
    folder, pixels = tmp_path / "static", {}
    folder.mkdir()
    for name, (part, count) in PARTS.items():
        pixels[part] = np.random.RandomState(count).randint(2, size=(count, 784))
        np.savetxt(folder / f"binarized_mnist_{name}.amat", pixels[part], fmt="%d")
    return folder, pixels


@pytest.mark.parametrize("packed", [False, True])
def test_static_mnist_is_read_from_its_three_files(amat, packed):
    """``np.loadtxt`` is the reference."""
    folder, pixels = amat
    if packed:
        for file in list(folder.iterdir()):
            file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
    else:
        read = np.loadtxt(folder / "binarized_mnist_test.amat")
        assert (read == pixels["test"]).all()
    data = load_data(folder)
    for part, rows in pixels.items():
        x = getattr(data, part).batch(slice(None))
        assert torch.equal(x, torch.from_numpy(rows).float().view(-1, 1, 28, 28))
    assert data.train.is_binary
    assert load_data(folder, validation=0).validation is None
    assert torch.equal(load_data(folder, binarize="static").train.pixels, data.train.pixels)


HARMS = {
    "short line": lambda text: text.replace("0 ", "", 1),
    "no spaces": lambda text: text.replace(" ", ""),
    "grey": lambda text: text.replace("1", "2", 1),
    "one line": lambda text: text.replace("\n", " "),
    "empty": lambda text: "",
}


@pytest.mark.parametrize("harm", HARMS)
def test_another_format_is_refused(amat, harm):
    folder, _ = amat
    file = folder / "binarized_mnist_valid.amat"
    file.write_text(HARMS[harm](file.read_text()))
    with pytest.raises(InputError, match=r"_valid.amat' does not have lines of 784 zeros and ones"):
        load_data(folder)


def test_what_does_not_fit_static_mnist_is_one_sentence(amat):
    folder, _ = amat
    with pytest.raises(InputError, match="has 6 validation images of its own"):
        load_data(folder, validation=3)
    with pytest.raises(InputError, match="size, crop and grey change the image files"):
        load_data(folder, size=14)
    with pytest.raises(InputError, match="holds no images"):
        open_data(folder)
    (folder / "binarized_mnist_test.amat").unlink()
    with pytest.raises(InputError, match=r"_test.amat' cannot be read"):
        load_data(folder)


def test_a_run_on_static_mnist_has_its_validation_images(amat, tmp_path, capsys):
    folder, _ = amat
    run = tmp_path / "run"
    assert typed(["train", "--data", folder, *TINY[3:], "--epochs", 1, "--out", run]) == 0
    assert read_config(run)["data"] == {
        "name": str(folder),
        "binarize": "none",
        "validation": None,
    }
    assert read_history(run)[0].measured_on == "validation"
    capsys.readouterr()
    for split, count in (("validation", 6), ("test", 5), ("all", 31)):
        out = tmp_path / "z.npz"
        assert typed(["encode", run, "--split", split, "--out", out]) == 0
        assert len(np.load(out)["loc"]) == count
    assert capsys.readouterr().err == ""  # the images are those of the run
    assert typed(["train", "--resume", run, "--epochs", 2]) == 0


def test_a_static_draw_of_our_own_is_called_so():
    assert protocol_of("static") == "static binarisation by a draw of our own"


@pytest.fixture
def chardata(tmp_path):
    """A ``chardata.mat``, and its upright images ``[N, 28, 28]``."""
    random = np.random.RandomState(0)
    images = {name: random.rand(count, 28, 28) for name, count in (("data", 40), ("testdata", 9))}
    # MATLAB stores an image column by column.
    content = {name: x.transpose(0, 2, 1).reshape(len(x), 784).T for name, x in images.items()}
    for name, part in (("target", "data"), ("testtarget", "testdata")):
        count = len(images[part])
        content[name] = np.eye(50)[:, np.arange(count) % 50]
    savemat(tmp_path / "chardata.mat", content)
    return tmp_path / "chardata.mat", images


def test_omniglot_is_read_upright_with_the_split_of_its_file(chardata):
    path, images = chardata
    data = load_data(path, validation=0)
    for part, name in (("train", "data"), ("test", "testdata")):
        read = getattr(data, part)
        expected = torch.from_numpy(images[name]).float()[:, None]
        assert torch.equal(read.batch(slice(None)), expected)
        assert read.labels.tolist() == list(range(len(expected)))
        assert len(read.classes) == 50
    cut = load_data(path, binarize="dynamic")
    assert [len(p) for p in (cut.train, cut.validation, cut.test)] == [36, 4, 9]


def test_a_run_on_omniglot_has_its_split(chardata, tmp_path, capsys):
    path, _ = chardata
    run = tmp_path / "run"
    ask = ["train", "--data", path, "--binarize", "dynamic", "--likelihood", "bernoulli"]
    assert typed([*ask, *TINY[3:], "--epochs", 1, "--out", run]) == 0
    capsys.readouterr()
    for split, count in (("train", 36), ("validation", 4), ("test", 9), ("all", 49)):
        assert typed(["encode", run, "--split", split, "--out", tmp_path / "z.npz"]) == 0
        assert len(np.load(tmp_path / "z.npz")["loc"]) == count
    assert typed(["score", run, "--samples", 2, "--out", tmp_path / "s.csv"]) == 0
    assert capsys.readouterr().err == ""
    assert typed(["train", "--resume", run, "--epochs", 2]) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"other": np.zeros((784, 3))}, r"'data' is an array of numbers \[784, N\]"),
        ({"data": np.zeros((3, 784))}, r"this one has shape \[3, 784\]"),
        ({"data": np.full((784, 3), 2.0)}, r"numbers that are not in \[0, 1\]"),
        ({"data": np.full((784, 3), np.nan)}, r"numbers that are not in \[0, 1\]"),
        ({"data": np.zeros((784, 3)), "target": np.zeros((50, 3))}, "one alphabet for each image"),
    ],
)
def test_another_mat_file_is_refused(tmp_path, content, message):
    savemat(tmp_path / "a.mat", content)
    with pytest.raises(InputError, match=message):
        load_data(tmp_path / "a.mat")


def test_a_mat_file_that_is_none_is_one_sentence(tmp_path):
    (tmp_path / "a.mat").write_text("no")
    with pytest.raises(InputError, match=r"a.mat' is not a .mat file that can be read"):
        load_data(tmp_path / "a.mat")
    with pytest.raises(InputError, match=r"there is no file or folder 'b.mat'"):
        load_data("b.mat")

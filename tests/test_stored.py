"""Images that stay on disk: the same rows as in memory, and training on them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from pyro_vae import VAE, InputError, elbo, fit, load_data
from pyro_vae.batch import Batch
from pyro_vae.data import Images, open_data, reader
from pyro_vae.data.stored import bernoulli
from pyro_vae.ranks.rows import OwnRows
from pyro_vae.streams import source_of


@pytest.fixture
def array(tmp_path):
    """The path of an array of 60 images of 6 x 5 pixels, and the array."""
    pixels = np.random.RandomState(0).randint(256, size=(60, 6, 5), dtype=np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    return tmp_path / "a.npy", pixels


def numbers(images) -> torch.Tensor:
    return torch.stack([images[i] for i in range(len(images))])


@pytest.mark.parametrize("kind", ["array", "folder"])
@pytest.mark.parametrize("binarize", ["none", "threshold"])
def test_the_rows_are_those_in_memory(kind, binarize, array, image_folder):
    path = array[0] if kind == "array" else image_folder[0]
    data = open_data(path, binarize=binarize)
    parts = data.train, data.validation, data.test
    whole = load_data(path, binarize=binarize, test_fraction=0).train
    expected = whole.batch(slice(None))
    assert [len(part) for part in parts] == ([43, 5, 12] if kind == "array" else [9, 1, 2])
    index = np.concatenate([part.index for part in parts])
    assert sorted(index.tolist()) == list(range(len(whole)))
    for part in parts:
        assert torch.equal(numbers(part), expected[part.index])
        assert part.shape == whole.shape


def write(file, pixels):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def save(kind, path):
    """Write 30 images of one kind; the path for ``load_data``."""
    pixels = np.random.RandomState(1).randint(256, size=(30, 4, 5), dtype=np.uint8)
    made = {
        "masks": (pixels > 99).astype(np.uint8),
        "truth": pixels > 99,
        "levels": (pixels / 255).astype(np.float32),
        "reals": (pixels / 256).astype(np.float32),
        "channels last": pixels.reshape(10, 4, 5, 3),
    }
    if kind in made or kind == "grey":
        np.save(path / "a.npy", made.get(kind, pixels))
        return path / "a.npy"
    for i, image in enumerate(pixels):
        part = ("train", "test", "val")[i % 3] if kind == "parts" else "."
        name = path / "images" / part / ("xyz"[i % 7 % 3]) / f"{i}.png"
        some_colour = kind == "mixed" and i % 9 == 0
        colour = some_colour or kind == "stored as colour"
        if colour:
            image = image[..., None].repeat(3, 2)
        if some_colour:
            image[0, 0] = (1, 2, 3)
        write(name, image)
    return path / "images"


KINDS = ["grey", "masks", "truth", "levels", "reals", "channels last"]
KINDS += ["classes", "parts", "mixed", "stored as colour"]


@pytest.mark.filterwarnings("ignore:the (images|30 images|array|set)")
@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_of_reading_have_the_same_images_in_the_same_split(kind, tmp_path):
    """Pixels, their type, labels, names and order are equal, so the reference is ``load_data``."""
    path = save(kind, tmp_path)
    stored, memory = open_data(path), load_data(path)
    parts = ("train", "test", "validation")
    for part, images in ((getattr(stored, p), getattr(memory, p)) for p in parts):
        read = part.loaded()
        assert read.pixels.dtype == images.pixels.dtype
        assert torch.equal(read.pixels, images.pixels)
        assert read.classes == images.classes
        assert (read.labels is None) == (images.labels is None)
        assert images.labels is None or torch.equal(read.labels, images.labels)
        assert images.files in (None, read.files)


def test_an_image_that_contradicts_those_that_were_looked_at_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "LOOKED", 3)
    colour = np.zeros((4, 5, 3), np.uint8)
    colour[0, 0] = (9, 8, 7)
    for i in range(8):
        write(tmp_path / "a" / f"{i}.png", colour if i == 1 else colour[..., 0])
        mask = np.full((4, 5), 7 if i == 1 else 1, np.uint8)
        write(tmp_path / "b" / f"{i}.png", mask)
    with pytest.raises(InputError, match=r"1.png' has colour, and the images that were looked at"):
        _ = open_data(tmp_path / "a").train.loaded(), open_data(tmp_path / "a").test.loaded()
    with pytest.warns(UserWarning, match="read as masks"):
        data = open_data(tmp_path / "b")
    with pytest.raises(InputError, match=r"1.png' has the pixel 7, and .* are masks"):
        _ = data.train.loaded(), data.test.loaded()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_grey_pixels_are_refused_where_a_likelihood_scores_only_0_and_1(dtype, tmp_path):
    np.save(tmp_path / "a.npy", np.full((9, 2, 2), 0.5, dtype))
    train = open_data(tmp_path / "a.npy").train
    with pytest.raises(InputError, match="has grey pixels, and the likelihood scores"):
        _ = replace(train, binary=True)[0]
    assert replace(train, binary=True, binarize="threshold")[0].unique().tolist() == [1.0]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_while_rows_are_read_is_one_sentence(workers, tmp_path):
    np.save(tmp_path / "a.npy", np.linspace(0, 1, 80, dtype=np.float32).round().reshape(20, 2, 2))
    train = open_data(tmp_path / "a.npy", workers=workers).train
    made = source_of(replace(train, binary=True), 7, None, None)
    np.lib.format.open_memmap(tmp_path / "a.npy")[:] = 0.5
    with pytest.raises(InputError, match=r"^an image of .* has grey pixels, .*, or another "):
        list(made.epoch(0, 1, 0, 1))


def epoch_of(part, number, own=None):
    """The numbers of the rows of each batch of an epoch, and the batches."""
    source = source_of(part, 7, None, None)
    source.own = own
    pieces = list(source.epoch(5, number, 0, 1))
    return [piece.numbers(0) for piece in pieces], [Batch.of(p.batch).args[0] for p in pieces]


def in_order(rows, batches):
    return torch.cat(batches)[np.argsort(np.concatenate(rows))]


def test_drawn_pixels_are_a_function_of_seed_epoch_and_row(array):
    """They depend neither on the number of processes that read, nor on those that train."""
    train = open_data(array[0], binarize="dynamic", validation=0).train
    rows, batches = epoch_of(train, 2)
    assert sorted(np.concatenate(rows)) == list(range(48))
    for workers in (1, 2):
        other, same = epoch_of(replace(train, workers=workers), 2)
        assert other == rows
        assert torch.equal(torch.cat(same), torch.cat(batches))
    three = [epoch_of(train, 2, OwnRows(rank, 3).begin) for rank in range(3)]
    assert [part[0] for part in three] == [rows] * 3
    for i, batch in enumerate(batches):  # of 7 rows, and a last one of 6
        mine = [part[1][i] for part in three]
        assert [len(x) for x in mine] == ([2, 2, 3] if len(batch) == 7 else [2, 2, 2])
        assert torch.equal(torch.cat(mine), batch)
    assert not torch.equal(in_order(rows, batches), in_order(*epoch_of(train, 3)))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_draw_of_a_row_has_the_mean_of_its_pixels(dtype):
    """Four standard errors of 4,000 draws, at each level of grey; 0 and 1 are exact."""
    pixels = torch.arange(256).to(torch.uint8)
    p = pixels.double() / 255
    stored = pixels if dtype == np.uint8 else p.float()
    mean = bernoulli(stored.expand(4000, 256), 3, np.arange(4000)).double().mean(0)
    assert ((mean - p).abs() <= 4.5 * (p * (1 - p) / 4000).sqrt()).all()


@pytest.mark.parametrize("dtype", [np.float32, np.bool_])
def test_floats_and_truth_values_are_read(dtype, tmp_path):
    pixels = np.random.RandomState(0).rand(8, 3, 4, 4)
    pixels = (pixels > 0.5) if dtype == np.bool_ else pixels.astype(dtype)
    np.save(tmp_path / "a.npy", pixels)
    train = open_data(tmp_path / "a.npy").train
    torch.testing.assert_close(numbers(train), torch.from_numpy(pixels[train.index]).float())


def test_dynamic_pixels_have_the_mean_of_the_grey_ones(array):
    train = open_data(array[0], binarize="dynamic").train
    drawn = sum(numbers(train) for _ in range(400)) / 400
    grey = torch.from_numpy(array[1][train.index][:, None]) / 255
    assert set(train[0].unique().tolist()) <= {0.0, 1.0}
    assert (drawn - grey).abs().mean() < 0.03


def test_training_is_that_of_the_same_rows_in_memory(array):
    """The same batches in the same order: the order of stored rows is a function of the seed."""
    data = open_data(array[0], binarize="threshold", validation=0)
    train, test = data.train, data.test
    memory = numbers(train)
    vae = VAE.for_data(train.sample(), 2, hidden=(8,))
    loader = DataLoader(train, batch_size=len(train))
    (record,) = fit(vae, loader, validation=test, epochs=1, seed=3)
    other = VAE.for_data(train.sample(), 2, hidden=(8,))
    other.load_state_dict(vae.state_dict())
    assert record.elbo == elbo(vae.model, vae.guide, numbers(test), seed=3).elbo
    assert record.train_elbo is None
    one, two = (
        fit(v, d, batch_size=100, epochs=3, start=None) for v, d in ((vae, train), (other, memory))
    )
    assert [e.loss for e in one] == [e.loss for e in two]


def test_a_sample_is_in_memory_and_is_measured_for_a_vae(array):
    train = open_data(array[0]).train
    some = train.sample(20)
    assert isinstance(some, Images)
    assert len(some) == 20
    rows = {tuple(row.flatten().tolist()) for row in train.pixels(range(len(train)))}
    assert all(tuple(row.flatten().tolist()) in rows for row in some.pixels)
    assert VAE.for_data(some, 2).config["likelihood"] == "discretized-logistic"


def test_images_of_two_sizes_are_refused_with_their_sizes(image_folder):
    folder, _ = image_folder
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "cats" / "99.png")
    data = open_data(folder)
    with pytest.raises(InputError, match=r"99.png' is 9 x 9 .*first one is 6 x 5.*options size"):
        _ = [part.pixels(range(len(part))) for part in (data.train, data.test)]
    data = open_data(folder, size=(6, 6), crop=True)
    assert numbers(data.train).shape[1:] == numbers(data.test).shape[1:] == (1, 6, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"binarize": "static"}, "needs them in memory; take dynamic or threshold"),
        ({"binarize": "dynamical"}, "did you mean dynamic"),
        ({"test_fraction": 1}, r"test fraction 1 is not in \[0, 1\)"),
        ({"size": 8}, "size, crop and grey change the image files of a folder"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message, array):
    with pytest.raises(InputError, match=message):
        open_data(array[0], **options)


def test_a_file_that_is_no_array_is_refused(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"not an array")
    with pytest.raises(InputError, match=r"is not a \.npy file"):
        open_data(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.zeros((1, 4, 4), np.uint8))
    with pytest.raises(InputError, match="has fewer than 2 images"):
        open_data(tmp_path / "b.npy")

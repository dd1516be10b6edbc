"""Images that stay on disk: the same rows as in memory, and training on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from pyro_vae import VAE, InputError, elbo, fit, load_data
from pyro_vae.data import Images, open_images


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
    parts = open_images(path, binarize=binarize)
    whole = load_data(path, binarize=binarize, test_fraction=0).train
    expected = whole.batch(slice(None))
    assert [len(part) for part in parts] == ([48, 12] if kind == "array" else [10, 2])
    index = np.concatenate([part.index for part in parts])
    assert sorted(index.tolist()) == list(range(len(whole)))
    for part in parts:
        assert torch.equal(numbers(part), expected[part.index])
        assert part.shape == whole.shape


@pytest.mark.parametrize("dtype", [np.float32, np.bool_])
def test_floats_and_truth_values_are_read(dtype, tmp_path):
    pixels = np.random.RandomState(0).rand(8, 3, 4, 4)
    pixels = (pixels > 0.5) if dtype == np.bool_ else pixels.astype(dtype)
    np.save(tmp_path / "a.npy", pixels)
    train, _ = open_images(tmp_path / "a.npy")
    torch.testing.assert_close(numbers(train), torch.from_numpy(pixels[train.index]).float())


def test_dynamic_pixels_have_the_mean_of_the_grey_ones(array):
    train, _ = open_images(array[0], binarize="dynamic")
    drawn = sum(numbers(train) for _ in range(400)) / 400
    grey = torch.from_numpy(array[1][train.index][:, None]) / 255
    assert set(train[0].unique().tolist()) <= {0.0, 1.0}
    assert (drawn - grey).abs().mean() < 0.03


def test_training_is_that_of_the_same_rows_in_memory(array):
    """The same batches in the same order: the order of stored rows is a function of the seed."""
    train, test = open_images(array[0], binarize="threshold")
    memory = numbers(train)
    vae = VAE.for_data(train.sample(), 2, hidden=(8,))
    loader = DataLoader(train, batch_size=len(train))
    (record,) = fit(vae, loader, test=test, epochs=1, seed=3)
    other = VAE.for_data(train.sample(), 2, hidden=(8,))
    other.load_state_dict(vae.state_dict())
    assert record.test_elbo == elbo(vae.model, vae.guide, numbers(test), seed=3).elbo
    assert record.train_elbo is None
    one, two = (
        fit(v, d, batch_size=100, epochs=3, start=None) for v, d in ((vae, train), (other, memory))
    )
    assert [e.loss for e in one] == [e.loss for e in two]


def test_a_sample_is_in_memory_and_is_measured_for_a_vae(array):
    train, _ = open_images(array[0])
    some = train.sample(20)
    assert isinstance(some, Images)
    assert len(some) == 20
    rows = {tuple(row.flatten().tolist()) for row in train.pixels(range(len(train)))}
    assert all(tuple(row.flatten().tolist()) in rows for row in some.pixels)
    assert VAE.for_data(some, 2).config["likelihood"] == "discretized-logistic"


def test_images_of_two_sizes_are_refused_with_their_sizes(image_folder):
    folder, _ = image_folder
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "cats" / "99.png")
    parts = open_images(folder)
    with pytest.raises(InputError, match=r"have the sizes 6 x 5 x 1, 9 x 9 x 1.*give a size"):
        _ = [part.pixels(range(len(part))) for part in parts]
    train, test = open_images(folder, size=(6, 6), crop=True)
    assert numbers(train).shape[1:] == numbers(test).shape[1:] == (1, 6, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"binarize": "static"}, "needs them in memory; take dynamic or threshold"),
        ({"binarize": "dynamical"}, "did you mean dynamic"),
        ({"test_fraction": 0}, "test_fraction is a number between 0 and 1, not 0"),
        ({"size": 8}, "size, crop and grey change the image files of a folder"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message, array):
    with pytest.raises(InputError, match=message):
        open_images(array[0], **options)


def test_a_file_that_is_no_array_is_refused(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"not an array")
    with pytest.raises(InputError, match=r"is not a readable \.npy file"):
        open_images(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.zeros((1, 4, 4), np.uint8))
    with pytest.raises(InputError, match="has fewer than 2 images"):
        open_images(tmp_path / "b.npy")

"""Numbers in sentences."""

from math import nan

import pytest

from pyro_vae.history import Epoch, collapsed
from pyro_vae.words import about, counted, plus_minus


def test_one_thing_is_not_several():
    texts = [counted(n, "image") for n in (0, 1, 2, 1000)]
    assert texts == ["0 images", "1 image", "2 images", "1,000 images"]


@pytest.mark.parametrize(("error", "text"), [(0.5, "-1.25 ± 0.50"), (nan, "-1.25")])
def test_a_mean_without_a_standard_error_stands_alone(error, text):
    assert plus_minus(-1.25, error) == text


def test_a_collapsed_layer_has_no_negative_kl():
    epoch = Epoch(1, 0, 0, 0, 0, 0, 0, kl_of_sites={"z": -0.036}, kl_of_units={"z": [0.0, 0.0]})
    assert "collapsed: 0.0000 nats" in collapsed(epoch)[0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("5 test images, nats per image", "5 test rows, nats per row"),
        ("images.npy, 3 images", "images.npy, 3 rows"),
        ("image_size of my/image.csv", "image_size of my/image.csv"),
    ],
)
def test_a_text_about_images_is_one_about_rows_without_names_of_files(text, told):
    assert about("row", text) == told

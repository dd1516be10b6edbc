"""The user's own images: folders, arrays, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae.data import Images, load
from pyro_vae.errors import InputError

RANDOM = np.random.RandomState(0)
GREYS = RANDOM.randint(256, size=(10, 6, 5), dtype=np.uint8)  # [N, H, W]
COLOURS = RANDOM.randint(256, size=(10, 3, 6, 5), dtype=np.uint8)  # [N, C, H, W]


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


def test_train_and_test_folders_are_the_split(tmp_path):
    for part, names in (("train", "bcd"), ("test", "ac")):
        for i, name in enumerate(names):
            save(tmp_path / part / name / f"{i}.png", GREYS[i + (part == "test") * 5])
    data = load(tmp_path)
    assert data.train.files == ("train/b/0.png", "train/c/1.png", "train/d/2.png")
    assert data.test.files == ("test/a/0.png", "test/c/1.png")
    assert data.train.classes == data.test.classes == tuple("abcd")
    assert data.test.labels.tolist() == [0, 2]
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
    "16 bits": (sixteen_bits, ["a.png' has", "8 bits"]),
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

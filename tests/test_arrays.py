"""The user's own images in arrays, and the errors about these arrays."""

from __future__ import annotations

import io
import os
import re
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib import format as npy
from support.pictures import COLOURS, GREYS, check_refusal, only

from pyro_vae import load_data, memory
from pyro_vae.data.arrays import read_array
from pyro_vae.errors import InputError


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
        (np.asfortranarray(GREYS), GREYS[:, None]),
    ],
)
def test_array_layouts(tmp_path, array, expected):
    pixels = only(saved(tmp_path, array)).pixels
    assert pixels.dtype == torch.uint8
    assert pixels.is_contiguous()
    np.testing.assert_array_equal(pixels.numpy(), expected)


def test_bytes_of_0_and_1_in_a_whole_array_are_masks_and_are_told(tmp_path):
    masks = (GREYS > 99).astype(np.uint8)
    with pytest.warns(UserWarning, match=r"array.npy' has 8 bits and only the values 0 and 1"):
        images = only(saved(tmp_path, masks))
    assert (images.pixels[:, 0].numpy() == masks * 255).all()
    masks[0, 0, 0] = 2  # one value more, and all are grey
    assert (only(saved(tmp_path, masks)).pixels[:, 0].numpy() == masks).all()
    assert (only(saved(tmp_path, masks * 0)).pixels == 0).all()  # black, without a warning


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


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("excess", [2.5e-7, -2.5e-7])
def test_floats_that_rounding_took_out_of_range_are_clipped(tmp_path, kind, excess):
    floats = np.random.RandomState(0).uniform(size=(4, 6, 5)).astype(kind)
    floats[1, 2, 3] = excess if excess < 0 else 1 + excess
    pixels = only(saved(tmp_path, floats)).pixels
    assert pixels.dtype == torch.float32
    assert (pixels[:, 0].numpy() == floats.clip(0, 1).astype(np.float32)).all()


def test_255ths_that_rounding_took_above_1_are_kept_as_bytes(tmp_path):
    floats = (GREYS / 255).astype(np.float32)
    floats[GREYS == 255] = np.nextafter(np.float32(1), np.float32(2))
    assert (only(saved(tmp_path, floats)).pixels[:, 0].numpy() == GREYS).all()


def test_npz_of_which_only_images_and_labels_are_read(tmp_path):
    """Other members, even unreadable ones, do not matter."""
    file = npz(tmp_path, images=GREYS, labels=np.arange(10), notes=np.array([None]))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("readme.txt", "a file that is not an array")
    assert (only(file).pixels[:, 0].numpy() == GREYS).all()


def test_nan_and_a_mask_are_missing_entries(tmp_path):
    """Grey images keep their 8 bits. The mask takes the layout of the pixels."""
    holes = np.random.RandomState(0).rand(*COLOURS.shape) < 0.3
    last = COLOURS.transpose(0, 2, 3, 1) / np.float64(255)
    last[holes.transpose(0, 2, 3, 1)] = np.nan
    for file in (saved(tmp_path, last), npz(tmp_path, images=COLOURS, mask=~holes)):
        images = only(file)
        assert images.pixels.dtype == torch.uint8
        np.testing.assert_array_equal(images.mask.numpy(), ~holes)
        np.testing.assert_array_equal(images.pixels.numpy(), np.where(holes, 0, COLOURS))
    vectors = np.random.RandomState(0).randn(9, 4)
    vectors[2, 1] = np.nan
    known = np.ones((9, 4), bool)
    known[0, 0] = False
    images = only(npz(tmp_path, x=vectors, mask=known))
    assert (~images.mask).nonzero().tolist() == [[0, 0], [2, 1]]
    np.testing.assert_array_equal(
        images.pixels.numpy(), np.where(images.mask, vectors, 0).astype(np.float32)
    )
    assert only(npz(tmp_path, mask=GREYS)).pixels.shape == (10, 1, 6, 5)  # a set of masks
    assert only(npz(tmp_path, images=GREYS, mask=np.ones(GREYS.shape, bool))).mask is None


# Bad input


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


def cut_npy(path):
    file = saved(path, GREYS)
    file.write_bytes(file.read_bytes()[:-40])
    return file


def array(value):
    return lambda path: saved(path, value)


def claims(shape, kind="|u1"):
    """The bytes of a .npy file whose header claims ``shape``, with 300 bytes behind it."""
    stream = io.BytesIO()
    npy.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    return stream.getvalue() + bytes(300)


def claiming(*shape):
    def make(path):
        (path / "a.npy").write_bytes(claims(shape))
        return path / "a.npy"

    return make


def claiming_npz(path):
    with zipfile.ZipFile(path / "a.npz", "w") as archive:
        archive.writestr("images.npy", claims((10**24, 28, 28)))
    return path / "a.npz"


def text_in_npz(path):
    with zipfile.ZipFile(path / "a.npz", "w") as archive:
        archive.writestr("images.txt", "no array")
    return path / "a.npz"


def pipe(path, name):
    os.mkfifo(path / name)
    return path / name


BAD = {
    "all NaN": (array(np.full((4, 6, 5), np.nan)), ["array.npy", "all entries", "missing"]),
    "infinite": (array(np.where(GREYS > 9, np.inf, 0.5)), ["number inf at [0, ", "finite"]),
    "infinite beside NaN": (
        array(np.array([[1.0, np.nan], [3.0, -np.inf]])),
        ["number -inf at [1, 1]", "finite"],
    ),
    "mask of numbers": (
        lambda path: npz(path, images=GREYS, mask=GREYS),
        ["mask", "uint8", "must be bool", "(10, 6, 5)"],
    ),
    "mask of rows": (
        lambda path: npz(path, images=GREYS, mask=np.ones(10, bool)),
        ["mask", "shape (10,)", "(10, 6, 5)"],
    ),
    "too large": (array(np.array([[1.0, 2.0], [3.0, 1e300]])), ["1e+300 at [1, 1]", "float32"]),
    "rank 1": (array(GREYS[:, 0, 0]), ["(10,)", "no observations", "[N, D]"]),
    "rank 0": (array(np.float32(1)), ["()", "no observations", "[N, D]"]),
    "no vectors": (array(np.zeros((0, 8))), ["(0, 8)", "no observations"]),
    "channels": (array(np.zeros((4, 2, 8, 8), np.uint8)), ["(4, 2, 8, 8)", "1 or 3 channels"]),
    "no pixels": (array(np.zeros((0, 8, 8), np.uint8)), ["no pixels", "(0, 8, 8)"]),
    "complex": (array(GREYS.astype(complex)), ["complex128", "uint8"]),
    "text": (array(GREYS.astype(str)), ["<U3", "uint8"]),
    "objects": (array(np.array([GREYS, None], dtype=object)), ["array.npy", "unreadable"]),
    "another array of images": (
        lambda path: npz(path, images=GREYS, test_images=GREYS),
        ["'test_images' of shape (10, 6, 5)", "would not be read"],
    ),
    "NaN labels": (lambda path: npz(path, images=GREYS, labels=np.full(10, np.nan)), ["float64"]),
    "half labels": (lambda path: npz(path, images=GREYS, labels=np.arange(10) / 2), ["float64"]),
    "complex labels": (
        lambda path: npz(path, images=GREYS, labels=np.arange(10) + 1j),
        ["complex128", "whole numbers or words"],
    ),
    "garbage npy": (lambda path: garbage(path, "a.npy"), ["a.npy", "unreadable"]),
    "garbage npz": (lambda path: garbage(path, "a.npz"), ["a.npz", "unreadable"]),
    "cut npz": (cut_npz, ["a.npz", "unreadable"]),
    "cut npy": (cut_npy, ["array.npy", "unreadable", "300 bytes, and 260 bytes"]),
    "false claim": (claiming(10**24), ["a.npy", "unreadable", "300 bytes follow"]),
    "claim of 64 bits": (claiming(2**32, 2**32), ["a.npy", "unreadable", "300 bytes follow"]),
    "claim of nothing": (claiming(0, 10**24, 8), ["a.npy", "unreadable"]),
    "negative claim": (claiming(-1, 10, 10), ["a.npy", "unreadable"]),
    "false claim in npz": (claiming_npz, ["a.npz", "unreadable", "300 bytes follow"]),
    "two arrays": (lambda p: npz(p, x_train=GREYS, x_test=GREYS), ["x_train, x_test", "'images'"]),
    "no arrays": (lambda path: npz(path), ["'images'"]),
    "only labels": (lambda path: npz(path, labels=np.arange(9)), ["(none)", "'images'"]),
    "only text": (text_in_npz, ["(none)", "'images'"]),
    "labels": (lambda path: npz(path, images=GREYS, labels=np.arange(9)), ["(9,)", "(10,)"]),
    "a label": (lambda path: npz(path, images=GREYS, labels=np.array(3)), ["()", "(10,)"]),
    "a pipe": (lambda path: pipe(path, "a.npy"), ["a.npy", "a pipe"]),
    "a folder": (lambda path: (path / "a.npy").mkdir() or path / "a.npy", ["holds no images"]),
}


NUMBERS = {
    "0 to 255": (GREYS / 1.0, r"from \d to 255, .* not as pixels; for pixels: divide them by"),
    "-1 to 1": (GREYS / 127.5 - 1, "shape .6, 5. and not as pixels; for pixels: if they were"),
    "overshot": (GREYS / 255 * 1.02, "if an interpolation overshot, clip them"),
    "int64": (GREYS.astype(np.int64), r"has int64 numbers from \d to 255"),
    "16 bits": (GREYS.astype(np.uint16), "has uint16 numbers"),
    "two channels": (np.random.RandomState(0).rand(10, 2, 4, 5), r"shape \[2, 4, 5\]"),
    "vectors": (GREYS.reshape(10, 30), None),
    "real vectors": (GREYS.reshape(10, 30) - 99.5, None),
    "truth values": (GREYS.reshape(10, 30) > 99, None),
    "volumes": (GREYS[:, None, None], None),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_an_array_that_is_not_of_images_is_read_as_numbers(case, tmp_path):
    """What has the rank of images is told."""
    numbers, words = NUMBERS[case]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        data = load_data(saved(tmp_path, numbers), test_fraction=0)
    assert data.shape == numbers.shape[1:]
    assert torch.equal(data.train.batch(slice(None)), torch.from_numpy(numbers * 1.0).float())
    assert len(told) == (words is not None)
    assert all(re.search(words, str(warning.message)) for warning in told)


@pytest.mark.parametrize("case", BAD)
def test_bad_array_is_one_sentence_and_leaves_nothing(case, tmp_path):
    make, parts = BAD[case]
    name = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    check_refusal(name, parts)
    assert sorted(tmp_path.rglob("*")) == before


def test_array_larger_than_memory_is_refused_before_it_is_read(tmp_path):
    """A sparse file: it has the bytes that its header claims, but takes no room on disk."""
    shape = (1 << 20, 1 << 12, 1 << 10)  # 4 TiB
    file = tmp_path / "a.npy"
    head = claims(shape)[:-300]
    file.write_bytes(head)
    try:
        os.truncate(file, len(head) + 2**42)
    except OSError:
        pytest.skip("this file system has no files of this size")
    check_refusal(file, ["a.npy", "4,398.0 GB", "of memory"])


def test_memory_is_that_of_the_machine(monkeypatch):
    memory.check_memory(10**6, "a megabyte")
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1000, "SC_PHYS_PAGES": 999}.__getitem__)
    with pytest.raises(InputError, match="a megabyte needs at least"):
        memory.check_memory(10**6, "a megabyte")


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_any_damage_is_an_input_error_or_none(tmp_path, suffix):
    random = np.random.RandomState(0)
    file = saved(tmp_path, GREYS) if suffix == "npy" else npz(tmp_path, images=GREYS)
    whole = np.frombuffer(file.read_bytes(), dtype=np.uint8)
    for _ in range(400):
        damaged = whole.copy()
        where = random.randint(160, size=random.randint(1, 4)) - (random.rand() < 0.3) * 160
        damaged[where] = random.randint(256, size=len(where))
        file.write_bytes(damaged.tobytes())
        with suppress(InputError):
            read_array(file)


NEAR = 1e6 + 0.01 * np.random.RandomState(0).randn(50, 2)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (NEAR, "from 999999.9.* to 1000000.0.* are too near each other for float32"),
        (np.where(np.arange(100).reshape(50, 2) % 7, NEAR, np.nan), "too near each other"),
        (NEAR * [1e-6, 1] - [1, 0], r"at \[:, 1\], which are too near each other"),
        (10**9 + np.arange(100).reshape(50, 2) % 9, "too near each other"),
        ((NEAR - 1e6) * 1e-300, "too near each other"),
        (((NEAR - 1e6) * 1e-38).astype(np.float32), "too near each other"),
    ],
)
def test_numbers_that_float32_does_not_hold_apart_are_refused(tmp_path, array, words):
    with pytest.raises(InputError, match=words):
        load_data(saved(tmp_path, array))


@pytest.mark.parametrize(
    "array",
    [
        NEAR.astype(np.float32),  # rounded already, not by us
        np.c_[NEAR[:, 0] - 1e6, np.full(50, 0.1)],  # a constant
        np.c_[NEAR[:, 0] - 1e6, 1 + 1e-16 * np.arange(50)],  # a constant, but for its rounding
        NEAR * 1000 - 1e9,
        np.where(np.arange(2) > 0, np.nan, NEAR - 1e6)[:, None],  # an entry that nobody observed
        np.arange(100).reshape(50, 2) + 2**20,
    ],
)
def test_other_numbers_are_read(tmp_path, array):
    load_data(saved(tmp_path, array))

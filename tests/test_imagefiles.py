"""Image files become pixels: formats, transparency, sizes, and what cannot be read."""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from support.pictures import COLOURS, GREYS, RANDOM, check_refusal, only, save
from torchvision.transforms import CenterCrop, Resize

from pyro_vae.data import load_data


def test_colour_is_three_channels_and_grey_beside_it_too(tmp_path):
    colour = COLOURS[0].transpose(1, 2, 0).copy()
    save(tmp_path / "a.png", colour)
    save(tmp_path / "b.png", GREYS[0])
    images = only(tmp_path)
    assert images.shape == (3, 6, 5)
    assert (images.pixels[0].numpy() == COLOURS[0]).all()
    assert (images.pixels[1].numpy() == GREYS[0]).all()


def test_files_of_0_and_1_are_masks_if_all_are(tmp_path):
    masks = (GREYS[:2] > 99).astype(np.uint8)
    for name, mask in zip("ab", masks, strict=True):
        save(tmp_path / f"{name}.png", mask)
    with pytest.warns(UserWarning, match="only the values 0 and 1; it is read as masks"):
        assert (only(tmp_path).pixels[:, 0].numpy() == masks * 255).all()
    save(tmp_path / "c.png", GREYS[0])
    assert (only(tmp_path).pixels[:2, 0].numpy() == masks).all()


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_grey_files_that_are_stored_as_colour_are_grey_if_all_are(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    for name, grey in zip("ab", GREYS, strict=False):
        save(tmp_path / f"{name}.{suffix}", Image.fromarray(grey).convert("RGB"), **options)
    with pytest.warns(UserWarning, match=r"stored as colour .* as grey=True does"):
        assert (only(tmp_path).pixels[:, 0].numpy() == GREYS[:2]).all()
    save(tmp_path / "c.png", COLOURS[0].transpose(1, 2, 0).copy())
    images = only(tmp_path)
    assert images.shape[0] == 3
    assert (images.pixels[0].numpy() == GREYS[0]).all()


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_transparent_pixels_are_over_black(tmp_path, mode):
    grey, alpha = GREYS[0], GREYS[1].copy()
    if mode == "P":
        image = Image.fromarray(grey).convert("P")
        save(tmp_path / "a.png", image, transparency=int(grey[0, 0]))
        alpha = np.where(grey == grey[0, 0], 0, 255)
    else:
        channels = [grey] * (len(mode) - 1) + [alpha]
        save(tmp_path / "a.png", Image.fromarray(np.dstack(channels), mode=mode))
    with pytest.warns(UserWarning, match="transparent pixels, which are read as if over black"):
        images = only(tmp_path)
    assert len(images.pixels[0]) == 1
    expected = grey.astype(float) * alpha / 255
    for channel in images.pixels[0].numpy():
        np.testing.assert_allclose(channel, expected, atol=0.51)


@pytest.mark.filterwarnings("error")
def test_an_opaque_image_with_an_alpha_channel_loses_nothing(tmp_path):
    opaque = np.full((6, 5), 255, dtype=np.uint8)
    save(tmp_path / "a.png", Image.fromarray(np.dstack([GREYS[0], opaque]), mode="LA"))
    assert (only(tmp_path).pixels[0, 0].numpy() == GREYS[0]).all()


def test_camera_images_are_upright(tmp_path):
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


def test_camera_files_with_a_preview_are_their_first_picture(tmp_path):
    """Cameras write .jpg files of the format MPO."""
    picture, preview = (Image.fromarray(a) for a in (GREYS[0], GREYS[1][:3, :3]))
    picture.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview])
    with Image.open(tmp_path / "a.jpg") as opened:
        assert (opened.format, opened.n_frames) == ("MPO", 2)
    assert only(tmp_path).shape == (1, 6, 5)


def test_jfif_is_a_jpeg(tmp_path):
    save(tmp_path / "a.jfif", GREYS[0], format="JPEG")
    save(tmp_path / "b.JPG", GREYS[0])
    images = only(tmp_path)
    assert images.files == ("a.jfif", "b.JPG")
    assert (images.pixels[0] == images.pixels[1]).all()


def palette_image(grey: np.ndarray, colours: np.ndarray) -> Image.Image:
    image = Image.fromarray(grey, mode="P")
    image.putpalette(colours.astype(np.uint8).tobytes())
    return image


@pytest.mark.parametrize("suffix", ["gif", "png", "bmp", "tif"])
def test_grey_palette_is_grey(tmp_path, suffix):
    index = GREYS[0] % 8
    levels = np.array([9, 255, 0, 77, 130, 13, 200, 44])
    unused = [[255, 0, 0]] * 8  # colours that no pixel has do not matter
    colours = np.r_[np.repeat(levels[:, None], 3, axis=1), unused]
    save(tmp_path / f"a.{suffix}", palette_image(index, colours))
    images = only(tmp_path)
    assert images.shape == (1, 6, 5)
    assert (images.pixels[0, 0].numpy() == levels[index]).all()


@pytest.mark.parametrize("suffix", ["gif", "png"])
def test_palette_with_colour_is_colour(tmp_path, suffix):
    colours = RANDOM.randint(256, size=(8, 3))
    save(tmp_path / f"a.{suffix}", palette_image(GREYS[0] % 8, colours))
    images = only(tmp_path)
    assert images.shape == (3, 6, 5)
    assert (images.pixels[0].numpy() == colours[GREYS[0] % 8].transpose(2, 0, 1)).all()


def test_gif_of_one_grey_frame_is_grey(tmp_path):
    save(tmp_path / "a.gif", GREYS[0])
    assert (only(tmp_path).pixels[0, 0].numpy() == GREYS[0]).all()


# Files that are refused


def png_16_bit(channels: int) -> bytes:
    """A PNG file with 16 bits in each channel, which Pillow does not write."""
    kind = {2: 4, 3: 2, 4: 6}[channels]  # grey with alpha, colour, colour with alpha
    pixels = RANDOM.randint(65536, size=(6, 5 * channels)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 5, 6, 16, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def tiff_16_bit() -> bytes:
    """An uncompressed TIFF file of 5 x 6 pixels with three channels of 16 bits."""
    pixels = RANDOM.randint(65536, size=(6, 5, 3)).astype("<u2").tobytes()
    short, long, start = 3, 4, 8 + 2 + 9 * 12 + 4
    entries = [
        (256, short, 1, 5),  # width
        (257, short, 1, 6),  # height
        (258, short, 3, start),  # bits in each channel
        (259, short, 1, 1),  # no compression
        (262, short, 1, 2),  # red, green and blue
        (273, long, 1, start + 6),  # where the pixels are
        (277, short, 1, 3),  # channels
        (278, short, 1, 6),  # rows in this strip
        (279, long, 1, len(pixels)),
    ]
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4)
    return head + struct.pack("<HHH", 16, 16, 16) + pixels


def ppm_16_bit() -> bytes:
    return b"P6 5 6 65535\n" + RANDOM.randint(65536, size=(6, 5, 3)).astype(">u2").tobytes()


def content(name, make, *given):
    def write(path):
        (path / name).write_bytes(make(*given))
        return path

    return write


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


def sixteen_bits(path):
    save(path / "a.png", GREYS[0].astype(np.uint16) * 257)
    return path


def two_frames(suffix):
    def write(path):
        frames = [Image.fromarray(grey) for grey in GREYS[:2]]
        frames[0].save(path / f"a.{suffix}", save_all=True, append_images=frames[1:])
        return path

    return write


def pipe(path):
    os.mkfifo(path / "a.png")
    return path


def broken_link(path):
    (path / "a.png").symlink_to("gone.png")
    return path


def strange_name(path):
    """A name in Latin-1."""
    buffer = io.BytesIO()
    Image.fromarray(GREYS[0]).save(buffer, format="PNG")
    with open(os.fsencode(path) + b"/caf\xe9.png", "wb") as file:
        file.write(buffer.getvalue())
    return path


BAD = {
    "no image": (text_for_an_image, ["a.png", "unreadable"]),
    "cut png": (cut_short, ["a.png", "cut short"]),
    "cut jpg": (lambda path: cut_short(path, "jpg"), ["a.jpg", "cut short"]),
    "cut bmp": (lambda path: cut_short(path, "bmp"), ["a.bmp", "cut short"]),
    "cut tif": (lambda path: cut_short(path, "tif"), ["a.tif", "cut short"]),
    "two sizes": (
        two_sizes,
        ["b.png", "5 x 6", "a.png", "6 x 5", "one size", "options size and crop"],
    ),
    "16 bits": (sixteen_bits, ["a.png' has", "8 bits"]),
    "16-bit colour": (content("a.png", png_16_bit, 3), ["a.png' has", "8 bits"]),
    "16-bit colour, alpha": (content("a.png", png_16_bit, 4), ["a.png' has", "8 bits"]),
    "16-bit grey, alpha": (content("a.png", png_16_bit, 2), ["a.png' has", "8 bits"]),
    "16-bit tif": (content("a.tif", tiff_16_bit), ["a.tif' has", "8 bits"]),
    "16-bit ppm": (content("a.ppm", ppm_16_bit), ["a.ppm' has", "8 bits"]),
    "pages of a tif": (two_frames("tif"), ["a.tif", "2 pages or frames"]),
    "frames of a gif": (two_frames("gif"), ["a.gif", "2 pages or frames"]),
    "frames of a png": (two_frames("png"), ["a.png", "2 pages or frames"]),
    "frames of a webp": (two_frames("webp"), ["a.webp", "2 pages or frames"]),
    "other format": (content("a.heic", bytes), ["a.heic", "format that is not read"]),
    "a pipe": (pipe, ["a.png", "a pipe"]),
    "broken link": (broken_link, ["a.png", "broken link"]),
    "not UTF-8": (strange_name, ["caf\\udce9.png", "not UTF-8"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_image_is_one_sentence_and_leaves_nothing(case, tmp_path):
    make, parts = BAD[case]
    name = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    check_refusal(name, parts)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_socket_among_the_images_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("a.png")
        check_refusal(tmp_path, ["a.png", "a socket"])


def test_images_larger_than_memory_are_refused_before_they_are_read(tmp_path):
    save(tmp_path / "a.png", GREYS[0])
    check_refusal(tmp_path, ["images of 100000000 x 100000000 pixels", "of memory"], size=10**8)


# Options: size, crop and grey


def ramp(height: int, width: int) -> np.ndarray:
    """Grey that rises from left to right."""
    return np.tile(np.linspace(0, 255, width).round().astype(np.uint8), (height, 1))


def test_mixed_sizes_of_one_aspect_ratio_are_resized(tmp_path):
    for name, height, width in (("a", 24, 36), ("b", 12, 18), ("c", 6, 9), ("d", 25, 37)):
        save(tmp_path / f"{name}.png", ramp(height, width))
    images = only(tmp_path, size=(12, 18))
    assert images.pixels.shape == (4, 1, 12, 18)
    assert (images.pixels[1, 0].numpy() == ramp(12, 18)).all()
    for pixels in images.pixels[:, 0].numpy():
        np.testing.assert_allclose(pixels.astype(int), ramp(12, 18), atol=8)


@pytest.mark.parametrize("size", [(8, 8), [8, 8], 8])
def test_crop_is_that_of_torchvision(tmp_path, size):
    """Resize the shorter side, then keep the centre."""
    photograph = Image.fromarray(COLOURS[0].transpose(1, 2, 0).copy()).resize((64, 64))
    sides = [(16, 48), (48, 16), (6, 4), (40, 32), (64, 64)]
    expected = []
    for i, (width, height) in enumerate(sides):
        image = photograph.crop((0, 0, width, height))
        save(tmp_path / f"{i}.png", image)
        expected.append(np.asarray(CenterCrop(8)(Resize(8)(image))).transpose(2, 0, 1))
    pixels = only(tmp_path, size=size, crop=True).pixels.numpy()
    np.testing.assert_allclose(pixels.astype(int), np.stack(expected), atol=1)


def test_crop_without_resizing_is_exact(tmp_path):
    colour = RANDOM.randint(256, size=(6, 10, 3), dtype=np.uint8)
    save(tmp_path / "a.png", colour)
    pixels = only(tmp_path, size=6, crop=True).pixels
    assert (pixels[0].numpy() == colour[:, 2:8].transpose(2, 0, 1)).all()


def test_grey_is_the_luma_of_colour(tmp_path):
    save(tmp_path / "a.png", COLOURS[0].transpose(1, 2, 0).copy())
    save(tmp_path / "b.png", GREYS[0])
    images = only(tmp_path, grey=True)
    assert images.shape == (1, 6, 5)
    luma = np.tensordot([0.299, 0.587, 0.114], COLOURS[0].astype(float), axes=1)
    np.testing.assert_allclose(images.pixels[0, 0].numpy(), luma, atol=0.51)
    assert (images.pixels[1, 0].numpy() == GREYS[0]).all()


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"size": 4}, ["a.png", "6 x 5", "4 x 4", "aspect ratio", "crop=True"]),
        ({"crop": True}, ["crop=True needs a size"]),
        ({"size": 0}, ["size is a whole number above 0", "not 0"]),
        ({"size": True}, ["size is a whole number above 0", "not True"]),
        ({"size": (4, 4.5)}, ["two of them (height, width)", "not (4, 4.5)"]),
        ({"size": (4, 4, 4)}, ["two of them (height, width)"]),
        ({"size": "64"}, ["size is a whole number above 0", "not '64'"]),
        ({"size": 4.0}, ["size is a whole number above 0", "not 4.0"]),
    ],
)
def test_options_that_do_not_fit(tmp_path, options, parts):
    save(tmp_path / "a.png", GREYS[0])
    check_refusal(tmp_path, parts, **options)


@pytest.mark.parametrize("options", [{"size": 8}, {"size": 8, "crop": True}, {"grey": True}])
def test_options_are_for_folders(tmp_path, options):
    np.save(tmp_path / "a.npy", GREYS)
    for name in ("digits", tmp_path / "a.npy"):
        check_refusal(name, ["size, crop and grey", str(name), "not a folder"], **options)


def test_options_hold_for_every_part_of_a_split(tmp_path):
    for i, part in enumerate(("train", "test", "val")):
        save(tmp_path / part / "a.png", ramp(12 + i, 18 + i))
    data = load_data(tmp_path, size=8, crop=True, binarize="threshold")
    for part in (data.train, data.test, data.validation):
        assert part.shape == (1, 8, 8)
        assert part.is_binary

"""A folder of the user's own images: its files, its classes and its split."""

from __future__ import annotations

import os

import pytest
import torch
from PIL import Image
from support.pictures import GREYS, check_refusal, only, save

from pyro_vae import InputError
from pyro_vae.data import folders, load_data


def test_folder_with_classes(image_folder):
    folder, pixels = image_folder
    images = only(folder)
    assert (images.pixels[:, 0].numpy() == pixels).all()
    assert images.classes == ("cats", "dogs")
    assert images.labels.tolist() == [0] * 8 + [1] * 4
    assert images.files[0] == "cats/00.png"
    assert images.files[-1] == "dogs/11.png"


def test_folder_without_classes_skips_other_files(tmp_path):
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
    data, again, other = (
        load_data(folder, test_fraction=0.25, split_seed=s, validation=0) for s in (0, 0, 1)
    )
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
    data = load_data(tmp_path, validation=0)
    assert data.train.files == ("train/b/0.png", "train/c/1.png", "train/d/2.png")
    assert data.test.files == ("test/a/0.png", "test/c/1.png")
    assert data.train.classes == data.test.classes == tuple("abcd")
    assert data.test.labels.tolist() == [0, 2]
    assert (data.test.pixels[:, 0].numpy() == GREYS[5:7]).all()


def test_what_systems_leave_behind_is_not_an_image(tmp_path):
    save(tmp_path / "cats" / "a.png", GREYS[0])
    save(tmp_path / "cats" / "._a.png", GREYS[1])
    save(tmp_path / "__MACOSX" / "cats" / "a.png", GREYS[2])
    save(tmp_path / ".cache" / "a.png", GREYS[3])
    save(tmp_path / "cats" / ".cache" / "a.png", GREYS[4])
    (tmp_path / "Thumbs.db").write_bytes(b"")
    (tmp_path / "cats" / "Thumbs.db").write_bytes(b"")
    images = only(tmp_path)
    assert images.files == ("cats/a.png",)
    assert images.classes == ("cats",)


# The user's own split


@pytest.mark.parametrize(
    "names",
    [
        ("train", "test", "val"),
        ("Train", "Test", "Valid"),
        ("TRAINING", "testing", "Validation"),
    ],
)
def test_parts_of_a_split_are_kept_apart(tmp_path, names):
    for i, part in enumerate(names):
        for name in "bc" if i else "cd":
            save(tmp_path / part / name / f"{i}.png", GREYS[i])
    data = load_data(tmp_path)
    for i, images in enumerate((data.train, data.test, data.validation)):
        assert images.files == tuple(f"{names[i]}/{c}/{i}.png" for c in ("bc" if i else "cd"))
        assert images.classes == tuple("bcd")
        assert images.labels.tolist() == ([0, 1] if i else [1, 2])
        assert (images.pixels[:, 0].numpy() == GREYS[i]).all()
    moved = data.to("meta")
    assert all(p.pixels.is_meta for p in (moved.train, moved.test, moved.validation))


def test_classes_that_contain_the_letters_of_a_part_stay_classes(tmp_path):
    """One name of a part among classes does not tell of a split, and letters are not a word."""
    names = ("contest", "crash test", "interval", "strain")
    for name in names:
        for i in range(3):
            save(tmp_path / name / f"{i}.png", GREYS[i])
    assert load_data(tmp_path).train.classes == names


def test_a_split_without_validation_has_none(tmp_path):
    for part in ("train", "test"):
        save(tmp_path / part / "a.png", GREYS[0])
    save(tmp_path / "__MACOSX" / "train" / "a.png", GREYS[0])
    (tmp_path / "Thumbs.db").write_bytes(b"")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("a folder without images")
    data = load_data(tmp_path)
    assert data.validation is None
    assert data.to("cpu").validation is None
    assert (data.train.files, data.test.files) == (("train/a.png",), ("test/a.png",))
    assert data.train.labels is None


def test_validation_does_not_change_the_static_draws_of_train_and_test(tmp_path):
    for i, part in enumerate(("train", "test")):
        save(tmp_path / part / "a.png", GREYS[i])
    before = load_data(tmp_path, binarize="static")
    save(tmp_path / "val" / "a.png", GREYS[2])
    after = load_data(tmp_path, binarize="static")
    assert torch.equal(before.train.pixels, after.train.pixels)
    assert torch.equal(before.test.pixels, after.test.pixels)
    assert after.validation.is_binary


# Folders that are refused


def layout(*files, folders=()):
    def make(path):
        for file in files:
            save(path / file, GREYS[0])
        for folder in folders:
            (path / folder).mkdir(parents=True)
        return path

    return make


def no_images(path):
    (path / "cats").mkdir()
    (path / "notes.txt").write_text("no image")
    return path


def strange_class(path):
    folder = os.fsencode(path) + b"/caf\xe9"
    os.mkdir(folder)
    with open(folder + b"/a.png", "wb") as file:
        Image.fromarray(GREYS[0]).save(file, format="PNG")
    return path


def other_file(path):
    (path / "a.txt").write_bytes(b"no array")
    return path / "a.txt"


BAD = {
    "unknown set": (lambda path: "mnits", ["'mnits'", "mnist", "folder of images"]),
    "no such path": (lambda path: path / "gone", ["no file or folder", "gone"]),
    "no such array": (lambda path: "gone.npy", ["no file or folder", "gone.npy"]),
    "no such home": (lambda path: "~nobody-of-this-name/x", ["no file or folder", "~nobody"]),
    "long path": (lambda path: path / ("a" * 5000), ["no file or folder", "aaa"]),
    "other file": (other_file, ["a.txt", ".npy"]),
    "empty folder": (lambda path: path, ["holds no images", ".png"]),
    "no images": (no_images, ["holds no images", ".png"]),
    "beside and inside": (layout("a.png", "cats/b.png"), ["beside and inside"]),
    "one image": (layout("a.png"), ["at least 2"]),
    "two deep": (layout("cats/a.png", "cats/b/c.png"), ["'cats/b/c.png'", "more than one folder"]),
    "only deep": (layout("a/b/d/e.png", "a/b/c.png"), ["'a/b/c.png'", "more than one folder"]),
    "deep in train": (
        layout("train/a/a.png", "test/a/a.png", "train/a/b/c.png"),
        ["'a/b/c.png'", "train'", "more than one folder"],
    ),
    "train alone": (layout("train/a.png"), ["'train' but no 'test'", "give", "/train' itself"]),
    "no test": (
        layout("train/a.png", "val/a.png"),
        ["'train' and 'val' but no 'test'", "/train' itself"],
    ),
    "test alone": (layout("Test/a.png"), ["'Test' but no 'train'", "/Test' itself"]),
    "two trains": (
        layout("Train/a.png", "training/a.png", "test/a.png"),
        ["'Train' and 'training'", "train images"],
    ),
    "two validations": (
        layout("train/a.png", "test/a.png", "val/a.png", "valid/a.png"),
        ["'val' and 'valid'", "validation images"],
    ),
    "classes beside train": (
        layout("train/a.png", "test/a.png", "cats/b.png"),
        ["'test' and 'train'", "'cats/b.png'", "classes"],
    ),
    "a class called valid": (
        layout("invalid/a.png", "valid/a.png"),
        ["'valid'", "'invalid/a.png'", "rename"],
    ),
    "words of a split": (
        layout("images_train/a.png", "images_test/a.png"),
        ["'images_test' and 'images_train'", "look like", "rename"],
    ),
    "years of a split": (
        layout("train2017/a.png", "val2017/a.png", "test2017/a.png"),
        ["'test2017' and 'train2017' and 'val2017'", "look like"],
    ),
    "sets of a split": (
        layout("TrainSet/a.png", "02 Test-Set/a.png"),
        ["'02 Test-Set' and 'TrainSet'", "look like"],
    ),
    "two letters": (layout("tr/a.png", "te/a.png"), ["'te' and 'tr'", "look like"]),
    "short words of a split": (layout("trn/a.png", "tst/a.png"), ["'trn' and 'tst'", "look like"]),
    "image beside train": (
        layout("train/a.png", "test/a.png", "b.png"),
        ["'test' and 'train'", "'b.png'"],
    ),
    "deep beside train": (
        layout("train/a.png", "test/a.png", "more/of/them/b.png"),
        ["'test' and 'train'", "'more/of/them/b.png'"],
    ),
    "empty test": (layout("train/a.png", folders=["test"]), ["test' holds no images"]),
    "class not UTF-8": (strange_class, ["caf\\udce9/a.png", "not UTF-8"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_folder_is_one_sentence_and_leaves_nothing(case, tmp_path, monkeypatch):
    make, parts = BAD[case]
    monkeypatch.chdir(tmp_path)
    name = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    check_refusal(name, parts)
    assert sorted(tmp_path.rglob("*")) == before


def test_folder_that_is_locked_is_one_sentence(tmp_path, monkeypatch):
    save(tmp_path / "train" / "a.png", GREYS[0])

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    check_refusal(tmp_path, ["cannot be read", "Permission denied"])


def test_a_folder_of_everything_is_not_searched_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "MOST", 5)
    for i in range(8):
        (tmp_path / "class" / "deep" / str(i)).mkdir(parents=True)
    with pytest.raises(InputError, match="more than 5 files and folders and no images"):
        load_data(tmp_path)

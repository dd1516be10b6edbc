"""Find the image files of a folder, their classes, and the user's own split into parts."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

SUFFIXES = (
    ".bmp",
    ".gif",
    ".jfif",
    ".jpeg",
    ".jpg",
    ".pbm",
    ".pgm",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)
# Image formats that are not read. A folder that holds them is an error, because to skip them
# would leave images out without notice.
UNREAD = (".avif", ".heic", ".heif", ".jp2", ".jxl", ".tga")

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}

SPLIT_WORDS = {
    **SPLITS,
    **dict.fromkeys(["tr", "trn"], "train"),
    "dev": "validation",
    **dict.fromkeys(["te", "tst"], "test"),
}
"""Words in other names of folders that tell of a split, as in ``images_train`` or ``val2017``."""

MOST = 200_000
"""Files and folders among which an image that is too deep is looked for."""

SYSTEM = ("__macosx", "desktop.ini", "thumbs.db")  # left behind by macOS and Windows


def find_splits(folder: Path) -> dict[str, Path]:
    """The folders ``train``, ``test`` and ``validation`` of a split, by part.

    The result is empty when ``folder`` is not split, that is, when no sub-folder has such a name.

    Raises:
        InputError: a part is missing or is there twice, other images are beside the parts, or
            sub-folders have other names of parts.
    """
    found: dict[str, Path] = {}
    others = []
    for path in list_visible(folder):
        part = SPLITS.get(path.name.lower()) if path.is_dir() else None
        if part is None:
            others.append(path)
        elif part in found:
            raise InputError(
                f"folder {str(folder)!r} holds {found[part].name!r} and {path.name!r}, and both "
                f"are names of the {part} images; keep one of the two"
            )
        else:
            found[part] = path
    if not found:
        refuse_other_names(folder, [path for path in others if path.is_dir()])
        return {}
    names = " and ".join(repr(path.name) for path in found.values())
    stray = next((image for path in others if (image := find_image(path))), None)
    if stray is not None:
        raise InputError(
            f"folder {str(folder)!r} holds {names}, which name the parts of a split, and also "
            f"other images, such as {stray.relative_to(folder).as_posix()!r}; keep only the train, "
            "validation and test folders there, or rename those that are classes"
        )
    for part in ("train", "test"):
        if part not in found:
            alone = found.get("train") or next(iter(found.values()))
            raise InputError(
                f"folder {str(folder)!r} holds {names} but no {part!r} folder; add this folder, "
                f"or give {str(alone)!r} itself, and a share of its images becomes the test set"
            )
    return found


def refuse_other_names(folder: Path, below: list[Path]) -> None:
    """Raise an InputError for folders such as ``images_train`` and ``images_test``.

    As classes they would be pooled, and test images would be trained on.
    """
    told: dict[str, str] = {}
    for path in below:
        for word in re.findall("[a-z]+", path.name.lower()):
            if part := SPLIT_WORDS.get(word.removesuffix("set")):
                told.setdefault(part, path.name)
    if len(told) > 1:
        names = " and ".join(map(repr, told.values()))
        raise InputError(
            f"folder {str(folder)!r} holds {names}, which look like the parts of a split; rename "
            "them to train, validation and test, or, if they are classes, to names without such "
            "words"
        )


def find_files(
    folder: Path,
) -> tuple[list[tuple[Path, str | None]], dict[str, NDArray[np.int64]]]:
    """The image files of a folder with their classes, and the rows of each part of its split.

    Without a split of the user there are no parts.

    Raises:
        InputError: as :func:`find_splits` and :func:`list_files`; a folder that cannot be read.
    """
    try:
        splits = find_splits(folder)
        parts = {part: list_files(place) for part, place in splits.items()}
        files = [file for part in parts.values() for file in part] or list_files(folder)
    except OSError as error:
        raise InputError(
            f"folder {str(folder)!r} cannot be read ({error.strerror}: {error.filename!r})"
        ) from None
    ends = np.cumsum([len(part) for part in parts.values()], dtype=np.int64)
    index = np.split(np.arange(len(files)), ends[:-1])
    return files, dict(zip(parts, index, strict=False))


def list_files(folder: Path) -> list[tuple[Path, str | None]]:
    """The image files of a folder in the order of their names, each with its class.

    The class is the name of the sub-folder; None when the images are not in sub-folders.

    Raises:
        InputError: there are no images, or images that this layout would leave out.
    """
    beside: list[tuple[Path, str | None]] = []
    inside: list[tuple[Path, str | None]] = []
    for path in list_visible(folder):
        if not path.is_dir():
            if is_image(path):
                beside.append((path, None))
            continue
        for file in list_visible(path):
            if file.is_dir():
                refuse_deep_images(folder, file)
            elif is_image(file):
                inside.append((file, path.name))
    if beside and inside:
        raise InputError(
            f"folder {str(folder)!r} holds images both beside and inside its sub-folders; "
            "keep all in the folder, or all in one sub-folder for each class"
        )
    if not beside and not inside:
        raise InputError(
            f"folder {str(folder)!r} holds no images, its sub-folders included; the names of "
            f"image files end in {', '.join(SUFFIXES)}"
        )
    for file, _ in (files := [*beside, *inside]):
        check_file(folder, file)
    return files


def list_visible(folder: Path) -> list[Path]:
    """The contents of a folder by name, without hidden files and those of the system."""
    return sorted(path for path in folder.iterdir() if is_visible(path.name))


def is_visible(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in SYSTEM


def is_image(path: Path) -> bool:
    """Whether the name ends as that of an image file."""
    return path.suffix.lower() in SUFFIXES + UNREAD


def find_image(path: Path) -> Path | None:
    """The first image file at or below ``path``."""
    if not path.is_dir():
        return path if is_image(path) else None
    seen = 0
    for root, folders, files in os.walk(path, onerror=raise_error):
        seen += len(folders) + len(files)
        if seen > MOST:  # such as "/", which would take minutes
            raise InputError(
                f"folder {str(path)!r} holds more than {MOST:,} files and folders and no images "
                "among them; name the folder of the images"
            )
        folders[:] = sorted(filter(is_visible, folders))
        for name in sorted(filter(is_visible, files)):
            if is_image(Path(name)):
                return Path(root, name)
    return None


def raise_error(error: OSError) -> NoReturn:
    """os.walk() skips a folder that it cannot read, unless this function is its ``onerror``."""
    raise error


def refuse_deep_images(folder: Path, below: Path) -> None:
    """Raise an InputError if there is an image anywhere in ``below``."""
    image = find_image(below)
    if image is not None:
        raise InputError(
            f"image {image.relative_to(folder).as_posix()!r} is more than one folder below "
            f"{str(folder)!r}; keep images in the folder, or in one sub-folder for each class"
        )


def check_file(folder: Path, file: Path) -> None:
    """Raise an InputError for a file that must not be opened or whose name cannot be written."""
    try:
        file.relative_to(folder).as_posix().encode()
    except UnicodeEncodeError:
        raise InputError(
            f"the name of image {str(file)!r} is not UTF-8, so results cannot name it; rename it"
        ) from None
    if not file.is_file():  # to open a pipe would wait for ever
        raise InputError(
            f"image {str(file)!r} is not a regular file but a pipe, a socket, a device or a broken "
            "link; take it out of the folder"
        )
    if file.suffix.lower() in UNREAD:
        raise InputError(
            f"image {str(file)!r} has a format that is not read; take it out of the folder or "
            "convert it, for example to .png"
        )

"""The split of a run's data: what older runs had, and how it is made again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..data import DATASETS, Data, StoredData
from ..data.folders import find_splits
from ..data.published import published_parts
from ..data.splitting import cut_validation


def own_folder(data: str) -> Path | None:
    """The user's own folder of images that ``data`` names; None for a named set or a file."""
    path = Path(data).expanduser()
    return path if data not in DATASETS and path.is_dir() else None


def own_splits(data: str) -> Collection[str]:
    """The parts of data that are split already, by the user or by who published them; else none."""
    if data in DATASETS:
        return ()
    path = Path(data).expanduser()
    try:
        return published_parts(path) or (find_splits(path) if path.is_dir() else ())
    except OSError:  # load_data() says that it cannot be read
        return ()


def no_validation(config: Mapping[str, Any]) -> str:
    """A sentence for a run that was trained without validation images; "" for others."""
    data = config["data"]
    if data["name"] is None or "training" not in config:  # nobody knows how it was trained
        return ""
    if "validation" not in data:
        return (
            "An older version trained this run without a validation split: it showed the test "
            "images while it trained, so what was chosen by them is too good on them."
        )
    if data.get("validation") == 0:
        return "This run has no validation split; it showed training images while it trained."
    return ""


def resplit(images: Any, validation: Any) -> tuple[Any, Any, Any]:
    """Images that are in one piece, as the training, test and validation images of a run."""
    train, test = images.split(0.2, seed=0)
    train, held_out = cut_validation(train, validation, seed=0)
    return train, test, held_out


def checksums(data: Data | StoredData) -> tuple[str, ...]:
    """What a checkpoint may hold as the checksum of data: "" if it is not known. Older versions
    left out the validation images of a folder."""
    older = replace(data, validation=None)
    return ("", data.checksum(), older.checksum()) if data.validation else ("", data.checksum())

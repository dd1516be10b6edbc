"""What is said of the data of a run before it is trained."""

from __future__ import annotations

from pathlib import Path

from ..data import Data, Images, StoredData
from ..measures import MEASURED


def table_note(name: str, images: Images) -> str:
    """What is said of a table: the types of its columns; "" for other data."""
    if images.schema is None:
        return ""
    holes = 0.0 if images.mask is None else 1 - images.mask.double().mean().item()
    missing = f" {holes:.1%} of the cells of the training rows are missing." if holes else ""
    return f"{Path(name).name}: {images.schema}.{missing}"


def missing_note(images: Images) -> str:
    """What is said of data with missing entries; "" for data without, and for tables."""
    if images.mask is None or images.schema is not None:
        return ""
    share = 100 * (1 - images.mask.double().mean().item())
    return f"{share:.2g} % of the entries are missing; the encoder sees which."


def stream_note(data: Data | StoredData, sampled: int) -> str:
    """What is said of images that stay on disk; "" for images in memory."""
    if isinstance(data, Data):
        return ""
    held_out = len(data.validation or ())
    note = (
        f"The {len(data.train):,} training, {held_out:,} validation and {len(data.test):,} test "
        "images stay on disk. The VAE starts from the levels of grey, the mean and the standard "
        f"deviation of {sampled:,} training images."
    )
    if held_out > MEASURED:
        note += f" After each epoch, {MEASURED:,} of the validation images are measured."
    return note

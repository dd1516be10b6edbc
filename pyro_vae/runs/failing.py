"""What a run keeps of the step at which its loss or a weight became NaN or infinite."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import InputError, TrainingError
from ..storage.writing import written
from .config import read_bytes, read_object

NAME = "failed.json"


@dataclass(frozen=True)
class Failure:
    """A step that failed. With the checkpoint, it is all that is needed to run the step again.

    Args:
        what: what happened, in a sentence.
        epoch: the epoch, from 1.
        step: the step in the epoch, from 1.
        seed: the seed of the run.
        images: the indices of the step's images among the training images.
    """

    what: str
    epoch: int
    step: int
    seed: int
    images: list[int]


def note_failure(folder: Path, error: TrainingError, seed: int) -> None:
    """Write ``failed.json``."""
    failure = Failure(str(error), error.epoch, error.step, seed, error.images)
    with written(folder / NAME) as part:
        part.write_text(json.dumps(asdict(failure)) + "\n", encoding="utf-8")


def remove_failure(folder: Path) -> None:
    """Remove ``failed.json``, because training has a new checkpoint."""
    (folder / NAME).unlink(missing_ok=True)


def read_failure(folder: Path) -> Failure:
    """The step at which a run failed.

    Raises:
        InputError: no step failed since the last checkpoint, or the file is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        raise InputError(
            f"there is nothing to replay: no step of the run {str(folder)!r} has failed since its "
            "last checkpoint"
        )
    try:
        failure = Failure(**read_object(read_bytes(path)))
        whole = (failure.epoch, failure.step, *failure.images)
        if not all(type(n) is int and n >= 0 for n in whole) or not failure.epoch:
            raise ValueError("a value has another type")
        return failure
    except (ValueError, TypeError):
        raise InputError(f"{str(path)!r} is damaged; resume the run, and it is written anew") from (
            None
        )

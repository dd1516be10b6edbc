"""Write files so that none is ever half written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError


def check_utf8(what: str, path: Path) -> None:
    """Refuse a path that is not UTF-8, because safetensors cannot open it.

    Args:
        what: the subject of the error message.
        path: what is checked.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"{what} has a name that is not UTF-8; give it another name") from None


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` with the same ending, because writers choose the format by it."""
    return path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Give a temporary name to write a file or a folder to, and rename it to ``path`` afterwards.

    After an exception the temporary file is removed and ``path`` is as before. A folder that
    already exists keeps its other files.

    Raises:
        OSError: the file cannot be written. The error always names ``path``.

    Example:
        >>> with written(Path("numbers.txt")) as part:  # doctest: +SKIP
        ...     part.write_text("1 2 3")
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    part = temporary_name(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield part
        if part.is_dir() and target.is_dir():
            for file in part.iterdir():
                os.replace(file, target / file.name)
        else:
            os.replace(part, target)
    except OSError as error:
        # A full disk raises an error without a file name.
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)

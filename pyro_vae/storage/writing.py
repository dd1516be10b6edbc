"""Write files so that none is ever half written, also if the machine stops."""

from __future__ import annotations

import errno
import os
import re
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


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of a process that was killed while it wrote to ``folder``."""
    for path in folder.rglob(".*"):
        if re.fullmatch(r"\..+\.\d+(\.\w+)?", path.name) and path.is_file():
            path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk.

    Raises:
        OSError: the disk is full or fails.
    """
    if path.is_dir() and os.name == "nt":
        return
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that does not flush folders
            raise
    finally:
        os.close(file)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Give a temporary name to write a file or a folder to, and rename it to ``path`` afterwards.

    The file is on the disk before it is renamed, and its name when this returns. So ``path`` holds
    the old or the new content, whole, at whatever moment the process or the machine stops. After
    an exception the temporary file is removed and ``path`` is as before. A folder that already
    exists keeps its other files.

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
        for file in part.rglob("*") if part.is_dir() else [part]:
            flush(file)
        if part.is_dir() and target.is_dir():
            for file in part.iterdir():
                os.replace(file, target / file.name)
            flush(target)
        else:
            os.replace(part, target)
            flush(target.parent)
    except OSError as error:
        # A full disk raises an error without a file name.
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)

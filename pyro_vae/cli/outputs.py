"""Outputs are checked before the work that makes them."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from ..errors import InputError
from ..storage.writing import check_utf8, temporary_name


def check_output(option: str, path: Path, endings: Collection[str] = ()) -> None:
    """Refuse an output that cannot be written, before the work that makes it.

    The missing folders and a test file are made and removed again.

    Args:
        option: the option that names the output, for the error message.
        path: the file or folder to write.
        endings: the endings of files that the writer can write; empty for a folder.

    Raises:
        InputError: the path has another ending, is not UTF-8, is a folder where a file is meant or
            a file where a folder is meant, or cannot be written.
    """
    said = f"{option} {str(path)!r}"
    check_utf8(said, path)
    if endings and path.suffix.lower() not in endings:
        raise InputError(f"{said} needs a name that ends in {' or '.join(endings)}")
    if endings and os.path.isdir(path):
        raise InputError(f"{said} is a folder; name a file")
    if not os.path.realpath(path).strip(os.sep):
        raise InputError(f"{said} is the root of the file system; name a folder in it")
    if not endings and os.path.lexists(path) and not os.path.isdir(path):
        raise InputError(f"{said} is a file; name a folder")
    target = Path(os.path.realpath(path))
    test = temporary_name(target / "test" if os.path.isdir(target) else target)
    made = [folder for folder in test.parents if not os.path.lexists(folder)]
    try:
        test.parent.mkdir(parents=True, exist_ok=True)
        test.touch(exist_ok=False)
        test.unlink()
        if os.path.isfile(target) and not os.access(target, os.W_OK):
            raise InputError(f"{said} cannot be written (the file is read-only)")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{said} cannot be written ({reason}); name another place") from None
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def check_outside(path: Path, data: str) -> None:
    """Refuse an output folder in the folder of the data, because its pictures would become data.

    Args:
        path: the folder to write, from --out.
        data: a data set's name or the path of the user's own images, from --data.
    """
    from ..runs.splits import own_folder

    folder = own_folder(data)
    if folder is not None and path.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"--out {str(path)!r} is in the data folder {data!r}, where its pictures would become "
            "data; name a folder outside of it"
        )

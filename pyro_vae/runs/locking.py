"""One process at a time trains in a run folder."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = "lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder, which is made if it is not there.

    The lock is the system's own (``flock``) on the file ``lock``, whose content says who holds it.
    The system gives it back when the process ends, in whatever way, so a lock whose process is
    gone is taken over. It works between containers on one machine, and between machines on file
    systems that carry locks, such as NFS 4. On Windows there is no lock.

    Raises:
        InputError: another process holds the lock, or something that is not a file is in its place.
        OSError: the folder cannot be written, or its file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    file = take(path)
    try:
        os.ftruncate(file, 0)
        os.write(file, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)  # after the file is gone, so that nobody takes what is removed


def take(path: Path) -> int:
    """The open file of a lock that this process holds from now on."""
    while True:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise InputError(f"{str(path)!r} is the place of the run's lock and is not a file")
        # A link that comes between the two lines is not followed: its target would be overwritten.
        file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(path, file):  # the process before may have removed it between the two calls
                return file
        except BlockingIOError:
            holder = who(path)
            os.close(file)
            raise InputError(
                f"the run {str(path.parent)!r} is being trained by another process ({holder}); "
                "wait for its end or stop it"
            ) from None
        except OSError as error:
            os.close(file)
            raise OSError(error.errno, error.strerror, str(path)) from error
        os.close(file)


def is_at(path: Path, file: int) -> bool:
    """Whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def who(path: Path) -> str:
    """The holder of a lock, as its file says."""
    try:
        content = json.loads(path.read_text())
        return f"host {content['host']}, process id {content['pid']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "it is just starting or ending"

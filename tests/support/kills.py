"""Train in a forked process that is killed, or whose writes fail, at a chosen place."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from os.path import lexists as exists
from pathlib import Path
from typing import Any

from pyro_vae.cli import main

CALLS = ("fsync", "replace", "unlink", "truncate")
"""Functions of ``os`` that change the disk. Writes to files are the other places."""


class Faults:
    """Counts what the process does to the files of a run, and does something at one place.

    A call has two places, before and after; a write has a third one, when half of it is written.

    Args:
        run: the run folder.
        at: the number of the place; None for none.
        what: what happens there.
    """

    def __init__(self, run: Path, at: int | None = None, what: Callable[[], None] = lambda: None):
        self.run, self.at, self.what = str(run), at, what
        self.places: list[str] = []

    def place(self, name: str) -> None:
        self.places.append(name)
        if len(self.places) - 1 == self.at:
            self.what()

    def install(self) -> None:
        """Put the places into this process, for good."""
        for name in CALLS:
            setattr(os, name, self.around(name, getattr(os, name)))
        opened = io.open

        def open_(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            file = opened(path, mode, *args, **kwargs)
            if mode.startswith("r") or not str(path).startswith(self.run + os.sep):
                return file
            return Written(file, self, str(path))

        io.open = open_

    def around(self, name: str, call: Any) -> Any:
        def wrapped(path: Any, *args: Any, **kwargs: Any) -> Any:
            if name != "fsync" and not (str(path).startswith(self.run + os.sep) and exists(path)):
                return call(path, *args, **kwargs)
            self.place(f"{name} before {path}")
            result = call(path, *args, **kwargs)
            self.place(f"{name} after {path}")
            return result

        return wrapped


class Written:
    """A file whose writes are three places."""

    def __init__(self, file: Any, faults: Faults, path: str) -> None:
        self.file, self.faults, self.path = file, faults, path

    def __enter__(self) -> Written:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: Any) -> int:
        self.faults.place(f"write before {self.path}")
        half = len(data) // 2
        self.file.write(data[:half])
        self.file.flush()
        self.faults.place(f"write half {self.path}")
        self.file.write(data[half:])
        self.file.flush()
        self.faults.place(f"write after {self.path}")
        return len(data)


def forked(
    arguments: list[object], log: Path, faults: Faults | None = None, after: float = 0
) -> tuple[int, str, list[str]]:
    """Run ``pyro-vae`` in a forked process.

    Args:
        arguments: of the command line.
        log: a file for what is printed, and for the places that were counted.
        faults: what happens at which place.
        after: seconds after which the process is killed; 0 for never.

    Returns:
        the exit code, -9 for a killed process; what was printed; and the places.
    """
    child = os.fork()
    if child == 0:
        code = 99
        try:
            with log.open("w") as out:
                os.dup2(out.fileno(), 1)
                os.dup2(out.fileno(), 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            if faults is not None:
                faults.install()
            sys.argv = ["pyro-vae", *map(str, arguments)]
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            if faults is not None:
                os.write(1, ("\nPLACES" + json.dumps(faults.places)).encode())
            os._exit(code)
    if after:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    said, _, places = log.read_text().partition("\nPLACES")
    return os.waitstatus_to_exitcode(status), said, json.loads(places) if places else []


def die() -> None:
    """Kill this process, as the system does when memory is full."""
    os.kill(os.getpid(), signal.SIGKILL)


def state_of(run: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """The checkpoint of a run, and its metrics without the seconds."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    metrics = [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
    return (run / "checkpoint.safetensors").read_bytes(), metrics

"""Ctrl-C and SIGTERM, while a command runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

CAUGHT = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal ends the command. Like KeyboardInterrupt, it is not an ``Exception``.

    Args:
        number: the number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """The exit code by which a shell knows the signal: 130 or 143."""
        return 128 + self.number


class Signals:
    """A context in which SIGINT and SIGTERM raise :class:`Stopped`.

    With ``waiting = True`` the first signal is only noted in ``number``, and training ends by
    itself after the step. A second SIGINT raises even then.

    Attributes:
        waiting: whether training goes on, so that a signal waits for the end of the step.
        largest: the largest of a number of each process of a training. A signal comes to them in
            different steps, and all end after the same one.
    """

    def __init__(self) -> None:
        self.largest: Callable[[int], int] = lambda number: number
        self.waiting = False
        self.number = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # only it may set handlers
            self.before = {each: signal.signal(each, self.handle) for each in CAUGHT}
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        for each, handler in self.before.items():
            signal.signal(each, handler)
        if kind is None:
            self.check()  # Python drops an exception that is raised while it frees an object

    def handle(self, number: int, frame: FrameType | None) -> None:
        """What Python calls for a signal, between two of its instructions."""
        if self.waiting and not self.number:
            self.number = number
        elif not (self.waiting and number == signal.SIGTERM):  # schedulers may send it twice
            self.number = number
            raise Stopped(number)

    def due(self) -> int:
        """The signal that was noted, in whichever process; 0 for none."""
        return self.largest(self.number)

    def check(self) -> None:
        """Raise :class:`Stopped` if a signal was noted."""
        if number := self.due():
            raise Stopped(number)

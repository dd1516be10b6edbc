"""Ctrl-C while ``fit`` trains: it ends after the step."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Self

from .history import Callback, Epoch, Position
from .ranks import Ranks


class Interrupted(Exception):
    """Ctrl-C was pressed, and the step is whole."""


class Interrupt(Callback):
    """Raises :class:`Interrupted` after the step in which Ctrl-C was pressed.

    A second Ctrl-C raises KeyboardInterrupt at once. Where the program handles SIGINT itself, as
    the command line does, and in other threads than the main one, this does nothing.

    Args:
        ranks: the processes of the training. All end after the same step.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.pressed = False
        self.installed = False
        self.asks = False  # the other processes, which then must be asked by all

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_start(self) -> None:
        """Before the first step, Ctrl-C raises KeyboardInterrupt at once."""
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self.handle)
            self.installed = True
        # One process may ignore SIGINT, as one in the background of a shell does.
        self.asks = bool(self.ranks.largest(self.installed))

    def handle(self, number: int, frame: FrameType | None) -> None:
        """What Python calls for SIGINT, between two of its instructions."""
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True

    def on_step(self, images: int, position: Position) -> None:
        if self.is_over():
            raise Interrupted(f"epoch {position.epoch + 1}, step {len(position.losses)}")

    def on_epoch(self, record: Epoch) -> None:
        if self.is_over():
            raise Interrupted(f"epoch {record.epoch}")

    def is_over(self) -> bool:
        """Whether Ctrl-C was pressed, in whichever process."""
        return self.asks and bool(self.ranks.largest(self.pressed))

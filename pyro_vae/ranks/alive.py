"""Notices that a process of the training is gone, and says which.

Each process counts upwards in the store of ``torch.distributed``, once a second, and reads the
counts of the others. This goes on while a process compiles, or waits for the process 0 to measure
and save. So a slow process is not taken for a dead one, and a cut network is noticed, too.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

PATIENCE = 40.0
"""After so many seconds without a sign of life, a process is taken for dead."""

GONE = (b"left", b"failed")
"""The last signs of a process that ended by itself."""

UNKNOWN = "a connection between the processes of this training broke, so it stops"

BEAT, FEW = 1.0, 3.0
"""The seconds between two signs of life, and those after which a missing one is remarkable."""


class Watch:
    """Gives the signs of life of this process, and hears those of the others.

    Args:
        store: torch's store, over a connection that nothing else uses.
        rank: the number of this process.
        names: host and process id of each process.

    Attributes:
        advice: gives a sentence for the user that is said before the end; "" for none.
    """

    def __init__(self, store: Any, rank: int, names: list[str]) -> None:
        self.store, self.rank, self.names = store, rank, names
        self.heard = {r: (b"", monotonic()) for r in range(len(names)) if r != rank}
        self.over = threading.Event()
        self.advice: Callable[[], str] = str
        # Two threads, because a call to a store behind a cut network does not come back.
        self.threads = [threading.Thread(target=t, daemon=True) for t in (self.beat, self.judge)]

    def start(self) -> None:
        """Begin to give signs of life. All processes have put the first one into the store."""
        for thread in self.threads:
            thread.start()

    def stop(self, failed: bool = False) -> None:
        """Leave.

        Args:
            failed: whether this process leaves with an error of its own. The others then end, too.
        """
        self.over.set()
        self.threads[0].join(FEW)
        if self.threads[0].is_alive():
            return  # it waits for a store that cannot be reached, and so would this
        try:
            self.store.set(f"beat/{self.rank}", "failed" if failed else "left")
            limit = monotonic() + 2 * FEW
            # The first process may keep the store, in which the others read it.
            while failed and self.rank == 0 and monotonic() < limit and not self.others_left():
                sleep(BEAT / 10)
        except RuntimeError:
            pass  # the store ends with the process that keeps it

    def others_left(self) -> bool:
        """Whether all other processes have left."""
        signs = self.store.multi_get([f"beat/{rank}" for rank in self.heard])
        return all(sign in GONE for sign in signs)

    def beat(self) -> None:
        """Give a sign of life, and read those of the others, until the end."""
        count = 0
        keys = [f"beat/{rank}" for rank in self.heard]
        while not self.over.wait(BEAT):
            count += 1
            try:
                self.store.set(f"beat/{self.rank}", str(count))
                signs = self.store.multi_get(keys)
            except RuntimeError:  # the store is gone, and with it all that could be heard
                return
            for (rank, (last, _)), sign in zip([*self.heard.items()], signs, strict=True):
                if sign != last:
                    self.heard[rank] = sign, monotonic()

    def judge(self) -> None:
        """End this process if another one is silent for :data:`PATIENCE` seconds, or has failed.

        The main thread may wait for the other process somewhere in C++, so it cannot be told.
        """
        while not self.over.wait(BEAT):
            if gone := self.silent(PATIENCE):
                if advice := self.advice():
                    print(advice, file=sys.stderr)
                print(f"Error: {self.sentence(gone)}", file=sys.stderr, flush=True)
                os._exit(1)
            if self.failed() and not self.over.wait(FEW):  # it may have the same error itself
                self.stop()
                os._exit(1)

    def silent(self, seconds: float) -> list[int]:
        """The processes without a sign of life for so many seconds, but for those that left."""
        now = monotonic()
        heard = self.heard.items()
        return [rank for rank, (sign, at) in heard if sign not in GONE and now - at > seconds]

    def failed(self) -> list[int]:
        """The processes that left with an error, which they say."""
        return [rank for rank, (sign, _) in self.heard.items() if sign == b"failed"]

    def lost(self) -> str:
        """The sentence about the processes that are gone; it waits some seconds to know them."""
        limit = monotonic() + 2 * FEW
        while not (gone := self.silent(FEW) or self.failed()) and monotonic() < limit:
            sleep(0.1)
        # Nobody leaves while another one still trains, unless something went wrong in it.
        left = [rank for rank, (sign, _) in self.heard.items() if sign in GONE]
        return self.sentence(gone or left)

    def sentence(self, gone: list[int]) -> str:
        """What happened to some processes."""
        if not gone:
            return UNKNOWN
        who = " and ".join(f"process {rank} ({self.names[rank]})" for rank in gone)
        return f"{who} ended or cannot be reached, so this training stops"

    def told(self) -> bool:
        """Whether an error of this process is said by the process 0, or comes from another one
        that said its own."""
        limit = monotonic() + BEAT
        while monotonic() < limit:
            if self.failed():
                return True
            try:
                if self.store.get("beat/0") == b"failed":
                    return True
            except RuntimeError:
                return False
            sleep(BEAT / 10)
        return False

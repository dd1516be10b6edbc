"""What torchrun tells the processes that it starts, in environment variables."""

from __future__ import annotations

import os


def launched() -> bool:
    """Whether torchrun, or a launcher that sets the same variables, started this process as one of
    several."""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def is_first() -> bool:
    """Whether this process is the first of those that were started together."""
    return not launched() or os.environ["RANK"] == "0"


def restarts() -> tuple[int, int]:
    """How often torchrun has started the processes again, and how often it may."""
    names = ("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS")
    done, most = (int(os.environ.get(name, "0")) for name in names)
    return done, most


def local_rank() -> str:
    """The number of this process on its host."""
    return os.environ.get("LOCAL_RANK", "0")

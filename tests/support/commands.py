"""Run the command line in this process, as a user types it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyro_vae.cli import main

TINY = ["train", "--data", "digits", "--hidden", "16", "--latent", "2", "--batch-size", "256"]


def typed(arguments: Iterable[object]) -> int:
    """Run ``pyro-vae`` with these arguments; its exit code."""
    before = sys.argv
    sys.argv = ["pyro-vae", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        sys.argv = before
    return end.value.code


def picture(path: Path) -> np.ndarray:
    """The pixels of a picture, ``[H, W, C]``."""
    return np.asarray(Image.open(path))

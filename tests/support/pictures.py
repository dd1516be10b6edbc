"""Small images, and what writes them to files and reads them back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyro_vae.data import Images, load_data
from pyro_vae.errors import InputError

RANDOM = np.random.RandomState(0)
GREYS = RANDOM.randint(256, size=(10, 6, 5), dtype=np.uint8)  # [N, H, W]
COLOURS = RANDOM.randint(256, size=(10, 3, 6, 5), dtype=np.uint8)  # [N, C, H, W]


def save(file: Path, array: np.ndarray | Image.Image, **options: object) -> None:
    """Write an image file, and the folders above it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(file, **options)


def only(name: Path, **options: object) -> Images:
    """All images of a folder or file, in their order."""
    return load_data(name, test_fraction=0, **options).train


def check_refusal(name: object, parts: list[str], **options: object) -> None:
    """Loading raises an InputError of one line that contains all ``parts``."""
    with pytest.raises(InputError) as caught:
        load_data(name, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message

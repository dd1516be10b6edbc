"""What every test starts from: one thread, an empty parameter store, a seed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from PIL import Image
from support.commands import TINY, typed
from support.exact import LinearGaussian

torch.set_num_threads(1)
# A process that a shell starts in the background ignores Ctrl-C, and so do all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

FOLDER = os.environ.get("PYRO_VAE_DATA_DIR")
MNIST = "train-images-idx3-ubyte"


def pytest_collection_modifyitems(items):
    """Skip what is marked ``mnist`` where it is not on disk, and ``cuda`` without a GPU."""
    for item in items:
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="there is no CUDA GPU"))
    if FOLDER is None:
        reason = "PYRO_VAE_DATA_DIR is not set, so the full MNIST is not there"
    elif not (Path(FOLDER) / "MNIST" / "raw" / MNIST).is_file():
        reason = f"the folder of PYRO_VAE_DATA_DIR, {FOLDER}, holds no MNIST/raw/{MNIST}"
    else:
        return
    for item in items:
        if item.get_closest_marker("mnist"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def fresh_start():
    """No test sees another's parameters or random numbers."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


@pytest.fixture
def any_pixels():
    """Pixels of any size are scored, as the linear-Gaussian models need."""
    with pyro.validation_enabled(False):
        yield


@pytest.fixture
def exact():
    """A model whose log p(x), posterior and gaps are known."""
    return LinearGaussian(pixels=5, latents=(2,))


@pytest.fixture
def image_folder(tmp_path):
    """A folder of twelve 6 x 5 grey images in two class sub-folders, and its pixels."""
    pixels = np.random.RandomState(0).randint(256, size=(12, 6, 5), dtype=np.uint8)
    folder = tmp_path / "pictures"
    for i, image in enumerate(pixels):
        file = folder / ("cats" if i < 8 else "dogs") / f"{i:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return folder, pixels


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run on scikit-learn's digits, trained for two epochs. Tests must not change it."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert typed([*TINY, "--epochs", "2", "--out", folder]) == 0
    return folder


@pytest.fixture(scope="session")
def layered(tmp_path_factory):
    """A run with three layers of latents. Tests must not change it."""
    run = tmp_path_factory.mktemp("runs") / "layers"
    assert (
        typed([*TINY, "--latent", "4,3,2", "--guide", "ladder", "--epochs", "2", "--out", run]) == 0
    )
    return run

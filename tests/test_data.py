"""Loading by name or path, and the protocols on one data set."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from pyro_vae.data import BINARIZE, load_data
from pyro_vae.errors import InputError


@pytest.fixture(scope="module")
def digits():
    return {protocol: load_data("digits", binarize=protocol) for protocol in BINARIZE}


EVERYTHING = slice(None)


def test_import_is_light():
    code = (
        "import sys, pyro_vae.data; "
        "print([m for m in ('torchvision', 'sklearn', 'mlxtend') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_data_set_goes_before_a_folder_of_the_same_name(tmp_path, monkeypatch, image_folder):
    folder, _ = image_folder
    monkeypatch.chdir(tmp_path)
    folder.rename(tmp_path / "digits")
    assert load_data("digits").shape == (1, 8, 8)
    assert load_data("./digits").shape == (1, 6, 5)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_bad_test_fraction(image_folder, fraction):
    with pytest.raises(InputError, match=r"test fraction .* is not in \[0, 1\)"):
        load_data(image_folder[0], test_fraction=fraction)


def test_bad_protocol():
    with pytest.raises(InputError, match="unknown binarisation 'dynamik'; did you mean dynamic"):
        load_data("digits", binarize="dynamik")


def test_protocols_share_one_split(digits):
    for protocol, data in digits.items():
        assert torch.equal(data.test.labels, digits["none"].test.labels)
        for part in (data.train, data.test):
            assert part.binarize == protocol
            assert part.is_binary is (protocol != "none")


def test_static_is_drawn_once_with_its_seed(digits):
    train, grey = digits["static"].train, digits["none"].train.batch(EVERYTHING)
    x = train.batch(EVERYTHING)
    assert torch.equal(x, train.batch(EVERYTHING))
    assert torch.equal(x, load_data("digits", binarize="static").train.batch(EVERYTHING))
    assert not torch.equal(
        x, load_data("digits", binarize="static", binarize_seed=1).train.batch(EVERYTHING)
    )
    assert (x[grey == 0] == 0).all()
    assert (x[grey == 1] == 1).all()
    some = (grey > 0) & (grey < 1)
    z = (x - grey)[some].sum() / (grey * (1 - grey))[some].sum().sqrt()
    assert abs(z) < 5

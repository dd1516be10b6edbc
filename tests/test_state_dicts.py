"""Run folders of earlier versions load: the weights of each row have the names that they had."""

import json
from pathlib import Path

import pytest
from support.density import SHAPE
from support.rows import ROWS, row_vae

from pyro_vae import VAE
from pyro_vae.networks import NETWORKS

SAVED = json.loads((Path(__file__).parent / "data" / "state_dicts.json").read_text())
"""The names and shapes of the weights of one VAE for each row, in their order, by ``kind name``.

They were computed at the commit 9f8bf6d, before the contracts. A line changes only together with
code that reads the run folders of before.
"""


def state(kind, name):
    """The names and shapes of the weights of a small VAE with the part ``name``, in their order."""
    if kind == "network":  # with its own layer sizes
        vae = VAE(SHAPE, 2, network=name)
    elif kind == "layers":
        vae = VAE(SHAPE, (3, 2), guide=name, hidden=(32,))
    else:
        vae = row_vae(kind, name)
    return {key: list(value.shape) for key, value in vae.state_dict().items()}


@pytest.mark.parametrize("row", SAVED)
def test_the_weights_have_the_names_and_shapes_of_before(row):
    # The order counts, too: the state of an optimizer is saved by it.
    assert list(state(*row.split(" ", 1)).items()) == list(SAVED[row].items())


def test_every_row_of_the_tables_has_its_line():
    rows = [*ROWS, *(("network", name) for name in NETWORKS)]
    missing = {" ".join(row): state(*row) for row in rows if " ".join(row) not in SAVED}
    assert not missing, f"state_dicts.json lacks these lines: {json.dumps(missing)}"

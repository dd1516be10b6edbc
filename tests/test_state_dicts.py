"""Run folders of earlier versions load: the weights of each row have the names that they had."""

import json
from pathlib import Path

import pytest
from support.density import SHAPE
from support.rows import NEEDS, ROWS

from pyro_vae import VAE
from pyro_vae.networks import NETWORKS
from pyro_vae.runs.older import as_written_now

SAVED = json.loads((Path(__file__).parent / "data" / "state_dicts.json").read_text())
"""The names and shapes of the weights of one VAE for each row, in their order, by ``kind name``.

They were computed at the commit 9f8bf6d, before the contracts. A line changes only together with
code that reads the run folders of before.
"""

THEN = {
    "shape": SHAPE,
    "latent_size": 2,
    "prior": None,
    "likelihood": "bernoulli",
    "guide": "mean-field",
    "network": "mlp",
    "hidden": [32],
}
"""The arguments of a VAE as a run's config had them then."""


def state(kind, name):
    """The names and shapes of the weights of the VAE that an old config with the part ``name``
    gives, in their order."""
    if kind == "network":
        own = {"network": name, "hidden": None}  # its own layer sizes
    elif kind == "layers":
        own = {"guide": name, "latent_size": [3, 2]}
    else:
        own = {kind: name} | NEEDS[kind].get(name, {})
    vae = VAE(**as_written_now(THEN | own))
    return {key: list(value.shape) for key, value in vae.state_dict().items()}


@pytest.mark.parametrize("row", SAVED)
def test_the_weights_have_the_names_and_shapes_of_before(row):
    # The order counts, too: the state of an optimizer is saved by it.
    assert list(state(*row.split(" ", 1)).items()) == list(SAVED[row].items())


def test_every_row_of_the_tables_has_its_line():
    rows = [*ROWS, *(("network", name) for name in NETWORKS)]
    missing = {" ".join(row): state(*row) for row in rows if " ".join(row) not in SAVED}
    assert not missing, f"state_dicts.json lacks these lines: {json.dumps(missing)}"

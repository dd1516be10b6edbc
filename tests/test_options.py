"""Every option of every row of every table refuses a value of a wrong type in one sentence."""

import re

import numpy as np
import pytest
import torch

from pyro_vae import VAE, InputError
from pyro_vae.options import at_least_one, finite, flag, number
from pyro_vae.registry import (
    GUIDES,
    LIKELIHOODS,
    NETWORKS,
    OBJECTIVES,
    PRIORS,
    SCALES,
    arguments,
)
from pyro_vae.runs.setup import options_explained
from pyro_vae.settings import Settings

TABLES = {t.kind: t for t in (PRIORS, LIKELIHOODS, GUIDES, NETWORKS, SCALES, OBJECTIVES)}
HANDED = {
    *("shape", "latent_size", "latent_layers", "encoder", "decoder", "network", "posterior"),
    "data_size",
    "scaling",
    "context_size",
    "context_scaling",
    "labelled",
}
SPECS = {"scale", "layer", "continuous", "discrete"}
WRONG = {
    bool: (0, "no", None),
    int: ("a", 2.5, 2.0, True, None, [2]),
    float: ("a", True, None, [0.5]),
    str: (3, None, True, ["relu"], {}),
    tuple: (3, "a", [2.0], [True]),
    type(None): ("a", True, {}),
}
"""Values that do not fit, by the type of an option's default."""

CASES = [
    (kind, name, option, value)
    for kind, table in TABLES.items()
    for name, row in table.items()
    for option, parameter in arguments(row, name).items()
    if option not in HANDED
    for value in (
        (3, None, True)
        if option in SPECS and isinstance(parameter.default, str)
        else WRONG[type(parameter.default)]
    )
]


@pytest.mark.parametrize(("kind", "name", "option", "value"), CASES)
def test_a_wrong_type_is_refused(kind, name, option, value):
    with pytest.raises(InputError, match=re.escape(repr(value))) as refusal:
        build(kind, f"{name}({option}={value!r})")
    assert "\n" not in str(refusal.value)


def build(kind, spec):
    """Build the part, inside a VAE if it is a part of one."""
    if kind in ("scale", "objective"):
        return TABLES[kind].build(spec, data_size=100)
    condition = 3 if spec.startswith(("labelled", "conditional")) else None
    condition = (2,) if spec.startswith("targeted") else condition
    return VAE((1, 8, 8), 20, condition=condition, **{kind: spec})


def test_all_rows_with_options_are_covered():
    assert {(kind, option) for kind, _, option, _ in CASES} >= {
        ("scale", "initial"),
        ("prior", "skip"),
        ("guide", "categories"),
        ("network", "activation"),
    }


def test_numbers_of_numpy_are_numbers():
    at_least_one("units", np.int64(3))
    assert number("rate", np.float32(0.5), above=0) == 0.5
    assert finite("alpha", np.float64(-2)) == -2
    for value in (np.bool_(True), np.float64("nan"), np.array([1, 2]), 10**400):
        with pytest.raises(InputError, match="alpha is a finite number, not "):
            finite("alpha", value)
    with pytest.raises(InputError, match="skip is True or False, not 1"):
        flag("skip", 1)


def test_a_broken_distribution_is_not_called_an_option_of_a_wrong_type():
    said = "with these data and settings, a distribution has invalid parameters"
    settings = Settings(objective="iwae(num_particles=3)")
    with pytest.raises(InputError, match=said), options_explained(settings):
        torch.distributions.Normal(0.0, torch.tensor([-1.0]))

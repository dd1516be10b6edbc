"""Each recipe names a paper and parts that exist, and trains."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields

import pyro
import pytest
import torch
from pyro.infer import SVI

from pyro_vae.guides import GUIDES
from pyro_vae.likelihoods import LIKELIHOODS
from pyro_vae.networks import NETWORKS
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.priors import PRIORS
from pyro_vae.recipes import RECIPES, Recipe
from pyro_vae.settings import Settings
from pyro_vae.vae import VAE

TABLES = {
    "prior": PRIORS,
    "likelihood": LIKELIHOODS,
    "guide": GUIDES,
    "objective": OBJECTIVES,
    "network": NETWORKS,
}

LABELLED = ("condition", "known_labels")
"""The settings of a recipe that ask for labels."""


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_a_paper_and_parts_that_exist(name):
    recipe = RECIPES[name]
    assert re.search(r"(19|20)\d\d, [A-Zβ]", recipe.paper)
    assert recipe.settings.keys() <= TABLES.keys() | {"latent", *LABELLED}
    assert recipe.settings.keys() <= {f.name for f in fields(Settings)}
    assert recipe.parts.keys() <= inspect.signature(VAE).parameters.keys()
    for part, spec in recipe.settings.items():
        assert f"{part} {spec}" in recipe.line
        if part in ("latent", *LABELLED):
            continue
        choice = TABLES[part].choose(spec)
        assert choice.part in TABLES[part].values()
        assert set(choice.options) <= inspect.signature(choice.part).parameters.keys()
    assert recipe.line.endswith(recipe.paper)


def test_no_two_recipes_are_the_same():
    settings = [str(sorted(recipe.settings.items())) for recipe in RECIPES.values()]
    assert len(set(settings)) == len(settings)
    assert RECIPES["vae"].settings == {}
    assert Recipe("A 2000, B").objective == "monte-carlo"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains(name):
    recipe = RECIPES[name]
    x = torch.rand(4, 1, 4, 4).round().repeat(8, 1, 1, 1)
    condition, labels = None, ()
    if recipe.settings.keys() & {*LABELLED}:
        condition, labels = 4, (torch.arange(4).repeat(8),)
    if name == "m2-real":
        condition, labels = (1,), (torch.arange(32.0)[:, None],)
    own = {"latent_size": 12, "hidden": (16,), "condition": condition}
    vae = VAE((1, 4, 4), **own | recipe.parts)
    objective = OBJECTIVES.build(recipe.objective, data_size=len(x))
    objective.advance(1e6)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss=objective)

    def now():
        return sum(svi.evaluate_loss(x, *labels) for _ in range(10)) / 10

    before = now()
    for _ in range(30):
        svi.step(x, *labels)
    assert now() < before - 10

"""Every row of the library's tables, compiled: gradients equal to eager ones at equal noise."""

from functools import partial
from math import nan

import pyro
import pytest
import torch
from support.compiled import agree, take
from support.rows import scored

from pyro_vae import VAE, Likelihood
from pyro_vae.compiling import CompiledELBO
from pyro_vae.guides import GUIDES
from pyro_vae.likelihoods import LIKELIHOODS
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.priors import PRIORS
from pyro_vae.recipes import RECIPES

pytestmark = pytest.mark.filterwarnings("error:this step runs eagerly")

# A row that fits no default takes others with it.
NEEDS = {
    "categorical": {"objective": "enumerate", "guide": "categorical"},
    "enumerate": {"guide": "categorical"},
    "relaxed-categorical": {"guide": "gumbel-softmax"},
    "joint": {"guide": "joint"},
    "labelled": {"objective": "m2", "guide": "labelled", "condition": 3},
    "m2": {"guide": "labelled", "condition": 3},
    "targeted": {"objective": "m2-real", "guide": "targeted", "condition": (2,)},
    "m2-real": {"guide": "targeted", "condition": (2,)},
    "cvae": {"condition": 3},
    "conditional": {"condition": 3},
}
TABLES = {
    "prior": PRIORS,
    "likelihood": LIKELIHOODS,
    "guide": GUIDES,
    "objective": OBJECTIVES,
}
ROWS = [(part, name) for part, table in TABLES.items() for name in table]


def same_gradients(settings, mask=None):
    settings = {"latent_size": 12, "hidden": (8,), **settings}
    objective = settings.pop("objective", "monte-carlo")
    torch.manual_seed(0)
    vae = VAE((1, 6, 5), **settings)
    elbo = OBJECTIVES.build(objective, data_size=100)
    x = scored(Likelihood.of(vae.model.likelihood), torch.rand(6, 1, 6, 5).round())
    args = (x,) if vae.model.condition is None else (x, torch.tensor([0, 1, 2, 0, 1, 2]))
    if vae.infers_labels:
        args[1][2:] = -1
    elif vae.infers_y:
        args = (x, torch.tensor([[1.0, 0.2], [nan, 3.0], *[[nan, nan]] * 4]))
    getattr(elbo, "advance", lambda epoch: None)(0.5)
    compiled = CompiledELBO(elbo, "eager")
    model, guide = vae.model, vae.guide
    if mask is not None:
        model, guide = partial(model, mask=mask), partial(guide, mask=mask)
    take(compiled, model, guide, args)
    for seed in range(2):
        agree(elbo, compiled, model, guide, args, seed, rtol=1e-4, modules=[vae])
    return vae, elbo, compiled, args


@pytest.mark.parametrize(("part", "name"), ROWS, ids=map(" ".join, ROWS))
def test_parts(part, name):
    *_, compiled, _ = same_gradients({**NEEDS.get(name, {}), part: name})
    assert len(compiled.graphs) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods_with_a_mask(name):
    mask = torch.rand(6, 1, 6, 5) < 0.7
    *_, compiled, _ = same_gradients({"likelihood": name}, mask)
    assert len(compiled.graphs) == 1


@pytest.mark.parametrize("name", [n for n, recipe in RECIPES.items() if len(recipe.settings) > 1])
def test_recipes(name):
    recipe = RECIPES[name]
    own = NEEDS.get(name, {})
    *_, compiled, _ = same_gradients({**own, **recipe.parts, "objective": recipe.objective})
    assert len(compiled.graphs) == 1


@pytest.mark.parametrize("name", [n for n, row in OBJECTIVES.items() if hasattr(row, "advance")])
def test_a_schedule_moves_without_new_graphs(name):
    vae, elbo, compiled, args = same_gradients({**NEEDS.get(name, {}), "objective": name})
    for epoch in (0.0, 0.7, 3.2, 20.0):
        elbo.advance(epoch)
        agree(elbo, compiled, vae.model, vae.guide, args, rtol=1e-4)
    assert len(compiled.graphs) == 1


def test_two_vaes_share_no_weights():
    pyro.set_rng_seed(0)
    compiled = CompiledELBO(OBJECTIVES["monte-carlo"](), "eager")
    x = torch.rand(6, 1, 6, 5).round()
    vaes = [VAE((1, 6, 5), latent_size=12, hidden=(8,)) for _ in range(2)]
    for seed in range(4):
        for vae in vaes:
            agree(compiled.elbo, compiled, vae.model, vae.guide, (x,), seed)
    assert len(compiled.graphs) == 1

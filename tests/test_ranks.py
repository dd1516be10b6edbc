"""Several processes that share each batch take the steps that one process takes."""

import numpy as np
import pytest
from support.ranks import Case, launch, train_all
from support.rows import NEEDS, ROWS

from pyro_vae.objectives import OBJECTIVES

NORM = "mlp(batch_norm=True)"
FIFTY = {"images": 29, "epochs": 10}  # five steps each, the last one on five images

EARLY = {"images": 29, "epochs": 40, "patience": 2}  # it ends after 6 to 13 epochs


def rows() -> dict[str, Case]:
    """A few steps for each part and each objective of the tables, and for their options."""
    found = {
        f"{kind} {name}": Case({kind: name} | NEEDS[kind].get(name, {})) for kind, name in ROWS
    }
    for name in OBJECTIVES:
        vae = {"guide": "categorical"} if name == "enumerate" else {}
        vae = {"guide": "labelled", "condition": 3} if name == "m2" else vae
        vae = {"guide": "targeted", "condition": (2,)} if name == "m2-real" else vae
        found[f"objective {name}"] = Case(vae, objective=name)
    for objective in (
        "monte-carlo(num_particles=3)",
        "dip(variant=2)",
        "infovae(kernel='imq', kl='analytic')",
        "beta-tc(estimator='stratified')",
        "free-bits(nats=0.1, group_size=1, num_particles=3)",
        "capacity(num_particles=2)",
    ):
        found[f"objective {objective}"] = Case({}, objective=objective)
    return found


TWO = {
    **rows(),
    "flat, 50 steps": Case({}, **FIFTY),
    "iwae, 50 steps": Case({}, objective="iwae", **FIFTY),
    "beta-tc, 50 steps": Case({}, objective="beta-tc", **FIFTY),
    "ladder with batch normalization, 50 steps": Case(
        {"latent_size": (4, 3, 2), "guide": "ladder", "network": NORM}, sgd=True, **FIFTY
    ),
    "convolutions with batch normalization": Case(
        {"network": "conv(batch_norm=True)", "hidden": (8, 16)}, sgd=True
    ),
    "dreg with batch normalization": Case({"network": NORM}, sgd=True, objective="dreg"),
    "semi-amortized with batch normalization": Case(
        {"network": NORM, "guide": "semi-amortized(steps=2)"}, sgd=True
    ),
    "vamp with batch normalization": Case({"network": NORM, "prior": "vamp"}, sgd=True),
    "infovae with a learned prior": Case({"prior": "normal"}, objective="infovae"),
    "dip with a full covariance": Case({"guide": "full-covariance"}, objective="dip(variant=2)"),
    "discrete draws": Case({"guide": "categorical"}, objective="monte-carlo"),
    "holes": Case({"holes": True, "likelihood": "normal-learned"}, objective="iwae"),
    "missing by their own value": Case({"holes": True, "likelihood": "self-masking"}),
    "patience": Case({}, **EARLY, lr=0.05),
    "patience with an average": Case({}, **EARLY, lr=0.05, average=0.9),
    "patience with batch normalization": Case({"network": NORM}, **EARLY, sgd=True),
    "a limit of the gradient": Case({}, clip=1.0, schedule="cosine"),
}
THREE = {
    # The last batch has two images, so one process takes it.
    "fewer images than processes": Case({"network": NORM}, images=14, batch_size=4, sgd=True),
    "one image each": Case({"network": NORM}, images=9, batch_size=3, sgd=True),
    "mixture": Case({"guide": "mixture"}),
    "discrete draws": Case({"guide": "categorical"}, objective="monte-carlo"),
    "stratified": Case({}, objective="beta-tc(estimator='stratified')"),
}


@pytest.fixture(scope="module")
def two():
    return launch(2, train_all, TWO)


@pytest.fixture(scope="module")
def three():
    return launch(3, train_all, THREE)


def check_same(case: Case, results: list) -> None:
    """All processes end with the weights and the numbers of one process."""
    weights, numbers = case.train()
    for ours, told in results:
        for name, value in weights.items():
            np.testing.assert_allclose(ours[name], value, rtol=0, atol=1e-10, err_msg=name)
        np.testing.assert_allclose(told, numbers, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", TWO)
def test_two_processes_take_the_steps_of_one(name, two):
    check_same(TWO[name], [result[name] for result in two])


@pytest.mark.parametrize("name", [name for name in TWO if name.startswith("patience")])
def test_two_processes_end_by_their_patience_with_the_best_weights(name, two):
    """All processes end after the same epoch, two after the best one, and not with its weights."""
    for weights, numbers in (result[name] for result in two):
        bounds = [elbo for _, elbo, _ in numbers]
        best = bounds.index(max(bounds)) + 1
        assert len(bounds) == best + 2 < EARLY["epochs"]
        until = Case(TWO[name].vae, EARLY["images"], sgd=TWO[name].sgd, **TWO[name].training)
        until.training |= {"epochs": best, "patience": best}
        for key, value in until.train()[0].items():
            np.testing.assert_allclose(weights[key], value, rtol=0, atol=1e-10, err_msg=key)


@pytest.mark.parametrize("name", THREE)
def test_three_processes_take_the_steps_of_one(name, three):
    check_same(THREE[name], [result[name] for result in three])


COMPILED = {
    "flat, 50 steps": "iwae",
    "beta-tc, 50 steps": "beta-tc",
    "ladder with batch normalization, 50 steps": "annealed(epochs=2)",
}


@pytest.mark.parametrize(
    "names", [["flat, 50 steps"], pytest.param(list(COMPILED), marks=pytest.mark.slow)]
)
def test_compiled_steps_are_those_of_one_process(names):
    """Eager steps of one process are the reference."""
    cases = {
        name: Case(TWO[name].vae, sgd=TWO[name].sgd, **FIFTY | {"objective": COMPILED[name]})
        for name in names
    }
    for case in cases.values():
        case.training["compiled"] = True
    results = launch(2, train_all, cases)
    for name, case in cases.items():
        case.training["compiled"] = False
        check_same(case, [result[name] for result in results])

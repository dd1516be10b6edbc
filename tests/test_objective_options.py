"""Options and batches that do not fit an objective are refused in one sentence."""

from __future__ import annotations

import pytest
import torch
from support.objectives import (
    objective,
)

from pyro_vae.errors import InputError
from pyro_vae.vae import VAE


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("iwae(nats=2)", "ImportanceWeighted has no option 'nats'; it takes num_particles"),
        ("iwae(num_particles=0)", "num_particles is a whole number above 0, not 0"),
        ("miwae(outer=1.5)", "outer is a whole number above 0, not 1.5"),
        ("beta(beta=-1)", "beta is a number of at least 0, not -1"),
        ("beta(kl='exact')", "unknown kl 'exact'; there are: monte-carlo, analytic, closed-form"),
        ("annealed(epochs=0)", "epochs is a number above 0, not 0"),
        ("cyclical(ratio=0)", "ratio is a number above 0, not 0"),
        ("free-bits(nats='much')", "nats is a number of at least 0, not 'much'"),
        ("free-bits(group_size=0)", "group_size is a whole number above 0, not 0"),
        ("beta-tc(estimator='exact')", "unknown estimator 'exact'"),
        ("infovae(kernel='linear')", "unknown kernel 'linear'"),
        ("infovae(alpha=2)", "alpha is at most 1"),
        ("iwae(num_particles=True)", "num_particles is a whole number above 0, not True"),
        ("dreg(num_particles='many')", "num_particles is a whole number above 0, not 'many'"),
        ("miwae(outer=None)", "outer is a whole number above 0, not None"),
        ("beta(beta=True)", "beta is a number of at least 0, not True"),
        ("beta(beta=None)", "beta is a number of at least 0, not None"),
        ("beta(beta=[1, 2])", r"beta is a number of at least 0, not \[1, 2\]"),
        ("beta(beta={'z': 'x'})", "beta is a number of at least 0, not 'x'"),
        ("beta(beta={})", "beta is a number, or a dict from the name of each latent site to its"),
        (
            "beta(beta={1: 2})",
            "beta is a number, or a dict from the name of each latent site to its",
        ),
        ("beta(beta={'': 2, 'z': 3})", "beta is a number, or a dict from the name of each latent"),
        ("beta(kl=3)", "kl is one of the names monte-carlo, analytic, closed-form, not 3"),
        ("beta(kl=['analytic'])", "kl is one of the names monte-carlo, analytic, closed-form, not"),
        ("annealed(epochs=1e999)", "epochs is a number above 0, not inf"),
        ("annealed(start='0')", "start is a number of at least 0, not '0'"),
        ("cyclical(epochs=True)", "epochs is a number above 0, not True"),
        ("capacity(gamma=[1])", "gamma is a number of at least 0, not"),
        ("capacity(epochs=None)", "epochs is a number above 0, not None"),
        ("free-bits(group_size=True)", "group_size is a whole number above 0, not True"),
        ("beta-tc(alpha='x')", "alpha is a number of at least 0, not 'x'"),
        ("beta-tc(estimator=1)", "estimator is one of the names weighted, stratified, not 1"),
        ("infovae(alpha='x')", "alpha is a finite number, not 'x'"),
        ("infovae(alpha=True)", "alpha is a finite number, not True"),
        ("infovae(lambda_=1e999)", "lambda_ is a finite number, not inf"),
        ("infovae(lambda_=None)", "lambda_ is a finite number, not None"),
        ("infovae(kernel=None)", "kernel is one of the names rbf, imq, not None"),
        ("infovae(bandwidth=True)", "bandwidth is a number above 0, not True"),
        ("dip(offdiagonal='x')", "offdiagonal is a number of at least 0, not 'x'"),
        ("dip(variant=True)", "variant is 1 or 2, not True"),
        ("dip(variant=3)", "variant is 1 or 2, not 3"),
    ],
)
def test_bad_options_are_refused_when_the_objective_is_made(spec, message):
    with pytest.raises(InputError, match=message) as error:
        objective(spec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "parts", "message"),
    [
        ("beta(beta={'y': 2})", {}, "beta names the latent sites y, and there is also z|names 'y'"),
        ("beta(beta={'z': 2, 'y': 2})", {}, "beta names 'y', and the latent sites are z"),
        ("free-bits(group_size=2)", {}, "'z', which has 3 units"),
        ("free-bits(group_size=1)", {"guide": "full-covariance"}, "take whole sites"),
        ("beta-tc", {"guide": "iaf"}, "take whole sites|dimensions are not independent"),
        ("beta-tc", {"guide": "joint(categories=2)"}, "beta-tc is for one latent site"),
        ("dip", {"guide": "spline"}, "dip needs the mean of"),
        ("dip(variant=2)", {"guide": "mixture"}, "variant 2 of dip needs the covariance"),
    ],
)
def test_a_vae_that_does_not_fit_is_refused_at_the_first_call(spec, parts, message):
    vae = VAE((1, 4, 4), 3, hidden=(8,), **parts)
    with pytest.raises(InputError, match=message):
        objective(spec).loss(vae.model, vae.guide, torch.rand(6, 1, 4, 4).round())


def test_batches_that_do_not_fit_are_refused():
    vae = VAE((1, 4, 4), 3, hidden=(8,))
    x = torch.rand(6, 1, 4, 4).round()
    with pytest.raises(InputError, match="data_size is 5, and a batch has 6 images"):
        objective("beta-tc", data_size=5).loss(vae.model, vae.guide, x)
    with pytest.raises(InputError, match="needs batches of 2 images or more"):
        objective("beta-tc(estimator='stratified')").loss(vae.model, vae.guide, x[:1])
    with pytest.raises(InputError, match="needs batches of 2 images or more"):
        objective("infovae").loss(vae.model, vae.guide, x[:1])

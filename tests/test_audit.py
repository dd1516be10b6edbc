"""The audit: a row for each site with the right numbers, and mistakes that it refuses."""

from __future__ import annotations

from io import StringIO

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from rich.console import Console
from support.exact import LinearGaussian, LinearMeanField
from torch.distributions import kl_divergence

from pyro_vae.audit import audit, table
from pyro_vae.errors import InputError
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.objectives.bounds import MonteCarlo
from pyro_vae.vae import VAE


def test_a_vae_in_two_rows():
    exact = LinearGaussian(5, (2,))
    x, vae = exact.images(7), exact.vae(LinearMeanField(exact, shift=0.3))
    pyro.set_rng_seed(0)
    z, image = audit(vae, x)
    pyro.set_rng_seed(0)
    elbo = -Trace_ELBO().loss(vae.model, vae.guide, x) / 7
    assert (z.name, z.latent, z.p, z.q) == ("z", True, "Normal", "Normal")
    assert (z.batch_shape, z.event_shape) == ((7,), (2,))
    assert z.analytic
    kl = kl_divergence(vae.guide.posterior(x), vae.model.prior()).mean().item()
    assert z.kl == pytest.approx(kl, rel=1e-12)
    assert image.log_p + z.log_p - z.log_q == pytest.approx(elbo, rel=1e-12)
    assert (image.name, image.latent, image.p, image.q) == ("x", False, "Normal", "")
    assert (image.batch_shape, image.event_shape) == ((7,), (1, 1, 5))
    assert image.log_q is None
    assert image.kl is None
    assert (z.scale_p, z.scale_q, image.scale_p, image.scale_q) == ("1", "1", "1", "")


def test_a_kl_without_a_closed_form_is_an_estimate():
    vae = VAE((1, 4, 4), 3, hidden=(8,), guide="iaf")
    z, _ = audit(vae, torch.rand(6, 1, 4, 4).round())
    assert not z.analytic
    assert z.q == "Flow"
    assert z.kl == pytest.approx(z.log_q - z.log_p)


def test_a_chain_has_a_row_per_layer():
    exact = LinearGaussian(5, (2, 3))
    x = exact.images(7)
    rows = audit(exact.vae(), x)
    assert [r.name for r in rows] == ["z_2", "z_1", "x"]
    assert [r.event_shape for r in rows] == [(3,), (2,), (1, 1, 5)]
    total = rows[2].log_p + rows[0].log_p + rows[1].log_p - rows[0].log_q - rows[1].log_q
    assert total == pytest.approx(exact.log_evidence(x).mean().item(), rel=1e-9)


def regression(x, y):
    """A user's own model: global weights, and a noise for each point."""
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("points", len(x)):
        shift = pyro.sample("shift", dist.Normal(0.0, 0.1))
        pyro.sample("y", dist.Normal(x @ w + shift, 0.5), obs=y)


def test_any_pyro_program():
    x, y = torch.randn(9, 2), torch.randn(9)
    guide = AutoNormal(regression)
    guide(x, y)  # AutoNormal finds the sites in its first run
    pyro.set_rng_seed(0)
    rows = {r.name: r for r in audit(regression, guide, x, y)}
    pyro.set_rng_seed(0)
    elbo = -Trace_ELBO().loss(regression, guide, x, y) / 9
    assert rows["w"].batch_shape == ()
    assert rows["shift"].batch_shape == (9,)
    assert rows["y"].batch_shape == (9,)
    total = sum(r.log_p for r in rows.values() if r.p)
    total -= sum(r.log_q for r in rows.values() if r.q)
    assert total == pytest.approx(elbo, rel=1e-5)


def test_scales_are_shown_and_left_out_of_the_numbers():
    exact = LinearGaussian(5, (2,))
    x, vae = exact.images(7), exact.vae()
    pyro.set_rng_seed(0)
    plain = audit(vae, x)
    pyro.set_rng_seed(0)
    model, guide = (poutine.scale(p, scale=0.25) for p in (vae.model, vae.guide))
    z, image = audit(model, guide, x)
    assert (z.scale_p, z.scale_q, image.scale_p) == ("0.25", "0.25", "0.25")
    assert (z.kl, image.log_p) == (plain[0].kl, plain[1].log_p)


def test_the_table_shows_the_rows():
    exact = LinearGaussian(5, (2,))
    rows = audit(exact.vae(), exact.images(7))
    page = StringIO()
    Console(file=page, width=200).print(table(rows))
    text = page.getvalue()
    for word in (
        "observed",
        "MultivariateNormal",
        " 7 ",
        "1x1x5",
        "analytic",
        f"{rows[0].kl:.2f}",
    ):
        assert word in text


def one_sided(x):
    with pyro.plate("data", len(x)):
        with poutine.scale(scale=4.0):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def plain_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.5 * x, 0.7))


def outside(x):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(w, 1.0), obs=x)


def subsampled(x):
    with pyro.plate("data", len(x), subsample_size=2) as index:
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[index])


def subsampled_guide(x):
    with pyro.plate("data", len(x), subsample_size=2) as index:
        pyro.sample("z", dist.Normal(0.5 * x[index], 0.7))


def test_a_weight_on_one_side_is_refused():
    with pytest.raises(InputError, match="site 'z' has the scale 4 in the model and 1 in the"):
        audit(one_sided, plain_guide, torch.ones(3))


@pytest.mark.parametrize("elbo", [TraceMeanField_ELBO(), OBJECTIVES["analytic"]()])
def test_an_analytic_kl_without_a_closed_form_is_refused(elbo):
    vae = VAE((1, 4, 4), 3, hidden=(8,), prior="mixture")
    with pytest.raises(InputError, match="no closed-form KL"):
        audit(vae, torch.rand(6, 1, 4, 4).round(), objective=elbo)


@pytest.mark.parametrize("elbo", [RenyiELBO(0, num_particles=3), OBJECTIVES["iwae"]()])
def test_an_importance_bound_needs_every_site_in_the_plate(elbo):
    def guide(x):
        pyro.sample("w", dist.Normal(0.0, 1.0))

    with pytest.raises(InputError, match="site 'w' lies outside the plate of images"):
        audit(outside, guide, torch.ones(4), objective=elbo)


def test_a_subsampled_plate_under_pyros_importance_bound_is_refused():
    x = torch.ones(6)
    renyi = RenyiELBO(0, num_particles=3)
    with pytest.raises(InputError, match="has the scale 3, which RenyiELBO applies inside the log"):
        audit(subsampled, subsampled_guide, x, objective=renyi)
    z, _ = audit(subsampled, subsampled_guide, x, objective=OBJECTIVES["iwae"]())
    assert (z.scale_p, z.scale_q) == ("3", "3")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_accepts_a_vae_that_fits(name):
    fitting = {"enumerate": "categorical", "m2": "labelled", "m2-real": "targeted"}
    guide = fitting.get(name, "mean-field")
    condition = {"m2": 3, "m2-real": (2,)}.get(name)
    vae = VAE((1, 4, 4), 4, guide=guide, condition=condition, hidden=(8,))
    made = OBJECTIVES.build(name, data_size=40)
    rows = audit(vae, torch.rand(6, 1, 4, 4).round(), objective=made)
    assert [r.name for r in rows] == [*(["y"] if condition else []), "z", "x"]


def test_a_model_without_a_guide_is_refused():
    with pytest.raises(InputError, match="audit takes a VAE, or a model and its guide"):
        audit(one_sided)


def test_an_objective_of_the_user_that_changes_with_training():
    """Its loss needs ``advance`` first. The audit advances a copy."""

    class Warmed(MonteCarlo):
        beta = None

        def advance(self, epoch):
            self.beta = min(1.0, 0.1 + epoch)

        def loss(self, model, guide, *args, **kwargs):
            return self.beta * super().loss(model, guide, *args, **kwargs)

    objective = Warmed()
    exact = LinearGaussian(5, (2,))
    vae = exact.vae(LinearMeanField(exact, shift=0.3))
    assert [site.name for site in audit(vae, exact.images(7), objective=objective)] == ["z", "x"]
    assert objective.beta is None

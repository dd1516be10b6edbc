"""Wrong numbers of other programs: each is shown, and then refused or computed correctly."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from support.exact import LinearMeanField
from support.objectives import (
    BY_IMAGE,
    objective,
    scaled_site,
)

from pyro_vae.errors import InputError
from pyro_vae.vae import VAE


@pytest.mark.parametrize(
    ("parts", "pair"),
    [
        ({"prior": "mixture"}, r"KL\(Normal \|\| .*Mixture.*\)"),
        ({"guide": "iaf"}, r"KL\(Flow \|\| Normal\)"),
        ({"guide": "planar"}, r"KL\(TransformedDistribution \|\| Normal\)"),
        ({"guide": "mixture"}, r"KL\(NormalMixture \|\| Normal\)"),
    ],
)
def test_no_closed_form_is_an_error(parts, pair, recwarn):
    vae = VAE((1, 4, 4), 3, hidden=(8,), **parts)
    x = torch.rand(6, 1, 4, 4).round()
    recwarn.clear()
    TraceMeanField_ELBO().loss(vae.model, vae.guide, x)
    assert not recwarn.list  # Pyro estimated the KL without a warning
    with pytest.raises(InputError, match=f"no closed-form {pair} at site 'z'; take the monte-"):
        objective("analytic").loss(vae.model, vae.guide, x)
    with pytest.raises(InputError, match="closed form is that of a mean-field Normal"):
        objective("closed-form").loss(vae.model, vae.guide, x)


def test_the_closed_form_refuses_another_normal_as_prior(exact):
    vae = exact.vae(LinearMeanField(exact))
    vae.model.prior.zero += 1.0
    with pytest.raises(InputError, match="other moments: take the analytic objective"):
        objective("closed-form").loss(vae.model, vae.guide, exact.images(3))


@pytest.mark.filterwarnings("ignore:Failed to verify mean field")
def test_a_closed_form_of_a_guide_in_another_order_is_refused():
    """The guide is q(z_1 | x) q(z_2 | z_1), the model p(z_2) p(z_1 | z_2).

    z_2 depends on z_1, so the mean of KL(q(z_1 | x) || p(z_1 | z_2)) over z_2 is not the mean of
    log q(z_1) - log p(z_1 | z_2).
    """

    def model(x):
        with pyro.plate("data", len(x)):
            two = pyro.sample("z_2", dist.Normal(torch.zeros(()), 1.0))
            one = pyro.sample("z_1", dist.Normal(two, 0.5))
            pyro.sample("x", dist.Normal(one, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            one = pyro.sample("z_1", dist.Normal(0.5 * x, 0.5))
            pyro.sample("z_2", dist.Normal(0.8 * one, 0.45))

    x = torch.ones(200_000)
    pair = [one.loss(model, guide, x) / len(x) for one in (Trace_ELBO(), TraceMeanField_ELBO())]
    assert pair[1] > pair[0] + 0.1  # the noise of the bounds is 0.003
    with pytest.raises(InputError, match="draws 'z_1' where the model draws 'z_2'"):
        objective("analytic").loss(model, guide, x)


def test_pyro_gives_two_wrong_numbers_for_beta_four():
    x = torch.linspace(-2, 2, 50)

    def mean(elbo, side, factor=4.0):
        model, guide = scaled_site(side, factor)
        return sum(-elbo.loss(model, guide, x) for _ in range(300)) / 300

    truth = mean(objective("beta(beta=4)"), ())
    both = mean(Trace_ELBO(), ("model", "guide"))
    model_only = mean(Trace_ELBO(), ("model",))
    ignored = mean(TraceMeanField_ELBO(), ("model",))
    plain = mean(objective("analytic"), ())
    assert abs(both - truth) < 12  # ten times the noise of these means
    assert abs(model_only - truth) > 50
    assert abs(ignored - plain) < 3  # the weight has no effect
    assert abs(ignored - truth) > 50


@pytest.mark.parametrize("name", ["monte-carlo", *BY_IMAGE])
@pytest.mark.parametrize("side", ["model", "guide"])
def test_a_scale_in_only_one_program_is_refused(name, side):
    model, guide = scaled_site((side,), 4.0)
    with pytest.raises(
        InputError, match=r"site 'z' has the scale . in the model and . in the guide"
    ):
        objective(name).loss(model, guide, torch.linspace(-2, 2, 5))


def test_a_mask_in_only_one_program_is_refused():
    def model(x):
        with pyro.plate("data", len(x)), poutine.mask(mask=x > 0):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    x = torch.linspace(-2, 2, 5)
    for name in ("monte-carlo", "beta", "iwae"):
        with pytest.raises(InputError, match="one mask in the model and another in the guide"):
            objective(name).loss(model, guide, x)
        masked = poutine.mask(guide, mask=x > 0)
        pyro.set_rng_seed(0)
        found = objective(name).loss(model, masked, x)
        pyro.set_rng_seed(0)
        few = objective(name).elbo(model, masked, x)
        assert (few[:3] == 0).all()  # images that are masked out
        assert (few[3:] != 0).all()
        assert found != 0


@pytest.mark.parametrize("name", ["monte-carlo", *BY_IMAGE])
def test_latents_in_only_one_program_are_refused(name):
    def extra(x, site="w"):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            if site:
                pyro.sample(site, dist.Normal(0.0, 1.0))
        return z

    def model(x, site="w"):
        z = extra(x, site)
        with pyro.plate("again", len(x)):
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    x = torch.ones(3)
    with (
        pytest.warns(UserWarning, match="Found vars in model but not guide"),
        pytest.raises(InputError, match="the model samples 'w' and the guide does not"),
    ):
        objective(name).loss(model, lambda x: extra(x, ""), x)
    with (
        pytest.warns(UserWarning, match="Found non-auxiliary vars in guide but not model"),
        pytest.raises(InputError, match="the guide samples 'w' and the model does not"),
    ):
        objective(name).loss(lambda x: model(x, ""), extra, x)

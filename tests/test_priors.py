"""Every row of PRIORS: its density by quadrature, its draws, its weights; and which guides fit."""

import copy
from math import nan

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from support.density import (
    SHAPE,
    assert_draws_agree,
    digits,
    latent_sites,
    mass,
)
from support.rows import NEEDS_CONTEXT, WITH_CONDITION, bent_vae, row_vae
from torch import distributions as td
from torch import nn

from pyro_vae import VAE, InputError
from pyro_vae.guides import GUIDES, MeanField
from pyro_vae.priors import PRIORS, FlowPrior, VampPrior


def vae(name, **settings):
    return row_vae("prior", name, **settings)


def bent(name):
    return bent_vae("prior", name)


def objective(name, **options):
    return (TraceEnum_ELBO if name in ("categorical", "labelled") else Trace_ELBO)(
        max_plate_nesting=1, vectorize_particles=True, **options
    )


@pytest.mark.parametrize("name", [name for name in PRIORS if name not in NEEDS_CONTEXT])
def test_the_density_integrates_to_one(name):
    for p in latent_sites(bent(name).model, n=1).values():
        torch.testing.assert_close(mass(p), torch.ones(1).double(), rtol=5e-4, atol=0)


@pytest.mark.parametrize("name", [name for name in PRIORS if name not in NEEDS_CONTEXT])
def test_draws_agree_with_the_density(name):
    for p in latent_sites(bent(name).model, n=1).values():
        assert_draws_agree(p)


def test_the_mixture_is_the_weighted_sum_of_its_normals():
    prior = bent("mixture").model.prior
    z = torch.randn(7, 2).double()
    parts = [
        w * td.Normal(loc, (0.5 * logvar).exp()).log_prob(z).sum(-1).exp()
        for w, loc, logvar in zip(prior.logits.softmax(0), prior.loc, prior.logvar, strict=True)
    ]
    torch.testing.assert_close(prior().log_prob(z), sum(parts).log())


@pytest.mark.parametrize("guide", ["mean-field", "full-covariance", "planar", "iaf", "spline"])
def test_vamp_is_the_mean_of_the_posteriors_at_its_images(guide):
    module = vae("vamp", guide=guide).double()
    prior = module.model.prior
    images = prior.logits.sigmoid()
    assert images.shape == (5, *SHAPE)
    z = torch.randn(7, 2).double()
    parts = [module.encode(images[k : k + 1]).log_prob(z).exp() for k in range(5)]
    torch.testing.assert_close(prior().log_prob(z), (sum(parts) / 5).log(), rtol=1e-8, atol=1e-8)


def test_vamp_borrows_the_weights_of_the_guide():
    """They train through the prior as well, and belong to the guide alone."""
    module = vae("vamp")
    assert [n for n, _ in module.model.prior.named_parameters()] == ["logits"]
    module.model.prior().log_prob(torch.randn(3, 2)).sum().backward()
    assert all(p.grad is not None for p in module.guide.parameters())
    copied = copy.deepcopy(module)
    assert copied.model.prior.posterior is copied.guide.posterior


def test_a_flow_of_one_dimension():
    prior = FlowPrior(1).double()
    z = torch.linspace(-9, 9, 40_001).double().unsqueeze(-1)
    total = torch.trapezoid(prior().log_prob(z).exp(), z[:, 0])
    torch.testing.assert_close(total, torch.tensor(1.0).double(), rtol=1e-4, atol=0)


FITS = {
    "categorical": {"categorical", "vamp"},
    "gumbel-softmax": {"relaxed-categorical", "vamp"},
    "joint": {"joint"},
    "labelled": {"labelled"},
    "targeted": {"targeted"},
    "semi-amortized": {"conditional", "standard-normal", "normal", "mixture", "flow"},
    "bottom-up": {"conditional", "standard-normal", "normal", "mixture", "flow", "hierarchy"},
    "ladder": {"hierarchy"},
}
REAL = {"conditional", "standard-normal", "normal", "mixture", "vamp", "flow", "hierarchy"}


@pytest.mark.parametrize("guide", GUIDES)
def test_every_pair_trains_or_is_refused_in_a_sentence(guide):
    settings = {"latent_size": 4, "guide": "joint(categories=2)" if guide == "joint" else guide}
    for prior in PRIORS:
        condition = 3 if {guide, prior} & WITH_CONDITION else None
        condition = (2,) if guide == "targeted" else condition
        if prior in FITS.get(guide, REAL):
            module = vae(prior, **settings, prior=prior, condition=condition)
            targets = torch.tensor([[1.0, nan], [nan, nan], [0.0, 2.0]])
            given = {None: (), 3: (torch.arange(3),), (2,): (targets,)}[condition]
            objective(guide).loss_and_grads(module.model, module.guide, digits(3), *given)
            assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)
        else:
            with pytest.raises(InputError, match="prior") as refusal:
                vae(prior, **settings, prior=prior, condition=condition)
            assert "\n" not in str(refusal.value)
    settings["condition"] = condition
    default = VAE(SHAPE, **settings).config["prior"]
    assert default in FITS.get(guide, {"standard-normal"})


def test_refusals_name_what_would_fit():
    with pytest.raises(InputError, match=r"Categorical.*StandardNormal.*fits is categorical$"):
        VAE(SHAPE, guide="categorical", prior="standard-normal")
    with pytest.raises(InputError, match=r"sites z, c, the prior has z; .*fits is joint$"):
        VAE(SHAPE, guide="joint", prior="standard-normal")
    wrong = MeanField(VAE(SHAPE).guide.posterior.encoder, 3)
    with pytest.raises(InputError, match=r"shape \[3\] in the guide and \[4\] in the prior"):
        VAE(SHAPE, 4, guide=wrong)


class Normalized(nn.Module):
    """A guide of a user's, with batch normalization and noise."""

    def __init__(self, latent_size):
        super().__init__()
        self.norm = nn.BatchNorm1d(64)
        self.head = nn.Linear(64, latent_size)

    def forward(self, x):
        loc = self.head(self.norm(x.flatten(1)))
        return dist.Normal(loc, torch.ones_like(loc)).to_event(1)


def test_the_check_at_construction_leaves_no_mark():
    torch.manual_seed(0)
    guide = Normalized(2)
    likelihood = VAE(SHAPE, 2).model.likelihood
    state = torch.get_rng_state()
    module = VAE(SHAPE, 2, guide=guide, likelihood=likelihood, network=NoNetwork)
    assert torch.equal(torch.get_rng_state(), state)
    assert module.training
    assert module.guide.posterior.norm.training
    assert module.guide.posterior.norm.num_batches_tracked == 0
    assert not pyro.get_param_store()


class NoNetwork:
    """For parts that bring their own."""

    def encoder(self):
        return None

    def decoder(self, latent_size, outputs):
        return None


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mixture(components=0)", "components is a whole number above 0, not 0"),
        ("vamp(components=0)", "components is a whole number above 0, not 0"),
        ("flow(layers=0)", "layers is a whole number above 0, not 0"),
        ("flow(units=0)", "units is a whole number above 0, not 0"),
        ("relaxed-categorical(temperature=-1.0)", "temperature is a number above 0, not -1.0"),
        ("vampp", "did you mean vamp"),
        ("normal(scale=2)", "takes no options"),
    ],
)
def test_bad_options(spec, message):
    with pytest.raises(InputError, match=message):
        VAE(SHAPE, 2, prior=spec)


def test_vamp_is_no_prior_for_several_sites():
    guide = VAE(SHAPE, 4, guide="joint(categories=2)").guide.posterior
    with pytest.raises(
        InputError, match="gives one distribution, which the JointGuide guide does not"
    ):
        VampPrior(SHAPE, guide)

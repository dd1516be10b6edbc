"""A context reaches each part whose ``forward`` names it, and is refused where it does not fit."""

from __future__ import annotations

from functools import partial

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from support.density import SHAPE, digits
from support.small import digit_data
from torch import nn

from pyro_vae import VAE, Guide, InputError, Likelihood, Prior, fit
from pyro_vae.guides import BottomUp, JointGuide, Ladder
from pyro_vae.parts import Given


def vae(latent_size=2, **parts):
    return VAE(SHAPE, latent_size, **{"hidden": (8,)} | parts)


class PriorAtContext(Prior):
    """p(z | c) = N(c, I)."""

    def forward(self, context):
        return dist.Normal(context, 1.0).to_event(1)


class GuideAtContext(Guide):
    """q(z | x, c) = N(c, I)."""

    def forward(self, x, context):
        return dist.Normal(context, 1.0).to_event(1)


class PlainAtContext(nn.Module):
    """The same as a plain module; without a context it is N(0, I)."""

    def forward(self, x, context=None):
        context = x.new_zeros(len(x), 2) if context is None else context
        return dist.Normal(context, 1.0).to_event(1)


class PassesOn(Guide):
    """A guide that hands all of its arguments to another one."""

    def __init__(self):
        super().__init__()
        self.inner = PlainAtContext()

    def forward(self, *args, **others):
        return self.inner(*args, **others)


class Shifted(Likelihood):
    """p(x | z, c): the context shifts the logits of all pixels."""

    def forward(self, z, context=None):
        logits = self.decoder(z)
        if context is not None:
            logits = logits + context.sum(-1)[:, None, None, None]
        return dist.Bernoulli(logits=logits).to_event(3)


GUIDES = {
    "itself": (2, lambda: GuideAtContext),
    "a plain module": (2, PlainAtContext),
    "a compiled module": (2, lambda: torch.compile(PlainAtContext(), backend="eager")),
    "keyword arguments": (2, lambda: PassesOn),
    "bottom-up": ((2, 2), lambda: partial(BottomUp, layer=GuideAtContext)),
    "ladder": ((2, 2), lambda: partial(Ladder, merge="learned", layer=GuideAtContext)),
    "joint": (4, lambda: partial(JointGuide, categories=2, continuous=GuideAtContext)),
}
SITES = {"bottom-up": ("z_1", "z_2"), "ladder": ("z_1", "z_2")}


@pytest.mark.parametrize("name", GUIDES)
def test_a_context_reaches_a_guide_and_the_guides_inside_it(name):
    latent_size, make = GUIDES[name]
    context = torch.randn(4, 2)
    q = vae(latent_size, guide=make()).encode(digits(4), context)
    q = q if isinstance(q, dict) else {"z": q}
    for site in SITES.get(name, "z"):
        assert torch.equal(q[site].mean, context)


def test_a_context_reaches_the_prior_and_the_likelihood():
    """log p(z | c) and log p(x | z, c) by hand."""
    module, x, context = vae(prior=PriorAtContext, likelihood=Shifted), digits(4), torch.randn(4, 2)
    guide = poutine.trace(module.guide).get_trace(x, context)
    model = poutine.trace(poutine.replay(module.model, trace=guide)).get_trace(x, context)
    model.compute_log_prob()
    z = guide.nodes["z"]["value"]
    log_prior = -((z - context) ** 2 + torch.tensor(2 * torch.pi).log()).sum(-1) / 2
    torch.testing.assert_close(model.nodes["z"]["log_prob"], log_prior)
    logits = module.model.likelihood.decoder(z) + context.sum(-1)[:, None, None, None]
    log_likelihood = (x * logits - nn.functional.softplus(logits)).sum((-3, -2, -1))
    torch.testing.assert_close(model.nodes["x"]["log_prob"], log_likelihood)


def test_a_context_reaches_what_is_drawn_and_reconstructed():
    module = vae(prior=PriorAtContext, likelihood=Shifted)
    with torch.no_grad():
        module.model.likelihood.decoder[-2].weight.zero_()
    context = torch.tensor([[8.0, 9.0], [-8.0, -9.0]])
    for x in (module.sample(given=context), module.reconstruct(digits(2), context)):
        assert x[0].min() > 0.999
        assert x[1].max() < 0.001


def test_a_context_reaches_a_traversal_and_an_interpolation():
    module, x = vae(prior=PriorAtContext, likelihood=Shifted), digits(2)
    with torch.no_grad():
        module.model.likelihood.decoder[-2].weight.zero_()
    for sign in (1, -1):
        context = sign * torch.tensor([[8.0, 9.0]])
        for images in (
            module.traverse(x[0], steps=3, context=context),
            module.interpolate(x[0], x[1], 3, context),
        ):
            assert ((images > 0.999) if sign > 0 else (images < 0.001)).all()
    with pytest.raises(InputError, match="3 rows, and the number of images is 2"):
        module.interpolate(x[0], x[1], 3, torch.zeros(3, 2))
    with pytest.raises(InputError, match="say with given which one the images of the path have"):
        module.interpolate(x[0], x[1], 3, torch.eye(2))


def test_a_context_that_no_part_takes_is_refused():
    module, x = vae(), digits(2)
    with pytest.raises(InputError, match="a context was given, and no part takes one"):
        Trace_ELBO().loss(module.model, module.guide, x, torch.zeros(2))
    with pytest.raises(InputError, match="the number of images to draw is the keyword n"):
        module.model(None, 2)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"guide": GuideAtContext, "prior": "vamp"},
            "pseudo-images without a context, and the forward of GuideAtContext takes one",
        ),
    ],
)
def test_a_context_that_would_be_ignored_is_refused(parts, message):
    """The pseudo-images of a VampPrior have no context."""
    with pytest.raises(InputError, match=message):
        vae(**parts)


def test_contexts_of_another_length_are_refused():
    module, x = vae(likelihood=Shifted), digits(4)
    for rows in (1, 3):
        with pytest.raises(InputError, match=f"context has {rows} rows?, and .* images is 4"):
            Trace_ELBO().loss(module.model, module.guide, x, torch.ones(rows, 2))
    with pytest.raises(InputError, match="the context has 5 rows, and the number of images is 3"):
        module.sample(3, torch.ones(5, 2))
    assert module.sample(given=torch.ones(5, 2)).shape == (5, *SHAPE)
    with pytest.raises(InputError, match="one row for each image"):
        module.sample(given=torch.tensor(1.0))


def test_a_part_that_needs_a_context_is_built_and_says_when_it_lacks_one():
    module = vae(prior=PriorAtContext)
    with pytest.raises(InputError, match=r"PriorAtContext needs a context: call model\(x, context"):
        fit(module, digit_data(), epochs=1)


def test_all_that_is_given_is_handed_on():
    given = Given(torch.ones(1), torch.ones(2), torch.ones(3))
    assert dict(given.items()) == vars(given)

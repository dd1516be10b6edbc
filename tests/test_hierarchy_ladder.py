"""A ladder and the prior that it shares; one layer; layers with the layout of images; a learned
prior of the top layer."""

import copy
import io
import math
import re

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from support.deep import LAYERED, SIZES, close, deep, drawn, learns
from support.density import SHAPE, assert_batch_is_independent, digits
from torch import nn
from torch.distributions import Normal
from torch.nn.functional import softplus

from pyro_vae import VAE
from pyro_vae.errors import InputError
from pyro_vae.priors.hierarchy import SHARED

# A ladder and its model ------------------------------------------------------------------------


def shares(vae):
    """Whether the guide merges with the VAE's own prior, weights and all."""
    assert vae.guide.posterior.prior.module is vae.model.prior
    x = digits(2, dtype=torch.float64)
    pyro.set_rng_seed(0)
    before = drawn(vae.guide, x)["z_1"]
    with torch.no_grad():
        vae.model.prior.heads[0].bias += 1
    pyro.set_rng_seed(0)
    after = drawn(vae.guide, x)["z_1"]
    return not torch.equal(before, after)


@pytest.mark.parametrize("guide", LAYERED[1:])
def test_a_copy_merges_with_its_own_prior(guide):
    original = deep(guide)
    file = io.BytesIO()
    torch.save(original, file)
    file.seek(0)
    state = {n: t.clone() for n, t in original.state_dict().items()}
    loaded = deep(guide)
    loaded.load_state_dict(state)
    for vae in (copy.deepcopy(original), torch.load(file, weights_only=False), loaded):
        assert vae.guide.posterior.prior.module is not original.model.prior
        assert shares(vae)
        learns(vae, digits(6, dtype=torch.float64))
        assert all(torch.equal(t, state[n]) for n, t in original.state_dict().items())
    assert shares(original.float().double())
    # The prior's weights belong to the model alone.
    assert not any("prior" in name for name in original.guide.state_dict())


def test_two_ladders_in_one_process_learn_on_their_own():
    x = digits(6, dtype=torch.float64)
    one, two = deep(), deep("ladder(merge='learned')")
    learns(one, x)
    state = {n: t.clone() for n, t in one.state_dict().items()}
    learns(two, x)
    assert all(torch.equal(t, state[n]) for n, t in one.state_dict().items())
    learns(one, 1 - x)


# One layer, and layouts ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(3,), [3], ((3,),)])
@pytest.mark.parametrize("guide", ["mean-field", "ladder"])
def test_a_list_of_one_size_is_that_size(guide, size):
    torch.manual_seed(0)
    one = VAE(SHAPE, 3, guide=guide, hidden=(8,))
    torch.manual_seed(0)
    two = VAE(SHAPE, size, guide=guide, hidden=(8,))
    assert one.config == two.config
    for (n, a), (m, b) in zip(one.state_dict().items(), two.state_dict().items(), strict=True):
        assert n == m
        assert torch.equal(a, b)
    q = two.encode(digits())
    assert q.event_shape == (3,)


@pytest.mark.parametrize("guide", ["bottom-up", "ladder"])
def test_a_single_layer_s_ladder_is_one_normal(guide):
    """q ∝ N(0, I) N(μ(d), σ(d)²) for the ladder, and q = N(μ(d), σ(d)²) for bottom-up."""
    vae, x = deep(guide + "(scale='log-variance')", 3), digits(4, dtype=torch.float64)
    own = vae.guide.posterior
    with torch.no_grad():
        if guide == "ladder":
            loc, raw = own.posteriors[0](own.up[0](x)).chunk(2, -1)
            precision = 1 + (-raw).exp()
            loc, scale = loc * (-raw).exp() / precision, precision**-0.5
        else:
            loc, raw = own.posteriors[0].head(own.posteriors[0].encoder(x)).chunk(2, -1)
            scale = (0.5 * raw).exp()
        q = vae.encode(x)
        close((q.mean, q.stddev), (loc, scale))


@pytest.mark.parametrize("network", ["mlp", "conv", "residual"])
def test_a_layer_may_be_laid_out_like_an_image(network):
    settings = {"network": network, "hidden": (4, 8) if network == "conv" else (8,)}
    vae = deep(sizes=[[2, 4, 4], [3, 2, 2], 5], **settings)
    same = VAE(SHAPE, ((2, 4, 4), (3, 2, 2), 5), guide="ladder", **settings)
    assert vae.state_dict().keys() == same.state_dict().keys()
    x = digits(3, dtype=torch.float64)
    assert_batch_is_independent(vae, x)
    assert {n: tuple(z.shape) for n, z in drawn(vae.guide, x).items()} == {
        "z_3": (3, 5),
        "z_2": (3, 12),
        "z_1": (3, 32),
    }


def test_what_a_ladder_handed_over_is_not_taken_for_something_else():
    """Other values or other weights: the prior computes anew. Nor does it stand in the way of a
    copy, and without gradients nothing is kept."""
    vae, x = deep(), digits(5, dtype=torch.float64)
    names = ("z_1", "z_2", "z_3")

    def moments(model, trace):
        nodes = poutine.trace(poutine.replay(model, trace=trace)).get_trace(x).nodes
        return [nodes[name]["fn"].mean for name in names]

    guide = poutine.trace(vae.guide)
    q = guide.get_trace(x)
    assert vae.model.prior in SHARED.kept
    twin = copy.deepcopy(vae)
    close(moments(vae.model, q), moments(twin.model, q))
    assert vae.model.prior not in SHARED.kept
    earlier, later = guide.get_trace(x), guide.get_trace(x)
    close(moments(vae.model, earlier), moments(twin.model, earlier))
    q = guide.get_trace(x)
    for prior in (vae.model.prior, twin.model.prior):
        with torch.no_grad():
            prior.heads[0].bias += 1
    close(moments(vae.model, q), moments(twin.model, q))
    with torch.no_grad():
        guide.get_trace(x)
    assert vae.model.prior not in SHARED.kept
    assert not torch.equal(later.nodes["z_1"]["value"], earlier.nodes["z_1"]["value"])


@pytest.mark.parametrize("guide", LAYERED[1:])
def test_units_that_have_become_functions_of_those_above_spoil_nothing(guide):
    """Their σ falls on and on in the logarithm; neither loss nor gradient is lost by it."""
    vae, x = deep(guide).float(), digits(5)
    with torch.no_grad():
        for head, size in zip(vae.model.prior.heads, SIZES, strict=False):
            head.bias[size:] = -300
    loss = Trace_ELBO().differentiable_loss(vae.model, vae.guide, x)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in vae.parameters())


# A learned prior of the top layer --------------------------------------------------------------


def with_top(top, guide="ladder", **settings):
    return deep(guide, prior=f"hierarchy(skip=True, top={top!r})", **settings)


def top_of_ladder(guide, x):
    """N(μ(d_3), σ(d_3)²), written out."""
    for up in guide.up:
        x = up(x)
    loc, raw = guide.posteriors[-1](x).chunk(2, -1)
    return Normal(loc, softplus(raw).sqrt())


def test_a_vampprior_of_the_top_layer_is_the_mixture_of_its_posteriors():
    """Without the prior's part in the posterior, as in the paper; and so is q(z_3 | x)."""
    vae, x = with_top("vamp(components=3)"), digits(5, dtype=torch.float64)
    q = poutine.trace(vae.guide).get_trace(x)
    p = poutine.trace(poutine.replay(vae.model, trace=q)).get_trace(x).nodes["z_3"]
    guide, z = vae.guide.posterior, p["value"]
    each = top_of_ladder(guide, vae.model.prior.top.logits.sigmoid()).log_prob(z[:, None]).sum(-1)
    close(p["fn"].log_prob(z), each.logsumexp(-1) - math.log(3))
    close(q.nodes["z_3"]["fn"].log_prob(z), top_of_ladder(guide, x).log_prob(z).sum(-1))


@pytest.mark.parametrize("top", ["mixture(components=3)", "normal", "flow"])
def test_the_top_layer_has_the_prior_that_top_names(top):
    """A Normal is merged with what the image says; another one is not."""
    vae, x = with_top(top), digits(5, dtype=torch.float64)
    q = poutine.trace(vae.guide).get_trace(x).nodes["z_3"]
    prior, own = vae.model.prior.top, top_of_ladder(vae.guide.posterior, x)
    z = q["value"]
    p = poutine.trace(poutine.condition(vae.model, {"z_3": z})).get_trace(x).nodes["z_3"]
    close(p["fn"].log_prob(z), prior().log_prob(z).expand(5))
    if top == "normal":
        other = prior().base_dist
        precision = own.scale**-2 + other.scale**-2
        mean = (own.loc * own.scale**-2 + other.loc * other.scale**-2) / precision
        own = Normal(mean, precision**-0.5)
    close(q["fn"].log_prob(z), own.log_prob(z).sum(-1))
    learns(vae, x)


def test_a_top_layer_made_of_the_guide_follows_the_guide_s_weights():
    vae, x = with_top("vamp(components=3)"), digits(5, dtype=torch.float64)
    twin = copy.deepcopy(vae)
    assert twin.model.prior.top.posterior.borrowed.module is twin.guide.posterior

    def score(of, trace):
        nodes = poutine.trace(poutine.replay(of.model, trace=trace)).get_trace(x).nodes
        return nodes["z_3"]["fn"].log_prob(nodes["z_3"]["value"])

    q = poutine.trace(vae.guide).get_trace(x)
    close(score(vae, q), score(twin, q))
    q = poutine.trace(vae.guide).get_trace(x)
    for guide in (vae.guide.posterior, twin.guide.posterior):
        with torch.no_grad():
            guide.posteriors[-1].bias += 1
    close(score(vae, q), score(twin, q))
    learns(vae, x)


def test_pseudo_images_of_the_top_layer_do_not_count_in_batch_normalization():
    vae = with_top("vamp(components=3)", network="mlp(batch_norm=True)").train()
    x = digits(5, dtype=torch.float64)
    Trace_ELBO().loss(vae.model, vae.guide, x)
    layers = [m for m in vae.guide.modules() if isinstance(m, nn.BatchNorm1d)]
    assert [int(m.num_batches_tracked) for m in layers] == [1] * len(layers)
    assert all(m.training for m in layers)


@pytest.mark.parametrize(
    ("top", "guide", "named"),
    [
        ("vamp", "bottom-up", "the BottomUp guide does not have"),
        ("hierarchy", "ladder", "one real vector without a context"),
        ("hierarchy", "bottom-up", "one real vector without a context"),
        ("conditional", "ladder", "is for one layer of latents"),
        ("categorical", "ladder", "outside the support"),
        ("mixture", "ladder(merge='learned')", "leave top out"),
    ],
)
def test_a_top_that_does_not_fit_is_refused(top, guide, named):
    with pytest.raises(InputError, match=re.escape(named)):
        with_top(top, guide)

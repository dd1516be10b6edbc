"""Layers of latents against the linear-Gaussian chain and against formulas written out, in float64:
the prior, what the guides merge, their densities, and what they refuse."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from support.deep import LAYERED, SIZES, SKIPS, close, deep, drawn, learns
from support.density import assert_batch_is_independent, assert_moves, digits, log_weights
from support.exact import ExactPosterior, LinearGaussian, library_chain
from torch import nn
from torch.distributions import MultivariateNormal
from torch.nn.functional import linear

from pyro_vae.data.images import Images
from pyro_vae.evaluation import elbo
from pyro_vae.evaluation.scoring import run_guide, run_model, values
from pyro_vae.guides import GUIDES
from pyro_vae.guides.hierarchical import by_precision
from pyro_vae.latents import layouts
from pyro_vae.priors.hierarchy import Hierarchy

# The linear-Gaussian chain, whose every number is known ----------------------------------------


@pytest.mark.parametrize("latents", [(2,), (2, 3), (2, 3, 2)])
@pytest.mark.parametrize("upwards", [False, True])
def test_the_prior_is_such_a_chain(latents, upwards):
    """Its density is the joint Normal's, and with the exact posterior the ELBO is log p(x)."""
    exact = LinearGaussian(5, latents)
    x = exact.images(7)
    vae = library_chain(exact, ExactPosterior(exact, upwards))
    bound = elbo(vae.model, vae.guide, Images(x))
    close(bound.elbos, exact.log_evidence(x).detach(), 1e-9)
    mean, cov = exact.joint()
    top = slice(0, sum(latents))
    z = torch.randn(6, 7, sum(latents), dtype=torch.float64)  # top first, [K, B, ΣZ]
    parts = dict(zip(exact.names, z.split(list(reversed(latents)), -1), strict=True))
    p, _ = run_model(vae.model, x, parts)
    close(
        sum(site["log_prob"] for site in p.values()),
        MultivariateNormal(mean[top], cov[top, top]).log_prob(z),
    )


@pytest.mark.parametrize("guide", LAYERED)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_each_guide_can_be_the_posterior(guide, depth):
    """So a product by precision is the exact p(z_l | x, z_{l+1}), and no layer sees too much or too
    little: at every draw the ELBO is log p(x)."""
    exact = LinearGaussian(5, (1,) * depth)
    x, vae = exact.images(7), library_chain(exact, guide)
    for seed in range(3):
        bound = elbo(vae.model, vae.guide, Images(x), seed=seed)
        close(bound.elbos, exact.log_evidence(x).detach(), 1e-9)


class Linear:
    """A network whose ``between`` adds nothing."""

    def between(self, sources, target):
        between = nn.Identity()
        between.out_features = sum(source[0] for source in sources)
        return between


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("sizes", [(2,), (2, 3), (2, 3, 4)])
def test_ancestral_samples_have_the_known_moments(sizes, skip):
    prior = Hierarchy(layouts(sizes), Linear(), skip=skip).double()
    n = 200_000
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
        for head, size in zip(prior.heads, sizes, strict=False):
            head.weight[size:] = 0  # a fixed σ
        # The layers' joint moments, each layer put before those above it.
        mean, cov = torch.zeros(sizes[-1]).double(), torch.eye(sizes[-1]).double()
        for i in reversed(range(len(sizes) - 1)):
            own, seen = sizes[i], len(mean) if skip else sizes[i + 1]
            weight, bias = prior.heads[i].weight[:own], prior.heads[i].bias
            cross = weight @ cov[:seen]
            block = cross[:, :seen] @ weight.T + bias[own:].exp().diag()
            mean = torch.cat([weight @ mean[:seen] + bias[:own], mean])
            cov = torch.cat([torch.cat([block, cross], 1), torch.cat([cross.T, cov], 1)])
        with pyro.plate("data", n, dim=-1):
            trace = poutine.trace(prior.sample_sites).get_trace()
    z = torch.cat([trace.nodes[name]["value"] for name in prior.names], -1)  # [n, ΣZ]
    assert ((z.mean(0) - mean).abs() < 5 * (cov.diagonal() / n).sqrt()).all()
    variances = cov.diagonal()
    error = ((cov.square() + torch.outer(variances, variances)) / n).sqrt()
    assert ((z.T.cov() - cov).abs() < 5 * error).all()
    # What the decoder gets is z_1, plus with skip a linear map of the others.
    rest = z[:, sizes[0] :]
    past = linear(rest, prior.past.weight) if skip and len(sizes) > 1 else 0
    close(trace.nodes["_RETURN"]["value"], z[:, : sizes[0]] + past)


# What the guides are ---------------------------------------------------------------------------


@pytest.mark.parametrize("own", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("prior", [1e-3, 1.0, 1e3])
def test_merging_is_the_normalized_product_of_the_two_normals(own, prior):
    loc, mu = 3 * torch.randn(2, 50, dtype=torch.float64)
    scale, sigma = (s * (0.5 + torch.rand(50, dtype=torch.float64)) for s in (own, prior))
    q = by_precision(
        nn.Identity(),
        torch.cat([loc, 2 * scale.log()]),
        dist.Normal(mu, sigma),
        Hierarchy(layouts(1), Linear()).scale,
    )
    precision = scale**-2 + sigma**-2
    mean = (loc * scale**-2 + mu * sigma**-2) / precision
    torch.testing.assert_close(q.stddev, precision**-0.5, rtol=1e-12, atol=0)
    torch.testing.assert_close(q.mean, mean, rtol=1e-9, atol=1e-12)
    assert q.event_shape == (50,)


@pytest.mark.parametrize("prior", SKIPS)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_ladder_that_hears_nothing_is_the_prior(depth, prior):
    vae = deep(sizes=SIZES[:depth], prior=prior)
    for head, size in zip(vae.guide.posterior.posteriors, SIZES, strict=False):
        head.weight.data.zero_()
        head.bias.data[size:] = torch.inf
    x = digits(5, dtype=torch.float64)
    for analytic in (True, False):
        bound = elbo(vae.model, vae.guide, Images(x), analytic=analytic)
        assert len(bound.kl_of_sites) == depth
        assert all(torch.equal(kl, torch.zeros(5).double()) for kl in bound.kl_of_sites.values())
    # With one layer that hears it is not.
    vae.guide.posterior.posteriors[-1].bias.data.zero_()
    bound = elbo(vae.model, vae.guide, Images(x), analytic=True)
    assert [kl.min() > 0 for kl in bound.kl_of_sites.values()] == [True] + [False] * (depth - 1)


@pytest.mark.parametrize("skip", [False, True])
def test_skip_connections_reach(skip):
    """z_3 has a say in z_1 given z_2, and in the image given z_1, if and only if they are there."""
    vae = deep(prior=f"hierarchy(skip={skip})")
    z = drawn(vae.model, n=5)
    other = {**z, "z_3": z["z_3"] + 1}

    def given(z):
        nodes = poutine.trace(poutine.condition(vae.model, z)).get_trace(n=5).nodes
        return {name: nodes[name]["fn"].mean for name in ("z_1", "z_2", "x")}

    a, b = given(z), given(other)
    assert {name: torch.equal(a[name], b[name]) for name in a} == {
        "z_1": not skip,
        "z_2": False,
        "x": not skip,
    }


@pytest.mark.parametrize("guide", [*LAYERED, "bottom-up(layer='iaf')"])
@pytest.mark.parametrize("prior", SKIPS)
def test_many_draws_at_once_are_as_many_single_runs(guide, prior):
    """At the same draws every site has the same density, whatever the leading dimensions."""
    vae, x = deep(guide, prior=prior), digits(3, dtype=torch.float64)
    with torch.no_grad():
        q = run_guide(vae.guide, x, 4)
        p, likelihood = run_model(vae.model, x, values(q))
        assert all(site["value"].shape[:-1] == (4, 3) for site in q.values())
        assert all(site["log_prob"].shape == (4, 3) for site in (*q.values(), *p.values()))
        together = (
            sum(site["log_prob"] for site in q.values()),
            sum(site["log_prob"] for site in p.values()) + likelihood,
        )
        for k in range(4):
            alone = log_weights(vae, x, {name: z[k] for name, z in values(q).items()})
            close(alone, tuple(each[k] for each in together))


@pytest.mark.parametrize("guide", LAYERED)
@pytest.mark.parametrize(
    ("shape", "network", "hidden"),
    [
        ((1, 7, 5), "mlp", (8,)),
        ((3, 9, 11), "mlp", (8, 6)),
        ((1, 7, 5), "conv", (3, 8)),
        ((3, 9, 11), "conv", (3, 4, 8)),
    ],
)
def test_odd_sizes_and_colour_image_by_image(guide, shape, network, hidden):
    vae = deep(guide, shape=shape, network=network, hidden=hidden, prior=SKIPS[len(hidden) % 2])
    x = torch.rand(4, *shape, dtype=torch.float64).round()
    assert_batch_is_independent(vae, x)
    assert vae.reconstruct(x).shape == x.shape
    assert vae.sample(2).shape == (2, *shape)


@pytest.mark.parametrize("guide", LAYERED)
def test_moves_to_another_device(guide):
    assert_moves(deep(guide, prior="hierarchy(skip=True)").float())


@pytest.mark.parametrize("skip", [False, True])
def test_the_ladder_s_gradient_is_that_of_a_hand_written_elbo(skip):
    """Written with matrices and precisions alone; the prior's weights learn through the guide as
    well."""
    vae = deep("ladder(scale='log-variance')", (4, 3), prior=f"hierarchy(skip={skip})")
    x = digits(6, dtype=torch.float64)
    pyro.set_rng_seed(3)
    loss = Trace_ELBO().differentiable_loss(vae.model, vae.guide, x)
    weights = dict(vae.named_parameters())
    found = torch.autograd.grad(loss, list(weights.values()))

    def layer(name, h):
        return linear(h, weights[name + ".weight"], weights[name + ".bias"])

    def density(z, loc, logvar):
        each = (z - loc).square() / logvar.exp() + logvar + torch.tensor(2 * torch.pi).log()
        return -0.5 * each.sum()

    pyro.set_rng_seed(3)
    noise = [torch.empty(6, size, dtype=torch.float64).normal_() for size in (3, 4)]
    own, prior = "guide.posterior.", "model.prior."
    d_1 = layer(own + "up.0.1", x.flatten(1)).relu()
    d_2 = layer(own + "up.1.0", d_1).relu()
    loc, logvar = layer(own + "posteriors.1", d_2).chunk(2, 1)
    precision = 1 + (-logvar).exp()
    mean = loc * (-logvar).exp() / precision
    z_2 = mean + noise[0] * precision**-0.5
    truth = density(z_2, mean, -precision.log())
    truth = truth - density(z_2, torch.zeros(()), torch.zeros(()).double())
    mu, prior_logvar = layer(prior + "heads.0", layer(prior + "down.0.0", z_2).relu()).chunk(2, 1)
    loc, logvar = layer(own + "posteriors.0", d_1).chunk(2, 1)
    precision = (-prior_logvar).exp() + (-logvar).exp()
    mean = (mu * (-prior_logvar).exp() + loc * (-logvar).exp()) / precision
    z_1 = mean + noise[1] * precision**-0.5
    truth = truth + density(z_1, mean, -precision.log()) - density(z_1, mu, prior_logvar)
    seen = z_1 + linear(z_2, weights[prior + "past.weight"]) if skip else z_1
    decoder = "model.likelihood.decoder."
    logits = layer(decoder + "2", layer(decoder + "0", seen).relu()).reshape(x.shape)
    truth = truth - (x * logits - nn.functional.softplus(logits)).sum()
    close(loss, truth)
    expected = torch.autograd.grad(truth, list(weights.values()))
    assert all(g.abs().max() > 1e-3 for g in expected)
    close(found, expected, 1e-9)


def test_the_learned_merge_sees_the_features_and_both_moments_of_the_prior():
    vae, x = deep("ladder(merge='learned')", (4, 3)), digits(5, dtype=torch.float64)
    with torch.no_grad():
        z = drawn(vae.guide, x)
        log_q, _ = log_weights(vae, x, z)
        (first, second), (one, two) = vae.guide.posterior.up, vae.guide.posterior.posteriors
        d = first(x)
        above = torch.cat([second(d), torch.zeros(5, 3), torch.ones(5, 3)], 1)
        p = vae.model.prior.conditional([z["z_2"]])
        below = torch.cat([d, p.mean, p.stddev], 1)
        close(log_q, two(above).log_prob(z["z_2"]) + one(below).log_prob(z["z_1"]))


def test_each_layer_may_have_another_guide():
    vae = deep("bottom-up(layer=['iaf', 'mean-field', 'full-covariance'])")
    x = digits(5, dtype=torch.float64)
    with torch.no_grad():
        z = drawn(vae.guide, x)
        log_q, _ = log_weights(vae, x, z)
        one, two, three = vae.guide.posterior.posteriors
        assert [type(part) for part in (one, two, three)] == [
            GUIDES[name] for name in ("iaf", "mean-field", "full-covariance")
        ]
        loc, raw = two.head(two.encoder(z["z_1"])).chunk(2, -1)
        middle = dist.Normal(loc, (0.5 * raw).exp()).log_prob(z["z_2"]).sum(-1)
        q = three(z["z_2"])
        top = MultivariateNormal(q.mean, q.covariance_matrix).log_prob(z["z_3"])
        close(log_q, one(x).log_prob(z["z_1"]) + middle + top)
    learns(vae, x)


@pytest.mark.parametrize("layer", ["low-rank", "mixture", "planar", "spline", "iaf(units=8)"])
@pytest.mark.parametrize("guide", ["bottom-up(layer={!r})", "ladder(merge='learned', layer={!r})"])
def test_any_guide_of_a_real_vector_will_do(guide, layer):
    vae, x = deep(guide.format(layer)), digits(4, dtype=torch.float64)
    assert_batch_is_independent(vae, x)
    Trace_ELBO().loss_and_grads(vae.model, vae.guide, x)
    assert all(p.grad.abs().sum() > 0 for p in vae.parameters())

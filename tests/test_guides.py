"""Every row of GUIDES: its density by quadrature, its gradients, its batch, its weights."""

import math

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from support.density import (
    SHAPE,
    assert_draws_agree,
    digits,
    expectations,
    latent_sites,
    mass,
    statistics,
)
from support.rows import bent_vae, row_vae
from torch import distributions as td
from torch.distributions import kl_divergence

from pyro_vae import VAE, InputError
from pyro_vae.evaluation.latents import moments
from pyro_vae.guides import GUIDES, FullCovariance, LowRank
from pyro_vae.guides.flows import IAF, PlanarMap
from pyro_vae.networks import MLP
from pyro_vae.objectives import AnalyticKL
from pyro_vae.scales import SCALES

OWN_DRAWS = [name for name in GUIDES if name not in ("labelled", "targeted")]
"""The guides whose sites do not depend on the draw of another one; z of those two does on y."""


def vae(name, **settings):
    return VAE(SHAPE, **{"latent_size": 2, "guide": name, "hidden": (32,)} | settings)


def small(name):
    return row_vae("guide", name)


def bent(name):
    return bent_vae("guide", name)


def objective(name, **options):
    return (TraceEnum_ELBO if name == "categorical" else Trace_ELBO)(
        max_plate_nesting=1, vectorize_particles=True, **options
    )


def twice():
    """Two images, in float64."""
    return digits(2, dtype=torch.float64)


@pytest.mark.parametrize("name", GUIDES)
def test_the_density_integrates_to_one(name):
    for q in latent_sites(bent(name).guide, twice()).values():
        assert q.batch_shape == (2,)
        torch.testing.assert_close(mass(q), torch.ones(2).double(), rtol=5e-4, atol=0)


@pytest.mark.parametrize("name", GUIDES)
def test_draws_agree_with_the_density(name):
    for q in latent_sites(bent(name).guide, twice()).values():
        assert_draws_agree(q)


@pytest.mark.parametrize("name", OWN_DRAWS)
def test_gradients_of_draws_are_those_of_the_density(name):
    """dE[f(z)]/dφ along one direction of φ, by draws that move with φ and by the density's own
    gradient, E[f(z) dlog q(z)/dφ]: within 5 standard errors of each other."""
    module, x = bent(name), twice()
    weight = next(module.guide.parameters())  # the encoder's
    direction = torch.randn_like(weight)

    def slope(values):
        gradients = [torch.autograd.grad(v, weight, retain_graph=True)[0] for v in values]
        return torch.stack([(g * direction).sum() for g in gradients])

    for site, q in latent_sites(module.guide, x).items():
        if not q.has_rsample:
            assert name == "categorical"
            continue
        centre = statistics(q.sample((20_000,))).mean(0)
        moving, scored = [], []
        for _ in range(30):
            q = latent_sites(module.guide, x)[site]
            z = q.rsample((1000,))
            moving.append(slope(statistics(z).mean((0, 1))))
            f = statistics(z.detach()) - centre
            scored.append(slope((f * q.log_prob(z.detach()).unsqueeze(-1)).mean((0, 1))))
        moving, scored = torch.stack(moving), torch.stack(scored)
        error = ((moving.var(0) + scored.var(0)) / 30).sqrt()
        assert (scored.mean(0).abs() > 5 * error).any(), "too little is moved to tell"
        assert ((moving.mean(0) - scored.mean(0)).abs() < 5 * error).all()


@pytest.mark.parametrize("name", GUIDES)
def test_own_draws_are_scored_as_any_others(name):
    """A flow scores a fresh draw from the pass that made it, and a copy of it by its inverse."""
    module = bent(name)
    for q in latent_sites(module.guide, twice()).values():
        z = q.rsample((5,)) if q.has_rsample else q.sample((5,))
        torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["iaf", "spline"])
def test_a_draw_and_its_density_take_one_pass(name):
    module, calls = small(name), []
    for layer in module.guide.posterior.maps:
        layer.hyper.register_forward_hook(lambda *_: calls.append(1))
    Trace_ELBO().loss_and_grads(module.model, module.guide, digits())
    assert len(calls) == len(module.guide.posterior.maps)


def test_the_gate_of_iaf_is_clipped_softly():
    """exp(g(s)) with g(s) = s / (1 + |s| / log 1000), as its docstring says."""
    s = torch.linspace(-50, 50, 101, dtype=torch.float64)
    gate = IAF.univariate(torch.zeros_like(s), s)(torch.ones_like(s))
    torch.testing.assert_close(gate, (s / (1 + s.abs() / math.log(1000))).exp())
    assert 0.001 < gate.min() < 0.01 < 100 < gate.max() < 1000


@pytest.mark.parametrize("name", OWN_DRAWS)
def test_particles_at_once(name):
    """Under a plate of particles each image has as many draws, each scored by its own."""
    module, x = bent(name), twice()

    def particles():
        with pyro.plate("particles", 3, dim=-2):
            return module.guide(x)

    trace = pyro.poutine.trace(particles).get_trace()
    trace.compute_log_prob()
    for site, q in latent_sites(module.guide, x).items():
        node = trace.nodes[site]
        assert node["value"].shape == (3, 2, 2)
        expected = torch.stack([q.log_prob(z) for z in node["value"]])
        torch.testing.assert_close(node["log_prob"], expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", GUIDES)
def test_moments(name):
    """Exact where there is a closed form, else as near as 20,000 draws come."""
    for q in latent_sites(bent(name).guide, twice()).values():
        mean, scale = moments(q, draws=20_000)
        e = expectations(q).detach()
        variance = e[..., 2] - e[..., 0] ** 2
        error = (variance / 20_000).sqrt()
        assert ((mean[..., 0] - e[..., 0]).abs() < 5 * error + 1e-6).all()
        torch.testing.assert_close(scale[..., 0], variance.sqrt(), rtol=0.06, atol=1e-6)


@pytest.mark.parametrize("scale", SCALES)
def test_mean_field_takes_any_scale(scale):
    module = vae(f"mean-field(scale='{scale}')")
    if scale == "raw":  # which cannot promise a positive σ
        with pytest.raises(InputError, match="scales of zero or less"):
            module.encode(digits())
        module.guide.posterior.head.bias.data[2:] = 2
    q, x = module.encode(digits()), digits()
    raw = module.guide.posterior.head(module.guide.posterior.encoder(x))[:, 2:]
    torch.testing.assert_close(q.stddev, SCALES[scale]()(raw))


@pytest.mark.parametrize(
    "guide", ["planar(layers=3)", "iaf(layers=3)", "spline(layers=1)", "mixture(components=1)"]
)
@pytest.mark.parametrize("latent_size", [1, 5])
def test_other_sizes(guide, latent_size):
    q = vae(guide, latent_size=latent_size).double().encode(twice())
    z = q.rsample((7,))
    assert z.shape == (7, 2, latent_size)
    torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_planar_map_is_inverted(dtype):
    u, w = (3 * torch.randn(50, 4, dtype=dtype) for _ in range(2))
    bias = torch.randn(50, 1, dtype=dtype)
    x = 3 * torch.randn(20, 50, 4, dtype=dtype)
    y = PlanarMap((bias, u, w))(x)
    fresh = PlanarMap((bias, u, w))
    back = fresh.inv(y)
    torch.testing.assert_close(fresh(back.clone()), y, rtol=1e-4, atol=1e-4)
    if dtype == torch.float64:
        torch.testing.assert_close(back, x, rtol=1e-5, atol=1e-5)
        jacobian = torch.autograd.functional.jacobian(PlanarMap((bias[0], u[0], w[0])), x[0, 0])
        expected = jacobian.det().abs().log()
        value = fresh.log_abs_det_jacobian(back, y)[0, 0]
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", [FullCovariance, LowRank])
def test_the_kl_of_a_correlated_normal_to_a_diagonal_one(make):
    q = make(MLP(SHAPE).encoder(), 4).double()(twice())
    loc, scale = torch.randn(4).double(), torch.rand(4).double() + 0.5
    p = td.MultivariateNormal(loc, scale_tril=scale.diag())
    diagonal = td.Independent(td.Normal(loc, scale), 1)
    torch.testing.assert_close(kl_divergence(q, diagonal), kl_divergence(q, p))
    module = vae("full-covariance" if make is FullCovariance else "low-rank")
    assert AnalyticKL().loss(module.model, module.guide, digits()) > 0


def test_torch_still_checks_arguments():
    """Importing zuko turns the checks off; importing us does not."""
    with pytest.raises(ValueError, match="scale"):
        td.Normal(0.0, -1.0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mean-feild", "did you mean mean-field"),
        ("mean-field(scale='softpuls')", "did you mean softplus"),
        ("full-covariance(rank=2)", "no option 'rank'; it takes scale"),
        ("low-rank(rank=3)", "a whole number between 1 and the latent size 2, not 3"),
        ("low-rank(rank=0)", "between 1 and the latent size 2, not 0"),
        ("mixture(components=0)", "components is a whole number above 0, not 0"),
        ("planar(layers=0)", "layers is a whole number above 0, not 0"),
        ("iaf(units=0)", "units is a whole number above 0, not 0"),
        ("spline(layers=-1)", "layers is a whole number above 0, not -1"),
        ("gumbel-softmax(temperature=0)", "temperature is a number above 0, not 0"),
        ("gumbel-softmax(temperature='hot')", "temperature is a number above 0, not 'hot'"),
        ("iaf(layers=2.5)", "layers is a whole number above 0, not 2.5"),
        ("joint", "between 2 and the latent size 2 less 1, .*, not 10"),
        ("joint(categories=1)", "between 2 and the latent size 2 less 1"),
        ("semi-amortized(steps=0)", "steps is a whole number above 0, not 0"),
        ("semi-amortized(rate=2.0)", "at most 1, not 2.0"),
    ],
)
def test_bad_options(spec, message):
    with pytest.raises(InputError, match=message):
        vae(spec)


@pytest.mark.parametrize("of_z", ["semi-amortized", "joint", "categorical", "ladder"])
def test_the_continuous_guide_of_two_is_one_of_a_real_vector(of_z):
    with pytest.raises(InputError, match=f"the guide of z has one real vector .* not {of_z!r}$"):
        VAE(SHAPE, 4, guide=f"joint(categories=2, continuous={of_z!r})")


@pytest.mark.parametrize("of_z", ["iaf", "low-rank(rank=1)", "planar"])
def test_the_continuous_guide_of_two_may_be_any_of_a_real_vector(of_z):
    module = VAE(SHAPE, 4, guide=f"joint(categories=2, continuous={of_z!r})")
    assert {name: q.event_shape[0] for name, q in module.encode(digits()).items()} == {
        "z": 2,
        "c": 2,
    }

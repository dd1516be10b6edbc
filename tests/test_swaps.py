"""Swapping a part never lies: each wrong number that others give in silence, shown, and then
refused or made right."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from support.exact import LinearGaussian, LinearMeanField, Quadrature

from pyro_vae.errors import InputError
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.vae import VAE

WEIGHTED = ["iwae", "miwae", "stl", "dreg"]
BY_IMAGE = sorted(set(OBJECTIVES) - {"monte-carlo", "enumerate"})


def objective(spec, data_size=40):
    made = OBJECTIVES.build(spec, data_size=data_size)
    made.advance(1e6)
    return made


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.fixture
def exact():
    return LinearGaussian(pixels=5, latents=(2,))


# The analytic KL that is not -------------------------------------------------------------------


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
    assert not recwarn.list  # Pyro took an estimate and said nothing
    with pytest.raises(InputError, match=f"no closed-form {pair} at site 'z'; take the monte-"):
        objective("analytic").loss(vae.model, vae.guide, x)
    with pytest.raises(InputError, match="closed form is that of a mean-field Normal"):
        objective("closed-form").loss(vae.model, vae.guide, x)


def test_the_closed_form_takes_no_other_normal_as_prior(exact):
    vae = exact.vae(LinearMeanField(exact))
    vae.model.prior.zero += 1.0
    with pytest.raises(InputError, match="other moments: take the analytic objective"):
        objective("closed-form").loss(vae.model, vae.guide, exact.images(3))


@pytest.mark.filterwarnings("ignore:Failed to verify mean field")
def test_a_closed_form_of_a_guide_in_another_order_is_refused():
    """q(z_1 | x) q(z_2 | z_1) under p(z_2) p(z_1 | z_2): z_2 knows z_1, so that the mean of
    KL(q(z_1 | x) || p(z_1 | z_2)) over z_2 is not the mean of log q(z_1) - log p(z_1 | z_2)."""

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
    assert pair[1] > pair[0] + 0.1  # no bound's own noise: 0.003
    with pytest.raises(InputError, match="draws 'z_1' where the model draws 'z_2'"):
        objective("analytic").loss(model, guide, x)


# A one-sided KL weight -------------------------------------------------------------------------


def scaled_site(side, factor):
    """A model and a guide with a poutine.scale around the site z, on the sides named."""

    def around(name):
        return poutine.scale(scale=factor if name in side else 1.0)

    def model(x):
        with pyro.plate("data", len(x)):
            with around("model"):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 0.7), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)), around("guide"):
            loc = pyro.param("loc", torch.tensor(0.3)) * x.unsqueeze(-1) * torch.ones(2)
            pyro.sample("z", dist.Normal(loc, 0.6).to_event(1))

    return model, guide


def test_pyro_gives_three_numbers_for_beta_four_and_two_are_wrong():
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
    assert abs(ignored - plain) < 3  # the weight has not reached it
    assert abs(ignored - truth) > 50


@pytest.mark.parametrize("name", ["monte-carlo", *BY_IMAGE])
@pytest.mark.parametrize("side", ["model", "guide"])
def test_a_weight_on_one_side_is_refused(name, side):
    model, guide = scaled_site((side,), 4.0)
    with pytest.raises(
        InputError, match=r"site 'z' has the scale . in the model and . in the guide"
    ):
        objective(name).loss(model, guide, torch.linspace(-2, 2, 5))


def test_a_mask_on_one_side_is_refused():
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
def test_latents_of_one_side_are_refused(name):
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


# The importance bound that is no bound ---------------------------------------------------------


def global_site(x):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(w + z, 1.0), obs=x)


def global_guide(x):
    pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.5 * x, 0.7))


@pytest.mark.parametrize("name", BY_IMAGE)
def test_a_site_outside_the_plate_is_refused(name):
    x = torch.ones(8)
    with pytest.raises(InputError, match="site 'w' lies outside the plate of images"):
        objective(name).loss(global_site, global_guide, x)


def test_with_a_global_site_pyro_gives_the_joint_bound_of_the_batch():
    """The gain of K draws then shrinks with the batch instead of being that of each image."""
    x = torch.ones(1).repeat(30)

    def local(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, 1.4))

    def gain(model, guide):
        renyi = RenyiELBO(0, num_particles=10, vectorize_particles=True, max_plate_nesting=1)
        one = Trace_ELBO()
        runs = range(400)
        return sum(one.loss(model, guide, x) - renyi.loss(model, guide, x) for _ in runs) / 400

    ours = objective("iwae(num_particles=10)")
    plain = objective("monte-carlo")
    per_image = (
        sum(plain.loss(local, guide, x) - ours.loss(local, guide, x) for _ in range(400)) / 400
    )
    assert abs(gain(local, guide) - per_image) < 0.1 * per_image

    def wide(x):
        pyro.sample("w", dist.Delta(torch.tensor(0.0)))
        guide(x)

    # The same bound to gain on z, and a global site that adds no noise of its own.
    assert gain(global_site, wide) < 0.7 * per_image


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_subsampled_plate_keeps_the_bound(name):
    """A set of N images, b of them in a step: each image's bound counts N / b times. Pyro's takes
    the factor into the logarithm and comes out above log p(x)."""
    data = 0.3 * torch.randn(20, dtype=torch.float64)
    truth = dist.Normal(torch.zeros(()).double(), 2**0.5).log_prob(data).sum().item()

    def programs(size):
        def model():
            with pyro.plate("data", 20, subsample_size=size) as index:
                z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=data[index])

        def guide():
            with pyro.plate("data", 20, subsample_size=size):
                pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.2))

        return model, guide

    def mean(elbo, size, runs=600):
        draws = torch.tensor([-elbo.loss(*programs(size)) for _ in range(runs)])
        return draws.mean().item(), draws.std().item() / runs**0.5

    ours = objective(name)
    whole, error = mean(ours, None)
    part, other = mean(ours, 4)
    assert whole < truth
    assert part - 3 * other < truth
    assert abs(whole - part) < 4 * (error**2 + other**2) ** 0.5
    if name == "iwae":
        pyros = RenyiELBO(0, num_particles=5, vectorize_particles=True, max_plate_nesting=1)
        above, noise = mean(pyros, 4)
        assert above - 5 * noise > truth


def test_one_scale_on_both_programs_multiplies_an_importance_bound(exact):
    x, vae = exact.images(7), exact.vae(LinearMeanField(exact, shift=0.3))
    for name in WEIGHTED:
        pyro.set_rng_seed(0)
        plain = objective(name).loss_and_grads(vae.model, vae.guide, x)
        grads = [p.grad.clone() for p in vae.parameters()]
        vae.zero_grad()
        model, guide = (poutine.scale(p, scale=0.25) for p in (vae.model, vae.guide))
        pyro.set_rng_seed(0)
        close(objective(name).loss_and_grads(model, guide, x), 0.25 * plain)
        close([p.grad for p in vae.parameters()], [0.25 * g for g in grads])
        vae.zero_grad()


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_scale_on_a_part_of_an_importance_bound_is_refused(name):
    model, guide = scaled_site(("model", "guide"), 2.0)
    with pytest.raises(InputError, match=r"needs one for all: drop the poutine\.scale"):
        objective(name).loss(model, guide, torch.linspace(-2, 2, 5))


# Programs of the user's own --------------------------------------------------------------------


def test_a_scale_for_each_image_is_that_images_weight():
    x = torch.tensor([0.5, -0.2, 0.9])
    model, guide = scaled_site((), 1.0)

    def loss(name, *scale):
        pyro.set_rng_seed(0)
        scale = torch.tensor(scale)
        return objective(name).loss(*(poutine.scale(p, scale=scale) for p in (model, guide)), x)

    for name in ("monte-carlo", "beta", "analytic", "iwae", "stl", "dreg"):
        plain = loss(name, 1.0, 1.0, 1.0)
        first, last = loss(name, 2.0, 1.0, 1.0) - plain, loss(name, 1.0, 1.0, 2.0) - plain
        close(loss(name, 3.0, 1.0, 0.5), plain + 2 * first - 0.5 * last, 1e-5)
        if name == "monte-carlo":
            each = objective(name)
            pyro.set_rng_seed(0)
            close(-first, each.elbo(model, guide, x)[0].item(), 1e-5)


@pytest.mark.parametrize("name", sorted({*BY_IMAGE} - {"beta-tc", "infovae", "dip"}))
def test_a_plate_of_pixels_inside_that_of_images_is_summed(name):
    """The user's own model, pixels in a plate instead of an event, gives what ours gives."""
    vae = VAE((1, 3, 3), 2, hidden=(8,)).double()
    x = torch.rand(5, 1, 3, 3, dtype=torch.float64).round()

    def model(x):
        with pyro.plate("pictures", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            with pyro.plate("pixels", 9, dim=-1):
                p_x = vae.model.likelihood(z[..., 0, :]).base_dist.logits.flatten(-3)
                pyro.sample("x", dist.Bernoulli(logits=p_x), obs=x.flatten(-3))

    def guide(x):
        q = vae.guide.posterior(x).base_dist
        with pyro.plate("pictures", len(x), dim=-2):
            pyro.sample("z", dist.Normal(q.loc[:, None], q.scale[:, None]).to_event(1))

    pyro.set_rng_seed(0)
    ours = objective(name).loss(vae.model, vae.guide, x)
    pyro.set_rng_seed(0)
    close(objective(name).loss(model, guide, x), ours)
    pyro.set_rng_seed(0)
    each = objective(name).elbo(vae.model, vae.guide, x)
    pyro.set_rng_seed(0)
    close(objective(name).elbo(model, guide, x), each)


@pytest.mark.parametrize("name", ["beta-tc", "infovae", "dip"])
def test_vectors_in_another_plate_are_refused(name):
    def model(x):
        with pyro.plate("pictures", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with pyro.plate("pixels", 9, dim=-1):
                pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("pictures", len(x), dim=-2):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    with pytest.raises(InputError, match="in a plate at dim -1 and with no mask"):
        objective(name).loss(model, guide, torch.ones(4, 9))


def test_units_are_the_same_everywhere(exact):
    """Nats of the whole batch; divided by the images, the plain ELBO of each."""
    vae = exact.vae(Quadrature(LinearMeanField(exact, shift=0.3)))
    x = exact.images(7)
    made = objective("beta(beta=4, num_particles=4)")
    plain = objective("analytic(num_particles=4)")
    close(
        made.elbo(vae.model, vae.guide, x).mean().item(), -plain.loss(vae.model, vae.guide, x) / 7
    )
    twice = made.elbo(vae.model, vae.guide, x.repeat(2, 1, 1, 1)).mean().item()
    close(twice, made.elbo(vae.model, vae.guide, x).mean().item())


# Bad input -------------------------------------------------------------------------------------


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
        ("dip(variant=3)", "variant is 1 or 2, not 3"),
    ],
)
def test_bad_options_are_refused_when_it_is_made(spec, message):
    with pytest.raises(InputError, match=message):
        objective(spec)


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
def test_what_does_not_fit_is_refused_at_the_first_call(spec, parts, message):
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

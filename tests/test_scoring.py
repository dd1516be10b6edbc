"""Programs of any form: fixed shapes, methods, functions, autoguides, types of numbers, threads."""

import threading
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoMultivariateNormal, AutoNormal
from pyro.poutine.runtime import _PYRO_STACK
from support.exact import LinearGaussian, LinearMeanField
from support.zoo import ZOO, PlainVAE
from torch import nn
from torch.distributions import kl_divergence

from pyro_vae.data import Data
from pyro_vae.data.images import Images
from pyro_vae.errors import InputError
from pyro_vae.evaluation import elbo
from pyro_vae.evaluation.aggregate import aggregate
from pyro_vae.evaluation.annealing import annealed, sandwich
from pyro_vae.evaluation.draws import OneByOne, stack_distributions
from pyro_vae.evaluation.gaps import gaps
from pyro_vae.evaluation.importance import importance
from pyro_vae.evaluation.latents import posterior_means, unit_kl
from pyro_vae.training import fit
from pyro_vae.vae import VAE

pytestmark = pytest.mark.usefixtures("any_pixels")


class Plain(nn.Module):
    """A convolutional VAE of the user's own, as two methods.

    Args:
        fixed: the decoder takes ``[B, Z]`` only; else any leading dimensions.
        fixed_guide: the guide takes no plate of draws.
    """

    def __init__(self, fixed=False, fixed_guide=False):
        super().__init__()
        torch.manual_seed(5)
        self.fixed, self.fixed_guide = fixed, fixed_guide
        self.encoder = nn.Sequential(nn.Flatten(1), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 6))
        self.decoder = nn.Sequential(
            nn.Linear(3, 8),
            nn.Unflatten(1, (2, 2, 2)),
            nn.ReLU(),
            nn.ConvTranspose2d(2, 1, 2, stride=2),
        )
        self.double()

    def decode(self, z):
        if self.fixed:
            return self.decoder(z)
        return self.decoder(z.flatten(0, -2)).unflatten(0, z.shape[:-1])

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decode(z)).to_event(3), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            loc, raw = self.encoder(x).chunk(2, -1)
            z = pyro.sample("z", dist.Normal(loc, (0.5 * raw).exp()).to_event(1))
            if self.fixed_guide and z.dim() != 2:
                raise ValueError("this guide takes one draw at a time")


GENERATOR = torch.Generator().manual_seed(1)
BINARY = Images(torch.randint(2, (45, 1, 4, 4), generator=GENERATOR).double())


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_decoder_with_a_fixed_shape_is_scored_as_one_without():
    fixed, free = Plain(fixed=True), Plain()
    a, b = (importance(v.model, v.guide, BINARY, samples=600) for v in (fixed, free))
    for name in ("log_p", "errors", "effective", "elbos"):
        close(getattr(a, name), getattr(b, name))
    for analytic in (False, True):
        a, b = (
            elbo(v.model, v.guide, BINARY, samples=12, analytic=analytic) for v in (fixed, free)
        )
        close(a.elbos, b.elbos)
        close(a.kls, b.kls)
        close(a.kl_of_units["z"], b.kl_of_units["z"])
    few = BINARY.subset(torch.arange(4))
    a, b = (gaps(v.model, v.guide, few, samples=20, steps=5) for v in (fixed, free))
    close(a.approximation, b.approximation)
    close(a.amortization, b.amortization)
    a, b = (aggregate(v.model, v.guide, BINARY).terms for v in (fixed, free))
    for name, pair in a.items():
        assert pair == pytest.approx(b[name], rel=1e-10)
    close(*(unit_kl(v.model, v.guide, BINARY, draws=3)["z"] for v in (fixed, free)))


def test_annealing_of_a_decoder_with_a_fixed_shape_agrees_with_importance_sampling():
    vae = Plain(fixed=True)
    few = BINARY.subset(torch.arange(8))
    one = annealed(vae.model, few, temperatures=20, chains=6)
    other = importance(vae.model, vae.guide, few, samples=2000)
    away = (one.log_p - other.log_p) / (one.errors**2 + other.errors**2).sqrt()
    assert (away.abs() < 4).all()


class LinearPair(nn.Module):
    """The pair of :class:`LinearGaussian` and a mean-field guide; both run one draw at a time."""

    def __init__(self, exact):
        super().__init__()
        self.exact, self.q = exact, LinearMeanField(exact, shift=0.05)

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            loc = nn.Unflatten(1, self.exact.shape)(self.exact.layers[-1](z))
            pyro.sample("x", dist.Normal(loc, self.exact.scales[-1]).to_event(3), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", self.q(x))
            if z.dim() != 2:
                raise ValueError("this guide takes one draw at a time")


def test_programs_that_both_run_one_draw_at_a_time_agree_with_the_closed_form():
    exact = LinearGaussian(5, (2,))
    pair, x = LinearPair(exact), exact.images(60)
    result = importance(pair.model, pair.guide, Images(x), samples=1000)
    away = (result.log_p - exact.log_evidence(x)) / result.errors
    assert (away.abs() < 4).all()
    assert result.errors.max() < 0.1
    bound = elbo(pair.model, pair.guide, Images(x), samples=200)
    known = (exact.log_evidence(x) - exact.gap(pair.q(x), x)).detach()
    assert abs((bound.elbos - known).mean().item()) < 0.05
    normal = dist.Normal(torch.zeros(2).double(), 1.0)
    kl = kl_divergence(pair.q(x).base_dist, normal).detach()
    close(elbo(pair.model, pair.guide, Images(x), analytic=True).kls, kl.sum(-1))
    close(unit_kl(pair.model, pair.guide, Images(x))["z"], kl.mean(0))
    both = sandwich(pair.model, exact.shape, 20, temperatures=40, chains=4)
    truth = exact.log_evidence(both.images.double()).detach()
    for gap in (truth - both.lower, both.upper - truth):
        assert gap.mean() > -3 * gap.std() / 20**0.5
    means = posterior_means(pair.guide, Images(x), draws=400)["z"].mean(0)
    assert ((means - pair.q(x).mean).abs() < 5 * pair.q(x).stddev / 400**0.5).all()


def test_a_program_that_computes_something_else_with_draws_runs_one_draw_at_a_time():
    def sliced(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            first = z[:, :1] if wrong else z[..., :1]  # z[:, :1] is the first image for draws
            pyro.sample("x", dist.Normal(first, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.expand(-1, 2), 1.0).to_event(1))

    images, found = Images(torch.randn(9, 1).double()), []
    for wrong in (True, False):  # noqa: B007
        found.append(importance(sliced, guide, images, samples=50).log_p)
    close(*found)


def test_a_failed_attempt_leaves_no_handler_of_pyro():
    vae = Plain(fixed=True, fixed_guide=True)
    elbo(vae.model, vae.guide, BINARY)
    assert _PYRO_STACK == []


def test_a_program_that_fails_both_ways_raises_its_own_error():
    def broken(x):
        raise KeyError("a fault of the user's own")

    with pytest.raises(KeyError, match="a fault of the user's own"):
        elbo(broken, Plain().guide, BINARY)


def test_fit_trains_a_vae_with_a_fixed_shape():
    class Trained(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Plain(fixed=True).float()
            self.shape = (1, 4, 4)

        def model(self, x):
            self.net.model(x)

        def guide(self, x):
            self.net.guide(x)

    data = Data("tiny", Images(BINARY.pixels.float()), Images(BINARY.pixels.float()))
    history = fit(Trained(), data, epochs=1, compiled=False)
    assert history[-1].elbo < 0


@pytest.mark.parametrize(
    "make",
    [
        lambda t: dist.Normal(t, t.exp()).to_event(1),
        lambda t: dist.Laplace(t, t.exp()),
        lambda t: dist.StudentT(5.0, t, t.exp()).to_event(1),
        lambda t: dist.Bernoulli(logits=t).to_event(1),
        lambda t: dist.OneHotCategorical(logits=t),
        lambda t: dist.Multinomial(3, logits=t),
        lambda t: dist.OneHotCategorical(probs=t.softmax(-1)),
        lambda t: dist.Categorical(probs=t.softmax(-1)),
        lambda t: dist.RelaxedOneHotCategorical(torch.tensor(0.5), logits=t),
        lambda t: dist.MultivariateNormal(t, covariance_matrix=2 * torch.eye(3)),
        lambda t: dist.LowRankMultivariateNormal(t, t[..., None], t.exp()),
        lambda t: dist.TransformedDistribution(
            dist.Normal(t, 1.0), [dist.transforms.ExpTransform()]
        ).to_event(1),
        lambda t: dist.Gamma(t.exp(), 1.0).expand([4, 3]).to_event(1),
    ],
)
def test_distributions_are_stacked(make):
    fns = [make(torch.randn(4, 3)) for _ in range(5)]
    value = torch.stack([fn.sample() for fn in fns])
    stacked = stack_distributions(fns)
    assert stacked.batch_shape == (5, *fns[0].batch_shape)
    assert stacked.event_shape == fns[0].event_shape
    assert stacked.has_rsample == fns[0].has_rsample
    assert stacked.sample().shape == value.shape
    for whole in (stacked, OneByOne(fns)):
        each = torch.stack([fn.log_prob(v) for fn, v in zip(fns, value, strict=True)])
        torch.testing.assert_close(whole.log_prob(value), each)
        assert whole.log_prob(value[:, None].transpose(0, 1)).shape == (1, *each.shape)


def test_threads_do_not_disturb_each_other():
    vae = VAE((1, 4, 4), 2, hidden=(8,))
    few = Images(BINARY.pixels[:6].float())

    def values(seed):
        return (
            elbo(vae.model, vae.guide, few, seed=seed).elbos,
            importance(vae.model, vae.guide, few, samples=5, seed=seed).log_p,
        )

    known = [values(seed) for seed in range(6)]
    random, wrong = torch.get_rng_state(), []

    def work(first):
        try:
            for i in range(12):
                seed = (first + i) % 6
                if not all(map(torch.equal, values(seed), known[seed])):
                    wrong.append(seed)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert _PYRO_STACK == []
    assert torch.equal(torch.get_rng_state(), random)


def test_pixels_have_the_type_of_the_weights():
    types = []

    class Seen(Plain):
        def guide(self, x):
            types.append(x.dtype)
            super().guide(x)

    vae, grey = Seen(), Images(torch.randint(256, (5, 1, 4, 4), dtype=torch.uint8), None)
    dynamic = Images(grey.pixels, binarize="dynamic")
    bound = elbo(vae.model, vae.guide, dynamic)
    assert set(types) == {torch.float64}
    assert bound.elbos.dtype == torch.float64
    types.clear()
    vae.float()
    elbo(vae.model, vae.guide, BINARY)
    assert set(types) == {torch.float32}
    types.clear()

    def unweighted(x):
        types.append(x.dtype)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z[..., :1, None, None], 1.0).to_event(3), obs=x)

    elbo(model, unweighted, BINARY)
    assert set(types) == {torch.float64}


def test_a_module_is_in_evaluation_mode_while_its_methods_are_measured():
    modes = []

    class Seen(Plain):
        def guide(self, x):
            modes.append(self.encoder.training)
            super().guide(x)

    vae = Seen()
    elbo(vae.model, vae.guide, BINARY)
    assert not any(modes)
    assert vae.training
    assert vae.encoder.training


SCORED = [name for name in ZOO if name.startswith("vae") or name in ("mask", "score function")]


@pytest.mark.parametrize("name", sorted(ZOO))
def test_every_member_of_the_zoo_is_scored_or_refused(name):
    pyro.clear_param_store()
    torch.manual_seed(0)
    model, guide, _, (x, *rest) = ZOO[name]()
    pair = [model, guide]
    if rest:  # more arguments than the images
        with pytest.raises(InputError, match="is called with one argument, the rows"):
            elbo(*pair, Images(x))
        pair = [lambda x: model(x, *rest), lambda x: guide(x, *rest)]
    if name not in SCORED:
        for measure in (elbo, importance):
            with pytest.raises(InputError, match="outside the plate over images") as told:
                measure(*pair, Images(x))
            assert "\n" not in str(told.value)
        return
    bound = elbo(*pair, Images(x), samples=2000)
    estimate = importance(*pair, Images(x), samples=2000)
    assert bound.elbos.shape == estimate.log_p.shape == (len(x),)
    assert ((bound.elbos - estimate.elbos).abs() < 6 * estimate.elbo_errors + 1e-5).all()
    assert (estimate.log_p >= estimate.elbos - 1e-5).all()


def local(x):
    """A model with one latent for each image, log p(x) = log N(x; 0, 2)."""
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def test_an_autoguide_with_a_latent_for_each_image_is_scored():
    pyro.clear_param_store()
    guide, x = AutoNormal(local, init_scale=1.0), torch.randn(7, 1)
    result = importance(local, guide, Images(x), samples=5000)
    known = dist.Normal(0.0, 2**0.5).log_prob(x)[:, 0]
    assert ((result.log_p - known).abs() < 4 * result.errors + 1e-5).all()
    for used in (guide, lambda x: guide(x)):  # a function hides that this is an autoguide
        bound = elbo(local, used, Images(x), samples=300, analytic=True)
        prior = dist.Normal(torch.zeros(7, 1), 1.0)
        kl = kl_divergence(dist.Normal(*guide._get_loc_and_scale("z")), prior).sum(-1).detach()
        torch.testing.assert_close(bound.kls, kl)


def test_an_autoguide_of_other_images_is_refused():
    guide = AutoNormal(local)
    guide(torch.randn(30, 1))
    with pytest.raises(InputError, match=r"7 images were given, and .* sizes 30"):
        elbo(local, guide, Images(torch.randn(7, 1)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (AutoDelta, r"a point \(Delta\) at site 'z'"),
        (AutoDiagonalNormal, "outside the plate over images"),
        (AutoMultivariateNormal, "outside the plate over images"),
    ],
)
def test_other_autoguides_are_refused(make, words):
    pyro.clear_param_store()
    with pytest.raises(InputError, match=words):
        elbo(local, make(local), Images(torch.randn(7, 1)))


def test_what_is_not_a_program_of_the_images_is_refused():
    net, x = PlainVAE(), Images(torch.zeros(4, 6))
    weighted = SimpleNamespace(model=poutine.scale(net.model, 2.0), guide=net.guide)
    with pytest.raises(InputError, match="has a scale of 2"):
        elbo(weighted.model, weighted.guide, x)
    with pytest.raises(InputError, match="is a Pyro program, which is a function or a module"):
        elbo(net.model, 5, x)
    with pytest.raises(InputError, match=r"takes \(x, labels\); give a function of the rows"):
        elbo(net.model, lambda x, labels: net.guide(x), x)

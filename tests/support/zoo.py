"""Plain Pyro programs of many kinds, each ``() -> (model, guide, elbo, args)``."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import (
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
    config_enumerate,
)
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn
from torch.distributions import constraints

SIZE, LATENT = 6, 3


class PlainVAE(nn.Module):
    """784-400-20 in small: the VAE of Pyro's tutorial."""

    def __init__(self, *middle):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(SIZE, 8), *middle, nn.Tanh())
        self.head = nn.Linear(8, 2 * LATENT)
        self.decoder = nn.Sequential(nn.Linear(LATENT, 8), nn.Tanh(), nn.Linear(8, SIZE))

    def model(self, x, beta=1.0):
        pyro.module("vae", self)
        with pyro.plate("data", len(x), dim=-1):
            with poutine.scale(scale=beta):
                z = pyro.sample("z", dist.Normal(x.new_zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x, beta=1.0):
        pyro.module("vae", self)
        with pyro.plate("data", len(x), dim=-1), poutine.scale(scale=beta):
            loc, logvar = self.head(self.encoder(x)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, (0.5 * logvar).exp()).to_event(1))


def images(n=5):
    return (torch.rand(n, SIZE) < 0.5).float()


def vae(elbo, *middle):
    def make():
        net = PlainVAE(*middle)
        return net.model, net.guide, elbo(), (images(),)

    return make


class Regression(PyroModule):
    """Bayesian linear regression with PyroSample, PyroParam and a subsample."""

    def __init__(self):
        super().__init__()
        self.linear = PyroModule[nn.Linear](2, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
        self.noise = PyroParam(torch.tensor(0.5), constraint=constraints.positive)

    def forward(self, x, y):
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", len(x), subsample_size=4) as index:
            pyro.sample("y", dist.Normal(mean[..., index], self.noise), obs=y[index])


def regression(guide, elbo=Trace_ELBO, **options):
    def make():
        model = Regression()
        x = torch.randn(10, 2)
        return model, guide(model), elbo(**options), (x, x.sum(-1))

    return make


def mixture(elbo, vectorized=True):
    """A mixture of two Normals with its assignments summed out."""

    def make():
        @config_enumerate
        def model(x):
            weights = pyro.param("weights", torch.tensor([0.4, 0.6]), constraints.simplex)
            scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
            with pyro.plate("components", 2):
                loc = pyro.sample("loc", dist.Normal(0.0, 3.0))
            plate = pyro.plate("data", len(x))
            if vectorized:
                with plate:
                    k = pyro.sample("k", dist.Categorical(weights))
                    pyro.sample("x", dist.Normal(loc[k], scale), obs=x)
            else:
                for i in plate:
                    k = pyro.sample(f"k_{i}", dist.Categorical(weights))
                    pyro.sample(f"x_{i}", dist.Normal(loc[k], scale), obs=x[i])

        guide = AutoNormal(poutine.block(model, expose=["loc"]))
        return model, guide, elbo(max_plate_nesting=1), (torch.randn(4),)

    return make


def masked():
    def model(x, mask):
        loc = pyro.param("loc", torch.tensor(0.3))
        with pyro.plate("data", len(x)), poutine.mask(mask=mask):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, mask):
        with pyro.plate("data", len(x)), poutine.mask(mask=mask):
            a = pyro.param("a", torch.tensor(0.5))
            s = pyro.param("s", torch.tensor(0.8), constraint=constraints.positive)
            pyro.sample("z", dist.Normal(a * x, s))

    return model, guide, TraceMeanField_ELBO(), (torch.randn(5), torch.arange(5) % 2 == 0)


def score_function():
    """A discrete latent that is not enumerated: REINFORCE."""

    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(k, 1.0), obs=x)

    def guide(x):
        logit = pyro.param("logit", torch.tensor(0.2))
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Bernoulli(logits=logit * x))

    return model, guide, Trace_ELBO(num_particles=2), (torch.randn(5),)


def wake_sleep():
    net = PlainVAE()
    elbo = ReweightedWakeSleep(
        num_particles=3, vectorize_particles=True, max_plate_nesting=1, model_has_params=True
    )
    return net.model, net.guide, elbo, (images(),)


def auto_list(model):
    guide = AutoGuideList(model)
    guide.append(AutoNormal(poutine.block(model, expose=["linear.weight"])))
    guide.append(AutoDelta(poutine.block(model, hide=["linear.weight"])))
    return guide


ZOO = {
    "vae": vae(Trace_ELBO),
    "vae, 3 particles": vae(lambda: Trace_ELBO(num_particles=3)),
    "vae, 3 particles at once": vae(
        lambda: Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    ),
    "vae, analytic": vae(TraceMeanField_ELBO),
    "vae, Renyi": vae(lambda: RenyiELBO(alpha=0.5, num_particles=3)),
    "vae, tail-adaptive": vae(
        lambda: TraceTailAdaptive_ELBO(
            num_particles=4, vectorize_particles=True, max_plate_nesting=1
        )
    ),
    "vae, wake-sleep": wake_sleep,
    "vae, BatchNorm": vae(Trace_ELBO, nn.BatchNorm1d(8)),
    "vae, dropout": vae(Trace_ELBO, nn.Dropout(0.5)),
    "regression, AutoNormal": regression(AutoNormal),
    "regression, AutoDelta": regression(AutoDelta),
    "regression, AutoDiagonalNormal": regression(AutoDiagonalNormal),
    "regression, AutoMultivariateNormal": regression(AutoMultivariateNormal),
    "regression, AutoLowRank": regression(lambda m: AutoLowRankMultivariateNormal(m, rank=1)),
    "regression, AutoIAF": regression(lambda m: AutoIAFNormal(m, hidden_dim=[5])),
    "regression, AutoGuideList": regression(auto_list),
    "regression, analytic": regression(AutoNormal, TraceMeanField_ELBO),
    "mixture, enumerated": mixture(TraceEnum_ELBO),
    "mixture, in sequence": mixture(TraceEnum_ELBO, vectorized=False),
    "mask": masked,
    "score function": score_function,
}

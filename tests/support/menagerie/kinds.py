"""Distributions, guides, ELBOs, plates, arguments and optimizers."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import (
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from pyro.infer import autoguide as auto
from pyro.infer.autoguide.initialization import init_to_mean, init_to_sample
from pyro.infer.reparam import LocScaleReparam
from torch.distributions import constraints

from pyro_vae.compiling import FusedAdam

from . import Member, member, normal_guide, programs


def named(name, outcome="equal"):
    def register(build):
        build.__name__ = name.replace(" ", "_")
        member(outcome)(build)
        return build

    return register


# The distribution of x given a positive parameter p, and values in its support.
UNIT, REAL, POSITIVE, COUNTS = [0.2, 0.5, 0.9], [-1.0, 0.3, 2.0], [0.3, 1.0, 2.5], [0.0, 1.0, 3.0]
FAMILIES = {
    "Normal": (lambda p: dist.Normal(p, 1.0), REAL),
    "Laplace": (lambda p: dist.Laplace(p, 1.0), REAL),
    "Cauchy": (lambda p: dist.Cauchy(p, 1.0), REAL),
    "StudentT": (lambda p: dist.StudentT(3.0, p), REAL),
    "Gumbel": (lambda p: dist.Gumbel(p, 1.0), REAL),
    "Logistic": (lambda p: dist.Logistic(p, 1.0), REAL),
    "SkewLogistic": (lambda p: dist.SkewLogistic(p, 1.0), REAL),
    "AsymmetricLaplace": (lambda p: dist.AsymmetricLaplace(0.0, p, 1.0), REAL),
    "SoftLaplace": (lambda p: dist.SoftLaplace(p, 1.0), REAL),
    "HalfNormal": (lambda p: dist.HalfNormal(p), POSITIVE),
    "HalfCauchy": (lambda p: dist.HalfCauchy(p), POSITIVE),
    "LogNormal": (lambda p: dist.LogNormal(p, 1.0), POSITIVE),
    "Exponential": (lambda p: dist.Exponential(p), POSITIVE),
    "Gamma": (lambda p: dist.Gamma(p, 1.0), POSITIVE),
    "InverseGamma": (lambda p: dist.InverseGamma(p, 1.0), POSITIVE),
    "Chi2": (lambda p: dist.Chi2(p), POSITIVE),
    "Weibull": (lambda p: dist.Weibull(p, 1.5), POSITIVE),
    "Pareto": (lambda p: dist.Pareto(0.1, p), POSITIVE),
    "Beta": (lambda p: dist.Beta(p, 1.0), UNIT),
    "Kumaraswamy": (lambda p: dist.Kumaraswamy(p, 1.0), UNIT),
    "ContinuousBernoulli": (lambda p: dist.ContinuousBernoulli(logits=p), UNIT),
    "LogitNormal": (
        lambda p: dist.TransformedDistribution(
            dist.Normal(p, 1.0), [dist.transforms.SigmoidTransform()]
        ),
        UNIT,
    ),
    "Uniform": (lambda p: dist.Uniform(-5.0 - p, 5.0 + p), REAL),
    "Bernoulli": (lambda p: dist.Bernoulli(logits=p), [0.0, 1.0, 1.0]),
    "Poisson": (lambda p: dist.Poisson(p), COUNTS),
    "Geometric": (lambda p: dist.Geometric(logits=p), COUNTS),
    "NegativeBinomial": (lambda p: dist.NegativeBinomial(3.0, logits=p), COUNTS),
    "GammaPoisson": (lambda p: dist.GammaPoisson(p, 1.0), COUNTS),
    "ZeroInflatedPoisson": (lambda p: dist.ZeroInflatedPoisson(p, gate=torch.tensor(0.2)), COUNTS),
    "Binomial": (lambda p: dist.Binomial(5, logits=p), COUNTS),
    "BetaBinomial": (lambda p: dist.BetaBinomial(p, 1.0, 5), COUNTS),
    "Categorical": (lambda p: dist.Categorical(logits=p * torch.arange(4.0)), [0, 1, 3]),
    "VonMises": (lambda p: dist.VonMises(p, 1.0), REAL),
    "TruncatedNormal": (
        lambda p: dist.Normal(p, 1.0).mask(torch.tensor([True, True, False])),
        REAL,
    ),
    "Delta": (lambda p: dist.Normal(dist.Delta(p).sample(), 1.0), REAL),
}
for _name, (_family, _values) in FAMILIES.items():

    def _build(family=_family, values=_values):
        def model(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            p = pyro.param("p", torch.tensor(1.0), constraint=constraints.positive)
            with pyro.plate("data", 3):
                pyro.sample("x", family(p * (0.1 * z).exp()), obs=x)

        return Member(model, normal_guide, args=lambda step: (torch.tensor(values),))

    named(f"observed {_name}")(_build)

LATENT = {
    "Gamma": lambda q: dist.Gamma(q, 1.0),
    "Beta": lambda q: dist.Beta(q, 2.0),
    "Dirichlet": lambda q: dist.Dirichlet(q * torch.ones(3)),
    "LogNormal": lambda q: dist.LogNormal(q, 0.3),
    "HalfNormal": lambda q: dist.HalfNormal(q),
    "Weibull": lambda q: dist.Weibull(q, 1.5),
    "Bernoulli": lambda q: dist.Bernoulli(logits=q),
    "Categorical": lambda q: dist.Categorical(logits=q * torch.arange(3.0)),
    "Poisson": lambda q: dist.Poisson(q),
    "RelaxedBernoulli": lambda q: dist.RelaxedBernoulliStraightThrough(torch.tensor(0.5), logits=q),
    "MultivariateNormal": lambda q: dist.MultivariateNormal(
        q * torch.ones(2), scale_tril=torch.eye(2)
    ),
    "LowRank": lambda q: dist.LowRankMultivariateNormal(
        q * torch.ones(2), torch.ones(2, 1), torch.ones(2)
    ),
    "LKJ": lambda q: dist.LKJCholesky(3, 1.0 + 0 * q),
}
for _name, _family in LATENT.items():

    def _build(family=_family):
        def model(x):
            z = pyro.sample("z", family(torch.tensor(1.5)))
            pyro.sample("x", dist.Normal(z.float().sum(), 1.0).expand([3]).to_event(1), obs=x)

        def guide(x):
            q = pyro.param("q", torch.tensor(1.2), constraint=constraints.positive)
            pyro.sample("z", family(q))

        return Member(model, guide)

    named(f"latent {_name}", "equal")(_build)


def regression(x):
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("groups", 3):
        slope = pyro.sample("slope", dist.Normal(mean, scale))
        pyro.sample("x", dist.Normal(slope, 1.0), obs=x)


GUIDES = {
    "AutoNormal": auto.AutoNormal,
    "AutoDelta": auto.AutoDelta,
    "AutoDiagonalNormal": auto.AutoDiagonalNormal,
    "AutoMultivariateNormal": auto.AutoMultivariateNormal,
    "AutoLowRankMultivariateNormal": auto.AutoLowRankMultivariateNormal,
    "AutoIAFNormal": lambda m: auto.AutoIAFNormal(m, hidden_dim=[8]),
    "AutoLaplaceApproximation": auto.AutoLaplaceApproximation,
    "AutoStructured": auto.AutoStructured,
    "AutoNormal from a mean": lambda m: auto.AutoNormal(m, init_loc_fn=init_to_mean),
    "AutoNormal from a sample": lambda m: auto.AutoNormal(m, init_loc_fn=init_to_sample),
    "AutoNormal of a reparam": lambda m: auto.AutoNormal(
        poutine.reparam(m, {"slope": LocScaleReparam()})
    ),
}
for _name, _guide in GUIDES.items():

    def _build(guide=_guide):
        return Member(regression, guide(regression))

    named(f"guide {_name}")(_build)

ELBOS = {
    "Trace, 3 particles": lambda: Trace_ELBO(num_particles=3),
    "Trace, vectorized": lambda: Trace_ELBO(
        num_particles=3, vectorize_particles=True, max_plate_nesting=1
    ),
    "TraceMeanField": TraceMeanField_ELBO,
    "Renyi": lambda: RenyiELBO(alpha=0.5, num_particles=2),
    "Renyi 0": lambda: RenyiELBO(alpha=0.0, num_particles=2),
    "TraceEnum": lambda: TraceEnum_ELBO(max_plate_nesting=1),
    "wake-sleep": lambda: ReweightedWakeSleep(
        num_particles=2, vectorize_particles=True, max_plate_nesting=1, model_has_params=False
    ),
}
for _name, _elbo in ELBOS.items():

    def _build(elbo=_elbo):
        return Member(regression, auto.AutoNormal(regression), elbo=elbo())

    named(f"elbo {_name}")(_build)


@named("elbo TraceGraph", "eager")
def _():
    return Member(regression, auto.AutoNormal(regression), elbo=TraceGraph_ELBO())


def plates(loop):
    """A model of plates: ``loop(z, x)`` observes ``x``, 3 x 2."""

    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        loop(z * pyro.param("w", torch.tensor(1.0)), x)

    return Member(
        model, normal_guide, args=lambda step: (torch.arange(6.0).view(3, 2) ** 2 + 0.1 * step,)
    )


def observe(name, z, x):
    pyro.sample(name, dist.Normal(z, 1.0), obs=x)


@named("an inner plate made outside the outer loop")
def _():
    def loop(z, x):
        inner = pyro.plate("inner", 2)
        for i in pyro.plate("outer", 3):
            for j in inner:
                observe(f"x_{i}_{j}", z * (1 + i), x[i, j])

    return plates(loop)


@named("a plate that is left and entered again")
def _():
    def loop(z, x):
        plate = pyro.plate("rows", 3)
        for i in plate:
            if i == 1:
                break
        for i in plate:
            observe(f"x_{i}", z * (1 + i), x[i, 0])

    return plates(loop)


@named("a plate over a given subsample", "eager")
def _():
    def loop(z, x):
        for i in pyro.plate("rows", 3, subsample=torch.tensor([2, 0, 1])):
            observe(f"x_{i}", z * (1 + i), x[i, 0])

    return plates(loop)


@named("a plate made before", "eager")
def _():
    plate = pyro.plate("rows", 3)

    def loop(z, x):
        for i in plate:
            observe(f"x_{i}", z * (1 + i), x[i, 0])

    return plates(loop)


@named("a plate of a Python range")
def _():
    def loop(z, x):
        for i in range(3):
            observe(f"x_{i}", z * (1 + i), x[i, 0])

    return plates(loop)


@named("sequential plates inside each other")
def _():
    def loop(z, x):
        for i in pyro.plate("outer", 3):
            for j in pyro.plate(f"inner_{i}", 2):
                observe(f"x_{i}_{j}", z * (1 + i), x[i, j])

    return plates(loop)


@named("a markov loop")
def _():
    def loop(z, x):
        for i in pyro.markov(range(3)):
            z = pyro.deterministic(f"h_{i}", 0.5 * z + x[i, 0])
            observe(f"x_{i}", z, x[i, 1])

    return plates(loop)


@named("a vectorized subsample")
def _():
    def loop(z, x):
        with pyro.plate("rows", 3, subsample_size=2) as index:
            observe("x", z * (1 + index), x[index, 0])

    return plates(loop)


@named("a sequential subsample", "eager")
def _():
    def loop(z, x):
        for i in pyro.plate("rows", 3, subsample_size=2):
            observe(f"x_{i}", z * (1 + i), x[i, 0])

    return plates(loop)


@named("an enumerated mixture")
def _():
    @config_enumerate
    def model(x):
        w = pyro.param("w", torch.tensor([0.4, 0.6]), constraint=constraints.simplex)
        loc = pyro.param("mus", torch.tensor([-1.0, 1.0]))
        with pyro.plate("data", 3):
            k = pyro.sample("k", dist.Categorical(w))
            pyro.sample("x", dist.Normal(loc[k], 1.0), obs=x)

    return Member(model, lambda x: None, elbo=TraceEnum_ELBO(max_plate_nesting=1))


@named("an enumerated chain")
def _():
    @config_enumerate
    def model(x):
        rows = pyro.param(
            "rows", torch.tensor([[0.8, 0.2], [0.3, 0.7]]), constraint=constraints.simplex
        )
        k = torch.tensor(0)
        for i in pyro.markov(range(3)):
            k = pyro.sample(f"k_{i}", dist.Categorical(rows[k]))
            pyro.sample(f"x_{i}", dist.Normal(k.float(), 1.0), obs=x[i])

    return Member(model, lambda x: None, elbo=TraceEnum_ELBO(max_plate_nesting=0))


ARGUMENTS = {
    "a float": ("equal", lambda z, x, b: z * b, lambda i: 0.1 * i),
    "a float that is one": ("equal", lambda z, x, b: z * b, lambda i: 1.0),
    "a float asked for its type": (
        "equal",
        lambda z, x, b: z * b if isinstance(b, float) else z,
        lambda i: 1.0 if i < 6 else 2.0,
    ),
    "a float in a branch": ("equal", lambda z, x, b: z * b if b > 1 else z, lambda i: i // 6 + 1.0),
    "a float in float64": ("equal", lambda z, x, b: z * b, lambda i: 0.1),
    "a huge float": ("equal", lambda z, x, b: z * (b / 1e39), lambda i: 1e40 if i < 6 else 2e40),
    "an infinite float": ("equal", lambda z, x, b: z.clamp(max=b), lambda i: float("inf")),
    "a float times a half": (
        "equal",
        lambda z, x, b: z + (torch.ones((), dtype=torch.half) * b).float(),
        lambda i: 0.1 if i < 6 else 0.2,
    ),
    "a float as text": ("equal", lambda z, x, b: z * len(str(b)), lambda i: 0.25 if i < 6 else 0.5),
    "an int": ("equal", lambda z, x, b: z * b, lambda i: i // 6),
    "a bool": ("equal", lambda z, x, b: z if b else 2 * z, lambda i: i < 6),
    "a string": ("equal", lambda z, x, b: z * len(b), lambda i: "a" * (1 + i // 6)),
    "none": ("equal", lambda z, x, b: z if b is None else b * z, lambda i: None if i < 6 else 2),
    "a list": ("equal", lambda z, x, b: z * b[0] * b[1], lambda i: [1.0, float(i)]),
    "a dict": ("equal", lambda z, x, b: z * b["f"], lambda i: {"f": torch.tensor(float(i))}),
    "a longer list": ("equal", lambda z, x, b: z * len(b), lambda i: [1] * (1 + i // 6)),
    "a nested tuple": ("equal", lambda z, x, b: z * b[0][1], lambda i: ((1, float(i)), "a")),
    "an integer tensor": ("equal", lambda z, x, b: z * b, lambda i: torch.tensor(i)),
    "a mask": ("equal", lambda z, x, b: torch.where(b, z, x), lambda i: torch.arange(3) < i % 4),
    "another dtype": (
        "equal",
        lambda z, x, b: (z * b).float(),
        lambda i: torch.ones((), dtype=torch.float64 if i > 5 else torch.float32),
    ),
    "other strides": (
        "equal",
        lambda z, x, b: z * b.sum(0),
        lambda i: torch.arange(9.0).view(3, 3) if i < 6 else torch.arange(9.0).view(3, 3).t(),
    ),
    "a dtype": (
        "equal",
        lambda z, x, b: z.to(b).float(),
        lambda i: torch.float64 if i > 5 else torch.float32,
    ),
    "a new function at each step": ("equal", lambda z, x, b: b(z), lambda i: torch.sin),
}
for _name, (_outcome, _look, _value) in ARGUMENTS.items():

    def _build(look=_look, value=_value):
        return programs(look, args=lambda i: (torch.tensor([-1.0, 0.0, 1.0]), value(i)))

    named(f"argument {_name}", _outcome)(_build)


@named("batches of two sizes")
def _():
    return programs(lambda z, x: z, args=lambda i: (torch.ones(3 + i % 2),))


OPTIMIZERS = {
    "Adam": lambda: pyro.optim.Adam({"lr": 0.05}),
    "ClippedAdam": lambda: pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.9}),
    "SGD with momentum": lambda: pyro.optim.SGD({"lr": 0.01, "momentum": 0.9}),
    "RMSprop": lambda: pyro.optim.RMSprop({"lr": 0.01}),
    "Adam with clipping": lambda: pyro.optim.Adam({"lr": 0.05}, {"clip_norm": 0.1}),
    "FusedAdam": lambda: FusedAdam({"lr": 0.05}),
    "options of a parameter": lambda: pyro.optim.Adam(
        lambda name: {"lr": 0.1 if name == "loc" else 0.01}
    ),
    "a scheduler": lambda: pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.05}, "gamma": 0.5}
    ),
}
for _name, _optim in OPTIMIZERS.items():

    def _build(optim=_optim):
        def after(svi):
            getattr(svi.optim, "pt_scheduler_constructor", None) and svi.optim.step()

        return programs(
            lambda z, x: z * pyro.param("w", torch.tensor(1.0)), optim=optim, after=after
        )

    named(f"optimizer {_name}")(_build)


def observed(family, values):
    def build():
        def model(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("data", 3):
                pyro.sample("x", family(z), obs=x)

        return Member(model, normal_guide, args=lambda i: (torch.tensor(values[i > 6]),))

    return build


REFUSED_LATER = {
    "half a count": (lambda z: dist.Poisson(z.exp()), ([1.0, 2.0, 3.0], [1.0, 2.5, 3.0])),
    "a negative count": (lambda z: dist.Poisson(z.exp()), ([1.0, 2.0, 3.0], [1.0, -2.0, 3.0])),
    "a grey pixel": (lambda z: dist.Bernoulli(logits=z), ([1.0, 0.0, 1.0], [1.0, 0.5, 1.0])),
    "a negative duration": (
        lambda z: dist.Exponential(z.exp()),
        ([1.0, 2.0, 1.0], [1.0, -0.5, 1.0]),
    ),
    "a missing value": (lambda z: dist.Normal(z, 1.0), ([1.0, 2.0, 1.0], [1.0, float("nan"), 1.0])),
    "a proportion above one": (
        lambda z: dist.Beta(z.exp(), 1.0),
        ([0.1, 0.2, 0.3], [0.1, 1.2, 0.3]),
    ),
    "a class too many": (
        lambda z: dist.Categorical(logits=z * torch.ones(3)),
        ([0, 1, 2], [0, 1, 3]),
    ),
}
for _name, (_family, _values) in REFUSED_LATER.items():
    named(f"later {_name}")(observed(_family, _values))


@named("later a parameter that is not a number")
def _():
    made = programs(lambda z, x: z * pyro.param("w", torch.tensor(1.0)))
    made.change = lambda v: v > 1 and pyro.get_param_store()["w"].data.fill_(float("nan"))
    return made


@named("later a scale that underflows")
def _():
    def guide(x):
        s = pyro.param("s", torch.tensor(0.0))
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.5)), s.exp()))

    made = programs(lambda z, x: z)
    made.guide = guide
    made.change = lambda v: v > 1 and pyro.get_param_store()["s"].data.fill_(-200.0)
    return made


@named("later a concentration below zero")
def _():
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        w = pyro.param("w", torch.tensor(1.0))
        pyro.sample("x", dist.Beta(w, 1 + z**2), obs=torch.tensor(0.3))

    made = Member(model, normal_guide)
    made.change = lambda v: v > 1 and pyro.get_param_store()["w"].data.fill_(-0.5)
    return made


@named("checks that the program switched off")
def _():
    made = observed(
        lambda z: dist.Bernoulli(logits=z, validate_args=False), ([1.0, 0.0, 1.0], [0.2, 0.5, 1.0])
    )()
    return made

"""Plain Pyro programs of many kinds, each with data for it. None of them knows this library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset


@dataclass
class Case:
    """A model, a guide, data, and how they are trained.

    ``objective`` is what SVI gets, and what ``fit`` gets where it would not choose the same.
    """

    model: Any
    guide: Any
    data: Any
    objective: Any = field(default_factory=Trace_ELBO)
    kwargs: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 16
    test: Any = None


def normal(loc: Any, scale: Any) -> Any:
    return dist.Normal(torch.as_tensor(loc), torch.as_tensor(scale))


def regression() -> Case:
    """A Bayesian linear regression with an automatic guide, on all rows at once."""
    x = torch.randn(40, 2)

    def model(x: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", normal(torch.zeros(2), 1.0).to_event(1))
        noise = pyro.sample("noise", dist.Gamma(torch.tensor(2.0), torch.tensor(2.0)))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", normal(x @ w, noise), obs=y)

    y = x @ torch.tensor([1.0, -1.0]) + 0.3 * torch.randn(40)
    return Case(model, AutoNormal(model), (x, y), batch_size=100, test=(x[:7], y[:7]))


def subsampled_regression() -> Case:
    """The same on batches, whose likelihood is scaled to all rows by a plate."""
    case = regression()

    def model(x: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("rows", 40, subsample=x):
            pyro.sample("y", normal(x @ w, 0.5), obs=y)

    data = dict(zip(("x", "y"), case.data, strict=True))
    return Case(model, AutoMultivariateNormal(model), data)


def subsample_inside() -> Case:
    """A plate that draws its own subsample of all rows, in the model and in the guide."""
    x = torch.randn(30)

    def model(x: Tensor) -> None:
        with pyro.plate("rows", len(x), subsample_size=10) as index:
            z = pyro.sample("z", normal(0.0, 1.0))
            pyro.sample("x", normal(z, 1.0), obs=x[index])

    def guide(x: Tensor) -> None:
        a = pyro.param("a", torch.tensor(0.1))
        with pyro.plate("rows", len(x), subsample_size=10) as index:
            pyro.sample("z", normal(a * x[index], 0.7))

    return Case(model, guide, x, batch_size=30)


class PPCA:
    """Probabilistic PCA by hand: x = W z + noise, with plates of other names at other dims."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.start = torch.randn(4, 2, generator=generator)

    def model(self, x: Tensor) -> None:
        w = pyro.param("W", self.start.clone())
        sigma = pyro.param("sigma", torch.tensor(0.8), constraint=constraints.positive)
        with pyro.plate("patients", len(x), dim=-2):
            z = pyro.sample("z", normal(torch.zeros(2), 1.0).to_event(1))  # [B, 1, 2]
            with pyro.plate("genes", 4, dim=-1):
                pyro.sample("x", normal((z @ w.T)[..., 0, :], sigma), obs=x)

    def guide(self, x: Tensor) -> None:
        a = pyro.param("A", 0.3 * self.start.clone())
        scale = pyro.param("s", torch.full((2,), 0.5), constraint=constraints.positive)
        with pyro.plate("patients", len(x), dim=-2):
            pyro.sample("z", normal((x @ a)[:, None], scale).to_event(1))

    def log_p(self, x: Tensor) -> Tensor:
        """log p(x) in closed form."""
        w, sigma = pyro.param("W").detach(), pyro.param("sigma").detach()
        covariance = w @ w.T + sigma**2 * torch.eye(4)
        return dist.MultivariateNormal(torch.zeros(4), covariance).log_prob(x)


def ppca() -> Case:
    programs = PPCA()
    x = torch.randn(50, 4) @ torch.randn(4, 4)
    return Case(programs.model, programs.guide, x, test=x[:9])


def mixture() -> Case:
    """A mixture of two Normals: the component of each row is summed out."""
    x = torch.cat([torch.randn(20) - 3, torch.randn(20) + 3])

    @config_enumerate
    def model(x: Tensor) -> None:
        share = pyro.sample("share", dist.Dirichlet(torch.ones(2)))
        with pyro.plate("components", 2):
            locs = pyro.sample("locs", normal(0.0, 5.0))
        with pyro.plate("rows", len(x)):
            k = pyro.sample("k", dist.Categorical(share))
            pyro.sample("x", normal(locs[k], 1.0), obs=x)

    guide = AutoDelta(poutine.block(model, expose=["share", "locs"]))
    return Case(model, guide, x, TraceEnum_ELBO(max_plate_nesting=1), batch_size=64, test=x[:5])


class TutorialVAE(nn.Module):
    """The VAE of Pyro's tutorial: methods of a plain module, which register parts by name."""

    def __init__(self, extra: int = 0) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6 + extra, 8), nn.Tanh(), nn.Linear(8, 4))
        self.decoder = nn.Sequential(nn.Linear(2 + extra, 8), nn.Tanh(), nn.Linear(8, 6))

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("decoder", self.decoder)
        given = [] if y is None else [y]
        with pyro.plate("data", len(x)):
            z = pyro.sample("latent", normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            logits = self.decoder(torch.cat([z, *given], -1))
            pyro.sample("obs", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("encoder", self.encoder)
        loc, raw = self.encoder(torch.cat([x, *([] if y is None else [y])], -1)).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("latent", dist.Normal(loc, raw.exp()).to_event(1))


def bits(count: int = 50) -> Tensor:
    """Rows of six numbers, 0 or 1."""
    return (torch.rand(count, 6) > 0.5).to(torch.get_default_dtype())


def tutorial() -> Case:
    vae = TutorialVAE()
    return Case(vae.model, vae.guide, bits(), TraceMeanField_ELBO(), test=bits(9))


def conditional() -> Case:
    """A conditional VAE on a dict, whose names are those of the programs' arguments."""
    vae = TutorialVAE(extra=3)
    y = torch.eye(3)[torch.randint(3, (50,))]
    data = {"x": bits(), "y": y}
    return Case(vae.model, vae.guide, data, test={"x": bits(5), "y": y[:5]})


def weighted() -> Case:
    """A VAE whose KL has a weight that both programs take."""
    vae = TutorialVAE()

    def model(x: Tensor, *, beta: float) -> None:
        with poutine.scale(scale=1.0), poutine.block(hide_types=[]):
            pyro.module("decoder", vae.decoder)
            with pyro.plate("data", len(x)):
                with poutine.scale(scale=beta):
                    z = pyro.sample("latent", normal(torch.zeros(len(x), 2), 1.0).to_event(1))
                logits = vae.decoder(z)
                pyro.sample("obs", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x: Tensor, *, beta: float) -> None:
        with poutine.scale(scale=beta):
            vae.guide(x)

    return Case(model, guide, bits(), kwargs={"beta": 0.5}, test=bits(9))


class Mean(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = PyroModule[nn.Linear](2, 6)
        self.scale = PyroParam(torch.tensor(1.0), constraint=constraints.positive)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), self.scale).to_event(1), obs=x)


class Encode(PyroModule):
    def __init__(self) -> None:
        super().__init__("encode")
        self.net = PyroModule[nn.Linear](6, 4)

    def forward(self, x: Tensor) -> None:
        loc, raw = self.net(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


def pyro_modules() -> Case:
    """A model and a guide that are PyroModules, one with a constrained parameter."""
    return Case(Mean(), Encode(), torch.randn(50, 6), test=torch.randn(9, 6))


class Network(PyroModule):
    """A Bayesian neural network: the weights are latent."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = PyroModule[nn.Linear](3, 1)
        self.linear.weight = PyroSample(normal(torch.zeros(1, 3), 1.0).to_event(2))
        self.linear.bias = PyroSample(normal(torch.zeros(1), 1.0).to_event(1))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        mean = self.linear(x)[:, 0]
        with pyro.plate("rows", len(x)):
            pyro.sample("y", normal(mean, 0.5), obs=y)
        return mean


def bayesian_network() -> Case:
    model = Network()
    x = torch.randn(40, 3)
    return Case(model, AutoNormal(model), TensorDataset(x, x.sum(1)), batch_size=40)


def semi_supervised() -> Case:
    """Batches with and without labels in turn; a missing label is summed out."""
    encoder, decoder = nn.Linear(6, 3), nn.Linear(3, 6)

    def model(x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(3) / 3), obs=y)
            pyro.sample("x", dist.Bernoulli(logits=decoder(y)).to_event(1), obs=x)

    def guide(x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("encoder", encoder)
        if y is None:
            with pyro.plate("data", len(x)):
                q = dist.OneHotCategorical(logits=encoder(x))
                pyro.sample("y", q, infer={"enumerate": "parallel"})

    class Batches(IterableDataset[Any]):
        def __iter__(self) -> Any:
            generator = torch.Generator().manual_seed(0)
            for i in range(4):
                x = torch.rand(8, 6, generator=generator).round()
                known = {"y": torch.eye(3)[torch.arange(8) % 3]} if i % 2 else {}
                yield {"x": x.to(torch.get_default_dtype()), **known}

    data = DataLoader(Batches(), batch_size=None)
    return Case(model, guide, data, TraceEnum_ELBO(max_plate_nesting=1))


def sequences() -> Case:
    """Sequences of different lengths with a latent for each time, and a recurrent guide."""
    cell, out = nn.GRUCell(2, 4), nn.Linear(4, 2)
    emit = nn.Linear(1, 2)

    def model(x: Tensor, length: Tensor) -> None:
        pyro.module("emit", emit)
        z = torch.zeros(len(x), 1)
        with pyro.plate("sequences", len(x)):
            for t in range(x.shape[1]):
                with poutine.mask(mask=t < length):
                    z = pyro.sample(f"z_{t}", normal(0.9 * z, 1.0).to_event(1))
                    pyro.sample(f"x_{t}", normal(emit(z), 0.5).to_event(1), obs=x[:, t])

    def guide(x: Tensor, length: Tensor) -> None:
        pyro.module("cell", cell)
        pyro.module("out", out)
        h = torch.zeros(len(x), 4)
        with pyro.plate("sequences", len(x)):
            for t in range(x.shape[1]):
                h = cell(x[:, t], h)
                loc, raw = out(h).chunk(2, -1)
                with poutine.mask(mask=t < length):
                    pyro.sample(f"z_{t}", dist.Normal(loc, raw.exp()).to_event(1))

    x, length = torch.randn(40, 5, 2), torch.randint(1, 6, (40,))
    return Case(model, guide, (x, length), test=(x[:7], length[:7]))


class Counts:
    """Counts with a rate for each row: the exact posterior is a member of the guide's family."""

    def model(self, x: Tensor) -> None:
        a = pyro.param("a", torch.tensor(2.0), constraint=constraints.positive)
        b = pyro.param("b", torch.tensor(0.7), constraint=constraints.positive)
        with pyro.plate("shops", len(x)):
            rate = pyro.sample("rate", dist.Gamma(a, b))
            pyro.sample("sales", dist.Poisson(rate), obs=x)

    def guide(self, x: Tensor) -> None:
        shift = pyro.param("shift", torch.tensor(1.5))
        with pyro.plate("shops", len(x)):
            pyro.sample("rate", dist.Gamma(x + shift, torch.tensor(1.7)))

    def posterior(self, x: Tensor) -> None:
        a, b = pyro.param("a"), pyro.param("b")
        with pyro.plate("shops", len(x)):
            pyro.sample("rate", dist.Gamma(a + x, b + 1))

    def log_p(self, x: Tensor) -> Tensor:
        """log p(x) in closed form: a negative binomial distribution."""
        a, b = pyro.param("a").detach(), pyro.param("b").detach()
        return dist.NegativeBinomial(a, probs=1 / (1 + b)).log_prob(x)


def counts() -> Case:
    programs = Counts()
    x = torch.poisson(torch.full((60,), 3.0)).long()
    return Case(programs.model, programs.guide, x, test=x[:20])


def hierarchical() -> Case:
    """The eight schools: global latents, and one for each school."""
    y = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12]).to(torch.get_default_dtype())
    sigma = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18]).to(torch.get_default_dtype())

    def model(y: Tensor, sigma: Tensor) -> None:
        mu = pyro.sample("mu", normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.LogNormal(torch.tensor(0.0), torch.tensor(1.0)))
        with pyro.plate("schools", len(y)):
            eta = pyro.sample("eta", normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(mu + tau * eta, sigma), obs=y)

    return Case(model, AutoNormal(model), (y, sigma), batch_size=8)


def deep_kernel() -> Case:
    """A network of features without a distribution, before a Bayesian last layer."""
    features = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))

    def model(x: Tensor, y: Tensor) -> None:
        pyro.module("features", features)
        w = pyro.sample("w", normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("rows", 48, subsample=x):
            mean = pyro.deterministic("mean", features(x) @ w)
            pyro.sample("y", normal(mean, 0.3), obs=y)

    def guide(x: Tensor, y: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(2))
        scale = pyro.param("scale", torch.full((2,), 0.3), constraint=constraints.positive)
        pyro.sample("w", dist.Normal(loc, scale).to_event(1))

    x = torch.randn(48, 3)
    return Case(model, guide, [x, x[:, 0].sin()])


class Noisy(Dataset[Any]):
    """Rows that get noise each time they are loaded."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Tensor:
        return self.rows[i] + 0.1 * torch.randn(6)


def loaded() -> Case:
    """A DataLoader with workers, over rows with noise."""
    loader = DataLoader(Noisy(torch.randn(50, 6)), batch_size=12, shuffle=True, num_workers=2)
    return Case(Mean(), Encode(), loader, test=torch.randn(9, 6))


class Stream(IterableDataset[Any]):
    """Rows without a known number."""

    def __iter__(self) -> Any:
        generator = torch.Generator().manual_seed(1)
        for _ in range(45):
            yield torch.randn(6, generator=generator).to(torch.get_default_dtype())


def streamed() -> Case:
    """An IterableDataset."""
    return Case(Mean(), Encode(), Stream())


def namespace() -> Case:
    """Lambdas in a namespace, and lognormal sizes in a plate at dim -1."""
    x = torch.rand(40) + 0.5

    def model(x: Tensor) -> None:
        with pyro.plate("fish", len(x)):
            z = pyro.sample("z", normal(0.0, 1.0))
            pyro.sample("x", dist.LogNormal(z, torch.tensor(0.5)), obs=x)

    def guide(x: Tensor) -> None:
        a, b = pyro.param("a", torch.tensor(0.5)), pyro.param("b", torch.tensor(0.0))
        with pyro.plate("fish", len(x)):
            pyro.sample("z", normal(a * x.log() + b, 0.5))

    pair = SimpleNamespace(model=lambda x: model(x), guide=lambda x: guide(x))
    return Case(pair.model, pair.guide, x, test=x[:7])


PAIRS: dict[str, Callable[[], Case]] = {
    made.__name__: made
    for made in (
        regression,
        subsampled_regression,
        subsample_inside,
        ppca,
        mixture,
        tutorial,
        conditional,
        weighted,
        pyro_modules,
        bayesian_network,
        semi_supervised,
        sequences,
        counts,
        hierarchical,
        deep_kernel,
        loaded,
        streamed,
        namespace,
    )
}

"""Linear-Gaussian VAEs: the models whose log p(x), posterior and gaps are known, in float64.

    z_L ~ N(0, I),   z_{l-1} | z_l ~ N(W_l z_l + b_l, s² I),   x | z_1 ~ N(W z_1 + b, s² I).

With one layer the latent is the site "z"; with more, "z_1" (next to x) to "z_L".
"""

from __future__ import annotations

from itertools import pairwise
from math import prod

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_vae.contracts import NOTHING, Guide, Network, Prior
from pyro_vae.likelihoods import Normal
from pyro_vae.vae import VAE

UNIT = 0.01  # u


class LinearGaussian(nn.Module):
    """The generative model, and all that is known of it.

    Args:
        pixels: D; an image is [1, 1, D].
        latents: sizes of z_1, ..., z_L.
        scale: s, the standard deviation of every conditional, for pixels in units of u.
        seed: of the weights.
    """

    def __init__(self, pixels=5, latents=(2,), scale=0.5, seed=0):
        super().__init__()
        self.shape, self.pixels, self.latents = (1, 1, pixels), pixels, tuple(latents)
        self.scales = [scale] * (len(self.latents) - 1) + [UNIT * scale]
        sizes = [*reversed(self.latents), pixels]
        self.layers = nn.ModuleList(nn.Linear(a, b).double() for a, b in pairwise(sizes))
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.data.normal_(generator=generator)
        self.layers[-1].weight.data *= UNIT
        self.layers[-1].bias.data.mul_(UNIT).add_(0.5)
        depth = len(self.latents)
        self.names = ["z"] if depth == 1 else [f"z_{i}" for i in range(depth, 0, -1)]  # top first
        self.where, start = {}, 0
        for name, size in zip([*self.names, "x"], sizes, strict=True):
            self.where[name] = slice(start, start := start + size)

    def joint(self) -> tuple[Tensor, Tensor]:
        """Mean and covariance of (z_L, ..., z_1, x), differentiable in the weights."""
        top = self.latents[-1]
        mean, cov = torch.zeros(top).double(), torch.eye(top).double()
        for layer, scale in zip(self.layers, self.scales, strict=True):
            above = slice(-layer.in_features, None)
            cross = layer.weight @ cov[above]
            own = cross[:, above] @ layer.weight.T + scale**2 * torch.eye(len(cross)).double()
            mean = torch.cat([mean, layer(mean[above])])
            cov = torch.cat([torch.cat([cov, cross.T], 1), torch.cat([cross, own], 1)])
        return mean, cov

    def conditional(self, of, given) -> tuple[Tensor, Tensor, Tensor]:
        """``A, a, S`` with p(of | given) = N(A given + a, S); names of sites, in the order of
        their concatenation."""
        mean, cov = self.joint()
        o, g = (torch.cat([torch.arange(len(mean))[self.where[n]] for n in k]) for k in (of, given))
        gain = torch.linalg.solve(cov[g][:, g], cov[g][:, o]).T
        rest = cov[o][:, o] - gain @ cov[g][:, o]
        return gain, mean[o] - gain @ mean[g], (rest + rest.T) / 2

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x) of each image, [B] nats."""
        mean, cov = self.joint()
        at = self.where["x"]
        return MultivariateNormal(mean[at], cov[at, at]).log_prob(x.flatten(-3))

    def posterior(self, x: Tensor) -> MultivariateNormal:
        """p(z_L, ..., z_1 | x): batch [B]; the latents concatenated, top first."""
        gain, offset, cov = self.conditional(self.names, ["x"])
        return MultivariateNormal(x.flatten(-3) @ gain.T + offset, cov)

    def best_mean_field(self, x: Tensor) -> dist.Distribution:
        """The member of the mean-field family that is nearest to the posterior in KL(q || p)."""
        p = self.posterior(x)
        scale = p.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
        return dist.Normal(p.mean, scale).to_event(1)

    def gap(self, q, x: Tensor) -> Tensor:
        """log p(x) - ELBO of each image, which is KL(q || p(z | x)), for a Normal q over all
        latents; [B] nats."""
        if not isinstance(q, MultivariateNormal):
            q = MultivariateNormal(q.mean, scale_tril=q.stddev.diag_embed())
        return kl_divergence(q, self.posterior(x))

    @torch.no_grad()
    def images(self, n: int, seed: int = 0) -> Tensor:
        """``n`` draws of x, [n, 1, 1, D]."""
        mean, cov = self.joint()
        noise = torch.randn(
            n, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        draws = mean + noise @ torch.linalg.cholesky(cov).T
        x = draws[:, self.where["x"]].reshape(n, *self.shape)
        assert x.min() > 0
        assert x.max() < 1
        return x

    def vae(self, guide: nn.Module | None = None) -> VAE:
        """A VAE of this model in float64; the guide is the exact posterior unless given."""
        return VAE(
            self.shape,
            self.latents[0],
            prior="standard-normal" if self.names == ["z"] else ChainPrior(self),
            likelihood=Normal(
                nn.Sequential(self.layers[-1], nn.Unflatten(-1, self.shape)),
                self.scales[-1],
                bounded=False,
            ),
            guide=guide or ExactPosterior(self),
        ).double()


class ChainPrior(Prior):
    """z_L -> ... -> z_1, for two layers or more."""

    def __init__(self, exact: LinearGaussian):
        super().__init__()
        self.layers = exact.layers[:-1]
        self.names, self.scales = exact.names, exact.scales

    def sample_sites(self, given=NOTHING):
        top = torch.zeros(self.layers[0].in_features, dtype=torch.float64)
        z = pyro.sample(self.names[0], dist.Normal(top, torch.ones_like(top)).to_event(1))
        for name, layer, scale in zip(self.names[1:], self.layers, self.scales, strict=False):
            loc = layer(z)
            z = pyro.sample(name, dist.Normal(loc, torch.full_like(loc, scale)).to_event(1))
        return z


class ExactPosterior(Guide):
    """The posterior as a guide: q(z_l | x, the layers drawn before), each a full Normal.

    Args:
        exact: the model, whose weights as they are now are used.
        upwards: draw z_1 first; else z_L first.
        shift: None for a fixed guide; a number makes parameters of its gains, offsets and
            covariances, moved off by Normal noise of that size.
    """

    def __init__(self, exact: LinearGaussian, upwards: bool = False, shift: float | None = None):
        super().__init__()
        self.names = exact.names[::-1] if upwards else exact.names
        with torch.no_grad():
            self.parts = [
                exact.conditional([name], ["x", *self.names[:i]])
                for i, name in enumerate(self.names)
            ]
        if shift is not None:
            self.own = nn.ParameterList(t.contiguous() for part in self.parts for t in part)
            self.parts = [tuple(self.own[3 * i : 3 * i + 3]) for i in range(len(self.names))]
            move(self, shift, seed=2)

    def conditional(self, i, x, values):
        """q(z_i | x, the layers drawn before)."""
        known = x.flatten(-3)  # [B, D]
        for z in values:
            known = torch.cat([known.expand(*z.shape[:-1], -1), z], -1)
        gain, offset, cov = self.parts[i]
        return dist.MultivariateNormal(known @ gain.T + offset, cov.tril() + cov.tril(-1).T)

    def forward(self, x):
        return self.conditional(0, x, [])

    def sample_sites(self, x, given=NOTHING):
        if len(self.names) == 1:
            return super().sample_sites(x, given)
        values = {}
        for i, name in enumerate(self.names):
            values[name] = pyro.sample(name, self.conditional(i, x, values.values()))  # [*, B, Z]
        return values


class Straight(Network):
    """A network that hands on what it gets, so that what the library makes of it is linear."""

    def __init__(self, shape):
        self.shape = shape

    def encoder(self):
        return through(nn.Flatten(-3), prod(self.shape))

    def decoder(self, latent_size, outputs):
        maps = (outputs * self.shape[0], *self.shape[1:])
        return nn.Sequential(nn.Linear(latent_size, prod(maps)), nn.Unflatten(-1, maps))

    def between(self, sources, target):
        return through(nn.Identity(), sum(prod(source) for source in sources))


def through(module: nn.Module, size: int) -> nn.Module:
    module.out_features = size
    return module


@torch.no_grad()
def normal_head(head: nn.Linear, scale: nn.Module, gain, offset: Tensor, sigma: float) -> None:
    """Make a head's outputs, by way of its ``scale``, the moments of N(gain h + offset, σ² I)."""
    raw = scale.inverse(torch.full_like(offset, sigma))
    head.weight.copy_(torch.cat([gain, torch.zeros_like(gain)]))
    head.bias.copy_(torch.cat([offset, raw]))


@torch.no_grad()
def library_chain(exact: LinearGaussian, guide) -> VAE:
    """The model by the library's own prior ``hierarchy``.

    The guide is a built one, or else by name the exact posterior by the library's own class, for
    layers of one unit.
    """
    x_given_z = nn.Sequential(exact.layers[-1], nn.Unflatten(-1, exact.shape))
    vae = VAE(
        exact.shape,
        exact.latents,
        prior="hierarchy",
        likelihood=Normal(x_given_z, exact.scales[-1], bounded=False),
        guide=guide,
        network=Straight,
    ).double()
    prior, posterior = vae.model.prior, vae.guide.posterior
    downwards = zip(prior.heads, exact.layers[-2::-1], exact.scales[-2::-1], strict=True)
    for head, layer, sigma in downwards:
        normal_head(head, prior.scale, layer.weight, layer.bias, sigma)
    names = exact.names[::-1]  # z_1 first
    for i, name in enumerate(names if isinstance(guide, str) else ()):
        own = posterior.posteriors[i]
        if guide == "bottom-up":
            gain, offset, cov = exact.conditional([name], [names[i - 1] if i else "x"])
            normal_head(own.head, own.scale, gain, offset, cov.item() ** 0.5)
            continue
        # As a function of z_l, p(x | z_l) is a Normal; what is above z_l makes the other factor.
        gain, offset, cov = exact.conditional(["x"], [name])
        seen = torch.linalg.solve(cov, gain).T  # [1, D]
        precision = (seen @ gain).item()
        mean, shift = seen / precision, -seen @ offset / precision
        if guide == "ladder":
            normal_head(own, posterior.scale, mean, shift, precision**-0.5)
        else:  # merge='learned', which sees μ_p and σ_p beside x
            above = 1.0 if i + 1 == len(names) else exact.scales[-2 - i] ** -2
            share = precision / (precision + above)
            beside = torch.tensor([[1 - share, 0.0]], dtype=torch.float64)
            mean = torch.cat([share * mean, beside], 1)
            normal_head(own.head, own.scale, mean, share * shift, (precision + above) ** -0.5)
    return vae


class LinearMeanField(nn.Module):
    """q(z | x) = N(A x + a, diag(exp(logvar))), for one layer; ready to be trained.

    It starts at the best mean-field guide: the mean is exact, the variances are the inverses of
    the posterior precision's diagonal. ``shift`` moves all its parameters off by Normal noise of
    that size.
    """

    def __init__(self, exact: LinearGaussian, shift: float = 0.0):
        super().__init__()
        gain, offset, cov = (t.detach() for t in exact.conditional(["z"], ["x"]))
        self.loc = nn.Linear(exact.pixels, len(offset)).double()
        self.loc.weight.data, self.loc.bias.data = gain.clone(), offset.clone()
        self.logvar = nn.Parameter(-torch.linalg.inv(cov).diagonal().log())
        move(self, shift, seed=1)

    def forward(self, x):
        loc = self.loc(x.flatten(-3))  # [B, Z]
        return dist.Normal(loc, (0.5 * self.logvar).exp().expand_as(loc)).to_event(1)


def move(module: nn.Module, shift: float, seed: int) -> None:
    """Add Normal noise of size ``shift`` to all parameters."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data += shift * noise


class Points(dist.Normal):
    """A Normal of [K, B, Z] that is never random: its K = 2 Z draws are μ ± √Z σ along each axis,
    over which the mean of any quadratic is the exact one."""

    def rsample(self, sample_shape=()):
        size = self.loc.shape[-1]
        axes = size**0.5 * torch.eye(size, dtype=self.loc.dtype)
        return self.loc + self.scale * torch.cat([axes, -axes]).unsqueeze(1)


class Quadrature(nn.Module):
    """A mean-field guide whose 2 Z draws are :class:`Points`, so that the ELBO and its gradients
    come out without noise in a linear-Gaussian model."""

    def __init__(self, guide: LinearMeanField):
        super().__init__()
        self.guide = guide

    def forward(self, x):
        q = self.guide(x).base_dist
        return Points(q.loc, q.scale).to_event(1)


def exact_elbo(exact: LinearGaussian, q, x: Tensor) -> Tensor:
    """The ELBO of each image without any draw, [B], for a mean-field Normal q of one layer;
    differentiable in the weights of both."""
    layer = exact.layers[-1]
    residual = x.flatten(-3) - layer(q.mean)  # [B, D]
    spread = (layer.weight**2 @ q.variance.unsqueeze(-1)).squeeze(-1)  # [B, D]
    normal = dist.Normal(torch.zeros((), dtype=torch.float64), exact.scales[-1])
    log_likelihood = (normal.log_prob(residual) - 0.5 * spread / exact.scales[-1] ** 2).sum(-1)
    kl = 0.5 * (q.variance + q.mean**2 - 1 - q.variance.log()).sum(-1)
    return log_likelihood - kl

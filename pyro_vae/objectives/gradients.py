"""Importance-weighted bounds, and gradient estimators with less noise for the same bounds."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, log
from typing import Any

import torch
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ..distributions import exact_log, from_log
from ..errors import InputError
from ..latents import is_latent
from ..options import at_least_one
from .checks import agree, show
from .terms import PerImage, Terms


class ImportanceWeighted(PerImage):
    """The importance-weighted bound: the log of the mean weight of K draws of z.

    Equation: loss = -Σ_b log 1/K Σ_k w_bk, w_bk = p(x_b, z_bk) / q(z_bk | x_b).

    Each weight belongs to one image. A scale on all sites (``poutine.scale``, a subsampled plate)
    multiplies the whole bound of an image.

    Args:
        num_particles: draws of z for each image, K.

    Raises:
        InputError: at a call, if a latent site is outside the plate of images, or if the sites
            have different scales: the result would not be a bound for each image.

    Paper: Burda, Grosse & Salakhutdinov 2016, Importance weighted autoencoders.

    Example:
        >>> from pyro_vae.objectives import ImportanceWeighted
        >>> objective = ImportanceWeighted(num_particles=5)
        >>> svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=objective)
        >>> loss = svi.step(x)
    """

    def __init__(self, num_particles: int = 5) -> None:
        super().__init__(num_particles)

    def loss_per_image(self, terms: Terms) -> Tensor:
        one_scale(terms)
        return -log_mean(terms.log_weight)


class MultiplyImportanceWeighted(PerImage):
    """The mean of M importance-weighted bounds of K draws each.

    Equation: loss = -Σ_b 1/M Σ_m log 1/K Σ_k w_bmk.

    The gradient of the guide has less noise than with one bound of K·M draws.

    Args:
        num_particles: draws of z in each bound, K.
        outer: number of bounds for each image, M.

    Raises:
        InputError: as for ``iwae``.

    Paper: Rainforth et al. 2018, Tighter variational bounds are not necessarily better.

    Example:
        >>> from pyro_vae.objectives import MultiplyImportanceWeighted
        >>> objective = MultiplyImportanceWeighted(num_particles=8, outer=8)
        >>> loss = objective.loss(vae.model, vae.guide, x)
    """

    def __init__(self, num_particles: int = 5, outer: int = 5) -> None:
        at_least_one("num_particles", num_particles)
        at_least_one("outer", outer)
        super().__init__(num_particles * outer)
        self.outer = outer

    def loss_per_image(self, terms: Terms) -> Tensor:
        one_scale(terms)
        return -log_mean(terms.log_weight.unflatten(0, (-1, self.outer)))  # [M, B]


class PathGradient(PerImage):
    """Base of the objectives whose guide gets its gradient only through its draws.

    The gradient of a bound in the guide's parameters φ has two parts. One goes through the draws
    z(φ, ε). The other goes through log q(z; φ) at fixed z; it has mean zero, or can be rewritten as
    part of the first. A subclass gives the weight of each draw, :meth:`weights`.

    The programs run once, with each latent as a leaf of the graph (:class:`Cut`). So ∂ log w / ∂z
    is taken at fixed φ and at fixed other latents. :func:`pull_back` then carries it to φ through
    the draws. A flow, which keeps the noise of its own draw, inverts its map here, because a leaf
    is not its own draw.
    """

    def weights(self, log_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The bound and the weights of its gradient, from the log weights ``[K, B]`` of the draws.

        Returns:
            the bound, ``[B]``, and the weight of each draw's ∂ log w / ∂θ and ∂ log w / ∂z,
            ``[K, B]`` each.
        """
        raise NotImplementedError

    def terms(self, model: Any, guide: Any, args: Any, kwargs: Any) -> CutTerms:
        with Cut() as cut:
            ((p, q),) = self._get_traces(model, guide, args, kwargs)
        return CutTerms(p, q, self.num_particles, cut)

    def total(self, terms: CutTerms) -> Tensor:
        one_scale(terms)
        log_weight = terms.log_weight
        bound, of_theta, of_z = self.weights(log_weight.detach())
        loss = -(terms.scale * bound).sum(-1).mean()
        if not torch.is_grad_enabled():
            return loss
        log_joint = terms.log_likelihood + sum(terms.log_p.values())
        surrogate = -(terms.scale * of_theta * log_joint).sum()
        leaves = [terms.cut.leaves[name] for name in terms.q]
        draws = [terms.cut.drawn[name] for name in terms.q]
        value = (terms.scale * of_z * log_weight).sum()
        surrogate = surrogate - pull_back(leaves, draws, value)
        return loss + (surrogate - surrogate.detach())


class CutTerms(Terms):
    """The terms of a bound whose latents are leaves.

    Args:
        model, guide, particles: as for :class:`.terms.Terms`.
        cut: the handler that made the leaves.
    """

    def __init__(self, model: Trace, guide: Trace, particles: int, cut: Cut) -> None:
        super().__init__(model, guide, particles)
        self.cut = cut


class StickingTheLanding(PathGradient):
    """The ELBO with a path gradient, which is exactly zero if the guide is the posterior.

    Equation: ∂loss/∂φ = -Σ_b mean_k ∂/∂z [log p(x_b, z) - log q(z | x_b)] ∂z_kb/∂φ.

    Args:
        num_particles: draws of z for each image, K.

    Raises:
        InputError: as for ``iwae``.

    Paper: Roeder, Wu & Duvenaud 2017, Sticking the landing.

    Example:
        >>> from pyro_vae.objectives import StickingTheLanding
        >>> objective = StickingTheLanding()
        >>> svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=objective)
        >>> loss = svi.step(x)
    """

    def __init__(self, num_particles: int = 1) -> None:
        super().__init__(num_particles)

    def weights(self, log_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        each = torch.full_like(log_weight, 1 / self.num_particles)
        return log_weight.mean(0), each, each


class DReG(PathGradient):
    """The importance-weighted bound with the doubly reparameterised gradient.

    Equation: ∂loss/∂φ = -Σ_b Σ_k w̃_bk² ∂ log w_bk/∂z ∂z_bk/∂φ, w̃_bk = w_bk / Σ_j w_bj.
    The gradient of the model's parameters is that of ``iwae``.

    Args:
        num_particles: draws of z for each image, K.

    Raises:
        InputError: as for ``iwae``.

    Paper: Tucker et al. 2019, Doubly reparameterized gradient estimators for Monte Carlo
    objectives.

    Example:
        >>> from pyro_vae.objectives import DReG
        >>> svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=DReG(5))
        >>> loss = svi.step(x)
    """

    def __init__(self, num_particles: int = 5) -> None:
        super().__init__(num_particles)

    def weights(self, log_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        share = without_tiny(log_weight).softmax(0)
        # The sum of squares, at least 1 / K, loses the square of a share below 1e-15.
        return log_mean(log_weight), share, share.masked_fill(share < 1e-15, 0.0) ** 2


class Cut(Messenger):
    """A Pyro handler that replaces each latent by a leaf of the graph.

    The rest of the guide and the model get the leaf. A relaxed one-of-K latent z is cut at log z,
    because the gradient in z overflows where z underflows.

    Attributes:
        drawn: each latent as it was drawn, by site, with its graph to the guide's parameters.
        leaves: the leaf of each latent, by site.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drawn: dict[str, Tensor] = {}
        self.leaves: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        name, z = msg["name"], msg["value"]
        # The model replays the guide's sites, which are cut already.
        if not is_latent(msg) or name in self.drawn:
            return
        log_z = exact_log(z)
        self.drawn[name] = z if log_z is None else log_z
        leaf = self.leaves[name] = self.drawn[name].detach().requires_grad_()
        msg["value"] = leaf if log_z is None else from_log(leaf)


def pull_back(leaves: Sequence[Tensor], draws: Sequence[Tensor], value: Tensor) -> Tensor:
    """A scalar whose gradient in the guide's parameters is that of ``value`` through the draws.

    Equation: Σ_l v_l · z_l, v_l = ∂value/∂z_l + Σ_m (∂z_m/∂z_l)ᵀ v_m over the z_m drawn after z_l.

    Args:
        leaves: the latents as leaves of the graph, in the order of drawing.
        draws: the same latents as they were drawn, with their graph to the guide's parameters.
        value: a function of the leaves.
    """
    v = list(torch.autograd.grad(value, leaves, retain_graph=True))
    surrogate = value.new_zeros(())
    for last in reversed(range(len(draws))):
        if not draws[last].requires_grad:
            continue
        surrogate = surrogate + (v[last] * draws[last]).sum()
        if last > 0:
            earlier = torch.autograd.grad(
                draws[last], leaves[:last], v[last], retain_graph=True, allow_unused=True
            )
            v[:last] = [a if b is None else a + b for a, b in zip(v, earlier, strict=False)]
    return surrogate


def log_mean(log_weight: Tensor) -> Tensor:
    """log of the mean of the weights over the draws, ``[K, *]`` -> ``[*]``."""
    return without_tiny(log_weight).logsumexp(0) - log(len(log_weight))


def without_tiny(log_weight: Tensor) -> Tensor:
    """The log weights ``[K, *]``, with -∞ for weights below e^-60 = 9e-27 of the largest.

    The rounding of the sum loses them in float64 too. Products with their gradients may be
    subnormal, and some processors take many times longer for matrices with such numbers.
    """
    least = log_weight.detach().amax(0) - 60.0
    return log_weight.masked_fill(log_weight < least, -inf)


def one_scale(terms: Terms) -> None:
    """Raise :class:`InputError` unless all sites have the same scale.

    A scale on one site would raise one factor of the weight p / q to a power, and the result would
    not be a weight.
    """
    for name, site in (*terms.sites.items(), *terms.p.items()):
        if not agree(site["scale"], terms.common):
            raise InputError(
                f"site {name!r} has the scale {show(site['scale'])} and others have "
                f"{show(terms.common)}; an importance-weighted bound needs one for all: drop the "
                "poutine.scale, or take the beta objective"
            )

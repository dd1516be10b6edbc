"""What objectives are made of: for each image, log p(x | z) and one KL for every latent site.

Pyro sums these up at once. :class:`PerImage` keeps them apart, so that an objective can weigh a
KL, hold it above a floor, or put K draws of one image under a logarithm. It takes any model and
guide, ours or the user's, whose sites all lie in one plate of images.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer import Trace_ELBO
from pyro.poutine import Trace
from torch import Tensor

from ..contracts import Objective
from ..errors import InputError
from ..latents import is_latent
from ..registry import at_least_one, lookup
from .checks import PLAIN, check_order, check_sides, infer, plates
from .divergences import KLS, family, monte_carlo


class Checked(Objective):
    """A Pyro ELBO that refuses programs whose bound would be wrong in silence.

    Args:
        num_particles: draws of z for each image, K; all are made at once.

    Raises:
        InputError: at a call, latent sites, scales or masks of the model that are not the guide's.
    """

    def __init__(self, num_particles: int = 1) -> None:
        at_least_one("num_particles", num_particles)
        super().__init__(num_particles, vectorize_particles=num_particles > 1)

    def _guess_max_plate_nesting(self, model: Any, guide: Any, args: Any, kwargs: Any) -> None:
        # As Pyro does it, but no later draw depends on whether it was done.
        with torch.random.fork_rng(), torch.no_grad(), poutine.block():
            q = poutine.trace(guide).get_trace(*args, **kwargs)
            p = poutine.trace(poutine.replay(model, trace=q)).get_trace(*args, **kwargs)
        sites = [s for s in (*q.nodes.values(), *p.nodes.values()) if s["type"] == "sample"]
        deepest = max((-dim for site in sites for dim in plates(site)), default=0)
        self.max_plate_nesting = deepest + self.vectorize_particles

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        traces = super()._get_trace(model, guide, args, kwargs)  # type: ignore[safe-super]
        check_sides(*traces)
        return traces

    @torch.no_grad()
    def elbo(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The plain ELBO of each image, ``[B]`` nats, whatever this objective minimises: β = 1, no
        schedule and no ``poutine.scale``; one draw of z for each particle."""
        plain = Drawn(self.num_particles)
        ((p, q),) = plain._get_traces(model, drawing(guide), args, kwargs)
        return Terms(p, q, self.num_particles, scaled=False).log_weight.mean(0)


class Drawn(Checked, Trace_ELBO):
    """Base of the objectives whose latents are drawn."""


def drawing(guide: Any) -> Any:
    """The guide with its discrete sites drawn, and not enumerated."""
    mark: Any = {"enumerate": None}
    return poutine.infer_config(guide, lambda site: mark)


class Terms:
    """The bound in parts, each ``[K, B]`` nats for K draws and B images.

    Attributes:
        log_likelihood: log p(x | z), over all observed sites.
        log_q, log_p: log q(z | x) and log p(z) at the draws, by latent site; the guide's auxiliary
            sites have no log p.
        q, p: Pyro's records of these sites.
        scale: what multiplies an image's whole loss (``poutine.scale``, a subsampled plate): that
            of the first observed site, a number or ``[K, B]``. What the scale of another site has
            beyond it stays with that site's terms.

    Args:
        model, guide: traces of one run, as Pyro's ELBOs make them.
        particles: K.
        scaled: False leaves all scales out.

    Raises:
        InputError: a site outside the plate of images.
    """

    def __init__(self, model: Trace, guide: Trace, particles: int, scaled: bool = True) -> None:
        self.particles, self.scaled = particles, scaled
        p: dict[str, Any] = model.nodes
        self.q: dict[str, Any] = {n: site for n, site in guide.nodes.items() if is_latent(site)}
        self.p = {n: site for n, site in p.items() if n in self.q}
        seen = {n: p[n] for n in model.observation_nodes if not infer(p[n], "_deterministic")}
        if not seen:
            raise InputError("the model observes nothing, so that there is no bound on log p(x)")
        self.sites = {**seen, **self.q}
        first = next(iter(self.sites))
        self.dims = plates(self.sites[first])
        for name, site in (*self.sites.items(), *self.p.items()):
            self.dims = self.dims & plates(site)
            if not self.dims:
                raise InputError(
                    f"site {name!r} lies outside the plate of images, so that an image has no "
                    "bound of its own; put it inside, or take the monte-carlo objective"
                )
        self.common = self.sites[first]["scale"]
        self.scale: Any = self.common if scaled else 1.0
        if isinstance(self.scale, Tensor) and self.scale.dim() > 0:
            if plates(self.sites[first]) != self.dims:
                raise InputError(
                    f"the scale of site {first!r} is one number, or one for each image"
                )
            shape = self.sites[first]["unscaled_log_prob"].shape
            self.scale = self.scale.expand(shape).reshape(particles, -1)  # [K, B]
        likelihoods = [self.log_prob(site) for site in seen.values()]
        self.log_q = {name: self.log_prob(site) for name, site in self.q.items()}
        self.log_p = {name: self.log_prob(site) for name, site in self.p.items()}
        self.log_likelihood: Tensor = sum(likelihoods[1:], likelihoods[0])

    def log_prob(self, site: Any) -> Tensor:
        return self.per_image(scale_and_mask(site["unscaled_log_prob"], mask=site["mask"]), site)

    def per_image(self, value: Tensor, site: Any) -> Tensor:
        """Sum a value with the plates of ``site`` to one for each image, ``[K, B]``."""
        own, tensors = site["scale"], isinstance(site["scale"], Tensor)
        if self.scaled and own is not self.common and (tensors or own != self.common):
            value = value * (own / self.common)
        for dim in plates(site) - self.dims:
            value = value.sum(dim, keepdim=True)
        return value.reshape(self.particles, -1)

    def alone(self, objective: str) -> tuple[str, Any, Any]:
        """The name of the only latent site, and Pyro's records of it in the guide and the model;
        one draw of a vector for each image."""
        (name, q), *others = self.q.items()
        if others or self.p.keys() != self.q.keys():
            raise InputError(f"{objective} is for one latent site; these are {', '.join(self.q)}")
        vectors = len(q["fn"].batch_shape) == q["fn"].event_dim == 1
        if not vectors or q["mask"] is not None:
            raise InputError(
                f"{objective} is for a latent that is one vector for each image, in a plate at dim "
                f"-1 and with no mask; site {name!r} is another"
            )
        return name, q, self.p[name]

    @property
    def log_weight(self) -> Tensor:
        """log p(x, z) - log q(z | x), ``[K, B]``."""
        return self.log_likelihood + sum(self.log_p.values()) - sum(self.log_q.values())


class PerImage(Drawn):
    """Base of the objectives that look at each image's log-likelihood and KL on their own.

    Equation: loss = Σ_b mean_k [Σ_sites KL_kb - log p(x_b | z_kb)].

    A subclass gives another :meth:`loss_per_image`.

    Args:
        num_particles: draws of z for each image, K.
        kl: how a site's KL is had: ``monte-carlo`` (log q - log p at the draws: any pair of
            distributions), ``analytic`` (torch's table of divergences) or ``closed-form`` (a
            mean-field Normal to the standard Normal).

    Raises:
        InputError: at a call, also draws that carry no gradient, and a KL that is not to be had.
    """

    def __init__(self, num_particles: int = 1, kl: str = "monte-carlo") -> None:
        super().__init__(num_particles)
        self.divergence = lookup("kl", kl, KLS)

    def loss_per_image(self, terms: Terms) -> Tensor:
        """The loss of each image, ``[K, B]`` or ``[B]``."""
        return sum(self.kls(terms).values()) - terms.log_likelihood

    def kls(self, terms: Terms) -> dict[str, Tensor]:
        """The KL of each latent site, ``[K, B]``."""
        return {
            name: terms.per_image(self.kl(name, terms.p.get(name), q), q)
            for name, q in terms.q.items()
        }

    def kl(self, name: str, p: Any, q: Any) -> Tensor:
        """KL(q || p) of a site, with the shape of its plates, from Pyro's two records of it."""
        if p is None and self.divergence is not monte_carlo:
            raise InputError(
                f"the guide's auxiliary site {name!r} has no KL in closed form; {PLAIN}"
            )
        return scale_and_mask(self.divergence(name, p, q), mask=q["mask"])

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        terms = self.terms(model, guide, args, kwargs)
        for name, site in terms.q.items():
            if not is_identically_zero(site["score_parts"].score_function):
                raise InputError(
                    f"the draws of {family(site['fn'])} at site {name!r} carry no gradient; take "
                    "the enumerate objective if they are discrete, or monte-carlo, which has "
                    "Pyro's score-function gradient"
                )
        if self.divergence is not monte_carlo:
            check_order(terms.q, terms.p)
        return self.total(terms)

    def terms(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Terms:
        """Run guide and model once, with all draws at once, and take the bound apart."""
        ((p, q),) = self._get_traces(model, guide, args, kwargs)
        return Terms(p, q, self.num_particles)

    def total(self, terms: Any) -> Tensor:
        """The loss of the batch."""
        return (terms.scale * self.loss_per_image(terms)).sum(-1).mean()

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return loss.item()

    @torch.no_grad()
    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        return self.differentiable_loss(model, guide, *args, **kwargs).item()

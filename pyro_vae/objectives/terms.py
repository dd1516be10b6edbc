"""The terms of the objectives: log p(x | z) and the KL of each latent site, for each image.

Pyro's ELBOs add these terms up at once. :class:`PerImage` keeps them separate. So an objective can
multiply a KL by a weight, give it a floor, or take the log of the mean over K draws of an image. It
works with any model and guide whose sites are all inside one plate of images.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro import poutine
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer import Trace_ELBO
from pyro.poutine import Trace
from torch import Tensor

from ..contracts import Objective
from ..errors import InputError
from ..labels import LabelPosterior
from ..latents import infer, is_latent
from ..options import at_least_one
from ..registry import lookup
from ..sharing import AcrossRows
from .checks import PLAIN, check_order, check_sides, leading_told, plates
from .divergences import KLS, family, monte_carlo


class Checked(Objective):
    """A Pyro ELBO that raises an error if model and guide would give a wrong bound.

    Args:
        num_particles: draws of z for each image, K. All draws are made in one pass.

    Raises:
        InputError: at a call, if the latent sites, the scales or the masks of the model differ
            from those of the guide.
    """

    per_image: ClassVar[bool] = True
    """Whether the loss is a sum over images. Then the loss of a batch is the sum of the losses of
    its images."""
    across_ranks: ClassVar[bool] = False
    """Of a loss that is not a sum over images: whether several processes can share a batch, because
    the objective sees the images of all of them through ``self.batch``."""
    one_vector: ClassVar[bool] = False
    """Whether the objective is for one latent site that is one vector for each image."""

    def __init__(self, num_particles: int = 1) -> None:
        at_least_one("num_particles", num_particles)
        super().__init__(num_particles, vectorize_particles=num_particles > 1)

    def _guess_max_plate_nesting(self, model: Any, guide: Any, args: Any, kwargs: Any) -> None:
        # Pyro does the same, but it does not restore the state of the random numbers.
        with torch.random.fork_rng(), torch.no_grad(), poutine.block():
            q = poutine.trace(guide).get_trace(*args, **kwargs)
            p = poutine.trace(poutine.replay(model, trace=q)).get_trace(*args, **kwargs)
        sites = [s for s in (*q.nodes.values(), *p.nodes.values()) if s["type"] == "sample"]
        deepest = max((-dim for site in sites for dim in plates(site)), default=0)
        self.max_plate_nesting = deepest + self.vectorize_particles

    def _get_traces(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        with leading_told(model, guide, args, kwargs):
            yield from super()._get_traces(model, guide, args, kwargs)

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        traces = super()._get_trace(model, guide, args, kwargs)  # type: ignore[safe-super]
        check_sides(*traces)
        return traces

    @torch.no_grad()
    def elbo(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The plain ELBO of each image, ``[B]`` nats, for every objective.

        It has β = 1, no schedule and no ``poutine.scale``, and one draw of z for each particle.
        """
        plain = Drawn(self.num_particles)
        ((p, q),) = plain._get_traces(model, drawing(guide), args, kwargs)
        return Terms(p, q, self.num_particles, scaled=False).log_weight.mean(0)


class Drawn(Checked, Trace_ELBO):
    """Base of the objectives that draw all latents."""


def drawing(guide: Any) -> Any:
    """The guide with its discrete sites drawn instead of enumerated."""
    mark: Any = {"enumerate": None}
    return poutine.infer_config(guide, lambda site: mark)


class Terms:
    """The terms of the bound for K draws and B images, in nats.

    Attributes:
        log_likelihood: log p(x | z), over all observed sites, ``[K, B]``.
        log_q, log_p: log q(z | x) and log p(z) at the draws, ``[K, B]``, by latent site. An
            auxiliary site of the guide has only log q.
        q, p: Pyro's records of these sites in guide and model.
        sites: Pyro's records of the observed sites in the model and of the latents in the guide.
        dims: the dims of the plates that all sites are in.
        common: the scale of the first observed site, as Pyro has it (``poutine.scale``, a
            subsampled plate). If another site has another scale, the ratio of the two multiplies
            only the terms of that site.
        scale: the factor of the whole loss of an image, a number or ``[K, B]``: ``common``, or 1 if
            ``scaled`` is False.

    Args:
        model, guide: the traces of one run, as Pyro's ELBOs make them.
        particles: the number of draws K.
        scaled: False ignores all scales.

    Raises:
        InputError: a site outside the plate of images, or a model without an observed site.
    """

    def __init__(self, model: Trace, guide: Trace, particles: int, scaled: bool = True) -> None:
        self.particles, self.scaled = particles, scaled
        p: dict[str, Any] = model.nodes
        self.q: dict[str, Any] = {n: site for n, site in guide.nodes.items() if is_latent(site)}
        self.p = {n: site for n, site in p.items() if n in self.q}
        seen = {n: p[n] for n in model.observation_nodes if not infer(p[n], "_deterministic")}
        if not seen:
            raise InputError("the model has no observed site, so that log p(x) has no bound")
        self.sites = {**seen, **self.q}
        first = next(iter(self.sites))
        self.dims = plates(self.sites[first])
        for name, site in (*self.sites.items(), *self.p.items()):
            self.dims = self.dims & plates(site)
            if not self.dims:
                raise InputError(
                    f"site {name!r} lies outside the plate of images, so that an image does not "
                    "have a bound of its own; move the site inside, or take the monte-carlo "
                    "objective"
                )
        self.common = self.sites[first]["scale"]
        self.scale: Any = self.common if scaled else 1.0
        if isinstance(self.scale, Tensor) and self.scale.dim() > 0:
            if plates(self.sites[first]) != self.dims:
                raise InputError(
                    f"the scale of site {first!r} has the shape {list(self.scale.shape)}; it must "
                    "be one number, or one number for each image"
                )
            shape = self.sites[first]["unscaled_log_prob"].shape
            self.scale = self.scale.expand(shape).reshape(particles, -1)  # [K, B]
        likelihoods = [self.log_prob(site) for site in seen.values()]
        self.log_q = {name: self.log_prob(site) for name, site in self.q.items()}
        self.log_p = {name: self.log_prob(site) for name, site in self.p.items()}
        self.log_likelihood: Tensor = sum(likelihoods[1:], likelihoods[0])

    def log_prob(self, site: Any) -> Tensor:
        """The log_prob of a site, ``[K, B]``, with its mask and without the common scale."""
        return self.per_image(scale_and_mask(site["unscaled_log_prob"], mask=site["mask"]), site)

    def per_image(self, value: Tensor, site: Any) -> Tensor:
        """Sum ``value``, which has the plates of ``site``, to one number for each image.

        Returns:
            ``[K, B]``.
        """
        own, tensors = site["scale"], isinstance(site["scale"], Tensor)
        if self.scaled and own is not self.common and (tensors or own != self.common):
            value = value * (own / self.common)
        for dim in plates(site) - self.dims:
            value = value.sum(dim, keepdim=True)
        return value.reshape(self.particles, -1)

    def alone(self, objective: str) -> tuple[str, Any, Any]:
        """The name of the only latent site, and Pyro's records of it in guide and model.

        Raises:
            InputError: several latent sites, or a site that is not one vector for each image.
        """
        (name, q), *others = self.q.items()
        if others or self.p.keys() != self.q.keys():
            raise InputError(f"{objective} is for one latent site; these are {', '.join(self.q)}")
        vectors = len(q["fn"].batch_shape) == q["fn"].event_dim == 1
        if not vectors or q["mask"] is not None:
            raise InputError(
                f"{objective} is for a latent that is one vector for each image, in a plate at dim "
                f"-1 and with no mask; site {name!r} is different"
            )
        return name, q, self.p[name]

    @property
    def log_weight(self) -> Tensor:
        """log p(x, z) - log q(z | x), ``[K, B]``."""
        return self.log_likelihood + sum(self.log_p.values()) - sum(self.log_q.values())


class PerImage(AcrossRows, Drawn):
    """Base of the objectives that are computed from the log-likelihood and the KL of each image.

    Equation: loss = Σ_b mean_k [Σ_sites KL_kb - log p(x_b | z_kb)].

    A subclass overrides :meth:`loss_per_image`. If its loss is not a sum over images, it also sets
    ``per_image = False``. The terms hold the images of this process, so such an objective computes
    what belongs to the whole batch from ``self.batch.whole(term)``.

    Args:
        num_particles: draws of z for each image, K.
        kl: how the KL of a site is computed. ``monte-carlo`` is log q - log p at the draws, for any
            pair of distributions. ``analytic`` takes torch's table of divergences.
            ``closed-form`` is the formula for a mean-field Normal and the standard Normal.

    Raises:
        InputError: an unknown ``kl``; at a call, the errors of :class:`Checked`, draws without a
            gradient, or a KL without a closed form.
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
        """KL(q || p) of a site, from its records in model and guide; the shape of its plates."""
        if p is None and self.divergence is not monte_carlo:
            raise InputError(
                f"the auxiliary site {name!r} of the guide has no KL in closed form; {PLAIN}"
            )
        return scale_and_mask(self.divergence(name, p, q), mask=q["mask"])

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        terms = self.terms(model, guide, args, kwargs)
        for name, site in terms.q.items():
            if not is_identically_zero(site["score_parts"].score_function):
                fitting = (
                    "the objective m2, which sums labels out"
                    if isinstance(site["fn"], LabelPosterior)
                    else "the enumerate objective if they are discrete, or monte-carlo, which has "
                    "Pyro's score-function gradient"
                )
                raise InputError(
                    f"the draws of {family(site['fn'])} at site {name!r} carry no gradient; take "
                    f"{fitting}"
                )
        if self.divergence is not monte_carlo:
            check_order(terms.q, terms.p)
        return self.total(terms)

    def terms(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Terms:
        """Run guide and model once, with all draws in one pass, and give the terms of the bound."""
        ((p, q),) = self._get_traces(model, guide, args, kwargs)
        return Terms(p, q, self.num_particles)

    def total(self, terms: Any) -> Tensor:
        """The loss of the batch."""
        loss = self.loss_per_image(terms)
        images = terms.log_likelihood.shape[-1]
        fits = isinstance(loss, Tensor) and loss.dim() in (1, 2) and loss.shape[-1] == images
        if not fits:
            given = list(loss.shape) if isinstance(loss, Tensor) else repr(loss)
            raise InputError(
                f"loss_per_image of {type(self).__name__} gives {given}; it must give one loss for "
                f"each image, [{images}], or for each draw and image, [K, {images}]"
            )
        return (terms.scale * loss).sum(-1).mean()

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return loss.item()

    @torch.no_grad()
    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        return self.differentiable_loss(model, guide, *args, **kwargs).item()

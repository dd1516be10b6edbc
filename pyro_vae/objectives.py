"""Objectives: what SVI minimises. All are Pyro ELBOs, and go wherever ``Trace_ELBO()`` goes.

A loss is the sum over the batch's images of minus a bound on log p(x), in nats. ``monte-carlo`` is
Pyro's own ``Trace_ELBO``; the others share :class:`PerImage`, which splits the bound into what
Pyro sums up at once: one log-likelihood and one KL for each image and latent site.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.infer import ELBO, Trace_ELBO
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from .parts import InputError
from .vae import is_latent


class PerImage(Trace_ELBO):
    """Base of the objectives that look at each image's log-likelihood and KL on their own.

    Equation: loss = Σ_b mean_k [Σ_sites KL_kb - log p(x_b | z_kb)].

    A subclass says what a site's KL is and, if need be, how the terms make a loss.

    Args:
        num_particles: draws of z for each image, K; all are made at once.
    """

    def __init__(self, num_particles: int = 1) -> None:
        super().__init__(num_particles, max_plate_nesting=1, vectorize_particles=True)

    def kl(self, name: str, p: Any, q: Any) -> Tensor:
        """KL(q || p) of one latent site for each image, ``[B]`` or ``[K, B]``, from the two
        programs' records of the site."""
        return q["log_prob"] - p["log_prob"]

    def loss_per_image(self, log_likelihood: Tensor, kl: dict[str, Tensor]) -> Tensor:
        """The loss of each image, ``[B]`` or ``[K, B]``, from its terms."""
        return sum(kl.values()) - log_likelihood

    def terms(self, model: Trace, guide: Trace) -> tuple[Tensor, dict[str, Tensor]]:
        """log p(x | z), ``[B]`` or ``[K, B]``, and the KL of each latent site, likewise."""
        log_likelihood: Any = sum(model.nodes[name]["log_prob"] for name in model.observation_nodes)
        kl = {
            name: self.kl(name, model.nodes[name], site)
            for name, site in guide.nodes.items()
            if is_latent(site)
        }
        return log_likelihood, kl

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        (traces,) = self._get_traces(model, guide, args, kwargs)
        loss = self.loss_per_image(*self.terms(*traces))
        return loss.sum(-1).mean()

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return loss.item()

    @torch.no_grad()
    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        return self.differentiable_loss(model, guide, *args, **kwargs).item()


class AnalyticKL(PerImage):
    """The ELBO with each KL in closed form, by torch's table of divergences.

    Equation: loss = Σ_b KL(q(z | x_b) || p(z)) - log p(x_b | z_b), as ``TraceMeanField_ELBO``.

    Where torch knows no closed form, ``TraceMeanField_ELBO`` goes on with an estimate and says
    nothing; this one refuses.

    Args:
        num_particles: draws of z for each image, K.

    Raises:
        InputError: there is no closed form for the pair of distributions at a site.

    Paper: Kingma & Welling 2014, Auto-Encoding Variational Bayes, equation 7.

    Example:
        >>> SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=AnalyticKL())
    """

    def kl(self, name: str, p: Any, q: Any) -> Tensor:
        try:
            return kl_divergence(q["fn"], p["fn"])
        except NotImplementedError:
            raise InputError(
                f"there is no closed-form KL({family(q['fn'])} || {family(p['fn'])}) at site "
                f"{name!r}; take the monte-carlo objective"
            ) from None


class ClosedForm(PerImage):
    """The ELBO with the KL of a Normal to the standard Normal written out by hand.

    Equation: loss = Σ_b -½ Σ_d (1 + log σ²_bd - μ²_bd - σ²_bd) - log p(x_b | z_b).

    Args:
        num_particles: draws of z for each image, K.

    Raises:
        InputError: a guide that is no mean-field Normal, or a prior that is no standard Normal.

    Paper: Kingma & Welling 2014, Auto-Encoding Variational Bayes, appendix B.

    Example:
        >>> SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=ClosedForm())
    """

    def kl(self, name: str, p: Any, q: Any) -> Tensor:
        prior, posterior = base(p["fn"]), base(q["fn"])
        if not (isinstance(prior, Normal) and isinstance(posterior, Normal)):
            raise InputError(
                f"the closed form is that of a mean-field Normal to the standard Normal; site "
                f"{name!r} has {family(q['fn'])} and {family(p['fn'])}: take the monte-carlo "
                "objective"
            )
        if is_validation_enabled() and not ((prior.loc == 0) & (prior.scale == 1)).all():
            raise InputError(
                f"the closed form is that of a mean-field Normal to the standard Normal, and the "
                f"prior at site {name!r} has other moments: take the analytic objective"
            )
        mu, logvar = posterior.loc, 2 * posterior.scale.log()  # each [*, B, Z]
        return -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(-1)


def base(fn: Any) -> Any:
    """The distribution inside ``to_event``."""
    return fn.base_dist if isinstance(fn, Independent) else fn


def family(fn: Any) -> str:
    return type(base(fn)).__name__


OBJECTIVES: dict[str, type[ELBO]] = {
    "monte-carlo": Trace_ELBO,
    "analytic": AnalyticKL,
    "closed-form": ClosedForm,
}

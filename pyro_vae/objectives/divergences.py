"""The KL of one latent site, KL(q || p), from Pyro's records of the site in guide and model."""

from __future__ import annotations

from typing import Any

from pyro.distributions.util import sum_rightmost
from pyro.infer.util import is_validation_enabled
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from ..errors import InputError
from .checks import PLAIN


def monte_carlo(name: str, p: Any, q: Any) -> Tensor:
    """log q(z) - log p(z) at the draw."""
    return q["unscaled_log_prob"] - (0 if p is None else p["unscaled_log_prob"])


def analytic(name: str, p: Any, q: Any) -> Tensor:
    """KL(q || p) from torch's table of divergences, which Pyro and this library extend."""
    try:
        return kl_divergence(q["fn"], p["fn"])
    except NotImplementedError:
        raise InputError(
            f"there is no closed-form KL({family(q['fn'])} || {family(p['fn'])}) at site {name!r}; "
            f"{PLAIN}"
        ) from None


def closed_form(name: str, p: Any, q: Any) -> Tensor:
    """KL(N(μ, σ²) || N(0, 1)), as an explicit formula."""
    prior, posterior = base(p["fn"]), base(q["fn"])
    if not (isinstance(prior, Normal) and isinstance(posterior, Normal)):
        raise InputError(
            "the closed form is that of a mean-field Normal to the standard Normal; site "
            f"{name!r} has {family(q['fn'])} and {family(p['fn'])}: {PLAIN}"
        )
    if is_validation_enabled() and not ((prior.loc == 0) & (prior.scale == 1)).all():
        raise InputError(
            "the closed form is that of a mean-field Normal to the standard Normal, and the prior "
            f"at site {name!r} has other moments: take the analytic objective, or kl='analytic'"
        )
    mu, variance = posterior.loc, posterior.scale**2  # each [*, B, Z]
    units = -0.5 * (1 + variance.log() - mu**2 - variance)
    return sum_rightmost(units, q["fn"].event_dim)


KLS = {"monte-carlo": monte_carlo, "analytic": analytic, "closed-form": closed_form}


def by_unit(name: str, site: Any) -> dict[str, Any]:
    """Pyro's record of a latent site with one log_prob for each unit, ``[*, B, Z]``."""
    fn = site["fn"]
    if site["mask"] is not None:
        raise InputError(
            f"site {name!r} has a mask for the whole site, not for each unit; take whole sites"
        )
    if not isinstance(fn, Independent):
        raise InputError(
            f"site {name!r} has {family(fn)}, whose dimensions are not independent, so that a "
            "dimension does not have a KL of its own; take whole sites"
        )
    log_prob = fn.base_dist.log_prob(site["value"])
    return {**site, "fn": fn.base_dist, "unscaled_log_prob": log_prob}


def base(fn: Any) -> Any:
    """The distribution inside ``to_event``."""
    return fn.base_dist if isinstance(fn, Independent) else fn


def family(fn: Any) -> str:
    """The name of a distribution's class, for messages."""
    return type(base(fn)).__name__

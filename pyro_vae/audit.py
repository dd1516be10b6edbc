"""The audit: the sites of a model and a guide in one table, and checks of an objective."""

from __future__ import annotations

from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import RenyiELBO, TraceMeanField_ELBO
from rich.table import Table
from torch import Tensor

from .contracts import Objective
from .errors import InputError
from .latents import infer, is_latent
from .objectives.checks import check_draws, check_order, show
from .objectives.divergences import analytic, family
from .objectives.terms import Drawn, Terms, drawing


@dataclass(frozen=True)
class Site:
    """A row of the audit: one site. Numbers are nats per image, without any scale.

    Attributes:
        name: the name of the site.
        latent: whether the site is latent. Otherwise it is observed.
        p, q: the distributions in the model and in the guide; "" if that program does not have the
            site.
        batch_shape, event_shape: the shapes of the model's distribution; if the model does not have
            the site, those of the guide's distribution.
        log_p, log_q: log densities at the guide's draw; None if that program does not have the
            site.
        kl: KL(q || p); None for an observed site.
        analytic: whether ``kl`` is in closed form. Otherwise it is log q - log p at the draw.
        scale_p, scale_q: the scale of the site, from ``poutine.scale`` and subsampled plates.
    """

    name: str
    latent: bool
    p: str
    q: str
    batch_shape: tuple[int, ...]
    event_shape: tuple[int, ...]
    log_p: float | None
    log_q: float | None
    kl: float | None
    analytic: bool
    scale_p: str
    scale_q: str


@torch.no_grad()
def audit(model: Any, *args: Any, objective: Any = None, **kwargs: Any) -> list[Site]:
    """Run the guide and the model once, and describe every site.

    Args:
        model: a VAE or another pair of programs
            (:class:`~pyro_vae.evaluation.scoring.Programs`); or a Pyro model, followed by its
            guide.
        args, kwargs: the arguments of the two programs.
        objective: an ELBO, ours or one of Pyro's, that is checked on the programs.

    Returns:
        a row for each site: first the latent sites in the order of the guide, then the observed
        ones. :func:`table` shows them.

    Raises:
        InputError: model and guide differ in their latent sites, or in the scale or mask of a site.
            With an objective, also what the objective refuses, and two mistakes that Pyro accepts:
            ``TraceMeanField_ELBO`` where the KL has no closed form or the two programs draw their
            sites in different orders; ``RenyiELBO`` with a site outside the plate of images or with
            a scale, so that the result is not a bound on log p(x).

    Example:
        >>> from pyro_vae.audit import audit
        >>> [site.name for site in audit(VAE((1, 28, 28), latent_size=2), x)]
        ['z', 'x']
    """
    inside = [getattr(model, name, None) for name in ("model", "guide")]
    if all(map(callable, inside)):
        model, guide = inside
    elif args and callable(args[0]):
        guide, *args = args  # type: ignore[assignment]
    else:
        raise InputError("audit takes a VAE, or a model and its guide, followed by their arguments")
    if objective is not None:
        check_draws(objective, model, args)
    with pyro.validation_enabled():
        ((p_trace, q_trace),) = Drawn()._get_traces(model, drawing(guide), args, kwargs)
        if objective is not None:
            check_objective(objective, p_trace, q_trace, model, guide, args, kwargs)
    p: dict[str, Any] = p_trace.nodes
    q: dict[str, Any] = {n: site for n, site in q_trace.nodes.items() if is_latent(site)}
    seen = [n for n in p_trace.observation_nodes if not infer(p[n], "_deterministic")]
    frames = [f for n in seen for f in p[n]["cond_indep_stack"] if f.vectorized]
    images = min(frames, key=lambda f: f.dim).size if frames else 1
    in_order = [n for n in p if n in q] == [n for n in q if n in p]
    return [
        *(describe(name, p.get(name), site, images, in_order) for name, site in q.items()),
        *(describe(name, p[name], None, images, in_order) for name in seen),
    ]


def describe(name: str, p: Any, q: Any, images: int, in_order: bool) -> Site:
    """The row of a site, from its records ``p`` in the model and ``q`` in the guide."""

    def mean(value: Tensor) -> float:
        return (scale_and_mask(value, mask=(p or q)["mask"]).sum() / images).item()

    log_p, log_q = (mean(side["unscaled_log_prob"]) if side else None for side in (p, q))
    kl, closed = None, False
    if q:
        kl = (log_q or 0.0) - (log_p or 0.0)
        if p and in_order:
            with suppress(InputError):
                kl, closed = mean(analytic(name, p, q)), True
    fn = (p or q)["fn"]
    return Site(
        name,
        latent=q is not None,
        p=family(p["fn"]) if p else "",
        q=family(q["fn"]) if q else "",
        batch_shape=tuple(fn.batch_shape),
        event_shape=tuple(fn.event_shape),
        log_p=log_p,
        log_q=log_q,
        kl=kl,
        analytic=closed,
        scale_p=show(p["scale"]) if p else "",
        scale_q=show(q["scale"]) if q else "",
    )


def check_objective(
    objective: Any, p: Any, q: Any, model: Any, guide: Any, args: Any, kwargs: Any
) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` if the objective does not fit the programs."""
    if isinstance(objective, TraceMeanField_ELBO):
        terms = Terms(p, q, 1)
        check_order(terms.q, terms.p)
        for name, site in terms.q.items():
            if name in terms.p:
                analytic(name, terms.p[name], site)
    if isinstance(objective, RenyiELBO):
        terms = Terms(p, q, 1)
        for name, site in terms.sites.items():
            if not torch.all(torch.as_tensor(site["scale"]) == 1):
                raise InputError(
                    f"site {name!r} has the scale {show(site['scale'])}, which RenyiELBO applies "
                    "inside the logarithm of the weights; use the iwae objective"
                )
    objective = deepcopy(objective)  # so that the user's own is not advanced
    if (advance := Objective.schedule_of(objective)) is not None:
        advance(0.0)
    objective.loss(model, guide, *args, **kwargs)


def table(sites: list[Site]) -> Table:
    """The rows of an audit as a table for a terminal or a notebook, in nats per image."""
    columns = ("site", "kind", "p", "q", "batch", "event", "log p", "log q", "KL", "scales")
    shown = Table(
        *columns, title="nats per image, without the scales", box=None, padding=(0, 1, 0, 0)
    )
    for site in sites:
        log_p, log_q, kl = (
            "" if v is None else f"{v:.2f}" for v in (site.log_p, site.log_q, site.kl)
        )
        how = "" if not site.latent else " analytic" if site.analytic else " estimate"
        shown.add_row(
            site.name,
            "latent" if site.latent else "observed",
            site.p,
            site.q,
            "x".join(map(str, site.batch_shape)),
            "x".join(map(str, site.event_shape)),
            log_p,
            log_q,
            kl + how,
            ", ".join(scale for scale in (site.scale_p, site.scale_q) if scale),
        )
    return shown

"""Latent sites: how a prior or a guide samples them, and whether the two fit each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from .parts import InputError


def draw(name: str, fn: Any) -> Any:
    """``pyro.sample``, marked for enumeration where the distribution has finitely many values."""
    if fn.has_enumerate_support:
        return pyro.sample(name, fn, infer={"enumerate": "parallel"})
    return pyro.sample(name, fn)


def together(tensors: Sequence[Tensor]) -> Tensor:
    """Vectors as one, ``[*, ΣF]``; some may lack the leading dimensions of others."""
    leading = torch.broadcast_shapes(*(t.shape[:-1] for t in tensors))
    return torch.cat([t.expand(*leading, -1) for t in tensors], -1)


def latents(part: Any) -> Any:
    """Sample a prior or a guide: a distribution is the one site "z"; a part of several sites has
    sampled them itself and gives their values."""
    return draw("z", part) if isinstance(part, torch.distributions.Distribution) else part


def is_latent(site: Any) -> bool:
    """Whether a site of a trace is a latent variable: sampled, not observed, no plate's own."""
    return (
        site["type"] == "sample"
        and not site["is_observed"]
        and type(site["fn"]).__name__ != "_Subsample"
    )


def fitting_prior(posterior: nn.Module) -> str:
    """The name of the prior that fits a guide."""
    return getattr(posterior, "default_prior", "standard-normal")


@torch.no_grad()
def fitting_objective(guide: nn.Module, x: Tensor) -> str:
    """The name of the objective that fits a guide: discrete latents, whose draws have no gradient,
    are summed out."""
    with torch.random.fork_rng():
        sites: Any = poutine.trace(guide).get_trace(x).nodes
    discrete = any((site.get("infer") or {}).get("enumerate") for site in sites.values())
    return "enumerate" if discrete else "monte-carlo"


@torch.no_grad()
def refuse_misfits(x: Tensor, posterior: nn.Module, prior: nn.Module) -> None:
    """Raise :class:`~pyro_vae.parts.InputError` unless prior and guide have the same latent sites,
    with events of the same shape, each accepting a draw of the other.

    Both are run once, for the one image ``x`` ``[1, C, H, W]``, and leave no mark: neither on the
    random numbers that follow nor on the statistics of batch normalization.
    """
    modes = [(module, module.training) for part in (posterior, prior) for module in part.modules()]
    for module, _ in modes:
        module.training = False
    devices = [x.device] if x.is_cuda else []
    try:
        with torch.random.fork_rng(devices=devices), pyro.plate("data", 1, dim=-1):
            q_sites = latent_sites(lambda: latents(posterior(x)))
            p_sites = latent_sites(lambda: latents(prior()))
    except InputError:
        return  # What a part has against this image it will say of the first real one.
    finally:
        for module, training in modes:
            module.training = training
    names = f"the guide {type(posterior).__name__} and the prior {type(prior).__name__}"
    fitting = f"the prior that fits is {fitting_prior(posterior)}"
    if q_sites.keys() != p_sites.keys():
        raise InputError(
            f"{names} do not fit: the guide has the latent sites {', '.join(q_sites)}, the prior "
            f"has {', '.join(p_sites)}; {fitting}"
        )
    for name, p_site in p_sites.items():
        p, q = p_site["fn"], q_sites[name]["fn"]
        if p.event_shape != q.event_shape:
            raise InputError(
                f"{names} do not fit: site {name!r} has the shape {list(q.event_shape)} in the "
                f"guide and {list(p.event_shape)} in the prior; {fitting}"
            )
        if not (scores(p, q_sites[name]["value"]) and scores(q, p_site["value"])):
            raise InputError(
                f"{names} do not fit: the one draws values of site {name!r} that the other cannot "
                f"score; {fitting}"
            )


def scores(fn: Any, z: Tensor) -> bool:
    """Whether ``z`` lies in the support of ``fn``; one that does not say its support takes all."""
    try:
        return bool(fn.support.check(z).all())
    except NotImplementedError:
        return True


def latent_sites(program: Any) -> dict[str, Any]:
    """The records of a program's latent sites by name, from one run of it."""
    nodes = poutine.trace(program).get_trace().nodes
    return {name: site for name, site in nodes.items() if is_latent(site)}

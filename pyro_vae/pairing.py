"""Whether a prior and a guide fit each other, and which objective fits a guide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from .contracts import NOTHING, ContractError, Given, Guide, Prior
from .errors import InputError
from .latents import in_support, is_latent
from .registry import parse


@torch.no_grad()
def fitting_objective(guide: Any, *args: Any, **kwargs: Any) -> str:
    """The name of the objective that fits a guide.

    Discrete latents are summed out by ``enumerate``, because their draws have no gradient. All
    other guides take ``monte-carlo``.

    Args:
        guide: a Pyro program.
        args, kwargs: what the program takes.
    """
    with torch.random.fork_rng():
        sites = latent_sites(lambda: guide(*args, **kwargs))
    discrete = any((site.get("infer") or {}).get("enumerate") for site in sites.values())
    return "enumerate" if discrete else "monte-carlo"


@torch.no_grad()
def refuse_misfits(
    x: Tensor, posterior: nn.Module, prior: nn.Module, given: Given = NOTHING
) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` unless prior and guide fit each other.

    They fit if they have the same latent sites, with events of the same shape, and if each
    accepts a draw of the other. Both run once, for the one observation ``x`` ``[1, *shape]``. The
    random numbers that follow and the statistics of batch normalization are not changed.
    """
    guide_part, prior_part = Guide.of(posterior), Prior.of(prior)
    modes = [(module, module.training) for part in (posterior, prior) for module in part.modules()]
    for module, _ in modes:
        module.training = False
    devices = [x.device] if x.is_cuda else []
    try:
        with torch.random.fork_rng(devices=devices), pyro.plate("data", 1, dim=-1):
            q_sites = latent_sites(lambda: guide_part.sample_sites(x, given))
            p_sites = latent_sites(lambda: prior_part.sample_sites(given))
    except ContractError:
        raise
    except InputError:
        return  # A part that rejects the dummy observation raises on real data.
    finally:
        for module, training in modes:
            module.training = training
    names = f"the guide {type(posterior).__name__} and the prior {type(prior).__name__}"
    fitting = f"the prior that fits is {parse(guide_part.default_prior)[0]}"
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
        if not (in_support(p, q_sites[name]["value"]) and in_support(q, p_site["value"])):
            raise InputError(
                f"{names} do not fit: a draw of site {name!r} by one of them is outside the "
                f"support of the other; {fitting}"
            )


def latent_sites(program: Callable[[], Any]) -> dict[str, Any]:
    """The records of a program's latent sites by name, from one run of the program."""
    nodes = poutine.trace(program).get_trace().nodes
    return {name: site for name, site in nodes.items() if is_latent(site)}

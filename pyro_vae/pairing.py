"""Whether a prior and a guide fit each other, and which parts fit the guide and the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import constraints
from torch import Tensor

from .batch import Batch
from .compiling import HANDLERS
from .contracts import NOTHING, ContractError, Given, Guide, Likelihood, Part, Prior
from .data.images import Images
from .errors import InputError
from .joining import beside
from .labels import LabelPosterior, target_posterior
from .latents import Sites, in_support, infer, innermost, is_latent, kind_of
from .modules import mode
from .parts import check_distribution
from .registry import parse
from .words import counted


def fitting_likelihood(images: Images) -> tuple[str, str]:
    """The name of the likelihood that fits data, and why, as the end of a sentence.

    Args:
        images: the training images or other observations, after their binarisation.
    """
    if images.schema is not None:
        return images.schema.likelihood, "each column of the table has that of its type"
    if images.binarize == "dynamic":
        return "bernoulli", "the pixels are drawn as 0 or 1"
    if images.is_binary:
        return "bernoulli", f"the {entries(images)} are 0 or 1"
    if images.pixels.dtype == torch.uint8:
        colour = "grey" if images.shape[0] == 1 else "brightness in each channel"
        return (
            "discretized-logistic",
            f"the pixels have {counted(images.levels(), 'level')} of {colour}",
        )
    if images.in_unit_interval:
        return "normal-learned", f"the {entries(images)} are real numbers in [0, 1]"
    if constraints.nonnegative_integer.check(images.pixels).all():
        return "negative-binomial", f"the {entries(images)} are counts, whole numbers of at least 0"
    return "student-t", f"the {entries(images)} are real numbers"


def entries(images: Images) -> str:
    """What the entries of observations are called: pixels in images."""
    return "pixels" if kind_of(images.shape) == "image" else "entries"


@torch.no_grad()
def fitting_objective(vae: Any, x: Any) -> str:
    """The name of the objective that fits a VAE's guide.

    Discrete latents are summed out by ``enumerate``, because their draws have no gradient. All
    other guides take ``monte-carlo``.

    Args:
        vae: a module with ``guide``, a Pyro program. It runs in evaluation mode, so that one image
            is enough and the statistics of batch normalization are not changed.
        x: one observation or more, a tensor ``[B, *shape]`` or a Batch.
    """
    rows = Batch.of(x)
    with HANDLERS, mode(False, vae), torch.random.fork_rng():
        return objective_of(latent_sites(lambda: vae.guide(*rows.args, **rows.named)))


def objective_of(sites: Sites) -> str:
    """The name of the objective that fits latent sites: ``m2`` if one is a label, ``m2-real`` if
    one is a real target, ``enumerate`` if one is to be summed out.

    Args:
        sites: the latent sites of the guide, or of both programs.
    """
    if any(isinstance(site["fn"], LabelPosterior) for site in sites.values()):
        return "m2"
    if any(target_posterior(site["fn"]) for site in sites.values()):
        return "m2-real"
    discrete = any(infer(site, "enumerate") for site in sites.values())
    return "enumerate" if discrete else "monte-carlo"


@torch.no_grad()
def refuse_misfits(x: Tensor, model: Any, guide: Any) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` unless the parts of two programs fit each other.

    All run once, for the two observations ``x`` ``[2, *shape]``, in evaluation mode. The random
    numbers that follow and the statistics of batch normalization are not changed. Prior and guide
    fit if they have the same latent sites, with events of the same shape, and if a draw of the
    guide lies in the support of the prior. A likelihood fits if its event has the shape of x.

    Args:
        x: the observations.
        model: a :class:`~pyro_vae.programs.ModelProgram`.
        guide: a :class:`~pyro_vae.programs.GuideProgram`.
    """
    likelihood = model.likelihood
    guide_part, prior_part = Guide.of(guide.posterior), Prior.of(model.prior)
    given, shown, z = NOTHING, x, None
    if model.condition is not None:
        given = Given(context=x.new_zeros(len(x), model.condition.size))
    if guide.seen is not None:
        shown = guide.seen(x, None, given.context)
        given = replace(given, observations=x)
    devices = [x.device] if x.is_cuda else []
    with (
        HANDLERS,
        mode(False, guide.posterior, model.prior, likelihood),
        torch.random.fork_rng(devices=devices),
        pyro.plate("data", len(x), dim=-1),
    ):
        q_sites = attempt(
            guide_part, lambda: sites_of(lambda: guide_part.sample_sites(shown, given))
        )
        if q_sites is None:
            return

        def draw() -> None:
            nonlocal z
            z = prior_part.sample_sites(given)

        p_sites = attempt(prior_part, lambda: sites_of(draw))
        if p_sites is None:
            return
        check_sites(q_sites, p_sites, guide_part, prior_part)
        part = Likelihood.of(likelihood)
        weight = next(likelihood.parameters(), None)
        if z is not None and weight is not None:
            z = z.to(weight.dtype)  # the VAE may be moved to one type later, by .double()
        if z is not None and model.joined and given.context is not None:
            z = beside(z, given.context)
        fn = attempt(part, lambda: part.run(z, given=given))
    if fn is not None:
        check_distribution(part, fn, "x")
        batch, event = tuple(fn.batch_shape), tuple(fn.event_shape)
        if event != tuple(x.shape[1:]) or batch != (len(x),):
            raise ContractError(
                f"the likelihood {part.name()} gives a distribution of batch shape {list(batch)} "
                f"and event shape {list(event)} for {len(x)} images; it must be [{len(x)}] and "
                f"{list(x.shape[1:])}: the decoder's output has the shape of x, and "
                f".to_event({x.dim() - 1}) makes the entries of x one event"
            )


def attempt(part: Part, compute: Callable[[], Any]) -> Any:
    """The result of a trial run; None if the part refuses the dummy observations.

    A part that rejects the dummy observations raises on real data.

    Raises:
        InputError: the part does not meet its contract, or its code fails.
    """
    try:
        return compute()
    except ContractError:
        raise
    except InputError:
        return None
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"a trial run of {part.name()} on two images failed with a {type(error).__name__}: "
            f"{reason}"
        ) from error


def check_sites(q_sites: Sites, p_sites: Sites, guide: Guide, prior: Prior) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` unless both have the same latent sites."""
    names = f"the guide {guide.name()} and the prior {prior.name()}"
    fitting = f"the prior that fits is {parse(guide.default_prior)[0]}"
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
        if measure_of(p) != measure_of(q) or not in_support(p, q_sites[name]["value"]):
            raise InputError(
                f"{names} do not fit: a draw of site {name!r} by one of them is outside the "
                f"support of the other; {fitting}"
            )


def measure_of(fn: Any) -> str:
    """What a density of ``fn`` is a density on. Only densities on the same can be compared."""
    try:
        support = innermost(fn.support)
    except NotImplementedError:
        return "real"
    if isinstance(support, type(constraints.simplex)):
        return "simplex"
    return "values" if support.is_discrete else "real"


def sites_of(program: Callable[[], Any]) -> Sites:
    """The latent sites of a program that both sides must have: the guide's auxiliary sites are its
    own."""
    sites = latent_sites(program)
    return {name: site for name, site in sites.items() if not infer(site, "is_auxiliary")}


def latent_sites(program: Callable[[], Any]) -> Sites:
    """The records of a program's latent sites by name, from one run of the program."""
    nodes = poutine.trace(program).get_trace().nodes
    return {name: site for name, site in nodes.items() if is_latent(site)}

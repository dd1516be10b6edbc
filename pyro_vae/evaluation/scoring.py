"""Run Pyro programs and score their sites, for each draw of z and each image, in nats.

All of evaluation takes two Pyro programs, a model and a guide, and reads only their sites. The
programs can be ours or the user's. They must meet three conditions:

- both have one plate over images, at dim -1, and every latent site is inside this plate;
- the guide samples the same latent sites as the model;
- neither has a weight (``poutine.scale``, a subsampled plate), because the bound itself is
  measured, and not the objective of training.

A program that does not meet them raises an :class:`~pyro_vae.errors.InputError`. A program is
called with the images only. :mod:`.draws` runs it for several draws of z.

Random numbers, the draws of pixels included, are drawn in blocks of a fixed size. So no result
depends on how much is computed at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent
from torch.nn.functional import logsigmoid

from ..compiling import HANDLERS
from ..data.images import Images
from ..errors import InputError
from ..latents import Sites, infer, is_latent
from ..modules import mode
from ..objectives.divergences import base
from .draws import (
    DECISIONS,
    check_arguments,
    holds_all_draws,
    module_of,
    run,
    stack_distributions,
)


@runtime_checkable
class Programs(Protocol):
    """A pair of Pyro programs. A :class:`~pyro_vae.vae.VAE` is one, and so is any object with these
    two attributes, for instance ``types.SimpleNamespace(model=model, guide=guide)``."""

    model: Any
    """The generative program p(z) p(x | z): a function or a module that takes images."""
    guide: Any
    """The inference program q(z | x), which takes the same arguments."""


def run_guide(guide: Any, x: Tensor, draws: int) -> Sites:
    """Run the guide on the images ``x`` ``[B, C, H, W]``.

    Returns:
        the latent sites, with values and ``log_prob`` for each draw and image, ``[K, B]``.
    """
    runs = run(guide, x, draws, {})
    names = [name for name, site in runs[0].items() if is_latent(site)]
    return drawn_sites({name: stacked_site(name, runs, x) for name in names})


def run_model(model: Any, x: Tensor, latents: dict[str, Tensor]) -> tuple[Sites, Tensor]:
    """Run the model on the images ``x`` ``[B, C, H, W]`` with given latents, each ``[K, B, *]``.

    Returns:
        the latent sites in the model's order, with ``log_prob`` ``[K, B]``; and log p(x | z),
        ``[K, B]``.
    """
    draws = len(next(iter(latents.values())))
    runs = run(model, x, draws, latents)
    nodes = runs[0]
    for name, site in nodes.items():
        if is_latent(site):
            raise InputError(f"the model samples {name!r}, which the guide does not")
    if lacking := latents.keys() - nodes.keys():
        raise InputError(f"the guide samples {min(lacking)!r}, which the model does not")
    likelihood = x.new_zeros(draws, len(x))
    for name, site in nodes.items():
        observed = site["type"] == "sample" and site["is_observed"] and name not in latents
        if observed and not infer(site, "_deterministic"):
            likelihood = likelihood + stacked_log_prob(name, runs, x)
    return {name: stacked_site(name, runs, x) for name in nodes if name in latents}, likelihood


def run_prior(model: Any, x: Tensor, draws: int) -> Sites:
    """Run the model on the images ``x`` with latents that it draws itself; its latent sites."""
    runs = run(model, x, draws, {})
    names = [name for name, site in runs[0].items() if is_latent(site)]
    return {name: stacked_site(name, runs, x) for name in names}


def stacked_log_prob(name: str, runs: list[Sites], x: Tensor) -> Tensor:
    """The ``log_prob`` of a site for each draw and image, ``[K, B]``."""
    each = [with_log_prob(name, nodes[name], x)["log_prob"] for nodes in runs]
    return each[0] if holds_all_draws(runs[0]) else torch.stack(each)


def stacked_site(name: str, runs: list[Sites], x: Tensor) -> Any:
    """A site's record for all draws: ``value`` ``[K, B, *]``, ``log_prob`` ``[K, B]`` and ``fn``
    with batch shape ``[K, B]``."""
    sites = [with_log_prob(name, nodes[name], x) for nodes in runs]
    if holds_all_draws(runs[0]):
        return sites[0]
    return {
        **sites[0],
        "fn": stack_distributions([site["fn"] for site in sites]),
        "value": torch.stack([site["value"] for site in sites]),
        "log_prob": torch.stack([site["log_prob"] for site in sites]),
    }


def drawn_sites(sites: Sites) -> Sites:
    """The sites of a guide without auxiliary ones.

    An ``AutoNormal`` draws a real number at an auxiliary site ``z_unconstrained`` and transforms
    it to the point z. If the latent is real, both are equal, and the auxiliary site has the
    distribution of z.

    Raises:
        InputError: a site that is a point, so that its density is unknown.
    """
    result = {}
    for name, site in sites.items():
        auxiliary = sites.get(f"{name}_unconstrained")
        if auxiliary is not None and torch.equal(auxiliary["value"], site["value"]):
            site = auxiliary
        elif infer(site, "is_auxiliary"):
            continue
        if isinstance(base(site["fn"]), Delta):
            raise InputError(
                f"the guide gives a point (Delta) at site {name!r}, so the density q(z | x) is "
                "unknown; take a guide that draws the site from a distribution with a density"
            )
        result[name] = site
    return result


def with_log_prob(name: str, site: Any, x: Tensor) -> Any:
    """A site's record with its ``log_prob``, ``[K, B]`` inside the plate of draws, else ``[B]``.

    Raises:
        InputError: a site outside the plate over images, or a site with a weight.
    """
    frames = site["cond_indep_stack"]
    sizes = [f.size for f in frames if f.dim == -1]
    if len(x) not in sizes:
        where = "dim -1"
        if sizes:  # an autoguide keeps the plate of the images that it was made with
            where += f"; {len(x)} images were given, and the plate there has size {sizes[0]}"
        raise InputError(
            f"site {name!r} is outside the plate over images ({where}), so log p(x) is not a sum "
            "over images; only models whose latents all belong to single images can be evaluated"
        )
    if site["scale"] != 1:
        raise InputError(
            f"site {name!r} has a scale of {float(site['scale']):g}; evaluate the program "
            "without the weight or the subsampling"
        )
    if "log_prob" not in site:
        log_prob = log_density(site["fn"], site["value"])  # [K, B] or [B]
        log_prob = scale_and_mask(log_prob, mask=site["mask"])
        draws = [f.size for f in frames if f.name == "_draws"]
        site["log_prob"] = log_prob.expand(*draws, len(x))
    return site


def log_density(fn: Any, value: Tensor) -> Tensor:
    """``fn.log_prob(value)``, with a faster formula for binary pixels.

    The formula needs half as many passes over memory. Next to the matrix products, an importance
    estimate spends most of its time there.
    """
    pixels = isinstance(fn, Independent) and isinstance(fn.base_dist, Bernoulli)
    if not pixels or not ((value == 0) | (value == 1)).all():
        return fn.log_prob(value)
    each = logsigmoid((2 * value - 1) * fn.base_dist.logits)
    return each.flatten(-fn.reinterpreted_batch_ndims).sum(-1)


def values(sites: Sites) -> dict[str, Tensor]:
    """The draws at the sites, each ``[K, B, *]``."""
    return {name: site["value"] for name, site in sites.items()}


def log_ratio(q: Any, p: Any) -> Tensor:
    """log q(z | x) - log p(z) of a site, ``[K, B]``. Its mean over draws estimates the KL."""
    return q["log_prob"] - p["log_prob"]


def unit_log_ratio(q: Any, p: Any) -> Tensor | None:
    """log q - log p of each unit of a site, ``[K, B, Z]``; None if the units are dependent."""
    sides = [(site["fn"], site["mask"]) for site in (q, p)]
    if not all(isinstance(fn, Independent) and mask is None for fn, mask in sides):
        return None
    return sides[0][0].base_dist.log_prob(q["value"]) - sides[1][0].base_dist.log_prob(q["value"])


def pieces(total: int, size: int) -> Iterator[int]:
    """Sizes that sum to ``total``, each ``size`` except the last, which may be smaller."""
    for start in range(0, total, size):
        yield min(size, total - start)


def blocks(images: Images, size: int, seed: int, *programs: Any) -> Iterator[Tensor]:
    """The images in order, at most ``size`` at a time, ``[B, C, H, W]``.

    ``dynamic`` pixels depend only on ``seed``. They are drawn for 500 images at a time and then
    cut, so every estimate with the same seed uses the same pixels.

    Args:
        images: the images.
        size: how many images a block has.
        seed: of the draws of pixels.
        programs: the pixels get the type of their weights. Without weights, and for functions,
            whose weights are not known, the pixels keep their own type.
    """
    if len(images) == 0:
        raise InputError("there are no images to evaluate on: this split of the data set is empty")
    weight = first_weight(*programs)
    generator = torch.Generator(images.pixels.device).manual_seed(seed)
    for x in images.batches(500, generator):
        x = x if weight is None else x.to(weight.dtype)
        yield from x.split(size)


def modules_of(programs: Iterable[Any]) -> list[nn.Module]:
    """The modules that the programs are, or are methods of."""
    return [module for program in programs if (module := module_of(program)) is not None]


def first_weight(*programs: Any) -> Tensor | None:
    """The first weight of the modules that the programs are, or are methods of; else None."""
    weights = (
        p for module in modules_of(programs) for p in module.parameters() if p.is_floating_point()
    )
    return next(weights, None)


@contextmanager
def measuring(*programs: Any, seed: int, device: torch.device) -> Iterator[None]:
    """Switch gradients off, put modules in evaluation mode, and seed the random numbers.

    Afterwards the modes and the global generators are as before. One thread at a time measures,
    because all threads share Pyro's handlers and torch's global generators.

    Raises:
        InputError: a program that cannot be called with the images only.
    """
    for program in programs:
        check_arguments(program)
    decisions = DECISIONS.set({})
    try:
        with (
            HANDLERS,
            torch.no_grad(),
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            mode(False, *modules_of(programs)),
        ):
            # Not ``seed`` itself, which seeds the draws of pixels.
            torch.manual_seed(seed + 2**40)
            yield
    finally:
        DECISIONS.reset(decisions)

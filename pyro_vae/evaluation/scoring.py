"""Run Pyro programs and score their sites, for each draw of z and each row, in nats.

All of evaluation takes two Pyro programs, a model and a guide, and reads only their sites. The
programs can be ours or the user's. A row is one image, or one observation of another kind. The
programs must meet three conditions:

- both have a plate over the rows, and every site is inside this plate. It may have any name and any
  dim, and other plates may be inside it;
- the guide samples the same latent sites as the model;
- neither has a weight (``poutine.scale``, a subsampled plate), because the bound itself is
  measured, and not the objective of training.

A program that does not meet them raises an :class:`~pyro_vae.errors.InputError`. A program is
called with a :class:`~pyro_vae.batch.Batch`. :mod:`~pyro_vae.evaluation.draws` runs it for several
draws of z.

Random numbers, the draws of pixels included, are drawn in blocks of a fixed size. So no result
depends on how much is computed at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Bernoulli, Independent
from torch.nn.functional import logsigmoid

from ..batch import Batch
from ..compiling import HANDLERS
from ..errors import InputError
from ..latents import Sites, infer, is_latent
from ..modules import mode, modules_of, refuse_device
from ..objectives.divergences import base
from .draws import DECISIONS, holds_all_draws, plates_of, run, stack_distributions


class Programs(Protocol):
    """A pair of Pyro programs. A :class:`~pyro_vae.vae.VAE` is one, and so is any object with these
    two attributes, for instance ``types.SimpleNamespace(model=model, guide=guide)``."""

    model: Any
    """The generative program p(z) p(x | z): a function or a module that takes images."""
    guide: Any
    """The inference program q(z | x), which takes the same arguments."""


def run_guide(guide: Any, x: Any, draws: int) -> Sites:
    """Run the guide on the rows ``x``, a Batch or what makes one, such as a tensor ``[B, *]``.

    Returns:
        the latent sites, with values and ``log_prob`` for each draw and row, ``[K, B]``.
    """
    batch = Batch.of(x)
    return drawn_sites(latents_of(run(guide, batch, draws, {}), batch))


def run_model(model: Any, x: Any, latents: dict[str, Tensor]) -> tuple[Sites, Tensor]:
    """Run the model on the rows ``x`` with given latents, each ``[K, B, *]``.

    Returns:
        the latent sites in the model's order, with ``log_prob`` ``[K, B]``; and log p(x | z),
        ``[K, B]``.
    """
    batch = Batch.of(x)
    return score(runs_of(model, batch, latents), batch, latents)


def runs_of(model: Any, x: Batch, latents: dict[str, Tensor]) -> list[Sites]:
    """The sites of one run of the model for all draws of the latents, or of a run for each draw."""
    if not latents:
        raise InputError("the guide samples no latent site, so there is no draw of z to score")
    return run(model, x, len(next(iter(latents.values()))), latents)


def score(runs: list[Sites], batch: Batch, latents: dict[str, Tensor]) -> tuple[Sites, Tensor]:
    """What :func:`run_model` gives, from the runs of the model."""
    nodes, draws = runs[0], len(next(iter(latents.values())))
    for name, site in nodes.items():
        if is_latent(site):
            raise InputError(f"the model samples {name!r}, which the guide does not")
    if lacking := latents.keys() - nodes.keys():
        raise InputError(f"the guide samples {min(lacking)!r}, which the model does not")
    likelihood, dim = batch.zeros(draws, len(batch)), rows_dim(nodes, batch)
    for name, site in nodes.items():
        if is_scored(site) and name not in latents:
            likelihood = likelihood + stacked_log_prob(name, runs, batch, dim)
    sites = {name: stacked_site(name, runs, batch, dim) for name in nodes if name in latents}
    return sites, likelihood


def run_prior(model: Any, x: Any, draws: int) -> Sites:
    """Run the model on the rows ``x`` with latents that it draws itself; its latent sites."""
    batch = Batch.of(x)
    return latents_of(run(model, batch, draws, {}), batch)


def latents_of(runs: list[Sites], x: Batch) -> Sites:
    """The latent sites of runs of a program for all draws."""
    names = [name for name, site in runs[0].items() if is_latent(site)]
    dim = rows_dim(runs[0], x)
    return {name: stacked_site(name, runs, x, dim) for name in names}


def is_scored(site: Any) -> bool:
    """Whether a site has a density: not one of ``pyro.deterministic``, nor a plate's subsample."""
    sampled = site["type"] == "sample" and not site_is_subsample(site)
    return sampled and not infer(site, "_deterministic")


def rows_dim(nodes: Sites, x: Batch) -> int:
    """The dim of the plate over the rows: the plate of their number that all sites are in.

    Raises:
        InputError: a site outside such a plate or with a weight, or two plates that could be the
            one over the rows.
    """
    dims: set[int] | None = None
    for name, site in nodes.items():
        if not is_scored(site):
            continue
        check_weight(name, site["scale"])
        sizes = plates_of(site)
        fitting = {dim for dim, size in sizes.items() if size == len(x)}
        dims = fitting if dims is None else dims & fitting
        if not dims:
            where = "the plate over images"
            if sizes:  # an autoguide keeps the plate of the rows that it was made with
                where += f" ({len(x)} images were given, and it is in plates of the sizes "
                where += f"{', '.join(map(str, sizes.values()))})"
            raise InputError(
                f"site {name!r} is outside {where}, so log p(x) is not a sum over images; only "
                "models whose latents all belong to single images can be evaluated"
            )
    if dims is not None and len(dims) > 1:
        raise InputError(
            f"all sites are in two plates of size {len(x)}, and one of them must be the plate over "
            "the rows; evaluate another number of rows"
        )
    return -1 if dims is None else dims.pop()


def check_weight(name: str, scale: Any) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for a site with a weight."""
    if isinstance(scale, Tensor) or scale != 1:
        shown = f"{float(scale):g}" if torch.as_tensor(scale).numel() == 1 else "its own per row"
        raise InputError(
            f"site {name!r} has a scale of {shown}; evaluate the program without the weight or the "
            "subsampling"
        )


def stacked_log_prob(name: str, runs: list[Sites], x: Batch, dim: int) -> Tensor:
    """The ``log_prob`` of a site for each draw and row, ``[K, B]``."""
    each = [with_log_prob(name, nodes[name], x, dim)["log_prob"] for nodes in runs]
    return each[0] if holds_all_draws(runs[0]) else torch.stack(each)


def stacked_site(name: str, runs: list[Sites], x: Batch, dim: int) -> Any:
    """A site's record for all draws: ``value`` ``[K, B, *]``, ``log_prob`` ``[K, B]`` and ``fn``
    with batch shape ``[K, B]``. With other plates, ``value`` and ``fn`` have their dims, too."""
    sites = [with_log_prob(name, nodes[name], x, dim) for nodes in runs]
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


def with_log_prob(name: str, site: Any, x: Batch, dim: int) -> Any:
    """A site's record with its ``log_prob``, ``[K, B]`` inside the plate of draws, else ``[B]``.

    Args:
        name, site: the site.
        x: the rows.
        dim: the dim of the plate over the rows; the other plates are summed.
    """
    if "log_prob" not in site:
        log_prob = log_density(site["fn"], site["value"])
        log_prob = scale_and_mask(log_prob, mask=site["mask"])
        sizes = plates_of(site)
        if len(sizes) > 1 or dim != -1:
            log_prob = log_prob.expand([sizes.get(d, 1) for d in range(min(sizes), 0)])
            log_prob = log_prob.sum([d for d in range(min(sizes), 0) if d != dim])
        draws = [f.size for f in site["cond_indep_stack"] if f.name == "_draws"]
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
    if any(fn.event_dim > 1 or len(fn.batch_shape) > 2 for fn, _ in sides):
        return None  # not a vector for each row
    return sides[0][0].base_dist.log_prob(q["value"]) - sides[1][0].base_dist.log_prob(q["value"])


def pieces(total: int, size: int) -> Iterator[int]:
    """Sizes that sum to ``total``, each ``size`` except the last, which may be smaller."""
    for start in range(0, total, size):
        yield min(size, total - start)


@contextmanager
def measuring(*programs: Any, seed: int, device: torch.device) -> Iterator[None]:
    """Switch gradients off, put modules in evaluation mode, and seed the random numbers.

    Afterwards the modes and the global generators are as before. One thread at a time measures,
    because all threads share Pyro's handlers and torch's global generators.

    Raises:
        InputError: a program that cannot be called, or a device that cannot be used.
    """
    for program in programs:
        if not callable(program):
            raise InputError(
                "a model or a guide is a Pyro program, which is a function or a module that takes "
                f"images, not a {type(program).__name__}"
            )
    refuse_device(device)
    decisions = DECISIONS.set({})
    try:
        with (
            HANDLERS,
            torch.no_grad(),
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            mode(False, *modules_of(programs)),
        ):
            # Not ``seed`` itself, which seeds the draws of pixels on a GPU. On a CPU torch uses the
            # lower 32 bits, so the seeds are equal there, and NumPy draws the pixels.
            torch.manual_seed(seed + 2**40)
            yield
    finally:
        DECISIONS.reset(decisions)

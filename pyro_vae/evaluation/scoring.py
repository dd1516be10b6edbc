"""Run Pyro programs and score their sites, for each draw of z and each image, in nats.

All of evaluation takes two Pyro programs, a model and a guide, and reads only their sites. The
programs can be ours or the user's. They must meet three conditions:

- both have one plate over images, at dim -1, and every latent site is inside this plate;
- the guide samples the same latent sites as the model;
- neither has a weight (``poutine.scale``, a subsampled plate), because the bound itself is
  measured, and not the objective of training.

A program that does not meet them raises an :class:`~pyro_vae.errors.InputError`.

Random numbers, the draws of pixels included, are drawn in blocks of a fixed size. So no result
depends on how much is computed at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, runtime_checkable

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent
from torch.nn.functional import logsigmoid

from ..data.images import Images
from ..errors import InputError
from ..latents import is_latent

Sites = dict[str, Any]
"""Pyro's records of a program's sites, by name."""


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
    with pyro.plate("_draws", draws, dim=-2):
        trace = poutine.trace(guide).get_trace(x)
    return {
        name: with_log_prob(name, site, x, draws)
        for name, site in trace.nodes.items()
        if is_latent(site)
    }


def run_model(model: Any, x: Tensor, latents: dict[str, Tensor]) -> tuple[Sites, Tensor]:
    """Run the model on the images ``x`` ``[B, C, H, W]`` with given latents, each ``[K, B, *]``.

    Returns:
        the latent sites in the model's order, with ``log_prob`` ``[K, B]``; and log p(x | z),
        ``[K, B]``.
    """
    draws = len(next(iter(latents.values())))
    with pyro.plate("_draws", draws, dim=-2):
        trace = poutine.trace(poutine.condition(model, data=latents)).get_trace(x)
    for name, site in trace.nodes.items():
        if is_latent(site):
            raise InputError(f"the model samples {name!r}, which the guide does not")
    if lacking := latents.keys() - trace.nodes.keys():
        raise InputError(f"the guide samples {min(lacking)!r}, which the model does not")
    likelihood = x.new_zeros(draws, len(x))
    for name in trace.observation_nodes:
        site = trace.nodes[name]
        if name not in latents and not (site["infer"] or {}).get("_deterministic"):
            likelihood = likelihood + with_log_prob(name, site, x, draws)["log_prob"]
    latent = [name for name in trace.nodes if name in latents]
    return {name: with_log_prob(name, trace.nodes[name], x, draws) for name in latent}, likelihood


def with_log_prob(name: str, site: Any, x: Tensor, draws: int) -> Any:
    """A site's record with its ``log_prob`` ``[K, B]``.

    Raises:
        InputError: a site outside the plate over images, or a site with a weight.
    """
    if not any(f.dim == -1 and f.size == len(x) for f in site["cond_indep_stack"]):
        raise InputError(
            f"site {name!r} lies outside the plate over images (dim -1), so log p(x) is not a sum "
            "over images; only models whose latents all belong to single images can be evaluated"
        )
    if site["scale"] != 1:
        raise InputError(
            f"site {name!r} carries a scale of {float(site['scale']):g}; evaluate the program "
            "without the weight or the subsampling"
        )
    if "log_prob" not in site:
        log_prob = log_density(site["fn"], site["value"])  # [K, B]
        if site["mask"] is not None:
            log_prob = torch.where(torch.as_tensor(site["mask"]), log_prob, 0.0)
        site["log_prob"] = log_prob.expand(draws, len(x))
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


def blocks(images: Images, size: int, seed: int) -> Iterator[Tensor]:
    """The images in order, at most ``size`` at a time, ``[B, C, H, W]``.

    ``dynamic`` pixels depend only on ``seed``. They are drawn for 500 images at a time and then
    cut, so every estimate with the same seed uses the same pixels.
    """
    if len(images) == 0:
        raise InputError("there are no images to evaluate on: this split of the data set is empty")
    generator = torch.Generator(images.pixels.device).manual_seed(seed)
    for x in images.batches(500, generator):
        yield from x.split(size)


@contextmanager
def measuring(*programs: Any, seed: int, device: torch.device) -> Iterator[None]:
    """Switch gradients off, put modules in evaluation mode, and seed the random numbers.

    Afterwards the modes and the global generators are as before.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        for program in programs:
            if isinstance(program, nn.Module):
                for module in program.modules():
                    stack.callback(setattr, module, "training", module.training)
                program.eval()
        # Not ``seed`` itself, which seeds the draws of pixels.
        torch.manual_seed(seed + 2**40)
        yield

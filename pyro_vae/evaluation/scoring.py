"""Pyro programs run and scored: every draw of z, every image, every site, in nats.

Everything that evaluates takes two programs, ours or the user's, and looks at their sites alone:

- both have one plate over images, at dim -1, and every latent site lies inside it;
- the guide samples every latent site of the model, and no other;
- neither carries a weight (``poutine.scale``, a subsampled plate): what is measured is the bound
  itself and not what was trained.

A program that does not fit is refused. Random numbers, the draws of pixels included, are asked for
in blocks of a fixed size, so that no result depends on how much is computed at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

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
"""The records that Pyro keeps of a program's sites, by name."""


def draw(guide: Any, x: Tensor, draws: int) -> Sites:
    """Run the guide: its latent sites, with values and ``log_prob`` for each draw and image,
    ``[K, B]``."""
    with pyro.plate("_draws", draws, dim=-2):
        trace = poutine.trace(guide).get_trace(x)
    return {
        name: scored(name, site, x, draws) for name, site in trace.nodes.items() if is_latent(site)
    }


def score(model: Any, x: Tensor, latents: dict[str, Tensor]) -> tuple[Sites, Tensor]:
    """Run the model with latents given: its latent sites in its own order, with ``log_prob``
    ``[K, B]``, and log p(x | z), ``[K, B]``."""
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
            likelihood = likelihood + scored(name, site, x, draws)["log_prob"]
    own = [name for name in trace.nodes if name in latents]
    return {name: scored(name, trace.nodes[name], x, draws) for name in own}, likelihood


def scored(name: str, site: Any, x: Tensor, draws: int) -> Any:
    """A site's record with its ``log_prob``, ``[K, B]``, if it has one for each image."""
    if not any(f.dim == -1 and f.size == len(x) for f in site["cond_indep_stack"]):
        raise InputError(
            f"site {name!r} lies outside the plate over images (dim -1), so that log p(x) is not a "
            "sum over images; only models with latents for each image can be evaluated"
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
    """``fn.log_prob(value)``; of binary pixels in half as many passes over memory, which is where
    an importance estimate's time goes next to the matrix products."""
    pixels = isinstance(fn, Independent) and isinstance(fn.base_dist, Bernoulli)
    if not pixels or not ((value == 0) | (value == 1)).all():
        return fn.log_prob(value)
    each = logsigmoid((2 * value - 1) * fn.base_dist.logits)
    return each.flatten(-fn.reinterpreted_batch_ndims).sum(-1)


def values(sites: Sites) -> dict[str, Tensor]:
    """The draws at the sites, each ``[K, B, *]``."""
    return {name: site["value"] for name, site in sites.items()}


def log_ratio(q: Any, p: Any) -> Tensor:
    """log q(z | x) - log p(z) of a site, ``[K, B]``: its KL is the mean over draws."""
    return q["log_prob"] - p["log_prob"]


def unit_log_ratio(q: Any, p: Any) -> Tensor | None:
    """log q - log p of each unit of a site, ``[K, B, Z]``; None where units are not independent."""
    sides = [(site["fn"], site["mask"]) for site in (q, p)]
    if not all(isinstance(fn, Independent) and mask is None for fn, mask in sides):
        return None
    return sides[0][0].base_dist.log_prob(q["value"]) - sides[1][0].base_dist.log_prob(q["value"])


def pieces(total: int, size: int) -> Iterator[int]:
    """``total`` cut into pieces of ``size``, the last one smaller if need be."""
    for start in range(0, total, size):
        yield min(size, total - start)


def blocks(images: Images, size: int, seed: int) -> Iterator[Tensor]:
    """The images in order, at most ``size`` at a time, ``[B, C, H, W]``.

    ``dynamic`` pixels depend on ``seed`` alone: they are drawn for 500 images and then cut, so that
    every estimate with that seed looks at the same pixels.
    """
    if len(images) == 0:
        raise InputError("there are no images to evaluate on; the asked split of the set is empty")
    generator = torch.Generator(images.pixels.device).manual_seed(seed)
    for x in images.batches(500, generator):
        yield from x.split(size)


@contextmanager
def measuring(*programs: Any, seed: int, device: torch.device) -> Iterator[None]:
    """No gradients, modules in evaluation mode, and random numbers that ``seed`` alone decides;
    afterwards all is as it was."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        for program in programs:
            if isinstance(program, nn.Module):
                for module in program.modules():
                    stack.callback(setattr, module, "training", module.training)
                program.eval()
        torch.manual_seed(
            seed + 2**40
        )  # Another stream than the one that the pixels are drawn from.
        yield

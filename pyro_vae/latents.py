"""Latent variables: their layouts, the names of their sites, and how they are sampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import constraints

from .errors import InputError

Shape = tuple[int, int, int]
LatentSize = int | Sequence[int | Sequence[int]]
Layout = tuple[int, ...]
"""The layout of a layer of latents or of features: ``(n,)`` numbers, or ``(c, h, w)`` like an
image. The value itself is always a flat vector."""
Latents = dict[str, Tensor]
"""The values of the latent sites by name."""
Sites = dict[str, Any]
"""Pyro's records of a program's sites, by name."""


def layouts(latent_size: LatentSize) -> tuple[Layout, ...]:
    """The layers of latents that ``latent_size`` names, z_1 first.

    ``20`` is one layer, ``(64, 32)`` are two, ``((8, 14, 14), (8, 7, 7), 32)`` are three.

    Raises:
        InputError: no layer, or something else than whole numbers above 0.

    Example:
        >>> layouts(((8, 7, 7), 32))
        ((8, 7, 7), (32,))
    """
    each = latent_size if isinstance(latent_size, Sequence) else (latent_size,)
    result = tuple(tuple(z) if isinstance(z, Sequence) else (z,) for z in each)
    if not result or not all(
        len(z) in (1, 3) and all(type(n) is int and n > 0 for n in z) for z in result
    ):
        raise InputError(
            "the latent size is a whole number above 0, or one for each layer such as (64, 32, "
            f"16), or channels, height and width of a layer such as (8, 7, 7), not {latent_size!r}"
        )
    return result


def check_layouts(shape: Shape, latents: Sequence[Layout]) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` unless the layers fit on top of each other.

    The height and the width of a layer ``(c, h, w)`` must divide those of the layer below it by
    the same number.
    """
    below, (height, width) = "the image", shape[1:]
    for i, each in enumerate(latents, start=1):
        if len(each) == 1:
            continue
        h, w = each[1:]
        if height % h or width % w or height // h != width // w:
            raise InputError(
                f"layer {i} of the latents has {h}x{w} places, and {below} has {height}x{width}, "
                "which is not a whole multiple of that; give sides such as "
                + " or ".join(f"{height // n}x{width // n}" for n in divisors(height, width)[:3])
            )
        below, (height, width) = f"layer {i}", each[1:]


def divisors(*numbers: int) -> list[int]:
    """The numbers that divide all of ``numbers``, from 1 upwards."""
    return [n for n in range(1, min(numbers) + 1) if not any(number % n for number in numbers)]


def site_names(count: int) -> list[str]:
    """The names of the sites of ``count`` layers, the layer next to x first."""
    return ["z"] if count == 1 else [f"z_{i}" for i in range(1, count + 1)]


def sample_site(name: str, fn: Any) -> Any:
    """``pyro.sample``; a distribution with finitely many values is marked for enumeration."""
    if fn.has_enumerate_support:
        return pyro.sample(name, fn, infer={"enumerate": "parallel"})
    return pyro.sample(name, fn)


def concatenate(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate vectors ``[*, F]`` to one, ``[*, ΣF]``; their leading dimensions broadcast."""
    leading = torch.broadcast_shapes(*(t.shape[:-1] for t in tensors))
    return torch.cat([t.expand(*leading, -1) for t in tensors], -1)


def is_latent(site: Any) -> bool:
    """Whether a site of a Pyro trace is a latent variable.

    It is if it is sampled and not observed. The site at which a plate draws its subsample is not.
    """
    return site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)


def infer(site: Any, key: str) -> Any:
    """The entry ``key`` of a site's ``infer`` dict; None if it is missing."""
    return (site.get("infer") or {}).get(key)


def in_support(fn: Any, z: Tensor) -> bool:
    """Whether ``z`` lies in the support of ``fn``. A distribution without a support accepts all."""
    try:
        return bool(fn.support.check(z).all())
    except NotImplementedError:
        return True


def exact_moments(q: Any) -> tuple[Tensor, Tensor] | None:
    """Mean and variance of each dimension under ``q``; None if they have no closed form."""
    try:
        return q.mean, q.variance
    except NotImplementedError:
        return None


def moments(q: Any, draws: int = 1000) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each dimension of z under ``q``, ``[B, Z]`` each.

    Both are exact if the distribution gives them in closed form. Otherwise, for instance for flows,
    they are estimated from ``draws`` draws.
    """
    exact = exact_moments(q)
    if exact is not None:
        return exact[0], exact[1].sqrt()
    with torch.no_grad():
        z = q.sample((draws,))  # [draws, B, Z]
    return z.mean(0), z.std(0)


def is_real(fn: Any) -> bool:
    """Whether ``fn`` is a distribution over real numbers or vectors, without constraints."""
    return innermost(fn.support) is constraints.real


def innermost(support: Any) -> Any:
    """The constraint inside those that wrap it, for instance that of a mixture's components."""
    # Only some of torch's constraints wrap another one.
    while isinstance(inner := getattr(support, "base_constraint", None), constraints.Constraint):
        support = inner
    return support

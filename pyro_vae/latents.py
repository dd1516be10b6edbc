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
from .words import counted, either

Shape = tuple[int, ...]
"""The shape of one observation: ``(D,)`` of a vector, ``(C, L)`` of a signal, ``(C, H, W)`` of an
image, ``(C, D, H, W)`` of a volume."""
LatentSize = int | Sequence[int | Sequence[int]]
Layout = tuple[int, ...]
"""The layout of a layer of latents or of features: ``(n,)`` numbers, or channels and sides like an
observation, such as ``(c, h, w)``. The value itself is always a flat vector."""
Latents = dict[str, Tensor]
"""The values of the latent sites by name."""
Sites = dict[str, Any]
"""Pyro's records of a program's sites, by name."""


def layouts(latent_size: LatentSize) -> tuple[Layout, ...]:
    """The layers of latents that ``latent_size`` names, z_1 first.

    ``20`` is one layer, ``(64, 32)`` are two, ``((8, 14, 14), (8, 7, 7), 32)`` are three. A layer
    with places has as many sides as x.

    Raises:
        InputError: no layer, or something else than whole numbers above 0.

    Example:
        >>> layouts(((8, 7, 7), 32))
        ((8, 7, 7), (32,))
    """
    each = latent_size if isinstance(latent_size, Sequence) else (latent_size,)
    result = tuple(tuple(z) if isinstance(z, Sequence) else (z,) for z in each)
    if not result or not all(z and all(type(n) is int and n > 0 for n in z) for z in result):
        raise InputError(
            "the latent size is a whole number above 0, or one for each layer such as "
            f"{either('(64, 32, 16)', '64,32,16')}, or channels and sides of a layer such as "
            f"{either('[(8, 7, 7)]', '8x7x7')}, not {latent_size!r}"
        )
    return result


def check_layouts(shape: Shape, latents: Sequence[Layout]) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` unless the layers fit on top of each other.

    A layer with places has as many sides as x. They must divide those of the layer below it by the
    same number.
    """
    below, sides = f"the {kind_of(shape)}", shape[1:]
    for i, each in enumerate(latents, start=1):
        if len(each) == 1:
            continue
        if len(each) != len(shape):
            raise InputError(
                f"layer {i} of the latents has the layout {list(each)}, and x has the shape "
                f"{list(shape)}; give one number, or channels and "
                f"{counted(len(shape) - 1, 'side')}"
            )
        ratios = {
            side // own if side % own == 0 else 0 for side, own in zip(sides, each[1:], strict=True)
        }
        if 0 in ratios or len(ratios) > 1:
            smaller = (tuple(side // n for side in sides) for n in divisors(*sides)[:3])
            raise InputError(
                f"layer {i} of the latents has {by(each[1:])} places, and {below} has {by(sides)}, "
                "which is not a whole multiple of that; give sides such as "
                + " or ".join(map(by, smaller))
            )
        below, sides = f"layer {i}", each[1:]


def by(sides: Sequence[int]) -> str:
    """Sides in words: ``14x14``."""
    return "x".join(map(str, sides))


def kind_of(shape: Shape) -> str:
    """What an observation of this shape is called: a vector, a signal, an image or a volume."""
    return {1: "vector", 2: "signal", 3: "image", 4: "volume"}.get(len(shape), "array")


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

"""Guides inside another guide: of a layer of latents, or of the continuous latent of two."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from ..contracts import Guide
from ..errors import InputError
from ..registry import GUIDES


def inner_guide(
    spec: Any, of: str, defaults: dict[str, Any] | None = None, **handed: Any
) -> nn.Module:
    """Build the guide of one real vector that is a part of another guide's latents.

    Args:
        spec: a name of :data:`~pyro_vae.registry.GUIDES`, or another form of a part.
        of: what the guide is for, in error messages.
        defaults, handed: as for :meth:`~pyro_vae.registry.Choice.make`.

    Raises:
        InputError: a guide of several sites, of another kind of latent, or one that needs the
            model.
    """
    choice = GUIDES.choose(spec)
    if inspect.isclass(choice.part) and issubclass(choice.part, Guide):
        refuse_unfit(choice.part, spec, of)  # before it can ask for what is not there
    part = choice.make(defaults=defaults, **handed)
    refuse_unfit(Guide.checked(part), spec, of)
    return part


def refuse_unfit(guide: Guide | type[Guide], spec: Any, of: str) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` unless ``guide`` can serve one real vector."""
    contract = guide if isinstance(guide, type) else type(guide)
    several = not contract.has_one_site()
    needs_model = contract.attach is not Guide.attach
    if several or needs_model or guide.default_prior != Guide.default_prior:
        raise InputError(
            f"the guide of {of} has one real vector as its latent and needs no model, such as "
            f"mean-field, full-covariance or iaf, not {spec!r}"
        )

"""How a batch becomes the arguments of the programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def arguments(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with which model and guide are called for a batch.

    A tuple or a list is ``model(*batch)``, a dict is ``model(**batch)``, and anything else, such as
    a tensor, is ``model(batch)``.

    Example:
        >>> from pyro_vae.compiling import arguments
        >>> arguments({"x": 1, "y": 2})
        ((), {'x': 1, 'y': 2})
    """
    if isinstance(batch, Mapping):
        return (), dict(batch)
    if isinstance(batch, tuple | list):
        return tuple(batch), {}
    return (batch,), {}

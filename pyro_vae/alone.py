"""One observation in, one answer out: a result for a batch of one without the batch dimension."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .distributions import OneRow
from .evaluation.importance import Importance


def many(result: Any, dim: int = 0) -> Any:
    """A result for a batch: it stays as it is."""
    return result


def alone(result: Any, dim: int = 0) -> Any:
    """A result for a batch of one as the result for its one observation.

    Args:
        result: a tensor, a distribution or an :class:`~pyro_vae.evaluation.importance.Importance`,
            or a dict or a tuple of them.
        dim: the dimension of the batch in a tensor.

    Example:
        >>> from pyro_vae.alone import alone
        >>> alone((torch.zeros(1, 3), {"z": torch.zeros(1)}))
        (tensor([0., 0., 0.]), {'z': tensor(0.)})
    """
    if isinstance(result, Tensor):
        return result.squeeze(dim)
    if isinstance(result, dict):
        return {name: alone(each, dim) for name, each in result.items()}
    if isinstance(result, tuple):
        return tuple(alone(each, dim) for each in result)
    return result.of_one() if isinstance(result, Importance) else OneRow(result)

"""Independent entries, each with one of several distributions, such as columns of a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ..latents import Shape
from ..supports import EachEntry


class Columnwise(dist.TorchDistribution):
    """Independent entries ``[*, *shape]``, each with the distribution of its group.

    Equation: log p(x_i) = log p_g(x_i), g the group of entry i.

    Args:
        parts: the distributions of the groups; that of group g has the batch ``[*, D_g]``.
        order: the place of each entry of the flattened x among all entries of ``parts``, ``[D]``.
        support: the support of each entry, with the places of the groups.
        shape: the shape of one observation.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (torch's own is a dict, too)

    def __init__(
        self, parts: Sequence[Any], order: Tensor, support: EachEntry, shape: Shape
    ) -> None:
        self.parts, self.order, self.entries, self.shape_ = parts, order, support, shape
        leading = parts[0].batch_shape[:-1]
        super().__init__(torch.Size([*leading, *shape]), validate_args=False)

    @property
    def support(self) -> EachEntry:
        return self.entries

    def joined(self, of: Callable[[Any], Tensor]) -> Tensor:
        """What ``of`` gives for each part, ``[*, D_g]``, in the order of the entries."""
        flat = torch.cat([of(part) for part in self.parts], -1).index_select(-1, self.order)
        return flat.unflatten(-1, self.shape_)

    def log_prob(self, value: Tensor) -> Tensor:
        flat = value.flatten(-len(self.shape_))  # [*, D]
        places = iter(self.entries.places)
        return self.joined(lambda part: part.log_prob(flat.index_select(-1, next(places))))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.joined(lambda part: part.sample(torch.Size(sample_shape)))

    @property
    def mean(self) -> Tensor:
        """The mean of each entry; of categories without an order, the most probable one."""
        return self.joined(lambda p: p.mode if type(p) is dist.Categorical else p.mean)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Columnwise:
        leading = torch.Size(batch_shape)[: -len(self.shape_)]
        parts = [part.expand([*leading, part.batch_shape[-1]]) for part in self.parts]
        return Columnwise(parts, self.order, self.entries, self.shape_)

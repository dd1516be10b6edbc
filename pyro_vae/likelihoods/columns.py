"""The likelihood of a table: a product of one likelihood for each column."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import ceil, prod
from typing import Any

import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from ..contracts import Likelihood
from ..errors import InputError
from ..latents import Shape
from ..networks.layers import start_at
from ..supports import EachEntry, words
from .columnwise import Columnwise
from .groups import GROUPS, Group, Members
from .located import Scaling, identity


class Columns(Likelihood):
    """Columns of a table, each with the likelihood of its type; independent given z.

    Equation: log p(x | z) = Σ_i log p_i(x_i | z), in the units of x. By the type of column i, p_i
    is

    - ``real``: a Student-t, as in ``student-t``;
    - ``positive``: a log-normal, as in ``log-normal``;
    - ``count``: a negative binomial by mean and dispersion, as in ``negative-binomial``;
    - ``binary``: a Bernoulli, as in ``bernoulli``;
    - ``categorical(K)``: a softmax over K categories, as in ``categorical``;
    - ``ordered(K)``: an ordered logistic over K categories, as in ``ordered``.

    Scales, dispersions and cutpoints are learned for each column. The decoder works in units near
    1: with the mean m and the standard deviation s of a column, a real column is m + s · output,
    and the logarithm of a positive column, or of the mean of a count, is that of the log-normal
    with these moments.

    The mean of a categorical column is its most probable category.

    Args:
        decoder: network from ``[*, Z]`` to ``outputs`` numbers for each entry of x. Columns share
            the numbers: a column of K categories takes K of them, each other column one.
        shape: the shape of one observation, ``(D,)`` of a row of a table.
        columns: the type of each entry of x, such as ``["real", "categorical(3)"]``; None makes
            all entries real.
        scaling: m and s of each column, which broadcast over x. None is 0 and 1.

    Raises:
        InputError: an unknown type, another number of types than of entries, or an entry that its
            column cannot have.

    Paper: Nazábal et al. 2020, Handling incomplete heterogeneous data using VAEs.

    Example:
        >>> from pyro_vae.likelihoods import Columns
        >>> vae = VAE((2,), 2, likelihood="columns(columns=['count', 'categorical(3)'])")
        >>> vae.sample(5).shape
        torch.Size([5, 2])
    """

    order: Tensor
    used: Tensor

    def __init__(
        self,
        decoder: nn.Module,
        shape: Shape,
        columns: Sequence[str] | None = None,
        scaling: Scaling = None,
    ) -> None:
        super().__init__(decoder)
        self.shape = shape
        if columns is not None and not isinstance(columns, list | tuple):
            raise InputError(
                "the columns are a list with the type of each column, such as "
                f"['real', 'categorical(3)'], not {columns!r}"
            )
        self.columns = ["real"] * prod(shape) if columns is None else list(columns)
        if len(self.columns) != prod(shape):
            raise InputError(
                f"the columns likelihood has {len(self.columns)} types of columns for observations "
                f"of shape {tuple(shape)}, which have {prod(shape)} entries"
            )
        read = [read_type(column) for column in self.columns]
        mean, scale = (torch.zeros(()), torch.ones(())) if scaling is None else scaling
        mean, scale = (each.expand(shape).flatten() for each in (mean, scale))
        groups: dict[str, Group] = {}
        used: list[Tensor] = []
        width = torch.tensor([k if GROUPS[name].many else 1 for name, k in read])
        first = width.cumsum(0) - width  # the first of the decoder's numbers that a column takes
        for kind, group in GROUPS.items():
            places = [i for i, (name, _) in enumerate(read) if name == kind]
            if places:
                where, categories = torch.tensor(places), [read[i][1] for i in places]
                groups[kind] = group(Members(where, categories, mean[where], scale[where]))
                used += [first[i] + torch.arange(int(width[i])) for i in places]
        self.by_type: Any = nn.ModuleDict(groups)
        self.sizes = [group.size for group in groups.values()]
        self.outputs = ceil(sum(self.sizes) / len(read))
        order = torch.cat([group.places for group in groups.values()]).argsort()
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("used", torch.cat(used), persistent=False)

    @property
    def groups(self) -> list[Group]:
        """The groups of columns of one type, in the order of :data:`~.groups.GROUPS`."""
        return list(self.by_type.values())

    @property
    def support(self) -> EachEntry:
        """What each column can have."""
        places = [group.places for group in self.groups]
        inside = torch.cat([group.inside() for group in self.groups])[self.order]
        supports = [group.range() for group in self.groups]
        return EachEntry(supports, places, inside.reshape(self.shape))

    def check(self, x: Tensor) -> None:
        support = self.support
        ok = support.check(x) & x.isfinite()
        if not ok.all():
            row, *place = (~ok).nonzero()[0].tolist()
            number = int(torch.arange(prod(self.shape)).reshape(self.shape)[tuple(place)])
            name, categories = read_type(self.columns[number])
            allowed = f"whole numbers in [0, {categories - 1}]"
            if categories == 1:
                allowed = words(GROUPS[name].support)
            raise InputError(
                f"x{[row, *place]} is {x[(row, *place)].item():.7g}, and the columns likelihood "
                f"scores {allowed} in column {number}, which is {self.columns[number]}"
            )

    def seen(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The observations in units near 1; 0 in the holes.

        Real numbers are standardised, as are the logarithms of positive numbers and of counts plus
        1. Categories are one-of-K, and ordered ones go from -1 to 1.

        Returns:
            ``[B, F]``; of the shape of x if no column is categorical.
        """
        flat = x.flatten(1)
        known = None if mask is None else mask.flatten(1)
        parts = []
        for group in self.groups:
            own = None if known is None else known[:, group.places]
            shown = group.seen(flat[:, group.places], own)  # [B, D_g, F_g]
            parts.append(shown.flatten(1))
        together = torch.cat(parts, 1)
        if together.shape != flat.shape:
            return together
        return together[:, self.order].reshape(x.shape)

    def start(self, mean: Tensor) -> None:
        flat = mean.flatten()
        numbers = torch.zeros(self.outputs * len(flat), dtype=mean.dtype, device=mean.device)
        numbers[self.used] = torch.cat([group.start(flat[group.places]) for group in self.groups])
        start_at(self.decoder, 1, numbers.reshape(-1, *self.shape[1:]), identity)

    def forward(self, z: Tensor) -> Distribution:
        raw = self.decoder(z).flatten(z.dim() - 1)  # [*, outputs·D]
        numbers = raw.index_select(-1, self.used).split(self.sizes, -1)
        parts = [group(each) for group, each in zip(self.groups, numbers, strict=True)]
        return self.event(Columnwise(parts, self.order, self.support, self.shape), z)


def read_type(column: Any) -> tuple[str, int]:
    """``"categorical(3)"`` -> ``("categorical", 3)``; the number is 1 for types without one.

    Raises:
        InputError: something else.
    """
    match = re.fullmatch(r"(\w+)(?:\((\d+)\))?", column) if isinstance(column, str) else None
    name, count = (match[1], match[2]) if match else ("", None)
    categories = 1 if count is None else int(count)
    if name in GROUPS and GROUPS[name].counted == (categories > 1):
        return name, categories
    allowed = ", ".join(f"{k}(K)" if group.counted else k for k, group in GROUPS.items())
    raise InputError(
        f"the type of a column is one of {allowed}, with K of at least 2, not {column!r:.60}"
    )

"""A likelihood of numbers that can be missing because of their own value."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Distribution
from torch import Tensor, nn
from torch.nn.functional import softplus

from ..contracts import Likelihood
from ..errors import InputError
from ..holes import WithMask
from ..latents import Shape
from ..registry import LIKELIHOODS
from ..sharing import AcrossRows
from .located import Scaling, per_channel

MISSING = ("high", "low", "either")
INNER = "normal-learned(bounded=False, initial=1.0)"
"""The likelihood inside, if none is named."""


class SelfMasking(AcrossRows, Likelihood):
    """Numbers that are missing by their own value: scores x and the mask of what was observed.

    Equation: log p(x_o, m | z) = log p(x_o | z) + Σ_i log p(m_i | x_i), P(m_i = 1 | x_i) =
    sigmoid(b_c - w_c (x_i - mean_c) / scale_c). A missing x_i is drawn from p(x_i | z), so that
    exp of this is right in the mean over the draws, and a bound stays a bound. c is the channel of
    entry i; in a vector each entry is a channel of its own.

    Where nothing is missing, all m_i are 1. w and b are learned. Data often do not tell whether
    high or low values are missing: say it by ``missing`` if you know it.

    Args:
        decoder: network from ``[*, Z]`` to ``outputs`` numbers for each entry of x.
        shape: the shape of one observation.
        likelihood: p(x | z), a row of the table of likelihoods whose draws carry gradients.
        missing: whether ``high`` values are missing more often (w > 0), ``low`` ones (w < 0), or
            it is learned (``either``).
        scaling: see :class:`~pyro_vae.likelihoods.located.Located`.

    Raises:
        InputError: another word for ``missing``; at a call, a likelihood whose draws carry no
            gradient or whose entries are not independent.

    Paper: Ipsen, Mattei & Frellsen 2021, not-MIWAE: Deep generative modelling with missing not at
    random data.

    Example:
        >>> vae = VAE((3,), 2, likelihood="self-masking(missing='high')", holes=True, hidden=(4,))
        >>> vae.impute(torch.tensor([[1.0, float("nan"), 2.0]]), samples=500).shape
        torch.Size([1, 3])
    """

    centre: Tensor
    unit: Tensor

    def __init__(
        self,
        decoder: nn.Module,
        shape: Shape,
        likelihood: Any = INNER,
        missing: str = "either",
        scaling: Scaling = None,
    ) -> None:
        super().__init__()
        if missing not in MISSING:
            raise InputError(f"missing is one of {', '.join(MISSING)}, not {missing!r}")
        choice = LIKELIHOODS.choose(likelihood)
        self.inner = choice.make(decoder=decoder, shape=shape, scaling=scaling)
        self.outputs, self.levels, self.missing = self.part.outputs, self.part.levels, missing
        self.slope = per_channel(0.1, shape)
        self.intercept = per_channel(0.0, shape)
        own = (torch.tensor(0.0), torch.tensor(1.0)) if scaling is None else scaling
        for name, value in zip(("centre", "unit"), own, strict=True):
            self.register_buffer(name, value, persistent=False)

    @property
    def part(self) -> Likelihood:
        """The likelihood inside."""
        return Likelihood.of(self.inner)

    @property
    def decoder(self) -> nn.Module:  # type: ignore[override]
        """The decoder of the likelihood inside."""
        return self.inner.decoder

    @property
    def support(self) -> Any:
        """The support of the likelihood inside."""
        return self.part.support

    def check(self, x: Tensor) -> None:
        self.part.check(x)

    @property
    def seen(self) -> Any:
        """As the likelihood inside shows observations to an encoder."""
        return self.part.seen

    def start(self, mean: Tensor) -> None:
        self.part.start(mean)

    def logits(self, x: Tensor) -> Tensor:
        """The logit of the probability that each entry of ``x`` is observed."""
        slope: Tensor = self.slope
        if self.missing != "either":
            slope = softplus(slope) * (1 if self.missing == "high" else -1)
        return self.intercept - slope * (x - self.centre) / self.unit

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Distribution:
        p = self.inner(z)
        if mask is None:
            return p
        if not p.has_rsample:
            raise InputError(
                f"the likelihood {self.part.name()} inside self-masking draws values without a "
                "gradient; take one of real numbers, such as normal-learned or student-t"
            )
        return WithMask(p, mask, self.batch.draw(p), self.logits)

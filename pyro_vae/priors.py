"""Priors p(z): modules whose ``forward()`` gives a distribution over the latent ``z``, ``[Z]``.

A prior asks for what it needs by the names of its arguments: ``latent_size`` (Z) and, if it is
made of the guide's own posterior, ``posterior`` and ``shape``.
"""

from __future__ import annotations

import torch
from pyro.distributions import Distribution, Normal
from torch import Tensor, nn


class StandardNormal(nn.Module):
    """The standard Normal N(0, I).

    Equation: p(z) = Π_d N(z_d; 0, 1).

    Args:
        latent_size: number of latent dimensions Z.

    Paper: Kingma & Welling 2014, Auto-Encoding Variational Bayes.

    Example:
        >>> StandardNormal(20)().event_shape
        torch.Size([20])
    """

    zero: Tensor

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        # A buffer, so that the prior moves to the device with the rest.
        self.register_buffer("zero", torch.zeros(latent_size), persistent=False)

    def forward(self) -> Distribution:
        return Normal(self.zero, torch.ones_like(self.zero)).to_event(1)


PRIORS = {"standard-normal": StandardNormal}

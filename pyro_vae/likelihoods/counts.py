"""Likelihoods of counts: whole numbers of at least 0, such as words, photons or transcripts.

The decoder gives the logarithm of the rate. With ``size_factor=True``, the rate is multiplied by an
observed size factor, one positive number for each observation: the length of a text, the exposure
time, the number of transcripts of a cell. It is the context: ``model(x, sizes)``.
"""

from __future__ import annotations

from math import log

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn
from torch.distributions import constraints

from ..contracts import Likelihood
from ..errors import InputError
from ..latents import Shape
from ..networks.layers import start_at
from ..options import flag, number
from .located import per_channel

FEWEST = 1e-4
"""The smallest mean count of an entry that a decoder starts at. An entry may be 0 in all data."""

LARGEST_LOG_RATE = 36.0
"""torch draws counts as whole numbers of 64 bits; at larger rates (4e15) they can be negative."""


class Counts(Likelihood):
    """Base of the likelihoods of counts: the logarithm of the rate, with the size factor.

    Args:
        decoder: network from ``[*, Z]`` to ``outputs`` numbers for each entry of x.
        size_factor: whether the context is the size factor, ``[B]`` or ``[B, 1]``.
    """

    support = constraints.nonnegative_integer

    def __init__(self, decoder: nn.Module, size_factor: bool = False) -> None:
        super().__init__(decoder)
        self.size_factor = flag("size_factor", size_factor)

    def takes(self, name: str) -> bool:
        return super().takes(name) and (name != "context" or self.size_factor)

    def sized(self, log_rate: Tensor, z: Tensor, sizes: Tensor | None) -> Tensor:
        """The logarithm of the rate, ``[*, B, *shape]``, plus that of the size factors."""
        if not self.size_factor:
            return capped(log_rate)
        if sizes is None:
            raise InputError(
                f"the {self.name()} likelihood needs a context, the size factor of each "
                "observation: call model(x, sizes) and guide(x, sizes)"
            )
        if sizes.numel() != len(sizes) or not ((sizes > 0) & sizes.isfinite()).all():
            raise InputError(
                "a size factor is one finite number above 0 for each observation, [B] or [B, 1], "
                f"and the context has the shape {list(sizes.shape)} and numbers from "
                f"{sizes.min().item():g} to {sizes.max().item():g}"
            )
        entries = log_rate.dim() - z.dim() + 1
        return capped(log_rate + sizes.to(log_rate.dtype).log().reshape(-1, *[1] * entries))

    def start(self, mean: Tensor) -> None:
        start_at(self.decoder, self.outputs, mean, log_of)


def capped(log_rate: Tensor) -> Tensor:
    """The logarithm of a rate, or :data:`LARGEST_LOG_RATE` if it is larger."""
    return log_rate.clamp(max=LARGEST_LOG_RATE)


def log_of(mean: Tensor) -> Tensor:
    """The logarithm of mean counts."""
    return mean.clamp_min(FEWEST).log()


class Poisson(Counts):
    """Counts: a Poisson; the decoder gives the logarithm of the rate.

    Equation: log p(x | z) = Σ_i x_i log λ_i - λ_i - log x_i!, λ(z) = l · exp(decoder(z)), l the
    size factor.

    Args:
        decoder: network from ``[*, Z]`` to ``[*, *shape]``.
        size_factor: whether the context is the size factor l, ``[B]`` or ``[B, 1]``; else l = 1.

    Raises:
        InputError: numbers that are no counts, or a size factor that is missing or not above 0.

    Paper: Zhao et al. 2020, Variational autoencoders for sparse and overdispersed discrete data.

    Example:
        >>> from pyro_vae.likelihoods import Poisson
        >>> Poisson(MLP((7,)).decoder(2))(torch.zeros(8, 2)).mean.shape
        torch.Size([8, 7])
    """

    def forward(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        (log_rate,) = self.raw(z)
        return self.event(dist.Poisson(self.sized(log_rate, z, context).exp()), z)


class NegativeBinomial(Counts):
    """Counts that spread more than a Poisson: a negative binomial by mean and dispersion.

    Equation: log p(x | z) = Σ_i log Γ(x_i + θ) - log Γ(θ) - log x_i! + θ log(θ / (θ + μ_i))
    + x_i log(μ_i / (θ + μ_i)), μ(z) = l · exp(decoder(z)), l the size factor. θ = exp(log θ) is the
    inverse dispersion, learned for each channel. The variance is μ + μ² / θ.

    Args:
        decoder: network from ``[*, Z]`` to ``[*, *shape]``.
        shape: the shape of one observation.
        initial: θ at the start.
        size_factor: whether the context is the size factor l, ``[B]`` or ``[B, 1]``; else l = 1.

    Raises:
        InputError: numbers that are no counts, a size factor that is missing or not above 0, or an
            initial θ that is not above 0.

    Paper: Lopez et al. 2018, Deep generative modeling for single-cell transcriptomics (scVI).

    Example:
        >>> from pyro_vae.likelihoods import NegativeBinomial
        >>> NegativeBinomial(MLP((7,)).decoder(2), (7,))(torch.zeros(8, 2)).mean.shape
        torch.Size([8, 7])
    """

    def __init__(
        self, decoder: nn.Module, shape: Shape, initial: float = 1.0, size_factor: bool = False
    ) -> None:
        super().__init__(decoder, size_factor)
        self.log_inverse = per_channel(log(number("initial", initial, above=0)), shape)

    def forward(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        (log_rate,) = self.raw(z)
        logits = self.sized(log_rate, z, context) - self.log_inverse
        return self.event(dist.NegativeBinomial(self.log_inverse.exp(), logits=logits), z)


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """Counts with additional zeros: a negative binomial, or 0 with a probability of its own.

    Equation: P(x_i | z) = π_i [x_i = 0] + (1 - π_i) NB(x_i; μ_i, θ_c). μ, θ and the size factor are
    those of ``negative-binomial``; π(z) is the sigmoid of the decoder's second output.

    Args:
        decoder: network from ``[*, Z]`` to ``[*, 2C, *sides]``.
        shape: the shape of one observation.
        initial: θ at the start.
        size_factor: whether the context is the size factor l, ``[B]`` or ``[B, 1]``; else l = 1.

    Raises:
        InputError: as ``negative-binomial``.

    Paper: Lopez et al. 2018, Deep generative modeling for single-cell transcriptomics (scVI).

    Example:
        >>> from pyro_vae.likelihoods import ZeroInflatedNegativeBinomial
        >>> decoder = MLP((7,)).decoder(2, ZeroInflatedNegativeBinomial.outputs)
        >>> ZeroInflatedNegativeBinomial(decoder, (7,))(torch.zeros(8, 2)).mean.shape
        torch.Size([8, 7])
    """

    outputs = 2

    def forward(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        log_rate, gate = self.raw(z)
        logits = self.sized(log_rate, z, context) - self.log_inverse
        total = self.log_inverse.exp()
        p = dist.ZeroInflatedNegativeBinomial(total, logits=logits, gate_logits=gate)
        return self.event(p, z)

    def start(self, mean: Tensor) -> None:
        channels = len(mean)
        gate = torch.tensor(0.1)  # π at the start; the counts then have the mean m / (1 - π)

        def link(both: Tensor) -> Tensor:
            means = both[:channels]
            return torch.cat([log_of(means / (1 - gate)), gate.logit().expand_as(means)])

        start_at(self.decoder, 1, torch.cat([mean, mean]), link)

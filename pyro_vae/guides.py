"""Guides q(z | x): modules whose ``forward(x)`` gives a distribution over ``z``, ``[B, Z]``.

A guide asks for what it needs by the names of its arguments: ``encoder``, a network from images
``[*, C, H, W]`` to features ``[*, F]`` with ``out_features`` = F, and ``latent_size``.
"""

from __future__ import annotations

from typing import Any

from pyro.distributions import Distribution, Normal
from torch import Tensor, nn

from .parts import InputError, build
from .scales import SCALES


class MeanField(nn.Module):
    """A Normal with independent dimensions; the encoder gives μ and, by default, log σ².

    Equation: q(z | x) = Π_d N(z_d; μ_d(x), σ_d(x)²), σ = exp(½ log σ²).

    Args:
        encoder: network to features.
        latent_size: number of latent dimensions Z.
        scale: how the encoder's second output becomes σ, a name of
            :data:`~pyro_vae.scales.SCALES`.

    Paper: Kingma & Welling 2014, Auto-Encoding Variational Bayes.

    Example:
        >>> encoder = MLP((1, 28, 28)).encoder()
        >>> MeanField(encoder, 20)(torch.rand(8, 1, 28, 28)).mean.shape
        torch.Size([8, 20])
    """

    def __init__(self, encoder: nn.Module, latent_size: int, scale: Any = "log-variance") -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(features(encoder), 2 * latent_size)
        self.scale = build("scale", scale, SCALES)

    def forward(self, x: Tensor) -> Distribution:
        loc, raw = self.head(self.encoder(x)).chunk(2, -1)  # each [B, Z]
        return Normal(loc, self.scale(raw)).to_event(1)


def features(encoder: nn.Module) -> int:
    """How many features an encoder ends in."""
    if not isinstance(size := getattr(encoder, "out_features", None), int):
        raise InputError(
            f"the encoder {type(encoder).__name__} does not say how many features it ends in; give "
            "it an attribute out_features"
        )
    return size


GUIDES = {"mean-field": MeanField}

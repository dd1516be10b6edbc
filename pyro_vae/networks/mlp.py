"""Fully connected networks."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import nn

from ..contracts import Network
from ..latents import Layout, Shape
from ..options import flag
from .layers import Layers, dense, numbers, widths


class MLP(Network):
    """Fully connected layers on the flattened observation, of any shape.

    Args:
        shape: the shape of one observation.
        hidden: units of the encoder's layers; the decoder has them in reverse.
        activation: a name of :data:`~pyro_vae.networks.ACTIVATIONS`.
        middle: units of the network between two layers of latents; None for those of ``hidden``.
        batch_norm: whether batch normalization precedes each activation (Ioffe & Szegedy 2015).
            In training mode the features of an image then depend on its batch. ``fit`` leaves the
            VAE in evaluation mode (``vae.eval()``), where they do not.

    Example:
        >>> from pyro_vae.networks import MLP
        >>> MLP((1, 28, 28), hidden=(400,)).encoder().out_features
        400
    """

    def __init__(
        self,
        shape: Shape,
        hidden: Sequence[int] = (400,),
        activation: str = "relu",
        middle: Sequence[int] | None = None,
        batch_norm: bool = False,
    ) -> None:
        self.shape = shape
        self.hidden = widths("hidden", hidden)
        self.activation = activation
        self.middle = self.hidden if middle is None else widths("middle", middle)
        self.batch_norm = flag("batch_norm", batch_norm)

    def encoder(self) -> Layers:
        sizes = (prod(self.shape), *self.hidden)
        layers = dense(sizes, self.activation, True, self.batch_norm)
        layers.insert(0, nn.Flatten(-len(self.shape)))  # [*, D]
        return layers

    def decoder(self, latent_size: int, outputs: int = 1) -> Layers:
        channels, *sides = self.shape
        sizes = (latent_size, *reversed(self.hidden), outputs * prod(self.shape))
        layers = dense(sizes, self.activation, False, self.batch_norm)
        layers.append(nn.Unflatten(-1, (outputs * channels, *sides)))  # [*, outputs·C, *sides]
        return layers

    def between(self, sources: Sequence[Layout], target: Layout) -> Layers:
        return dense((numbers(sources), *self.middle), self.activation, True, self.batch_norm)

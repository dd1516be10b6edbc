"""Encoders and decoders, without probability: the rows of :data:`NETWORKS`.

:class:`~pyro_vae.contracts.Network` is the contract.
"""

from ..registry import NETWORKS
from .conv import Conv
from .layers import (
    ACTIVATIONS,
    BatchNorm,
    ChannelNorm,
    Layers,
    PlaceByPlace,
    Sum,
    features,
    head,
    layout,
)
from .mlp import MLP
from .residual import Residual

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "NETWORKS",
    "BatchNorm",
    "ChannelNorm",
    "Conv",
    "Layers",
    "PlaceByPlace",
    "Residual",
    "Sum",
    "features",
    "head",
    "layout",
]

NETWORKS.update({"mlp": MLP, "conv": Conv, "residual": Residual})

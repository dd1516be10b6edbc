"""Likelihoods of pixels with finitely many values: 0 or 1, or 256 levels."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
from pyro.distributions import Distribution
from torch import Tensor, nn
from torch.distributions import constraints

from ..contracts import Likelihood
from ..networks.layers import start_at
from ..scales import SCALES
from . import pixels
from .located import Located, logit


class Bernoulli(Likelihood):
    """Entries that are 0 or 1; the decoder gives the logit of each.

    Equation: log p(x | z) = Σ_i x_i log p_i + (1 - x_i) log(1 - p_i), p = sigmoid(decoder(z)).

    Grey pixels are refused. The formula gives a number for them, but the number is not a density
    (Loaiza-Ganem & Cunningham 2019). When grey pixels are binarized, the grey value is the
    probability of drawing 1.

    Args:
        decoder: network from ``[*, Z]`` to ``[*, *shape]``.

    Raises:
        InputError: pixels other than 0 and 1.

    Paper: Kingma & Welling 2014, Auto-Encoding Variational Bayes, appendix C.1.

    Example:
        >>> from pyro_vae.likelihoods import Bernoulli
        >>> Bernoulli(MLP((1, 28, 28)).decoder(20))(torch.zeros(8, 20)).mean.shape
        torch.Size([8, 1, 28, 28])
    """

    support = constraints.boolean

    def forward(self, z: Tensor) -> Distribution:
        (logits,) = self.raw(z)
        # Likelihood.check has a clearer error than torch's check of the support.
        return self.event(dist.Bernoulli(logits=logits, validate_args=False), z)

    def start(self, mean: Tensor) -> None:
        start_at(self.decoder, self.outputs, mean, logit)


class DiscretizedLogistic(Located):
    """Pixels of 256 levels k/255: a rounded logistic; the decoder gives its location and scale.

    Equation: P(x_i = k/255) = S(k + ½) - S(k - ½), S(t) = sigmoid((t/255 - μ_i(z)) / s_i(z)). μ is
    the sigmoid of the decoder's first output.

    Args:
        decoder: network from ``[*, Z]`` to ``[*, 2C, *sides]``.
        scale: how the decoder's second output becomes s, a name of
            :data:`~pyro_vae.registry.SCALES`.
        bounded: whether the sigmoid keeps μ in [0, 1]; without it, μ is the output itself.

    Raises:
        InputError: pixels that are not k/255.

    Paper: Kingma et al. 2016, Improving variational inference with inverse autoregressive flow;
    Salimans et al. 2017, PixelCNN++.

    Example:
        >>> from pyro_vae.likelihoods import DiscretizedLogistic
        >>> decoder = MLP((1, 28, 28)).decoder(20, DiscretizedLogistic.outputs)
        >>> DiscretizedLogistic(decoder)(torch.zeros(8, 20)).mean.shape
        torch.Size([8, 1, 28, 28])
    """

    outputs = 2
    support = pixels.DiscretizedLogistic.support
    levels = 256

    def __init__(
        self,
        decoder: nn.Module,
        scale: Any = "log-variance-clamped(initial=0.1)",
        bounded: bool = True,
    ) -> None:
        super().__init__(decoder, bounded)
        self.scale = SCALES.build(scale)

    def forward(self, z: Tensor) -> Distribution:
        loc, raw = self.raw(z)  # each [*, *shape]
        return self.event(pixels.DiscretizedLogistic(self.loc(loc), self.scale(raw)), z)

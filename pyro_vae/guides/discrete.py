"""Guides of a one-of-K latent, alone or beside a continuous latent.

A one-of-K latent z is a vector of K numbers, one of them 1 and all others 0. K is the VAE's
``latent_size``. There are two ways to train it. Its site is marked for enumeration, so Pyro's
``TraceEnum_ELBO`` sums over its K values exactly. Or it is relaxed to positive numbers of sum 1,
whose draws have gradients (Gumbel-softmax). :mod:`~pyro_vae.priors.discrete` has the priors.
"""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from ..contracts import NOTHING, Given, Guide
from ..distributions import RelaxedOneHot, check_temperature
from ..errors import InputError
from ..latents import concatenate, sample_site
from ..networks import features
from ..priors.discrete import check_categories
from ..registry import GUIDES
from .inner import inner_guide


class CategoricalGuide(Guide):
    """A one-of-K latent; the encoder gives the logit of each of the K = Z classes.

    Equation: q(z = e_k | x) = softmax(logits(x))_k.

    Train it with an objective that sums over the K values (``enumerate``, ``TraceEnum_ELBO``). A
    draw has no gradient, and the score-function estimate of ``Trace_ELBO`` is noisy.

    Args:
        encoder: network to features.
        latent_size: number of classes K.

    Paper: Kingma et al. 2014, Semi-supervised learning with deep generative models, whose
    objective sums the class label out.

    Example:
        >>> from pyro_vae.guides import CategoricalGuide
        >>> encoder = MLP((1, 28, 28)).encoder()
        >>> CategoricalGuide(encoder, 10)(torch.rand(8, 1, 28, 28)).probs.shape
        torch.Size([8, 10])
    """

    default_prior = "categorical"

    def __init__(self, encoder: nn.Module, latent_size: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(features(encoder), latent_size)

    def forward(self, x: Tensor) -> Distribution:
        return dist.OneHotCategorical(logits=self.head(self.encoder(x)))  # [B], event [K]


class GumbelSoftmax(Guide):
    """A one-of-K latent relaxed to K positive numbers of sum 1, which has gradients.

    Equation: z = softmax((logits(x) + g) / T), g_k standard Gumbel.

    The bound is that of the relaxed model. Prior and guide are densities on the simplex, so its
    nats cannot be compared with those of the ``categorical`` guide.

    Args:
        encoder: network to features.
        latent_size: number of classes K.
        temperature: T. Towards 0, draws come close to one-of-K and gradients grow. The KL grows,
            too, if T is far below the temperature of the prior, which has its own option.

    Raises:
        InputError: a temperature that is not above 0, or too low for the type of the numbers.

    Paper: Jang, Gu & Poole 2017, Categorical reparameterization with Gumbel-softmax; Maddison,
    Mnih & Teh 2017, The concrete distribution, whose densities are used.

    Example:
        >>> from pyro_vae.guides import GumbelSoftmax
        >>> encoder = MLP((1, 28, 28)).encoder()
        >>> GumbelSoftmax(encoder, 10)(torch.rand(8, 1, 28, 28)).rsample().shape
        torch.Size([8, 10])
    """

    default_prior = "relaxed-categorical"
    temperature: Tensor

    def __init__(self, encoder: nn.Module, latent_size: int, temperature: float = 2 / 3) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(features(encoder), latent_size)
        value = torch.tensor(check_temperature(temperature))
        self.register_buffer("temperature", value, persistent=False)

    def forward(self, x: Tensor) -> Distribution:
        return RelaxedOneHot(self.temperature, logits=self.head(self.encoder(x)))  # [B], event [K]


class Features(nn.Module):
    """An encoder that gives its input back: the features are already computed."""

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.out_features = out_features

    def forward(self, h: Tensor) -> Tensor:
        return h


class JointGuide(Guide):
    """A continuous and a one-of-K latent side by side, at the sites "z" and "c".

    Equation: q(z, c | x) = q(z | x) q(c | x).

    Args:
        encoder: network to features, shared by the two.
        latent_size: size of z and c together; the decoder gets both.
        categories: number of classes of c.
        continuous: the guide of z, a name of :data:`~pyro_vae.registry.GUIDES` whose z is a real
            vector.
        discrete: the guide of c: ``gumbel-softmax``, or ``categorical`` to sum over c.

    Raises:
        InputError: fewer than 2 categories, no dimension left for z, or a guide of z or c of
            another kind.

    Paper: Dupont 2018, Learning disentangled joint continuous and discrete representations.

    Example:
        >>> vae = VAE((1, 28, 28), 20, guide="joint(categories=10)")
        >>> sorted(vae.encode(torch.rand(8, 1, 28, 28)))
        ['c', 'z']
    """

    def __init__(
        self,
        encoder: nn.Module,
        latent_size: int,
        categories: int = 10,
        continuous: Any = "mean-field",
        discrete: Any = "gumbel-softmax",
    ) -> None:
        super().__init__()
        check_categories("guide", categories, latent_size)
        self.sizes = [latent_size - categories, categories]
        self.encoder = encoder
        h = Features(features(encoder))
        self.z = inner_guide(continuous, "z", encoder=h, latent_size=self.sizes[0])
        self.c = GUIDES.build(discrete, encoder=h, latent_size=self.sizes[1])
        fitting = Guide.of(self.c).default_prior
        if fitting not in ("categorical", "relaxed-categorical"):
            raise InputError(
                f"the guide of c is categorical or gumbel-softmax, not {type(self.c).__name__}"
            )
        self.default_prior = f"joint(categories={categories}, discrete={fitting!r})"

    def takes(self, name: str) -> bool:
        """Whether the guide of z or of c takes it."""
        return any(Guide.of(part).takes(name) for part in (self.z, self.c))

    def sample_sites(self, x: Tensor, given: Given = NOTHING) -> Tensor:
        h = self.encoder(x)
        z, c = (Guide.of(part).run(h, given=given) for part in (self.z, self.c))
        return concatenate([sample_site("z", z), sample_site("c", c)])  # [*, B, Z]

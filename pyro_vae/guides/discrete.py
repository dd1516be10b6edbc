"""Discrete latents: the guides and the priors of a one-of-K latent, alone or beside a continuous z.

A one-of-K latent z is a vector of K zeros but for one 1, K being the VAE's ``latent_size``. It is
summed out exactly by Pyro's ``TraceEnum_ELBO``, since its site is marked for enumeration, or drawn
through a relaxation that has gradients (Gumbel-softmax). Each guide here names the prior that fits.
"""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from ..networks import features
from ..parts import InputError, build, number
from ..sites import draw, together


class Categorical(nn.Module):
    """A one-of-K latent; the encoder gives the logit of each of the K = Z classes.

    Equation: q(z = e_k | x) = softmax(logits(x))_k.

    Train it with an objective that sums over the K values (``TraceEnum_ELBO``): a draw has no
    gradient, and the score-function estimate of ``Trace_ELBO`` is noisy.

    Args:
        encoder: network to features.
        latent_size: number of classes K.

    Paper: Kingma et al. 2014, Semi-supervised learning with deep generative models, whose
    objective sums the class label out.

    Example:
        >>> encoder = MLP((1, 28, 28)).encoder()
        >>> Categorical(encoder, 10)(torch.rand(8, 1, 28, 28)).probs.shape
        torch.Size([8, 10])
    """

    default_prior = "categorical"

    def __init__(self, encoder: nn.Module, latent_size: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(features(encoder), latent_size)

    def forward(self, x: Tensor) -> Distribution:
        return dist.OneHotCategorical(logits=self.head(self.encoder(x)))  # [B], event [K]


class Relaxed(dist.RelaxedOneHotCategorical):
    """torch's relaxed one-of-K, its draws kept off 0, where the density is infinite.

    A draw's smallest numbers underflow at low temperatures; the smallest normal float stands for
    them.
    """

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        z = super().rsample(torch.Size(sample_shape))
        return z.clamp(min=torch.finfo(z.dtype).tiny)


class GumbelSoftmax(nn.Module):
    """A one-of-K latent relaxed to K positive numbers of sum 1, which has gradients.

    Equation: z = softmax((logits(x) + g) / T), g_k standard Gumbel.

    The bound is that of the relaxed model: prior and guide are densities on the simplex, so its
    nats are not those of the ``categorical`` guide.

    Args:
        encoder: network to features.
        latent_size: number of classes K.
        temperature: T; draws come close to one-of-K as it goes to 0, and gradients grow.

    Raises:
        InputError: a temperature that is not above 0.

    Paper: Jang, Gu & Poole 2017, Categorical reparameterization with Gumbel-softmax; Maddison,
    Mnih & Teh 2017, The concrete distribution, whose densities are used.

    Example:
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
        temperature = float(number("temperature", temperature, above=0))
        self.register_buffer("temperature", torch.tensor(temperature), persistent=False)

    def forward(self, x: Tensor) -> Distribution:
        return Relaxed(self.temperature, logits=self.head(self.encoder(x)))  # [B], event [K]


DISCRETE = {"categorical": Categorical, "gumbel-softmax": GumbelSoftmax}


class Features(nn.Module):
    """The encoder of a guide whose features are there already."""

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.out_features = out_features

    def forward(self, h: Tensor) -> Tensor:
        return h


class Joint(nn.Module):
    """A continuous and a one-of-K latent side by side, the sites "z" and "c".

    Equation: q(z, c | x) = q(z | x) q(c | x); the decoder gets (z, c).

    Args:
        encoder: network to features, shared by the two.
        latent_size: numbers that the decoder gets; ``latent_size - categories`` of them are z.
        categories: number of classes of c.
        continuous: the guide of z: a name of :data:`~pyro_vae.guides.GUIDES`.
        discrete: the guide of c: ``gumbel-softmax``, or ``categorical`` to sum c out.

    Raises:
        InputError: fewer than 2 categories, or no room left for z.

    Paper: Dupont 2018, Learning disentangled joint continuous and discrete representations.

    Example:
        >>> vae = VAE((1, 28, 28), 20, guide="joint(categories=10)")
        >>> sorted(vae.encode(torch.rand(8, 1, 28, 28)))
        ['c', 'z']
    """

    default_prior = "joint"

    def __init__(
        self,
        encoder: nn.Module,
        latent_size: int,
        categories: int = 10,
        continuous: Any = "mean-field",
        discrete: Any = "gumbel-softmax",
    ) -> None:
        super().__init__()
        from . import GUIDES  # which holds this class

        if categories not in range(2, latent_size):
            raise InputError(
                f"categories is between 2 and the latent size {latent_size} less 1, which z needs, "
                f"not {categories}"
            )
        self.sizes = [latent_size - categories, categories]
        self.encoder = encoder
        h = Features(features(encoder))
        self.z = build("guide", continuous, GUIDES, encoder=h, latent_size=self.sizes[0])
        self.c = build("guide", discrete, DISCRETE, encoder=h, latent_size=self.sizes[1])

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        return together([draw("z", self.z(h)), draw("c", self.c(h))])  # [*, B, Z]


class CategoricalPrior(nn.Module):
    """A one-of-K latent, each value as probable as the next: fits the guide ``categorical``.

    Equation: p(z = e_k) = 1 / K.

    Args:
        latent_size: number of classes K.

    Paper: Kingma et al. 2014, Semi-supervised learning with deep generative models.

    Example:
        >>> CategoricalPrior(10)().log_prob(torch.eye(10)).exp()[0]
        tensor(0.1000)
    """

    zero: Tensor

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(latent_size), persistent=False)

    def forward(self) -> Distribution:
        return dist.OneHotCategorical(logits=self.zero)


class RelaxedCategoricalPrior(nn.Module):
    """A relaxed one-of-K latent without preference: fits the guide ``gumbel-softmax``.

    Equation: z = softmax(g / T), g_k standard Gumbel.

    Args:
        latent_size: number of classes K.
        temperature: T, that of the prior's own relaxation.

    Raises:
        InputError: a temperature that is not above 0.

    Paper: Maddison, Mnih & Teh 2017, The concrete distribution.

    Example:
        >>> RelaxedCategoricalPrior(10)().sample().shape
        torch.Size([10])
    """

    zero: Tensor
    temperature: Tensor

    def __init__(self, latent_size: int, temperature: float = 0.5) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(latent_size), persistent=False)
        temperature = float(number("temperature", temperature, above=0))
        self.register_buffer("temperature", torch.tensor(temperature), persistent=False)

    def forward(self) -> Distribution:
        return Relaxed(self.temperature, logits=self.zero)


class JointPrior(nn.Module):
    """A standard Normal "z" and the one-of-K "c" that fits the guide ``joint``.

    Equation: p(z, c) = N(z; 0, I) p(c), p(c) as ``categorical`` or ``relaxed-categorical``.

    Args:
        posterior: the guide, which says how many categories there are and of which kind.

    Raises:
        InputError: a guide that is not ``joint``.

    Paper: Dupont 2018, Learning disentangled joint continuous and discrete representations.

    Example:
        >>> VAE((1, 28, 28), 20, guide="joint", prior="joint").sample(3).shape
        torch.Size([3, 1, 28, 28])
    """

    zero: Tensor

    def __init__(self, posterior: nn.Module) -> None:
        super().__init__()
        if not isinstance(posterior, Joint):
            raise InputError(
                f"the joint prior fits the guide joint, not the {type(posterior).__name__} guide"
            )
        size, categories = posterior.sizes
        self.register_buffer("zero", torch.zeros(size), persistent=False)
        relaxed = posterior.c.default_prior == "relaxed-categorical"
        self.c = (RelaxedCategoricalPrior if relaxed else CategoricalPrior)(categories)

    def forward(self) -> Tensor:
        z = draw("z", dist.Normal(self.zero, torch.ones_like(self.zero)).to_event(1))
        return together([z, draw("c", self.c())])  # [*, B, Z]

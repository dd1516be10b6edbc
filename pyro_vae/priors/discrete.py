"""Priors of a one-of-K latent, alone or beside a continuous latent.

:mod:`~pyro_vae.guides.discrete` has the guides that fit them, and explains one-of-K latents.
"""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor

from ..contracts import NOTHING, Given, Prior
from ..distributions import RelaxedOneHot, check_temperature, standard_normal
from ..errors import InputError
from ..latents import concatenate, sample_site
from ..options import is_whole
from ..registry import PRIORS


class CategoricalPrior(Prior):
    """A one-of-K latent with equal probabilities. It fits the guide ``categorical``.

    Equation: p(z = e_k) = 1 / K.

    Args:
        latent_size: number of classes K.

    Paper: Kingma et al. 2014, Semi-supervised learning with deep generative models.

    Example:
        >>> from pyro_vae.priors import CategoricalPrior
        >>> CategoricalPrior(10)().log_prob(torch.eye(10)).exp()[0]
        tensor(0.1000)
    """

    zero: Tensor

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(latent_size), persistent=False)

    def forward(self) -> Distribution:
        return dist.OneHotCategorical(logits=self.zero)


class RelaxedCategoricalPrior(Prior):
    """A relaxed one-of-K latent with equal probabilities. It fits the guide ``gumbel-softmax``.

    Equation: z = softmax(g / T), g_k standard Gumbel.

    Args:
        latent_size: number of classes K.
        temperature: T of the prior's own relaxation.

    Raises:
        InputError: a temperature that is not above 0, or too low for the type of the numbers.

    Paper: Maddison, Mnih & Teh 2017, The concrete distribution.

    Example:
        >>> from pyro_vae.priors import RelaxedCategoricalPrior
        >>> RelaxedCategoricalPrior(10)().sample().shape
        torch.Size([10])
    """

    zero: Tensor
    temperature: Tensor

    def __init__(self, latent_size: int, temperature: float = 0.5) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(latent_size), persistent=False)
        value = torch.tensor(check_temperature(temperature))
        self.register_buffer("temperature", value, persistent=False)

    def forward(self) -> Distribution:
        return RelaxedOneHot(self.temperature, logits=self.zero)


class JointPrior(Prior):
    """A standard Normal "z" and a one-of-K "c" side by side. It fits the guide ``joint``.

    Equation: p(z, c) = N(z; 0, I) p(c), p(c) as ``categorical`` or ``relaxed-categorical``.

    Without options in its name, the options are those that fit the guide.

    Args:
        latent_size: size of z and c together.
        categories: number of classes of c.
        discrete: the prior of c: ``relaxed-categorical`` or ``categorical``.

    Raises:
        InputError: fewer than 2 categories, or no dimension left for z.

    Paper: Dupont 2018, Learning disentangled joint continuous and discrete representations.

    Example:
        >>> VAE((1, 28, 28), 20, guide="joint", prior="joint").sample(3).shape
        torch.Size([3, 1, 28, 28])
    """

    zero: Tensor

    def __init__(
        self, latent_size: int, categories: int = 10, discrete: Any = "relaxed-categorical"
    ) -> None:
        super().__init__()
        check_categories("prior", categories, latent_size)
        zero = torch.zeros(latent_size - categories)
        self.register_buffer("zero", zero, persistent=False)
        self.c = PRIORS.build(discrete, latent_size=categories)

    def sample_sites(self, given: Given = NOTHING) -> Tensor:
        z = sample_site("z", standard_normal(self.zero))
        return concatenate([z, sample_site("c", Prior.of(self.c).run(given=given))])  # [*, B, Z]


def check_categories(kind: str, categories: Any, latent_size: int) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` unless ``categories`` leaves room for z."""
    if not is_whole(categories) or not 2 <= categories < latent_size:
        raise InputError(
            f"categories of the joint {kind} is a whole number between 2 and the latent size "
            f"{latent_size} less 1, which z needs, not {categories!r}"
        )

"""The prior of a label beside a continuous latent."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..contracts import NOTHING, Given, Prior
from ..errors import InputError
from ..labels import LABEL, LabelPrior
from ..latents import concatenate, sample_site
from ..registry import PRIORS


class LabelledPrior(Prior):
    """A label "y", where it is not known, and a continuous latent "z". It fits ``labelled``.

    Equation: p(y, z) = p(y) p(z), p(y) = 1 / K.

    The context is the label of each row, or -1. A draw of y is the label where it is known.

    Args:
        latent_size: number of latent dimensions Z of z; the decoder gets z and y.
        context_size: number of classes K.
        continuous: the prior of z, a name of :data:`~pyro_vae.registry.PRIORS`.

    Raises:
        InputError: a prior of z that takes a context or has several sites.

    Paper: Kingma et al. 2014, Semi-supervised learning with deep generative models, model M2.

    Example:
        >>> vae = VAE((1, 28, 28), 20, guide="labelled", condition=10)
        >>> vae.sample(3, given=7).shape
        torch.Size([3, 1, 28, 28])
    """

    zero: Tensor

    def __init__(
        self, latent_size: int, context_size: int, continuous: Any = "standard-normal"
    ) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(context_size), persistent=False)
        self.z = PRIORS.build(
            continuous,
            latent_size=latent_size,
            unavailable={
                "context_size": "has a context, which the prior of z has not; see labelled"
            },
        )
        part = Prior.checked(self.z)
        if not part.has_one_site() or part.takes("context"):
            raise InputError(
                f"the prior of z is one of a real vector without a context, not {continuous!r}"
            )

    def takes(self, name: str) -> bool:
        """The label, as the context."""
        return name == "context"

    def sample_sites(self, given: Given = NOTHING) -> Tensor:
        y = sample_site(LABEL, LabelPrior(self.zero, given.context))  # [*, B, K]
        z = sample_site("z", Prior.of(self.z).run(given=NOTHING))
        return concatenate([z, y])  # [*, B, Z + K]

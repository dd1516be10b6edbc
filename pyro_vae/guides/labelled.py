"""The guide of a label beside a continuous latent: the label is inferred where it is not known."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from ..contracts import NOTHING, Given, Guide
from ..labels import LABEL, LabelPosterior
from ..latents import concatenate, sample_site
from ..networks import features
from .discrete import Features
from .inner import inner_guide


class LabelledGuide(Guide):
    """A label "y", inferred from x where it is not known, and a continuous latent "z" given both.

    Equation: q(y, z | x) = q(y | x) q(z | x, y); where y is known, q(y | x) is a point.

    The context is the label of each row, or -1 if it is not known. Train it with the objective
    ``m2``, which sums y out where it is not known.

    Two networks see x: one gives q(y | x), the other features that a layer mixes with y.

    Args:
        encoder: network to features.
        latent_size: number of latent dimensions Z of z.
        context_size: number of classes K.
        continuous: the guide of z, a name of :data:`~pyro_vae.registry.GUIDES` whose z is a real
            vector.

    Paper: Kingma et al. 2014, Semi-supervised learning with deep generative models, model M2.

    Example:
        >>> vae = VAE((1, 28, 28), 20, guide="labelled", condition=10)
        >>> vae.predict(torch.rand(8, 1, 28, 28)).shape
        torch.Size([8, 10])
    """

    default_prior = "labelled"
    infers_labels = True

    def __init__(
        self,
        encoder: nn.Module,
        latent_size: int,
        context_size: int,
        continuous: Any = "mean-field",
    ) -> None:
        super().__init__()
        size = features(encoder)
        self.encoder = encoder
        self.classifier = nn.Sequential(copy.deepcopy(encoder), nn.Linear(size, context_size))
        self.mix = nn.Sequential(nn.Linear(size + context_size, size), nn.ReLU())
        self.z = inner_guide(continuous, "z", encoder=Features(size), latent_size=latent_size)

    def takes(self, name: str) -> bool:
        """The label, as the context."""
        return name == "context" or Guide.of(self.z).takes(name)

    def sample_sites(self, x: Tensor, given: Given = NOTHING) -> Tensor:
        y = sample_site(LABEL, LabelPosterior(self.classifier(x), given.context))  # [*, B, K]
        h = self.mix(concatenate([self.encoder(x), y]))
        z = sample_site("z", Guide.of(self.z).run(h, given=given))
        return concatenate([z, y])  # [*, B, Z + K]

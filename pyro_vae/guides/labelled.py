"""Guides of a label, or of a real target, beside a continuous latent: y is inferred from x."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import linear

from ..contracts import NOTHING, Given, Guide
from ..labels import LABEL, LabelPosterior, TargetPosterior
from ..latents import concatenate, sample_site
from ..networks import features
from ..priors.labelled import hold_scaling
from ..scales import SCALES
from .discrete import Features
from .inner import inner_guide


class GuideOfY(Guide):
    """Base of both: q(y | x) q(z | x, y). A subclass samples y in :meth:`sample_y`.

    Two networks see x: one gives q(y | x), the other features that a layer mixes with y.

    Args:
        encoder, latent_size, continuous: as for :class:`LabelledGuide`.
        size: how many numbers y is.
        outputs: how many numbers q(y | x) is made of.
    """

    def __init__(
        self, encoder: nn.Module, latent_size: int, size: int, outputs: int, continuous: Any
    ) -> None:
        super().__init__()
        width = features(encoder)
        self.encoder = encoder
        self.classifier = nn.Sequential(copy.deepcopy(encoder), nn.Linear(width, outputs))
        self.mix = nn.Sequential(nn.Linear(width + size, width), nn.ReLU())
        self.z = inner_guide(continuous, "z", encoder=Features(width), latent_size=latent_size)

    def takes(self, name: str) -> bool:
        """y where it is known, as the context."""
        return name == "context" or Guide.of(self.z).takes(name)

    def sample_y(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Sample the site "y", and give it as the numbers that q(z | x, y) sees, ``[*, B, size]``.

        Args:
            x: what the encoder sees.
            context: the encoded y of each row; None if none is known.
        """
        raise NotImplementedError

    def sample_sites(self, x: Tensor, given: Given = NOTHING) -> Tensor:
        y = self.sample_y(x, given.context)
        z = sample_site("z", Guide.of(self.z).run(self.mixed(x, y), given=given))
        return concatenate([z, y])  # [*, B, Z + size]

    def mixed(self, x: Tensor, y: Tensor) -> Tensor:
        """``mix`` of the features of x and y, ``[*, B, width]``.

        The features are the same for all classes, so their matrix product is computed once.
        """
        layer: Any = self.mix[0]
        of_x, of_y = layer.weight.split([layer.out_features, y.shape[-1]], -1)
        return self.mix[1](linear(self.encoder(x), of_x, layer.bias) + linear(y, of_y))


class LabelledGuide(GuideOfY):
    """A label "y", inferred from x where it is not known, and a continuous latent "z" given both.

    Equation: q(y, z | x) = q(y | x) q(z | x, y); where y is known, q(y | x) is a point.

    The context is the label of each row, or -1 if it is not known. Train it with the objective
    ``m2``, which sums y out where it is not known.

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
        super().__init__(encoder, latent_size, context_size, context_size, continuous)

    def sample_y(self, x: Tensor, context: Tensor | None) -> Tensor:
        return sample_site(LABEL, LabelPosterior(self.classifier(x), context))  # [*, B, K]


class TargetedGuide(GuideOfY):
    """A real target "y", inferred from x where it is not known, and "z" given both.

    Equation: q(y, z | x) = N(y; m + s μ(x), (s σ(x))²) q(z | x, y); where y is known, q(y | x) is
    a point. m and s are the mean and the standard deviation of the known targets.

    The context is the target of each row in its own units, ``[B, n]``, or NaN if it is not known.
    Train it with the objective ``m2-real``, which draws y where it is not known.

    Args:
        encoder, latent_size, continuous: as for :class:`LabelledGuide`.
        context_size: number of targets n.
        context_scaling: m and s, ``[n]`` each; None is 0 and 1.
        scale: how the network gives σ, a name of :data:`~pyro_vae.registry.SCALES`.

    Paper: Kingma et al. 2014, Semi-supervised learning with deep generative models, model M2, with
    a Normal in place of the classes.

    Example:
        >>> vae = VAE((5,), 2, likelihood="student-t", guide="targeted", condition=(1,))
        >>> mean, scale = vae.predict(torch.rand(8, 5))
        >>> mean.shape, scale.shape
        (torch.Size([8, 1]), torch.Size([8, 1]))
    """

    default_prior = "targeted"
    infers_targets = True
    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        latent_size: int,
        context_size: int,
        context_scaling: tuple[Tensor, Tensor] | None = None,
        continuous: Any = "mean-field",
        scale: Any = "log-variance",
    ) -> None:
        super().__init__(encoder, latent_size, context_size, 2 * context_size, continuous)
        hold_scaling(self, context_scaling, context_size)
        self.spread = SCALES.build(scale)

    def sample_y(self, x: Tensor, context: Tensor | None) -> Tensor:
        loc, raw = self.classifier(x).chunk(2, -1)
        loc, scale = self.loc + self.scale * loc, self.scale * self.spread(raw)
        y = sample_site(LABEL, TargetPosterior(loc, scale, context).to_event(1))  # [*, B, n]
        return (y - self.loc) / self.scale

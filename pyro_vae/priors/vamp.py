"""The VampPrior: a prior that is made of the guide."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from ..contracts import Borrowed, Guide, Prior
from ..errors import InputError
from ..latents import Shape
from ..modules import mode
from ..options import at_least_one


class VampPrior(Prior):
    """The VampPrior: the mixture of the guide's posteriors at learned pseudo-images.

    Equation: p(z) = 1/K Σ_k q(z | u_k), u_k an image with pixels in [0, 1], or with ``scaling`` an
    observation of real numbers. If the encoder sees a mask or a context beside x, so has u_k.

    The prior computes the guide in evaluation mode, in training, too. So batch normalization uses
    its running statistics: the pseudo-images neither change them nor are normalised by each other,
    and the prior is the same function in training and afterwards.

    Args:
        shape: the shape of what the guide is handed.
        posterior: the guide. The prior computes its distribution at the pseudo-images.
        components: number of pseudo-images K.
        scaling: the mean m and the standard deviation s of each channel of x. The pseudo-images are
            then m + s · weights, and else the sigmoid of the weights.

    Raises:
        InputError: fewer than 1 component, a guide of several latent sites, or one that takes a
            context.

    Paper: Tomczak & Welling 2018, VAE with a VampPrior.

    Example:
        >>> VAE((1, 28, 28), 20, prior="vamp(components=100)").sample(3).shape
        torch.Size([3, 1, 28, 28])
    """

    centre: Tensor | None
    unit: Tensor | None

    def __init__(
        self,
        shape: Shape,
        posterior: nn.Module,
        components: int = 100,
        scaling: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        at_least_one("components", components)
        guide = Guide.of(posterior)
        if not guide.has_one_site():
            raise InputError(
                "the vamp prior needs a guide that gives one distribution, which the "
                f"{type(posterior).__name__} guide does not; take the prior {guide.default_prior}"
            )
        if guide.takes("context"):
            raise InputError(
                "the vamp prior runs the guide on its pseudo-images without a context, and the "
                f"forward of {guide.name()} takes one; take another prior"
            )
        self.logits = nn.Parameter(torch.randn(components, *shape))  # of the pixels
        self.borrowed = Borrowed(posterior)
        for name, value in zip(("centre", "unit"), scaling or (None, None), strict=True):
            self.register_buffer(name, value, persistent=False)

    @property
    def posterior(self) -> Any:
        """The guide. It owns the weights; this prior only uses them."""
        return self.borrowed.module

    def pseudo_images(self) -> Tensor:
        """u_1, …, u_K, ``[K, *shape]``."""
        if self.centre is None or self.unit is None:
            return self.logits.sigmoid()
        return self.centre + self.unit * self.logits

    def forward(self) -> Distribution:
        with mode(False, self.posterior):
            each = self.posterior(self.pseudo_images())  # batch [K]
        equal = dist.Categorical(logits=self.logits.new_zeros(len(self.logits)))
        return dist.MixtureSameFamily(equal, each)

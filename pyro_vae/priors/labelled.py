"""The priors of a label, or of a real target, beside a continuous latent."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..contracts import NOTHING, Given, Prior
from ..errors import InputError
from ..labels import LABEL, LabelPrior, TargetPrior
from ..latents import concatenate, sample_site
from ..registry import PRIORS

FITTING = "take one of a real vector alone, such as standard-normal, mixture or flow"
NOT_BESIDE_Y = ("context_size", "posterior", "latent_layers")
"""What the prior of z beside y cannot ask for."""


class LabelledPrior(Prior):
    """A label "y", where it is not known, and a continuous latent "z". It fits ``labelled``.

    Equation: p(y, z) = p(y) p(z), p(y) = 1 / K.

    The context is the label of each row, or -1. A draw of y is the label where it is known.

    Args:
        latent_size: number of latent dimensions Z of z; the decoder gets z and y.
        context_size: number of classes K.
        continuous: the prior of z, a name of :data:`~pyro_vae.registry.PRIORS`.

    Raises:
        InputError: a prior of z that needs a context or the guide, or has several sites.

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
        self.z = prior_of_z(continuous, latent_size)

    def takes(self, name: str) -> bool:
        """The label, as the context."""
        return name == "context"

    def sample_sites(self, given: Given = NOTHING) -> Tensor:
        y = sample_site(LABEL, LabelPrior(self.zero, given.context))  # [*, B, K]
        z = sample_site("z", Prior.of(self.z).run(given=NOTHING))
        return concatenate([z, y])  # [*, B, Z + K]


class TargetedPrior(Prior):
    """A real target "y", where it is not known, and a continuous latent "z". It fits ``targeted``.

    Equation: p(y, z) = N(y; m, s²) p(z), with the mean m and the standard deviation s of the
    targets that are known in training. The decoder gets z and (y - m) / s.

    The context is the target of each row, or NaN. A draw of y is the target where it is known.

    Args:
        latent_size: number of latent dimensions Z of z.
        context_size: number of targets n.
        context_scaling: m and s, ``[n]`` each; None is 0 and 1.
        continuous: as for :class:`LabelledPrior`.

    Raises:
        InputError: as for :class:`LabelledPrior`.

    Paper: Kingma et al. 2014, Semi-supervised learning with deep generative models, model M2, with
    a Normal in place of the classes.

    Example:
        >>> vae = VAE((5,), 2, likelihood="student-t", guide="targeted", condition=(1,))
        >>> vae.sample(3, given=0.5).shape
        torch.Size([3, 5])
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        latent_size: int,
        context_size: int,
        context_scaling: tuple[Tensor, Tensor] | None = None,
        continuous: Any = "standard-normal",
    ) -> None:
        super().__init__()
        hold_scaling(self, context_scaling, context_size)
        self.z = prior_of_z(continuous, latent_size)

    def takes(self, name: str) -> bool:
        """The target, as the context."""
        return name == "context"

    def sample_sites(self, given: Given = NOTHING) -> Tensor:
        p = TargetPrior(self.loc, self.scale, given.context)
        y = sample_site(LABEL, p.to_event(1))  # [*, B, n]
        z = sample_site("z", Prior.of(self.z).run(given=NOTHING))
        return concatenate([z, (y - self.loc) / self.scale])  # [*, B, Z + n]


def prior_of_z(spec: Any, latent_size: int) -> nn.Module:
    """The prior of a real vector z without a context, beside y.

    Raises:
        InputError: a prior that needs a context or the guide, or has several sites.
    """
    why = f"cannot be the prior of z beside y; {FITTING}"
    z = PRIORS.build(spec, latent_size=latent_size, unavailable=dict.fromkeys(NOT_BESIDE_Y, why))
    part = Prior.checked(z)
    if not part.has_one_site() or part.takes("context"):
        raise InputError(f"{spec!r} cannot be the prior of z beside y; {FITTING}")
    return z


def hold_scaling(part: nn.Module, scaling: tuple[Tensor, Tensor] | None, size: int) -> None:
    """Give a part the buffers ``loc`` and ``scale``, ``[size]`` each: 0 and 1 if ``scaling`` is
    None. They are settings of the VAE, so they are not saved with the weights."""
    loc, scale = (torch.zeros(size), torch.ones(size)) if scaling is None else scaling
    part.register_buffer("loc", loc.clone(), persistent=False)
    part.register_buffer("scale", scale.clone(), persistent=False)

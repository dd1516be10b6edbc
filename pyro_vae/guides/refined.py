"""The semi-amortized guide: what the encoder says of an image, refined on that image."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from ..networks import features
from ..parts import InputError, at_least_one, number
from ..sites import scores


class SemiAmortized(nn.Module):
    """A mean-field Normal, refined by gradient steps on each image's own ELBO.

    Equation: λ_0 = (μ, log σ²) from the encoder; λ_{s+1} = λ_s + rate · F⁻¹ ∇_λ L(x; λ_s), where L
    is the ELBO at weight 1 and F the Normal's Fisher information (1/σ² for μ, ½ for log σ²);
    q = N(μ_S, σ_S²).

    The steps are natural-gradient ones, so that one rate serves every model; none moves μ by more
    than ``rate`` σ or log σ² by more than ``rate``. L is taken at fixed points μ ± σ ⊙ signs, the
    same for all images, so that q is a function of the image without randomness of its own. In
    training, gradients run through the steps, to the encoder and to the decoder.

    Args:
        encoder: network to features.
        latent_size: number of latent dimensions Z.
        steps: gradient steps for each image.
        rate: length of a step; 1 is Newton's for a Normal posterior without correlations.
        draws: pairs of points μ ± σ ⊙ signs at which L is taken.

    Raises:
        InputError: fewer than 1 step or draw, a rate outside (0, 1], or a prior that is no
            distribution of a real vector or is itself made of this guide.

    Paper: Kim et al. 2018, Semi-amortized variational autoencoders.

    Example:
        >>> vae = VAE((1, 28, 28), 20, guide="semi-amortized(steps=3)")
        >>> vae.encode(torch.rand(8, 1, 28, 28).round()).mean.shape
        torch.Size([8, 20])
    """

    signs: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        latent_size: int,
        steps: int = 5,
        rate: float = 0.3,
        draws: int = 2,
    ) -> None:
        super().__init__()
        at_least_one("steps", steps)
        at_least_one("draws", draws)
        if number("rate", rate, above=0) > 1:
            raise InputError(f"the rate of a refining step is at most 1, not {rate}")
        self.encoder = encoder
        self.head = nn.Linear(features(encoder), 2 * latent_size)
        self.steps = steps
        self.rate = rate
        # Signs have square 1 as a standard Normal's draws have on average: for a quadratic
        # log p(x, z), its curvature along each dimension enters L without error.
        half = torch.randint(2, (draws, 1, latent_size)) * 2.0 - 1  # [draws, 1, Z]
        self.register_buffer("signs", torch.cat([half, -half]))  # [2 draws, 1, Z]
        self.model: tuple[Any, ...] = ()

    def attach(self, model: Any) -> None:
        """Tell the guide the model whose ELBO it climbs: ``model.prior``, ``model.likelihood``."""
        if getattr(model.prior, "posterior", None) is self:
            raise InputError(
                f"the semi-amortized guide is refined by the prior, and the prior "
                f"{type(model.prior).__name__} is made of the guide; take another prior"
            )
        with torch.random.fork_rng(devices=[]):
            prior = model.prior()
        if not (
            isinstance(prior, torch.distributions.Distribution)
            and prior.event_shape == self.signs.shape[-1:]
            and scores(prior, self.signs)
        ):
            raise InputError(
                f"the semi-amortized guide's z is one real vector of {self.signs.shape[-1]} "
                f"numbers, which the prior {type(model.prior).__name__} does not score"
            )
        # In a tuple, out of torch's sight: the model's weights belong to the model alone.
        self.model = (model,)

    def elbo(self, x: Tensor, loc: Tensor, logvar: Tensor) -> Tensor:
        """L of all images together, up to a constant."""
        (model,) = self.model
        z = loc + (0.5 * logvar).exp() * self.signs  # [2 draws, B, Z]
        log_joint = model.prior().log_prob(z) + model.likelihood(z).log_prob(x)
        return log_joint.mean(0).sum() + 0.5 * logvar.sum()

    def forward(self, x: Tensor) -> Distribution:
        if not self.model:
            raise InputError("the semi-amortized guide has no model; call attach(model) first")
        learning = torch.is_grad_enabled()
        loc, logvar = self.head(self.encoder(x)).chunk(2, -1)  # each [B, Z]
        with torch.enable_grad():
            for _ in range(self.steps):
                if not loc.requires_grad:
                    loc, logvar = loc.requires_grad_(), logvar.requires_grad_()
                slope, curve = torch.autograd.grad(
                    self.elbo(x, loc, logvar), (loc, logvar), create_graph=learning
                )
                scale = (0.5 * logvar).exp()
                loc = loc + self.rate * scale * (scale * slope).clamp(-1, 1)
                logvar = logvar + self.rate * (2 * curve).clamp(-1, 1)
                if not learning:
                    loc, logvar = loc.detach(), logvar.detach()
        return dist.Normal(loc, (0.5 * logvar).exp()).to_event(1)

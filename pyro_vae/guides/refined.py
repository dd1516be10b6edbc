"""The semi-amortized guide: the encoder's posterior, refined by gradient steps on each image."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from ..contracts import ATTACHED, NOTHING, Borrowed, Given, Guide, Likelihood, Prior
from ..errors import InputError
from ..holes import fill, of_observed
from ..joining import beside
from ..latents import in_support
from ..networks import features
from ..options import at_least_one, number


class SemiAmortized(Guide):
    """A mean-field Normal, refined by gradient steps on the ELBO of each image.

    Equation: λ_0 = (μ, log σ²) from the encoder; λ_{s+1} = λ_s + rate · F⁻¹ ∇_λ L(x; λ_s), where L
    is the ELBO at weight 1 and F the Normal's Fisher information (1/σ² for μ, ½ for log σ²);
    q = N(μ_S, σ_S²).

    The steps follow the natural gradient, so the same rate works for different models. A step
    changes μ by at most ``rate`` σ and log σ² by at most ``rate``. L is computed at fixed points
    μ ± σ ⊙ signs, the same for all images, so q is a deterministic function of the image. In
    training, gradients flow through the steps to the encoder and to the decoder.

    Args:
        encoder: network to features.
        latent_size: number of latent dimensions Z.
        steps: gradient steps for each image.
        rate: length of a step; 1 is Newton's step for a Normal posterior without correlations.
        draws: pairs of points μ ± σ ⊙ signs at which L is computed.

    Raises:
        InputError: fewer than 1 step or draw, a rate outside (0, 1], or a prior that is not a
            distribution over real vectors or is made of this guide.

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
        # Signs have square 1, like a standard Normal's draws on average. For a quadratic
        # log p(x, z), L is then exact in the curvature along each dimension.
        half = torch.randint(2, (draws, 1, latent_size)) * 2.0 - 1  # [draws, 1, Z]
        self.register_buffer("signs", torch.cat([half, -half]))  # [2 draws, 1, Z]
        self.model = Borrowed()

    def attach(self, model: Any) -> None:
        """Keep the model whose ELBO the steps increase: ``model.prior``, ``model.likelihood``."""
        borrowed = [b for b in vars(model.prior).values() if isinstance(b, Borrowed)]
        if any(b.module is self for b in borrowed):
            raise InputError(
                f"the semi-amortized guide is refined with the prior, and the prior "
                f"{type(model.prior).__name__} is made of the guide; take another prior"
            )
        with torch.random.fork_rng(devices=[]):
            sampled = Prior.of(model.prior)
            size = None if model.condition is None else model.condition.size
            one = NOTHING if size is None else Given(self.signs.new_zeros(1, size))
            prior = sampled.run(given=one) if sampled.has_one_site() else None
        if not (
            isinstance(prior, torch.distributions.Distribution)
            and prior.event_shape == self.signs.shape[-1:]
            and in_support(prior, self.signs)
        ):
            raise InputError(
                f"the semi-amortized guide's z is one real vector of {self.signs.shape[-1]} "
                f"numbers, which the prior {type(model.prior).__name__} does not score"
            )
        if self.model.module not in (None, model):
            raise InputError(ATTACHED.format("semi-amortized"))
        self.model = Borrowed(model)

    def elbo(self, x: Tensor, loc: Tensor, logvar: Tensor, given: Given) -> Tensor:
        """The sum of L over all images, up to a constant."""
        model = self.model.module
        z = loc + (0.5 * logvar).exp() * self.signs  # [2 draws, B, Z]
        likelihood, joined = Likelihood.of(model.likelihood), z
        if model.joined and given.context is not None:
            joined = beside(z, given.context)
        p = likelihood.run(joined, given=given)
        if given.mask is not None:
            p = of_observed(p, given.mask, f"the {likelihood.name()} likelihood")
            x = fill(x, given.mask, p.support)
        log_joint = Prior.of(model.prior).run(given=given).log_prob(z) + p.log_prob(x)
        return log_joint.mean(0).sum() + 0.5 * logvar.sum()

    def takes(self, name: str) -> bool:
        """A context only if the model has one: alone, the guide has no use for it."""
        if name != "context" or self.model.module is None:
            return name != "context" and super().takes(name)
        parts = (Prior.of(self.model.module.prior), Likelihood.of(self.model.module.likelihood))
        return self.model.module.joined or any(part.takes(name) for part in parts)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        observations: Tensor | None = None,
        context: Tensor | None = None,
    ) -> Distribution:
        if self.model.module is None:
            raise InputError("the semi-amortized guide has no model; call attach(model) first")
        learning = torch.is_grad_enabled()
        loc, logvar = self.head(self.encoder(x)).chunk(2, -1)  # each [B, Z]
        x, given = x if observations is None else observations, Given(context, mask)
        with torch.enable_grad():
            for _ in range(self.steps):
                if not loc.requires_grad:
                    loc, logvar = loc.requires_grad_(), logvar.requires_grad_()
                slope, curve = torch.autograd.grad(
                    self.elbo(x, loc, logvar, given), (loc, logvar), create_graph=learning
                )
                scale = (0.5 * logvar).exp()
                loc = loc + self.rate * scale * (scale * slope).clamp(-1, 1)
                logvar = logvar + self.rate * (2 * curve).clamp(-1, 1)
                if not learning:
                    loc, logvar = loc.detach(), logvar.detach()
        return dist.Normal(loc, (0.5 * logvar).exp()).to_event(1)

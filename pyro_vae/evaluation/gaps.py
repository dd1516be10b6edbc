"""Where the bound is lost: the family of the guide, or its encoder (Cremer et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data.images import Images
from ..errors import InputError
from ..networks import PlaceByPlace, Sum
from ..registry import at_least_one
from . import standard_error
from .importance import Importance, gathered, weigh
from .scoring import blocks, draw, log_ratio, measuring, score, values

FREE = (nn.Linear, Sum, PlaceByPlace)
"""The layers that can be freed: their output is a vector for each image."""


@dataclass(frozen=True)
class Gaps:
    """What is lost between log p(x) and the guide's bound, in nats.

    Args:
        guide: importance sampling with the guide q as it is.
        best: the same with q*, the best member of its family for each image.
    """

    guide: Importance
    best: Importance

    @property
    def log_p(self) -> Tensor:
        """log p̂(x), from the draws of q*; ``[N]``."""
        return self.best.log_p

    @property
    def approximation(self) -> Tensor:
        """log p̂(x) - L[q*] of each image: what the family cannot reach; ``[N]``."""
        return self.log_p - self.best.elbos

    @property
    def amortization(self) -> Tensor:
        """L[q*] - L[q] of each image: what the encoder does not find; ``[N]``."""
        return self.best.elbos - self.guide.elbos

    def summary(self) -> dict[str, dict[str, float]]:
        """Mean over images and its standard error, of log p̂(x), the ELBO and both gaps."""
        each = {
            "log_p": self.log_p,
            "elbo": self.guide.elbos,
            "approximation_gap": self.approximation,
            "amortization_gap": self.amortization,
        }
        return {k: {"mean": v.mean().item(), "error": standard_error(v)} for k, v in each.items()}


def gaps(
    model: Any,
    guide: Any,
    images: Images,
    *,
    samples: int = 5000,
    steps: int = 500,
    draws: int = 10,
    rate: float = 0.05,
    seed: int = 0,
    chunk: int | None = None,
) -> Gaps:
    """The approximation gap and the amortization gap of each image.

    Equation: log p(x) - L[q] = (log p(x) - L[q*]) + (L[q*] - L[q]), q* = argmax L over the guide's
    own family, for this one image.

    The family is what the guide can reach when the encoder is free: each image gets its own bias,
    0 at first, in every fully connected layer that computes from the image alone, and likewise in
    what the residual network computes of the image for each place of a latent. Layers that see a
    draw of z (a flow's, or those of q(z_1 | z_2)) are the family itself, and stay as they are. The
    biases are found by gradient ascent from the encoder's output.

    Args:
        model: a Pyro program that fits :mod:`.scoring`.
        guide: likewise; a module with ``nn.Linear`` layers and reparameterised draws.
        images: what to evaluate on, some hundreds; ``dynamic`` pixels are drawn once, by ``seed``.
        samples: draws of z for each image that L[q], L[q*] and log p̂(x) are estimated with.
        steps: steps of Adam.
        draws: draws of z for each image and step.
        rate: Adam's first step size; it falls to 0 along a cosine.
        seed: of the draws of pixels and of z.
        chunk: as for :func:`.importance.importance`.

    Raises:
        InputError: no images, a count below 1, programs that do not fit, a guide with no layer to
            free, or one whose draws have no gradient.

    Paper: Cremer, Li & Duvenaud 2018, Inference Suboptimality in Variational Autoencoders.

    Example:
        >>> gaps(vae.model, vae.guide, data.test.subset(torch.arange(200))).summary()
    """
    for option, value in (("samples", samples), ("steps", steps), ("draws", draws)):
        at_least_one(option, value)
    first, best = [], []
    with measuring(model, guide, seed=seed, device=images.pixels.device):
        for x in blocks(images, 100, seed):
            with freed(guide, len(x)) as biases:
                draw(guide, x, 1)  # makes the biases
                first.append(weigh(model, guide, x, samples, chunk))
                ascend(model, guide, x, biases, steps, draws, rate)
                best.append(weigh(model, guide, x, samples, chunk))
    return Gaps(gathered(first), gathered(best))


@contextmanager
def freed(guide: Any, count: int) -> Iterator[dict[nn.Module, Tensor]]:
    """Give each of ``count`` images its own bias in the guide's layers that see images alone.

    The biases are made, as zeros, when the guide runs for the first time.
    """
    biases: dict[nn.Module, Tensor] = {}

    def add(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
        if output.dim() != 2 or len(output) != count:
            return output
        if layer not in biases:
            biases[layer] = torch.zeros_like(output)  # [B, F]
        return output + biases[layer]

    layers = guide.modules() if isinstance(guide, nn.Module) else ()
    hooks = [m.register_forward_hook(add) for m in layers if isinstance(m, FREE)]
    try:
        yield biases
    finally:
        for hook in hooks:
            hook.remove()


def ascend(
    model: Any,
    guide: Any,
    x: Tensor,
    biases: dict[nn.Module, Tensor],
    steps: int,
    draws: int,
    rate: float,
) -> None:
    """Raise the ELBO of each image in its own biases; they are changed in place."""
    if not biases:
        raise InputError(
            "the guide has no fully connected layer (nn.Linear) that computes from an image alone, "
            "so there is nothing to free; the gaps are known for guides with an encoder that has"
        )
    free = [bias.requires_grad_() for bias in biases.values()]
    adam = torch.optim.Adam(free, lr=rate)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        with torch.enable_grad():
            q = draw(guide, x, draws)
            p, bound = score(model, x, values(q))  # [K, B]
            for name, site in q.items():
                if not site["fn"].has_rsample:
                    raise InputError(
                        f"the draws of {name!r} have no gradient ({type(site['fn']).__name__}), so "
                        "that the best member of the guide's family cannot be climbed to"
                    )
                bound = bound - log_ratio(site, p[name])
            gradients = torch.autograd.grad(-bound.mean(0).sum(), free, allow_unused=True)
        for bias, gradient in zip(free, gradients, strict=True):
            bias.grad = gradient
        adam.step()
        fall.step()

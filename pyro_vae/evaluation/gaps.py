"""How much of log p(x) the guide's family loses, and how much its encoder loses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Batch
from ..errors import InputError
from ..modules import module_of
from ..networks import PlaceByPlace, Sum
from ..noise import seed_draws
from ..options import MOST_DRAWS, at_least_one
from ..progress import Report, part, silent
from ..settings import check_seed
from ..spelling import spelled
from ..words import counted
from .bound import standard_error
from .importance import Importance, collect, weigh
from .rows import batches_of, device_of, rows_of, share
from .scoring import log_ratio, measuring, run_guide, run_model, values
from .weights import Weights

FREE = (nn.Linear, Sum, PlaceByPlace)
"""The layers that can get a bias for each image: their output is a vector for each image."""


@dataclass(frozen=True, repr=False)
class Gaps:
    """The difference between log p(x) and the guide's ELBO, in two parts, in nats.

    Args:
        guide: importance sampling with the guide q as it is.
        best: importance sampling with q*, the best member of the guide's family for each image.
    """

    guide: Importance
    best: Importance

    def __repr__(self) -> str:
        shown = (
            f"{name} = {each['mean']:.2f}"
            + (f" ± {each['error']:.2f}" if math.isfinite(each["error"]) else "")
            for name, each in self.summary().items()
        )
        return f"Gaps({', '.join(shown)} nats, means of {counted(len(self.log_p), 'row')})"

    @property
    def log_p(self) -> Tensor:
        """log p̂(x), estimated with draws from q*, ``[N]``."""
        return self.best.log_p

    @property
    def approximation(self) -> Tensor:
        """log p̂(x) - L[q*] of each image, ``[N]``: what the family loses.

        log p̂(x) is a lower bound on log p(x) in the mean, so this is one on the gap.
        """
        return self.log_p - self.best.elbos

    @property
    def amortization(self) -> Tensor:
        """L[q*] - L[q] of each image, ``[N]``: what the encoder loses."""
        return self.best.elbos - self.guide.elbos

    def summary(self) -> dict[str, dict[str, float]]:
        """log p̂(x), the ELBO and both gaps, each the mean over images and its standard error.

        The error of log p̂(x) and of the approximation gap is NaN if it would not cover the bias of
        log p̂(x) (:meth:`.importance.Importance.covers`): the mean is then only a lower bound.
        """
        each = {
            "log_p": self.log_p,
            "elbo": self.guide.elbos,
            "approximation_gap": self.approximation,
            "amortization_gap": self.amortization,
        }
        errors = {key: standard_error(v) for key, v in each.items()}
        for key in ("log_p", "approximation_gap"):
            if not self.best.covers(errors[key]):
                errors[key] = math.nan
        return {key: {"mean": v.mean().item(), "error": errors[key]} for key, v in each.items()}


@spelled
def gaps(
    model: Any,
    guide: Any,
    data: Any,
    *,
    samples: int = 5000,
    steps: int = 500,
    draws: int = 10,
    rate: float = 0.05,
    seed: int = 0,
    chunk: int | None = None,
    kwargs: Mapping[str, Any] | None = None,
    progress: Report = silent,
) -> Gaps:
    """The approximation gap and the amortization gap of each row of the data.

    Equation: log p(x) - L[q] = (log p(x) - L[q*]) + (L[q*] - L[q]), where q* maximises L over the
    guide's family, for each image on its own. The first bracket is the approximation gap, the
    second one is the amortization gap.

    The family is everything that the guide can compute with a free encoder. Each image gets its own
    bias, at first 0, in every fully connected layer that computes from the image only, and in the
    features that the residual network computes from the image for each place of a latent. Layers
    that take a draw of z (those of a flow, or of q(z_1 | z_2)) define the family and are not
    changed. The biases are found by gradient ascent, which starts at the encoder's output. q* is
    only as good as this ascent: an ascent that stops early makes the approximation gap too large
    and the amortization gap too small.

    Args:
        model: a Pyro program that meets :mod:`.scoring`.
        guide: a module, or a method of a module, that meets :mod:`.scoring`, with ``nn.Linear``
            layers and reparameterised draws.
        data: the rows to evaluate on: Images, a tensor, a tuple or a dict of tensors, a torch
            ``Dataset`` or ``DataLoader``, as for :func:`~pyro_vae.training.fit`. ``dynamic``
            pixels are drawn once, with ``seed``.
            Some hundreds of rows are enough.
        samples: draws of z for each image, for the estimates of L[q], L[q*] and log p(x).
        steps: steps of Adam.
        draws: draws of z for each image and step.
        rate: the first step size of Adam. It falls to 0 along a cosine.
        seed: of the draws of pixels and of z.
        chunk, kwargs, progress: as for :func:`.importance.importance`.

    Raises:
        InputError: no rows, a count below 1, programs that do not meet :mod:`.scoring`, a guide
            without a layer that can get a bias, or a guide whose draws have no gradient.

    Paper: Cremer, Li & Duvenaud 2018, Inference Suboptimality in Variational Autoencoders.

    Example:
        >>> from pyro_vae import gaps
        >>> data = load_data("digits", binarize="threshold")
        >>> vae = VAE(data.shape, latent_size=2)
        >>> some = data.test.subset(torch.arange(5))
        >>> list(gaps(vae.model, vae.guide, some, samples=10, steps=2).summary())
        ['log_p', 'elbo', 'approximation_gap', 'amortization_gap']
    """
    for option, value in (("samples", samples), ("steps", steps), ("draws", draws)):
        at_least_one(option, value, MOST_DRAWS)
    check_seed(seed)
    first: list[Weights] = []
    best: list[Weights] = []
    done, rows = 0, rows_of(data)
    with measuring(model, guide, seed=seed, device=device_of(data, model, guide)):
        for x in batches_of(data, 100, seed, kwargs, model, guide):
            with freed(guide, len(x), layers_of_the_image(guide, x)) as biases:
                run_guide(guide, x, 1)  # creates the biases
                seed_draws(x.device, seed, 2 * len(first))
                first.append(weigh(model, guide, x, samples, chunk))
                # Seeded anew, so that the ascent does not depend on ``samples``.
                seed_draws(x.device, seed, 2 * len(best) + 1)
                tell = part(progress, "gaps", share(done, rows), share(done + len(x), rows))
                ascend(model, guide, x, biases, steps, draws, rate, tell)
                done += len(x)
                # The noise of q again, so that it cancels in L[q*] - L[q].
                seed_draws(x.device, seed, 2 * len(best))
                best.append(weigh(model, guide, x, samples, chunk))
    return Gaps(collect(first), collect(best))


def layers_of_the_image(guide: Any, x: Any) -> list[nn.Module]:
    """The layers that can get a bias for each image, because they compute from the image only.

    Their output is one vector for each image, and is the same for two draws of z. The random
    numbers that follow are not changed.

    Raises:
        InputError: the guide is a function, or has no such layer.
    """
    if module_of(guide) is None:
        raise InputError(
            "the gaps add a bias to layers of the guide, and a plain function does not show its "
            "layers; give a guide that is an nn.Module, or a method of one, and has an nn.Linear"
        )
    outputs: dict[nn.Module, list[Tensor]] = {}

    def keep(layer: nn.Module, _: Any, output: Tensor) -> None:
        outputs.setdefault(layer, []).append(output)

    x, layers = Batch.of(x), free_layers(guide)
    with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
        run_guide(guide, x, 1)  # decides how the guide runs, which takes some more runs
        hooks = [layer.register_forward_hook(keep) for layer in layers]
        try:
            run_guide(guide, x, 1)
            run_guide(guide, x, 1)
        finally:
            for hook in hooks:
                hook.remove()
    found = [layer for layer in layers if layer in outputs and same_twice(outputs[layer], len(x))]
    if not found:
        raise InputError(
            "the guide has no fully connected layer (nn.Linear) that computes from the image only; "
            "the gaps need a guide whose encoder has such a layer"
        )
    return found


def free_layers(guide: Any) -> list[nn.Module]:
    """The layers of a guide that are of a kind in :data:`FREE`."""
    module = module_of(guide) or nn.Module()
    return [layer for layer in module.modules() if isinstance(layer, FREE)]


def same_twice(outputs: list[Tensor], count: int) -> bool:
    """Whether the outputs of two runs are the same, one vector for each of ``count`` images."""
    first, second = outputs[: len(outputs) // 2], outputs[len(outputs) // 2 :]
    return len(first) == len(second) and all(
        a.dim() == 2 and len(a) == count and torch.equal(a, b)
        for a, b in zip(first, second, strict=True)
    )


@contextmanager
def freed(
    guide: Any, count: int, layers: Sequence[nn.Module] | None = None
) -> Iterator[dict[nn.Module, Tensor]]:
    """Give each of ``count`` images its own bias in layers of the guide.

    The biases are created, as zeros, when the guide runs for the first time. Afterwards the guide
    is as before.

    Args:
        guide: the guide.
        count: the number of images.
        layers: the layers, from :func:`layers_of_the_image`; None for a guide that runs for all
            draws at once, where the shape of a layer's output tells them.
    """
    biases: dict[nn.Module, Tensor] = {}

    def add(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
        if output.dim() != 2 or len(output) != count:
            return output
        if layer not in biases:
            biases[layer] = torch.zeros_like(output)  # [B, F]
        return output + biases[layer]

    found = free_layers(guide) if layers is None else layers
    hooks = [layer.register_forward_hook(add) for layer in found]
    try:
        yield biases
    finally:
        for hook in hooks:
            hook.remove()


def ascend(
    model: Any,
    guide: Any,
    x: Batch,
    biases: dict[nn.Module, Tensor],
    steps: int,
    draws: int,
    rate: float,
    tell: Callable[[float], None],
) -> None:
    """Maximise the ELBO of each image over its biases, in place. ``tell`` gets the share of the
    steps that are done."""
    free = [bias.requires_grad_() for bias in biases.values()]
    adam = torch.optim.Adam(free, lr=rate)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for step in range(steps):
        with torch.enable_grad():
            q = run_guide(guide, x, draws)
            p, bound = run_model(model, x, values(q))  # [K, B]
            for name, site in q.items():
                if not site["fn"].has_rsample:
                    raise InputError(
                        f"the draws of {name!r} have no gradient ({type(site['fn']).__name__}), so "
                        "gradient ascent cannot find the best member of the guide's family"
                    )
                bound = bound - log_ratio(site, p[name])
            gradients = torch.autograd.grad(-bound.mean(0).sum(), free, allow_unused=True)
        for bias, gradient in zip(free, gradients, strict=True):
            bias.grad = gradient
        adam.step()
        fall.step()
        tell((step + 1) / steps)

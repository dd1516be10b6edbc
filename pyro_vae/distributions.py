"""Distributions over latents that torch and Pyro lack, or whose own version does not serve here.

:mod:`~pyro_vae.likelihoods.pixels` has those over pixels.
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
import zuko.distributions  # noqa: F401  (imported here so that the line below comes after it)
from pyro.contrib.zuko import ZukoToPyro
from pyro.distributions import constraints
from pyro.distributions.util import is_validation_enabled
from torch import Tensor
from torch.distributions import (
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    kl_divergence,
    register_kl,
)

from .errors import InputError
from .options import number

# Importing zuko.distributions turns off torch's argument checks for the whole process. This turns
# them on again if Pyro has them on.
dist.enable_validation(is_validation_enabled())


FAR = 1e9


def standard_normal(zero: Tensor) -> Any:
    """N(0, I) over vectors of the shape, type and device of ``zero``."""
    return dist.Normal(zero, torch.ones_like(zero)).to_event(1)


class FiniteStudentT(dist.StudentT):
    """torch's Student-t, with a finite density of numbers that are far outside.

    torch squares t = (x - μ) / (s √ν), which overflows float32 beyond 1e19. Above T = 1e9,
    log(1 + t²) is computed as log(1 + T²) + 2 log(|t| / T), which is equal in float32.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        t = (value - self.loc) / (self.scale * self.df.sqrt())
        near, far = t.clamp(-FAR, FAR), t.abs().clamp(min=FAR) / FAR
        half = 0.5 * (self.df + 1)
        constant = half.lgamma() - (0.5 * self.df).lgamma() - 0.5 * (math.pi * self.df).log()
        return constant - self.scale.log() - half * (near.square().log1p() + 2 * far.log())


class Flow(ZukoToPyro):
    """A zuko flow as a Pyro distribution over real vectors."""

    support = constraints.real_vector

    @property
    def event_shape(self) -> torch.Size:
        # torch's affine transform would count its batch as part of the event.
        noise: Any = self.dist
        return noise.base.event_shape

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self(torch.Size(sample_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Flow:
        return Flow(self.dist.expand(torch.Size(batch_shape)))


class RelaxedOneHot(dist.RelaxedOneHotCategorical):
    """torch's relaxed one-of-K distribution, exact at any temperature for its own draws.

    Equation: z = exp(y), y = log_softmax((logits + g) / T), g_k standard Gumbel;
    log p(z) = log p(y) - Σ_k y_k.

    The density needs log z. At a low temperature the smaller entries of z underflow to 0, and z
    does not hold their logarithm any more. So a draw carries y (:func:`exact_log`), and every
    relaxed one-of-K distribution, the prior included, scores the draw and its views by y. A z
    without y (a copy of a draw, a value of the user) is scored by z.log().

    Raises:
        InputError: from ``log_prob``, if a z without y has an entry below the smallest normal
            number of its type. Pyro's validation switches this check on. Without it the result
            is NaN if an entry is 0.

    Paper: Maddison, Mnih & Teh 2017, The concrete distribution.
    """

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        y = self.base_dist.rsample(torch.Size(sample_shape))
        # torch subtracts a rounded log-sum. At T = 0.05 its draws fail its own check of the sum 1.
        return from_log(y.log_softmax(-1))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.rsample(sample_shape)  # torch's own would not go through rsample

    def log_prob(self, value: Tensor) -> Tensor:
        y = exact_log(value)
        if y is None:
            if self._validate_args:
                self._validate_sample(value)
                refuse_underflow(value)
            y = value.log()
        return self.base_dist.log_prob(y) - y.sum(-1)


def from_log(y: Tensor) -> Tensor:
    """exp(y), which carries y; :func:`exact_log` gives y back."""
    z: Any = y.exp()
    # Pyro hands the same tensor from the guide to the model. An attribute goes along with it.
    z._pyro_vae_log = y
    return z


def exact_log(z: Tensor) -> Tensor | None:
    """log z of a draw of :class:`RelaxedOneHot` or of a view of a draw; of other tensors None."""
    whole = z if z._base is None else z._base  # torch's base of a view (a slice, an unsqueeze)
    # A tensor of torch's has no such attribute unless from_log set it.
    y: Tensor | None = getattr(whole, "_pyro_vae_log", None)
    if y is None or whole is z:
        return y
    if y.stride() != whole.stride():
        return None
    start = y.storage_offset() + z.storage_offset() - whole.storage_offset()
    return y.as_strided(z.shape, z.stride(), start)


def refuse_underflow(z: Tensor) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` if the logarithm of an entry is lost."""
    tiny = torch.finfo(z.dtype).tiny
    if bool((z < tiny).any()):
        raise InputError(
            f"a relaxed one-of-K value has the entry {z.min().item():.3g}, and its density needs "
            f"the logarithm of each entry, which {str(z.dtype).removeprefix('torch.')} holds from "
            f"{tiny:.1e} upwards; take a higher temperature, or float64"
        )


LOWEST_TEMPERATURES = {torch.float32: 1e-3, torch.float64: 1e-9}
"""The lowest temperature of each type. At 1e-3, the float32 bound of an image with 10 classes was
up to 0.004 nats off the float64 one; the error grows as 1 / T."""


def check_temperature(temperature: Any) -> float:
    """``temperature`` if it is a number that torch's default type can compute with.

    Raises:
        InputError: something else than a number above 0, or a number below the lowest.
    """
    value = float(number("temperature", temperature, above=0))
    kind = torch.get_default_dtype()
    lowest = LOWEST_TEMPERATURES.get(kind, 1e-3)
    if value < lowest:
        raise InputError(
            f"temperature is at least {lowest:g} in {str(kind).removeprefix('torch.')}, not "
            f"{value:g}; take a higher one, or float64 by torch.set_default_dtype(torch.float64)"
        )
    return value


class NormalMixture(dist.MixtureSameFamily):
    """A mixture of diagonal Normals whose draws have gradients, also for the weights.

    Equation: dz/dφ = -(∂F/∂z)⁻¹ ∂F/∂φ. F_d(z; φ) is the distribution function of z_d given
    z_1 … z_{d-1}; it is uniform for every φ.

    Pyro's ``MixtureOfDiagNormals`` is not used, because its gradient for the weights is biased in
    Pyro 1.9.

    Paper: Figurnov, Mohamed & Mnih 2018, Implicit reparameterization gradients.
    """

    has_rsample = True

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        z = self.sample(torch.Size(sample_shape))  # [*, Z]
        normal = self.component_distribution.base_dist  # batch [*, K, Z]
        at = z.unsqueeze(-2)
        log_density = normal.log_prob(at)  # [*, K, Z]
        before = log_density.cumsum(-1) - log_density  # log density of z_1 … z_{d-1}
        weight = (self.mixture_distribution.logits.unsqueeze(-1) + before).softmax(-2)
        below = torch.special.ndtr((at - normal.loc) / normal.scale)
        cdf = (weight * below).sum(-2)  # [*, Z]
        with torch.no_grad():
            score = (normal.loc - at) / normal.variance  # [*, K, Z]
            deviation = weight * (below - cdf.unsqueeze(-2))
            slope = (deviation.transpose(-1, -2) @ score).tril(-1)  # ∂F_d/∂z_j, [*, Z, Z]
            slope += torch.diag_embed((weight * log_density.exp()).sum(-2))
        # The value of `step` is 0. It only adds the gradient.
        step = torch.linalg.solve_triangular(slope, (cdf - cdf.detach()).unsqueeze(-1), upper=False)
        return z - step.squeeze(-1)


@register_kl(MultivariateNormal, Independent)
@register_kl(LowRankMultivariateNormal, Independent)
def kl_to_diagonal(q: Any, p: Any) -> Tensor:
    """KL(q || p) of a correlated Normal q to a diagonal Normal p. torch's table lacks it."""
    if not isinstance(p.base_dist, Normal):
        raise NotImplementedError
    deviation = (q.variance + (q.mean - p.mean).square()) / p.variance  # [*, Z]
    log_p = -0.5 * (deviation + (2 * torch.pi * p.variance).log()).sum(-1)
    return -q.entropy() - log_p


class OneRow(dist.TorchDistribution):
    """The distribution of the one row of a batch ``[1]``, without the batch dimension.

    Its other attributes, such as ``loc``, ``probs`` or ``base_dist``, are those of the batch,
    without this dimension.

    Args:
        rows: a distribution with batch ``[1]``, which stays as an attribute.

    Example:
        >>> from pyro_vae.distributions import OneRow
        >>> q = OneRow(standard_normal(torch.zeros(1, 3)))
        >>> q.mean.shape, q.log_prob(q.sample()).shape
        (torch.Size([3]), torch.Size([]))
    """

    def __init__(self, rows: Any) -> None:
        self.rows = rows
        self.has_rsample, self.has_enumerate_support = rows.has_rsample, rows.has_enumerate_support
        super().__init__(rows.batch_shape[1:], rows.event_shape, validate_args=False)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "rows":  # not set yet, as in a copy
            raise AttributeError(name)
        value = getattr(self.rows, name)
        if isinstance(value, torch.distributions.Distribution):
            return OneRow(value)
        return value[0] if isinstance(value, Tensor) and value.shape[:1] == (1,) else value

    def __repr__(self) -> str:
        return f"OneRow({self.rows})"

    @property
    def support(self) -> Any:
        return self.rows.support

    def enumerate_support(self, expand: bool = True) -> Tensor:
        return self.rows.enumerate_support(expand).squeeze(1)

    @property
    def mean(self) -> Tensor:
        return self.rows.mean[0]

    @property
    def variance(self) -> Tensor:
        return self.rows.variance[0]

    @property
    def stddev(self) -> Tensor:
        return self.rows.stddev[0]

    @property
    def mode(self) -> Tensor:
        return self.rows.mode[0]

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.rows.rsample(torch.Size(sample_shape)).squeeze(len(sample_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.rows.sample(torch.Size(sample_shape)).squeeze(len(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.rows.log_prob(value.unsqueeze(-1 - len(self.event_shape))).squeeze(-1)

    def entropy(self) -> Tensor:
        return self.rows.entropy()[0]

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        return self.rows.expand(batch_shape) if batch_shape else self


@register_kl(OneRow, torch.distributions.Distribution)
def kl_of_one_row(q: OneRow, p: Any) -> Tensor:
    """KL(q || p) of one row, 0-dim."""
    return kl_divergence(q.rows, p.rows if isinstance(p, OneRow) else p).squeeze(-1)

"""Guides made of normalizing flows: planar, inverse autoregressive, spline.

A flow draws noise and sends it through invertible maps that depend on the image's features. The
density of the flow's own draw is computed in the same pass. The density of any other z is exact,
too, but slower: an autoregressive map is inverted in Z passes, a planar map by bisection.
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from pyro.distributions.transforms.planar import ConditionedPlanar
from torch import Tensor, nn
from torch.distributions import AffineTransform
from zuko.distributions import DiagNormal, NormalizingFlow
from zuko.flows.autoregressive import MAF
from zuko.transforms import ComposedTransform, MonotonicAffineTransform, MonotonicRQSTransform
from zuko.utils import bisection

from ..contracts import Guide
from ..distributions import Flow
from ..networks import features
from ..options import at_least_one
from ..scales import SCALES


class PlanarMap(ConditionedPlanar):
    """Pyro's planar map with another û, and with an inverse for points that it has not drawn.

    Equation: y = x + û tanh(wᵀx + b); a = wᵀx + b solves a + wᵀû tanh(a) = wᵀy + b.
    û = u + (m(wᵀu) - wᵀu) w / max(‖w‖², 1e-12), m(s) = max(log(1 + (e - 1) exp(s)) - 1, -0.999).

    wᵀû = m(wᵀu) > -1 makes the map invertible. The paper takes m(s) = log(1 + exp(s)) - 1, for
    which m(0) = -0.31: then û grows without bound as w goes to 0. Here m(0) = 0.
    """

    def u_hat(self, u: Tensor, w: Tensor) -> Tensor:
        s = (w * u).sum(-1, keepdim=True)
        # m(s) - s = log(1 + (exp(-s) - 1) / e). This form is exactly 0 at s = 0, where m(s) - s
        # would be a rounding error, divided by ‖w‖². Below s = -40 the other number is larger.
        gap = (torch.expm1(-s.clamp(min=-40)) / math.e).log1p()
        gap = torch.maximum(gap, -0.999 - s)
        return u + gap * w / (w * w).sum(-1, keepdim=True).clamp(min=1e-12)

    def _inverse(self, y: Tensor) -> Tensor:
        bias, u, w = self._params
        u_hat = self.u_hat(u, w)
        slope = (w * u_hat).sum(-1, keepdim=True)  # > -1, so a + slope tanh(a) increases
        target = (w * y).sum(-1, keepdim=True) + bias  # [*, B, 1]
        slope, target = torch.broadcast_tensors(slope, target)
        reach = slope.detach().abs()
        a = bisection(
            lambda a: a + slope * a.tanh(),
            target,
            target.detach() - reach,
            target.detach() + reach,
            n=60 if y.dtype == torch.float64 else 30,
            phi=(slope,),
        )
        x = y - u_hat * a.tanh()
        self._call(x)  # Pyro's map needs its cache of log |det ∂y/∂x| filled.
        return x


class Planar(Guide):
    """A Normal sent through planar maps; the encoder gives μ, log σ² and the maps' parameters.

    Equation: z_0 ~ N(μ(x), σ(x)²), z_t = z_{t-1} + û_t(x) tanh(w_t(x)ᵀ z_{t-1} + b_t(x)), where
    û_t is u_t(x), changed so that the map is invertible (:class:`PlanarMap`). The maps start at
    u = 0, so the guide starts as a Normal. From random maps, training with batch normalization
    first goes the wrong way.

    Args:
        encoder: network to features.
        latent_size: number of latent dimensions Z.
        layers: number of planar maps.
        scale: how the encoder's second output becomes σ, a name of
            :data:`~pyro_vae.registry.SCALES`.

    Raises:
        InputError: fewer than 1 layer.

    Paper: Rezende & Mohamed 2015, Variational inference with normalizing flows.

    Example:
        >>> from pyro_vae.guides import Planar
        >>> q = Planar(MLP((1, 28, 28)).encoder(), 20)(torch.rand(8, 1, 28, 28))
        >>> q.log_prob(q.rsample()).shape
        torch.Size([8])
    """

    def __init__(
        self, encoder: nn.Module, latent_size: int, layers: int = 8, scale: Any = "log-variance"
    ) -> None:
        super().__init__()
        at_least_one("layers", layers)
        self.encoder = encoder
        self.sizes = [1, latent_size, latent_size]
        outputs = 2 * latent_size + layers * sum(self.sizes)
        self.head = nn.Linear(features(encoder), outputs)
        with torch.no_grad():
            for values in (self.head.weight, self.head.bias):
                for layer in values[2 * latent_size :].split(sum(self.sizes)):
                    layer.split(self.sizes)[1].zero_()  # u
        self.scale = SCALES.build(scale)

    def forward(self, x: Tensor) -> Distribution:
        outputs = self.head(self.encoder(x))
        loc, raw = outputs[..., : 2 * self.sizes[1]].chunk(2, -1)  # each [B, Z]
        layers = outputs[..., 2 * self.sizes[1] :].split(sum(self.sizes), -1)
        # New maps for each distribution, because a map caches its last draw.
        maps = [PlanarMap(layer.split(self.sizes, -1)) for layer in layers]
        base = dist.Normal(loc, self.scale(raw)).to_event(1)
        return dist.TransformedDistribution(base, maps)


class Autoregressive(Guide):
    """Base of the guides with autoregressive maps.

    A layer's map of dimension d depends on the dimensions before d. The order of the dimensions is
    reversed from layer to layer. A subclass gives the map of one number, ``univariate``, and the
    ``shapes`` of its parameters.
    """

    univariate: Any
    shapes: Any

    def __init__(
        self,
        encoder: nn.Module,
        latent_size: int,
        layers: int = 2,
        units: int = 128,
        scale: Any = "log-variance",
    ) -> None:
        super().__init__()
        at_least_one("layers", layers)
        at_least_one("units", units)
        self.encoder = encoder
        self.sizes = [latent_size, latent_size, units]
        self.head = nn.Linear(features(encoder), sum(self.sizes))
        self.scale = SCALES.build(scale)
        flow = MAF(
            latent_size,
            context=units,
            transforms=layers,
            univariate=self.univariate,
            shapes=self.shapes,
            hidden_features=(units,),
        )
        self.maps = flow.transform.transforms

    def forward(self, x: Tensor) -> Distribution:
        loc, raw, context = self.head(self.encoder(x)).split(self.sizes, -1)
        maps = [layer(context) for layer in self.maps]
        maps.append(AffineTransform(loc, self.scale(raw), event_dim=1))
        noise = DiagNormal(torch.zeros_like(loc), torch.ones_like(loc))
        # zuko's flows map data to noise. Here drawing must be fast, so the map is inverted.
        return Flow(NormalizingFlow(ComposedTransform(*maps).inv, noise))


class IAF(Autoregressive):
    """An inverse autoregressive flow, conditioned on the encoder's features h.

    Equation: ε_0 ~ N(0, I), ε_t = m_t + exp(g(s_t)) ε_{t-1}, where m_td and s_td are a masked
    network's function of h(x) and ε_{t-1,1} … ε_{t-1,d-1}; z = μ(x) + σ(x) ε_T.
    g(s) = s / (1 + |s| / log 1000) clips s softly, so that the gate exp(g(s)) is between 0.001 and
    1000. The paper's gate is a sigmoid.

    Args:
        encoder: network to features.
        latent_size: number of latent dimensions Z.
        layers: number of autoregressive maps T.
        units: hidden units of each masked network, and the size of h.
        scale: how the encoder's second output becomes σ, a name of
            :data:`~pyro_vae.registry.SCALES`.

    Raises:
        InputError: fewer than 1 layer or unit.

    Paper: Kingma et al. 2016, Improving variational inference with inverse autoregressive flow.

    Example:
        >>> from pyro_vae.guides import IAF
        >>> q = IAF(MLP((1, 28, 28)).encoder(), 20)(torch.rand(8, 1, 28, 28))
        >>> q.log_prob(q.rsample()).shape
        torch.Size([8])
    """

    univariate = MonotonicAffineTransform
    shapes = ((), ())


class Spline(Autoregressive):
    """A neural spline flow: like ``iaf``, with rational-quadratic splines of 8 bins as maps.

    Equation: ε_0 ~ N(0, I), ε_td = spline(ε_{t-1,d}; knots_td) within [-5, 5] and ε_{t-1,d} beyond,
    where knots_td is a masked network's function of h(x) and ε_{t-1,1} … ε_{t-1,d-1};
    z = μ(x) + σ(x) ε_T.

    Args:
        encoder: network to features.
        latent_size: number of latent dimensions Z.
        layers: number of autoregressive maps T.
        units: hidden units of each masked network, and the size of h.
        scale: how the encoder's second output becomes σ, a name of
            :data:`~pyro_vae.registry.SCALES`.

    Raises:
        InputError: fewer than 1 layer or unit.

    Paper: Durkan et al. 2019, Neural spline flows.

    Example:
        >>> from pyro_vae.guides import Spline
        >>> q = Spline(MLP((1, 28, 28)).encoder(), 20)(torch.rand(8, 1, 28, 28))
        >>> q.log_prob(q.rsample()).shape
        torch.Size([8])
    """

    univariate = MonotonicRQSTransform
    shapes = ((8,), (8,), (7,))

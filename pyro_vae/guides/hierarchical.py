"""Guides of several layers of latents, inferred from the image upwards or from the top downwards.

:mod:`~pyro_vae.priors.hierarchy` has the prior that fits them, and explains layers of latents.

    >>> vae = VAE((1, 28, 28), (64, 32, 16), guide="ladder")
    >>> list(vae.encode(x))
    ['z_3', 'z_2', 'z_1']
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import pyro.distributions as dist
from pyro.distributions import Distribution
from torch import Tensor, nn

from ..contracts import ATTACHED, NOTHING, Borrowed, Given, Guide, Network
from ..errors import InputError
from ..latents import Layout, concatenate, sample_site, site_names
from ..networks import head, layout
from ..priors.hierarchy import SHARED, Hierarchy, TopDown, bounded
from ..registry import lookup
from ..scales import SCALES
from .inner import inner_guide


class BottomUp(Guide):
    """Layers inferred from the image upwards: first q(z_1 | x), then each from the layer below.

    Equation: q(z | x) = q(z_1 | x) Π_{l>1} q(z_l | z_{l-1}).

    Args:
        encoder: network to the features of z_1.
        latent_layers: the layout of z_1, …, z_L.
        network: makes the network between two layers.
        layer: the guide of each layer, or a list with one for each: a name of
            :data:`~pyro_vae.registry.GUIDES` whose z is a real vector.
        scale: how the output becomes σ, a name of :data:`~pyro_vae.registry.SCALES`, for each
            layer's guide that has such an option and is named without it.

    Raises:
        InputError: a layer's guide whose z is not a real vector, or a wrong number of them.

    Paper: Burda, Grosse & Salakhutdinov 2016, Importance weighted autoencoders, section 2.

    Example:
        >>> vae = VAE((1, 28, 28), (64, 32), guide="bottom-up(layer=['iaf', 'mean-field'])")
    """

    default_prior = "hierarchy"

    def __init__(
        self,
        encoder: nn.Module,
        latent_layers: Sequence[Layout],
        network: Network,
        layer: Any = "mean-field",
        scale: Any = "log-variance",
    ) -> None:
        super().__init__()
        self.names = site_names(len(latent_layers))
        up = [encoder, *(network.between([a], b) for a, b in pairwise(latent_layers))]
        self.posteriors = posteriors(up, latent_layers, layer, scale)

    def takes(self, name: str) -> bool:
        """Whether the guide of a layer takes it."""
        return any(Guide.of(part).takes(name) for part in self.posteriors)

    def sample_sites(self, x: Tensor, given: Given = NOTHING) -> list[Tensor]:
        values: list[Tensor] = []
        for name, posterior in zip(self.names, self.posteriors, strict=True):
            q = Guide.of(posterior).run(values[-1] if values else x, given=given)
            values.append(sample_site(name, q))
        return values


class Ladder(TopDown):
    """Layers inferred from the top downwards, each from the image and from the layers above it.

    Equation: d_1 = d_1(x), d_l = d_l(d_{l-1}). Then, from the top downwards, with the prior's
    p_l = p(z_l | z_{l+1}, …) = N(μ_p, σ_p²), either

    - ``precision``: q_l ∝ p_l(z_l) N(z_l; μ(d_l), σ(d_l)²). Its precision is the sum of the two
      precisions, its mean is the average weighted by them; or
    - ``learned``: q_l is any guide that sees d_l, μ_p and σ_p.

    The paper uses N(μ(d_L), σ(d_L)²) for the top layer. Here the top layer is merged as the other
    layers are. Where its prior is not a Normal (``top`` of :class:`~pyro_vae.priors.Hierarchy`), it
    is as in the paper. Train as the paper does, with batch normalization
    (``network="mlp(batch_norm=True)"``) and a warm-up of the KL (``objective="annealed"``).
    Without them the upper layers collapse.

    Args:
        encoder: network to the features of z_1.
        latent_layers: the layout of z_1, …, z_L.
        network: makes the network between two layers.
        merge: ``precision`` or ``learned``.
        layer: for ``learned``, the guide of each layer, or a list with one for each.
        scale: how the networks' output becomes σ, a name of
            :data:`~pyro_vae.registry.SCALES`. The default is the paper's. An uninformative layer
            pushes σ upward, and with log-variance σ then grows until it overflows.

    Raises:
        InputError: a prior that is not a hierarchy of the same layers, an unknown ``merge``, a
            ``layer`` that cannot be merged, or ``learned`` with a prior that has a ``top``.

    Paper: Sønderby et al. 2016, Ladder variational autoencoders; ``learned``: Kingma et al. 2016,
    Improving variational inference with inverse autoregressive flow, its bidirectional inference.

    Example:
        >>> vae = VAE((1, 28, 28), (64, 32, 16), guide="ladder")
        >>> vae.encode(torch.rand(8, 1, 28, 28).round())["z_2"].event_shape
        torch.Size([32])
    """

    default_prior = "hierarchy"

    def __init__(
        self,
        encoder: nn.Module,
        latent_layers: Sequence[Layout],
        network: Network,
        merge: str = "precision",
        layer: Any = "mean-field",
        scale: Any = "softplus-variance",
    ) -> None:
        super().__init__()
        self.layers = tuple(latent_layers)
        self.names = site_names(len(self.layers))
        self.merge = lookup("merge", merge, MERGES)
        up = [encoder]
        for target in self.layers[1:]:
            up.append(network.between([layout(up[-1])], target))
        self.up = nn.ModuleList(up)
        if merge == "learned":
            both = [
                network.between([layout(d), z, z], z) for d, z in zip(up, self.layers, strict=True)
            ]
            self.posteriors = posteriors(both, self.layers, layer, scale)
        elif layer == "mean-field":
            self.posteriors = nn.ModuleList(
                head(d, 2 * prod(z)) for d, z in zip(up, self.layers, strict=True)
            )
        else:
            raise InputError(
                f"merge='precision' needs two Normals, and layer is {layer!r}; take merge='learned'"
            )
        self.scale = SCALES.build(scale)
        self.prior = Borrowed()

    def takes(self, name: str) -> bool:
        """Whether the guide of a layer takes it."""
        return any(Guide.of(part).takes(name) for part in self.posteriors)

    def attach(self, model: Any) -> None:
        """Keep the model's prior, with which the layers are merged."""
        prior = model.prior
        own = prior.layers if isinstance(prior, Hierarchy) else None
        if own != self.layers:
            what = "is not a hierarchy" if own is None else f"has the layers {listed(own)}"
            raise InputError(
                f"the ladder guide has the layers {listed(self.layers)} and merges them with those "
                f"of the prior, and the prior {type(prior).__name__} {what}; take the prior "
                "hierarchy with the same latent sizes"
            )
        if prior.top is not None and self.merge is as_learned:
            raise InputError(
                "merge='learned' needs the standard Normal as the prior of the top layer, and this "
                "hierarchy has the option top; take merge='precision', or leave top out"
            )
        if self.prior.module not in (None, prior):
            raise InputError(ATTACHED.format("ladder"))
        self.prior = Borrowed(prior)

    def features(self, x: Tensor) -> list[Tensor]:
        """d_1, …, d_L, each ``[B, F]``."""
        features: list[Tensor] = []
        for up in self.up:
            features.append(up(features[-1] if features else x))
        return features

    def top(self, x: Tensor) -> Distribution:
        return self.merge(self.posteriors[-1], self.features(x)[-1], None, self.scale)

    def sample_sites(self, x: Tensor, given: Given = NOTHING) -> list[Tensor]:
        prior = self.prior.module
        if prior is None:
            raise InputError("the ladder guide has no model; call attach(model) first")
        features = self.features(x)
        values: list[Tensor] = []
        conditionals: list[Any] = []
        for i in reversed(range(len(features))):
            conditionals.insert(0, prior.conditional(values))
            p = normal_of(conditionals[0])
            q = self.merge(self.posteriors[i], features[i], p, self.scale, given)
            values.insert(0, sample_site(self.names[i], q))
        SHARED.put(prior, values, conditionals)
        return values


def normal_of(fn: Any) -> Any:
    """The Normal of independent units that ``fn`` is; None if it is another distribution."""
    base = fn.base_dist if isinstance(fn, dist.Independent) else None
    return base if isinstance(base, dist.Normal) else None


def listed(layers: Sequence[Layout]) -> list[list[int]]:
    """Layouts as error messages write them."""
    return [list(layer) for layer in layers]


def by_precision(
    posterior: nn.Module, d: Tensor, p: Any, scale: nn.Module, given: Given = NOTHING
) -> Distribution:
    """The normalized product of the prior's Normal and the Normal that the features give. Without a
    prior's Normal it is the second of them."""
    loc, raw = posterior(d).chunk(2, -1)  # each [B, Z_l]
    if p is None:
        return dist.Normal(loc, bounded(scale(raw))).to_event(1)
    # The ratio of the precisions is 0 where the features are uninformative; q is then exactly p.
    ratio = (p.scale / bounded(scale(raw))).square()  # [*, Z_l]
    q = dist.Normal(p.loc + ratio / (1 + ratio) * (loc - p.loc), p.scale * (1 + ratio).rsqrt())
    return q.to_event(1)


def as_learned(
    posterior: nn.Module, d: Tensor, p: Any, scale: nn.Module, given: Given = NOTHING
) -> Distribution:
    """What the layer's own guide gives for the features and the prior's moments."""
    return Guide.of(posterior).run(concatenate([d, p.loc, p.scale]), given=given)


MERGES = {"precision": by_precision, "learned": as_learned}


def posteriors(
    encoders: Sequence[nn.Module], layers: Sequence[Layout], layer: Any, scale: Any
) -> nn.ModuleList:
    """A guide for each layer.

    Raises:
        InputError: a wrong number of guides, or a guide that does not fit a layer.
    """
    specs = list(layer) if isinstance(layer, list | tuple) else [layer] * len(layers)
    if len(specs) != len(layers):
        raise InputError(f"layer names {len(specs)} guides, and there are {len(layers)} layers")
    sizes = [prod(each) for each in layers]
    return nn.ModuleList(
        inner_guide(spec, "a layer", {"scale": scale}, encoder=encoder, latent_size=size)
        for spec, encoder, size in zip(specs, encoders, sizes, strict=True)
    )

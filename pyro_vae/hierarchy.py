"""Hierarchical latents: z_L → … → z_1 → x, and the guides that fit it.

The VAE's ``latent_size`` is then a list: z_1, next to the image, comes first. A layer is a number
of units, or ``(c, h, w)`` for a latent that is laid out like an image; its site is "z_1" to "z_L",
or "z" if it is the only one, and a value there is a vector ``[*, Z_l]`` whatever the layout. What
stands between two layers is made by the VAE's network, as encoder and decoder are.

    >>> vae = VAE((1, 28, 28), (64, 32, 16), guide="ladder")
    >>> list(vae.encode(x))
    ['z_3', 'z_2', 'z_1']

The prior is a part as any other, and so are the guides; a class of your own that takes a list of
layers says so by an attribute ``layered = True``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from operator import is_
from typing import Any
from weakref import WeakKeyDictionary

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from .networks import Latent, between, head, layers, layout
from .parts import InputError, build, lookup, make, resolve
from .scales import SCALES
from .sites import draw, together


def site_names(count: int) -> list[str]:
    """The sites of ``count`` layers, the one next to the image first."""
    return ["z"] if count == 1 else [f"z_{i}" for i in range(1, count + 1)]


class Hierarchy(nn.Module):
    """Layers of Normals, each given the layer above: fits the guides bottom-up and ladder.

    Equation: p(z) = N(z_L; 0, I) Π_{l<L} N(z_l; μ_l(z_{l+1}), σ_l(z_{l+1})²).

    Args:
        latent_size: units of z_1, …, z_L.
        network: makes what stands between two layers.
        skip: every layer sees all layers above it, and not the next alone; the decoder gets z_1
            plus a linear map of the others.
        scale: how the networks' output becomes σ, a name of :data:`~pyro_vae.scales.SCALES`. A unit
            that a ladder leaves as its prior has it costs nothing with any σ, and may become a
            function of the layers above, its σ falling on and on; it is held at 1e-18.

    Paper: Rezende, Mohamed & Wierstra 2014, Stochastic backpropagation and approximate inference
    in deep generative models.

    Example:
        >>> VAE((1, 28, 28), (64, 32), guide="ladder", prior="hierarchy(skip=True)").sample(3).shape
        torch.Size([3, 1, 28, 28])
    """

    layered = True
    zero: Tensor

    def __init__(
        self,
        latent_size: Latent,
        network: Any,
        skip: bool = False,
        scale: Any = "log-variance",
    ) -> None:
        super().__init__()
        self.layers = layers(latent_size)
        self.sizes = [prod(layer) for layer in self.layers]
        self.names = site_names(len(self.sizes))
        self.skip = skip
        self.register_buffer("zero", torch.zeros(self.sizes[-1]), persistent=False)
        self.down, self.heads = nn.ModuleList(), nn.ModuleList()
        for i, size in enumerate(self.sizes[:-1]):
            above = self.layers[i + 1 :] if skip else self.layers[i + 1 : i + 2]
            self.down.append(between(network, above, self.layers[i]))
            self.heads.append(head(self.down[i], 2 * size))
        if skip and len(self.sizes) > 1:
            self.past = nn.Linear(sum(self.sizes[1:]), self.sizes[0], bias=False)
        self.scale = build("scale", scale, SCALES)

    def given(self, above: Sequence[Tensor]) -> Any:
        """p(z_l | z_{l+1}, …, z_L), of the values of the layers above, the nearest first."""
        if not above:
            return dist.Normal(self.zero, torch.ones_like(self.zero)).to_event(1)
        i = len(self.sizes) - len(above) - 1
        h = self.down[i](together(above if self.skip else above[:1]))
        loc, raw = self.heads[i](h).chunk(2, -1)  # each [*, Z_l]
        return dist.Normal(loc, bounded(self.scale(raw))).to_event(1)

    def hand_over(self, values: Sequence[Tensor], conditionals: Sequence[Any]) -> None:
        """Take what a guide has computed on its way from the top: the next run of this prior, if
        it is at the very same values, need not compute it again."""
        if torch.is_grad_enabled():
            HANDED_OVER[self] = values, conditionals, self.version()

    def version(self) -> list[tuple[int, int]]:
        """Changes whenever a weight does."""
        return [(id(weight), weight._version) for weight in self.parameters()]

    def forward(self) -> Tensor:
        theirs, known, version = HANDED_OVER.pop(self, ([], [], None))
        if known and version != self.version():
            known = []
        values: list[Tensor] = []
        for i, name in reversed(list(enumerate(self.names))):
            same = known and all(map(is_, values, theirs[i + 1 :]))
            p = known[i] if same else self.given(values)
            values.insert(0, draw(name, p))
        if self.skip and values[1:]:
            return values[0] + self.past(together(values[1:]))
        return values[0]


HANDED_OVER: WeakKeyDictionary[Hierarchy, Any] = WeakKeyDictionary()
"""Between a guide's run and the model's; beside the priors, which are copied and saved without."""


class BottomUp(nn.Module):
    """Layers inferred from the image upwards: q(z_1 | x), then each from the one below it.

    Equation: q(z | x) = q(z_1 | x) Π_{l>1} q(z_l | z_{l-1}).

    Args:
        encoder: network to the features of z_1.
        latent_size: units of z_1, …, z_L.
        network: makes what stands between two layers.
        layer: the guide of each layer, or a list of one for each: a name of
            :data:`~pyro_vae.guides.GUIDES` whose z is a real vector.
        scale: how its output becomes σ, a name of :data:`~pyro_vae.scales.SCALES`.

    Raises:
        InputError: a guide that gives no real vector, or not one for each layer.

    Paper: Burda, Grosse & Salakhutdinov 2016, Importance weighted autoencoders, section 2.

    Example:
        >>> vae = VAE((1, 28, 28), (64, 32), guide="bottom-up(layer=['iaf', 'mean-field'])")
    """

    layered = True
    default_prior = "hierarchy"

    def __init__(
        self,
        encoder: nn.Module,
        latent_size: Latent,
        network: Any,
        layer: Any = "mean-field",
        scale: Any = "log-variance",
    ) -> None:
        super().__init__()
        shapes = layers(latent_size)
        self.names = site_names(len(shapes))
        up = [encoder, *(between(network, [a], b) for a, b in pairwise(shapes))]
        self.posteriors = posteriors(up, shapes, layer, scale)

    def forward(self, x: Tensor) -> list[Tensor]:
        values: list[Tensor] = []
        for name, posterior in zip(self.names, self.posteriors, strict=True):
            values.append(draw(name, posterior(values[-1] if values else x)))
        return values


class Ladder(nn.Module):
    """Layers inferred from the top downwards, each from the image and from the layers above it.

    Equation: d_1 = d_1(x), d_l = d_l(d_{l-1}); then from the top downwards, with p_l = N(μ_p, σ_p²)
    the prior's p(z_l | z_{l+1}, …), either

    - ``precision``: q_l ∝ p_l(z_l) N(z_l; μ(d_l), σ(d_l)²), whose precision is the sum of both
      precisions and whose mean is weighted by them, or
    - ``learned``: q_l is any guide that sees d_l, μ_p and σ_p.

    The paper takes the top's N(μ(d_L), σ(d_L)²) as it is; here the top is merged as the rest.
    Train it as the paper does, with batch normalization (``network="mlp(batch_norm=True)"``) and a
    warm-up of the KL (``objective="annealed"``): without them the upper layers collapse.

    Args:
        encoder: network to the features of z_1.
        latent_size: units of z_1, …, z_L.
        network: makes what stands between two layers.
        merge: ``precision`` or ``learned``.
        layer: for ``learned``, the guide of each layer, or a list of one for each.
        scale: how the networks' output becomes σ, a name of :data:`~pyro_vae.scales.SCALES`; the
            default is the paper's. A layer that has nothing to say asks for an ever larger σ,
            which with log-variance grows until it overflows.

    Raises:
        InputError: a prior that is no hierarchy of these layers, another ``merge``, or a ``layer``
            that cannot be merged so.

    Paper: Sønderby et al. 2016, Ladder variational autoencoders; ``learned``: Kingma et al. 2016,
    Improving variational inference with inverse autoregressive flow, its bidirectional inference.

    Example:
        >>> vae = VAE((1, 28, 28), (64, 32, 16), guide="ladder")
        >>> vae.encode(torch.rand(8, 1, 28, 28).round())["z_2"].event_shape
        torch.Size([32])
    """

    layered = True
    default_prior = "hierarchy"

    def __init__(
        self,
        encoder: nn.Module,
        latent_size: Latent,
        network: Any,
        merge: str = "precision",
        layer: Any = "mean-field",
        scale: Any = "softplus-variance",
    ) -> None:
        super().__init__()
        self.layers = layers(latent_size)
        self.names = site_names(len(self.layers))
        self.merge = lookup("merge", merge, MERGES)
        up = [encoder]
        for target in self.layers[1:]:
            up.append(between(network, [layout(up[-1])], target))
        self.up = nn.ModuleList(up)
        if merge == "learned":
            both = [
                between(network, [layout(d), z, z], z) for d, z in zip(up, self.layers, strict=True)
            ]
            self.posteriors = posteriors(both, self.layers, layer, scale)
        elif layer == "mean-field":
            self.posteriors = nn.ModuleList(
                head(d, 2 * prod(z)) for d, z in zip(up, self.layers, strict=True)
            )
        else:
            raise InputError(
                f"merge='precision' is of two Normals, and layer is {layer!r}; take merge='learned'"
            )
        self.scale = build("scale", scale, SCALES)
        self.prior: tuple[()] | tuple[Hierarchy] = ()

    def attach(self, model: Any) -> None:
        """Tell the guide the model whose prior its layers are merged with."""
        own = getattr(model.prior, "layers", None)
        if not isinstance(model.prior, Hierarchy) or own != self.layers:
            made = "is no hierarchy" if own is None else f"has the layers {list(map(list, own))}"
            raise InputError(
                f"the ladder guide has the layers {list(map(list, self.layers))} and merges them "
                f"with those of the prior, and the prior {type(model.prior).__name__} {made}; take "
                "the prior hierarchy with the same latent sizes"
            )
        # In a tuple, out of torch's sight: the prior's weights belong to the model alone.
        self.prior = (model.prior,)

    def forward(self, x: Tensor) -> list[Tensor]:
        if not self.prior:
            raise InputError("the ladder guide has no model; call attach(model) first")
        features = []
        for up in self.up:
            x = up(x)
            features.append(x)  # [B, F]
        (prior,) = self.prior
        values: list[Tensor] = []
        conditionals: list[Any] = []
        for i in reversed(range(len(features))):
            conditionals.insert(0, prior.given(values))
            p = conditionals[0].base_dist
            q = self.merge(self.posteriors[i], features[i], p, self.scale)
            values.insert(0, draw(self.names[i], q))
        prior.hand_over(values, conditionals)
        return values


def bounded(scale: Tensor) -> Tensor:
    """σ within the root of what a float32 can hold, for its square has to be held as well."""
    return scale.clamp(1e-18, 1e18)


def by_precision(posterior: nn.Module, d: Tensor, p: Any, scale: nn.Module) -> Distribution:
    """The product of the prior's Normal and the features' own, normalized."""
    loc, raw = posterior(d).chunk(2, -1)  # each [B, Z_l]
    # By the ratio of the precisions: where the features say nothing it is 0, and q is p exactly.
    ratio = (p.scale / bounded(scale(raw))).square()  # [*, Z_l]
    q = dist.Normal(p.loc + ratio / (1 + ratio) * (loc - p.loc), p.scale * (1 + ratio).rsqrt())
    return q.to_event(1)


def as_learned(posterior: nn.Module, d: Tensor, p: Any, scale: nn.Module) -> Distribution:
    """What the layer's own guide makes of the features and of the prior's moments."""
    return posterior(together([d, p.loc, p.scale]))


MERGES = {"precision": by_precision, "learned": as_learned}


def posteriors(
    encoders: Sequence[nn.Module], shapes: Sequence[Any], layer: Any, scale: Any
) -> nn.ModuleList:
    """A guide for each layer, by name."""
    from .guides import GUIDES  # which holds the classes above

    specs = list(layer) if isinstance(layer, list | tuple) else [layer] * len(shapes)
    if len(specs) != len(shapes):
        raise InputError(f"layer names {len(specs)} guides, and there are {len(shapes)} layers")
    made = nn.ModuleList()
    for spec, encoder, shape in zip(specs, encoders, shapes, strict=True):
        row, options = resolve("guide", spec, GUIDES)
        if hasattr(row, "default_prior") or hasattr(row, "attach"):
            raise InputError(
                f"a layer's guide is one of a real vector that needs no model, such as mean-field, "
                f"full-covariance or iaf, not {spec!r}"
            )
        sizes = {"encoder": encoder, "latent_size": prod(shape)}
        made.append(make("guide", row, options, **sizes, scale=scale))
    return made

"""Several layers of latents: the prior p(z_L) p(z_{L-1} | z_L) … p(z_1 | z_2).

The VAE's ``latent_size`` is then a list: z_1, the layer next to the image, comes first. A layer is
a number of units, or ``(c, h, w)`` for a latent with the layout of an image. Its site is "z_1" to
"z_L", or "z" if it is the only layer. Its value is a vector ``[*, Z_l]`` in both cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from math import prod
from operator import is_
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from ..contracts import NOTHING, Borrowed, Given, Guide, Network, Prior
from ..distributions import standard_normal
from ..errors import InputError
from ..latents import Layout, Shape, concatenate, sample_site, site_names
from ..modules import mode
from ..networks import head
from ..options import flag
from ..registry import PRIORS, class_of
from ..scales import SCALES

STANDARD = "standard-normal"


class TopDown(Guide):
    """A guide that infers the layers from the top downwards, such as ladder."""

    def top(self, x: Tensor) -> Distribution:
        """q(z_L | x), with batch shape ``[B]`` and event shape ``[Z_L]``, without the prior."""
        raise NotImplementedError(f"{type(self).__name__} has no top")


class TopOnly(Guide):
    """The top layer of a guide, q(z_L | x), as a guide of one layer.

    Args:
        guide: the guide. It owns the weights.
    """

    def __init__(self, guide: TopDown) -> None:
        super().__init__()
        self.borrowed = Borrowed(guide)

    def forward(self, x: Tensor) -> Distribution:
        guide = self.borrowed.module
        with mode(self.training, guide):
            return guide.top(x)


class Hierarchy(Prior):
    """Layers of Normals, each given the layer above. It fits the guides bottom-up and ladder.

    Equation: p(z) = p(z_L) Π_{l<L} N(z_l; μ_l(z_{l+1}), σ_l(z_{l+1})²), p(z_L) = N(0, I) unless
    ``top`` names another.

    Args:
        latent_layers: the layout of z_1, …, z_L.
        network: makes the network between two layers.
        shape: the shape of what the guide is handed.
        posterior: the guide, for a ``top`` that is made of it.
        scaling: as in :class:`~pyro_vae.priors.VampPrior`, for ``top``.
        top: the prior of the top layer: a name of :data:`~pyro_vae.registry.PRIORS` of one real
            vector, such as ``mixture(components=50)`` or ``flow``; with the guide ladder also
            ``vamp``.
        skip: if true, every layer sees all layers above it and not only the next one, and the
            decoder gets z_1 plus a linear map of the other layers.
        scale: how the networks' output becomes σ, a name of :data:`~pyro_vae.registry.SCALES`. σ
            is kept at or above 1e-18: a unit of a ladder whose posterior equals its prior costs
            nothing for any σ, so its σ can shrink until σ² underflows.

    Raises:
        InputError: a ``top`` that is not a prior of one real vector, or one that takes a context;
            ``vamp`` with a guide that has no q(z_L | x).

    Paper: Rezende, Mohamed & Wierstra 2014, Stochastic backpropagation and approximate inference
    in deep generative models. A learned top layer: Tomczak & Welling 2018, VAE with a VampPrior,
    section 3.

    Example:
        >>> VAE((1, 28, 28), (64, 32), guide="ladder", prior="hierarchy(skip=True)").sample(3).shape
        torch.Size([3, 1, 28, 28])
    """

    zero: Tensor
    top: nn.Module | None

    def __init__(
        self,
        latent_layers: Sequence[Layout],
        network: Network,
        shape: Shape = (),
        posterior: nn.Module | None = None,
        scaling: tuple[Tensor, Tensor] | None = None,
        top: Any = STANDARD,
        skip: bool = False,
        scale: Any = "log-variance",
    ) -> None:
        super().__init__()
        self.layers = tuple(latent_layers)
        self.sizes = [prod(layer) for layer in self.layers]
        self.names = site_names(len(self.sizes))
        self.skip = flag("skip", skip)
        self.register_buffer("zero", torch.zeros(self.sizes[-1]), persistent=False)
        self.down, self.heads = nn.ModuleList(), nn.ModuleList()
        for i, size in enumerate(self.sizes[:-1]):
            above = self.layers[i + 1 :] if skip else self.layers[i + 1 : i + 2]
            self.down.append(network.between(above, self.layers[i]))
            self.heads.append(head(self.down[i], 2 * size))
        if skip and len(self.sizes) > 1:
            self.past = nn.Linear(sum(self.sizes[1:]), self.sizes[0], bias=False)
        self.scale = SCALES.build(scale)
        self.top, self.lender = None, Borrowed()
        if top != STANDARD:
            handed = {"shape": shape, "network": network, "scaling": scaling}
            self.top = self.top_of(top, posterior, handed)
            self.lender = Borrowed(posterior)

    def top_of(self, spec: Any, posterior: nn.Module | None, handed: dict[str, Any]) -> nn.Module:
        """The prior of the top layer."""
        choice = PRIORS.choose(spec)
        kind = class_of(choice)
        if issubclass(kind, Prior) and not kind.has_one_site():
            refuse_top(spec)  # before it can ask for what is not there
        unavailable = {"context_size": "is for one layer of latents; take mixture, flow or vamp"}
        if isinstance(posterior, TopDown):
            handed["posterior"] = TopOnly(posterior)
        else:
            unavailable["posterior"] = (
                f"is made of a guide's q(z_L | x), which the {type(posterior).__name__} guide does "
                "not have; take the guide ladder, or mixture or flow as top"
            )
        part = choice.make(
            latent_size=self.sizes[-1],
            latent_layers=self.layers[-1:],
            unavailable=unavailable,
            **handed,
        )
        prior = Prior.checked(part)
        if not prior.has_one_site() or prior.takes("context"):
            refuse_top(spec)
        return part

    def conditional(self, above: Sequence[Tensor]) -> Any:
        """p(z_l | z_{l+1}, …, z_L).

        Args:
            above: the values of the layers above, the nearest first; empty for the top layer.
        """
        if not above:
            if self.top is None:
                return standard_normal(self.zero)
            return Prior.of(self.top).run(given=NOTHING)
        i = len(self.sizes) - len(above) - 1
        h = self.down[i](concatenate(above if self.skip else above[:1]))
        loc, raw = self.heads[i](h).chunk(2, -1)  # each [*, Z_l]
        return dist.Normal(loc, bounded(self.scale(raw))).to_event(1)

    def sample_sites(self, given: Given = NOTHING) -> Tensor:
        computed = SHARED.take(self)
        values: list[Tensor] = []
        for i, name in reversed(list(enumerate(self.names))):
            p = computed.get(values, i) or self.conditional(values)
            values.insert(0, sample_site(name, p))
        if self.skip and values[1:]:
            return values[0] + self.past(concatenate(values[1:]))
        return values[0]


def refuse_top(spec: Any) -> NoReturn:
    raise InputError(
        "the top of a hierarchy is a prior of one real vector without a context, such as mixture, "
        f"flow or vamp, not {spec!r}"
    )


def bounded(scale: Tensor) -> Tensor:
    """σ limited to 1e-18 … 1e18, so that σ² fits into a float32 as well."""
    return scale.clamp(1e-18, 1e18)


class Conditionals:
    """Conditionals of a hierarchy that a guide has computed at certain values.

    Args:
        values: the latents, z_1 first.
        conditionals: the prior's distribution of each layer at these values, z_1 first.
        version: the state of the prior's weights.
    """

    def __init__(
        self, values: Sequence[Tensor], conditionals: Sequence[Any], version: list[tuple[int, int]]
    ) -> None:
        self.values = values
        self.conditionals = conditionals
        self.version = version

    def get(self, above: Sequence[Tensor], i: int) -> Any:
        """The conditional of layer ``i`` if it was computed at these very tensors; else None."""
        if self.conditionals and all(map(is_, above, self.values[i + 1 :])):
            return self.conditionals[i]
        return None


class SharedConditionals:
    """Lets the model reuse the prior's conditionals that a ladder guide has computed.

    A ladder guide computes p(z_l | z_{l+1}, …) on its way from the top layer down. The model needs
    the same distributions at the same values right after it. Reusing them saves the second pass
    through the prior's networks. Loss and gradients do not change.

    What a guide has computed is kept here and not in the prior, so that copying or saving a prior
    does not include it. It is used once, by the next run of the prior, and only if the values are
    the same tensors and no weight has changed since.
    """

    def __init__(self) -> None:
        self.kept: WeakKeyDictionary[Hierarchy, Conditionals] = WeakKeyDictionary()

    def put(self, prior: Hierarchy, values: Sequence[Tensor], conditionals: Sequence[Any]) -> None:
        """Keep the conditionals of one run of a guide. Nothing is kept without gradients."""
        if torch.is_grad_enabled():
            self.kept[prior] = Conditionals(values, conditionals, version(prior))

    def take(self, prior: Hierarchy) -> Conditionals:
        """Remove and give what was kept for ``prior``; empty if a weight has changed since."""
        kept = self.kept.pop(prior, None)
        if kept is None or kept.version != version(prior):
            return Conditionals([], [], [])
        return kept


def version(prior: Hierarchy) -> list[tuple[int, int]]:
    """A value that changes when a weight changes that the prior computes with."""
    guide = prior.lender.module
    weights = chain(prior.parameters(), [] if guide is None else guide.parameters())
    return [(id(weight), weight._version) for weight in weights]


SHARED = SharedConditionals()

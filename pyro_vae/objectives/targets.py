"""Objectives with a target for the mean KL of the batch: a capacity or a floor.

They use the mean over the batch, so their loss is not a sum over images.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import InputError
from ..options import at_least_one, number
from .checks import plates
from .divergences import by_unit
from .terms import Terms
from .weights import Levels, Scheduled


class Capacity(Scheduled):
    """Capacity control: a penalty keeps the batch's mean KL at a number of nats that rises.

    Equation: loss / B = γ |mean_b KL_b - C(t)| - mean_b log p(x_b | z_b), C(t) = nats min(1, t /
    epochs), t in epochs. KL_b is the sum over all latent sites. If ``nats`` is a dict, each site
    has a penalty of its own.

    Args:
        nats: C at the end, in nats; or a dict with the C of each latent site.
        gamma: the weight of the penalty, γ.
        epochs: length of the rise, in epochs.
        kl, num_particles: as for ``beta``.

    Raises:
        InputError: a number out of range; at a call, if ``advance`` was never called.

    Paper: Burgess et al. 2018, Understanding disentangling in β-VAE; by site: Dupont 2018, Learning
    disentangled joint continuous and discrete representations.

    Example:
        >>> from pyro_vae.objectives import Capacity
        >>> vae = VAE((1, 28, 28), 20, guide="joint")
        >>> objective = Capacity(nats={"z": 5, "c": 2}, gamma=30)
        >>> objective.advance(epoch=1)  # a tenth of the capacity
        >>> loss = objective.loss(vae.model, vae.guide, x)
    """

    per_image = False
    across_ranks = True

    def __init__(
        self,
        nats: float | Mapping[str, float] = 25.0,
        gamma: float = 1000.0,
        epochs: float = 10.0,
        kl: str = "monte-carlo",
        num_particles: int = 1,
    ) -> None:
        self.epochs, self.gamma = number("epochs", epochs, above=0), number("gamma", gamma)
        super().__init__("nats", nats, kl, num_particles)

    def course(self, epoch: float, final: float) -> float:
        return final * min(1.0, epoch / self.epochs)

    def loss_per_image(self, terms: Terms) -> Tensor:
        self.check_names(terms)
        means = self.means(terms)
        if "" in self.levels:
            means = {"": torch.stack(list(means.values())).sum()}
        held = sum((kl - self.level(name, kl)).abs() for name, kl in means.items())
        return self.gamma * held - terms.log_likelihood


class FreeBits(Levels):
    """Free bits: a floor under the KL, so that no latent collapses early in training.

    Equation: loss / B = Σ_j max(λ, mean_b KL_bj) - mean_b log p(x_b | z_b), over groups j of
    latents. A group is a whole site, or ``group_size`` neighbouring units of a site.

    Below the floor, the KL of a group has no gradient.

    Args:
        nats: λ, the floor of a group in nats; or a dict with the floor for the groups of each
            latent site.
        group_size: units in a group. None takes each whole site as one group.
        kl, num_particles: as for ``beta``.

    Raises:
        InputError: a negative floor; at a call, a floor of a site that does not exist, a group size
            that does not divide the number of units, or groups of units that are not independent.

    Paper: Kingma et al. 2016, Improving variational inference with inverse autoregressive flow,
    equation 15.

    Example:
        >>> from pyro_vae.objectives import FreeBits
        >>> objective = FreeBits(nats=0.1, group_size=1, kl="analytic")
        >>> loss = objective.loss(vae.model, vae.guide, x)
    """

    per_image = False
    across_ranks = True

    def __init__(
        self,
        nats: float | Mapping[str, float] = 2.0,
        group_size: int | None = None,
        kl: str = "monte-carlo",
        num_particles: int = 1,
    ) -> None:
        if group_size is not None:
            at_least_one("group_size", group_size)
        super().__init__("nats", nats, kl, num_particles)
        self.group_size = group_size

    def loss_per_image(self, terms: Terms) -> Tensor:
        self.check_names(terms)
        if self.group_size is None:
            groups = self.means(terms)
        else:
            groups = {name: self.groups(name, terms, self.group_size) for name in terms.q}
        floored = [torch.maximum(kl, self.level(name, kl)).sum() for name, kl in groups.items()]
        return sum(floored) - terms.log_likelihood

    def groups(self, name: str, terms: Terms, size: int) -> Tensor:
        """The mean over images of the KL of each group of units of a site, ``[groups]``."""
        q, p = terms.q[name], terms.p.get(name)
        units = q["fn"].event_shape.numel()
        if p is None or plates(q) != terms.dims or units % size:
            raise InputError(
                f"group_size={size} does not fit site {name!r}, which has {units} units in "
                f"{len(plates(q))} plates: it must divide the number of units, and the site must "
                "be in the model and only in the plate of images"
            )
        kl = self.kl(name, by_unit(name, p), by_unit(name, q))  # [*, B, Z]
        kl = self.batch.whole(kl, -2)
        return kl.reshape(-1, units // size, size).sum(-1).mean(0)  # [groups]

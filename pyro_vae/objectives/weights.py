"""Objectives that weigh the KL: by a constant, on a schedule, at a capacity, above a floor."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import InputError
from ..registry import at_least_one, number
from .checks import plates
from .divergences import by_unit
from .terms import PerImage, Terms


class Levels(PerImage):
    """Base of the objectives with one number for all latent sites, or one number for each site.

    The numbers are 0-d tensors. :class:`Scheduled` fills them in place, so that a compiled step
    reads the new values.

    Args:
        option: the name of the number, for error messages.
        final: the number, at the end of training if it changes; or a dict with the number of each
            latent site.
        kl, num_particles: as in :class:`.terms.PerImage`.
    """

    def __init__(
        self,
        option: str,
        final: float | Mapping[str, float],
        kl: str = "monte-carlo",
        num_particles: int = 1,
    ) -> None:
        super().__init__(num_particles, kl)
        self.option = option
        self.final = dict(final) if isinstance(final, Mapping) else {"": final}
        for value in self.final.values():
            number(option, value)
        self.levels = {k: torch.tensor(v, dtype=torch.float64) for k, v in self.final.items()}

    def level(self, site: str, like: Tensor) -> Tensor:
        """The current number of a site, with the type and device of ``like``."""
        key = "" if "" in self.levels else site
        if key not in self.levels:
            raise InputError(
                f"{self.option} names the latent sites {', '.join(self.levels)}, and there is "
                f"also {site}; give it a number, too"
            )
        if (level := self.levels[key]).dtype != like.dtype or level.device != like.device:
            level = self.levels[key] = level.to(like)
        return level

    def check_names(self, terms: Terms) -> None:
        """Raise :class:`~pyro_vae.errors.InputError` for a number of a site that does not exist."""
        if unknown := self.levels.keys() - {""} - terms.q.keys():
            raise InputError(
                f"{self.option} names {min(unknown)!r}, and the latent sites are "
                f"{', '.join(terms.q)}"
            )


class Scheduled(Levels):
    """Base of the objectives whose numbers change with training.

    A subclass gives the number after each epoch, :meth:`course`.
    """

    advanced = False

    def course(self, epoch: float, final: float) -> float:
        """The number after ``epoch`` epochs; ``final`` is the number at the end."""
        raise NotImplementedError

    def advance(self, epoch: float) -> None:
        self.advanced = True
        for site, level in self.levels.items():
            level.fill_(self.course(epoch, self.final[site]))

    def level(self, site: str, like: Tensor) -> Tensor:
        if not self.advanced:
            raise InputError(
                f"{type(self).__name__} changes with training and does not know how far training "
                "is: call its advance(epoch) before each step, as fit() does"
            )
        return super().level(site, like)


class Beta(Levels):
    """β-VAE: the KL weighed by a constant, on both sides and for every latent site.

    Equation: loss = Σ_b β KL(q(z | x_b) || p(z)) - log p(x_b | z_b).

    Args:
        beta: β, or a dict from each latent site to its own; 1 is the ELBO.
        kl: ``monte-carlo``, ``analytic`` or ``closed-form``.
        num_particles: draws of z for each image.

    Raises:
        InputError: a negative β, or one for a site that is not there.

    Paper: Higgins et al. 2017, β-VAE: Learning basic visual concepts with a constrained
    variational framework.

    Example:
        >>> SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=Beta(beta=4))
    """

    def __init__(
        self,
        beta: float | Mapping[str, float] = 4.0,
        kl: str = "monte-carlo",
        num_particles: int = 1,
    ) -> None:
        super().__init__("beta", beta, kl, num_particles)

    def loss_per_image(self, terms: Terms) -> Tensor:
        self.check_names(terms)
        kls = self.kls(terms).items()
        return sum(self.level(name, kl) * kl for name, kl in kls) - terms.log_likelihood


class Annealed(Scheduled, Beta):
    """KL annealing: the KL's weight rises on a straight line, then stays.

    Equation: β(t) = start + (beta - start) min(1, t / epochs), t in epochs.

    Args:
        epochs: length of the rise.
        start: weight at the start.
        beta: weight at the end, or a dict from each latent site to its own.
        kl, num_particles: as for ``beta``.

    Raises:
        InputError: ``advance`` has not been called, or numbers out of range.

    Paper: Bowman et al. 2016, Generating sentences from a continuous space; Sønderby et al. 2016,
    Ladder variational autoencoders.

    Example:
        >>> objective = Annealed(epochs=10)
        >>> objective.advance(epoch=2.5)  # weight 0.25
    """

    def __init__(
        self,
        epochs: float = 10.0,
        start: float = 0.0,
        beta: float | Mapping[str, float] = 1.0,
        kl: str = "monte-carlo",
        num_particles: int = 1,
    ) -> None:
        self.epochs, self.start = number("epochs", epochs, above=0), number("start", start)
        Beta.__init__(self, beta, kl, num_particles)

    def course(self, epoch: float, final: float) -> float:
        return self.start + (final - self.start) * min(1.0, epoch / self.epochs)


class Cyclical(Scheduled, Beta):
    """Cyclical KL annealing: the rise from 0 is repeated.

    Equation: β(t) = beta min(1, s / ratio), s = (t mod epochs) / epochs, t in epochs.

    Args:
        epochs: length of a cycle.
        ratio: share of a cycle in which the weight rises.
        beta: weight at the end of each rise, or a dict from each latent site to its own.
        kl, num_particles: as for ``beta``.

    Raises:
        InputError: ``advance`` has not been called, or numbers out of range.

    Paper: Fu et al. 2019, Cyclical annealing schedule: a simple approach to mitigating KL
    vanishing.

    Example:
        >>> objective = Cyclical(epochs=10)
        >>> objective.advance(epoch=12.5)  # weight 0.5
    """

    def __init__(
        self,
        epochs: float = 10.0,
        ratio: float = 0.5,
        beta: float | Mapping[str, float] = 1.0,
        kl: str = "monte-carlo",
        num_particles: int = 1,
    ) -> None:
        self.epochs, self.ratio = number("epochs", epochs, above=0), number("ratio", ratio, above=0)
        Beta.__init__(self, beta, kl, num_particles)

    def course(self, epoch: float, final: float) -> float:
        return final * min(1.0, epoch % self.epochs / self.epochs / self.ratio)


class Capacity(Scheduled):
    """Capacity control: the batch's mean KL is held at a number of nats that rises.

    Equation: loss / B = γ |mean_b KL_b - C(t)| - mean_b log p(x_b | z_b), C(t) = nats min(1, t /
    epochs), t in epochs; KL_b is over all latent sites, or C is held by each on its own.

    Args:
        nats: C at the end; or a dict from each latent site to its own.
        gamma: γ.
        epochs: length of the rise.
        kl, num_particles: as for ``beta``.

    Raises:
        InputError: ``advance`` has not been called, or numbers out of range.

    Paper: Burgess et al. 2018, Understanding disentangling in β-VAE; by site: Dupont 2018, Learning
    disentangled joint continuous and discrete representations.

    Example:
        >>> objective = Capacity(nats={"z": 5, "c": 2}, gamma=30)
    """

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
        means = {name: kl.mean() for name, kl in self.kls(terms).items()}
        if "" in self.levels:
            means = {"": torch.stack(list(means.values())).sum()}
        held = sum((kl - self.level(name, kl)).abs() for name, kl in means.items())
        return self.gamma * held - terms.log_likelihood


class FreeBits(Levels):
    """Free bits: no reward for a KL below a floor, so that no latent is given up early.

    Equation: loss / B = Σ_j max(λ, mean_b KL_bj) - mean_b log p(x_b | z_b), over groups j of
    latents: whole sites, or equal groups of neighbouring units of each.

    Args:
        nats: λ, the floor of a group; or a dict from each latent site to that of its groups.
        group_size: units in a group; None takes the whole site as one.
        kl, num_particles: as for ``beta``.

    Raises:
        InputError: a negative floor, a floor for a site that is not there, a group size that does
            not divide the units, or groups where units are not independent.

    Paper: Kingma et al. 2016, Improving variational inference with inverse autoregressive flow,
    equation 15.

    Example:
        >>> objective = FreeBits(nats=0.1, group_size=1, kl="analytic")
    """

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
            groups = {name: kl.mean() for name, kl in self.kls(terms).items()}
        else:
            groups = {name: self.groups(name, terms, self.group_size) for name in terms.q}
        floored = [torch.maximum(kl, self.level(name, kl)).sum() for name, kl in groups.items()]
        return sum(floored) - terms.log_likelihood

    def groups(self, name: str, terms: Terms, size: int) -> Tensor:
        """The mean over images of the KL of each group of a site's units."""
        q, p = terms.q[name], terms.p.get(name)
        units = q["fn"].event_shape.numel()
        if p is None or plates(q) != terms.dims or units % size:
            raise InputError(
                f"group_size={size} does not fit site {name!r}, which has {units} units in "
                f"{len(plates(q))} plates: it divides the units of a site of the model, in the "
                "plate of images alone"
            )
        kl = self.kl(name, by_unit(name, p), by_unit(name, q))  # [*, B, Z]
        return kl.reshape(-1, units // size, size).sum(-1).mean(0)  # [groups]

"""Objectives with a weighted KL: the weight is a constant or has a schedule."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import InputError
from ..options import number
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
        if isinstance(final, Mapping) and not (final and all(map(is_name, final))):
            raise InputError(
                f"{option} is a number, or a dict from the name of each latent site to its number, "
                f"not {final!r}"
            )
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
                f"also {site}; give a number for {site}, too"
            )
        if (level := self.levels[key]).dtype != like.dtype or level.device != like.device:
            level = self.levels[key] = level.to(like)
        return level

    def means(self, terms: Terms) -> dict[str, Tensor]:
        """The mean KL of each latent site over draws and all images of the batch."""
        return {name: self.batch.whole(kl, -1).mean() for name, kl in self.kls(terms).items()}

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
                f"{type(self).__name__} changes with training, and its epoch is not set: call its "
                "advance(epoch) before each step, as fit() does"
            )
        return super().level(site, like)


def is_name(key: object) -> bool:
    """Whether ``key`` can be the name of a latent site."""
    return isinstance(key, str) and key != ""


class Beta(Levels):
    """β-VAE: a constant weight of the KL of each latent site.

    Equation: loss = Σ_b β KL(q(z | x_b) || p(z)) - log p(x_b | z_b).

    Args:
        beta: β, or a dict with the β of each latent site. β = 1 gives the ELBO.
        kl: ``monte-carlo``, ``analytic`` or ``closed-form``.
        num_particles: draws of z for each image.

    Raises:
        InputError: a β that is not a number of at least 0; at a call, a β of a site that does not
            exist, or a site without a β.

    Paper: Higgins et al. 2017, β-VAE: Learning basic visual concepts with a constrained
    variational framework.

    Example:
        >>> from pyro_vae.objectives import Beta
        >>> svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=Beta(beta=4))
        >>> loss = svi.step(x)
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
    """KL annealing: the weight of the KL rises linearly, then stays constant.

    Equation: β(t) = start + (beta - start) min(1, t / epochs), t in epochs.

    Args:
        epochs: length of the rise, in epochs.
        start: weight at the start.
        beta: weight at the end, or a dict with the weight of each latent site.
        kl, num_particles: as for ``beta``.

    Raises:
        InputError: a number out of range; at a call, if ``advance`` was never called.

    Paper: Bowman et al. 2016, Generating sentences from a continuous space; Sønderby et al. 2016,
    Ladder variational autoencoders.

    Example:
        >>> from pyro_vae.objectives import Annealed
        >>> objective = Annealed(epochs=10)
        >>> objective.advance(epoch=2.5)  # the weight is now 0.25
        >>> loss = objective.loss(vae.model, vae.guide, x)
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
    """Cyclical KL annealing: the weight of the KL rises from 0 again in each cycle.

    Equation: β(t) = beta min(1, s / ratio), s = (t mod epochs) / epochs, t in epochs.

    Args:
        epochs: length of a cycle, in epochs.
        ratio: fraction of a cycle in which the weight rises.
        beta: weight at the end of each rise, or a dict with the weight of each latent site.
        kl, num_particles: as for ``beta``.

    Raises:
        InputError: a number out of range; at a call, if ``advance`` was never called.

    Paper: Fu et al. 2019, Cyclical annealing schedule: a simple approach to mitigating KL
    vanishing.

    Example:
        >>> from pyro_vae.objectives import Cyclical
        >>> objective = Cyclical(epochs=10)
        >>> objective.advance(epoch=12.5)  # the weight is now 0.5
        >>> loss = objective.loss(vae.model, vae.guide, x)
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

"""The objectives of semi-supervised learning: y is summed out or drawn where it is not known."""

from __future__ import annotations

from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ..errors import InputError
from ..labels import LABEL, LabelPosterior, target_posterior
from ..options import at_least_one, number
from .bounds import Enumerate
from .terms import PerImage, Terms


class SemiSupervised(Enumerate):
    """The ELBO of rows with and without a label, and the classification of those with one.

    Equation: loss = Σ_known [L(x_b, y_b) - w log q(y_b | x_b)] + Σ_unknown U(x_b), with
    U(x) = Σ_y q(y | x) [L(x, y) + log q(y | x)] and
    L(x, y) = E_q(z|x,y)[log q(z | x, y) - log p(x | y, z) - log p(z)] - log p(y).
    The weight of the paper is w = alpha N / N_known.

    Args:
        data_size: N, the number of training images; None if it is not known, and then w = alpha.
        labelled: N_known, those whose label is known; None if all are.
        alpha: the weight of the classification.
        num_particles: draws of z for each image.

    Raises:
        InputError: at a call, a guide that does not infer labels, and the errors of ``enumerate``.

    Paper: Kingma et al. 2014, Semi-supervised learning with deep generative models, equation 9.

    Example:
        >>> from pyro_vae.objectives import SemiSupervised
        >>> vae = VAE((1, 28, 28), 20, guide="labelled", condition=10)
        >>> loss = SemiSupervised(data_size=60_000, labelled=100)
        >>> svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=loss)
        >>> labels = torch.tensor([3, 1, -1, -1, -1, -1, -1, -1])  # two are known
        >>> nats = svi.step(x, labels)
    """

    def __init__(
        self,
        data_size: int | None = None,
        labelled: int | None = None,
        alpha: float = 0.1,
        num_particles: int = 1,
    ) -> None:
        super().__init__(num_particles)
        self.weight = weight(alpha, data_size, labelled)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        with Classified() as classified:
            bound = super().differentiable_loss(model, guide, *args, **kwargs)
        return bound + self.term(classified)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.item()

    @torch.no_grad()
    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        with Classified() as classified:
            bound = super().loss(model, guide, *args, **kwargs)
        return bound + self.term(classified).item()

    def term(self, classified: Classified) -> Tensor:
        """The weighted classification of the rows whose label is known."""
        if classified.loss is None:
            raise InputError(
                "the objective m2 is for a guide that infers labels, and this one has no label; "
                "take the guide labelled, or another objective"
            )
        return self.weight * classified.loss / self.num_particles


class Classified(Messenger):
    """A Pyro handler that adds up -log q(y | x) of all known labels.

    Attributes:
        loss: the sum over rows and draws; None if there is no label.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loss: Tensor | None = None

    def _pyro_post_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], LabelPosterior):
            term = (msg["scale"] * msg["fn"].classification).sum()
            self.loss = term if self.loss is None else self.loss + term


class SemiSupervisedReal(PerImage):
    """The ELBO of rows with and without a real target, and the regression of those with one.

    Equation: loss = Σ_known [L(x_b, y_b) - w log q(y_b | x_b)] + Σ_unknown U(x_b), with
    U(x) = E_q(y|x)[L(x, y) + log q(y | x)] at a draw of y, and L and w as in
    :class:`SemiSupervised`.

    Args:
        data_size, labelled, alpha: as for :class:`SemiSupervised`.
        num_particles: draws of y and z for each row.

    Raises:
        InputError: at a call, a guide that does not infer real targets.

    Paper: Kingma et al. 2014, Semi-supervised learning with deep generative models, equation 9,
    with a Normal in place of the classes.

    Example:
        >>> from pyro_vae.objectives import SemiSupervisedReal
        >>> vae = VAE((1, 28, 28), 20, guide="targeted", condition=(1,))
        >>> svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), SemiSupervisedReal())
        >>> targets = torch.tensor([[3.2], [1.5], *[[float("nan")]] * 6])  # two are known
        >>> nats = svi.step(x, targets)
    """

    def __init__(
        self,
        data_size: int | None = None,
        labelled: int | None = None,
        alpha: float = 0.1,
        num_particles: int = 1,
    ) -> None:
        super().__init__(num_particles)
        self.weight = weight(alpha, data_size, labelled)

    def loss_per_image(self, terms: Terms) -> Tensor:
        site = terms.q.get(LABEL)
        q = None if site is None else target_posterior(site["fn"])
        if q is None:
            raise InputError(
                "the objective m2-real is for a guide that infers real targets, and this one has "
                "none; take the guide targeted, or another objective"
            )
        return super().loss_per_image(terms) + self.weight * terms.per_image(q.regression, site)


def weight(alpha: float, data_size: int | None, labelled: int | None) -> float:
    """The weight of -log q(y | x) at a known y: alpha N / N_known; alpha if they are not known.

    Raises:
        InputError: a number out of range.
    """
    number("alpha", alpha)
    if data_size is None or not labelled:
        return float(alpha)
    at_least_one("data_size", data_size)
    at_least_one("labelled", labelled)
    return float(alpha) * data_size / labelled

"""The evidence lower bound (ELBO) of each image, and its parts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..objectives import AnalyticKL
from ..objectives.checks import check_order
from ..options import MOST_DRAWS, at_least_one
from ..spelling import spelled
from ..words import counted, plus_minus
from .draws import plates_of
from .rows import batches_of, device_of
from .scoring import (
    log_ratio,
    measuring,
    pieces,
    run_guide,
    run_model,
    unit_log_ratio,
    values,
)


@dataclass(frozen=True, repr=False)
class Bound:
    """The evidence lower bound of each image: elbo = reconstruction - kl, in nats.

    Args:
        reconstructions: E_q[log p(x | z)] of each image, ``[N]``. The distortion is minus this.
        kl_of_sites: KL(q(z | x) || p(z)) of each image by latent site, each ``[N]``. In a
            hierarchy, the KL of a site given the sites before it.
        kl_of_units: the KL of each unit, mean over images, by latent site, each ``[Z]``. A site is
            left out if its units are dependent under the prior or the guide.
    """

    reconstructions: Tensor
    kl_of_sites: dict[str, Tensor]
    kl_of_units: dict[str, Tensor]

    def __repr__(self) -> str:
        means = (f"{k} = {plus_minus(v, self.errors[k])}" for k, v in self.means.items())
        return f"Bound({', '.join(means)} nats, means of {counted(len(self.elbos), 'row')})"

    @property
    def kls(self) -> Tensor:
        """The KL of each image, ``[N]``: the rate."""
        return torch.stack(list(self.kl_of_sites.values())).sum(0)

    @property
    def elbos(self) -> Tensor:
        """The bound of each image, ``[N]``."""
        return self.reconstructions - self.kls

    @property
    def elbo(self) -> float:
        """The ELBO, mean over images."""
        return self.elbos.mean().item()

    @property
    def reconstruction(self) -> float:
        """E_q[log p(x | z)], mean over images."""
        return self.reconstructions.mean().item()

    @property
    def kl(self) -> float:
        """KL(q(z | x) || p(z)), mean over images."""
        return self.kls.mean().item()

    @property
    def means(self) -> dict[str, float]:
        """``elbo``, ``reconstruction`` and ``kl``, each the mean over images."""
        return {"elbo": self.elbo, "reconstruction": self.reconstruction, "kl": self.kl}

    @property
    def errors(self) -> dict[str, float]:
        """The standard error over images of each of :attr:`means`."""
        return {
            "elbo": standard_error(self.elbos),
            "reconstruction": standard_error(self.reconstructions),
            "kl": standard_error(self.kls),
        }


def standard_error(each: Tensor) -> float:
    """The standard error of the mean of ``each`` ``[N]``; NaN for a single number."""
    return (each.std() / len(each) ** 0.5).item() if each.numel() > 1 else float("nan")


def error_of_share(share: float, n: int) -> float:
    """The standard error of a share of ``n`` observations; NaN for a share of 0 or 1.

    There the formula √(p (1 - p) / n) gives 0, and a sample cannot show that its share is exact.
    """
    return math.sqrt(share * (1 - share) / n) if 0 < share < 1 else math.nan


@spelled
def elbo(
    model: Any,
    guide: Any,
    data: Any,
    *,
    samples: int = 1,
    seed: int = 0,
    analytic: bool = False,
    kwargs: Mapping[str, Any] | None = None,
) -> Bound:
    """The ELBO of each row of the data: of each image, or of each observation of another kind.

    Equation: L(x) = E_q[log p(x | z)] - KL(q(z | x) || p(z)).

    Args:
        model, guide: Pyro programs that meet :mod:`.scoring`.
        data: the rows to evaluate on: Images, a tensor, a tuple or a dict of tensors, a torch
            ``Dataset`` or ``DataLoader``, as for :func:`~pyro_vae.training.fit`. ``dynamic``
            pixels are drawn once, with ``seed``.
        samples: draws of z for each row.
        seed: of the draws of pixels and of z. The global generators are not changed.
        analytic: compute each site's KL in closed form. By default it is the mean of
            log q(z) - log p(z) at the draws.
        kwargs: further arguments of both programs, the same for all rows.

    Raises:
        InputError: no rows, ``samples`` below 1, programs that do not meet :mod:`.scoring`, or
            ``analytic`` for distributions without a closed-form KL.

    Paper: Kingma & Welling 2014, Auto-Encoding Variational Bayes.

    Example:
        >>> from pyro_vae.evaluation import elbo
        >>> data = load_data("digits", binarize="dynamic")
        >>> vae = VAE(data.shape, latent_size=2)
        >>> bound = elbo(vae.model, vae.guide, data.test)
        >>> bound.elbo < 0                                 # nats, mean over images
        True
    """
    at_least_one("samples", samples, MOST_DRAWS)
    kl_of = AnalyticKL().kl
    reconstructions: list[Tensor] = []
    kls: dict[str, list[Tensor]] = {}
    units: dict[str, Tensor] = {}
    with measuring(model, guide, seed=seed, device=device_of(data, model, guide)):
        for x in batches_of(data, 500, seed, kwargs, model, guide):
            reconstruction = x.zeros(len(x))
            kl: dict[str, Tensor] = {}
            for draws in pieces(samples, 10):
                q = run_guide(guide, x, draws)
                p, likelihood = run_model(model, x, values(q))
                reconstruction = reconstruction + likelihood.sum(0) / samples  # [B]
                if analytic:
                    check_order(q, p)
                for name, site in q.items():
                    if (unit := unit_log_ratio(site, p[name])) is not None:
                        total = unit.expand(draws, len(x), -1).sum((0, 1)) / samples
                        units[name] = units[name] + total if name in units else total
                    if analytic:
                        refuse_plates(name, site)
                    each = kl_of(name, p[name], site) if analytic else log_ratio(site, p[name])
                    each = each.expand(draws, -1).sum(0) / samples  # [B]
                    kl[name] = kl[name] + each if name in kl else each
            reconstructions.append(reconstruction)
            for name, each in kl.items():
                kls.setdefault(name, []).append(each)
    sites = {name: torch.cat(each) for name, each in kls.items()}
    each_row = torch.cat(reconstructions)
    return Bound(each_row, sites, {name: total / len(each_row) for name, total in units.items()})


def refuse_plates(name: str, site: Any) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for a latent site in a plate inside that of the
    rows, whose closed-form KL would not be one number for each row."""
    if len(plates_of(site)) > 1:
        raise InputError(
            f"site {name!r} is in several plates, and its KL in closed form is only known for one; "
            "take analytic=False"
        )

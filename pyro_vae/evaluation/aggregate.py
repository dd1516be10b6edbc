"""The aggregate posterior q(z) = 1/N Σ_n q(z | x_n), and the terms of the rate that it gives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

from ..data.images import Images
from ..errors import InputError
from ..words import counted
from .bound import standard_error
from .latents import posterior_marginals, prior_marginals
from .rows import blocks
from .scoring import measuring, run_guide, run_model, values


@dataclass(frozen=True)
class Aggregate:
    """The terms of the rate, with the aggregate posterior q(z) = 1/N Σ_n q(z | x_n), in nats.

    Equation: E_x KL(q(z | x) || p(z)) = mutual information + KL(q(z) || p(z)). If p(z) and q(z | x)
    have marginals in closed form, KL(q(z) || p(z)) = total correlation + dimension-wise KL.

    Args:
        terms: ``mutual_information`` and ``marginal_kl``; if they are defined, also
            ``total_correlation`` and ``dimension_wise_kl``. Each is a mean and its standard error.
        images: the number of images N.
    """

    terms: dict[str, tuple[float, float]]
    images: int

    @property
    def estimator(self) -> str:
        """How the terms were estimated, in words."""
        images = counted(self.images, "image")
        return f"one z for each of {images}, q(z) the mixture over all of them"

    @property
    def saturated(self) -> str | None:
        """Why the terms of :data:`SATURATED` cannot be used; None if they can.

        The mutual information is at most log N. Near this limit each z is seen under its own image
        only. Then q(z) is too large, and so are the marginal KL and the total correlation. They can
        be used if the mutual information is below log N by at least log 10: an image's own
        posterior is then about a tenth of q(z). The mutual information is never above the rate R,
        so N = 10 e^R images are always enough.
        """
        limit, found = math.log(self.images), self.terms["mutual_information"][0]
        if found <= limit - math.log(10):
            return None
        rate = found + self.terms["marginal_kl"][0]
        enough = rate + math.log(10)
        count = f"{math.exp(enough):,.0f}" if enough < 16 else f"10^{enough / math.log(10):.0f}"
        return (
            f"the mutual information, {found:.2f} nats, is close to its upper limit log N = "
            f"{limit:.2f} nats for the N = {counted(self.images, 'image')}; N = {count} images "
            f"would serve, ten times e to the rate of {rate:.2f} nats"
        )


SATURATED = ("mutual_information", "marginal_kl", "total_correlation")
"""The terms that need many more images than e to the mutual information."""


def aggregate(model: Any, guide: Any, images: Images, *, seed: int = 0) -> Aggregate:
    """Split the rate into the terms of the aggregate posterior.

    q(z) is the mixture over all given images. So the terms belong to this set of images. The mutual
    information is the one between z and the index of the image, and is at most log N. A value close
    to log N means that N is too small (:attr:`Aggregate.saturated`). One z is drawn for each image.
    The work grows with N².

    Args:
        model, guide: Pyro programs that meet :mod:`.scoring`, with one latent site.
        images: the images to evaluate on. ``dynamic`` pixels are drawn once, with ``seed``.
        seed: of the draws of pixels and of z.

    Raises:
        InputError: no images, or more than one latent site.

    Paper: Hoffman & Johnson 2016, ELBO surgery; Chen et al. 2018, Isolating sources of
    disentanglement in variational autoencoders.

    Example:
        >>> from pyro_vae.evaluation.aggregate import aggregate
        >>> data = load_data("digits", binarize="threshold")
        >>> vae = VAE(data.shape, latent_size=2)
        >>> mean, error = aggregate(vae.model, vae.guide, data.test).terms["mutual_information"]
        >>> mean < torch.tensor(float(len(data.test))).log().item()
        True
    """
    sites = []
    with measuring(model, guide, seed=seed, device=images.pixels.device):
        for x in blocks(images, 500, seed, model, guide):
            q = run_guide(guide, x, 1)
            if len(q) != 1:
                raise InputError(
                    f"the aggregate posterior is computed for one latent site, not {len(q)}"
                )
            p, _ = run_model(model, x, values(q))
            ((name, site),) = q.items()
            sites.append((site, p[name]))
        z = torch.cat([q["value"][0] for q, _ in sites])  # [N, Z]
        own = torch.cat([q["log_prob"][0] for q, _ in sites])  # log q(z_n | x_n), [N]
        prior = torch.cat([p["log_prob"][0] for _, p in sites])  # log p(z_n), [N]
        whole = mixture_log_density([q["fn"] for q, _ in sites], z)  # log q(z_n), [N]
        each = {"mutual_information": own - whole, "marginal_kl": whole - prior}
        if marginals := marginals_of(name, sites):
            q_units, p_units = marginals
            units = mixture_log_density(q_units, z)  # log q(z_nd), [N, Z]
            each["total_correlation"] = whole - units.sum(-1)
            each["dimension_wise_kl"] = (units - p_units.log_prob(z)).sum(-1)
    return Aggregate(
        {k: (v.mean().item(), standard_error(v)) for k, v in each.items()},
        len(z),
    )


def marginals_of(name: str, sites: list[tuple[Any, Any]]) -> tuple[list[Normal], Normal] | None:
    """The units' marginals in the guide and in the prior; None if one has no closed form."""
    try:
        prior = prior_marginals(name, sites[0][1]["fn"])
        posteriors = [posterior_marginals(name, q["fn"]) for q, _ in sites]
        return posteriors, Normal(prior.loc[0, 0], prior.scale[0, 0])
    except InputError:
        return None


def mixture_log_density(parts: list[Any], z: Tensor) -> Tensor:
    """log 1/N Σ_n q_n(z) for each row of ``z`` ``[N, Z]``.

    Args:
        parts: distributions that hold the q_n, with batch shape ``[1, B]`` for joint densities, or
            ``[1, B, Z]`` for the densities of units.
    """
    sizes = [f.batch_shape[1] for f in parts]
    rows = []
    # Some rows at a time, because each row needs memory for every image and unit.
    for some in z.split(max(1, 2**21 // (sum(sizes) * z.shape[-1]))):
        log_q = [
            f.log_prob(some[:, None].expand(-1, n, -1)) for f, n in zip(parts, sizes, strict=True)
        ]
        rows.append(torch.cat(log_q, 1).logsumexp(1))
    return torch.cat(rows) - math.log(sum(sizes))

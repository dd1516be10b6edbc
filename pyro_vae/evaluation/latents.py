"""What the latents hold: used units, their spread over the data, labels read off them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import (
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from ..data.images import Images
from ..errors import InputError
from . import standard_error
from .scoring import blocks, draw, measuring, score, values


def moments(q: Any, draws: int = 1000) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each dimension of z, ``[B, Z]`` each.

    Both are exact if the distribution has them in closed form. Otherwise, as for flows, they are
    estimated from ``draws`` draws.
    """
    try:
        return q.mean, q.stddev
    except NotImplementedError:
        with torch.no_grad():
            z = q.sample((draws,))  # [draws, B, Z]
        return z.mean(0), z.std(0)


@torch.no_grad()
def encode_images(
    vae: Any, images: Images, seed: int, batch_size: int = 500
) -> dict[str, np.ndarray]:
    """μ and σ of the posterior of each image, with labels and file names if there are any.

    If there are several latent sites, the arrays are called ``loc_`` and ``scale_`` plus the name
    of the site, and μ and σ are estimated from 100 draws of all sites together.
    """
    generator = torch.Generator(images.pixels.device).manual_seed(seed)
    parts: dict[str, list[Tensor]] = {}
    for x in images.batches(batch_size, generator):
        q = vae.encode(x)
        if isinstance(q, dict):
            z = values(draw(vae.guide, x, 100))
            found = {name: (draws.mean(0), draws.std(0)) for name, draws in z.items()}
        else:
            found = {"": moments(q)}
        for site, pair in found.items():
            for name, moment in zip(("loc", "scale"), pair, strict=True):
                parts.setdefault(f"{name}_{site}".rstrip("_"), []).append(moment)
    arrays = {name: torch.cat(moment).cpu().numpy() for name, moment in parts.items()}
    if images.labels is not None:
        arrays["labels"] = images.labels.cpu().numpy()
    if images.files is not None:
        arrays["files"] = np.array(images.files)
    return arrays


def means(guide: Any, images: Images, *, draws: int = 100, seed: int = 0) -> dict[str, Tensor]:
    """The posterior mean of each image's latents, by two independent halves of the draws.

    Args:
        guide: a Pyro program that fits :mod:`.scoring`.
        images: the images to encode; ``dynamic`` pixels are drawn once, by ``seed``.
        draws: draws of z for each image; an even number.
        seed: of the draws of pixels and of z.

    Returns:
        ``[2, N, Z]`` by latent site; its mean over the first dimension is the posterior mean.

    Raises:
        InputError: no images, or draws that are no even number above 0.
    """
    if draws < 2 or draws % 2:
        raise InputError(f"draws is an even number of at least 2, not {draws}")
    halves: dict[str, list[Tensor]] = {}
    with measuring(guide, seed=seed, device=images.pixels.device):
        for x in blocks(images, 500, seed):
            for name, z in values(draw(guide, x, draws)).items():
                half = z.flatten(2).unflatten(0, (2, -1)).mean(1)  # [2, B, Z]
                halves.setdefault(name, []).append(half)
    return {name: torch.cat(each, 1) for name, each in halves.items()}


def side_by_side(means: dict[str, Tensor]) -> Tensor:
    """The posterior means of all sites, one after the other, ``[N, ΣZ]``."""
    return torch.cat([each.mean(0) for each in means.values()], -1)


def active_units(
    guide: Any, images: Images, *, draws: int = 100, seed: int = 0
) -> dict[str, Tensor]:
    """How far each unit's posterior mean moves over the data; above 0.01 the unit is active.

    Equation: A_d = Var_x(E_q(z|x)[z_d]), estimated by the covariance of two halves of the draws,
    whose own noise drops out.

    Args:
        guide, images, draws, seed: as for :func:`means`.

    Returns:
        ``[Z]`` by latent site, in the unit of z squared; ``(… > 0.01).sum()`` is the number of
        active units.

    Paper: Burda, Grosse & Salakhutdinov 2016, Importance Weighted Autoencoders.

    Example:
        >>> int((active_units(vae.guide, data.test)["z"] > 0.01).sum())
    """
    activity = {}
    for name, (first, second) in means(guide, images, draws=draws, seed=seed).items():
        product = (first - first.mean(0)) * (second - second.mean(0))  # [N, Z]
        activity[name] = product.sum(0) / max(len(first) - 1, 1)
    return activity


def unit_kl(
    model: Any, guide: Any, images: Images, *, draws: int = 1, seed: int = 0
) -> dict[str, Tensor]:
    """The KL of each latent unit, mean over images, in closed form where there is one.

    Equation: KL_d = E_x KL(q(z_d | x) || p(z_d)), z_d's marginals; for a hierarchy, given the sites
    before, at ``draws`` draws of them. For a guide with independent units their sum is the rate.

    A guide that draws its sites in another order than the model (``bottom-up``) has no closed form
    there; its KL is the mean of log q - log p at the draws.

    Args:
        model, guide: Pyro programs that fit :mod:`.scoring`.
        images, draws, seed: as for :func:`means`.

    Returns:
        nats of each unit by latent site, each ``[Z]``.

    Raises:
        InputError: a guide whose units have no Normal marginals in closed form, or a prior whose
            units are not independent Normals.

    Example:
        >>> unit_kl(vae.model, vae.guide, data.test)["z"].sort(descending=True).values
    """
    total: dict[str, Tensor] = {}
    with measuring(model, guide, seed=seed, device=images.pixels.device):
        for x in blocks(images, 500, seed):
            q = draw(guide, x, draws)
            p, _ = score(model, x, values(q))
            for name, site in q.items():
                own, prior = marginals(name, site["fn"]), units(name, p[name]["fn"])
                if list(q) == list(p):
                    kl = kl_divergence(own, prior)  # [K, B, Z]
                else:
                    kl = own.log_prob(site["value"]) - prior.log_prob(site["value"])
                kl = kl.mean(0).sum(0) / len(images)
                total[name] = total[name] + kl if name in total else kl
    return total


def marginals(name: str, q: Any) -> Normal:
    """The distribution of each unit of ``q`` on its own, batch ``[*, Z]``."""
    if isinstance(q, Independent) and isinstance(q.base_dist, Normal):
        return q.base_dist
    if isinstance(q, MultivariateNormal | LowRankMultivariateNormal):
        return Normal(q.mean, q.variance.sqrt())
    raise InputError(
        f"the units of {name!r} have no Normal marginals in closed form under the guide's "
        f"{type(q).__name__}"
    )


def units(name: str, p: Any) -> Normal:
    """The factors of a prior of independent Normals, batch ``[*, Z]``."""
    if isinstance(p, Independent) and isinstance(p.base_dist, Normal):
        return p.base_dist
    raise InputError(
        f"the prior of {name!r} is a {type(p).__name__} and not independent Normals, so that its "
        "KL does not fall into units"
    )


@dataclass(frozen=True)
class Aggregate:
    """The terms that the rate falls into, with q(z) = 1/N Σ_n q(z | x_n); nats, with errors.

    Equation: E_x KL(q(z | x) || p(z)) = mutual information + KL(q(z) || p(z)), and, where p(z) and
    q(z | x) have marginals to look at, KL(q(z) || p(z)) = total correlation + dimension-wise KL.

    Args:
        terms: ``mutual_information``, ``marginal_kl`` and, where they are defined,
            ``total_correlation`` and ``dimension_wise_kl``; each the mean and its standard error.
        estimator: how they were estimated, in words.
    """

    terms: dict[str, tuple[float, float]]
    estimator: str


def aggregate(model: Any, guide: Any, images: Images, *, seed: int = 0) -> Aggregate:
    """Split the rate by the aggregate posterior.

    q(z) is the mixture over all the given images, without sampling among them, so that the terms
    are those of this very set: the mutual information is that between z and the image's index, and
    cannot exceed log N. One z is drawn for each image. The work grows with N².

    Args:
        model, guide: Pyro programs that fit :mod:`.scoring`, with one latent site, of
            real vectors.
        images: what to evaluate on; ``dynamic`` pixels are drawn once, by ``seed``.
        seed: of the draws of pixels and of z.

    Raises:
        InputError: no images, or more than one latent site.

    Paper: Hoffman & Johnson 2016, ELBO surgery; Chen et al. 2018, Isolating sources of
    disentanglement in variational autoencoders.

    Example:
        >>> aggregate(vae.model, vae.guide, data.test).terms["total_correlation"]
    """
    sites = []
    with measuring(model, guide, seed=seed, device=images.pixels.device):
        for x in blocks(images, 500, seed):
            q = draw(guide, x, 1)
            if len(q) != 1:
                raise InputError(
                    f"the aggregate posterior is looked at for one latent site, not {len(q)}"
                )
            p, _ = score(model, x, values(q))
            ((name, site),) = q.items()
            sites.append((site, p[name]))
        z = torch.cat([q["value"][0] for q, _ in sites])  # [N, Z]
        own = torch.cat([q["log_prob"][0] for q, _ in sites])  # log q(z_n | x_n), [N]
        prior = torch.cat([p["log_prob"][0] for _, p in sites])  # log p(z_n), [N]
        whole = mixture([q["fn"] for q, _ in sites], z)  # log q(z_n), [N]
        each = {"mutual_information": own - whole, "marginal_kl": whole - prior}
        if by_unit := split(name, sites):
            q_units, p_units = by_unit
            units = mixture(q_units, z)  # log q(z_nd), [N, Z]
            each["total_correlation"] = whole - units.sum(-1)
            each["dimension_wise_kl"] = (units - p_units.log_prob(z)).sum(-1)
    return Aggregate(
        {k: (v.mean().item(), standard_error(v)) for k, v in each.items()},
        f"one z for each of {len(z)} images, q(z) the mixture over all of them",
    )


def split(name: str, sites: list[tuple[Any, Any]]) -> tuple[list[Normal], Normal] | None:
    """The units' own distributions in the guide and in the prior; None if there are none."""
    try:
        prior = units(name, sites[0][1]["fn"])
        return [marginals(name, q["fn"]) for q, _ in sites], Normal(
            prior.loc[0, 0], prior.scale[0, 0]
        )
    except InputError:
        return None


def mixture(parts: list[Any], z: Tensor) -> Tensor:
    """log 1/N Σ_n q_n(z) for each row of ``z``, q_n spread over ``parts`` of batch ``[1, B]``
    (a joint density) or ``[1, B, Z]`` (the units' own)."""
    sizes = [f.batch_shape[1] for f in parts]
    rows = []
    # Some rows at a time, because each row meets every image, unit by unit.
    for some in z.split(max(1, 2**21 // (sum(sizes) * z.shape[-1]))):
        log_q = [
            f.log_prob(some[:, None].expand(-1, n, -1)) for f, n in zip(parts, sizes, strict=True)
        ]
        rows.append(torch.cat(log_q, 1).logsumexp(1))
    return torch.cat(rows) - math.log(sum(sizes))


def probe(
    guide: Any, train: Images, test: Images, *, neighbours: int = 5, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """How well labels can be read off the latents: accuracy of two classifiers on posterior means.

    Args:
        guide: a Pyro program that fits :mod:`.scoring`.
        train, test: labelled images; the classifiers learn from the first.
        neighbours: of the nearest-neighbour classifier.
        seed: of the draws of pixels and of z.

    Returns:
        ``linear`` (logistic regression on standardised latents) and ``nearest``, each the share of
        ``test`` that is classified right and its standard error.

    Raises:
        InputError: images without labels.

    Example:
        >>> probe(vae.guide, data.train, data.test)["linear"]
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if train.labels is None or test.labels is None:
        raise InputError("a probe learns to tell labels from latents, and these images have none")
    known, asked = (side_by_side(means(guide, i, seed=seed)).cpu().numpy() for i in (train, test))
    labels, truth = train.labels.cpu().numpy(), test.labels.cpu().numpy()
    classifiers = {
        "linear": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        "nearest": KNeighborsClassifier(neighbours),
    }
    accuracy = {k: float(c.fit(known, labels).score(asked, truth)) for k, c in classifiers.items()}
    return {k: (a, math.sqrt(a * (1 - a) / len(truth))) for k, a in accuracy.items()}

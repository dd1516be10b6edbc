"""What the latents hold: active units, the KL of each unit, labels."""

from __future__ import annotations

import math
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
from ..latents import moments
from ..objectives.divergences import family
from ..spelling import spelled
from .bound import error_of_share
from .moments import site_moments, total_moments
from .rows import blocks, with_labels
from .scoring import measuring, run_guide, run_model, values


def encode_images(vae: Any, images: Images, seed: int) -> dict[str, np.ndarray]:
    """μ and σ of the posterior of each image; also its label, class and file if it has them.

    If there are several latent sites, the arrays are called ``loc_`` and ``scale_`` plus the name
    of the site, and μ and σ are means over 100 draws of the sites before.

    Args:
        vae: a :class:`~pyro_vae.vae.VAE`.
        images: the images.
        seed: of the draws of pixels and of z.

    Returns:
        ``loc`` and ``scale``, ``[N, Z]``; ``labels`` (numbers), ``classes`` (the name of each
        image's class, "" if it is not known) and ``files``, ``[N]``; ``targets``, ``[N, n]``.
    """
    parts: dict[str, list[Tensor]] = {}
    with measuring(vae.guide, seed=seed, device=images.pixels.device):
        for x in blocks(images, 500, seed, vae.guide):
            q = vae.encode(*x.args, **x.named)
            if isinstance(q, dict):
                each = {n: site_moments(s) for n, s in run_guide(vae.guide, x, 100).items()}
                total = {name: total_moments(*pair) for name, pair in each.items()}
                found = {name: (mean, variance.sqrt()) for name, (mean, variance) in total.items()}
            else:
                found = {"": moments(q)}
            for site, pair in found.items():
                for name, moment in zip(("loc", "scale"), pair, strict=True):
                    parts.setdefault(f"{name}_{site}".rstrip("_"), []).append(moment)
    arrays = {name: torch.cat(moment).cpu().numpy() for name, moment in parts.items()}
    if images.labels is not None:
        arrays["labels"] = images.labels.cpu().numpy()
        if images.classes:
            names = np.array([*images.classes, ""])  # the last is that of -1
            arrays["classes"] = names[arrays["labels"]]
    if images.targets is not None:
        arrays["targets"] = images.targets.cpu().numpy()
    if images.files is not None:
        arrays["files"] = np.array(images.files)
    return arrays


def posterior_means(
    guide: Any, images: Images, *, draws: int = 100, seed: int = 0
) -> dict[str, Tensor]:
    """Two independent estimates of the posterior mean of each image's latents.

    Each is the mean over one half of the draws. A site that has its mean in closed form is not
    drawn: only the sites before it are. So both estimates of a single site are exact then.

    Args:
        guide: a Pyro program that meets :mod:`.scoring`.
        images: the images to encode. ``dynamic`` pixels are drawn once, with ``seed``.
        draws: draws of z for each image, an even number.
        seed: of the draws of pixels and of z.

    Returns:
        ``[2, N, Z]`` by latent site. The mean over the first dimension is the estimate from all
        draws.

    Raises:
        InputError: no images, or ``draws`` that is not an even number above 0.
    """
    if draws < 2 or draws % 2:
        raise InputError(f"draws must be an even number of at least 2, not {draws}")
    halves: dict[str, list[Tensor]] = {}
    with measuring(guide, seed=seed, device=images.pixels.device):
        for x in blocks(images, 500, seed, guide):
            for name, site in run_guide(guide, x, draws).items():
                half = site_moments(site)[0].unflatten(0, (2, -1)).mean(1)  # [2, B, Z]
                halves.setdefault(name, []).append(half)
    return {name: torch.cat(each, 1) for name, each in halves.items()}


def joined_sites(means: dict[str, Tensor]) -> Tensor:
    """:func:`posterior_means` of all sites, averaged and concatenated, ``[N, ΣZ]``."""
    return torch.cat([each.mean(0) for each in means.values()], -1)


def active_units(
    guide: Any, images: Images, *, draws: int = 100, seed: int = 0
) -> dict[str, Tensor]:
    """The variance of each unit's posterior mean over the images. Above 0.01 a unit is active.

    Equation: A_d = Var_x(E_q(z|x)[z_d]). It is the covariance of the two estimates of
    :func:`posterior_means`, which the noise of the draws does not bias.

    Without a closed form of the mean, the noise of a unit of variance 1 that is not active has the
    standard deviation 2 / (draws · √(N - 1)). So at least 1200 / √(N - 1) draws are made, which
    keep it at a sixth of 0.01.

    Args:
        guide, images, seed: as for :func:`posterior_means`.
        draws: draws of z for each image, an even number. Few images get more.

    Returns:
        ``[Z]`` by latent site, in the unit of z squared. ``(… > 0.01).sum()`` is the number of
        active units.

    Raises:
        InputError: as :func:`posterior_means`; or one image, over which nothing varies.

    Paper: Burda, Grosse & Salakhutdinov 2016, Importance Weighted Autoencoders.

    Example:
        >>> from pyro_vae.evaluation.latents import active_units
        >>> data = load_data("digits", binarize="threshold")
        >>> vae = VAE(data.shape, latent_size=2)
        >>> active = active_units(vae.guide, data.test)["z"] > 0.01
        >>> active.shape
        torch.Size([2])
    """
    if len(images) == 1:
        raise InputError("the variance over images needs at least 2 images, and there is 1")
    activity = {}
    draws = max(draws, 2 * math.ceil(600 / math.sqrt(max(len(images) - 1, 1))))
    halves = posterior_means(guide, images, draws=draws, seed=seed)
    for name, (first, second) in halves.items():
        product = (first - first.mean(0)) * (second - second.mean(0))  # [N, Z]
        activity[name] = product.sum(0) / (len(first) - 1)
    return activity


def unit_kl(
    model: Any, guide: Any, images: Images, *, draws: int = 1, seed: int = 0
) -> dict[str, Tensor]:
    """The KL of each latent unit, mean over images.

    Equation: KL_d = E_x KL(q(z_d | x) || p(z_d)), between the marginals of unit d. In a hierarchy
    both are given the sites before, at ``draws`` draws of them. If the units of the guide are
    independent, the sum over units is the rate.

    The KL is computed in closed form. If the guide draws its sites in another order than the model
    (``bottom-up``), a closed form does not exist, and the KL is the mean of log q - log p at the
    draws.

    Args:
        model, guide: Pyro programs that meet :mod:`.scoring`.
        images, draws, seed: as for :func:`posterior_means`.

    Returns:
        nats of each unit by latent site, each ``[Z]``.

    Raises:
        InputError: a guide whose units do not have Normal marginals in closed form, or a prior
            whose units are not independent Normals.

    Example:
        >>> from pyro_vae.evaluation.latents import unit_kl
        >>> data = load_data("digits", binarize="threshold")
        >>> vae = VAE(data.shape, latent_size=2)
        >>> unit_kl(vae.model, vae.guide, data.test)["z"].shape
        torch.Size([2])
    """
    total: dict[str, Tensor] = {}
    with measuring(model, guide, seed=seed, device=images.pixels.device):
        for x in blocks(images, 500, seed, model, guide):
            q = run_guide(guide, x, draws)
            p, _ = run_model(model, x, values(q))
            for name, site in q.items():
                own = posterior_marginals(name, site["fn"])
                prior = prior_marginals(name, p[name]["fn"])
                if list(q) == list(p):
                    kl = kl_divergence(own, prior)  # [K, B, Z]
                else:
                    kl = own.log_prob(site["value"]) - prior.log_prob(site["value"])
                kl = kl.mean(0).sum(0) / len(images)
                total[name] = total[name] + kl if name in total else kl
    return total


def posterior_marginals(name: str, q: Any) -> Normal:
    """The marginal distribution of each unit of a guide's ``q``, batch ``[*, Z]``."""
    if isinstance(q, Independent) and isinstance(q.base_dist, Normal):
        return q.base_dist
    if isinstance(q, MultivariateNormal | LowRankMultivariateNormal):
        return Normal(q.mean, q.variance.sqrt())
    raise InputError(
        f"the guide's distribution at {name!r} is a {family(q)}, which has no Normal "
        "marginals in closed form; the KL of each unit needs a Normal distribution"
    )


def prior_marginals(name: str, p: Any) -> Normal:
    """The factors of a prior of independent Normals, batch ``[*, Z]``."""
    if isinstance(p, Independent) and isinstance(p.base_dist, Normal):
        return p.base_dist
    raise InputError(
        f"the prior of {name!r} is a {family(p)}; the KL of each unit needs a prior of "
        "independent Normals"
    )


@spelled
def probe(
    guide: Any, train: Images, test: Images, *, neighbours: int = 5, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """The accuracy of two classifiers that predict labels from the posterior means.

    Args:
        guide: a Pyro program that meets :mod:`.scoring`.
        train: labelled images on which the classifiers are trained.
        test: labelled images on which their accuracy is measured.
        neighbours: of the nearest-neighbour classifier.
        seed: of the draws of pixels and of z.

    Returns:
        ``linear`` (logistic regression on standardised latents) and ``nearest``: each the share of
        ``test`` that is classified correctly, 0 to 1, and its standard error, as
        :func:`.bound.error_of_share` gives it.

    Raises:
        InputError: images without labels, training images of one class, or fewer training images
            than ``neighbours``.

    Example:
        >>> from pyro_vae.evaluation.latents import probe
        >>> data = load_data("digits", binarize="threshold")
        >>> vae = VAE(data.shape, latent_size=8)
        >>> share, error = probe(vae.guide, data.train, data.test)["linear"]
        >>> 0 < share < 1
        True
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, known_labels = with_labels(train, "a probe")
    test, true_labels = with_labels(test, "a probe")
    if len(known_labels.unique()) < 2:
        raise InputError("a probe needs training images of at least 2 classes, and all have one")
    if len(train) < neighbours:
        raise InputError(
            f"a probe with {neighbours} neighbours needs at least {neighbours} training images, "
            f"not {len(train)}"
        )
    known, asked = (
        joined_sites(posterior_means(guide, images, seed=seed)).cpu().numpy()
        for images in (train, test)
    )
    labels, truth = known_labels.cpu().numpy(), true_labels.cpu().numpy()
    classifiers = {
        "linear": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        "nearest": KNeighborsClassifier(neighbours),
    }
    accuracy = {k: float(c.fit(known, labels).score(asked, truth)) for k, c in classifiers.items()}
    return {k: (a, error_of_share(a, len(truth))) for k, a in accuracy.items()}

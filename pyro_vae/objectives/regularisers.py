"""Objectives with a term for the latents of the whole batch.

The term depends on the distribution of z over images, q(z) = mean_n q(z | x_n). It is one number
for a batch. The loss adds it once for each image, so that the loss divided by the number of images
is the loss of the paper. These losses are not sums over images: the loss of a batch is not the sum
of the losses of its parts.
"""

from __future__ import annotations

from math import log
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
)

from ..errors import InputError
from ..options import at_least_one, finite, is_whole, number
from ..registry import lookup
from .divergences import by_unit, family
from .terms import PerImage, Terms


class BetaTC(PerImage):
    """β-TCVAE: the KL split into three parts, each with its own weight.

    Equation: loss = Σ_b α [log q(z|x_b) - log q(z)] + β [log q(z) - Σ_d log q(z_d)] + γ [Σ_d log
    q(z_d) - log p(z)] - log p(x_b | z), z ~ q(z | x_b). The parts are the index-code mutual
    information, the total correlation and the dimension-wise KL, all in nats.

    log q(z) and each log q(z_d) are estimated from a batch of B of the N training images. The
    estimator ``weighted`` is log 1/(N B) Σ_j q(z | x_j). It is too low by up to log N. The loss
    is then about (α - β + (β - γ) Z) log N too high; its gradient does not have this error. The
    estimator ``stratified`` has other weights, for which the estimate of q(z) itself is unbiased.
    With α = β = γ = 1 both give the ELBO.

    Args:
        data_size: N, the number of training images.
        alpha, beta, gamma: the weights.
        estimator: ``weighted`` or ``stratified``.

    Raises:
        InputError: at a call, if z is not one vector of dimensions that are independent under
            guide and prior, or if the batch size does not fit N or the estimator.

    Paper: Chen et al. 2018, Isolating sources of disentanglement in variational autoencoders.

    Example:
        >>> from pyro_vae.objectives import BetaTC
        >>> loss = BetaTC(data_size=4000, beta=6).loss(vae.model, vae.guide, x)
    """

    per_image = False
    across_ranks = True
    one_vector = True

    def __init__(
        self,
        data_size: int,
        alpha: float = 1.0,
        beta: float = 6.0,
        gamma: float = 1.0,
        estimator: str = "weighted",
    ) -> None:
        super().__init__()
        at_least_one("data_size", data_size)
        self.data_size = data_size
        self.alpha, self.beta = number("alpha", alpha), number("beta", beta)
        self.gamma = number("gamma", gamma)
        self.log_weights = lookup("estimator", estimator, ESTIMATORS)

    def parts(self, terms: Terms) -> tuple[Tensor, Tensor, Tensor]:
        """Mutual information, total correlation and dimension-wise KL at the draw of each image.

        Returns:
            three tensors ``[b]``, whose sum is log q(z | x) - log p(z), for the b of the B images
            of the batch that this process has; usually all.
        """
        name, q, p = terms.alone("beta-tc")
        by_unit(name, p)  # raises an error if the prior's dimensions are not independent
        each = self.of_all_images(by_unit(name, q)["fn"])  # [B, Z]
        pairs = each.log_prob(q["value"].unsqueeze(-2))  # [b, B, Z]: draw i under image j
        square = pairs.new_zeros(pairs.shape[1], pairs.shape[1])
        log_weights = self.batch.own(self.log_weights(square, self.data_size))  # [b, B]
        log_q = (log_weights + pairs.sum(-1)).logsumexp(1)  # [B]
        log_q_units = (log_weights.unsqueeze(-1) + pairs).logsumexp(1).sum(-1)  # [B]
        return (
            terms.log_q[name][0] - log_q,
            log_q - log_q_units,
            log_q_units - terms.log_p[name][0],
        )

    def of_all_images(self, fn: Any) -> Any:
        """The distributions of all images of the batch, from those of this process."""
        if not self.batch.split:
            return fn
        if not isinstance(fn, Normal):
            raise InputError(
                f"beta-tc in several processes is for Normals, and z has {family(fn)}; take the "
                "guide mean-field, or train in one process"
            )
        return Normal(self.batch.whole(fn.loc), self.batch.whole(fn.scale))

    def loss_per_image(self, terms: Terms) -> Tensor:
        information, correlation, dimensions = self.parts(terms)
        kl = self.alpha * information + self.beta * correlation + self.gamma * dimensions
        return kl - terms.log_likelihood


def weighted(like: Tensor, data_size: int) -> Tensor:
    """log 1/(N B) for every pair of a draw and an image."""
    if len(like) > data_size:
        raise InputError(f"data_size is {data_size}, and a batch has {len(like)} images")
    return torch.full_like(like, -log(data_size * len(like)))


def stratified(like: Tensor, data_size: int) -> Tensor:
    """The log weights for which the estimate of q(z) is unbiased.

    Equation: with M = B - 1, the image of the draw itself has log 1/N, one other image has
    log (N - M)/(N M), and each further image has log 1/M.

    The image of the draw is always in the batch, so its weight is not scaled up. The one other
    image makes the weights sum to 1.
    """
    weighted(like, data_size)
    m = len(like) - 1
    if m == 0:
        raise InputError("the stratified estimator needs batches of 2 images or more")
    own = torch.eye(m + 1, dtype=like.dtype, device=like.device)
    other = own.roll(1, 0)
    rest = 1 - own - other
    return (own / data_size + other * (data_size - m) / (data_size * m) + rest / m).log()


ESTIMATORS = {"weighted": weighted, "stratified": stratified}


class InfoVAE(PerImage):
    """InfoVAE: a lower weight of the KL, and a maximum mean discrepancy (MMD) of q(z) and p(z).

    Equation: loss = Σ_b (1 - α) KL(q(z | x_b) || p(z)) + (α + λ - 1) MMD² - log p(x_b | z_b).
    MMD² = E k(z, z') + E k(u, u') - 2 E k(z, u) is an unbiased estimate from the batch's draws z
    and as many draws u of the prior. It can be below 0.

    With α = 1 the KL drops out: this is the MMD-VAE, and the Wasserstein autoencoder with random
    encoders.

    Args:
        alpha: α, at most 1.
        lambda_: λ, with α + λ at least 1. The paper takes 1000 for MNIST. In batches of 128, the
            noise of MMD² is then larger than the other terms in the first epochs.
        kernel: ``rbf``, k = exp(-d² / 2σ²), or ``imq``, k = C / (C + d²) with C = 2σ²; d is the
            distance between two latents.
        bandwidth: σ². None takes the number of dimensions of z; then 2σ² is the mean d² of two
            draws of a standard Normal.
        kl: ``monte-carlo``, ``analytic`` or ``closed-form``.

    Raises:
        InputError: an option of the wrong type or out of range; at a call, several latent sites or
            a batch of one image.

    Paper: Zhao, Song & Ermon 2019, InfoVAE; kernels: Tolstikhin et al. 2018, Wasserstein
    auto-encoders.

    Example:
        >>> from pyro_vae.objectives import InfoVAE
        >>> loss = InfoVAE(alpha=1, lambda_=100, kernel="imq").loss(vae.model, vae.guide, x)
    """

    per_image = False
    across_ranks = True
    one_vector = True

    def __init__(
        self,
        alpha: float = 0.0,
        lambda_: float = 100.0,
        kernel: str = "rbf",
        bandwidth: float | None = None,
        kl: str = "monte-carlo",
    ) -> None:
        super().__init__(kl=kl)
        self.alpha, self.lambda_ = finite("alpha", alpha), finite("lambda_", lambda_)
        if not (alpha <= 1 and alpha + lambda_ >= 1):
            raise InputError(
                "alpha is at most 1 and alpha + lambda_ at least 1, because a term with a negative "
                f"weight would grow without bound; not {alpha} and {lambda_}"
            )
        self.kernel = lookup("kernel", kernel, KERNELS)
        self.bandwidth = None if bandwidth is None else number("bandwidth", bandwidth, above=0)

    def loss_per_image(self, terms: Terms) -> Tensor:
        name, q, p = terms.alone("infovae")
        z = self.batch.whole(q["value"])  # [B, Z]
        u = self.batch.whole(self.batch.draw(p["fn"]))
        mmd = (self.alpha + self.lambda_ - 1) * self.mmd(z, u)
        kl = (1 - self.alpha) * self.kls(terms)[name] if self.alpha != 1 else 0.0
        return kl + mmd - terms.log_likelihood

    def mmd(self, z: Tensor, u: Tensor) -> Tensor:
        """An unbiased estimate of MMD² from two sets of draws, ``[B, Z]`` each."""
        b, size = z.shape
        if b == 1:
            raise InputError("the maximum mean discrepancy needs batches of 2 images or more")
        constant = 2 * (size if self.bandwidth is None else self.bandwidth)
        # k(z, z) = 1 is left out, because it would bias the estimate.
        own = sum(self.kernel(distance(a, a), constant).sum() - b for a in (z, u))
        return own / (b * (b - 1)) - 2 * self.kernel(distance(z, u), constant).mean()


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances of all pairs, ``[A, B]``."""
    squares = a.square().sum(-1, keepdim=True) + b.square().sum(-1)
    return (squares - 2 * a @ b.T).clamp(min=0)


KERNELS: dict[str, Any] = {
    "rbf": lambda d2, c: (-d2 / c).exp(),
    "imq": lambda d2, c: c / (c + d2),
}


class DIP(PerImage):
    """DIP-VAE: a penalty pulls the covariance of the latents over images to the identity.

    Equation: loss = Σ_b -ELBO_b + λ_od Σ_{i≠j} C_ij² + λ_d Σ_i (C_ii - 1)². C is computed over the
    images of the batch. In variant 1 it is Cov[μ(x)]. In variant 2 it is the covariance of q(z),
    Cov[μ(x)] + E[Cov(z | x)].

    Args:
        offdiagonal: λ_od.
        diagonal: λ_d.
        variant: 1 or 2.
        kl: ``monte-carlo``, ``analytic`` or ``closed-form``.

    Raises:
        InputError: an option of the wrong type or out of range; at a call, several latent sites, or
            a guide without a mean or a covariance in closed form.

    Paper: Kumar, Sattigeri & Balakrishnan 2018, Variational inference of disentangled latent
    concepts from unlabeled observations.

    Example:
        >>> from pyro_vae.objectives import DIP
        >>> loss = DIP(offdiagonal=10, diagonal=10, variant=2).loss(vae.model, vae.guide, x)
    """

    per_image = False
    across_ranks = True
    one_vector = True

    def __init__(
        self,
        offdiagonal: float = 10.0,
        diagonal: float = 100.0,
        variant: int = 1,
        kl: str = "monte-carlo",
    ) -> None:
        super().__init__(kl=kl)
        if not is_whole(variant) or variant not in (1, 2):
            raise InputError(f"variant is 1 or 2, not {variant!r}")
        self.offdiagonal = number("offdiagonal", offdiagonal)
        self.diagonal = number("diagonal", diagonal)
        self.variant = variant

    def loss_per_image(self, terms: Terms) -> Tensor:
        name, q, _ = terms.alone("dip")
        c = self.covariance(name, q["fn"])
        variance = c.diagonal()
        penalty = self.offdiagonal * (c.square().sum() - variance.square().sum())
        penalty = penalty + self.diagonal * (variance - 1).square().sum()
        return self.kls(terms)[name] + penalty - terms.log_likelihood

    def covariance(self, name: str, q: Any) -> Tensor:
        """The covariance C, ``[Z, Z]``."""
        try:
            mu = self.batch.whole(q.mean)  # [B, Z]
        except NotImplementedError:
            raise InputError(
                f"dip needs the mean of q(z | x), and {family(q)} at site {name!r} has no mean in "
                "closed form; take a Normal guide"
            ) from None
        centred = mu - mu.mean(0)
        between = centred.T @ centred / len(mu)
        if self.variant == 1:
            return between
        if isinstance(q, Independent):
            return between + self.batch.whole(q.variance).mean(0).diag()
        if isinstance(q, MultivariateNormal | LowRankMultivariateNormal):
            return between + self.batch.whole(q.covariance_matrix).mean(0)
        raise InputError(
            f"variant 2 of dip needs the covariance of q(z | x), and {family(q)} at site {name!r} "
            "has no covariance in closed form; take a Normal guide or variant=1"
        )

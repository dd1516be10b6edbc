"""Likelihoods p(x | z): the rows of :data:`LIKELIHOODS`.

:class:`~pyro_vae.contracts.Likelihood` is the contract.
"""

from ..registry import LIKELIHOODS
from .discrete import Bernoulli, DiscretizedLogistic
from .real import ContinuousBernoulli, Laplace, LogCosh, Normal, NormalLearned, NormalPerPixel

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Laplace",
    "LogCosh",
    "Normal",
    "NormalLearned",
    "NormalPerPixel",
]

LIKELIHOODS.update(
    {
        "bernoulli": Bernoulli,
        "continuous-bernoulli": ContinuousBernoulli,
        "normal": Normal,
        "normal-learned": NormalLearned,
        "normal-per-pixel": NormalPerPixel,
        "laplace": Laplace,
        "log-cosh": LogCosh,
        "discretized-logistic": DiscretizedLogistic,
    }
)

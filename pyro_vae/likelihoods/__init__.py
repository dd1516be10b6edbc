"""Likelihoods p(x | z): the rows of :data:`LIKELIHOODS`.

:class:`~pyro_vae.contracts.Likelihood` is the contract.
"""

from ..registry import LIKELIHOODS
from .categories import Categorical, Ordered
from .columns import Columns
from .counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from .discrete import Bernoulli, DiscretizedLogistic
from .positive import Beta, Gamma, LogNormal
from .real import ContinuousBernoulli, Laplace, LogCosh, Normal, NormalLearned, NormalPerPixel
from .student import StudentT

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Beta",
    "Categorical",
    "Columns",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Gamma",
    "Laplace",
    "LogCosh",
    "LogNormal",
    "NegativeBinomial",
    "Normal",
    "NormalLearned",
    "NormalPerPixel",
    "Ordered",
    "Poisson",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
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
        "student-t": StudentT,
        "log-normal": LogNormal,
        "gamma": Gamma,
        "beta": Beta,
        "poisson": Poisson,
        "negative-binomial": NegativeBinomial,
        "zero-inflated-negative-binomial": ZeroInflatedNegativeBinomial,
        "categorical": Categorical,
        "ordered": Ordered,
        "columns": Columns,
    }
)

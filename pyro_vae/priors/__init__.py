"""Priors p(z): the rows of :data:`PRIORS`. :class:`~pyro_vae.contracts.Prior` is the contract."""

from ..registry import PRIORS
from .discrete import CategoricalPrior, JointPrior, RelaxedCategoricalPrior
from .flow import FlowPrior
from .hierarchy import Hierarchy
from .normal import MixturePrior, NormalPrior, StandardNormal
from .vamp import VampPrior

__all__ = [
    "PRIORS",
    "CategoricalPrior",
    "FlowPrior",
    "Hierarchy",
    "JointPrior",
    "MixturePrior",
    "NormalPrior",
    "RelaxedCategoricalPrior",
    "StandardNormal",
    "VampPrior",
]

PRIORS.update(
    {
        "standard-normal": StandardNormal,
        "normal": NormalPrior,
        "mixture": MixturePrior,
        "vamp": VampPrior,
        "flow": FlowPrior,
        "categorical": CategoricalPrior,
        "relaxed-categorical": RelaxedCategoricalPrior,
        "joint": JointPrior,
        "hierarchy": Hierarchy,
    }
)

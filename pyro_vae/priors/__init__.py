"""Priors p(z): the rows of :data:`PRIORS`. :class:`~pyro_vae.contracts.Prior` is the contract."""

from ..registry import PRIORS
from .discrete import CategoricalPrior, JointPrior, RelaxedCategoricalPrior
from .flow import FlowPrior
from .hierarchy import Hierarchy
from .labelled import LabelledPrior, TargetedPrior
from .normal import ConditionalPrior, MixturePrior, NormalPrior, StandardNormal
from .vamp import VampPrior

__all__ = [
    "PRIORS",
    "CategoricalPrior",
    "ConditionalPrior",
    "FlowPrior",
    "Hierarchy",
    "JointPrior",
    "LabelledPrior",
    "MixturePrior",
    "NormalPrior",
    "RelaxedCategoricalPrior",
    "StandardNormal",
    "TargetedPrior",
    "VampPrior",
]

PRIORS.update(
    {
        "standard-normal": StandardNormal,
        "normal": NormalPrior,
        "conditional": ConditionalPrior,
        "mixture": MixturePrior,
        "vamp": VampPrior,
        "flow": FlowPrior,
        "categorical": CategoricalPrior,
        "relaxed-categorical": RelaxedCategoricalPrior,
        "joint": JointPrior,
        "labelled": LabelledPrior,
        "targeted": TargetedPrior,
        "hierarchy": Hierarchy,
    }
)

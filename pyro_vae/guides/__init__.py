"""Guides q(z | x): the rows of :data:`GUIDES`.

:class:`~pyro_vae.contracts.Guide` is the contract.
"""

from ..registry import GUIDES
from .discrete import CategoricalGuide, GumbelSoftmax, JointGuide
from .flows import IAF, Planar, Spline
from .hierarchical import BottomUp, Ladder
from .labelled import LabelledGuide, TargetedGuide
from .normal import FullCovariance, LowRank, MeanField, MixtureGuide
from .refined import SemiAmortized

__all__ = [
    "GUIDES",
    "IAF",
    "BottomUp",
    "CategoricalGuide",
    "FullCovariance",
    "GumbelSoftmax",
    "JointGuide",
    "LabelledGuide",
    "Ladder",
    "LowRank",
    "MeanField",
    "MixtureGuide",
    "Planar",
    "SemiAmortized",
    "Spline",
    "TargetedGuide",
]

GUIDES.update(
    {
        "mean-field": MeanField,
        "full-covariance": FullCovariance,
        "low-rank": LowRank,
        "mixture": MixtureGuide,
        "planar": Planar,
        "iaf": IAF,
        "spline": Spline,
        "categorical": CategoricalGuide,
        "gumbel-softmax": GumbelSoftmax,
        "joint": JointGuide,
        "labelled": LabelledGuide,
        "targeted": TargetedGuide,
        "semi-amortized": SemiAmortized,
        "bottom-up": BottomUp,
        "ladder": Ladder,
    }
)

"""Objectives: the losses that SVI minimises, the rows of :data:`OBJECTIVES`.

All of them are Pyro ELBOs and work wherever ``Trace_ELBO()`` works. The contract is
:class:`~pyro_vae.contracts.Objective`. A loss is the sum over the images of a batch, in nats. It
is minus a bound on log p(x), or the loss that a paper defines instead. The method ``elbo`` gives
the plain ELBO of each image for every objective.
"""

from ..registry import OBJECTIVES
from .bounds import AnalyticKL, ClosedForm, Enumerate, MonteCarlo
from .gradients import DReG, ImportanceWeighted, MultiplyImportanceWeighted, StickingTheLanding
from .regularisers import DIP, BetaTC, InfoVAE
from .semi_supervised import SemiSupervised, SemiSupervisedReal
from .targets import Capacity, FreeBits
from .weights import Annealed, Beta, Cyclical

__all__ = [
    "DIP",
    "OBJECTIVES",
    "AnalyticKL",
    "Annealed",
    "Beta",
    "BetaTC",
    "Capacity",
    "ClosedForm",
    "Cyclical",
    "DReG",
    "Enumerate",
    "FreeBits",
    "ImportanceWeighted",
    "InfoVAE",
    "MonteCarlo",
    "MultiplyImportanceWeighted",
    "SemiSupervised",
    "SemiSupervisedReal",
    "StickingTheLanding",
]

OBJECTIVES.update(
    {
        "monte-carlo": MonteCarlo,
        "analytic": AnalyticKL,
        "closed-form": ClosedForm,
        "beta": Beta,
        "annealed": Annealed,
        "cyclical": Cyclical,
        "capacity": Capacity,
        "free-bits": FreeBits,
        "iwae": ImportanceWeighted,
        "miwae": MultiplyImportanceWeighted,
        "stl": StickingTheLanding,
        "dreg": DReG,
        "beta-tc": BetaTC,
        "infovae": InfoVAE,
        "dip": DIP,
        "enumerate": Enumerate,
        "m2": SemiSupervised,
        "m2-real": SemiSupervisedReal,
    }
)

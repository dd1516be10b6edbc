"""Objectives, what SVI minimises: the rows of :data:`OBJECTIVES`.

All are Pyro ELBOs and work wherever ``Trace_ELBO()`` works.
:class:`~pyro_vae.contracts.Objective` is the contract. A loss is a sum over the images of a batch,
in nats: minus a bound on log p(x), or what a paper takes in its place. ``elbo`` gives the plain
bound of each image, whatever the loss is.
"""

from ..registry import OBJECTIVES
from .bounds import AnalyticKL, ClosedForm, Enumerate, MonteCarlo
from .gradients import DReG, ImportanceWeighted, MultiplyImportanceWeighted, StickingTheLanding
from .regularisers import DIP, BetaTC, InfoVAE
from .weights import Annealed, Beta, Capacity, Cyclical, FreeBits

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
    }
)

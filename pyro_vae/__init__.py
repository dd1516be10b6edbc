"""Variational autoencoders in Pyro: four parts, each swappable without touching the others."""

# This file imports nothing that Python has not loaded yet. With ``python -m pyro_vae``, a file
# typing.py in the current folder would be executed in place of Python's own.
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:  # type checkers read this branch in spite of the line above
    from typing import Any

    from .compiling import CompiledELBO, CompiledSVI, FusedAdam
    from .contracts import Guide, Likelihood, Network, Objective, Prior
    from .data import load_data
    from .errors import InputError
    from .evaluation import elbo
    from .evaluation.gaps import gaps
    from .evaluation.importance import importance
    from .history import Callback, Position
    from .objectives import OBJECTIVES
    from .recipes import RECIPES
    from .report.table import evaluate
    from .runs.folder import load, load_run
    from .settings import TrainingOptions
    from .training import fit
    from .vae import VAE

_WHERE = {
    "Callback": ("history", "Callback"),
    "CompiledELBO": ("compiling", "CompiledELBO"),
    "CompiledSVI": ("compiling", "CompiledSVI"),
    "FusedAdam": ("compiling", "FusedAdam"),
    "Guide": ("contracts", "Guide"),
    "InputError": ("errors", "InputError"),
    "Likelihood": ("contracts", "Likelihood"),
    "Network": ("contracts", "Network"),
    "OBJECTIVES": ("objectives", "OBJECTIVES"),
    "Objective": ("contracts", "Objective"),
    "Prior": ("contracts", "Prior"),
    "Position": ("history", "Position"),
    "RECIPES": ("recipes", "RECIPES"),
    "TrainingOptions": ("settings", "TrainingOptions"),
    "VAE": ("vae", "VAE"),
    "elbo": ("evaluation", "elbo"),
    "evaluate": ("report.table", "evaluate"),
    "fit": ("training", "fit"),
    "gaps": ("evaluation.gaps", "gaps"),
    "importance": ("evaluation.importance", "importance"),
    "load": ("runs.folder", "load"),
    "load_data": ("data", "load_data"),
    "load_run": ("runs.folder", "load_run"),
}
__all__ = [
    "OBJECTIVES",
    "RECIPES",
    "VAE",
    "Callback",
    "CompiledELBO",
    "CompiledSVI",
    "FusedAdam",
    "Guide",
    "InputError",
    "Likelihood",
    "Network",
    "Objective",
    "Position",
    "Prior",
    "TrainingOptions",
    "elbo",
    "evaluate",
    "fit",
    "gaps",
    "importance",
    "load",
    "load_data",
    "load_run",
]


def __getattr__(name: str) -> "Any":
    """Import a public name when it is first used, so that ``pyro-vae --help`` needs no torch."""
    if name == "__version__":
        from importlib.metadata import version

        return version("pyro-vae")
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _WHERE[name]
    return getattr(import_module(f".{module}", __name__), attribute)

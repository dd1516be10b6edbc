"""Variational autoencoders in Pyro: four parts, each swappable without touching the others."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoints import load as load_run
    from .compiled import CompiledELBO, CompiledSVI
    from .data import load_data
    from .evaluation import elbo
    from .evaluation.gaps import gaps
    from .evaluation.importance import importance
    from .evaluation.report import evaluate
    from .objectives import OBJECTIVES
    from .optim import FusedAdam
    from .parts import InputError
    from .recipes import RECIPES
    from .training import fit
    from .vae import VAE

_WHERE = {
    "CompiledELBO": ("compiled", "CompiledELBO"),
    "CompiledSVI": ("compiled", "CompiledSVI"),
    "FusedAdam": ("optim", "FusedAdam"),
    "OBJECTIVES": ("objectives", "OBJECTIVES"),
    "RECIPES": ("recipes", "RECIPES"),
    "VAE": ("vae", "VAE"),
    "InputError": ("parts", "InputError"),
    "elbo": ("evaluation", "elbo"),
    "evaluate": ("evaluation.report", "evaluate"),
    "fit": ("training", "fit"),
    "gaps": ("evaluation.gaps", "gaps"),
    "importance": ("evaluation.importance", "importance"),
    "load_data": ("data", "load_data"),
    "load_run": ("checkpoints", "load"),
}
__all__ = [
    "OBJECTIVES",
    "RECIPES",
    "VAE",
    "CompiledELBO",
    "CompiledSVI",
    "FusedAdam",
    "InputError",
    "elbo",
    "evaluate",
    "fit",
    "gaps",
    "importance",
    "load_data",
    "load_run",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that ``pyro-vae --help`` needs no
    torch."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _WHERE[name]
    return getattr(import_module(f".{module}", __name__), attribute)

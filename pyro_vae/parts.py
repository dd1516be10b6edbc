"""What all parts have in common: views of plain modules, and what a ``forward`` is handed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Self

import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from .errors import InputError
from .modules import drop_weakrefs


class ContractError(InputError):
    """A part does not meet the contract of its kind."""


@dataclass(frozen=True)
class Given:
    """What comes with a batch of observations beside x. None stands for "not given".

    A new kind of information becomes a field here. No signature of a part changes for it.

    Args:
        context: labels or covariates, ``[B, ...]``; in a VAE with a condition numbers ``[B, n]``.
        mask: bool, of the shape of x, True where x was observed.
        observations: x itself, ``[B, *shape]``, where a guide is handed more than x.
    """

    context: Tensor | None = None
    mask: Tensor | None = None
    observations: Tensor | None = None

    def items(self) -> tuple[tuple[str, Tensor | None], ...]:
        """All fields with their names, written out so that a compiled step knows what is read."""
        return (
            ("context", self.context),
            ("mask", self.mask),
            ("observations", self.observations),
        )


NOTHING = Given()


class Part(nn.Module):
    """What priors, likelihoods and guides have in common."""

    optional: ClassVar[tuple[str, ...]] = ()
    """What a part of this kind may offer beside its ``forward``."""

    @classmethod
    def of(cls, part: nn.Module) -> Self:
        """``part`` itself if it derives from this contract; else a view of it with the defaults.

        The view calls the plain module. It has no weights of its own.
        """
        if isinstance(part, cls):
            return part
        view = cls.__new__(cls)
        nn.Module.__init__(view)
        object.__setattr__(view, "forward", part)  # that of nn.Module would register the module
        return view

    @classmethod
    def checked(cls, part: nn.Module) -> Self:
        """As :meth:`of`, when a VAE is built.

        Raises:
            InputError: a plain module that has an attribute of the contract. It would be ignored.
        """
        if not isinstance(part, cls):
            refuse_ignored(part, cls.__name__, cls.optional)
        return cls.of(part)

    def name(self) -> str:
        """The name of the part's class, for error messages."""
        return type(self.forward if isinstance(self.forward, nn.Module) else self).__name__

    def takes(self, name: str) -> bool:
        """Whether ``forward`` has an argument ``name``, or ``**kwargs``."""
        found = forward_arguments(self)
        return name in found or any(p.kind is p.VAR_KEYWORD for p in found.values())

    def run(self, *args: Any, given: Given) -> Any:
        """Call ``forward`` with ``args`` and with what is given and ``forward`` takes.

        Raises:
            InputError: ``forward`` needs something that is not given.
        """
        beside = {}
        for name, value in given.items():
            if value is not None:
                if self.takes(name):
                    beside[name] = value
                continue
            parameter = forward_arguments(self).get(name)
            if parameter is not None and parameter.default is parameter.empty:
                raise InputError(
                    f"{self.name()} needs a {name}: call model(x, {name}={name}) and "
                    f"guide(x, {name}={name})"
                )
        return self(*args, **beside)


def refuse_ignored(part: Any, contract: str, names: Iterable[str]) -> None:
    """Raise a :class:`ContractError` if an object that does not derive from a contract has an
    attribute of it, because the attribute would be ignored."""
    for name in names:
        if name in dir(part):
            raise ContractError(
                f"{type(part).__name__} has {name!r}, which belongs to the contract {contract}; "
                f"derive the class from pyro_vae.{contract}"
            )


def forward_arguments(part: Part) -> Mapping[str, inspect.Parameter]:
    """The arguments of a part's ``forward``; of a view, those of the plain module."""
    module = part.forward if isinstance(part.forward, nn.Module) else part
    forward = module.forward
    if inspect.ismethod(forward) and forward.__self__ is module:
        return signature(forward.__func__)
    return inspect.signature(forward).parameters  # set on the object, as torch.compile does


@lru_cache(maxsize=256)
def signature(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The arguments of a function. They are kept, because programs ask at every step."""
    return inspect.signature(function).parameters


def check_distribution(part: Part, fn: Any, over: str) -> None:
    """Raise a :class:`ContractError` unless the result of a ``forward`` is a Pyro distribution."""
    if isinstance(fn, Distribution):
        return
    torchs = isinstance(fn, torch.distributions.Distribution)
    what = f"{type(fn).__name__} of {'torch.distributions' if torchs else type(fn).__module__}"
    raise ContractError(
        f"the forward of {part.name()} gives a {what}; it must give a distribution of "
        f"pyro.distributions over {over}"
    )


ATTACHED = (
    "this {} guide belongs to another VAE already, whose model it uses; build another guide for "
    "this VAE"
)


class Borrowed:
    """Holds a module that belongs to another one, so that torch does not register it twice.

    torch registers a module that is an attribute of a module. Its weights would then be saved,
    moved and counted twice. ``self.model = Borrowed(model)`` keeps it out of torch's sight.

    Args:
        module: the module, for instance the VAE's generative program; None for none yet.
    """

    def __init__(self, module: Any = None) -> None:
        self.module = module

    def __getstate__(self) -> dict[str, Any]:
        if isinstance(self.module, nn.Module):
            drop_weakrefs(self.module)
        return vars(self).copy()

"""From a name to a part: how a word on the command line becomes an object.

Each kind of part has one :class:`Table` here. The package of that kind fills it: ``priors`` fills
:data:`PRIORS`, ``guides`` fills :data:`GUIDES`, and so on. A user names a part in one of four ways,
and each way works wherever a part is accepted:

- a row of the table, with options where it has some: ``"mixture"``, ``"mixture(components=20)"``;
- an importable class of the user: ``"mymodule:MyPrior"``, ``"mymodule:MyPrior(width=3)"``;
- something to call, a class, a function or a ``functools.partial``: ``MyPrior``;
- an object that is already built: ``MyPrior(20)``. It is used as it is.

A part asks for what it needs by the names of its constructor's arguments. A prior that needs the
number of latent dimensions has an argument ``latent_size``. A prior that uses the guide's posterior
has an argument ``posterior``. Nothing else is passed. The remaining arguments are the part's
options. :mod:`~pyro_vae.contracts` lists what each kind of part can ask for.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import Any, TypeVar

from .errors import InputError

Row = TypeVar("Row")
Factory = Callable[..., Any]


@dataclass(frozen=True)
class Choice:
    """What a user's spec stands for: a factory with options, or an object that is already built.

    Args:
        kind: the word for the part in error messages: ``"prior"``, ``"guide"``, …
        part: the factory, or the built object.
        options: the options that the spec gives.
        built: whether ``part`` is already built.
    """

    kind: str
    part: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    built: bool = False

    @property
    def name(self) -> str:
        """The name of the class or function, for error messages."""
        part = type(self.part) if self.built else self.part
        while isinstance(part, partial):
            part = part.func
        return part.__name__

    def make(
        self,
        *,
        defaults: Mapping[str, Any] | None = None,
        unavailable: Mapping[str, str] | None = None,
        **handed: Any,
    ) -> Any:
        """Build the part. A built object comes back unchanged.

        Args:
            defaults: values for options that the spec does not give, if the part has them.
            unavailable: what the part cannot ask for here, each with the sentence that says why.
            handed: what the part may ask for by the name of an argument.

        Raises:
            InputError: an unknown option, an option that lacks its value, or a part that asks for
                something in ``unavailable``.
        """
        if self.built:
            return self.part
        takes = inspect.signature(self.part).parameters
        named = {n: p for n, p in takes.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        for name, why in (unavailable or {}).items():
            if name in named:
                raise InputError(f"the {self.kind} {self.name} {why}")
        own = [name for name in named if name not in handed]
        for option in self.options:
            if option not in own and len(named) == len(takes):
                known = f"takes {', '.join(own)}" if own else "takes no options"
                raise InputError(
                    f"the {self.kind} {self.name} has no option {option!r}; it {known}"
                )
        given = {k: v for k, v in (defaults or {}).items() if k in own} | dict(self.options)
        needed = [name for name in own if named[name].default is inspect.Parameter.empty]
        if missing := [name for name in needed if name not in given]:
            raise InputError(f"the {self.kind} {self.name} needs a value for {', '.join(missing)}")
        return self.part(**{k: v for k, v in handed.items() if k in named}, **given)


class Table(dict[str, Factory]):
    """The parts of one kind, by name.

    Args:
        kind: the word for one of them in error messages.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def find(self, name: str) -> Factory:
        """The row called ``name``; the error for an unknown name lists the nearest names."""
        return lookup(self.kind, name, self)

    def choose(self, spec: Any) -> Choice:
        """What ``spec`` stands for, in one of the four ways of this module.

        Raises:
            InputError: an unknown name, a spec that cannot be read, or a failed import.
        """
        if isinstance(spec, str):
            name, options = parse(spec)
            part = imported(self.kind, name) if ":" in name else self.find(name)
            return Choice(self.kind, part, options)
        to_call = inspect.isclass(spec) or inspect.isroutine(spec) or isinstance(spec, partial)
        return Choice(self.kind, spec, built=not to_call)

    def build(self, spec: Any, **handed: Any) -> Any:
        """Build the part that ``spec`` names, as :meth:`Choice.make` does."""
        return self.choose(spec).make(**handed)


PRIORS = Table("prior")
LIKELIHOODS = Table("likelihood")
GUIDES = Table("guide")
OBJECTIVES = Table("objective")
NETWORKS = Table("network")
SCALES = Table("scale")


def lookup(kind: str, name: str, table: Mapping[str, Row]) -> Row:
    """The row of ``table`` called ``name``; the error for an unknown name lists the nearest."""
    if name in table:
        return table[name]
    near = get_close_matches(name, table, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? All are: " if near else "there are: "
    raise InputError(f"unknown {kind} {name!r}; {hint}{', '.join(table)}")


def parse(spec: str) -> tuple[str, dict[str, Any]]:
    """``"mixture(components=20)"`` -> ``("mixture", {"components": 20})``.

    Options are Python literals, given by name. Anything else raises
    :class:`~pyro_vae.errors.InputError`.
    """
    match = re.fullmatch(r"\s*([^()\s]+)\s*(\(.*\))?\s*", spec, re.DOTALL)
    try:
        if match is None:
            raise SyntaxError
        call = ast.parse(f"f{match[2] or '()'}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or None in {k.arg for k in call.keywords}:
            raise SyntaxError
        return match[1], {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise InputError(
            f"{spec!r} is not a name with options; write name or name(option=value), "
            "with numbers, quoted words or lists as values"
        ) from None


def split_specs(specs: str) -> list[str]:
    """``"vae,iwae(samples=5,outer=2)"`` -> its items; a comma inside brackets does not split."""
    return [s.strip() for s in re.findall(r"(?:[^,(]|\([^)]*\))+", specs) if s.strip()]


def imported(kind: str, path: str) -> Factory:
    """The object that ``"module:Name"`` names."""
    module, _, name = path.partition(":")
    try:
        # The module is the user's own, so its attribute can only be read by name.
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise InputError(f"{kind} {path!r}: no module {error.name!r} can be imported") from None
    except AttributeError:
        raise InputError(f"{kind} {path!r}: module {module!r} has no {name!r}") from None


def summary(row: Any) -> str:
    """The first line of a row's docstring. ``pyro-vae list`` prints it."""
    return (inspect.getdoc(row) or "").partition("\n")[0]


def at_least_one(option: str, value: Any) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` unless ``value`` is a whole number above 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{option} is a whole number above 0, not {value!r}")


def number(option: str, value: Any, above: float | None = None) -> float:
    """``value`` if it is a number of at least 0, or above ``above``; else an InputError."""
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if good and (value >= 0 if above is None else above < value) and value < float("inf"):
        return value
    allowed = "of at least 0" if above is None else f"above {above}"
    raise InputError(f"{option} is a number {allowed}, not {value!r}")

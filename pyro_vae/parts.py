"""From a name to a part: how a word on the command line becomes a module.

A part is named in one of four ways, and all of them go wherever a part goes:

- a row of its table, with options if need be: ``"mixture"``, ``"mixture(components=20)"``;
- a class of the user's own, importable: ``"mymodule:MyPrior"``, ``"mymodule:MyPrior(width=3)"``;
- a class or function, which is called: ``MyPrior``;
- an object that is built already, which is taken as it is: ``MyPrior(20)``.

A class asks for what it needs by the names of its arguments. A prior that needs the number of
latent dimensions has an argument ``latent_size``; one that borrows the guide's posterior has an
argument ``posterior``; nothing is passed that is not asked for.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from typing import Any, TypeVar

from .errors import InputError, TrainingError

__all__ = ["InputError", "TrainingError"]

Row = TypeVar("Row")


def lookup(kind: str, name: str, table: Mapping[str, Row]) -> Row:
    """The row of ``table`` called ``name``; an unknown name is answered with the nearest ones."""
    if name in table:
        return table[name]
    near = get_close_matches(name, table, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? All are: " if near else "there are: "
    raise InputError(f"unknown {kind} {name!r}; {hint}{', '.join(table)}")


def parse(spec: str) -> tuple[str, dict[str, Any]]:
    """``"mixture(components=20)"`` -> ``("mixture", {"components": 20})``.

    Options are Python literals by name. Anything else raises :class:`InputError`.
    """
    match = re.fullmatch(r"\s*([^()\s]+)\s*(\(.*\))?\s*", spec, re.DOTALL)
    try:
        if match is None:
            raise SyntaxError
        call = ast.parse(f"f{match[2] or '()'}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or None in {k.arg for k in call.keywords}:
            raise SyntaxError
        return match[1], {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError):
        raise InputError(
            f"{spec!r} is no name with options; write name or name(option=value), "
            "with numbers, quoted words or lists as values"
        ) from None


def split(specs: str) -> list[str]:
    """``"vae,iwae(samples=5,outer=2)"`` -> its items; a comma inside brackets does not cut."""
    return [s.strip() for s in re.findall(r"(?:[^,(]|\([^)]*\))+", specs) if s.strip()]


def imported(kind: str, path: str) -> Callable[..., Any]:
    """The object that ``"module:Name"`` names."""
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise InputError(f"{kind} {path!r}: there is no module {error.name!r} to import") from None
    except AttributeError:
        raise InputError(f"{kind} {path!r}: module {module!r} has no {name!r}") from None


def resolve(
    kind: str, spec: Any, table: Mapping[str, Callable[..., Any]]
) -> tuple[Any, dict[str, Any] | None]:
    """What ``spec`` names, and its options; None for options means that it is built already."""
    if isinstance(spec, str):
        name, options = parse(spec)
        return imported(kind, name) if ":" in name else lookup(kind, name, table), options
    if inspect.isclass(spec) or inspect.isfunction(spec) or isinstance(spec, partial):
        return spec, {}
    return spec, None


def make(kind: str, factory: Any, options: dict[str, Any] | None, **context: Any) -> Any:
    """Call ``factory`` with its options and with those of ``context`` that its arguments name."""
    if options is None:
        return factory
    name = getattr(factory, "__name__", str(factory))
    takes = inspect.signature(factory).parameters
    own = [p for p in takes if p not in context]
    for option in options:
        if option not in own:
            known = f"takes {', '.join(own)}" if own else "takes no options"
            raise InputError(f"the {kind} {name} has no option {option!r}; it {known}")
    missing = [p for p in own if takes[p].default is inspect.Parameter.empty and p not in options]
    if missing:
        raise InputError(f"the {kind} {name} needs a value for {', '.join(missing)}")
    return factory(**{k: v for k, v in context.items() if k in takes}, **options)


def build(kind: str, spec: Any, table: Mapping[str, Callable[..., Any]], **context: Any) -> Any:
    """Build the part that ``spec`` names.

    Args:
        kind: the word for it in error messages: ``"prior"``, ``"guide"``, …
        spec: a name with options, ``"module:Class"``, a class or function, or a built object.
        table: the names that there are.
        context: what a part may ask for by the name of an argument.

    Raises:
        InputError: an unknown name or option, or an option that lacks its value.
    """
    return make(kind, *resolve(kind, spec, table), **context)


def summary(row: Any) -> str:
    """The first line of a row's docstring: what ``pyro-vae list`` prints about it."""
    return (inspect.getdoc(row) or "").partition("\n")[0]


def at_least_one(option: str, value: Any) -> None:
    if not isinstance(value, int) or value < 1:
        raise InputError(f"{option} is a whole number above 0, not {value!r}")


def number(option: str, value: Any, above: float | None = None) -> float:
    """``value`` if it is a number of at least 0, or above ``above``; else an InputError."""
    if isinstance(value, int | float) and (value >= 0 if above is None else value > above):
        return value
    allowed = "of at least 0" if above is None else f"above {above}"
    raise InputError(f"{option} is a number {allowed}, not {value!r}")

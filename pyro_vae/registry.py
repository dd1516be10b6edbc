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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from .errors import InputError
from .spelling import unknown
from .words import own_names

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
        base: the class that a part of this kind derives from.
    """

    kind: str
    part: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    built: bool = False
    base: type = object

    @property
    def name(self) -> str:
        """The name of the class or function, for error messages."""
        return (type(self.part) if self.built else unwrapped(self.part)).__name__

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
            return self.checked(self.part)
        named = arguments(self.part, f"the {self.kind} {self.name}")
        fixed = bound(self.part)
        handed = {k: v for k, v in handed.items() if k not in fixed}
        for name, why in (unavailable or {}).items():
            if name in named and name not in fixed:
                raise InputError(f"the {self.kind} {self.name} {why}")
        own = [name for name in named if name not in handed]
        for option in self.options:
            if option not in own:
                known = f"takes {', '.join(own)}" if own else "takes no options"
                raise InputError(
                    f"the {self.kind} {self.name} has no option {option!r}; it {known}"
                )
        given = {k: v for k, v in (defaults or {}).items() if k in own} | dict(self.options)
        needed = [name for name in own if named[name].default is inspect.Parameter.empty]
        if missing := [name for name in needed if name not in given]:
            raise InputError(f"the {self.kind} {self.name} needs a value for {', '.join(missing)}")
        with own_names():  # the options of a part are named as in its spec
            part = self.part(**{k: v for k, v in handed.items() if k in named}, **given)
        return self.checked(part)

    def checked(self, part: Any) -> Any:
        """``part`` if it is of the type that this kind of part has; an InputError if it is not."""
        if not isinstance(part, self.base):
            raise InputError(
                f"the {self.kind} is a name, a class or function that makes one, or a "
                f"{self.base.__name__}; {'this' if self.built else self.name + ' made'} is a "
                f"{type(part).__name__}: {part!r:.60}"
            )
        return part


class Table(dict[str, Factory]):
    """The parts of one kind, by name.

    Args:
        kind: the word for one of them in error messages.

    Attributes:
        base: the class that a part of this kind derives from; ``object`` allows any. The modules
            of the contracts and of the scales set it, because this module must not import torch.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.base: type = object

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
            built = not is_factory(part)
            if built and options:
                raise InputError(f"{self.kind} {name!r} is already built and takes no options")
            return Choice(self.kind, part, options, built, self.base)
        return Choice(self.kind, spec, built=not is_factory(spec), base=self.base)

    def build(self, spec: Any, **handed: Any) -> Any:
        """Build the part that ``spec`` names, as :meth:`Choice.make` does."""
        return self.choose(spec).make(**handed)


PRIORS = Table("prior")
LIKELIHOODS = Table("likelihood")
GUIDES = Table("guide")
OBJECTIVES = Table("objective")
NETWORKS = Table("network")
SCALES = Table("scale")
SCHEDULES = Table("schedule")


def lookup(kind: str, name: Any, table: Mapping[str, Row]) -> Row:
    """The row of ``table`` called ``name``; the error for an unknown name lists the nearest."""
    if not isinstance(name, str):
        raise InputError(f"{kind} is one of the names {', '.join(table)}, not {name!r}")
    if name in table:
        return table[name]
    raise unknown(kind, name, table)


def parse(spec: str) -> tuple[str, dict[str, Any]]:
    """``"mixture(components=20)"`` -> ``("mixture", {"components": 20})``.

    Options are Python literals, given by name. Anything else raises
    :class:`~pyro_vae.errors.InputError`.
    """
    match = re.fullmatch(r"([^()\s]+)\s*(\(.*\))?", spec.strip(), re.DOTALL)
    try:
        if match is None:
            raise SyntaxError
        call = ast.parse(f"f{match[2] or '()'}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise SyntaxError
        names = [k.arg for k in call.keywords]
        if None in names or len(set(names)) < len(names):
            raise SyntaxError
        return match[1], {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise InputError(
            f"{spec!r:.200} is not a name with options; write name or name(option=value), "
            "with numbers, quoted words or lists as values"
        ) from None


def spec(name: str, options: Mapping[str, Any]) -> str:
    """The spec that :func:`parse` reads as ``name`` and ``options``."""
    return f"{name}({', '.join(f'{k}={v!r}' for k, v in options.items())})" if options else name


def split_specs(specs: str) -> list[str]:
    """``"vae,iwae(samples=5,outer=2)"`` -> its items; a comma inside brackets does not split.

    Raises:
        InputError: an item is empty, or is there twice.
    """
    items, depth = [""], 0
    for character in specs:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            items.append("")
        else:
            items[-1] += character
    names = [item.strip() for item in items]
    if "" in names or len(set(names)) < len(names):
        raise InputError(f"{specs!r} has an empty name or a name twice; give each name once")
    return names


def own_classes(spec: Any) -> Iterator[str]:
    """The names ``module:Class`` in a spec, its options, and the specs in them.

    Args:
        spec: a spec as this module reads it, or lists and dicts with specs.

    Example:
        >>> list(own_classes("hierarchy(network='mine:Net(depth=2)')"))
        ['mine:Net']
    """
    if isinstance(spec, str):
        try:
            name, options = parse(spec)
        except InputError:  # then no table can read it
            return
        if ":" in name:
            yield name
        yield from own_classes(options)
    elif isinstance(spec, dict):
        yield from own_classes([*spec, *spec.values()])
    elif isinstance(spec, list | tuple | set):
        for each in spec:
            yield from own_classes(each)


def imported(kind: str, path: str) -> Factory:
    """The object that ``"module:Name"`` names."""
    module, _, name = path.partition(":")
    try:
        # The module is the user's own, so its attribute can only be read by name.
        return getattr(importlib.import_module(module), name)
    except (ValueError, TypeError):
        raise InputError(f"{kind} {path!r} is not of the form module:Class") from None
    except ModuleNotFoundError as error:
        raise InputError(f"{kind} {path!r}: no module {error.name!r} can be imported") from None
    except AttributeError:
        raise InputError(f"{kind} {path!r}: module {module!r} has no {name!r}") from None


def is_factory(part: Any) -> bool:
    """Whether ``part`` is called to build a part: a class, a function or a ``partial``."""
    return inspect.isclass(part) or inspect.isroutine(part) or isinstance(part, partial)


def unwrapped(factory: Any) -> Any:
    """The class or function inside a ``functools.partial``; anything else comes back unchanged."""
    while isinstance(factory, partial):
        factory = factory.func
    return factory


def class_of(choice: Choice) -> type:
    """The class of the part that a spec names; ``object`` for a function that makes one."""
    kind = type(choice.part) if choice.built else unwrapped(choice.part)
    return kind if isinstance(kind, type) else object


def bound(factory: Factory) -> set[str]:
    """The arguments that a ``functools.partial`` has bound by name."""
    return set(factory.keywords) | bound(factory.func) if isinstance(factory, partial) else set()


def arguments(factory: Factory, who: str) -> dict[str, inspect.Parameter]:
    """The arguments of a factory by name.

    A class that forwards ``**kwargs`` to its base class also has the arguments of the base class.

    Raises:
        InputError: a factory whose arguments cannot be passed by name.
    """
    try:
        takes = inspect.signature(factory).parameters
    except (ValueError, TypeError):
        raise InputError(f"{who} does not say which arguments it takes; write a class") from None
    found: dict[str, inspect.Parameter] = {}
    for name, parameter in takes.items():
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise InputError(
                f"{who} has the positional-only argument {name!r}; arguments are passed by name"
            )
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            found[name] = parameter
    forwards = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    made = unwrapped(factory)
    if forwards and inspect.isclass(made):
        own = next(i for i, c in enumerate(made.__mro__) if "__init__" in vars(c))
        rest = [c for c in made.__mro__[own + 1 :] if "__init__" in vars(c)]
        for base in rest:
            inner = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
            found = {
                **{p.name: p for p in inner if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)},
                **found,
            }
            if not any(p.kind is p.VAR_KEYWORD for p in inner):
                break
    return found


def summary(row: Any) -> str:
    """The first line of a row's docstring, without its markup. ``pyro-vae list`` prints it."""
    line = (inspect.getdoc(row) or "").partition("\n")[0].replace("``", "`")
    return re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", line)  # a role becomes code

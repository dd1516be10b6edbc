"""The names in the code of a function: what it reads, writes and imports."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dis import Instruction, get_instructions, stack_effect
from functools import cache
from types import CodeType
from typing import Any

from .origins import USER, kind_of

# A function that uses one of these can reach an attribute whose name is not in its code.
DYNAMIC = {
    "setattr", "vars", "__dict__", "attrgetter", "asdict", "astuple", "__getattribute__",
    "__getstate__", "deepcopy", "__getattr__", "dumps",
}  # fmt: skip
BY_STRING = DYNAMIC | {"getattr", "hasattr"}


def codes_in(code: CodeType) -> Iterator[CodeType]:
    """The code of a function and of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes_in(constant)


def flat(constants: Iterable[Any]) -> Iterator[Any]:
    """Constants, and those in tuples, such as the names of a ``case``."""
    for x in constants:
        yield from flat(x) if isinstance(x, tuple) else (x,)


@cache
def names_of(code: CodeType) -> frozenset[str]:
    """The names that a function reads or writes, and its strings, which may be names.

    A string of a library is a name only if the function reads attributes by strings.
    """
    strings: set[str] = set()
    if kind_of(code.co_filename) is USER or not BY_STRING.isdisjoint(code.co_names):
        strings = {x for x in flat(code.co_consts) if isinstance(x, str) and x.isidentifier()}
    return frozenset({*code.co_names, *code.co_freevars, *strings})


@cache
def names_written(code: CodeType) -> frozenset[str]:
    """The attributes and outer variables to which a function assigns."""
    stores = {"STORE_ATTR", "STORE_GLOBAL", "STORE_DEREF", "DELETE_ATTR"}
    found = (i for i in get_instructions(code) if i.opname in stores)
    return frozenset(str(i.argval) for i in found)


CALL = "PRECALL" if sys.version_info < (3, 12) else "CALL"


@cache
def is_dynamic(code: CodeType) -> bool:
    """Whether a function may read an attribute whose name is not in its code."""
    if not DYNAMIC.isdisjoint(code.co_names):
        return True
    instructions = [i for i in get_instructions(code) if i.opname != "PUSH_NULL"]
    if any(i.opname == "MATCH_CLASS" for i in instructions):  # it may name attributes by place
        return True
    return any(
        i.argval in ("getattr", "hasattr") and not names_a_constant(instructions[place + 1 :])
        for place, i in enumerate(instructions)
    )


def names_a_constant(instructions: list[Instruction]) -> bool:
    """Whether a call, whose instructions follow its function, has a constant as second argument."""
    depth, constant = 0, False  # the arguments on the stack; whether the second is a constant
    for i in instructions:
        if i.opname == CALL and i.arg == depth:
            return constant
        before, depth = depth, depth + stack_effect(i.opcode, i.arg, jump=False)
        if depth <= 2 and before != depth:
            constant = before == 1 and depth == 2 and i.opname == "LOAD_CONST"
        if depth < 0:
            break
    return False


@cache
def imports(code: CodeType) -> list[str]:
    """The names of the modules that a function imports."""
    return [str(i.argval) for i in get_instructions(code) if i.opname == "IMPORT_NAME"]


def may_import(code: CodeType) -> bool:
    return not {"import_module", "modules"}.isdisjoint(code.co_names) or bool(imports(code))

"""The kinds of Python objects that a program can reach, and whose they are."""

from __future__ import annotations

import datetime
import decimal
import enum
import functools
import gc
import io
import logging
import operator
import pathlib
import pickle
import random
import re
import sys
from collections import defaultdict, deque
from collections.abc import Callable
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GenericAlias,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    UnionType,
    WrapperDescriptorType,
)
from typing import Any

import numpy as np
import torch
from pyro.poutine import Trace

from .origins import OWN, READER, USER, kind_of, whose
from .places import SCALARS
from .private import CachedFunction

# Objects that never change, or whose content no program reads.
CONSTANT = (
    *SCALARS, type, type(...), type(NotImplemented), range, slice, enum.Enum, np.generic, np.dtype,
    np.ufunc, torch.dtype, torch.device, torch.layout, torch.memory_format, re.Pattern, CodeType,
    GenericAlias, MethodDescriptorType, WrapperDescriptorType, GetSetDescriptorType,
    MemberDescriptorType, Trace, torch._ops.OpOverload,
    torch._ops.OpOverloadPacket, decimal.Decimal, datetime.date, datetime.time, datetime.timedelta,
    pathlib.PurePath, UnionType, type(Any),
    operator.itemgetter,
)  # fmt: skip
GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
CONTAINERS = (dict, list, tuple, set, frozenset, deque)
# Attributes of each module that only state_dict and load_state_dict read.
UNREAD = {
    "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks", "_non_persistent_buffers_set",
}  # fmt: skip
# Attributes of each class that describe it.
DESCRIBING = {"__module__", "__name__", "__doc__", "__dict__", "__annotations__", "_abc_impl"}
# Containers that a module has from the start and keeps; their content is compared.
KEPT = {"_parameters", "_buffers", "_modules"}
HOOKS = {
    "_backward_pre_hooks", "_backward_hooks", "_is_full_backward_hook", "_forward_hooks",
    "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
}  # fmt: skip
NOTHING = {"lock", "RLock", "_abc_data", "_tuplegetter", "cython_function_or_method"}
LIBRARIES = {"torch", "pyro", "numpy", "typing_extensions", *sys.stdlib_module_names} - {"__main__"}


# Objects that stand for others, and the attributes that hold those.
WRAPPERS: dict[type, tuple[str, ...]] = {
    MethodType: ("__self__", "__func__"),
    BuiltinFunctionType: ("__self__",),
    MethodWrapperType: ("__self__",),
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    property: ("fget", "fset"),
    functools.partial: ("func", "args", "keywords"),
    functools.partialmethod: ("func", "args", "keywords"),
    functools.cached_property: ("func",),
}


def position(iterator: Any) -> bytes | None:
    """Where an iterator stands; None if it does not say."""
    try:
        return pickle.dumps(iterator)
    except Exception:  # each iterator has its own error
        return None


@functools.cache
def user_classes(cls: Any) -> list[type]:
    """The class and its bases, without those of the libraries."""
    return [c for c in cls.__mro__ if not from_library(c)]


@functools.cache
def is_recorded(cls: Any) -> bool:
    """Whether the attributes that the methods of a class read are recorded, see ``Reads.names``."""
    files = (getattr(sys.modules.get(c.__module__), "__file__", None) for c in cls.__mro__[:-1])
    return all(kind_of(file or "") in (USER, READER) for file in files)


def functions_of(codes: set[CodeType]) -> list[FunctionType]:
    """The functions that have one of these codes."""
    found = gc.get_referrers(*codes) if codes else []
    return [f for f in found if isinstance(f, FunctionType) and f.__code__ in codes]


@functools.cache
def slots(cls: Any) -> list[str]:
    """The attributes of a class that have slots."""
    slotted = [c for c in cls.__mro__ if "__slots__" in vars(c) or c is defaultdict]
    return [
        name
        for c in slotted
        for name, value in vars(c).items()
        if isinstance(value, MemberDescriptorType) and not name.startswith("__")
    ]


def hideable(cls: Any, ran: set[CodeType]) -> set[str]:
    """The attributes of a class that an attribute of its object would hide.

    Args:
        cls: the class.
        ran: the code that ran. A method that did not run is not read.
    """
    return {
        name
        for c in user_classes(cls)
        for name, value in vars(c).items()
        if not name.startswith("__")
        and (not isinstance(value, FunctionType) or value.__code__ in ran)
    }


def inherited(cls: Any) -> set[str]:
    """The attributes that a user's class has from another one; its own would hide them."""
    if is_own_code(cls):
        return set()
    names = {name for base in user_classes(cls)[1:] for name in vars(base)}
    return {name for name in names - vars(cls).keys() if not name.startswith("__")}


def is_fixed(value: Any, of_user: bool) -> bool:
    """Whether a global stays what it is: a module, a class or a function of a library.

    Args:
        value: the global.
        of_user: whether it is one of the user's, as ``ACT = F.relu``, which may be replaced.
    """
    if isinstance(value, ModuleType):
        return from_library(value)
    return not of_user and (from_library(value) or is_own_code(value))


def levels(logger: logging.Logger, names: set[str]) -> list[Callable[[], Any]]:
    """The level of a logger, if the programs ask for it."""
    if {"isEnabledFor", "getEffectiveLevel", "level", "disabled"}.isdisjoint(names):
        return []
    return [lambda: (logger.getEffectiveLevel(), logger.isEnabledFor(50))]


def in_c(item: Any) -> str:
    """What an object is whose state is not kept by Python; "" for another object."""
    if any(c.__module__ == "_ctypes" for c in type(item).__mro__):
        return "a value of ctypes,"
    if isinstance(item, torch.jit.ScriptModule):
        return "a scripted module,"
    return "the file" if isinstance(item, io.IOBase) else ""


SETTINGS = {name for name in dir(torch) if name.startswith(("get_", "is_", "are_"))}


def settings(module: ModuleType, names: set[str]) -> list[Callable[[], Any]]:
    """The settings of torch that programs ask for, such as ``torch.get_num_threads``.

    Args:
        module: a module; some of torch, such as ``torch.backends.cudnn``, have properties.
        names: the names that the programs use.
    """
    properties = set(dir(type(module))) - set(dir(ModuleType))
    asked: list[Any] = [functools.partial(getattr, module, n) for n in names & properties]
    if module is torch:
        asked += [getattr(torch, name) for name in names & SETTINGS]
    found = []
    for ask in asked:
        try:
            value = ask()
        except TypeError:  # the function takes an argument, so it asks for no setting
            continue
        if isinstance(value, (*SCALARS, torch.dtype, torch.device)):
            found.append(ask)
    return found


def is_own_code(item: Any) -> bool:
    """Whether a function or a class belongs to this library; like torch's, it is not replaced."""
    function = getattr(item, "__func__", getattr(item, "fget", item))  # of a method, a property
    if isinstance(function, FunctionType):
        return function.__code__.co_filename.startswith(OWN)
    home = sys.modules.get(item.__module__) if isinstance(item, type) else None
    return (getattr(home, "__file__", None) or "").startswith(OWN)


def is_own_memo(item: Any) -> bool:
    """Whether this library made a cache of one of its functions; the results depend on the
    arguments alone."""
    function = item.__wrapped__
    home = sys.modules.get(function.__module__)  # of the user's function, it may be gone
    return is_own_code(function) and vars(home).get(function.__name__) is item


def from_library(item: Any) -> bool:
    """Whether a class, function or module belongs to torch, Pyro, NumPy or Python."""
    if isinstance(item, FunctionType):
        return whose(item.__code__, item.__globals__) is not USER
    if not isinstance(item, type | ModuleType | BuiltinFunctionType):
        return False
    name = item.__name__ if isinstance(item, ModuleType) else item.__module__
    return (name or "").partition(".")[0] in LIBRARIES


def cached(function: CachedFunction) -> list[Any]:
    """What a function under ``lru_cache`` keeps: its arguments and results. Python gives them to
    its garbage collector only."""
    found = gc.get_referents(function)
    stores = [x for x in found if type(x) is dict and x is not vars(function)]
    return [*found, *(value for store in stores for value in store.values())]


def same_or_equal(items: list[Any]) -> list[Any]:
    """Something to compare a list by: plain values by value, other objects by identity."""
    return [x if isinstance(x, SCALARS) else id(x) for x in items]

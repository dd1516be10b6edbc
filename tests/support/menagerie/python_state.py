"""Python state that changes between steps, wherever Python can keep it."""

import argparse
import collections
import contextlib
import contextvars
import dataclasses
import enum
import functools
import itertools
import operator
import os
import sys
import threading
import types
import weakref

import numpy as np
import torch
from torch import nn

from pyro_vae.networks.layers import by_channel

from . import Member, looks, member, normal_guide, programs


def fresh_module(name="menagerie_config", code="factor = 1.0\n"):
    module = types.ModuleType(name)
    module.__file__ = f"/elsewhere/{name}.py"
    exec(compile(code, module.__file__, "exec"), vars(module))
    sys.modules[name] = module
    return module


@looks("equal")
def a_class_attribute():
    class Config:
        factor = 1.0

    return lambda z, x: z * Config.factor, lambda v: setattr(Config, "factor", v)


@looks("equal")
def an_inherited_class_attribute():
    class Base:
        factor = 1.0

    class Config(Base):
        pass

    return lambda z, x: z * Config().factor, lambda v: setattr(Base, "factor", v)


@looks("equal")
def an_instance_attribute_that_hides_a_class_attribute():
    class Config:
        factor = 1.0

    config = Config()
    return lambda z, x: z * config.factor, lambda v: setattr(config, "factor", v)


@looks("equal")
def an_attribute_with_a_default():
    class Config:
        pass

    config = Config()
    return lambda z, x: z * getattr(config, "factor", 1.0), lambda v: setattr(config, "factor", v)


@looks("equal")
def an_attribute_under_a_computed_name():
    class Config:
        w1 = 1.0

    config, one = Config(), 1
    return lambda z, x: z * getattr(config, f"w{one}"), lambda v: setattr(config, "w1", v)


@looks("equal")
def a_module_as_configuration():
    config = fresh_module()
    return lambda z, x: z * config.factor, lambda v: setattr(config, "factor", v)


@looks("equal")
def a_module_imported_inside():
    config = fresh_module("menagerie_inside")

    def look(z, x):
        import menagerie_inside

        return z * menagerie_inside.factor

    return look, lambda v: setattr(config, "factor", v)


@looks("equal")
def a_name_imported_inside():
    config = fresh_module("menagerie_name")

    def look(z, x):
        from menagerie_name import factor

        return z * factor

    return look, lambda v: setattr(config, "factor", v)


@looks("equal")
def a_helper_in_another_module():
    config = fresh_module(code="factor = 1.0\ndef scaled(z):\n    return z * factor\n")
    return lambda z, x: config.scaled(z), lambda v: setattr(config, "factor", v)


@looks("equal")
def a_helper_of_a_helper_in_another_module():
    config = fresh_module(
        code="factor = 1.0\n"
        "def inner():\n    return factor\n"
        "def scaled(z):\n    return z * inner()\n"
    )
    scaled = config.scaled
    return lambda z, x: scaled(z), lambda v: setattr(config, "factor", v)


@looks("equal")
def a_function_of_another_module_is_replaced():
    config = fresh_module(code="def factor():\n    return 1.0\n")
    return lambda z, x: z * config.factor(), lambda v: setattr(config, "factor", lambda: v)


@looks("equal")
def a_simple_namespace():
    space = types.SimpleNamespace(factor=1.0)
    return lambda z, x: z * space.factor, lambda v: setattr(space, "factor", v)


@looks("equal")
def an_argparse_namespace():
    space = argparse.Namespace(factor=1.0)
    return lambda z, x: z * space.factor, lambda v: setattr(space, "factor", v)


@looks("equal")
def a_nested_namespace():
    space = types.SimpleNamespace(inner=types.SimpleNamespace(factors=[1.0]))
    return lambda z, x: z * space.inner.factors[0], lambda v: space.inner.factors.__setitem__(0, v)


@looks("equal")
def a_slot():
    class Slots:
        __slots__ = ("factor",)

    slots = Slots()
    slots.factor = 1.0
    return lambda z, x: z * slots.factor, lambda v: setattr(slots, "factor", v)


@looks("equal")
def a_slotted_dataclass():
    @dataclasses.dataclass(slots=True)
    class Config:
        factor: float = 1.0

    config = Config()
    return lambda z, x: z * config.factor, lambda v: setattr(config, "factor", v)


@looks("equal")
def a_frozen_dataclass_is_replaced():
    @dataclasses.dataclass(frozen=True)
    class Config:
        factor: float = 1.0

    class Holder:
        config = Config()

    return (
        lambda z, x: z * Holder.config.factor,
        lambda v: setattr(Holder, "config", dataclasses.replace(Holder.config, factor=v)),
    )


@looks("equal")
def a_deque():
    kept = collections.deque([1.0], maxlen=1)
    return lambda z, x: z * kept[0], kept.append


@looks("equal")
def a_set():
    kept = {1.0}

    def change(v):
        kept.clear()
        kept.add(v)

    return lambda z, x: z * max(kept), change


@looks("equal")
def a_string_in_a_set():
    kept = set()
    return lambda z, x: z * (2.0 if "on" in kept else 1.0), lambda v: kept.add("on")


@looks("equal")
def a_renamed_key():
    kept = {"a": 1.0, "b": 2.0}

    def change(v):
        values = list(kept.values())
        kept.clear()
        kept.update(zip("ba" if v > 1 else "ab", values, strict=True))

    return lambda z, x: z * kept["a"], change


@looks("equal")
def the_order_of_a_dict():
    kept = collections.OrderedDict(a=1.0, b=2.0)
    return lambda z, x: z * next(iter(kept.values())), lambda v: kept.move_to_end("a")


@looks("equal")
def a_defaultdict():
    kept = collections.defaultdict(lambda: 1.0)
    return lambda z, x: z * kept["a"], lambda v: kept.__setitem__("a", v)


@looks("equal")
def a_chain_map():
    kept = collections.ChainMap({}, {"a": 1.0})
    return lambda z, x: z * kept["a"], lambda v: kept.__setitem__("a", v)


@looks("equal")
def a_counter():
    kept = collections.Counter(a=1)
    return lambda z, x: z * kept["a"], lambda v: kept.update(a=1)


@looks("equal")
def a_user_dict():
    kept = collections.UserDict(a=1.0)
    return lambda z, x: z * kept["a"], lambda v: kept.__setitem__("a", v)


@looks("equal")
def a_dict_with_attribute_access():
    class Config(dict):
        __getattr__ = dict.__getitem__

    config = Config(factor=1.0)
    return lambda z, x: z * config.factor, lambda v: config.__setitem__("factor", v)


@looks("equal")
def a_mapping_proxy():
    inner = {"a": 1.0}
    kept = types.MappingProxyType(inner)
    return lambda z, x: z * kept["a"], lambda v: inner.__setitem__("a", v)


@looks("equal")
def the_length_of_a_list():
    kept = [1]
    return lambda z, x: z * len(kept), kept.append


@looks("equal")
def a_list_in_a_tuple():
    kept = ([1.0],)
    return lambda z, x: z * kept[0][0], lambda v: kept[0].__setitem__(0, v)


@looks("equal")
def a_named_tuple_is_replaced():
    Pair = collections.namedtuple("Pair", "a b")
    holder = [Pair(1.0, 2.0)]
    return lambda z, x: z * holder[0].a, lambda v: holder.__setitem__(0, Pair(v, 2.0))


@looks("equal")
def os_environ():
    os.environ["MENAGERIE"] = "1.0"
    return (
        lambda z, x: z * float(os.environ["MENAGERIE"]),
        lambda v: os.environ.__setitem__("MENAGERIE", str(v)),
    )


@looks("equal")
def os_getenv():
    os.environ["MENAGERIE"] = "1.0"
    return (
        lambda z, x: z * float(os.getenv("MENAGERIE")),
        lambda v: os.environ.__setitem__("MENAGERIE", str(v)),
    )


@looks("equal")
def a_property():
    class Config:
        _factor = 1.0

        @property
        def factor(self):
            return self._factor

    config = Config()
    return lambda z, x: z * config.factor, lambda v: setattr(config, "_factor", v)


GLOBAL = {"factor": 1.0}


class Methods:
    @property
    def prop(self):
        return GLOBAL["factor"]

    @staticmethod
    def static():
        return GLOBAL["factor"]

    @classmethod
    def cls(cls):
        return GLOBAL["factor"]

    def __call__(self):
        return GLOBAL["factor"]

    def __getattr__(self, name):
        if name == "virtual":
            return GLOBAL["factor"]
        raise AttributeError(name)

    def __getitem__(self, index):
        return GLOBAL["factor"]

    def __float__(self):
        return GLOBAL["factor"]


def reset(value=1.0):
    GLOBAL["factor"] = value


METHODS = {
    "a property that reads a global": lambda m: m.prop,
    "a static method that reads a global": lambda m: m.static(),
    "a class method that reads a global": lambda m: m.cls(),
    "a call that reads a global": lambda m: m(),
    "a virtual attribute that reads a global": lambda m: m.virtual,
    "an item that reads a global": lambda m: m[0],
    "a conversion that reads a global": lambda m: float(m),
}
for _name, _read in METHODS.items():

    def _build(read=_read):
        reset()
        methods = Methods()
        return lambda z, x: z * read(methods), reset

    _build.__name__ = _name.replace(" ", "_")
    looks("equal")(_build)


@looks("equal")
def a_metaclass():
    class Meta(type):
        factor = 1.0

    class Config(metaclass=Meta):
        pass

    return lambda z, x: z * Config.factor, lambda v: setattr(Meta, "factor", v)


@looks("equal")
def a_descriptor():
    class Reads:
        value = 1.0

        def __get__(self, owner, cls):
            return self.value

    class Config:
        factor = Reads()

    config = Config()
    return lambda z, x: z * config.factor, lambda v: setattr(Reads, "value", v)


@looks("equal")
def a_cached_property_is_deleted():
    reset()

    class Config:
        @functools.cached_property
        def factor(self):
            return GLOBAL["factor"]

    config = Config()

    def change(v):
        reset(v)
        vars(config).pop("factor", None)

    return lambda z, x: z * config.factor, change


@looks("equal")
def a_function_under_lru_cache():
    reset()

    @functools.lru_cache
    def factor():
        return GLOBAL["factor"]

    def change(v):
        reset(v)
        factor.cache_clear()

    return lambda z, x: z * factor(), change


@looks("equal")
def an_lru_cache_cleared_later():
    reset()

    @functools.lru_cache
    def factor():
        return GLOBAL["factor"]

    def change(v):
        if v == 2.0:
            reset(v)
        if v == 1.0:
            factor.cache_clear()

    return lambda z, x: z * factor(), change


@looks("equal")
def an_lru_cache_of_a_function_of_this_library():
    table = functools.lru_cache(by_channel)

    def change(v):
        table.cache_clear()
        table((1.0,), (1,)).fill_(v)

    return lambda z, x: z * table((1.0,), (1,)), change


@looks("equal")
def a_partial():
    kept = [1.0]
    scaled = functools.partial(lambda kept, z: z * kept[0], kept)
    return lambda z, x: scaled(z), lambda v: kept.__setitem__(0, v)


@looks("equal")
def a_default_argument():
    def look(z, x, kept=[1.0]):  # noqa: B006
        return z * kept[0]

    return look, lambda v: look.__defaults__[0].__setitem__(0, v)


@looks("equal")
def replaced_default_arguments():
    def factor(value=1.0):
        return value

    return lambda z, x: z * factor(), lambda v: setattr(factor, "__defaults__", (v,))


@looks("equal")
def an_attribute_of_a_function():
    def look(z, x):
        return z * look.factor

    look.factor = 1.0
    return look, lambda v: setattr(look, "factor", v)


@looks("equal")
def an_enum_in_a_list():
    class Mode(enum.Enum):
        ONE, TWO = 1.0, 2.0

    kept = [Mode.ONE]
    return (
        lambda z, x: z * kept[0].value,
        lambda v: kept.__setitem__(0, Mode.TWO if v == 2.0 else Mode.ONE),
    )


@looks("equal")
def a_registry_of_functions():
    table = {"f": lambda z: z}
    return lambda z, x: table["f"](z), lambda v: table.__setitem__("f", lambda z: z * v)


@looks("equal")
def a_method_is_replaced():
    class Config:
        def factor(self):
            return 1.0

    config = Config()
    return lambda z, x: z * config.factor(), lambda v: setattr(config, "factor", lambda: v)


@looks("equal")
def a_thread_local():
    local = threading.local()
    local.factor = 1.0
    return lambda z, x: z * local.factor, lambda v: setattr(local, "factor", v)


@looks("eager")
def a_context_variable():
    variable = contextvars.ContextVar("factor", default=1.0)
    return lambda z, x: z * variable.get(), lambda v: variable.set(v) and None


@looks("equal")
def a_weak_reference():
    class Config:
        factor = 1.0

    config = Config()
    reference = weakref.ref(config)
    return lambda z, x: z * reference().factor, lambda v: setattr(config, "factor", v)


@looks("equal")
def a_bound_method_in_a_list():
    class Config:
        factor = 1.0

        def scaled(self, z):
            return z * self.factor

    config = Config()
    table = [config.scaled]
    return lambda z, x: table[0](z), lambda v: setattr(config, "factor", v)


@looks("eager")
def an_attrgetter():
    space = types.SimpleNamespace(factor=1.0)
    get = operator.attrgetter("factor")
    return lambda z, x: z * get(space), lambda v: setattr(space, "factor", v)


@looks("equal")
def vars_of_an_object():
    space = types.SimpleNamespace(factor=1.0)
    return lambda z, x: z * vars(space)["factor"], lambda v: setattr(space, "factor", v)


@looks("equal")
def a_decorated_helper():
    kept = [1.0]

    def decorator(f):
        @functools.wraps(f)
        def wrapped(z):
            return f(z) * kept[0]

        return wrapped

    scaled = decorator(lambda z: z)
    return lambda z, x: scaled(z), lambda v: kept.__setitem__(0, v)


@looks("equal")
def a_context_manager():
    kept = [1.0]

    @contextlib.contextmanager
    def factor():
        yield kept[0]

    def look(z, x):
        with factor() as f:
            return z * f

    return look, lambda v: kept.__setitem__(0, v)


@looks("equal")
def a_small_numpy_array():
    kept = np.ones(3)
    return lambda z, x: z * float(kept[0]), lambda v: kept.__setitem__(0, v)


@looks("eager")
def a_large_numpy_array():
    kept = np.ones(100_000)
    return lambda z, x: z * float(kept[0]), lambda v: kept.__setitem__(0, v)


@looks("eager")
def a_memory_of_bytes():
    kept = memoryview(bytearray(b"\1\2\3"))
    return lambda z, x: z * kept[0], lambda v: kept.__setitem__(0, int(v + 1))


@looks("equal")
def a_number_of_numpy():
    kept = [np.float64(1.0)]
    return lambda z, x: z * float(kept[0]), lambda v: kept.__setitem__(0, np.float64(v))


@looks("equal")
def the_sign_of_zero():
    kept = [0.0]

    def look(z, x):
        return z if str(kept[0]) == "0.0" else -z

    return look, lambda v: kept.__setitem__(0, -0.0 if v > 1 else 0.0)


@looks("equal")
def an_int_that_becomes_a_bool():
    kept = [1]
    return (
        lambda z, x: z * (2.0 if kept[0] is True else 1.0),
        lambda v: kept.__setitem__(0, True if v > 1 else 1),
    )


@looks("eager")
def an_iterator():
    values = iter([1.0] * 6 + [2.0] * 100)
    return lambda z, x: z * next(values), lambda v: None


@looks("eager")
def a_cycle():
    values = itertools.cycle([1.0, 2.0, 3.0])
    return lambda z, x: z * next(values), lambda v: None


@looks("eager")
def a_python_generator():
    def numbers():
        yield from range(1000)

    values = numbers()
    return lambda z, x: z * (2.0 if next(values) > 6 else 1.0), lambda v: None


@member("equal")
def an_attribute_that_the_programs_do_not_read():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.epoch_of_training = 0

        def look(self, z, x):
            return 2 * z

    model = Model()

    def after(svi):
        model.epoch_of_training += 1

    made = programs(model.look)
    made.after = after
    return made


@member("equal")
def state_declared_static():
    kept = np.ones(100_000)
    return programs(lambda z, x: z * float(kept[0]), static=[kept])


@member("equal")
def a_name_declared_static():
    class Model:
        calls = 0

        def look(self, z, x):
            self.calls += 1
            return 2 * z

    return programs(Model().look, static=["calls"])


@member("equal")
def an_object_among_the_arguments():
    space = types.SimpleNamespace(factor=1.0)
    return programs(
        lambda z, x, space: z * space.factor,
        args=lambda step: (torch.ones(3), space),
        change=lambda v: setattr(space, "factor", v),
    )


@member("equal")
def a_callable_object_as_model():
    import pyro
    import pyro.distributions as dist

    class Model:
        factor = 1.0

        def __call__(self, x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z * self.factor, 1.0).expand([3]).to_event(1), obs=x)

    model = Model()
    return Member(model, normal_guide, change=lambda v: setattr(model, "factor", v))

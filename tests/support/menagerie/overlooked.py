"""State that a name does not lead to at first: a new name, a key, a replaced function."""

import dataclasses
import tempfile
import weakref
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import nn

from . import Member, looks, member, normal_guide, programs

ACT = torch.tanh
PRIOR = dist.Normal


@looks("equal")
def a_global_that_is_a_function_of_torch():
    def change(value):
        globals()["ACT"] = torch.tanh if value == 1 else torch.sigmoid

    change(1.0)
    return lambda z, x: ACT(z), change


@looks("equal")
def a_global_that_is_a_class_of_pyro():
    def change(value):
        globals()["PRIOR"] = dist.Normal if value == 1 else dist.Laplace

    change(1.0)
    return lambda z, x: z * PRIOR(torch.tensor(0.0), 2.0).variance, change


class Base:
    factor = 1.0

    def scaled(self, z):
        return z


@looks("equal")
def a_class_that_hides_an_attribute_later():
    class Config(Base):
        pass

    return lambda z, x: z * Config().factor, lambda value: setattr(Config, "factor", value)


@looks("equal")
def a_class_that_hides_a_method_later():
    class Config(Base):
        pass

    def change(value):
        Config.scaled = lambda self, z: z * value

    config = Config()
    return lambda z, x: config.scaled(z), change


@looks("equal")
def an_attribute_that_a_tensor_gets_later():
    weight = torch.ones(())

    def change(value):
        weight.factor = value

    return lambda z, x: z * getattr(weight, "factor", 1.5), change


@looks("equal")
def an_attribute_that_a_function_gets_later():
    def scaled(z):
        return z * getattr(scaled, "factor", 1.5)

    return lambda z, x: scaled(z), lambda value: setattr(scaled, "factor", value)


RARE = {7: 2.0}


@member("refused")
def a_number_of_a_tensor_as_a_key():
    def look(z, x, k):
        return z * RARE.get(k.max().item(), 1.0)

    return programs(
        look, args=lambda step: (torch.linspace(-1.0, 1.0, 3), torch.tensor([step + 1, 0]))
    )


TABLE = {0.5: 2.0}


@member("equal")
def a_float_argument_as_a_key():
    def look(z, x, beta):
        return z * TABLE.get(beta, 1.0)

    return programs(look, args=lambda step: (torch.linspace(-1.0, 1.0, 3), 0.5))


@member("equal")
def an_item_beyond_its_type():
    def look(z, x, pixels):
        return z * (pixels.max().item() * 2) / 100

    def args(step):
        largest = 100 if step < 5 else 200
        return torch.linspace(-1.0, 1.0, 3), torch.tensor([largest], dtype=torch.uint8)

    return programs(look, args=args)


@member("eager")
def a_float_argument_that_underflows_as_a_tensor():
    def look(z, x, t):
        return z * (t**30 / t**29)

    return programs(
        look, args=lambda step: (torch.linspace(-1.0, 1.0, 3), 0.5 if step < 3 else 0.01)
    )


@member("equal")
def _batch_normalization_before_an_infinite_loss():
    norm = nn.BatchNorm1d(2)

    def model(x):
        pyro.module("norm", norm)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        mean = norm(z * torch.tensor([[1.0, 2.0], [0.5, -1.0], [2.0, 0.0]])).sum(-1)
        pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def args(step):
        x = torch.linspace(-1.0, 1.0, 3)
        return (x * torch.inf if step == 7 else x,)

    return Member(model, normal_guide, args=args, result=norm.running_mean.clone)


@member("equal")
def _batch_normalization_for_its_statistics():
    norm = nn.BatchNorm1d(2)

    def model(x):
        pyro.module("norm", norm)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        norm(torch.outer(x, torch.tensor([1.0, 2.0])))  # the result is not used
        pyro.sample("x", dist.Normal(z, 1.0).expand([3]).to_event(1), obs=x)

    return Member(model, normal_guide, result=norm.running_mean.clone)


@member("eager")
def _a_buffer_that_is_registered_anew():
    class Keeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("last", torch.zeros(()))

        def forward(self, x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            self.register_buffer("last", z.detach())
            pyro.sample("x", dist.Normal(z, 1.0).expand([3]).to_event(1), obs=x)

    model = Keeping()
    return Member(model, normal_guide, result=lambda: model.last.clone())


@dataclasses.dataclass
class Scaled:
    scale: float = 1.0


@looks("equal")
def a_field_in_a_pattern():
    config = Scaled()

    def look(z, x):
        match config:
            case Scaled(scale=s):
                return z * s

    return look, lambda value: setattr(config, "scale", value)


@looks("equal")
def a_field_by_its_place_in_a_pattern():
    config = Scaled()

    def look(z, x):
        match config:
            case Scaled(s):
                return z * s

    return look, lambda value: setattr(config, "scale", value)


SCALE = 1.0


def scale():
    return SCALE


def nothing(*_):
    pass


class Talking:
    verbose = True

    @property
    def log(self):
        return print if self.verbose else nothing

    def say(self):
        return self.log


@looks("equal")
def a_function_that_returns_print():
    talking = Talking()

    def look(z, x):
        talking.say()
        return z * scale()

    def change(value):
        globals()["SCALE"] = value

    change(1.0)
    return look, change


class Beta:
    """An iterator that a user's loop advances, and a program reads."""

    beta = 1.0

    def __iter__(self):
        return self

    def __next__(self):
        self.beta += 0.5
        return self.beta


SCHEDULE = Beta()


@looks("equal")
def an_attribute_of_an_iterator():
    SCHEDULE.beta = 1.0
    return lambda z, x: z * SCHEDULE.beta, lambda value: next(SCHEDULE)


@looks("equal")
def a_value_in_a_weak_dictionary():
    net = nn.Linear(1, 1)
    scales = weakref.WeakKeyDictionary({net: 1.0})

    def change(value):
        scales[net] = value

    return lambda z, x: z * scales[net], change


@member("equal")
def a_new_key_beside_a_static_one():
    table = {"calls": 0}

    def look(z, x):
        return z * table.get("new", 1.0)

    def change(value):
        table["new"] = value

    return programs(look, change=change, static=["calls"])


@looks("eager")
def a_file_read_by_numpy():
    path = Path(tempfile.mkdtemp()) / "scale.npy"

    def change(value):
        np.save(path, np.array([value]))

    change(1.0)
    return lambda z, x: z * float(np.load(path)[0]), change


@looks("eager")
def a_raw_file_read_by_numpy():
    path = Path(tempfile.mkdtemp()) / "scale.bin"

    def change(value):
        np.array([value]).tofile(path)

    change(1.0)
    return lambda z, x: z * float(np.fromfile(path)[0]), change

"""Programs that change state themselves, draw numbers in Python or read the outside world."""

import datetime
import itertools
import random
import secrets
import tempfile
import time
import uuid

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import nn

from . import Member, looks, member, programs


def still(look):
    return look, lambda v: None


@looks("eager")
def a_warm_up_counter():
    class Model:
        n = 0

        def look(self, z, x):
            self.n += 1
            return 2 * z if self.n > 5 else z

    return still(Model().look)


@looks("eager")
def every_tenth_call():
    count = itertools.count()
    return still(lambda z, x: 2 * z if next(count) % 10 == 9 else z)


@looks("eager")
def a_nonlocal_counter():
    n = 0

    def look(z, x):
        nonlocal n
        n += 1
        return z * (2.0 if n > 7 else 1.0)

    return still(look)


COUNT = 0


@looks("eager")
def a_global_counter():
    global COUNT
    COUNT = 0

    def look(z, x):
        global COUNT
        COUNT += 1
        return z * (2.0 if COUNT > 7 else 1.0)

    return still(look)


@looks("eager")
def a_class_counter():
    class Model:
        n = 0

        def look(self, z, x):
            Model.n += 1
            return z * (2.0 if Model.n > 7 else 1.0)

    return still(Model().look)


@looks("eager")
def a_slot_counter():
    class Counts:
        __slots__ = ("n",)

    counts = Counts()
    counts.n = 0

    def look(z, x):
        counts.n += 1
        return z * (2.0 if counts.n > 7 else 1.0)

    return still(look)


@looks("eager")
def a_counter_in_a_list():
    counts = [0]

    def look(z, x):
        counts[0] += 1
        return z * (2.0 if counts[0] > 7 else 1.0)

    return still(look)


@looks("eager")
def a_list_whose_length_decides():
    calls = []

    def look(z, x):
        calls.append(1)
        return z * (2.0 if len(calls) > 7 else 1.0)

    return still(look)


@looks("eager")
def a_dict_of_counts():
    counts = {}

    def look(z, x):
        counts["n"] = counts.get("n", 0) + 1
        return z * (2.0 if counts["n"] > 7 else 1.0)

    return still(look)


@looks("eager")
def a_set_that_grows():
    calls = set()

    def look(z, x):
        calls.add(len(calls))
        return z * (2.0 if len(calls) > 7 else 1.0)

    return still(look)


@looks("eager")
def a_queue_that_is_emptied():
    values = [1.0] * 6 + [2.0] * 10
    return still(lambda z, x: z * values.pop(0))


@looks("eager")
def an_attribute_of_a_function_that_counts():
    def look(z, x):
        look.n += 1
        return z * (2.0 if look.n > 7 else 1.0)

    look.n = 0
    return still(look)


@looks("eager")
def a_counter_under_setattr():
    class Counts:
        n1 = 0

    counts, one = Counts(), 1

    def look(z, x):
        setattr(counts, f"n{one}", getattr(counts, f"n{one}") + 1)
        return z * (2.0 if counts.n1 > 7 else 1.0)

    return still(look)


@looks("eager")
def a_counter_of_a_helper_object():
    class Counts:
        n = 0

        def advance(self):
            self.n += 1
            return self.n

    counts = Counts()
    return still(lambda z, x: z * (2.0 if counts.advance() > 7 else 1.0))


@looks("eager")
def a_moving_average_in_an_attribute():
    class Model:
        kept = torch.tensor(1.0)

        def look(self, z, x):
            self.kept = 0.9 * self.kept + 0.1 * x.mean()
            return z * self.kept

    return still(Model().look)


@member("equal")
def a_moving_average_in_a_buffer():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("kept", torch.tensor(1.0))

        def look(self, z, x):
            self.kept.mul_(0.9).add_(0.1 * x.mean())
            return z * self.kept

    model = Model()
    made = programs(model.look)
    made.result = lambda: model.kept.clone()
    return made


@member("eager")
def what_a_program_stores_for_its_user():
    class Model:
        last = None

        def look(self, z, x):
            self.last = z.detach()
            return z

    model, seen = Model(), []
    made = programs(model.look)
    made.after = lambda svi: seen.append(float(model.last))
    made.result = lambda: seen
    return made


@member("eager")
def a_history_that_a_program_keeps():
    history = []

    def look(z, x):
        history.append(z.detach())
        return z

    made = programs(look)
    made.result = lambda: [float(h) for h in history]
    return made


@member("eager")
def a_dict_that_a_program_fills():
    kept = {}

    def look(z, x):
        kept["z"] = z.detach()
        return z

    made = programs(look)
    made.result = lambda: float(kept["z"])
    return made


@member("never compiled")
def an_argument_that_a_program_fills():
    history = []

    def look(z, x, kept):
        kept.append(z.detach())
        return z

    made = programs(look, args=lambda step: (torch.ones(3), history))
    made.result = lambda: [float(h) for h in history]
    return made


@looks("equal")
def a_lazy_cache():
    class Model:
        cache = None

        def look(self, z, x):
            if self.cache is None:
                self.cache = 2.0
            return z * self.cache

    return still(Model().look)


@member("eager")
def a_buffer_that_is_replaced():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("kept", torch.tensor(1.0))

        def look(self, z, x):
            self.kept = self.kept * 0.9
            return z * self.kept

    return programs(Model().look)


RANDOM = {
    "a draw of random": ("refused", lambda z, x: z * random.random()),
    "word dropout": ("refused", lambda z, x: z * (0.0 if random.random() < 0.1 else 1.0)),
    "a rare branch": ("refused", lambda z, x: z * (2.0 if random.random() < 1e-9 else 1.0)),
    "random choice": ("refused", lambda z, x: z * random.choice([1.0, 1.0, 2.0])),
    "a uuid": ("refused", lambda z, x: z * (2.0 if uuid.uuid4().int < 9 else 1.0)),
    "a secret": ("refused", lambda z, x: z * (2.0 if secrets.randbelow(10**9) < 1 else 1.0)),
    "a draw of numpy": ("refused", lambda z, x: z * np.random.rand()),  # noqa: NPY002
    "word dropout with numpy": (
        "refused",
        lambda z, x: z * (0.0 if np.random.rand() < 0.1 else 1.0),  # noqa: NPY002
    ),
    "a permutation of numpy": (
        "refused",
        lambda z, x: z * (2.0 if np.random.permutation(50)[0] == 0 else 1.0),  # noqa: NPY002
    ),
    "a clock": ("eager", lambda z, x: z * (2.0 if time.time() < 0 else 1.0)),
    "a monotonic clock": ("eager", lambda z, x: z * (2.0 if time.monotonic() < 0 else 1.0)),
    "a date": ("eager", lambda z, x: z * (2.0 if datetime.datetime.now().year < 0 else 1.0)),
}
for _name, (_outcome, _look) in RANDOM.items():

    def _build(look=_look):
        return still(look)

    _build.__name__ = _name.replace(" ", "_")
    looks(_outcome)(_build)


@looks("refused")
def a_shuffled_list():
    order = list(range(3))

    def look(z, x):
        mine = list(order)
        random.shuffle(mine)
        return z * (2.0 if mine[0] == 0 else 1.0)

    return still(look)


@looks("refused")
def a_random_of_its_own():
    own = random.Random(0)
    return still(lambda z, x: z * (2.0 if own.random() < 0.1 else 1.0))


@looks("refused")
def a_default_rng_of_its_own():
    own = np.random.default_rng(0)
    return still(lambda z, x: z * (2.0 if own.random() < 0.1 else 1.0))


@looks("refused")
def a_rng_in_an_attribute():
    class Model:
        def __init__(self):
            self.rng = np.random.RandomState(0)

        def look(self, z, x):
            return z * (2.0 if self.rng.rand() < 0.1 else 1.0)

    return still(Model().look)


@looks("refused")
def numbers_drawn_in_a_helper():
    class Sampler:
        def __init__(self):
            self.rng = random.Random(1)

        def factor(self):
            return 2.0 if self.rng.gauss(0, 1) > 1.5 else 1.0

    sampler = Sampler()
    return still(lambda z, x: z * sampler.factor())


@looks("eager")
def a_file():
    with tempfile.NamedTemporaryFile("w", delete=False) as file:
        file.write("1.0")

    def look(z, x):
        with open(file.name) as f:
            return z * float(f.read())

    def change(v):
        with open(file.name, "w") as f:
            f.write(str(v))

    return look, change


def seeded(act):
    def model(x):
        act()
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0).expand([3]).to_event(1), obs=x)

    def guide(x):
        act()
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.5)), 1.0))

    return Member(model, guide)


@member("eager")
def common_random_numbers():
    return seeded(lambda: torch.manual_seed(3))


@member("eager")
def pyros_seed():
    return seeded(lambda: pyro.set_rng_seed(3))


@member("eager")
def antithetic_draws():
    def look(z, x):
        state = torch.get_rng_state()
        a = torch.randn(3)
        torch.set_rng_state(state)
        return z + a - torch.randn(3)

    return programs(look)


@member("eager")
def a_fork_of_torchs_generator():
    def look(z, x):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return z + torch.randn(3)

    return programs(look)


@member("eager")
def the_default_generator_by_name():
    def look(z, x):
        torch.default_generator.manual_seed(1)
        return z + torch.randn(3)

    return programs(look)


@member("eager")
def a_torch_generator_of_its_own():
    own = torch.Generator().manual_seed(0)
    return programs(lambda z, x: z + torch.randn(3, generator=own))


@member("eager")
def a_permutation_with_its_own_generator():
    own = torch.Generator().manual_seed(0)
    return programs(lambda z, x: z + x[torch.randperm(3, generator=own)])


@member("eager")
def the_initial_seed():
    return programs(lambda z, x: z * (torch.initial_seed() % 7))


@member("refused")
def a_new_parameter_at_each_call():
    def model(x):
        name = f"p{len(pyro.get_param_store())}"
        mean = pyro.param(name, torch.ones(()))
        pyro.sample("x", dist.Normal(mean, 1.0).expand([3]).to_event(1), obs=x)

    return Member(model, lambda x: None)

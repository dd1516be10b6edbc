"""What surrounds the programs: the parameter store, loggers, settings of torch and Python."""

import builtins
import cProfile
import dataclasses
import logging
import sys
import threading
import warnings

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import TraceMeanField_ELBO
from torch.distributions import register_kl
from torch.overrides import TorchFunctionMode

from . import Member, looks, member, normal_guide, programs


@member("equal")
def a_value_of_the_store_by_name():
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        mean = z * pyro.get_param_store()["extra"]
        pyro.sample("x", dist.Normal(mean, 1.0).expand([3]).to_event(1), obs=x)

    def change(value):
        pyro.get_param_store()["extra"] = torch.tensor(value)

    change(1.0)
    return Member(model, normal_guide, change=change)


@looks("equal")
def the_number_of_stored_parameters():
    def change(value):
        pyro.param(f"other {value}", torch.tensor(1.0))

    return lambda z, x: z * len(pyro.get_param_store()), change


@looks("equal")
def the_names_of_stored_parameters():
    def look(z, x):
        return z * (2.0 if "other" in pyro.get_param_store() else 1.0)

    return look, lambda v: pyro.param("other", torch.tensor(1.0))


@looks("equal")
def a_level_of_a_logger():
    logger = logging.getLogger("menagerie")
    logger.setLevel(logging.INFO)

    def look(z, x):
        return z * (2.0 if logger.isEnabledFor(logging.DEBUG) else 1.0)

    return look, lambda v: logger.setLevel(logging.DEBUG if v > 1 else logging.INFO)


@looks("equal")
def a_level_of_a_parent_of_a_logger():
    parent, logger = logging.getLogger("menagerie2"), logging.getLogger("menagerie2.child")
    parent.setLevel(logging.INFO)

    def look(z, x):
        return z * float(logger.getEffectiveLevel() / 10)

    return look, lambda v: parent.setLevel(logging.DEBUG if v > 1 else logging.INFO)


@looks("eager")
def the_recursion_limit():
    limit = sys.getrecursionlimit()

    def look(z, x):
        return z * (2.0 if sys.getrecursionlimit() > limit else 1.0)

    return look, lambda v: sys.setrecursionlimit(limit + int(v) - 1)


@looks("equal")
def deterministic_algorithms():
    torch.use_deterministic_algorithms(False)

    def look(z, x):
        return z * (2.0 if torch.are_deterministic_algorithms_enabled() else 1.0)

    return look, lambda v: torch.use_deterministic_algorithms(v > 1)


@looks("equal")
def the_precision_of_products():
    torch.set_float32_matmul_precision("highest")

    def look(z, x):
        return z * (1.0 if torch.get_float32_matmul_precision() == "highest" else 2.0)

    def change(v):
        torch.set_float32_matmul_precision("high" if v > 1 else "highest")

    return look, change


@looks("equal")
def a_flag_of_a_backend():
    torch.backends.cudnn.deterministic = False

    def look(z, x):
        return z * (2.0 if torch.backends.cudnn.deterministic else 1.0)

    return look, lambda v: setattr(torch.backends.cudnn, "deterministic", v > 1)


@looks("equal")
def the_default_dtype():
    torch.set_default_dtype(torch.float32)

    def look(z, x):
        return z * (2.0 if torch.get_default_dtype() is torch.float64 else 1.0)

    return look, lambda v: torch.set_default_dtype(torch.float64 if v > 1 else torch.float32)


@looks("equal")
def a_name_in_builtins():
    builtins.menagerie_factor = 1.0
    return (
        lambda z, x: z * menagerie_factor,  # noqa: F821
        lambda v: setattr(builtins, "menagerie_factor", v),
    )


@looks("eager")
def the_version_of_a_tensor():
    kept = torch.ones(())

    def look(z, x):
        return z * (2.0 if kept._version > 0 else 1.0)

    return look, lambda v: kept.add_(0.0)


@looks("equal")
def a_replaced_code():
    def factor():
        return 1.0

    def other():
        return 2.0

    codes = {1.0: factor.__code__, 2.0: other.__code__}
    return lambda z, x: z * factor(), lambda v: setattr(factor, "__code__", codes[v])


@looks("equal")
def a_tensor_is_resized():
    kept = torch.ones(2)

    def change(v):
        kept.resize_(int(4 * v)).fill_(1.0)

    return lambda z, x: z * kept.sum(), change


@looks("equal")
def an_argument_of_another_size():
    kept = torch.ones(2)
    return lambda z, x: z * len(kept), lambda v: setattr(kept, "data", torch.ones(int(4 * v)))


@looks("equal")
def whether_a_tensor_requires_gradients():
    kept = torch.ones(())

    def look(z, x):
        return z * (2.0 if kept.requires_grad else 1.0)

    return look, lambda v: kept.requires_grad_(v > 1)


@member("eager")
def a_gradient_that_is_read():
    kept = torch.ones((), requires_grad=True)

    def look(z, x):
        return z * kept * (1.0 if kept.grad is None else 2.0)

    return programs(look)


@looks("equal")
def an_attribute_by_a_name_in_a_string():
    class Config:
        factor = 1.0

    config = Config()
    return lambda z, x: z * getattr(config, "factor"), lambda v: setattr(config, "factor", v)  # noqa: B009


@looks("equal")
def an_attribute_that_may_be_missing():
    class Config:
        pass

    config, name = Config(), "fac"
    return (
        lambda z, x: z * (2.0 if hasattr(config, name + "tor") else 1.0),
        lambda v: setattr(config, "factor", v) if v > 1 else delattr(config, "factor"),
    )


@dataclasses.dataclass
class Config:
    a: float = 1.0


@looks("equal")
def two_dataclasses_that_are_compared():
    config, default = Config(), Config()

    def change(value):
        config.a = value

    return lambda z, x: z * (1.0 if config == default else 2.0), change


@looks("equal")
def the_sum_of_a_dataclass():
    config = Config()

    def change(value):
        config.a = value

    return lambda z, x: z * sum(dataclasses.astuple(config)), change


SETTING = 1.0


def set_setting(value):
    global SETTING
    SETTING = value


def setting():
    return SETTING


@looks("eager")
def a_thread_of_a_program():
    def look(z, x):
        found = []
        thread = threading.Thread(target=lambda: found.append(setting()))
        thread.start()
        thread.join()
        return z * found[0]

    set_setting(1.0)
    return look, set_setting


@looks("eager")
def a_profiler_in_a_program():
    def look(z, x):
        profile = cProfile.Profile()
        profile.enable()
        scale = setting()
        profile.disable()
        return z * scale

    set_setting(1.0)
    return look, set_setting


@looks("eager")
def a_name_in_evaluated_text():
    set_setting(1.0)
    return lambda z, x: z * eval("SETTING"), set_setting


@looks("eager")
def the_subclasses_of_a_class():
    class Root:  # of this run alone: a class of an earlier run may not be collected yet
        pass

    kept = []
    return (
        lambda z, x: z * (1.0 + len(Root.__subclasses__())),
        lambda value: kept.append(type("Sub", (Root,), {})),
    )


@looks("eager")
def an_attribute_of_a_scripted_module():
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.k = 1.0

        def forward(self, z):
            return z * self.k

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(Scaled())
    return lambda z, x: scripted(z), lambda value: setattr(scripted, "k", value)


class Shifted(dist.Normal):
    pass


@member("equal")
def a_divergence_that_is_registered_again():
    def change(value):
        @register_kl(Shifted, dist.Normal)
        def divergence(p, q):
            return value * (p.loc - q.loc) ** 2

    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0).expand([3]).to_event(1), obs=x)

    def guide(x):
        pyro.sample("z", Shifted(pyro.param("loc", torch.tensor(0.5)), 1.0))

    change(1.0)
    return Member(model, guide, change=change, elbo=TraceMeanField_ELBO())


class Doubling(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return 2 * result if func is torch.tanh else result


def within(context):
    """A member around whose steps 5 to 7 a context of torch is active."""

    def make():
        inside = []

        def change(value):
            if value > 1:
                inside.append(context())
                inside[-1].__enter__()
            else:
                inside.pop().__exit__(None, None, None)

        return programs(lambda z, x: torch.tanh(z * x.mean()).exp() * z, change=change)

    make.__name__ = context.__name__
    return make


def _a_mode_of_torch_around_a_step():
    return Doubling()


def _saved_tensors_that_are_rounded():
    return torch.autograd.graph.saved_tensors_hooks(lambda t: t.round(decimals=1), lambda t: t)


def _the_detection_of_anomalies():
    return torch.autograd.detect_anomaly(check_nan=True)


for context in (
    _a_mode_of_torch_around_a_step,
    _saved_tensors_that_are_rounded,
    _the_detection_of_anomalies,
):
    member("eager")(within(context))

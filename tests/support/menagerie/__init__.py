"""Small programs that are trained with and without compiling, while their state changes.

A member is a function that builds fresh programs. It is registered with what must happen:
``"equal"`` (compiled, and equal to eager SVI), ``"eager"`` (one warning that says so, and equal) or
``"refused"`` (``CompileError``). A result that is silently different is never right.
"""

import random
import sys
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO

from pyro_vae.compiling import CompiledELBO, CompileError

STEPS = 12
CHANGES = {5: 2.0, 8: 1.0}
"""The value that the changing state gets before these steps; 8 undoes 5 between two checks."""


@dataclass
class Member:
    """Programs and what happens around their steps.

    Attributes:
        model, guide, elbo: as for ``SVI``.
        args: from the number of a step to the arguments of the programs.
        change: is given a value before the steps in ``CHANGES``.
        optim: makes the optimizer.
        result: what is compared besides losses and parameters, such as what a program stores.
    """

    model: Any
    guide: Any
    args: Any = field(default=lambda step: (torch.linspace(-1.0, 1.0, 3) + 0.1 * step,))
    change: Any = field(default=lambda value: None)
    elbo: Any = field(default_factory=Trace_ELBO)
    optim: Any = field(default=lambda: pyro.optim.Adam({"lr": 0.05}))
    result: Any = field(default=lambda: None)
    static: Any = ()
    after: Any = field(default=lambda svi: None)  # after each step


MEMBERS: dict[str, tuple[str, Any]] = {}


def member(outcome):
    """Register a function that builds a :class:`Member`."""

    def register(make):
        name = make.__name__.strip("_").replace("_", " ")
        assert name not in MEMBERS, name
        MEMBERS[name] = (outcome, make)
        return make

    return register


def normal_guide(x, *_, **__):
    loc = pyro.param("loc", torch.tensor(0.5))
    pyro.sample("z", dist.Normal(loc, 1.0))


def programs(look, **options):
    """A member whose mean of x is ``look(z, x)``."""

    def model(x, *args, **kwargs):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        mean = look(z, x, *args, **kwargs)
        pyro.sample("x", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=x)

    return Member(model, normal_guide, **options)


def looks(outcome):
    """Register a function that returns ``(look, change)``, see :func:`programs`."""

    def register(make):
        def build():
            look, change = make()
            return programs(look, change=change)

        build.__name__ = make.__name__
        member(outcome)(build)
        return make

    return register


def train(make, compiled, evaluates=False):
    """Losses, parameters, result and error of a training, and how it went.

    With ``evaluates``, the loss is evaluated after each step, too.
    """
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    made = make()
    elbo = CompiledELBO(made.elbo, "eager", static=made.static) if compiled else made.elbo
    svi = SVI(made.model, made.guide, made.optim(), loss=elbo)
    losses, how, result, raised = [], "equal", None, ""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            for step in range(STEPS):
                if step in CHANGES:
                    made.change(CHANGES[step])
                losses.append(svi.step(*made.args(step)))
                made.after(svi)
                if evaluates:
                    losses.append(svi.evaluate_loss(*made.args(step)))
        except CompileError as error:
            how = "refused"
            print(error)
        except Exception as error:
            raised = f"{type(error).__name__}: {str(error)[:60]}"
    result = made.result()
    eagerly = [str(w.message) for w in said if "runs eagerly" in str(w.message)]
    if how == "equal" and eagerly:
        how = "eager"
        print(*eagerly, sep="\n", file=sys.stderr)
        assert len(eagerly) == 1
    store = pyro.get_param_store()
    params = {name: store[name].detach().clone() for name in store}
    if compiled and how == "equal" and not getattr(elbo, "graphs", None):
        how = "never compiled"
    return losses, params, result, raised, how

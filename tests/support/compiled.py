"""Calls that compare a compiled ELBO with the eager one, and programs for them."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn

from pyro_vae.compiling import CompiledELBO
from pyro_vae.modules import buffers_restored


def take(elbo, model, guide, args, seed=0):
    """The loss and the gradients by name of one call, under a seed."""
    pyro.set_rng_seed(seed)
    with poutine.trace(param_only=True) as sites:
        loss = elbo.loss_and_grads(model, guide, *args)
    params = {n: s["value"].unconstrained() for n, s in sites.trace.nodes.items()}
    grads = {n: p.grad.clone() for n, p in params.items() if p.grad is not None}
    for p in params.values():
        p.grad = None
    return loss, grads


def agree(elbo, compiled, model, guide, args, seed=0, rtol=1e-5, modules=()):
    """The gradients, the same ones from both ELBOs; compared on the scale of the largest. Both see
    the same buffers of ``modules``, such as the moments of batch normalization."""
    with buffers_restored(nn.ModuleList(modules)):
        loss, grads = take(elbo, model, guide, args, seed)
    loss_c, grads_c = take(compiled, model, guide, args, seed)
    assert loss_c == pytest.approx(loss, rel=rtol)
    assert grads.keys() == grads_c.keys()
    scale = max(g.abs().max() for g in grads.values())
    for name, grad in grads.items():
        assert (grads_c[name] - grad).abs().max() <= rtol * scale, name
    return grads_c


def compiled_after(model, guide, *args, elbo=None, backend="eager"):
    """A compiled ELBO that has met these arguments twice: it holds a graph for them."""
    compiled = CompiledELBO(elbo or Trace_ELBO(), backend)
    for _ in range(2):
        take(compiled, model, guide, args)
    return compiled


def normal_guide(x, *_):
    loc = pyro.param("loc", torch.tensor(0.5))
    pyro.sample("z", dist.Normal(loc, 1.0))


def observe(mean, x):
    pyro.sample("x", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=x)


def refused(look):
    """A model whose mean is ``look(z, x)``, and its guide."""

    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        observe(look(z, x), x)

    return model, normal_guide


GLOBAL = 1.0


def set_global(value):
    global GLOBAL
    GLOBAL = value


class Stateful(nn.Module):
    """A model that reads state of every kind that a watch sees."""

    def __init__(self):
        super().__init__()
        self.number, self.listed, self.mapped = 1.0, [1.0], {"a": [1.0]}
        self.rebound = torch.tensor(1.0)
        self.weight = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("buffer", torch.tensor(1.0))
        self.config = type("Config", (), {})()
        self.config.deep = 1.0
        closed = 1.0

        def closure():
            return closed

        def close(value):
            nonlocal closed
            closed = value

        self.closure, self.close = closure, close

    def forward(self, x):
        pyro.module("stateful", self)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        factor = self.number * self.listed[0] * self.mapped["a"][0] * self.config.deep * GLOBAL
        factor = factor * self.closure() * self.rebound * self.weight * self.buffer
        observe(z * factor * (1.0 if self.training else 2.0), x)

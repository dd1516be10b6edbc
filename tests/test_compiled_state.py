"""Changed state, arguments and parameters reach a compiled step."""

import gc
import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from support.compiled import (
    Stateful,
    agree,
    compiled_after,
    normal_guide,
    observe,
    refused,
    set_global,
    take,
)
from support.zoo import ZOO, PlainVAE, images
from torch import nn

from pyro_vae import VAE
from pyro_vae.compiling import CompiledELBO

pytestmark = pytest.mark.filterwarnings("error:this step runs eagerly")

CHANGES = {
    "a number": lambda m: setattr(m, "number", 3.0),
    "a list": lambda m: m.listed.__setitem__(0, 3.0),
    "a list in a dict": lambda m: m.mapped["a"].__setitem__(0, 3.0),
    "an object's attribute": lambda m: setattr(m.config, "deep", 3.0),
    "a closure": lambda m: m.close(3.0),
    "a global": lambda m: set_global(3.0),
    "a rebound tensor": lambda m: setattr(m, "rebound", torch.tensor(3.0)),
    "a tensor in place": lambda m: m.rebound.fill_(3.0),
    "a buffer": lambda m: m.buffer.fill_(3.0),
    "a rebound buffer": lambda m: setattr(m, "buffer", torch.tensor(3.0)),
    "a parameter's value": lambda m: m.weight.data.fill_(3.0),
    "a parameter's data": lambda m: setattr(m.weight, "data", torch.tensor(3.0)),
    "loaded weights": lambda m: m.load_state_dict(
        {"weight": torch.tensor(3.0), "buffer": m.buffer}
    ),
    "eval": lambda m: m.eval(),
    "a frozen parameter": lambda m: m.weight.requires_grad_(False),
}


@pytest.mark.filterwarnings("ignore:weight was not registered")
@pytest.mark.parametrize("change", CHANGES)
def test_changed_state_is_noticed_at_once(change):
    model, x = Stateful(), torch.randn(3)
    compiled = compiled_after(model, normal_guide, x)
    before, _ = take(compiled, model, normal_guide, (x,))
    try:
        CHANGES[change](model)
        for seed in (0, 1, 2):
            agree(Trace_ELBO(), compiled, model, normal_guide, (x,), seed)
        after, _ = take(compiled, model, normal_guide, (x,))
        assert (after == before) == (change == "a frozen parameter")
    finally:
        set_global(1.0)


def test_a_float_argument_is_an_input():
    net, x = PlainVAE(), images()
    compiled = compiled_after(net.model, net.guide, x, 1.0)
    for beta in (0.1, 0.3, 7.0):
        agree(Trace_ELBO(), compiled, net.model, net.guide, (x, beta))
    assert len(compiled.graphs) == 1


def test_an_integer_argument_is_part_of_what_is_compiled():
    def model(x, n):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        observe(sum(z**i for i in range(n)), x)

    compiled = CompiledELBO(Trace_ELBO(), "eager")
    x = torch.randn(3)
    for n in (1, 2, 3) * 3:
        agree(Trace_ELBO(), compiled, model, normal_guide, (x, n))
    assert len(compiled.graphs) == 3


def test_a_replaced_parameter_is_noticed():
    model, x = Stateful(), torch.randn(3)
    compiled = compiled_after(model, normal_guide, x)
    model.weight = nn.Parameter(torch.tensor(3.0))
    pyro.get_param_store()["stateful$$$weight"] = model.weight
    for seed in range(3):
        agree(Trace_ELBO(), compiled, model, normal_guide, (x,), seed)
    assert len(compiled.graphs) == 1  # the same graph of another tensor


def test_cleared_parameter_store():
    net, x = PlainVAE(), images()
    compiled = compiled_after(net.model, net.guide, x)
    pyro.clear_param_store()
    for seed in range(3):
        agree(Trace_ELBO(), compiled, net.model, net.guide, (x,), seed)
        assert len(pyro.get_param_store()) == 8
    assert len(compiled.graphs) == 1


def test_parameters_that_only_the_store_holds():
    """After clearing and loading the store, the compiled step trains the new tensors."""
    model, guide, elbo, args = ZOO["mask"]()
    compiled = compiled_after(model, guide, *args, elbo=elbo)
    state = pyro.get_param_store().get_state()
    pyro.clear_param_store()
    pyro.get_param_store().set_state(state)
    for seed in range(3):
        agree(elbo, compiled, model, guide, args, seed)
    pyro.clear_param_store()
    for seed in range(3):
        agree(elbo, compiled, model, guide, args, seed)
    assert len(compiled.graphs) == 1


def test_train_and_eval_take_turns_without_new_graphs():
    model, guide, elbo, args = ZOO["vae, dropout"]()
    net = model.__self__
    compiled = CompiledELBO(elbo, "eager")
    for mode in (True, True, False, False, True, False, True):
        net.train(mode)
        agree(elbo, compiled, model, guide, args)
    assert len(compiled.graphs) == 2


def test_batch_sizes_are_compiled_once_each():
    net = PlainVAE()
    compiled = CompiledELBO(Trace_ELBO(), "eager")
    for n in (5, 5, 3, 5, 3, 3, 5):
        agree(Trace_ELBO(), compiled, net.model, net.guide, (images(n),))
    assert len(compiled.graphs) == 2


def test_models_made_and_dropped_do_not_inherit_a_graph():
    """Python may give a new object the id of a deleted one; a step keeps its model alive."""
    compiled = CompiledELBO(Trace_ELBO(), "eager")
    x = torch.randn(3)
    for factor in (1.0, 2.0, 3.0):
        model, guide = refused(lambda z, x, factor=factor: z * factor)
        for seed in range(3):
            agree(Trace_ELBO(), compiled, model, guide, (x,), seed)
        del model, guide
    assert len(compiled.graphs) == 3


def test_autocast_is_part_of_what_is_compiled():
    net, x = PlainVAE(), images()
    compiled = CompiledELBO(Trace_ELBO(), "eager")
    full = [agree(Trace_ELBO(), compiled, net.model, net.guide, (x,)) for _ in range(3)][-1]
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(3):
            half = agree(Trace_ELBO(), compiled, net.model, net.guide, (x,), rtol=2e-2)
    assert len(compiled.graphs) == 2
    assert any(not torch.equal(full[name], half[name]) for name in full)
    agree(Trace_ELBO(), compiled, net.model, net.guide, (x,))


def test_tracing_sets_everything_back():
    model, guide, elbo, args = ZOO["vae, BatchNorm"]()
    net = model.__self__
    compiled = CompiledELBO(elbo, "eager")
    take(compiled, model, guide, args)

    def state():
        buffers = {k: v.clone() for k, v in net.named_buffers()}
        return buffers, random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002

    step = next(iter(compiled.steps.values()))
    before = state()
    names = dict(pyro.get_param_store().named_parameters())
    bound = step.find(args)  # traces and does not run
    assert bound is not None
    torch.testing.assert_close(state(), before)
    after = dict(pyro.get_param_store().named_parameters())
    assert names.keys() == after.keys()
    assert all(names[name] is after[name] for name in names)
    assert all(p.grad is None for p in net.parameters())
    bound(args)
    assert net.encoder[1].num_batches_tracked == before[0]["encoder.1.num_batches_tracked"] + 1


def test_garbage_makes_no_step_eager():
    """The names of modules live as long as these; another VAE that goes changes nothing."""
    other, vae = (VAE((1, 4, 4), 2, hidden=(4,)) for _ in range(2))
    x = torch.zeros(3, 1, 4, 4)
    for _ in range(2):
        Trace_ELBO().loss_and_grads(other.model, other.guide, x)
    compiled = compiled_after(vae.model, vae.guide, x)
    take(compiled, vae.model, vae.guide, (x,))  # the first call made the names in Pyro's store
    (bound,) = (bound for step in compiled.steps.values() for bound in step.bounds)
    del other
    gc.collect()
    assert bound.holds()

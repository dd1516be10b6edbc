"""Compiled steps against eager ones: equal gradients at equal noise, equal training."""

import copy
import pickle
import threading

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, RenyiELBO, Trace_ELBO
from support.compiled import agree, compiled_after, refused, take
from support.zoo import SIZE, ZOO, PlainVAE, images
from torch import nn

from pyro_vae import VAE
from pyro_vae.compiling import CompiledELBO, CompiledSVI, CompileError, FusedAdam

pytestmark = pytest.mark.filterwarnings("error:this step runs eagerly")


@pytest.mark.parametrize("name", ZOO)
def test_gradients_equal_eager_ones(name):
    model, guide, elbo, args = ZOO[name]()
    compiled = CompiledELBO(elbo, "eager")
    take(compiled, model, guide, args)
    for seed in range(3):
        grads = agree(elbo, compiled, model, guide, args, seed)
    assert grads
    assert len(compiled.graphs) == 1


@pytest.mark.parametrize("name", ["vae", "vae, BatchNorm", "mixture, enumerated"])
def test_inductor_gives_the_same(name):
    model, guide, elbo, args = ZOO[name]()
    compiled = CompiledELBO(elbo, "inductor")
    take(compiled, model, guide, args)
    for seed in range(2):
        agree(elbo, compiled, model, guide, args, seed, rtol=5e-5)
    assert len(compiled.graphs) == 1


def test_float64_agrees_to_the_last_digits():
    torch.set_default_dtype(torch.float64)
    try:
        model, guide, elbo, args = ZOO["vae"]()
        compiled = compiled_after(model, guide, args[0].double(), elbo=elbo)
        agree(elbo, compiled, model, guide, (args[0].double(),), rtol=1e-13)
        assert compiled.graphs
    finally:
        torch.set_default_dtype(torch.float32)


def test_torch_interface_gives_each_gradient_once():
    net, x = PlainVAE(), images()
    compiled = CompiledELBO(Trace_ELBO(), "eager")
    for _ in range(3):
        grads = []
        for elbo in (Trace_ELBO(), compiled):
            net.zero_grad()
            pyro.set_rng_seed(1)
            (2 * elbo(net.model, net.guide)(x)).backward()
            grads.append([p.grad.clone() for p in net.parameters()])
        torch.testing.assert_close(*grads)
    assert len(compiled.graphs) == 1


def test_gradients_flow_on_to_what_made_an_argument():
    net, front, x = PlainVAE(), nn.Linear(SIZE, SIZE), images()
    compiled = CompiledELBO(Trace_ELBO(), "eager")
    grads = []
    for elbo in (compiled, compiled, compiled, Trace_ELBO()):
        front.zero_grad()
        pyro.set_rng_seed(0)
        with pyro.validation_enabled(False):  # images between 0 and 1
            elbo.loss_and_grads(net.model, net.guide, front(x).sigmoid())
        grads.append(front.weight.grad.clone())
    torch.testing.assert_close(grads[2], grads[3])
    assert len(compiled.graphs) == 1


def test_gradients_add_up():
    net, x = PlainVAE(), images()
    compiled = compiled_after(net.model, net.guide, x)
    (once, twice) = [], []
    for n, kept in ((1, once), (2, twice)):
        net.zero_grad()
        for _ in range(n):
            pyro.set_rng_seed(0)
            compiled.loss_and_grads(net.model, net.guide, x)
        kept += [n * p.grad if n == 1 else p.grad for p in net.parameters()]
    torch.testing.assert_close([2 * g for g in once], twice)


def test_parameters_with_equal_gradients_do_not_share_memory():
    def model(x):
        a, b = (pyro.param(n, torch.ones(3)) for n in "ab")
        pyro.sample("x", dist.Normal(a + b, 1.0).to_event(1), obs=x)

    def guide(x):
        pass

    compiled = compiled_after(model, guide, torch.randn(3))
    _, grads = take(compiled, model, guide, (torch.zeros(3),))
    assert grads["a"].data_ptr() != grads["b"].data_ptr()
    torch.testing.assert_close(grads["a"], torch.full((3,), 2.0))
    torch.testing.assert_close(grads["b"], torch.full((3,), 2.0))


def train(way, steps=25):
    """Losses and parameters after some steps of the same training, each ``way`` to take a step."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    net = PlainVAE()
    data = torch.rand(40, SIZE)
    batches = torch.stack([torch.randperm(40)[:8] for _ in range(steps)])
    optim = FusedAdam({"lr": 1e-2})
    elbo = CompiledELBO(Trace_ELBO(), "eager")
    if way == "epoch, torch optimizer":
        optim = torch.optim.Adam(net.parameters(), lr=1e-2)
    if way.startswith("epoch"):
        svi = CompiledSVI(net.model, net.guide, optim, Trace_ELBO(), torch.bernoulli, "eager")
        losses = torch.cat([svi.epoch(data, rows) for rows in batches.split(10)]).tolist()
    else:
        if way == "Pyro":
            optim, elbo = pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()
        svi = SVI(net.model, net.guide, optim, loss=elbo)
        if way == "CompiledSVI.step":
            svi = CompiledSVI(net.model, net.guide, optim, Trace_ELBO(), backend="eager")
        losses = [svi.step(torch.bernoulli(data[rows])) for rows in batches]
    return losses, [p.detach() for p in net.parameters()]


@pytest.mark.parametrize(
    "way", ["SVI", "CompiledSVI.step", "epoch, FusedAdam", "epoch, torch optimizer"]
)
def test_25_steps_end_in_equal_parameters(way):
    losses, params = train("Pyro")
    losses_c, params_c = train(way)
    torch.testing.assert_close(losses_c, losses, rtol=1e-5, atol=0)
    torch.testing.assert_close(params_c, params)


def test_noise_is_fresh_and_has_the_right_mean():
    """The loss is a function of the noise alone: its mean and correlation over 4,000 calls."""

    def model():
        pyro.sample("z", dist.Normal(0.0, 1.0))

    def guide():
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(1.0)), 1.0))

    compiled = compiled_after(model, guide)
    pyro.set_rng_seed(0)
    losses = torch.tensor([compiled.loss_and_grads(model, guide) for _ in range(4000)])
    # loss = (z² - (z-1)²)/2 = z - 1/2 with z ~ N(1, 1)
    assert losses.mean() == pytest.approx(0.5, abs=4 / 4000**0.5)
    assert losses.std() == pytest.approx(1.0, abs=0.05)
    centred = losses - losses.mean()
    for lag in (1, 2, 7):
        correlation = (centred[lag:] * centred[:-lag]).mean() / losses.var()
        assert abs(correlation) < 4 / 4000**0.5
    pyro.set_rng_seed(0)
    again = [compiled.loss_and_grads(model, guide) for _ in range(10)]
    assert again == losses[:10].tolist()


def test_two_models_share_no_weights():
    """Two models of one class share a graph; each has its own tensors."""
    nets = PlainVAE(), PlainVAE()
    compiled = CompiledELBO(Trace_ELBO(), "eager")
    x = images()
    for i in range(3):
        for net in nets:
            pyro.clear_param_store()
            net.zero_grad()
            pyro.set_rng_seed(i)
            compiled.loss_and_grads(net.model, net.guide, x)
            own = [p.grad.clone() for p in net.parameters()]
            net.zero_grad()
            pyro.set_rng_seed(i)
            Trace_ELBO().loss_and_grads(net.model, net.guide, x)
            torch.testing.assert_close(own, [p.grad for p in net.parameters()])
    assert len(compiled.steps) == 2


def test_compiled_steps_run_in_threads():
    """All threads share Pyro's handler stack; a compiled step does not use it."""
    compiled = CompiledELBO(Trace_ELBO(), "eager")
    models = [refused(lambda z, x, i=i: 0 * z + i) for i in range(3)]
    x = torch.zeros(3)
    for _ in range(2):
        expected = [take(compiled, *m, (x,))[0] for m in models]
    found = {}

    def work(i):
        found[i] = [compiled.loss_and_grads(*models[i], x) for _ in range(30)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i in range(3):  # the model's part of the loss is Σ i²/2; the guide's is noise
        assert np.median(found[i]) == pytest.approx(expected[i], abs=2.0)


def test_a_copy_of_a_used_elbo_begins_without_graphs():
    model, guide = refused(lambda z, x: z)
    compiled = compiled_after(model, guide, torch.ones(3), elbo=Trace_ELBO(num_particles=2))
    for again in (copy.deepcopy(compiled), pickle.loads(pickle.dumps(compiled))):
        assert (again.graphs, again.steps) == ({}, {})
        assert (again.num_particles, again.backend) == (2, "eager")
        agree(compiled.elbo, again, model, guide, (torch.ones(3),))
    assert compiled.graphs


def test_a_loss_is_differentiated_once():
    """The gradients of a graph are numbers, so a gradient of them would lack terms."""
    elbo = CompiledELBO(Trace_ELBO(), "eager")
    vae = VAE((1, 4, 4), 2, hidden=(3,))
    x = torch.rand(5, 1, 4, 4).round()
    for _ in range(3):
        loss = elbo.differentiable_loss(vae.model, vae.guide, x)
    assert elbo.graphs
    with pytest.raises(CompileError, match="cannot be differentiated again"):
        torch.autograd.grad(loss, [*vae.parameters()], create_graph=True)


def test_an_elbo_without_a_differentiable_loss_has_none():
    elbo = CompiledELBO(RenyiELBO(num_particles=2), "eager")
    vae = VAE((1, 4, 4), 2, hidden=(3,))
    x = torch.rand(5, 1, 4, 4).round()
    for _ in range(3):
        elbo.loss_and_grads(vae.model, vae.guide, x)
    with pytest.raises(AttributeError, match="'RenyiELBO' object has no attribute"):
        elbo.differentiable_loss(vae.model, vae.guide, x)

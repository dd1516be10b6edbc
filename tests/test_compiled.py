"""Compiled steps against Pyro's own: equal gradients at equal noise, and nothing frozen."""

import random
import re
import threading
import warnings
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, JitTrace_ELBO, Trace_ELBO, TraceGraph_ELBO
from support.zoo import SIZE, ZOO, PlainVAE, images
from torch import nn

from pyro_vae.compiled import CompiledELBO, CompiledSVI, CompileError
from pyro_vae.errors import InputError
from pyro_vae.optim import FusedAdam


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


def agree(elbo, compiled, model, guide, args, seed=0, rtol=1e-5):
    """The gradients, the same ones from both ELBOs; compared on the scale of the largest."""
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


def calls(n, elbo, model, guide, x):
    for _ in range(n):
        elbo.loss_and_grads(model, guide, x)


def line_of(fragment):
    """This file and the line in it that holds a piece of code, as an error names it."""
    lines = Path(__file__).read_text().splitlines()
    (line,) = [i for i, text in enumerate(lines, 1) if f"# {fragment}" in text]
    return re.escape(f"{__file__}:{line} ")


def normal_guide(x, *_):
    loc = pyro.param("loc", torch.tensor(0.5))
    pyro.sample("z", dist.Normal(loc, 1.0))


def observe(mean, x):
    pyro.sample("x", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=x)


# Same gradients


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


def test_parameters_with_one_gradient_have_a_memory_each():
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


# Same training


def train(kind, steps=25):
    """Losses and parameters after some steps of the same training, by one way or another."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    net = PlainVAE()
    data = torch.rand(40, SIZE)
    batches = torch.stack([torch.randperm(40)[:8] for _ in range(steps)])
    optim = FusedAdam({"lr": 1e-2})
    elbo = CompiledELBO(Trace_ELBO(), "eager")
    if kind == "epoch, torch optimizer":
        optim = torch.optim.Adam(net.parameters(), lr=1e-2)
    if kind.startswith("epoch"):
        svi = CompiledSVI(net.model, net.guide, optim, Trace_ELBO(), torch.bernoulli, "eager")
        losses = torch.cat([svi.epoch(data, rows) for rows in batches.split(10)]).tolist()
    else:
        if kind == "Pyro":
            optim, elbo = pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()
        svi = SVI(net.model, net.guide, optim, loss=elbo)
        if kind == "CompiledSVI.step":
            svi = CompiledSVI(net.model, net.guide, optim, Trace_ELBO(), backend="eager")
        losses = [svi.step(torch.bernoulli(data[rows])) for rows in batches]
    return losses, [p.detach() for p in net.parameters()]


@pytest.mark.parametrize(
    "kind", ["SVI", "CompiledSVI.step", "epoch, FusedAdam", "epoch, torch optimizer"]
)
def test_25_steps_end_in_equal_parameters(kind):
    losses, params = train("Pyro")
    losses_c, params_c = train(kind)
    torch.testing.assert_close(losses_c, losses, rtol=1e-5, atol=0)
    torch.testing.assert_close(params_c, params)


def test_noise_is_fresh_and_has_the_right_mean():
    """The loss of a model whose noise is all there is: mean and correlation over 4,000 calls."""

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


# What a graph would freeze


def refused(look):
    """A model whose mean is ``look(z, x)``, and its guide."""

    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        observe(look(z, x), x)

    return model, normal_guide


def branch(z, x):
    return z if x.sum() > 0 else -z  # branch


def to_numpy(z, x):
    return z * x.numpy().sum()  # numpy


weights = torch.tensor([2.0, 3.0])


def to_list(z, x):
    return z * weights.tolist()[0]  # tolist


def to_float(z, x):
    return z * float(x[0])  # float


def to_index(z, x):
    return z * [1.0, 2.0][x.argmax() % 2]  # index


def compare(z, x):
    return z * (2.0 if torch.equal(x, x.abs()) else 1.0)  # equal


def contain(z, x):
    return z * (2.0 if 0.0 in x else 1.0)  # contains


def select(z, x):
    return z * x[x > 0].mean()  # shape


def assign(z, x):
    x.data = x.data + 1  # data
    return z


def draw(z, x):
    return z * torch.empty(3).random_(0, 2).sum()  # random_


@pytest.mark.parametrize(
    ("look", "fragment", "words"),
    [
        (branch, "branch", "a branch on a tensor"),
        (to_numpy, "numpy", "tensor.numpy()"),
        (to_list, "tolist", "tensor.tolist()"),
        (to_float, "float", "float(tensor)"),
        (to_index, "index", "as a Python index"),
        (compare, "equal", "torch.equal"),
        (contain, "contains", "`in` on a tensor"),
        (select, "shape", "a shape that depends on values"),
        (assign, "data", "an assignment to tensor.data"),
        (draw, "random_", "tensor.random_(low, high)"),
    ],
)
def test_looking_at_a_value_is_refused_with_its_line(look, fragment, words):
    model, guide = refused(look)
    compiled = CompiledELBO(Trace_ELBO(), "eager")
    x = torch.ones(3)
    compiled.loss_and_grads(model, guide, x)
    with pytest.raises(CompileError, match=line_of(fragment) + ".*" + re.escape(words)):
        compiled.loss_and_grads(model, guide, x)


def python_random(z, x):
    return z * random.random()  # python


def numpy_random(z, x):
    return z * np.random.rand()  # NumPy  # noqa: NPY002


def numpy_array(z, x):
    return z + torch.tensor(np.random.rand(1))  # array  # noqa: NPY002


counter = [0]


def count(z, x):
    counter[0] += 1
    return z * counter[0]  # counter


class Keeps:
    kept = torch.tensor(1.0)

    def __call__(self, z, x):
        self.kept = 0.9 * self.kept + 0.1 * x.mean()  # moving average
        return z * self.kept


@pytest.mark.parametrize(
    ("look", "fragment"),
    [
        (python_random, "python"),
        (numpy_random, "NumPy"),
        (numpy_array, "array"),
        (count, "counter"),
        (Keeps(), "moving average"),
    ],
)
def test_what_each_call_changes_is_refused_with_its_line(look, fragment):
    model, guide = refused(look)
    compiled = CompiledELBO(Trace_ELBO(), "eager")
    x = torch.ones(3)
    compiled.loss_and_grads(model, guide, x)
    with pytest.raises(CompileError, match=line_of(fragment) + ".*is not the same at two calls"):
        calls(3, compiled, model, guide, x)


def test_a_parameter_of_a_new_name_at_each_call_is_refused():
    names = iter("abcdefgh")

    def model(x):
        observe(pyro.param(next(names), torch.tensor(0.0)), x)

    with pytest.raises(CompileError, match="is created anew at each call"):
        compiled_after(model, lambda x: None, torch.ones(3))


@pytest.mark.parametrize("look", [lambda z, x: z * x.mean().item(), lambda z, x: x.tolist()[0]])
def test_item_stays_a_tensor(look):
    model, guide = refused(look)
    compiled = compiled_after(model, guide, torch.ones(3))
    for seed in range(3):
        agree(Trace_ELBO(), compiled, model, guide, (torch.randn(3),), seed)
    assert len(compiled.graphs) == 1


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


GLOBAL = 1.0


def set_global(value):
    global GLOBAL
    GLOBAL = value


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
def test_changed_state_is_seen_at_once(change):
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


def test_a_new_parameter_in_an_old_ones_place_is_seen():
    model, x = Stateful(), torch.randn(3)
    compiled = compiled_after(model, normal_guide, x)
    model.weight = nn.Parameter(torch.tensor(3.0))
    pyro.get_param_store()["stateful$$$weight"] = model.weight
    for seed in range(3):
        agree(Trace_ELBO(), compiled, model, normal_guide, (x,), seed)
    assert len(compiled.graphs) == 1  # the same graph of another tensor


def test_state_out_of_sight_is_found_when_looked_at():
    """A NumPy array's inside is not watched: the look at call 4, 16, 64, … finds it."""
    hidden = np.ones(1)
    model, guide = refused(lambda z, x: z * hidden.item())  # hidden
    compiled = compiled_after(model, guide, torch.ones(3))
    hidden[0] = 2.0
    with pytest.raises(CompileError, match=line_of("hidden") + "has changed since the step was"):
        calls(2, compiled, model, guide, torch.ones(3))


def test_cleared_parameter_store():
    net, x = PlainVAE(), images()
    compiled = compiled_after(net.model, net.guide, x)
    pyro.clear_param_store()
    for seed in range(3):
        agree(Trace_ELBO(), compiled, net.model, net.guide, (x,), seed)
        assert len(pyro.get_param_store()) == 8
    assert len(compiled.graphs) == 1


def test_parameters_that_only_the_store_holds():
    """Cleared and loaded: the compiled step trains the store's own new tensors."""
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


def test_two_models_share_no_weights():
    """Two models of one class have one graph between them, and each its own tensors."""
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


def test_models_made_and_dropped_do_not_inherit_a_graph():
    """Python gives a new object an old one's id; a step keeps its model, so that it cannot."""
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


def test_tracing_leaves_no_trace():
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


def test_compiled_steps_run_in_threads():
    """Pyro's own handlers are one stack for all threads; a compiled step needs none of them."""
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


# What runs eagerly, and says so


def sequential(x):
    for i in pyro.plate("data", len(x), subsample_size=2):
        pyro.sample(f"x_{i}", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0), obs=x[i])


def nothing(x):
    return None


@pytest.mark.parametrize(
    ("model", "guide", "elbo", "words"),
    [
        (*refused(lambda z, x: z), TraceGraph_ELBO(), "TraceGraph_ELBO keeps running averages"),
        (sequential, nothing, Trace_ELBO(), "plate 'data' takes a random subsample"),
        (lambda x: observe(0.0, x), nothing, Trace_ELBO(), "no parameter to train"),
    ],
)
def test_eager_reasons_are_said_once(model, guide, elbo, words):
    compiled = CompiledELBO(elbo, "eager")
    x = torch.randn(4)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for seed in range(4):
            assert take(compiled, model, guide, (x,), seed) == take(elbo, model, guide, (x,), seed)
    assert [words in str(w.message) for w in said if "runs eagerly" in str(w.message)] == [True]
    assert not compiled.graphs


def test_other_handlers_around_a_call_make_it_eager():
    net, x = PlainVAE(), images()
    compiled = compiled_after(net.model, net.guide, x)
    said = pytest.warns(UserWarning, match="called inside Pyro's ScaleMessenger")
    with said, poutine.scale(scale=2.0):
        agree(Trace_ELBO(), compiled, net.model, net.guide, (x,))
    agree(Trace_ELBO(), compiled, net.model, net.guide, (x,))


def agree_while_changing(compiled, values):
    model, x = Stateful(), torch.randn(3)
    for value in values:
        model.number = value
        agree(Trace_ELBO(), compiled, model, normal_guide, (x,))


def test_state_that_changes_at_each_call_ends_in_eager_steps():
    compiled = CompiledELBO(Trace_ELBO(), "eager")
    with pytest.warns(UserWarning, match="changes at each call"):
        agree_while_changing(compiled, [float(i) for i in range(20)])
    assert not compiled.graphs


def test_state_that_changes_often_ends_in_eager_steps():
    compiled = CompiledELBO(Trace_ELBO(), "eager")
    with pytest.warns(UserWarning, match="its graph has changed 8 times"):
        agree_while_changing(compiled, [float(i // 2) for i in range(20)])
    assert len(compiled.graphs) == 8


def test_nan_is_said():
    net, x = PlainVAE(), images()
    compiled = compiled_after(net.model, net.guide, x)
    with torch.no_grad():
        net.head.bias.fill_(float("nan"))
    with pytest.warns(UserWarning, match="NaN"):
        compiled.loss_and_grads(net.model, net.guide, x)


@pytest.mark.parametrize("elbo", [CompiledELBO(Trace_ELBO()), JitTrace_ELBO(), Trace_ELBO, "elbo"])
def test_what_is_no_elbo_is_refused(elbo):
    with pytest.raises(InputError, match="takes an ELBO such as"):
        CompiledELBO(elbo)


def test_unknown_backend_is_refused():
    with pytest.raises(InputError, match="one of inductor, eager"):
        CompiledELBO(Trace_ELBO(), "ducto")

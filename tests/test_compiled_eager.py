"""Calls that run eagerly, with one warning that gives the reason."""

import gc
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceGraph_ELBO
from support.compiled import Stateful, agree, compiled_after, normal_guide, observe, refused, take
from support.zoo import PlainVAE, images

from pyro_vae.compiling import CompiledELBO


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
def test_an_eager_reason_is_given_in_one_warning(model, guide, elbo, words):
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
    with pytest.warns(UserWarning, match="it needs more than 8 different graphs"):
        agree_while_changing(compiled, [float(i // 2) for i in range(20)])
    assert len(compiled.graphs) == 8


def test_no_more_graphs_are_kept_than_there_may_be():
    """A cleared store is a new situation, whose graph has the same text."""
    compiled = CompiledELBO(Trace_ELBO(), "eager")
    model, x = refused(lambda z, x: z)[0], torch.randn(3)
    for _ in range(12):
        pyro.clear_param_store()
        for _ in range(3):
            agree(Trace_ELBO(), compiled, model, normal_guide, (x,))
    (step,) = compiled.steps.values()
    assert len(compiled.graphs) == 1
    assert len(step.bounds) == step.MOST_GRAPHS == 8


def test_nan_gives_the_error_or_the_warning_of_eager_svi():
    net, x = PlainVAE(), images()
    compiled = compiled_after(net.model, net.guide, x)
    with torch.no_grad():
        net.head.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="to satisfy the constraint Real"):
        compiled.loss_and_grads(net.model, net.guide, x)
    with pyro.validation_enabled(False):
        for _ in range(2):
            compiled.loss_and_grads(net.model, net.guide, x)
        with pytest.warns(UserWarning, match="NaN"):
            compiled.loss_and_grads(net.model, net.guide, x)


def test_what_runs_at_a_garbage_collection_is_not_the_programs():
    """Libraries such as hypothesis are told of each collection, and write state of their own."""
    state = {"collections": 0}

    def told(phase, info):
        state["collections"] += 1

    def collecting():
        pyro.sample("z", dist.Normal(0.0, 1.0))
        junk = [[] for _ in range(2000)]
        for each in junk:
            each.append(each)

    def guide():
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))

    pyro.clear_param_store()
    threshold = gc.get_threshold()
    gc.callbacks.append(told)
    gc.set_threshold(1)
    try:
        elbo = CompiledELBO(Trace_ELBO(), "eager")
        for _ in range(4):
            elbo.loss_and_grads(collecting, guide)
        assert state["collections"] > 0
        assert len(elbo.graphs) == 1
        assert gc.isenabled()
    finally:
        gc.callbacks.remove(told)
        gc.set_threshold(*threshold)

"""Training with matrix products in bfloat16: the products are, and nothing else is."""

import copy
import warnings

import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from support.small import small, stripes
from torch import nn

from pyro_vae import VAE, InputError, fit
from pyro_vae.compiling import CompiledELBO, elbo
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.precision import in_precision
from pyro_vae.recipes import RECIPES

CONDITIONS = {"cvae": 10, "m2": 10, "m2-real": (1,)}


@pytest.fixture(scope="module")
def data():
    return stripes()


def rounded(x):
    """The product of ``x`` with itself, from entries that bfloat16 rounded."""
    half = x.bfloat16().float()
    return (half @ half.T).bfloat16().float()


def test_products_are_rounded_where_it_is_asked_for(data):
    seen = []
    x = torch.rand(4, 16)

    class Watched(Trace_ELBO):
        def loss_and_grads(self, model, guide, *args, **kwargs):
            seen.append(nn.functional.linear(x, x))
            return super().loss_and_grads(model, guide, *args, **kwargs)

    fit(small(), data, objective=Watched(), epochs=1, precision="bfloat16")
    assert seen
    for found in seen:
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, rounded(x), rtol=0.01, atol=0)
        assert not torch.equal(found, x @ x.T)
    with pytest.raises(InputError, match="unknown precision 'bf16'"):
        fit(small(), data, precision="bf16")


@pytest.mark.parametrize("name", RECIPES)
def test_all_sites_are_in_float32(name):
    """A log-probability of -100 in bfloat16 would be a multiple of half a nat."""
    torch.manual_seed(0)
    vae = VAE((1, 16, 16), condition=CONDITIONS.get(name), **RECIPES[name].parts)
    x = torch.rand(6, 1, 16, 16).round()
    labels = torch.arange(6)
    given = {"cvae": (labels,), "m2": (labels,), "m2-real": (labels.float()[:, None],)}
    args = (x, *given.get(name, ()))
    with in_precision("bfloat16", "cpu"):
        guide = poutine.trace(vae.guide).get_trace(*args)
        model = poutine.trace(poutine.replay(vae.model, guide)).get_trace(*args)
        for trace in (guide, model):
            trace.compute_log_prob()
            for site in trace.nodes.values():
                if site["type"] == "sample" and torch.is_floating_point(site["value"]):
                    assert site["value"].dtype == torch.float32
                    assert site["log_prob"].dtype == torch.float32


@pytest.mark.parametrize("name", ["full-covariance", "low-rank", "iaf", "mixture"])
def test_guides_with_other_linear_algebra_train(name, data):
    fit(small(guide=name), data, epochs=1, precision="bfloat16")


def test_latents_are_summed_out(data):
    """The loss of the first epoch in both precisions, for the categories and for labels."""
    one = small(guide="categorical")
    two = copy.deepcopy(one)
    how = {"objective": OBJECTIVES["enumerate"](), "epochs": 1}
    (full,) = fit(one, data, **how)
    (half,) = fit(two, data, **how, precision="bfloat16")
    assert half.loss == pytest.approx(full.loss, rel=0.01)


def test_importance_weights_are_those_of_float32():
    """The bound of 50 draws with log-probabilities of about -500 nats."""
    torch.manual_seed(0)
    vae = VAE((1, 28, 28), 64, hidden=(64,))
    x = torch.rand(16, 1, 28, 28).round()
    objective = OBJECTIVES.build("iwae(num_particles=50)")
    found = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(1)
        with in_precision(precision, "cpu"), torch.no_grad():
            found.append(objective.loss(vae.model, vae.guide, x))
    assert found[1] == pytest.approx(found[0], abs=0.1)


@pytest.mark.filterwarnings("error:this step runs eagerly")
@pytest.mark.parametrize("name", ["lvae", "iwae"])
def test_compiled_steps(name):
    torch.manual_seed(0)
    recipe = RECIPES[name]
    vae = VAE(stripes().shape, **recipe.parts | {"hidden": (16,)})
    fit(vae, stripes(), objective=recipe.objective, epochs=1, precision="bfloat16", compiled=True)


def test_what_is_bfloat16_by_itself_stays_so():
    with in_precision("bfloat16", "cpu"):
        x = torch.ones(2, 2)
        assert x.to(torch.bfloat16).dtype == x.bfloat16().dtype == torch.bfloat16
        assert (x.bfloat16() @ x.bfloat16()).dtype == torch.bfloat16
        outputs, (state, _) = nn.LSTM(2, 3)(torch.ones(4, 1, 2))
        assert outputs.dtype == state.dtype == torch.float32


def test_half_precision_learns_as_well(data):
    """Each step casts the weights as they are then, not as they were when the epoch began."""
    one = small()
    two = copy.deepcopy(one)
    (full,) = fit(one, data, epochs=1, batch_size=2, lr=1e-2)
    (half,) = fit(two, data, epochs=1, batch_size=2, lr=1e-2, precision="bfloat16")
    assert half.elbo == pytest.approx(full.elbo, abs=0.5)


@pytest.mark.parametrize(("share", "accepted"), [(1.0, True), (1.5, False)])
def test_a_graph_may_round_as_the_programs_do_but_not_more(monkeypatch, share, accepted):
    """Rounding changes the gradients of a deep network by a tenth, in the graph and without it."""
    compile_graph = elbo.compile_graph

    def scaled(graph, inputs, backend):
        function = compile_graph(graph, inputs, backend)
        first = graph.loss.num_leaves + graph.valid
        return lambda *tensors: [
            value if place < first else share * value
            for place, value in enumerate(function(*tensors))
        ]

    monkeypatch.setattr(elbo, "compile_graph", scaled)
    torch.manual_seed(0)
    network = "mlp(activation='leaky-relu', middle=[100, 100], batch_norm=True)"
    vae = VAE((1, 28, 28), (64, 32, 16), guide="ladder", hidden=(500, 300), network=network)
    vae.train()
    x = torch.rand(128, 1, 28, 28).round()
    compiled = CompiledELBO(Trace_ELBO())
    with in_precision("bfloat16", "cpu"), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            compiled.loss_and_grads(vae.model, vae.guide, x)
    assert bool(compiled.graphs)
    assert ["gave other numbers" in str(w.message) for w in said] == ([] if accepted else [True])

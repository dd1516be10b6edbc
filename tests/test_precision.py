"""Training with layers in bfloat16: linear layers and convolutions are, and nothing else is."""

import copy
import warnings

import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from support.commands import typed
from support.small import small, stripes
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pyro_vae import VAE, InputError, fit
from pyro_vae.compiling import CompiledELBO, elbo, in_bfloat16
from pyro_vae.compiling.precision import rounds
from pyro_vae.history import Callback
from pyro_vae.loop import PRECISIONS
from pyro_vae.networks import MLP
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.recipes import RECIPES

CONDITIONS = {"cvae": 10, "m2": 10, "m2-real": (1,)}


@pytest.fixture(scope="module")
def data():
    return stripes()


def test_layers_are_rounded_and_nothing_else(data):
    x, seen = torch.rand(4, 16), []
    kernel = x[:, None, :3]

    class Watched(Trace_ELBO):
        def loss_and_grads(self, model, guide, *args, **kwargs):
            seen.append((F.linear(x, x), F.conv1d(x[:, None], kernel), x @ x.T))
            return super().loss_and_grads(model, guide, *args, **kwargs)

    fit(small(), data, objective=Watched(), epochs=1, precision="bfloat16")
    half = x.bfloat16().float()
    assert seen
    for linear, conv, product in seen:
        exact = half @ half.T, F.conv1d(half[:, None], half[:, None, :3])
        for found, expected in zip((linear, conv), exact, strict=True):
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, expected, rtol=0.01, atol=0)
        assert not torch.equal(linear, x @ x.T)
        assert torch.equal(product, x @ x.T)
    with pytest.raises(InputError, match="unknown precision 'bf16'"):
        fit(small(), data, precision="bf16")


def test_the_data_and_the_callback_are_not_rounded():
    """Both may compute with layers of their own."""
    raw, weight = torch.rand(40, 30), torch.rand(30, 30)
    exact, seen = F.linear(raw, weight), []

    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 40

        def __getitem__(self, i):
            row = F.linear(raw[i : i + 1], weight)
            assert torch.allclose(row, exact[i], rtol=1e-5)
            return row.view(1, 6, 5) / 30

    class After(Callback):
        def on_step(self, rows, position):
            seen.append(F.linear(raw, weight))

    vae = small(likelihood="normal")
    fit(vae, Rows(), epochs=1, batch_size=20, precision="bfloat16", callback=After())
    assert seen
    assert all(torch.equal(x, exact) for x in seen)


@pytest.mark.parametrize("name", RECIPES)
def test_all_sites_are_in_float32(name):
    """A log-probability of -100 in bfloat16 would be a multiple of half a nat."""
    torch.manual_seed(0)
    vae = VAE((1, 16, 16), condition=CONDITIONS.get(name), **RECIPES[name].parts)
    x = torch.rand(6, 1, 16, 16).round()
    labels = torch.arange(6)
    given = {"cvae": (labels,), "m2": (labels,), "m2-real": (labels.float()[:, None],)}
    args = (x, *given.get(name, ()))
    with in_bfloat16():
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
    """The loss of the first epoch is nearly the same in both precisions."""
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
        with PRECISIONS[precision](), torch.no_grad():
            found.append(objective.loss(vae.model, vae.guide, x))
    assert found[1] == pytest.approx(found[0], abs=0.1)


@pytest.mark.filterwarnings("error:this step runs eagerly")
@pytest.mark.parametrize("name", ["lvae", "iwae"])
def test_compiled_steps(name):
    torch.manual_seed(0)
    recipe = RECIPES[name]
    vae = VAE(stripes().shape, **recipe.parts | {"hidden": (16,)})
    fit(vae, stripes(), objective=recipe.objective, epochs=1, precision="bfloat16", compiled=True)


class Encoders(nn.Module):
    """A module of torch on the images, and features from it."""

    out_features = 8

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.inner = {
            "attention": nn.TransformerEncoderLayer(6, 2, 12, 0.0, batch_first=True),
            "attention alone": nn.MultiheadAttention(6, 2, batch_first=True),
            "recurrent": nn.LSTM(6, 6, batch_first=True),
            "scripted": torch.jit.script(nn.Linear(6, 6)),
            "checkpoint": nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 6)),
        }[kind]
        self.out = nn.Linear(30, 8)

    def forward(self, x):
        rows = x.flatten(0, -4).flatten(1).view(-1, 5, 6)
        if self.kind == "attention alone":
            rows = self.inner(rows, rows, rows, need_weights=False)[0]
        elif self.kind == "checkpoint":
            rows = checkpoint(self.inner, rows.requires_grad_(), use_reentrant=True)
        else:
            rows = self.inner(rows)
        rows = rows[0] if isinstance(rows, tuple) else rows
        return self.out(rows.flatten(1)).view(*x.shape[:-3], 8)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@pytest.mark.parametrize(
    "kind", ["attention", "attention alone", "recurrent", "scripted", "checkpoint"]
)
def test_modules_of_torch_train(kind, data):
    class Own(MLP):
        def encoder(self):
            return Encoders(kind)

    ends = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        vae = VAE(data.shape, 3, network=lambda shape: Own(shape, (16,)))
        (record,) = fit(vae, data, epochs=1, precision=precision, compiled=False)
        ends.append(record.loss)
    assert ends[1] == pytest.approx(ends[0], rel=0.01)


def test_layers_that_are_computed_again_in_a_backward_pass_are_refused(data):
    class Own(MLP):
        def encoder(self):
            inner = super().encoder()
            again = nn.Identity()
            again.forward = lambda x: checkpoint(inner, x, use_reentrant=False)
            again.out_features = inner.out_features
            again.inner = inner
            return again

    vae = VAE(data.shape, 3, network=lambda shape: Own(shape, (16,)))
    fit(vae, data, epochs=1)
    with pytest.raises(InputError, match=r"checkpoint\(use_reentrant=True\), or the precision"):
        fit(vae, data, epochs=1, precision="bfloat16", compiled=False)


def test_densities_with_products_are_exact():
    """A covariance of low rank with small noise, as that of the guide ``low-rank``."""
    torch.manual_seed(0)
    factor = torch.randn(16, 3)
    fn = torch.distributions.LowRankMultivariateNormal(
        torch.zeros(16), factor, torch.full((16,), 0.01)
    )
    x = fn.sample((5,))
    with in_bfloat16():
        found = fn.log_prob(x)
    assert torch.equal(found, fn.log_prob(x))


def test_nothing_is_left_after_an_error(data):
    class Broken(Trace_ELBO):
        def loss_and_grads(self, *args, **kwargs):
            raise KeyboardInterrupt

    x = torch.rand(4, 16)
    with pytest.raises(KeyboardInterrupt):
        fit(small(), data, objective=Broken(), epochs=1, precision="bfloat16")
    assert torch.equal(F.linear(x, x), x @ x.T)
    with in_bfloat16():
        assert (x.bfloat16() @ x.bfloat16().T).dtype == torch.bfloat16
        assert F.linear(x.double(), x.double()).dtype == torch.float64


def test_a_replayed_step_is_in_the_precision_of_the_training(tmp_path, monkeypatch, capsys):
    forward, seen = nn.Linear.forward, []

    def watched(self, x):
        if self.training:
            seen.append(rounds())
        return forward(self, x)

    run = tmp_path / "run"
    ask = ["train", "--data", "digits", "--hidden", "16", "--latent", "2", "--lr", "30"]
    ask += ["--batch-size", "256", "--epochs", "3", "--precision", "bfloat16", "--out", run]
    assert typed(ask) == 1
    monkeypatch.setattr(nn.Linear, "forward", watched)
    assert typed(["train", "--replay", run, "--device", "cpu"]) == 0
    assert seen[-1]  # the step that is looked at is the last one
    assert "the loss became" in capsys.readouterr().out


def test_weights_in_float64_are_refused(data):
    with pytest.raises(InputError, match="for layers in float32, and no weight has this type"):
        fit(small().double(), data, epochs=1, precision="bfloat16")


def test_a_context_inside_another_one():
    """The inner precision counts, also inside torch's autocast."""
    x = torch.rand(4, 16)
    half = torch.autocast("cpu", torch.bfloat16)
    for outer in (in_bfloat16, lambda: half):
        with outer(), PRECISIONS["float32"]():
            assert torch.equal(F.linear(x, x), x @ x.T)
        with outer(), in_bfloat16():
            assert F.linear(x, x).dtype == torch.float32
            assert torch.equal(x @ x.T, torch.mm(x, x.T))
            assert (x @ x.T).dtype == torch.float32


def test_an_objective_is_compiled_for_each_precision():
    torch.manual_seed(0)
    vae, x = small(), torch.rand(8, 1, 6, 5).round()
    compiled = CompiledELBO(Trace_ELBO(), "eager")
    found = {}
    for precision in ("float32", "bfloat16", "float32"):
        with PRECISIONS[precision]():
            for _ in range(3):
                torch.manual_seed(1)
                loss = compiled.loss_and_grads(vae.model, vae.guide, x)
        assert found.setdefault(precision, loss) == loss
    assert found["float32"] != found["bfloat16"]


def test_half_precision_learns_as_well(data):
    """Each step casts the weights as they are then, not as they were when the epoch began."""
    one = small()
    two = copy.deepcopy(one)
    (full,) = fit(one, data, epochs=1, batch_size=2, lr=1e-2)
    (half,) = fit(two, data, epochs=1, batch_size=2, lr=1e-2, precision="bfloat16")
    assert half.elbo == pytest.approx(full.elbo, abs=0.5)


@pytest.mark.parametrize(
    ("share", "of_loss", "accepted"), [(1.0, 1.0, True), (1.5, 1.0, False), (1.0, 1.01, False)]
)
def test_a_graph_may_round_as_the_programs_do_but_not_more(monkeypatch, share, of_loss, accepted):
    """Rounding changes the gradients of a deep network by a tenth, in the graph and without it."""
    compile_graph = elbo.compile_graph

    def scaled(graph, inputs, backend):
        function = compile_graph(graph, inputs, backend)
        first = graph.loss.num_leaves + graph.valid
        return lambda *tensors: [
            (of_loss if place == 0 else 1.0 if place < first else share) * value
            for place, value in enumerate(function(*tensors))
        ]

    monkeypatch.setattr(elbo, "compile_graph", scaled)
    torch.manual_seed(0)
    network = "mlp(activation='leaky-relu', middle=[100, 100], batch_norm=True)"
    vae = VAE((1, 28, 28), (64, 32, 16), guide="ladder", hidden=(500, 300), network=network)
    vae.train()
    x = torch.rand(128, 1, 28, 28).round()
    compiled = CompiledELBO(Trace_ELBO())
    with in_bfloat16(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            compiled.loss_and_grads(vae.model, vae.guide, x)
    assert compiled.graphs
    assert ["gave other numbers" in str(w.message) for w in said] == ([] if accepted else [True])

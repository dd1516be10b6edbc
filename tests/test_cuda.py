"""On a CUDA GPU: every recipe, whole training, CUDA graphs, evaluation and the command line."""

import json

import pyro
import pytest
import torch
from pyro.infer import SVI
from support.commands import typed
from support.compiled import agree, take

from pyro_vae import VAE, fit
from pyro_vae.compiling import CompiledELBO, CompiledSVI, FusedAdam
from pyro_vae.contracts import Objective
from pyro_vae.data import load_data
from pyro_vae.evaluation import elbo
from pyro_vae.evaluation.importance import importance
from pyro_vae.history import Position
from pyro_vae.recipes import RECIPES
from pyro_vae.registry import OBJECTIVES

pytestmark = pytest.mark.cuda
CUDA = torch.device("cuda")


@pytest.fixture(scope="module")
def data():
    return load_data("digits", binarize="dynamic").to(CUDA)


@pytest.fixture
def replays(monkeypatch):
    """All CUDA graphs that were replayed."""
    seen = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(
        torch.cuda.CUDAGraph, "replay", lambda graph: (seen.append(graph), replay(graph))[1]
    )
    return seen


def pair_of(name):
    """The VAE of a recipe on the device, its objective, and a batch."""
    recipe = RECIPES[name]
    condition = {"cvae": 10, "m2": 10, "m2-real": (1,)}.get(name)
    torch.manual_seed(0)
    vae = VAE((1, 16, 16), condition=condition, **recipe.parts).to(CUDA)
    objective = OBJECTIVES.build(recipe.objective, data_size=100, labelled=50)
    advance = Objective.schedule_of(objective)
    if advance is not None:
        advance(0.5)
    x = torch.rand(32, 1, 16, 16, device=CUDA).round()
    if condition is None:
        return vae, objective, (x,)
    labels = torch.arange(32, device=CUDA) % 10
    real = labels.float().where(labels < 5, torch.nan)[:, None]
    return vae, objective, (x, real if name == "m2-real" else labels)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.filterwarnings("error:this step runs eagerly")
def test_compiled_recipe_equals_eager(name):
    vae, objective, args = pair_of(name)
    compiled = CompiledELBO(objective, "eager")
    take(compiled, vae.model, vae.guide, args)
    for seed in range(2):
        agree(objective, compiled, vae.model, vae.guide, args, seed, rtol=1e-3, modules=[vae])
    assert compiled.graphs


@pytest.mark.parametrize("name", ["vae", "annealed", "iwae", "lvae", "m2", "not-miwae"])
def test_steps_are_one_cuda_graph_and_equal_svi(name, replays):
    losses, weights = [], []
    for compiled in (False, True):
        pyro.clear_param_store()
        vae, objective, args = pair_of(name)
        number = iter(range(1000))
        optim = FusedAdam({"lr": 1e-3})
        if compiled:
            made = CompiledSVI(
                vae.model, vae.guide, optim, objective,
                before_step=lambda number=number: torch.cuda.manual_seed(next(number)),
            )  # fmt: skip
            index = torch.arange(32, device=CUDA).view(1, -1).repeat(12, 1)
            losses.append(made.epoch(args, index).tolist())
        else:
            made, found = SVI(vae.model, vae.guide, optim, objective), []
            for _ in range(12):
                torch.cuda.manual_seed(next(number))
                found.append(made.step(*args))
            losses.append(found)
        weights.append([p.detach().clone() for p in vae.parameters()])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    if name != "lvae":  # a bias before batch normalization has the gradient 0, up to rounding
        torch.testing.assert_close(weights[1], weights[0], rtol=0.05, atol=2e-3)
    assert len(replays) >= 7  # the first call is eager, the next three warm up


def test_large_batches_equal_svi(replays):
    found = []
    for compiled in (False, True):
        pyro.clear_param_store()
        torch.manual_seed(0)
        vae = VAE((1, 28, 28), 20).to(CUDA)
        x = torch.rand(1024, 1, 28, 28, device=CUDA).round()
        how = (vae.model, vae.guide, FusedAdam({"lr": 1e-3}), OBJECTIVES.build("monte-carlo"))
        torch.cuda.manual_seed(0)
        if compiled:
            index = torch.arange(1024, device=CUDA).view(1, -1).repeat(30, 1)
            found.append(CompiledSVI(*how).epoch(x, index).tolist())
        else:
            step = SVI(*how).step
            found.append([step(x) for _ in range(30)])
    assert found[1] == pytest.approx(found[0], rel=1e-3)
    assert replays


def test_noise_of_a_replay_is_new():
    pyro.clear_param_store()
    vae, objective, (x,) = pair_of("vae")
    made = CompiledSVI(vae.model, vae.guide, FusedAdam({"lr": 0.0}), objective)
    losses = made.epoch(x, torch.arange(32, device=CUDA).view(1, -1).repeat(12, 1))
    assert len(set(losses.tolist())) == 12


def test_training_equals_eager_training(data, replays):
    """With a schedule of the rate and of the KL, and with the last, smaller batch."""
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        vae = VAE(data.shape, 8, hidden=(64,)).to(CUDA)
        history = fit(
            vae, data, objective="annealed(epochs=2)", schedule="cosine", epochs=3,
            batch_size=100, compiled=compiled, progress=False,
        )  # fmt: skip
        found.append([(e.loss, e.elbo) for e in history])
    for a, b in zip(*found, strict=True):
        assert a == pytest.approx(b, rel=1e-3)
    assert len(replays) >= 30


@pytest.mark.parametrize("compiled", [False, True])
def test_going_on_gives_the_same(data, compiled):
    ends = []
    for stops in ((4,), (2, 4)):
        torch.manual_seed(0)
        vae = VAE(data.shape, 8, hidden=(64,)).to(CUDA)
        optimizer = torch.optim.Adam(vae.parameters(), 1e-3, fused=True, capturable=True)
        start = Position(0)
        for epochs in stops:
            fit(
                vae, data, epochs=epochs, start=start, optimizer=optimizer, batch_size=200,
                compiled=compiled, progress=False,
            )  # fmt: skip
            start = Position(epochs)
        ends.append([p.detach() for p in vae.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.filterwarnings("error:this step runs eagerly")
def test_bfloat16(data):
    ends = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        vae = VAE(data.shape, 8).to(CUDA)
        ends.append(fit(vae, data, epochs=8, precision=precision, compiled=True)[-1].elbo)
    assert ends[1] == pytest.approx(ends[0], abs=0.5)
    assert ends[1] != ends[0]


def test_average_and_clipping(data):
    ends = []
    for compiled in (False, True):
        torch.manual_seed(0)
        vae = VAE(data.shape, 8, network="mlp(batch_norm=True)").to(CUDA)
        options = {"average": 0.99, "clip": 1.0, "epochs": 3, "compiled": compiled}
        ends.append(fit(vae, data, **options)[-1].elbo)
    assert ends[0] == pytest.approx(ends[1], rel=5e-3)


def test_evaluation_agrees_with_the_cpu(data):
    torch.manual_seed(0)
    vae = VAE(data.shape, 4, hidden=(64,)).to(CUDA)
    fit(vae, data, epochs=3, progress=False)
    test = data.test.first(64)
    x = test.batch(slice(None))
    there = importance(vae.model, vae.guide, x, samples=500)
    codes, decoded = vae.encode(x).mean, vae.decode(torch.zeros(2, 4, device=CUDA))
    drawn = vae.sample(5)
    assert drawn.device.type == codes.device.type == "cuda"
    bound = elbo(vae.model, vae.guide, x)
    vae.cpu()
    torch.testing.assert_close(vae.encode(x.cpu()).mean, codes.cpu(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(vae.decode(torch.zeros(2, 4)), decoded.cpu(), rtol=1e-3, atol=1e-4)
    here = importance(vae.model, vae.guide, x.cpu(), samples=500)
    assert here.mean == pytest.approx(there.mean, abs=0.1)
    assert elbo(vae.model, vae.guide, x.cpu()).elbo == pytest.approx(bound.elbo, abs=1.0)


def test_holes_and_labels():
    data = load_data("digits", binarize="threshold").conditioned("label").to(CUDA)
    vae = VAE.for_data(data, 4, prior="conditional").to(CUDA)
    fit(vae, data, epochs=2, progress=False, compiled=True)
    assert vae.sample(3, given=7).shape == (3, *data.shape)
    plain = VAE(data.shape, 4, holes=True).to(CUDA)
    x = data.train.first(200).batch(slice(None)).clone()
    x[torch.rand_like(x) < 0.5] = torch.nan
    fit(plain, x, epochs=2, progress=False)
    filled = plain.impute(x[:5])
    assert filled.isfinite().all()
    assert torch.equal(filled[~x[:5].isnan()], x[:5][~x[:5].isnan()])


def test_command_line(tmp_path):
    run = tmp_path / "run"
    short = ["--data", "digits", "--hidden", "16", "--latent", "2", "--batch-size", "256"]
    assert typed(["train", *short, "--epochs", "3", "--compile", "--out", run]) == 0
    assert typed(["train", "--resume", run, "--epochs", "5"]) == 0
    for device in ("cuda", "cpu"):
        out = tmp_path / device
        assert typed(["evaluate", run, "--samples", "50", "--device", device]) == 0
        assert typed(["encode", run, "--out", out.with_suffix(".npz"), "--device", device]) == 0
        assert typed(["sample", run, "--out", out.with_suffix(".png"), "--device", device]) == 0
        assert typed(["score", run, "--out", out.with_suffix(".csv"), "--device", device]) == 0
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4, 5]


def test_no_replay_of_changed_options(data):
    """A CUDA graph stores the rate of a plain optimizer, so a new rate needs a new graph."""
    vae, objective, (x,) = pair_of("vae")
    optim = FusedAdam({"lr": 1e-3})
    made = CompiledSVI(vae.model, vae.guide, optim, objective)
    index = torch.arange(32, device=CUDA).view(1, -1).repeat(8, 1)
    made.epoch(x, index)
    optim.optimizer.param_groups[0]["lr"] = 0.0
    before = [p.detach().clone() for p in vae.parameters()]
    made.epoch(x, index)
    assert all(map(torch.equal, before, vae.parameters()))

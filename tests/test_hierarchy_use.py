"""What is measured and made of layers of latents: against the linear-Gaussian chain where it is
known, else against the programs themselves."""

import copy
import json
import math
import shutil
import warnings
from types import SimpleNamespace

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from support.deep import LAYERED, SKIPS, close, deep, drawn
from support.density import SHAPE, digits
from support.exact import LinearGaussian, library_chain
from torch import nn

from pyro_vae import VAE, InputError, fit
from pyro_vae.compiling import CompiledELBO, CompiledSVI
from pyro_vae.data import Data
from pyro_vae.data.images import Images
from pyro_vae.evaluation import elbo, standard_error
from pyro_vae.evaluation.aggregate import aggregate
from pyro_vae.evaluation.gaps import gaps
from pyro_vae.evaluation.importance import importance
from pyro_vae.evaluation.latents import active_units, probe, unit_kl
from pyro_vae.history import CollapseWarning, Epoch, collapsed
from pyro_vae.networks import MLP
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.report.table import evaluate
from pyro_vae.runs import folder as files
from pyro_vae.storage.checkpoint import NAME

CHAIN = LinearGaussian(5, (1, 1, 1))
ORDER = "the guide draws 'z_1' where the model draws 'z_3'"


def chain(guide):
    """The chain's VAE with its posterior as guide, and images of it."""
    return library_chain(CHAIN, guide), CHAIN.images(60)


def about_zero(error, tolerance=0.0):
    """Whether numbers with noise of their own have the mean 0."""
    return abs(error.mean().item()) < 4 * standard_error(error) + tolerance


# What is measured ------------------------------------------------------------------------------


@pytest.mark.parametrize("guide", LAYERED)
def test_the_exact_posterior_s_weights_are_all_equal(guide):
    vae, x = chain(guide)
    result = importance(vae.model, vae.guide, Images(x), samples=20)
    truth = CHAIN.log_evidence(x).detach()
    close(result.log_p, truth, 1e-9)
    close(result.elbos, truth, 1e-9)
    assert result.errors.max() < 1e-6
    assert result.effective.min() > 20 - 1e-6


@torch.no_grad()
def known_kls(x, upwards):
    """KL(q(z_l | x, before) || p(z_l | z_{l+1})) of the posterior, each ``[B]``.

    Equation: ½ (log s²/S - 1 + E[(z_l - W z_{l+1} - b)²] / s²), S the variance of q."""
    posterior, kls = CHAIN.posterior(x), {}
    order = CHAIN.names[::-1] if upwards else CHAIN.names
    for i, name in enumerate(CHAIN.names):  # top first
        before = order[: order.index(name)]
        variance = CHAIN.conditional([name], ["x", *before])[2].item()
        pull, offset, sigma = torch.zeros(3).double(), 0.0, 1.0
        pull[i] = 1
        if i > 0:
            layer, sigma = CHAIN.layers[i - 1], CHAIN.scales[i - 1]
            pull[i - 1], offset = -layer.weight.item(), layer.bias.item()
        rest = (posterior.mean @ pull - offset).square() + pull @ posterior.covariance_matrix[
            0
        ] @ pull
        kls[name] = 0.5 * (math.log(sigma**2 / variance) - 1 + rest / sigma**2)
    return kls


@pytest.mark.parametrize("guide", LAYERED)
def test_the_kl_of_each_layer(guide):
    vae, x = chain(guide)
    upwards = guide == "bottom-up"
    known = known_kls(x, upwards)
    ways = [False] if upwards else [False, True]
    for analytic in ways:
        bound = elbo(vae.model, vae.guide, Images(x), samples=300, analytic=analytic)
        assert list(bound.kl_of_sites) == (CHAIN.names[::-1] if upwards else CHAIN.names)
        for name, kl in bound.kl_of_sites.items():
            assert about_zero(kl - known[name])
            assert kl.mean() > 0.05
            assert bound.kl_of_units[name].shape == (1,)
            if not analytic:
                close(bound.kl_of_units[name][0], kl.mean())
        close(bound.kls, sum(bound.kl_of_sites.values()))
    noise = max(standard_error(kl - known[n]) for n, kl in bound.kl_of_sites.items())
    for name, kl in unit_kl(vae.model, vae.guide, Images(x), draws=300).items():
        assert abs(kl.item() - known[name].mean().item()) < 4 * noise
    if upwards:
        with pytest.raises(InputError, match=ORDER):
            elbo(vae.model, vae.guide, Images(x), analytic=True)


@pytest.mark.parametrize("guide", LAYERED)
def test_active_units_of_each_layer(guide):
    vae, x = chain(guide)
    means = CHAIN.posterior(x).mean.detach()
    for name, activity in active_units(vae.guide, Images(x), draws=1000).items():
        truth = means[:, CHAIN.where[name]].var(0)
        torch.testing.assert_close(activity, truth, rtol=0.05, atol=0.02)


def test_labels_are_read_off_all_layers():
    vae, x = chain("ladder")
    label = (CHAIN.posterior(x).mean[:, 2] > 0).long()  # z_1, the last of them
    told = probe(vae.guide, Images(x[:40], label[:40]), Images(x[40:], label[40:]))
    assert told["linear"][0] > 0.9


@pytest.mark.parametrize("guide", LAYERED[1:])
def test_what_the_encoder_of_a_shifted_ladder_loses(guide):
    """The family holds the posterior, so that all is lost by the encoder: by all layers where they
    are merged by precision, and else by the top one, since the others see a draw."""
    vae, x = chain(guide)
    own = vae.guide.posterior.posteriors
    with torch.no_grad():
        for layer in own if guide == "ladder" else [own[-1].head]:
            layer.bias += 0.3
    before = {n: t.clone() for n, t in vae.state_dict().items()}
    result = gaps(vae.model, vae.guide, Images(x[:10]), samples=500, steps=250)
    truth = CHAIN.log_evidence(x[:10]).detach()
    assert (truth - result.guide.elbos).mean() > 0.1
    assert result.approximation.abs().max() < 0.02
    close(result.amortization, truth - result.guide.elbos, 0.05)
    assert all(torch.equal(t, before[n]) for n, t in vae.state_dict().items())


def test_a_bottom_up_guide_is_freed_in_its_first_layer_alone():
    """The others see a draw, and are the family itself."""
    vae, x = chain("bottom-up")
    with torch.no_grad():
        vae.guide.posterior.posteriors[0].head.bias += 0.3
    result = gaps(vae.model, vae.guide, Images(x[:20]), samples=300, steps=150)
    assert (CHAIN.log_evidence(x[:20]).detach() - result.guide.elbos).mean() > 0.5
    assert result.approximation.abs().max() < 0.01
    with torch.no_grad():
        vae.guide.posterior.posteriors[1].head.bias += 0.3
    result = gaps(vae.model, vae.guide, Images(x[:20]), samples=300, steps=150)
    assert result.approximation.mean() > 0.05


@pytest.mark.parametrize("guide", LAYERED)
def test_the_table_of_an_evaluation(guide):
    vae, x = chain(guide)
    programs = SimpleNamespace(model=vae.model, guide=vae.guide)
    table = evaluate(programs, Images(x), samples=50)
    json.dumps(table, allow_nan=False)
    assert table["log_p"]["mean"] == pytest.approx(CHAIN.log_evidence(x).mean().item())
    assert table["active_units"] == {f"z_{i}": {"count": 1, "of": 1} for i in (1, 2, 3)}
    for name, kl in known_kls(x, guide == "bottom-up").items():
        assert table["rate_of_sites"][name]["mean"] == pytest.approx(kl.mean().item(), abs=0.25)
        assert table["kl_of_units"][name] == pytest.approx([kl.mean().item()], abs=0.5)
    assert "one latent site, not 3" in table["aggregate"]["why"]
    with pytest.raises(InputError, match="one latent site, not 3"):
        aggregate(vae.model, vae.guide, Images(x))


# What is made ----------------------------------------------------------------------------------


def mean_image(vae, z):
    """E[x | z] by the parts themselves."""
    prior, h = vae.model.prior, z["z_1"]
    if prior.skip:
        h = h + torch.cat([z["z_2"], z["z_3"]], -1) @ prior.past.weight.T
    return vae.model.likelihood.decoder(h).sigmoid()


@pytest.mark.parametrize("prior", SKIPS)
@pytest.mark.parametrize("guide", LAYERED)
@torch.no_grad()
def test_encode_reconstruct_interpolate_and_sample(guide, prior):
    vae, x = deep(guide, prior=prior), digits(5, dtype=torch.float64)

    def seeded(call, *args):
        pyro.set_rng_seed(1)
        return call(*args)

    q, z = seeded(vae.encode, x), seeded(drawn, vae.guide, x)
    assert list(q) == (["z_1", "z_2", "z_3"] if guide == "bottom-up" else ["z_3", "z_2", "z_1"])
    trace = poutine.trace(poutine.condition(vae.guide, z)).get_trace(x)
    for name, fn in q.items():  # each at the draws that the guide makes from this seed
        assert fn.batch_shape == (5,)
        close(fn.log_prob(z[name]), trace.nodes[name]["fn"].log_prob(z[name]))
    close(seeded(vae.reconstruct, x), mean_image(vae, z))
    ends = seeded(drawn, vae.guide, x[:2])
    t = torch.linspace(0, 1, 7, dtype=torch.float64)[:, None]
    line = {n: (1 - t) * v[0] + t * v[1] for n, v in ends.items()}
    close(seeded(vae.interpolate, x[0], x[1], 7), mean_image(vae, line))
    close(seeded(vae.sample, 4), mean_image(vae, seeded(lambda n: drawn(vae.model, n=n), 4)))


class Normalized(MLP):
    """A network of a user's with batch normalization, as the ladder's paper has it."""

    def between(self, sources, target):
        layers = super().between(sources, target)
        layers.insert(1, nn.BatchNorm1d(layers.out_features))
        return layers


@pytest.mark.parametrize("guide", LAYERED)
def test_batch_normalization_between_layers(guide):
    vae = VAE(SHAPE, (3, 2), guide=guide, network=Normalized, hidden=(8,))
    norms = [m for m in vae.modules() if isinstance(m, nn.BatchNorm1d)]
    assert len(norms) >= 2
    assert all(m.training and m.num_batches_tracked == 0 for m in norms)  # no mark of a check
    x = digits(8)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO())
    losses = [svi.step(x) for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10]) - 50
    assert all(m.num_batches_tracked > 0 for m in norms)
    kept = [m.running_mean.clone() for m in norms]
    bound = elbo(vae.model, vae.guide, Images(x))
    assert torch.equal(bound.elbos, elbo(vae.model, vae.guide, Images(x)).elbos)
    assert all(torch.equal(m.running_mean, k) for m, k in zip(norms, kept, strict=True))


# What is kept ----------------------------------------------------------------------------------


@pytest.mark.parametrize("guide", LAYERED)
@pytest.mark.parametrize("size", [[6, 4], (6, 4), ((2, 4, 4), (3, 2, 2))])
def test_a_run_comes_back_and_merges_with_its_own_prior(guide, size, tmp_path):
    vae = VAE(SHAPE, size, guide=guide, prior="hierarchy(skip=True)", hidden=(8,))
    vae.save(tmp_path / "run")
    back, config = files.load_run(tmp_path / "run")
    assert config["vae"] == json.loads(json.dumps(vae.config)) == back.config
    x = digits(4)
    assert torch.equal(
        elbo(vae.model, vae.guide, Images(x)).elbos, elbo(back.model, back.guide, Images(x)).elbos
    )
    if guide != "bottom-up":
        assert back.guide.posterior.prior.module is back.model.prior
    other = VAE(SHAPE, size, guide=guide, hidden=(8,))
    other.save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / NAME, tmp_path / "run" / NAME)
    with pytest.raises(InputError, match="do not fit the run's config"):
        files.load_run(tmp_path / "run")


# Compiled steps --------------------------------------------------------------------------------


def step(loss, vae, x, seed):
    """Loss and gradients of one call under a seed."""
    vae.zero_grad()
    pyro.set_rng_seed(seed)
    value = loss.loss_and_grads(vae.model, vae.guide, x)
    return value, [p.grad.clone() for p in vae.parameters()]


@pytest.mark.parametrize(
    ("guide", "name"),
    [(guide, "monte-carlo") for guide in LAYERED]
    + [("bottom-up(layer=['iaf', 'full-covariance'])", "monte-carlo")]
    + [("ladder", name) for name in ("analytic", "free-bits", "dreg")],
)
def test_a_compiled_step_is_the_eager_one(guide, name):
    vae = deep(guide, (3, 2), prior="hierarchy(skip=True)")
    x, loss = digits(6, dtype=torch.float64), OBJECTIVES[name]()
    compiled = CompiledELBO(loss, "eager")
    for seed in range(4):
        close(step(compiled, vae, x, seed), step(loss, vae, x, seed), 1e-10)
    assert len(compiled.graphs) == 1


@pytest.mark.parametrize("guide", LAYERED[:2])
def test_25_compiled_steps_end_in_equal_weights(guide):
    one, x = deep(guide), digits(6, dtype=torch.float64)
    two = copy.deepcopy(one)
    plain = SVI(one.model, one.guide, pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO())
    optim = torch.optim.Adam(two.parameters(), lr=1e-2)
    compiled = CompiledSVI(two.model, two.guide, optim, Trace_ELBO(), backend="eager")
    losses = []
    for svi in (plain, compiled):
        pyro.set_rng_seed(0)
        losses.append([svi.step(x) for _ in range(25)])
    close(*losses, 1e-6)
    close(list(one.parameters()), list(two.parameters()), 1e-9)
    assert len(compiled.elbo.graphs) == 1


def test_inductor_gives_the_same():
    vae, x = deep(sizes=(3, 2)), digits(6, dtype=torch.float64)
    compiled = CompiledELBO(Trace_ELBO())
    for seed in range(3):
        close(step(compiled, vae, x, seed), step(Trace_ELBO(), vae, x, seed), 1e-8)
    assert len(compiled.graphs) == 1


# Layers that say nothing -----------------------------------------------------------------------


def test_a_collapsed_layer_is_named():
    epoch = Epoch(
        1, 0, 0, 0, 0, 8.001, 0,
        {"z_1": 8.0, "z_2": 0.003, "z": 1.0},
        {"z_1": [8.0, 0.0], "z_2": [0.001, 0.001, 0.001]},
    )  # fmt: skip
    (sentence,) = collapsed(epoch)
    assert sentence.startswith(
        "the latent layer z_2 has collapsed: 0.0010 nats of KL in each of its 3 units on average, "
        "below 0.01; "
    )
    assert collapsed(epoch, below=0.0005) == []
    assert len(collapsed(epoch, below=5)) == 2


@pytest.mark.parametrize("guide", LAYERED)
def test_training_says_which_layer_collapsed(guide, tmp_path):
    images = Images((255 * digits(150)).to(torch.uint8))
    data = Data("digits", images.subset(torch.arange(100)), images.subset(torch.arange(100, 150)))
    vae = VAE(SHAPE, (4, 2), guide=guide, hidden=(16,))
    weights = "beta(beta={'z_1': 0.1, 'z_2': 100})"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        history = fit(vae, data, objective=weights, epochs=40, batch_size=20, lr=1e-2)
    told = [str(w.message) for w in said if w.category is CollapseWarning]
    assert [sentence[:33] for sentence in told] == ["the latent layer z_2 has collapse"]
    last = history[-1]
    assert last.kl_of_sites["z_1"] > 1
    assert sum(last.kl_of_sites.values()) == pytest.approx(last.kl, rel=1e-5)
    for name, units in last.kl_of_units.items():
        assert sum(units) == pytest.approx(last.kl_of_sites[name], rel=1e-3, abs=1e-4)
    assert {name: len(units) for name, units in last.kl_of_units.items()} == {"z_1": 4, "z_2": 2}
    (tmp_path / "metrics.jsonl").touch()
    files.append(tmp_path, last)
    assert files.read_history(tmp_path) == [last]

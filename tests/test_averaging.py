"""The average of the weights, and the moments of batch normalization over the training set."""

import copy

import pyro
import pytest
import torch

from pyro_vae import VAE, InputError, Position, fit
from pyro_vae.averaging import AVERAGE, TRAINED, Averaging
from pyro_vae.data import load_data
from pyro_vae.history import Callback
from pyro_vae.loop import Loop
from pyro_vae.networks import BatchNorm
from pyro_vae.training import adam

DECAY = 0.9
OPTIONS = {"batch_size": 128, "seed": 1, "progress": False}


@pytest.fixture(scope="module")
def data():
    return load_data("digits", binarize="threshold")


def small(network="mlp"):
    torch.manual_seed(0)
    return VAE((1, 8, 8), 2, hidden=(16,), network=network)


class EndedError(Exception):
    """Ends a training."""


class Weights(Callback):
    """The weights after each step."""

    def __init__(self, vae):
        self.vae, self.each = vae, []

    def on_step(self, images, position):
        self.each.append([p.detach().clone() for p in self.vae.parameters()])


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_average_is_that_of_the_equation(data, optimizer):
    """Training without an average takes the same steps; their weights are averaged by hand."""

    def trained(**options):
        vae = small()
        kind = torch.optim.SGD(vae.parameters(), 1e-5) if optimizer == "sgd" else adam(vae, 1e-3)
        seen = Weights(vae)
        fit(vae, data, epochs=2, optimizer=kind, callback=seen, **OPTIONS, **options)
        return vae, seen.each

    plain, steps = trained()
    averaged, same = trained(average=DECAY)
    expected = steps[0]
    for taken, weights in enumerate(steps[1:], start=2):
        decay = min(DECAY, (1 + taken) / (10 + taken))
        expected = [decay * a + (1 - decay) * w for a, w in zip(expected, weights, strict=True)]
    for one, other in zip(steps[-1], same[-1], strict=True):
        assert torch.equal(one, other)
    for p, a in zip(averaged.parameters(), expected, strict=True):
        torch.testing.assert_close(p, a, rtol=1e-5, atol=1e-7)
    different = [
        not torch.allclose(p, q)
        for p, q in zip(plain.parameters(), averaged.parameters(), strict=True)
    ]
    assert any(different)


def test_the_average_is_what_is_measured(data):
    from pyro_vae.evaluation import elbo

    vae = small()
    history = fit(vae, data, epochs=2, average=DECAY, **OPTIONS)
    assert history[-1].elbo == elbo(vae.model, vae.guide, data.validation, seed=1).elbo


@pytest.mark.parametrize("network", ["mlp", "mlp(batch_norm=True)"])
def test_training_goes_on_to_the_same_bits(data, network):
    """It stops after an epoch and within one; the optimizer holds the other weights."""
    whole = small(network)
    fit(whole, data, epochs=3, average=DECAY, **OPTIONS)

    class Stop(Callback):
        def on_step(self, images, position):
            if (position.epoch, len(position.losses)) == (1, 5):
                self.position = position
                raise EndedError

    vae, stop = small(network), Stop()
    optimizer = adam(vae, 1e-3)
    options = {"average": DECAY, "optimizer": optimizer, **OPTIONS}
    fit(vae, data, epochs=1, **options)
    keys = {key for state in optimizer.state.values() for key in state}
    assert TRAINED in keys
    assert AVERAGE not in keys
    with pytest.raises(EndedError):
        fit(vae, data, epochs=3, start=Position(1), callback=stop, **options)
    fit(vae, data, epochs=3, start=stop.position, **options)
    for p, q in zip(vae.parameters(), whole.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_checkpoint_within_an_epoch_has_the_average_and_the_weights_of_the_steps(data, tmp_path):
    from pyro_vae.storage import checkpoint

    class Save(Callback):
        def on_step(self, images, position):
            if len(position.losses) == 4:
                held = [state[AVERAGE].clone() for state in optimizer.state.values()]
                self.held, self.weights = held, [p.detach().clone() for p in vae.parameters()]
                state = checkpoint.state_of(vae, optimizer, position, "", None)
                checkpoint.save(tmp_path, state)

    vae, save = small(), Save()
    optimizer = adam(vae, 1e-3)
    fit(vae, data, epochs=1, average=DECAY, optimizer=optimizer, callback=save, **OPTIONS)
    read = checkpoint.read(tmp_path)
    again = small()
    again.load_state_dict(read.vae)
    for p, a in zip(again.parameters(), save.held, strict=True):
        assert torch.equal(p, a)
    other = adam(again, 1e-3)
    checkpoint.load_optimizer(tmp_path, read, other)
    for state, w in zip(other.state.values(), save.weights, strict=True):
        assert torch.equal(state[TRAINED], w)
    fit(again, data, epochs=1, average=DECAY, optimizer=other, start=read.position, **OPTIONS)
    for p, q in zip(again.parameters(), vae.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_replayed_step_at_the_beginning_of_an_epoch_has_the_weights_of_the_steps(data):
    from pyro_vae.pair import Pair
    from pyro_vae.runs.replay import Walk
    from pyro_vae.settings import TrainingOptions
    from pyro_vae.training import begun

    after = []
    for replayed in (False, True):
        vae = small()
        optimizer = adam(vae, 1e-3)
        options = {"average": DECAY, "optimizer": optimizer, **OPTIONS}
        fit(vae, data, epochs=1, **options)
        if replayed:
            settings = TrainingOptions(epochs=2, average=DECAY, batch_size=128, seed=1)
            loop = begun(Pair.of(vae), data, settings, optimizer, Position(1))
            walk = Walk(loop, vae)
            walk.keep(Position(1))
            walk.look()
            after.append([p.detach().clone() for p in vae.parameters()])
        else:
            seen = Weights(vae)
            fit(vae, data, epochs=2, start=Position(1), callback=seen, **options)
            after.append(seen.each[0])
    for one, other in zip(*after, strict=True):
        assert torch.equal(one, other)


def test_compiled_steps_average_like_eager_ones(data):
    results = []
    for compiled in (False, True):
        vae = small()
        fit(vae, data, epochs=2, average=DECAY, compiled=compiled, **OPTIONS)
        results.append([p.detach().clone() for p in vae.parameters()])
    for p, q in zip(*results, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_the_moments_of_batch_normalization_are_those_of_the_training_set(data):
    """With one batch that holds all images, they are the moments of what reaches the layer."""
    vae = small("mlp(batch_norm=True)")
    count = len(data.train)
    fit(vae, data, epochs=2, batch_size=count, seed=1, progress=False)
    first = next(m for m in vae.guide.modules() if isinstance(m, BatchNorm))
    seen = []
    before = next(m for m in vae.guide.modules() if isinstance(m, torch.nn.Linear))
    before.register_forward_hook(lambda _, args, out: seen.append(out))
    vae.encode(data.train.batch(slice(None)))
    torch.testing.assert_close(first.running_mean, seen[0].mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first.running_var, seen[0].var(0), rtol=1e-4, atol=1e-5)


def test_the_moments_are_the_means_over_batches(data, monkeypatch):
    """The same as a second layer whose momentum is None, torch's mean over all batches."""
    kept = {}

    def normalize(loop, epoch):
        layers = [m for m in loop.pair.modules[0].modules() if isinstance(m, BatchNorm)]
        before = copy.deepcopy(loop.pair.modules[0].state_dict())
        real(loop, epoch)
        kept["ours"] = [(m.running_mean.clone(), m.running_var.clone()) for m in layers]
        loop.pair.modules[0].load_state_dict(before)
        for m in layers:
            m.reset_running_stats()
            m.momentum = None
        with monkeypatch.context() as patch:
            patch.setattr("pyro_vae.loop.moments_of_data", plain)
            real(loop, epoch)
        kept["torch"] = [(m.running_mean.clone(), m.running_var.clone()) for m in layers]
        for m in layers:
            m.momentum = 0.1

    def plain(layers, batches, run):
        for batch in batches:
            run(batch)

    real = Loop.normalize
    monkeypatch.setattr(Loop, "normalize", normalize)
    fit(small("mlp(batch_norm=True)"), data, epochs=1, **OPTIONS)
    for ours, theirs in zip(kept["ours"], kept["torch"], strict=True):
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("value", [1.0, -0.1, "0.9", float("nan")])
def test_another_decay_is_refused(data, value):
    with pytest.raises(InputError, match=r"average is a number of at least 0 and below 1"):
        fit(small(), data, epochs=1, average=value, **OPTIONS)


def test_an_optimizer_that_holds_other_weights_is_not_used_without_the_average(data):
    """Its steps would go on from the average, and the weights of the steps would be lost."""
    vae = small()
    optimizer = adam(vae, 1e-3)
    fit(vae, data, epochs=1, average=DECAY, optimizer=optimizer, **OPTIONS)
    with pytest.raises(InputError, match="give average, or a new optimizer"):
        fit(vae, data, epochs=2, start=Position(1), optimizer=optimizer, **OPTIONS)


def test_tied_weights_are_averaged_under_both_names(data):
    from pyro_vae.storage import checkpoint

    module = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2, bias=False)})
    module["b"] = torch.nn.Linear(2, 2, bias=False)
    module["b"].weight = module["a"].weight
    optimizer = adam(module, 0.1)
    averaging = Averaging(optimizer, DECAY)
    with averaging.on():
        for _ in range(3):
            averaging.taken += 1
            module["a"].weight.grad = torch.ones(2, 2)
            optimizer.step()
        state = checkpoint.state_of(module, optimizer, Position(), "", None)
        within = state.vae["b.weight"].clone()
    assert torch.equal(within, module["a"].weight)  # which is the average now
    assert torch.equal(state.vae["a.weight"], state.vae["b.weight"])


def test_an_optimizer_of_pyro_is_refused(data):
    with pytest.raises(InputError, match="works with an optimizer of torch, not with a PyroOptim"):
        fit(
            small(), data, epochs=1, average=0.9, optimizer=pyro.optim.Adam({"lr": 1e-3}), **OPTIONS
        )

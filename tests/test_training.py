"""The training loop: its mathematics, its repeatability, and what it does when a loss is lost."""

import copy
import dataclasses
from functools import partial
from itertools import count

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from support.small import assert_equal_weights, small, stripes, weights

from pyro_vae import InputError, elbo, fit, loop
from pyro_vae.compiling import CompiledSVI
from pyro_vae.data import Data, Images
from pyro_vae.errors import TrainingError
from pyro_vae.history import Callback, Position
from pyro_vae.noise import EPOCH, STEP, seed_noise
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.training import adam, pays


@pytest.fixture
def data() -> Data:
    return stripes()


def test_training_learns_what_there_is(data):
    vae = small()
    history = fit(vae, data, epochs=40, batch_size=20, lr=1e-2)
    assert [e.epoch for e in history] == list(range(1, 41))
    # Two equally likely images: log p(x) = -log 2, and no bound lies above it.
    assert -2 < history[-1].elbo < -0.69
    assert history[-1].elbo > history[0].elbo + 5


def test_an_epoch_tells_its_loss_and_the_elbo_in_nats_per_image(data):
    vae = small()
    (record,) = fit(vae, data, epochs=1, batch_size=len(data.train), lr=1e-12)
    test, train = (elbo(vae.model, vae.guide, i, samples=200) for i in (data.test, data.train))
    assert record.loss == pytest.approx(-train.elbo, abs=0.3)
    assert record.elbo == pytest.approx(test.elbo, abs=0.5)
    assert record.elbo == pytest.approx(record.reconstruction - record.kl)


def test_a_step_is_the_step_of_svi(data):
    """One batch an epoch: fit and SVI with Pyro's Adam take the same steps at the same noise."""
    one = small()
    two = copy.deepcopy(one)
    fit(one, data, epochs=5, batch_size=len(data.train), lr=1e-2)
    svi = SVI(two.model, two.guide, pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO())
    for epoch in range(1, 6):
        seed_noise(torch.device("cpu"), 0, EPOCH, epoch)
        order = torch.randperm(len(data.train))
        seed_noise(torch.device("cpu"), 0, STEP, epoch - 1)
        svi.step(data.train.batch(order))
    for name, p in one.named_parameters():
        torch.testing.assert_close(p, dict(two.named_parameters())[name], rtol=1e-4, atol=1e-5)


class Halting(Callback):
    """Stops ``fit`` after some steps, and keeps what is needed to go on."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.position, self.history = Position(), []

    def on_step(self, images, position):
        self.position, self.left = position, self.left - 1
        if self.left == 0:
            raise KeyboardInterrupt

    def on_epoch(self, record):
        self.position = Position(record.epoch)
        self.history.append(record)

    def train(self, vae, data, **settings):
        """Train to the end with many stops; their number."""
        optimizer = adam(vae, 1e-3)
        for stops in count():
            self.left = self.steps
            try:
                fit(vae, data, **settings, optimizer=optimizer, start=self.position, callback=self)
            except KeyboardInterrupt:
                torch.rand(7)  # what happens in between does not matter
            else:
                return stops


def numbers(history):
    return [dataclasses.replace(record, seconds=0.0) for record in history]


@pytest.mark.parametrize(
    ("steps", "stops", "network", "objective", "compiled"),
    [
        (2, 10, "mlp", None, False),
        (1, 21, "mlp(batch_norm=True)", "annealed(epochs=3)", False),
        (5, 1, "mlp(batch_norm=True)", None, True),
    ],
)
def test_training_that_stops_anywhere_and_goes_on_ends_in_the_same_bits(
    data, steps, stops, network, objective, compiled
):
    """Seven batches an epoch, the last one of another size, so six compiled steps are one call."""
    whole = small(network=network)
    parts = copy.deepcopy(whole)
    grey = Images((data.train.pixels * 0.7 + 30).to(torch.uint8))
    data = dataclasses.replace(data, train=grey).binarized("dynamic")
    settings = {"objective": objective, "epochs": 3, "batch_size": 24, "compiled": compiled}
    history = fit(whole, data, **settings)
    halting = Halting(steps)
    assert halting.train(parts, data, **settings) == stops
    assert numbers(halting.history) == numbers(history)
    assert whole.state_dict().keys() == parts.state_dict().keys()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (2, r"start is a pyro_vae\.Position, not 2"),
        (Position(0, torch.zeros(6)), "6 steps after epoch 0, and an epoch of these images has 5"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(data, start, message):
    with pytest.raises(InputError, match=message):
        fit(small(), data, batch_size=32, start=start)


def test_a_start_after_the_last_epoch_trains_nothing(data):
    vae = small()
    twin = copy.deepcopy(vae)
    assert fit(vae, data, epochs=2, start=Position(2), compiled=True) == []
    assert_equal_weights(vae, twin)


def test_the_seed_decides_all_random_numbers(data):
    """Equal seeds end in the same bits, another seed in other weights."""
    start = small()
    one, same, other = (copy.deepcopy(start) for _ in range(3))
    (first,), (second,), (third,) = (
        fit(vae, data, epochs=1, batch_size=20, lr=1e-2, seed=seed)
        for vae, seed in ((one, 7), (same, 7), (other, 8))
    )
    assert_equal_weights(one, same)
    assert first.loss == second.loss
    assert first.elbo == second.elbo
    assert first.loss != third.loss
    others = weights(other)
    assert all((p != others[name]).any() for name, p in weights(one).items())


@pytest.mark.parametrize("test", [1, 20, 300])
def test_the_elbos_of_an_epoch_are_those_of_the_same_images(test):
    """train_elbo is that of the first training images, as many as there are test images."""
    vae, data, seed = small(), stripes(160, test), 5
    record = fit(vae, data, epochs=2, batch_size=20, lr=1e-2, seed=seed)[-1]
    shown = Images(data.train.pixels[:test])
    train = elbo(vae.model, vae.guide, shown, seed=seed)
    bound = elbo(vae.model, vae.guide, data.test, seed=seed)
    assert record.train_elbo == train.elbo
    assert record.elbo == bound.elbo
    assert record.reconstruction == bound.reconstruction
    assert record.kl == bound.kl


class Counting(Callback):
    """Keeps what it is told."""

    def __init__(self):
        self.images, self.epochs = [], []

    def on_step(self, images, position):
        self.images.append(images)

    def on_epoch(self, record):
        self.epochs.append((record.epoch, sum(self.images)))


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(16, [8, 8]), (17, [8, 9]), (19, [8, 8, 3]), (1, [1]), (9, [9])],
)
def test_a_callback_is_told_each_image_once_an_epoch(count, sizes):
    """A last image that would be alone is counted in the batch before it."""
    told = Counting()
    fit(small(), stripes(count), epochs=3, batch_size=8, callback=told)
    assert told.images == 3 * sizes
    assert told.epochs == [(1, count), (2, 2 * count), (3, 3 * count)]


@pytest.mark.parametrize(
    ("objective", "sizes"), [("monte-carlo", [36, 7]), ("annealed", [6, 6, 6, 6, 6, 6, 7])]
)
def test_a_callback_is_told_the_same_number_by_compiled_steps(objective, sizes, monkeypatch):
    """Many compiled steps are one call, unless a schedule moves at each step."""
    monkeypatch.setattr(loop, "CompiledSVI", partial(CompiledSVI, backend="eager"))
    told = Counting()
    settings = {"objective": objective, "batch_size": 6, "compiled": True}
    fit(small(), stripes(43), epochs=2, **settings, callback=told)
    assert told.images == 2 * sizes
    assert told.epochs == [(1, 43), (2, 86)]


def test_training_leaves_the_global_random_state_alone(data):
    torch.manual_seed(3)
    expected = torch.rand(1)
    vae = small()
    torch.manual_seed(3)
    fit(vae, data, epochs=1)
    assert torch.equal(torch.rand(1), expected)


class Poisoned(Trace_ELBO):
    """A loss that is lost at its tenth step."""

    steps = 0

    def loss_and_grads(self, *args, **kwargs):
        self.steps += 1
        loss = super().loss_and_grads(*args, **kwargs)
        return float("nan") if self.steps == 10 else loss


def test_a_lost_loss_stops_training_and_the_last_good_weights_stay(data):
    vae = small()
    twin = copy.deepcopy(vae)
    with pytest.raises(TrainingError, match="became nan in epoch 2, step 2"):
        fit(vae, data, objective=Poisoned(), epochs=5, batch_size=20)
    fit(twin, data, epochs=1, batch_size=20)
    assert_equal_weights(vae, twin)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs is a whole number above 0, not 0"),
        ({"epochs": "3"}, "epochs is a whole number above 0, not '3'"),
        ({"epochs": 1.5}, "epochs is a whole number above 0, not 1.5"),
        ({"epochs": True}, "epochs is a whole number above 0, not True"),
        ({"batch_size": 8.0}, "batch_size is a whole number above 0, not 8.0"),
        ({"lr": -1.0}, "lr is a number above 0, not -1.0"),
        ({"lr": "a"}, "lr is a number above 0, not 'a'"),
        ({"seed": 1.5}, "seed is a whole number from 0 to 4294967295, not 1.5"),
        ({"seed": -1}, "seed is a whole number from 0 to 4294967295, not -1"),
        ({"precision": 16}, "precision is one of the names float32, bfloat16, not 16"),
        ({"objective": "monte"}, "unknown objective 'monte'; did you mean monte-carlo"),
    ],
)
def test_settings_that_do_not_fit_are_refused(data, settings, message):
    with pytest.raises(InputError, match=message):
        fit(small(), data, **settings)


def test_compiled_training_ends_in_the_same_weights(data):
    """True Inductor: the same noise, so the same weights but for rounding; short batch included."""
    eager = small()
    compiled = copy.deepcopy(eager)
    one = fit(eager, data, epochs=3, batch_size=48, lr=1e-2, compiled=False)
    called = []

    class Compiling(Callback):
        def on_compile(self):
            called.append(True)

    two = fit(
        compiled,
        data,
        epochs=3,
        batch_size=48,
        lr=1e-2,
        compiled=True,
        callback=Compiling(),
    )
    assert called == [True]
    for name, p in eager.named_parameters():
        torch.testing.assert_close(p, dict(compiled.named_parameters())[name], rtol=1e-4, atol=1e-5)
    assert two[-1].loss == pytest.approx(one[-1].loss, rel=1e-4)


def test_compiling_pays_for_long_runs_alone():
    assert pays(50 * 468)
    assert not pays(2 * 468)


def test_a_schedule_moves_at_each_step(data):
    objective = OBJECTIVES["annealed"](epochs=1)
    seen = []
    plain = objective.advance
    objective.advance = lambda epoch: (seen.append(epoch), plain(epoch))
    fit(small(), data, objective=objective, epochs=2, batch_size=40)
    assert seen[1:] == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75])

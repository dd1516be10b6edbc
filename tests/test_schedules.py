"""Schedules of the learning rate, and the limit on a step's gradient."""

import math
from itertools import pairwise

import pytest
import torch
from support.commands import TINY, typed
from support.small import digit_data
from torch import nn

from pyro_vae import VAE, InputError, fit
from pyro_vae.history import Callback, Position
from pyro_vae.registry import SCHEDULES
from pyro_vae.runs.folder import load_run, read_config
from pyro_vae.schedules import Burda, Schedule, Steering

HALF = {"constant": 1.0, "cosine": 0.5, "step": 0.1, "iwae": 10 ** (-1)}


@pytest.mark.parametrize("name", SCHEDULES)
def test_each_schedule_falls_from_one(name):
    schedule = SCHEDULES.build(name)
    rates = [schedule(i / 100) for i in range(101)]
    assert rates[0] == 1
    assert all(a >= b >= 0 for a, b in pairwise(rates))
    assert schedule(0.5) == pytest.approx(HALF[name])


def test_the_stages_of_the_iwae_paper():
    """Stage i has 3^i epochs of 3,280 at the rate 0.001 · 10^(-i/7)."""
    expected = [10 ** (-i / 7) for i in range(8) for _ in range(3**i)]
    assert [Burda()(epoch / 3280) for epoch in range(3280)] == pytest.approx(expected)


def test_a_warm_up_rises_in_a_straight_line():
    schedule = SCHEDULES.build("cosine(warmup=0.5, last=0.2)")
    cosine = SCHEDULES.build("cosine(last=0.2)")
    assert [schedule(t) for t in (0, 0.25, 0.5)] == pytest.approx(
        [0, 0.5 * cosine(0.25), cosine(0.5)]
    )
    assert schedule(1) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cosin", "unknown schedule 'cosin'; did you mean cosine"),
        ("cosine(last=1)", "last is a number of at least 0 and below 1, not 1"),
        ("step(at=0.5)", r"at is a list of numbers between 0 and 1, such as \[0.5\], not 0.5"),
        ("step(factor=0)", "factor is a number above 0, not 0"),
        ("constant(warmup='a')", "warmup is a number of at least 0 and below 1, not 'a'"),
    ],
)
def test_wrong_schedules_are_refused(spec, message):
    with pytest.raises(InputError, match=message):
        SCHEDULES.build(spec)


def test_a_limit_scales_the_gradient_and_a_rate_is_that_of_the_schedule():
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    before = [p.detach().clone() for p in layer.parameters()]
    gradients = [torch.randn_like(p) for p in layer.parameters()]
    norm = math.sqrt(sum(g.square().sum().item() for g in gradients))
    steering = Steering(optimizer, "cosine", clip=norm / 40)  # per image; the step has 10 images
    with steering.on():
        steering.next(0.5, 10)
        for p, g in zip(layer.parameters(), gradients, strict=True):
            p.grad = g.clone()
        optimizer.step()
    for p, old, g in zip(layer.parameters(), before, gradients, strict=True):
        torch.testing.assert_close(p, old - 0.5 * 0.5 * g / 4)
    assert optimizer.param_groups[0]["lr"] == 0.5
    for p in layer.parameters():
        p.grad = torch.ones_like(p)
    inside = [p.detach().clone() for p in layer.parameters()]
    optimizer.step()
    for p, old in zip(layer.parameters(), inside, strict=True):
        torch.testing.assert_close(p, old - 0.5)  # neither limited nor scaled any more


class Rates(Schedule):
    """Notes the shares of the training at which it is asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def shape(self, done):
        self.asked.append(done)
        return 1 - done


@pytest.mark.parametrize("compiled", [False, True])
def test_the_rate_of_each_step_is_that_of_its_share_of_the_training(compiled):
    data = digit_data(50)  # 40 to train on: three steps
    vae, rates = VAE(data.shape, 2, hidden=(4,)), Rates()
    fit(vae, data, epochs=2, batch_size=16, schedule=rates, compiled=compiled)
    assert rates.asked == [step / 6 for step in range(6)]


class Stop(Exception):
    pass


class Stopping(Callback):
    """Ends training after some steps."""

    def __init__(self, steps):
        self.left = steps

    def on_step(self, images, position):
        self.position = position
        self.left -= 1
        if self.left == 0:
            raise Stop


def test_a_training_with_schedule_and_limit_goes_on_to_the_same_bits():
    data, how = digit_data(50), {"epochs": 3, "batch_size": 16, "schedule": "cosine", "clip": 0.5}
    states = []
    for stops in (False, True):
        torch.manual_seed(0)
        vae = VAE(data.shape, 2, hidden=(4,))
        optimizer = torch.optim.Adam(vae.parameters(), lr=0.01)
        start = Position()
        if stops:
            stopping = Stopping(6)
            with pytest.raises(Stop):
                fit(vae, data, **how, optimizer=optimizer, compiled=False, callback=stopping)
            start = stopping.position
        fit(vae, data, **how, optimizer=optimizer, compiled=False, start=start)
        states.append(vae.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_compiled_and_eager_steps_agree_under_a_schedule_and_a_limit():
    data, states = digit_data(48), []
    for compiled in (False, True):
        torch.manual_seed(0)
        vae = VAE(data.shape, 2, hidden=(4,))
        fit(
            vae,
            data,
            epochs=3,
            batch_size=16,
            lr=0.01,
            schedule="step",
            clip=0.5,
            compiled=compiled,
        )
        states.append(vae.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-4, atol=1e-5)


def test_an_optimizer_of_pyro_has_its_own():
    import pyro

    data = digit_data(20)
    with pytest.raises(InputError, match="not with a PyroOptim; Pyro's optimizers have clip_args"):
        fit(
            VAE(data.shape, 2, hidden=(4,)),
            data,
            optimizer=pyro.optim.Adam({"lr": 0.01}),
            clip=1.0,
        )


def test_the_command_line_stores_them(tmp_path, capsys):
    run = tmp_path / "run"
    options = ["--schedule", "cosine(warmup=0.1)", "--clip", "5", "--no-compile"]
    assert typed([*TINY, "--epochs", "1", *options, "--out", run]) == 0
    training = read_config(run)["training"]
    assert (training["schedule"], training["clip"]) == ("cosine(warmup=0.1)", 5.0)
    load_run(run)
    assert typed([*TINY, "--clip", "0", "--out", tmp_path / "other"]) == 2
    assert "--clip is a number above 0, not 0" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "other").exists()

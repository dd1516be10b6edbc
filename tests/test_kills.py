"""A run that is killed at any moment, and resumed, ends in the bits of one that never stopped."""

import os
import random
import time

import pytest
from support.commands import typed
from support.kills import Faults, die, forked, state_of

from pyro_vae import figures

SMALL = ["train", "--data", "digits", "--hidden", "8", "--latent", "2", "--batch-size", "512"]
SMALL += ["--epochs", "2", "--objective", "annealed(epochs=2)", "--device", "cpu"]
SMALL += ["--network", "mlp(batch_norm=True)"]
OFTEN = ["--checkpoint-minutes", "1e-9"]  # after each step


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that never stopped, with small files in place of pictures, which take long to draw.

    It runs in this process, so that all forks of it have what was imported.
    """

    def save(*args, **kwargs):
        next(path for path in args if isinstance(path, os.PathLike)).write_bytes(b"picture")

    class Figure:
        savefig = staticmethod(save)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("save_reconstructions", "save_grid"):
            patch.setattr(figures, name, save)
        for name in ("training_curves", "kl_curves"):
            patch.setattr(figures, name, lambda *args: Figure)
        run = tmp_path_factory.mktemp("kills") / "whole"
        assert typed([*SMALL, "--out", run]) == 0
        yield run


class Interrupted:
    """A run that is killed, and then goes on.

    Args:
        whole: the run that never stopped.
        run: the folder of this run.
        options: of both commands.
    """

    def __init__(self, whole, run, *options):
        self.whole, self.run, self.options = whole, run, options
        self.log = run.with_suffix(".log")
        run.parent.mkdir(exist_ok=True)

    def go_on(self, faults=None, after=0.0):
        """Begin the run, or resume it where its folder holds one."""
        if (self.run / "config.json").exists():
            command = ["train", "--resume", self.run, "--device", "cpu", *self.options]
        else:
            command = [*SMALL, "--out", self.run, *self.options]
        return forked(command, self.log, faults, after)

    def check(self, where):
        """The run goes on to the end, and is then the one that never stopped."""
        code, said, _ = self.go_on()
        assert code in (0, 2), (where, said)
        if code == 2:
            assert "already has 2 epochs" in said, (where, said)
        assert state_of(self.run) == state_of(self.whole), where
        names = [{path.name for path in run.rglob("*")} for run in (self.run, self.whole)]
        assert names[0] == names[1], where


def every_place(whole, folder, options, chosen=slice(None)):
    """Kill a run at every place of the disk, and let it go on; the number of places."""
    once = Interrupted(whole, folder / "once", *options)
    code, said, places = once.go_on(Faults(once.run))
    assert code == 0, said
    for at, place in list(enumerate(places))[chosen]:
        run = Interrupted(whole, folder / f"killed-{at}", *options)
        assert run.go_on(Faults(run.run, at, die))[0] == -9, place
        run.check(place)
    return len(places)


def random_moments(whole, folder, count):
    """Kill runs at random moments, some of them several times, and let them go on."""
    began = time.perf_counter()
    Interrupted(whole, folder / "timed").go_on()
    seconds = time.perf_counter() - began
    rng = random.Random(0)
    killed = 0
    for number in range(count):
        run = Interrupted(whole, folder / f"moment-{number}", *(OFTEN if number % 2 else []))
        for _ in range(rng.choice((1, 1, 2, 3))):
            killed += run.go_on(after=rng.uniform(0, seconds))[0] == -9
        run.check(number)
    return killed


def test_a_run_that_is_killed_at_any_write_ends_in_the_same_bits(whole, tmp_path):
    assert every_place(whole, tmp_path, [], slice(0, None, 2)) > 80
    assert random_moments(whole, tmp_path, 6) > 2


@pytest.mark.slow
def test_a_run_that_is_killed_at_every_write_and_moment_ends_in_the_same_bits(whole, tmp_path):
    assert every_place(whole, tmp_path / "epochs", []) > 80
    assert every_place(whole, tmp_path / "steps", OFTEN) > 150
    assert random_moments(whole, tmp_path, 50) > 25

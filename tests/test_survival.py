"""Signals, full disks, locks, changed data and lost losses: what a run says, and what it keeps."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.commands import TINY, typed
from support.kills import Faults, forked, state_of

from pyro_vae.data import load_data
from pyro_vae.errors import InputError
from pyro_vae.runs import working
from pyro_vae.runs.folder import load_run, read_history
from pyro_vae.runs.locking import locked
from pyro_vae.runs.stopping import Signals, Stopped
from pyro_vae.storage import checkpoint

RUN = [*TINY, "--device", "cpu", "--no-compile"]


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory):
    """A run of two epochs. Tests must not change it."""
    run = tmp_path_factory.mktemp("runs") / "two"
    assert typed([*RUN, "--epochs", "2", "--out", run]) == 0
    return run


def said(capsys):
    return " ".join(capsys.readouterr().err.split())


def at_step(monkeypatch, number, action):
    """Do something before the callback of a step."""
    steps = iter(range(10**6))
    on_step = working.Keeper.on_step

    def callback(self, images, position):
        if next(steps) == number:
            action()
        on_step(self, images, position)

    monkeypatch.setattr(working.Keeper, "on_step", callback)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_training_after_the_step_and_the_run_goes_on_to_the_same_bits(
    number, code, two_epochs, tmp_path, monkeypatch, capsys
):
    run = tmp_path / "run"
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    at_step(monkeypatch, 7, lambda: os.kill(os.getpid(), number))
    assert typed([*RUN, "--epochs", "2", "--checkpoint-minutes", "5", "--out", run]) == code
    again = f"pyro-vae train --resume {run} --checkpoint-minutes 5.0 --device cpu"
    assert said(capsys) == f"Stopped. The run is in {run}; continue it with: {again}"
    state = checkpoint.read(run)
    assert (state.position.epoch, len(state.position.losses)) == (1, 2)  # six steps an epoch
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    monkeypatch.undo()
    assert typed(["train", "--resume", run]) == 0
    assert state_of(run) == state_of(two_epochs)


def test_a_second_interrupt_leaves_at_once_with_the_last_checkpoint(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"

    def twice():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # as a scheduler may
        os.kill(os.getpid(), signal.SIGINT)

    at_step(monkeypatch, 7, twice)
    assert typed([*RUN, "--epochs", "2", "--out", run]) == 130
    assert "continue it with" in said(capsys)
    assert checkpoint.read(run).position.epoch == 1


def test_a_signal_before_training_leaves_no_run(tmp_path, monkeypatch, capsys):
    from pyro_vae.runs import setup

    monkeypatch.setattr(setup, "prepare", lambda *args: os.kill(os.getpid(), signal.SIGTERM))
    assert typed([*RUN, "--out", tmp_path / "run"]) == 143
    assert said(capsys) == "Stopped. There is no run yet."
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.5])
def test_a_signal_while_modules_are_imported_has_no_traceback(seconds, tmp_path):
    command = [sys.executable, "-m", "pyro_vae", *map(str, RUN), "--epochs", "500"]
    process = subprocess.Popen(
        [*command, "--out", tmp_path / "run"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)  # the latter before Python runs our code
    assert b"Traceback" not in error


def test_signals_outside_of_the_command_are_python_s_own():
    """``fit`` in a notebook is ended by KeyboardInterrupt, and another thread sets no handlers."""
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(Stopped) as stop, Signals():
        signal.raise_signal(signal.SIGINT)
    assert stop.value.exit_code == 130
    entered = []
    thread = threading.Thread(target=lambda: entered.append(Signals().__enter__().before))
    thread.start()
    thread.join()
    assert entered == [{}]


def fail(number):
    def raise_error():
        raise OSError(number, os.strerror(number))

    return raise_error


def test_a_disk_that_fails_at_any_write_is_one_sentence_and_the_checkpoint_stays(
    two_epochs, tmp_path
):
    """The write fails before and in the middle; the run then goes on to the same bits."""
    log, whole = tmp_path / "log", tmp_path / "whole"
    _, _, places = forked([*RUN, "--epochs", "2", "--out", whole], log, Faults(whole))
    failing = [at for at, place in enumerate(places) if place.startswith(("write half", "fsync b"))]
    failing = [at for at in failing if "png" not in places[at]]
    for at in failing[::3]:
        run = tmp_path / f"run-{at}"
        faults = Faults(run, at, fail(errno.ENOSPC))
        code, text, _ = forked([*RUN, "--epochs", "2", "--out", run], log, faults)
        assert code == 1, (places[at], text)
        assert "No space left on device" in text
        assert "Traceback" not in text
        if (run / "config.json").exists():
            code, text, _ = forked(["train", "--resume", run, "--device", "cpu"], log)
            assert code == 0, (places[at], text)
        else:
            assert forked([*RUN, "--epochs", "2", "--out", run], log)[0] == 0
        assert state_of(run) == state_of(two_epochs), places[at]


def test_a_folder_that_is_removed_is_one_sentence_and_is_not_made_again(
    tmp_path, monkeypatch, capsys
):
    run = tmp_path / "run"
    at_step(monkeypatch, 2, lambda: shutil.rmtree(run))
    options = ["--checkpoint-minutes", "1e-9", "--epochs", "2", "--out", run]
    assert typed([*RUN, *options]) == 1
    assert "the run folder is gone" in said(capsys)
    assert not run.exists()


def test_a_second_process_is_refused_with_the_first_one_s_host_and_process(
    two_epochs, tmp_path, capsys
):
    run = tmp_path / "run"
    shutil.copytree(two_epochs, run)
    before = state_of(run)
    with locked(run):
        assert typed(["train", "--resume", run, "--epochs", "3"]) == 2
        sentence = said(capsys)
    assert f"host {os.uname().nodename}, process id {os.getpid()}" in sentence
    assert state_of(run) == before
    assert json.loads((run / "config.json").read_text())["training"]["epochs"] == 2
    # The file of a process that was killed is still there, and its lock is not.
    (run / "lock").write_text('{"host": "elsewhere", "pid": 1}')
    assert typed(["train", "--resume", run, "--epochs", "3"]) == 0
    assert not (run / "lock").exists()


def test_one_of_many_processes_takes_the_lock(tmp_path):
    """Each of 4 processes takes and returns the lock 50 times; no two hold it together."""
    count = tmp_path / "count"
    count.write_text("0")
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            taken = 0
            while taken < 50:
                try:
                    with locked(tmp_path / "run"):
                        number = int(count.read_text())
                        count.write_text(str(number + 1))
                        taken += 1
                except InputError:
                    time.sleep(0.001)
            os._exit(0)
        children.append(child)
    assert {os.waitpid(child, 0)[1] for child in children} == {0}
    assert count.read_text() == "200"


def arrays(path, change):
    pixels = np.random.RandomState(0).randint(256, size=(40, 6, 5), dtype=np.uint8)
    change(pixels)
    np.save(path, pixels)


def test_a_run_does_not_go_on_with_other_images_unless_it_is_told_to(tmp_path, capsys):
    images, run = tmp_path / "images.npy", tmp_path / "run"
    arrays(images, lambda pixels: None)
    ask = ["train", "--data", images, "--hidden", "4", "--latent", "2", "--epochs", "1"]
    assert typed([*ask, "--out", run]) == 0
    assert typed(["evaluate", run, "--samples", "2"]) == 0
    assert "not those that the run was trained on" not in said(capsys)
    arrays(images, lambda pixels: pixels.__setitem__((3, 2, 2), pixels[3, 2, 2] ^ 1))
    before = state_of(run)
    assert typed(["train", "--resume", run, "--epochs", "2"]) == 2
    sentence = said(capsys)
    assert "are not those that the run was trained on" in sentence
    assert "--other-data" in sentence
    assert state_of(run) == before
    assert json.loads((run / "config.json").read_text())["training"]["epochs"] == 1
    for use in (["evaluate", run, "--samples", "2"], ["score", run, "--out", tmp_path / "s.csv"]):
        assert typed(use) == 0
        assert "not those that the run was trained on" in said(capsys)
    assert typed(["train", "--resume", run, "--epochs", "2", "--other-data"]) == 0
    assert typed(["train", "--resume", run, "--epochs", "3"]) == 0
    assert typed([*ask, "--other-data", "--out", tmp_path / "new"]) == 2


def test_the_checksum_changes_with_pixels_labels_order_and_split():
    data = load_data("digits")
    order = torch.arange(len(data.train)).flip(0)
    labels = data.train.labels.clone()
    labels[0] = (labels[0] + 1) % 10
    pixels = data.train.pixels.clone()
    pixels[0, 0, 0, 0] ^= 1
    others = [
        replace(data, train=data.train.subset(order)),
        replace(data, train=replace(data.train, labels=labels)),
        replace(data, train=replace(data.train, labels=None)),
        replace(data, train=replace(data.train, pixels=pixels)),
        replace(data, train=data.train.joined(data.test), test=data.test.subset(order[:0])),
        replace(data, validation=data.validation.first(100)),
        replace(data, validation=None),
    ]
    sums = {each.checksum() for each in (data, *others)}
    assert len(sums) == 8
    assert load_data("digits").checksum() == data.checksum()


@pytest.mark.parametrize("average", [[], ["--average", "0.9"]], ids=["plain", "averaged"])
def test_a_lost_loss_is_replayed_to_its_first_site_and_parameter(average, tmp_path, capsys):
    """The learning rate breaks the weights in step 1, and in step 2 σ of the guide is infinite."""
    run = tmp_path / "run"
    ask = [*RUN, "--epochs", "3", "--lr", "30", "--checkpoint-minutes", "1e-9", *average]
    assert typed([*ask, "--out", run]) == 1
    assert f"pyro-vae train --replay {run}" in said(capsys)
    failure = json.loads((run / "failed.json").read_text())
    assert (failure["epoch"], failure["step"], failure["seed"]) == (1, 2, 0)
    assert len(failure["images"]) == len(set(failure["images"])) == 256
    before = state_of(run)
    assert checkpoint.read(run).position.losses.isfinite().all()
    assert load_run(run)[0].sample(1).isfinite().all()
    assert typed(["train", "--replay", run, "--device", "cpu"]) == 0
    lines = capsys.readouterr().out
    assert "Epoch 1, step 2 of 6: the loss became nan." in lines
    assert "First site: 'z' of the guide, Normal; its scale is inf in all entries." in lines
    assert "has a gradient that is not finite." in lines
    assert state_of(run) == before


def test_only_a_failed_run_is_replayed(two_epochs, capsys):
    assert typed(["train", "--replay", two_epochs]) == 2
    assert "there is nothing to replay" in said(capsys)
    assert typed(["train", "--replay", two_epochs, "--lr", "3"]) == 2
    assert "--lr cannot be given" in said(capsys)


def test_weights_that_are_lost_are_never_saved(tmp_path, monkeypatch):
    """A weight that no later loss of the epoch reads; a checkpoint is written after each step."""
    run = tmp_path / "run"
    keepers = []
    init = working.Keeper.__init__
    monkeypatch.setattr(
        working.Keeper, "__init__", lambda self, *args: (init(self, *args), keepers.append(self))[0]
    )

    def lose():
        with torch.no_grad():
            next(iter(keepers[0].run.vae.parameters()))[0] = torch.nan

    at_step(monkeypatch, 4, lose)
    assert typed([*RUN, "--epochs", "2", "--checkpoint-minutes", "1e-9", "--out", run]) == 1
    state = checkpoint.read(run)
    assert len(state.position.losses) == 4
    assert all(value.isfinite().all() for value in state.vae.values())


def test_a_resumed_run_compiles_as_the_user_said_at_first(tmp_path, monkeypatch):
    chosen = []
    fit = working.fit
    monkeypatch.setattr(
        working, "fit", lambda *a, **k: (chosen.append(k["compiled"]), fit(*a, **k))[1]
    )
    run = tmp_path / "run"
    assert typed([*RUN, "--epochs", "1", "--out", run]) == 0
    assert typed(["train", "--resume", run, "--epochs", "2"]) == 0
    assert chosen == [False, False]


def test_the_end_of_a_run_that_was_killed_before_its_pictures_is_made_again(two_epochs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(two_epochs, run)
    for name in ("samples/epoch_0002.png", "training.png"):
        (run / name).unlink()
    before = state_of(run)
    assert typed(["train", "--resume", run]) == 0
    assert (run / "samples/epoch_0002.png").is_file()
    assert (run / "training.png").is_file()
    assert state_of(run) == before
    assert [e.epoch for e in read_history(run)] == [1, 2]
    assert typed(["train", "--resume", run]) == 2


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_minutes_that_make_no_sense_are_refused(minutes, tmp_path, capsys):
    assert typed([*RUN, "--checkpoint-minutes", minutes, "--out", tmp_path / "run"]) == 2
    assert "--checkpoint-minutes is a number above 0" in said(capsys)
    assert not (tmp_path / "run").exists()


def test_a_refusal_comes_before_the_bar(two_epochs, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(two_epochs, run)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text(lines[1] + lines[0])
    assert typed(["train", "--resume", run, "--epochs", "3"]) == 2
    told = capsys.readouterr()
    assert "does not hold the numbers of epochs 1 to 2" in " ".join(told.err.split())
    assert told.out == ""

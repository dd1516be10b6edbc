"""Each process notices which other one is gone."""

import time
from types import SimpleNamespace

import pytest
import torch.distributed as dist

from pyro_vae import InputError
from pyro_vae.interrupt import Interrupt
from pyro_vae.ranks import alive, joining

NAMES = ["host a, process id 10", "host b, process id 11", "host b, process id 12"]


@pytest.fixture
def quick(monkeypatch):
    """Seconds become hundredths of seconds."""
    monkeypatch.setattr(alive, "BEAT", 0.02)
    monkeypatch.setattr(alive, "FEW", 0.3)


@pytest.fixture
def watches(quick):
    """The watches of three processes; here they are threads of one."""
    store = dist.HashStore()
    for rank in range(3):
        store.set(f"beat/{rank}", "0")
    made = [alive.Watch(store, rank, NAMES) for rank in range(3)]
    for watch in made:
        watch.start()
    yield made
    for watch in made:
        watch.stop()


def test_a_silent_process_is_named_by_the_others(watches):
    watches[1].over.set()
    for watch in (watches[0], watches[2]):
        assert watch.lost() == (
            "process 1 (host b, process id 11) ended or cannot be reached, so this training stops"
        )


def test_nobody_is_named_while_all_are_alive(watches):
    assert watches[0].silent(0.3) == []
    assert "a connection between the processes" in watches[0].lost()


def test_a_process_that_left_is_named_if_the_training_breaks(watches):
    watches[1].stop()
    time.sleep(0.5)
    assert watches[0].silent(0.3) == []
    assert watches[0].lost().startswith("process 1 (host b, process id 11) ended")


def test_a_process_that_waits_for_a_dead_one_ends(watches, monkeypatch, capsys):
    ended = []
    monkeypatch.setattr(alive, "PATIENCE", 0.5)
    monkeypatch.setattr(alive.os, "_exit", ended.append)
    for watch in watches:
        watch.advice = lambda: "continue it with: pyro-vae"
    watches[2].over.set()
    limit = time.monotonic() + 20
    while len(ended) < 2 and time.monotonic() < limit:
        time.sleep(0.01)
    assert set(ended) == {1}
    said = capsys.readouterr().err
    assert "Error: process 2 (host b, process id 12) ended" in said
    assert "continue it with: pyro-vae" in said


def test_the_error_of_one_process_ends_the_others(watches, monkeypatch, capsys):
    ended = []
    monkeypatch.setattr(alive.os, "_exit", ended.append)
    assert not watches[1].told()
    watches[0].stop(failed=True)  # it waits until the others have left
    assert ended == [1, 1]
    assert watches[1].told()
    assert capsys.readouterr().err == ""  # the first one says its error


def test_a_process_that_ignores_ctrl_c_asks_the_others_as_they_ask_it():
    """A process in the background of a shell ignores SIGINT. If it did not ask, the messages
    between the processes would be taken for each other."""
    asked = []

    def largest(number):  # the other process handles Ctrl-C, and it was pressed there
        asked.append(number)
        return 1

    interrupt = Interrupt(SimpleNamespace(largest=largest))
    interrupt.on_start()
    interrupt.__exit__()
    interrupt.installed = False
    assert interrupt.is_over()
    assert len(asked) == 2


def test_the_port_0_is_refused_instead_of_waiting(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "0")
    with pytest.raises(InputError, match=r"given the port 0, .* leave .* --master-port out"):
        joining.met()

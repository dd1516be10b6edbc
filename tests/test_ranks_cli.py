"""``torchrun ... pyro_vae train``: one folder, one set of numbers, and an end that is said."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.commands import typed
from support.ranks import command, launch

SMALL = ["train", "--data", "digits", "--hidden", "8", "--latent", "2", "--batch-size", "256"]
SMALL += ["--device", "cpu", "--no-compile", "--pictures", "100000"]


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def logs(folder):
    """What each process says, without the line that Gloo of torch 2.8 writes."""
    texts = [(folder / f"log-{rank}").read_text() for rank in (0, 1)]
    return [re.sub(r"^\[Gloo\] .*\n", "", text, flags=re.M) for text in texts]


def epoch_of(run):
    """The number of epochs that a run has."""
    try:
        return len(metrics(run))
    except FileNotFoundError:
        return 0


def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    one, run = tmp_path / "one", tmp_path / "run"
    assert typed([*SMALL, "--epochs", "3", "--out", one]) == 0
    assert launch(2, command, [*SMALL, "--epochs", "1", "--out", run], tmp_path) == [0, 0]
    first, second = logs(tmp_path)
    assert first.count("validation ELBO") == 1
    assert second == ""  # one process says everything
    assert typed(["train", "--resume", run, "--epochs", "2", "--device", "cpu"]) == 0
    again = ["train", "--resume", str(run), "--epochs", "3", "--device", "cpu", "--no-compile"]
    assert launch(2, command, again, None) == [0, 0]
    for ours, theirs in zip(metrics(run), metrics(one), strict=True):
        for name in ("loss", "train_elbo", "elbo", "kl"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name
    weights = load_file(one / "checkpoint.safetensors")
    for name, value in load_file(run / "checkpoint.safetensors").items():
        np.testing.assert_allclose(value, weights[name], atol=1e-5, err_msg=name)
    assert not (run / "lock").exists()


def stopped(arguments, run, folder):
    """Run the command; a signal comes to the second process only, after the second epoch."""
    if os.environ["RANK"] == "1":

        def send():
            while epoch_of(run) < 2:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=send, daemon=True).start()
    return command(arguments, folder)


def test_a_signal_to_one_process_ends_all_after_the_same_step(tmp_path):
    run = tmp_path / "run"
    arguments = [*SMALL, "--epochs", "100000", "--out", str(run)]
    assert launch(2, stopped, arguments, run, tmp_path) == [143, 143]
    first, second = logs(tmp_path)
    command = f"torchrun --nproc-per-node 2 -m pyro_vae train --resume {run}"
    assert f"continue it with: {command}" in first.replace("\n", "")
    assert second == ""
    done = len(metrics(run))
    assert typed(["train", "--resume", run, "--epochs", done + 1, "--device", "cpu"]) == 0
    whole = tmp_path / "whole"
    assert typed([*SMALL, "--epochs", done + 1, "--out", whole]) == 0
    for ours, theirs in zip(metrics(run), metrics(whole), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


def missing_data(arguments, folder):
    """Run the command, in the second process where the data is not there."""
    own = ["--data", str(folder / "nothing")] if os.environ["RANK"] == "1" else []
    return command([*arguments, *own], folder)


def test_the_error_of_one_process_is_said_once_and_ends_all(tmp_path):
    run = tmp_path / "run"
    arguments = [*SMALL, "--epochs", "2", "--out", str(run)]
    codes = launch(2, missing_data, arguments, tmp_path)
    assert codes[1] == 2
    assert codes[0] != 0
    first, second = logs(tmp_path)
    assert "Process 1 of 0 to 1:" in second
    assert "nothing" in second
    assert "Traceback" not in first + second


def test_an_error_of_all_processes_is_said_by_the_first(tmp_path):
    arguments = [*SMALL, "--batch-size", "1", "--out", str(tmp_path / "run")]
    assert launch(2, command, arguments, tmp_path) == [2, 2]
    first, second = logs(tmp_path)
    assert "cannot be shared by 2 processes" in first
    assert second == ""
    assert not (tmp_path / "run").exists()


def other_rate(arguments, folder):
    """Run the command with another learning rate in each process."""
    return command([*arguments, "--lr", f"0.00{os.environ['RANK']}1"], folder)


def test_settings_that_differ_are_refused_by_their_name(tmp_path):
    arguments = [*SMALL, "--out", str(tmp_path / "run")]
    assert launch(2, other_rate, arguments, tmp_path) == [2, 2]
    assert "same lr" in logs(tmp_path)[0].replace("\n", " ")
    assert not (tmp_path / "run").exists()


def test_other_commands_and_restarts_without_a_folder_are_refused(monkeypatch, capsys):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert typed(["compare", "--guides", "mean-field,iaf"]) == 2
    assert "compare --jobs N trains N VAEs" in capsys.readouterr().err.replace("\n", " ")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")
    assert typed([*SMALL]) == 2
    assert "give --out FOLDER" in capsys.readouterr().err.replace("\n", " ")


def child_of_rank(parent, rank):
    """The process id of a rank that a torchrun started."""
    for folder in os.listdir("/proc"):
        if folder.isdigit():
            try:
                status = Path(f"/proc/{folder}/stat").read_text().rpartition(")")[2].split()
                told = Path(f"/proc/{folder}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if int(status[1]) == parent and f"RANK={rank}".encode() in told:
                return int(folder)
    return None


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc to find a process")
def test_torchrun_starts_again_from_the_last_checkpoint(tmp_path):
    """A rank is killed; the other one names it, and all go on with the run."""
    run, log = tmp_path / "run", tmp_path / "log"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    torchrun += ["--max-restarts", "1", "--standalone"]
    epochs = 40
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*torchrun, "-m", "pyro_vae", *SMALL, "--epochs", str(epochs), "--out", str(run)],
            stdout=file,
            stderr=file,
        )
        try:
            limit = time.monotonic() + 120
            while epoch_of(run) < 2 and time.monotonic() < limit:
                time.sleep(0.01)
            os.kill(child_of_rank(process.pid, 1), signal.SIGKILL)
            assert process.wait(180) == 0, log.read_text()
        finally:
            process.kill()
    said = log.read_text()
    assert "process 1 (host" in said
    assert "ended or cannot be reached" in said
    assert said.count("epoch 1/") == 1  # it goes on, and does not begin again
    assert [record["epoch"] for record in metrics(run)] == [*range(1, epochs + 1)]

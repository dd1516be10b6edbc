"""What a stranger, or a slip, can put into a run folder that is to be trained further."""

import json
import os

import pytest
from support.commands import TINY, typed

QUICK = [*TINY, "--epochs", "2", "--no-compile"]


@pytest.fixture
def run(tmp_path):
    assert typed([*QUICK, "--out", tmp_path / "run"]) == 0
    return tmp_path / "run"


def refused(run, capsys, *more):
    """The sentence with which training of the run is refused."""
    capsys.readouterr()
    assert typed(["train", *(more or ["--resume", run, "--epochs", "3", "--no-compile"])]) == 2
    return " ".join(capsys.readouterr().err.split())


def test_a_link_in_the_place_of_the_lock_is_not_followed(run, tmp_path, capsys):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (run / "lock").symlink_to(precious)
    assert "is not a file" in refused(run, capsys)
    assert precious.read_text() == "precious"
    (run / "lock").unlink()
    (run / "lock").symlink_to(tmp_path / "new")
    assert "is not a file" in refused(run, capsys)
    assert not (tmp_path / "new").exists()
    (run / "lock").unlink()
    os.mkfifo(run / "lock")
    assert "is not a file" in refused(run, capsys)


def test_a_run_that_is_not_there_is_not_made(tmp_path, capsys):
    assert "there is no run folder" in refused(tmp_path / "other", capsys)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "edit",
    [
        {"kl_of_units": {"z": [1.0] * 50}},
        {"kl_of_units": {"z": []}},
        {"kl_of_units": {}, "kl_of_sites": {}},
        {"kl_of_units": {}, "kl_of_sites": {"w": 1.0}},
        {"seconds": 10**400},
        {"elbo": float("nan")},
    ],
    ids=str,
)
def test_numbers_of_other_latents_are_refused_before_training(edit, run, capsys):
    path = run / "metrics.jsonl"
    first, second = map(json.loads, path.read_text().splitlines())
    path.write_text(json.dumps(first | edit) + "\n" + json.dumps(second) + "\n")
    before = (run / "checkpoint.safetensors").read_bytes()
    assert "metrics.jsonl" in refused(run, capsys)
    assert (run / "checkpoint.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"epoch": "1"}, "is damaged"),
        ({"epoch": None}, "is damaged"),
        ({"epoch": -5}, "is damaged"),
        ({"images": ["a"]}, "is damaged"),
        ({"epoch": 10**9}, "the run's checkpoint is at epoch 2 of 9"),
        ({"epoch": 1}, "the run's checkpoint is at epoch 2 of 9"),
    ],
    ids=str,
)
def test_a_failure_that_cannot_be_is_not_replayed(edit, words, run, capsys):
    config = json.loads((run / "config.json").read_text())
    config["training"]["epochs"] = 9
    (run / "config.json").write_text(json.dumps(config))
    failure = {"what": "x", "epoch": 3, "step": 1, "seed": 0, "images": [1]}
    (run / "failed.json").write_text(json.dumps(failure | edit))
    assert words in refused(run, capsys, "--replay", run)


@pytest.mark.parametrize("option", ["--epochs", "--batch-size"])
def test_numbers_that_a_config_cannot_hold_are_refused(option, tmp_path, capsys):
    said = refused(None, capsys, *QUICK[1:], option, "9" * 20, "--out", tmp_path / "run")
    assert "is at most 1,000,000,000" in said
    assert not (tmp_path / "run").exists()

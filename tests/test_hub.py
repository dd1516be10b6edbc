"""A run goes to a hub and comes back, and a stranger's repository is checked."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial

import pytest
import torch
from support.commands import typed
from support.hub import local_hub

import pyro_vae
from pyro_vae import VAE
from pyro_vae.runs.folder import load_run, read_history
from pyro_vae.storage import checkpoint

huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def hub(monkeypatch):
    """A local stand-in for the hub. Nothing is sent to another machine."""
    with local_hub() as hub:
        at(hub, monkeypatch)
        yield hub


def at(hub, monkeypatch):
    """Let the commands of this process use a hub. Another process would read HF_ENDPOINT."""
    api = partial(huggingface_hub.HfApi, endpoint=hub.address, token="hf_of_this_test")
    monkeypatch.setattr(huggingface_hub, "HfApi", api)


@pytest.fixture
def run(trained, tmp_path):
    """A run folder that a test may spoil, with a file that is not a run's."""
    folder = shutil.copytree(trained, tmp_path / "run")
    (folder / "secret.txt").write_text("mine")
    return folder


def one_sentence(capsys):
    said = capsys.readouterr().err.strip()
    assert said.startswith("Error: ")
    assert "\n" not in said
    return said


def test_a_run_goes_to_the_hub_and_comes_back(hub, run, tmp_path, capsys):
    config = json.loads((run / "config.json").read_text())
    config["data"]["name"] = "/home/me/pictures"
    (run / "config.json").write_text(json.dumps(config))
    assert typed(["push", run, "me/digits", "--private"]) == 0
    assert "me/digits" in capsys.readouterr().out
    assert hub.private == {"me/digits": True}
    sent = hub.repositories["me/digits"]
    assert sent.keys() == {
        "README.md",
        "checkpoint.safetensors",
        "config.json",
        "kl.png",
        "metrics.jsonl",
        "reconstructions/epoch_0002.png",
        "samples/epoch_0002.png",
        "training.png",
    }
    assert b"/home/me" not in b"".join(sent.values())
    back = tmp_path / "back"
    ask = [sys.executable, "-m", "pyro_vae", "pull", "me/digits", "--out", back]
    subprocess.run(ask, env={**os.environ, "HF_ENDPOINT": hub.address}, check=True)
    files = {str(file.relative_to(back)) for file in back.rglob("*") if file.is_file()}
    assert files == sent.keys()
    vae, config = load_run(back)
    assert config["data"]["name"] == "pictures"
    state = load_run(run)[0].state_dict()
    assert all(torch.equal(value, state[name]) for name, value in vae.state_dict().items())
    assert read_history(back) == read_history(run)
    assert checkpoint.read(run).optimizer
    assert not checkpoint.read(back).optimizer


def test_a_run_without_the_state_of_its_optimizer_is_not_trained_further(hub, trained, tmp_path):
    back = tmp_path / "back"
    assert typed(["push", trained, "me/digits"]) == 0
    assert typed(["pull", "me/digits", "--out", back]) == 0
    assert typed(["sample", back, "--n", "1", "--out", tmp_path / "a.png"]) == 0
    before = (back / "checkpoint.safetensors").read_bytes()
    assert typed(["train", "--resume", back, "--epochs", "3", "--no-compile"]) == 2
    assert (back / "checkpoint.safetensors").read_bytes() == before


def test_a_saved_vae_goes_to_the_hub_with_its_card(hub, tmp_path):
    VAE((1, 8, 8), latent_size=2, hidden=(4,)).save(tmp_path / "saved")
    assert typed(["push", tmp_path / "saved", "me/saved"]) == 0
    sent = hub.repositories["me/saved"]
    assert sent.keys() == {"README.md", "checkpoint.safetensors", "config.json"}
    assert b"was saved from Python" in sent["README.md"]
    assert not (tmp_path / "saved" / "README.md").exists()
    assert typed(["pull", "me/saved", "--out", tmp_path / "back"]) == 0
    assert pyro_vae.load(tmp_path / "back").sample(1).shape == (1, 1, 8, 8)


def test_what_is_not_a_run_is_not_sent(hub, run, tmp_path, capsys):
    assert typed(["push", tmp_path, "me/folder"]) == 2
    assert "lacks config.json" in one_sentence(capsys)
    (run / "README.md").symlink_to(run / "secret.txt")
    assert typed(["push", run, "me/folder"]) == 2
    assert "README.md' is a link and is not sent" in one_sentence(capsys)
    assert hub.repositories == {}


def test_a_repository_of_a_stranger_is_checked_and_leaves_nothing(hub, run, tmp_path, capsys):
    assert typed(["push", run, "me/digits"]) == 0
    good, out = hub.repositories["me/digits"], tmp_path / "back"
    classy = good["config.json"].replace(b'"standard-normal"', b'"os:system"')
    for change, said in (
        ({"config.json": classy}, "'me/digits/config.json' names the class os:system"),
        ({"config.json": b"{}"}, "'me/digits/config.json' lacks"),
        ({"checkpoint.safetensors": b"\x80\x04."}, "is not a safetensors file"),
        ({"metrics.jsonl": b"[]\n"}, "line 1 of 'me/digits/metrics.jsonl'"),
    ):
        hub.repositories["me/digits"] = good | change
        assert typed(["pull", "me/digits", "--out", out]) == 2
        assert said in one_sentence(capsys)
        assert not out.exists()
    hub.repositories["me/digits"] = {k: v for k, v in good.items() if k != "config.json"}
    assert typed(["pull", "me/digits", "--out", out]) == 2
    assert "it lacks config.json" in one_sentence(capsys)
    hub.repositories["me/digits"] = good | {
        "../outside": b"",
        "samples/epoch_/../../../outside.png": b"",
        "run.py": b"",
    }
    assert typed(["pull", "me/digits", "--out", out]) == 0
    assert not list(tmp_path.rglob("outside*"))
    assert not (out / "run.py").exists()
    capsys.readouterr()
    assert typed(["pull", "me/digits", "--out", out]) == 2
    assert "is there already; name a new folder" in one_sentence(capsys)


@pytest.mark.parametrize("command", ["push", "pull"])
def test_a_hub_that_fails_is_one_sentence(hub, run, tmp_path, command, capsys):
    rest = [run, "me/digits"] if command == "push" else ["me/digits", "--out", tmp_path / "back"]
    hub.status = 403
    assert typed([command, *rest]) == 1
    assert "the hub cannot be reached or refuses 'me/digits'" in one_sentence(capsys)
    hub.status = 0
    if command == "pull":
        assert typed([command, *rest]) == 2
        assert "the hub has no repository 'me/digits'" in one_sentence(capsys)
    rest = [("a name/b/c" if each == "me/digits" else each) for each in rest]
    assert typed([command, *rest]) == 2
    assert "is named like user/name" in one_sentence(capsys)
    assert not (tmp_path / "back").exists()


def test_a_hub_that_is_not_there_is_one_sentence(run, tmp_path, capsys, monkeypatch):
    with local_hub() as hub:
        at(hub, monkeypatch)
    for rest in (["pull", "me/a", "--out", tmp_path / "back"], ["push", run, "me/a"]):
        assert typed(rest) == 1
        assert "the hub cannot be reached" in one_sentence(capsys)


def test_without_the_extra_the_line_that_installs_it_is_printed(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for rest in (["pull", "me/a", "--out", tmp_path / "back"], ["push", run, "me/a"]):
        assert typed(rest) == 2
        assert "pip install huggingface_hub" in one_sentence(capsys)

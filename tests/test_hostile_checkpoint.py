"""A checkpoint from a stranger is refused in one sentence, whatever is in it."""

import json
import os
import pickle
import shutil
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.commands import typed

from pyro_vae import InputError, load
from pyro_vae.storage import checkpoint

NAME = "checkpoint.safetensors"
WEIGHT = "vae.guide.posterior.head.bias"


@pytest.fixture
def run(trained, tmp_path):
    """A run folder that a test may spoil."""
    return shutil.copytree(trained, tmp_path / "run")


def spoil(run, tensors=None, about=None, metadata=None):
    """Write the checkpoint again with other tensors, other facts or other metadata.

    Args:
        run: the run folder.
        tensors: changes the dict of tensors.
        about: facts that replace those in the metadata.
        metadata: the whole text in place of the facts.
    """
    with safe_open(run / NAME, framework="pt") as file:
        facts = json.loads(file.metadata()["pyro_vae"])
    state = load_file(run / NAME)
    if tensors is not None:
        tensors(state)
    text = json.dumps(facts | (about or {})) if metadata is None else metadata
    save_file(state, run / NAME, {"pyro_vae": text})


def sentence(run):
    """The sentence with which a run is refused."""
    with pytest.raises(InputError) as error:
        load(run)
    said = str(error.value)
    assert "\n" not in said
    assert len(said) < 500
    return said


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def header(text, claimed=None):
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text


HUGE = json.dumps({WEIGHT: {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
BYTES = {
    "a pickle": pickle.dumps(Evil()),
    "a header of 2^63 bytes": header(b"{}", 2**63),
    "a header of 2^64 - 1 bytes": header(b"{}", 2**64 - 1),
    "a tensor of 4 TB that is not there": header(HUGE),
    "a header that is not JSON": header(b"{" * 100),
    "a header of another type": header(b"[1, 2]"),
    "nothing": b"",
}


@pytest.mark.parametrize("content", BYTES.values(), ids=BYTES)
def test_a_file_that_is_not_one_of_tensors(run, content, monkeypatch):
    monkeypatch.chdir(run)
    (run / NAME).write_bytes(content)
    assert "is not a safetensors file, or is damaged" in sentence(run)
    assert not os.path.exists("executed")


TENSORS = {
    "another shape": (lambda s: s.update({WEIGHT: torch.zeros(3)}), "do not fit the run's config"),
    "whole numbers": (lambda s: s.update({WEIGHT: s[WEIGHT].long()}), "do not fit"),
    "NaN": (lambda s: s[WEIGHT].fill_(torch.nan), "has NaN or infinite numbers"),
    "infinite": (lambda s: s[WEIGHT].fill_(torch.inf), "has NaN or infinite numbers"),
    "an unknown weight": (lambda s: s.update({"vae.more": torch.zeros(1)}), "'vae.more', which"),
    "an unknown kind": (lambda s: s.update(more=torch.zeros(1)), "holds 'more', which"),
    "a parameter that is not there": (
        lambda s: s.update({"optimizer.999.exp_avg": torch.zeros(1)}),
        "'optimizer.999.exp_avg', which",
    ),
    "a weight that is missing": (lambda s: s.pop(WEIGHT), "do not fit the run's config"),
    "no losses": (lambda s: s.pop("losses"), "damaged or is not a run's checkpoint"),
    "more losses than steps": (lambda s: s.update(losses=torch.zeros(3)), "steps and losses"),
    "losses of another shape": (lambda s: s.update(losses=torch.zeros(0, 2)), "steps and losses"),
    "losses that are whole": (
        lambda s: s.update(losses=torch.zeros(0, dtype=torch.int64)),
        "epoch or its losses are of a wrong type",
    ),
}


@pytest.mark.parametrize(("change", "said"), TENSORS.values(), ids=TENSORS)
def test_tensors_that_do_not_fit(run, change, said):
    spoil(run, change)
    assert said in sentence(run)


DAMAGED = "damaged or is not a run's checkpoint"
FACTS = [
    ({"format": 3}, "which a newer version"),
    ({"format": "2"}, "which is not a whole number"),
    ({"epoch": -1}, "epoch or its losses"),
    ({"epoch": "2"}, "epoch or its losses"),
    ({"epoch": True}, "epoch or its losses"),
    ({"step": 7}, "steps and losses"),
    ({"step": None}, "steps and losses"),
    ({"step": 2**62}, "steps and losses"),
    ({"data": 5}, "epoch or its losses"),
    ({"compiled": "no"}, "epoch or its losses"),
]


@pytest.mark.parametrize(("about", "said"), FACTS)
def test_facts_that_lie(run, about, said):
    spoil(run, about=about)
    assert said in sentence(run)


@pytest.mark.parametrize(
    "metadata",
    ["", "{", "[1]", "3", "null", "{}", "[" * 10**5, '{"format": ' + "9" * 5000 + "}"],
    ids=lambda text: text[:10],
)
def test_metadata_that_is_no_object(run, metadata):
    spoil(run, metadata=metadata)
    assert DAMAGED in sentence(run)


def test_a_file_without_metadata(run):
    save_file(load_file(run / NAME), run / NAME)
    assert DAMAGED in sentence(run)


def test_a_loss_that_is_not_finite(run):
    losses = torch.tensor([1.0, torch.nan])
    spoil(run, lambda s: s.update(losses=losses), {"step": 2})
    assert "epoch or its losses" in sentence(run)


def refused(run, capsys):
    """The sentence with which ``train --resume`` refuses a run. The files stay as they were."""
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    before.pop("lock", None)
    assert typed(["train", "--resume", run, "--epochs", "4", "--no-compile"]) == 2
    assert all((run / name).read_bytes() == content for name, content in before.items())
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    return said


@pytest.mark.parametrize("epoch", [3, 10**18])
def test_more_epochs_than_the_metrics_have(run, capsys, epoch):
    spoil(run, about={"epoch": epoch})
    load(run)
    assert f"does not hold the numbers of epochs 1 to {epoch}" in refused(run, capsys)


def test_more_steps_than_an_epoch_has(run, capsys):
    spoil(run, lambda s: s.update(losses=torch.zeros(5000)), {"step": 5000, "epoch": 1})
    load(run)
    said = refused(run, capsys)
    assert "has 5000 steps after epoch 1" in said


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("exp_avg", torch.nan, "has impossible numbers"),
        ("exp_avg", torch.inf, "has impossible numbers"),
        ("exp_avg_sq", -1.0, "has impossible numbers"),
        ("step", torch.inf, "has impossible numbers"),
        ("", 0.0, "has no state of the optimizer"),
    ],
)
def test_a_state_of_the_optimizer_that_is_wrong(run, capsys, key, value, said):
    def spoiled(state):
        for name in [name for name in state if name.startswith("optimizer.")]:
            if not key:
                del state[name]
            elif name == f"optimizer.0.{key}":
                state[name].fill_(value)

    spoil(run, spoiled)
    load(run)
    assert said in refused(run, capsys)


def test_the_checkpoint_of_these_tests_is_good(run):
    """Else each of them could be refused for another reason."""
    spoil(run)
    load(run)
    assert checkpoint.read(run).position.epoch == 2


def test_losses_of_a_type_without_arithmetic_are_refused_before_training(run, capsys):
    content = (run / NAME).read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    facts = json.loads(content[8 : 8 + size])
    facts["losses"]["dtype"] = "F4"
    (run / NAME).write_bytes(header(json.dumps(facts).encode()) + content[8 + size :])
    assert typed(["train", "--resume", run, "--epochs", "9", "--no-compile"]) == 2
    said = capsys.readouterr().err
    assert "checkpoint.safetensors" in said
    assert len(said.splitlines()) == 1

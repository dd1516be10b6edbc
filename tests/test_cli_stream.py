"""``pyro-vae train --stream``: the images stay on disk, and all else is as in memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import typed
from support.kills import Faults, die, forked, state_of
from support.ranks import command, launch

from pyro_vae import InputError
from pyro_vae.data import open_data
from pyro_vae.runs import notes, setup
from pyro_vae.runs.folder import read_config, read_history
from pyro_vae.runs.keeping import Keeper

SMALL = ["--hidden", "8", "--latent", "2", "--batch-size", "16", "--device", "cpu", "--no-compile"]
OFTEN = ["--checkpoint-minutes", "1e-9"]  # after each step


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """90 blobs of 6 x 5 pixels in three classes of different sizes."""
    root = tmp_path_factory.mktemp("images") / "blobs"
    y, x = np.mgrid[:6, :5]
    random = np.random.RandomState(0)
    for i in range(90):
        where = random.uniform(1, 4, 2)
        blob = 255 * np.exp(-((y - where[0]) ** 2 + (x - where[1]) ** 2) / 3)
        file = root / ("a" if i < 50 else "b" if i < 80 else "c") / f"{i:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(blob.astype(np.uint8)).save(file)
    return root


def train(folder, run, *options):
    return typed(["train", "--data", folder, *SMALL, "--stream", "--out", run, *options])


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """A run of two epochs that never stopped. Tests must not change it."""
    run = tmp_path_factory.mktemp("stream") / "whole"
    assert train(folder, run, "--epochs", "2", "--binarize", "dynamic") == 0
    return run


@pytest.fixture
def in_memory(whole, tmp_path):
    """The same weights in a run whose images are in memory."""
    run = tmp_path / "memory"
    shutil.copytree(whole, run)
    config = json.loads((run / "config.json").read_text())
    assert config["data"].pop("stream") is True
    (run / "config.json").write_text(json.dumps(config))
    return run


def test_a_run_begins_as_one_in_memory(folder):
    """The same weights, standardisation and likelihood; the order of the rows may be another."""
    given = {"data": str(folder), "hidden": (8,), "latent": 2}
    one, two = (
        setup.prepare({**given, **more}, torch.device("cpu"), None)
        for more in ({}, {"stream": True})
    )
    assert one.vae.config | {"standardize": 0} == two.vae.config | {"standardize": 0}
    np.testing.assert_allclose(one.vae.config["standardize"], two.vae.config["standardize"])
    for name, value in one.vae.state_dict().items():
        torch.testing.assert_close(two.vae.state_dict()[name], value, msg=name)
    for part in ("train", "test"):
        images = getattr(two.data, part).loaded()
        assert torch.equal(images.pixels, getattr(one.data, part).pixels)


def test_commands_read_the_images_that_they_read_in_memory(whole, in_memory, tmp_path, capsys):
    for run in (whole, in_memory):
        name = tmp_path / run.name
        assert typed(["encode", run, "--out", f"{name}.npz"]) == 0
        assert typed(["score", run, "--samples", "5", "--out", f"{name}.csv"]) == 0
        assert typed(["reconstruct", run, "--out", f"{name}.png"]) == 0
        said = capsys.readouterr().err
        assert ("are not those that the run was trained on" in " ".join(said.split())) == (
            run is in_memory  # because its checksum is that of images on disk
        )
        assert typed(["evaluate", run, "--samples", "5", "--json"]) == 0
        Path(f"{name}.json").write_text(capsys.readouterr().out.replace(str(run), "run"))
    first, second = (np.load(tmp_path / f"{run.name}.npz") for run in (whole, in_memory))
    assert set(first) == set(second) >= {"labels", "files", "loc"}
    for key in first:
        np.testing.assert_array_equal(first[key], second[key])
    for kind in ("csv", "png", "json"):
        one, two = ((tmp_path / f"{run.name}.{kind}").read_bytes() for run in (whole, in_memory))
        assert one == two, kind


def test_what_an_epoch_measures_is_the_elbo_of_the_validation_images(folder, tmp_path, capsys):
    """``evaluate`` is the reference; without drawn pixels, both measure the same numbers."""
    run = tmp_path / "run"
    assert train(folder, run, "--epochs", "1", "--likelihood", "normal") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "The 65 training, 7 validation and 18 test images stay on disk." in said
    assert "of 65 training images." in said
    capsys.readouterr()
    assert typed(["evaluate", run, "--split", "validation", "--samples", "5", "--json"]) == 0
    bounds = json.loads(capsys.readouterr().out)["monte_carlo"]
    assert read_history(run)[0].elbo == pytest.approx(bounds["elbo"], rel=1e-5)


def test_at_most_so_many_validation_images_are_measured(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(setup, "MEASURED", 5)
    monkeypatch.setattr(notes, "MEASURED", 5)
    assert train(folder, tmp_path / "run", "--epochs", "1") == 0
    assert "After each epoch, 5 of the validation images are measured." in " ".join(
        capsys.readouterr().out.split()
    )
    run = setup.prepare({"data": str(folder), "stream": True}, torch.device("cpu"), None)
    assert (len(run.measured_data().validation), len(run.data.validation)) == (5, 7)


@pytest.mark.parametrize("at", [0.25, 0.5, 0.8])
def test_a_run_that_is_killed_and_goes_on_ends_in_the_same_bits(at, folder, whole, tmp_path):
    """Killed within an epoch, and then read by another number of processes."""
    run, log = tmp_path / "run", tmp_path / "log"
    begin = ["train", "--data", folder, *SMALL, "--stream", "--out", run, "--epochs", "2"]
    begin += ["--binarize", "dynamic", *OFTEN]
    places = forked(begin, log, Faults(run))[2]
    shutil.rmtree(run)
    assert forked(begin, log, Faults(run, int(at * len(places)), die))[0] == -9
    again = ["train", "--resume", run, "--device", "cpu", "--no-compile", "--workers", "2"]
    code, said, _ = forked(again, log)
    assert code == 0, said
    assert state_of(run) == state_of(whole)


def test_images_that_changed_are_refused(folder, tmp_path, capsys):
    images, run = tmp_path / "images", tmp_path / "run"
    shutil.copytree(folder, images)
    assert train(images, run, "--epochs", "1") == 0
    again = ["train", "--resume", run, "--epochs", "2", "--device", "cpu"]
    file = images / "b" / "60.png"
    before = file.read_bytes()
    for change in (
        lambda: file.rename(images / "c" / "60.png"),  # another class, so another split
        lambda: file.unlink(),
        lambda: file.write_bytes(before + b"\0"),
        lambda: file.write_bytes(before[:-1] + b"\1"),  # of the same size
    ):
        change()
        assert typed(again) == 2
        assert "are not those that the run was trained on" in " ".join(
            capsys.readouterr().err.split()
        )
        (images / "c" / "60.png").unlink(missing_ok=True)
        file.write_bytes(before)
    os.utime(file, (1, 1))  # a copy has other times
    assert typed(again) == 0
    file.unlink()
    assert typed([*again[:3], "--epochs", "3", "--device", "cpu", "--other-data"]) == 0


def test_an_image_that_breaks_midway_leaves_a_command_that_resumes(
    folder, tmp_path, capsys, monkeypatch
):
    """The command is that of a run that was stopped, and it works when the image is back."""
    images, run = tmp_path / "images", tmp_path / "run"
    shutil.copytree(folder, images)
    file, on_epoch = images / "a" / "00.png", Keeper.on_epoch
    before = file.read_bytes()

    def breaks(self, record):
        on_epoch(self, record)
        for each in images.rglob("*.png"):
            each.write_bytes(b"")

    monkeypatch.setattr(Keeper, "on_epoch", breaks)
    assert train(images, run, "--epochs", "2", "--binarize", "dynamic") == 2
    said = " ".join(capsys.readouterr().err.split())
    command = said.partition("continue it with: ")[2].partition(" Error: ")[0]
    assert command == f"pyro-vae train --resume {run} --device cpu"
    assert len(read_history(run)) == 1
    monkeypatch.setattr(Keeper, "on_epoch", on_epoch)
    shutil.copytree(folder, images, dirs_exist_ok=True)
    assert file.read_bytes() == before
    assert typed(command.split()[1:]) == 0
    assert len(read_history(run)) == 2
    assert typed(command.split()[1:]) == 2  # before training, nothing is left to resume
    assert "continue it with" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "digits", "--stream"], "'digits' is a data set that is read into memory"),
        (["--stream", "--binarize", "static"], "static draws all images once"),
        (["--workers", "2"], "--workers read images that stay on disk"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message, folder, tmp_path, capsys):
    data = [] if "--data" in options else ["--data", folder]
    assert typed(["train", *data, *options, "--out", tmp_path / "run"]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_images_that_do_not_fit_into_memory_are_refused_with_the_way_out(
    folder, tmp_path, monkeypatch, capsys
):
    np.save(tmp_path / "a.npy", np.zeros((90, 6, 5), np.uint8))
    monkeypatch.setattr("pyro_vae.memory.total_memory", lambda: 100)
    for data in (folder, tmp_path / "a.npy"):
        assert typed(["train", "--data", data, "--out", tmp_path / "run"]) == 2
        assert "leave them on disk by --stream" in " ".join(capsys.readouterr().err.split())
    test = open_data(folder).test
    with pytest.raises(InputError, match=r"18 images .* at once needs .* take fewer by first"):
        test.loaded()


def test_several_processes_take_the_steps_of_one(folder, whole, tmp_path):
    """Each reads its rows only; the drawn pixels are the same."""
    run = tmp_path / "run"
    options = ["train", "--data", str(folder), *SMALL, "--stream", "--epochs", "2"]
    options += ["--binarize", "dynamic", "--out", str(run)]
    assert launch(2, command, options, tmp_path) == [0, 0]
    for ours, theirs in zip(read_history(run), read_history(whole), strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
        assert ours.elbo == pytest.approx(theirs.elbo, rel=1e-5)
    assert read_config(run)["data"]["stream"] is True


def peak(data, run):
    """The largest memory of a training in MB, without the pages of the mapped file."""
    words = ["train", "--data", data, "--stream", "--epochs", "1", "--hidden", "8", "--out", run]
    process = subprocess.Popen(
        [sys.executable, "-m", "pyro_vae", *map(str, words), "--no-compile", "--device", "cpu"]
    )
    found = 0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        if "RssAnon:" in status:
            found = max(found, int(status.partition("RssAnon:")[2].split()[0]))
        time.sleep(0.02)
    assert process.returncode == 0
    return found / 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_does_not_grow_with_the_images(tmp_path):
    """In memory, 80,000 more images of 28 x 28 pixels take 63 MB more."""
    peaks = []
    for count in (20_000, 100_000):
        array = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, (count, 28, 28))
        array[:] = np.random.default_rng(0).integers(0, 256, (1, 28, 28))
        array[::7] //= 2
        del array
        peaks.append(peak(tmp_path / "a.npy", tmp_path / str(count)))
    assert peaks[1] - peaks[0] < 20, peaks

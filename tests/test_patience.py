"""Early stopping: the weights of the best validation bound, their checkpoint, and resuming."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.commands import typed
from support.kills import Faults, die, forked, state_of
from support.small import stripes

from pyro_vae import VAE, InputError, Position, elbo, fit
from pyro_vae.data import Data, load_data
from pyro_vae.history import Callback
from pyro_vae.runs.folder import load_run, read_history
from pyro_vae.runs.images import images_of
from pyro_vae.storage import checkpoint
from pyro_vae.training import adam

OPTIONS = {"batch_size": 16, "lr": 0.02, "seed": 1, "progress": False}


@pytest.fixture(scope="module")
def data():
    """So few images that training overfits within a few epochs."""
    data = load_data("digits", binarize="threshold")
    return replace(data, train=data.train.first(64), validation=data.validation.first(50))


def small(network="mlp"):
    torch.manual_seed(0)
    return VAE((1, 8, 8), 2, hidden=(64,), network=network)


class Weights(Callback):
    """The measured weights of each epoch."""

    def __init__(self, vae):
        self.vae, self.each = vae, []

    def on_epoch(self, record):
        self.each.append([t.clone() for t in self.vae.state_dict().values()])


def same(vae, values):
    return all(torch.equal(t, v) for t, v in zip(vae.state_dict().values(), values, strict=True))


@pytest.mark.parametrize("average", [None, 0.9])
def test_training_ends_where_the_bounds_say_with_the_best_weights(data, average):
    """The reference is a training without patience, and its bounds are compared by hand."""
    plain = small()
    seen = Weights(plain)
    history = fit(plain, data, epochs=40, callback=seen, average=average, **OPTIONS)
    bounds = [record.elbo for record in history]
    best, end = 0, None
    for epoch, bound in enumerate(bounds):
        if bound > bounds[best]:
            best = epoch
        if epoch - best >= 3:
            end = epoch
            break
    assert end is not None
    assert best > 0
    vae = small()
    ended = fit(vae, data, epochs=40, patience=3, average=average, **OPTIONS)
    assert [record.elbo for record in ended] == bounds[: end + 1]
    assert same(vae, seen.each[best])
    assert elbo(vae.model, vae.guide, data.validation, seed=1).elbo == bounds[best]
    other = small()
    every = fit(other, data, epochs=40, patience=40, average=average, **OPTIONS)
    assert [record.elbo for record in every] == bounds
    assert same(other, seen.each[bounds.index(max(bounds))])


class EndedError(Exception):
    """Ends a training."""


@pytest.mark.parametrize("network", ["mlp", "mlp(batch_norm=True)"])
def test_training_goes_on_to_the_same_best_weights(data, network):
    """It stops within an epoch after the best one, and the position has the best weights."""
    whole = small(network)
    history = fit(whole, data, epochs=40, patience=3, **OPTIONS)
    last = len(history)

    class Stop(Callback):
        def on_step(self, images, position):
            if (position.epoch, len(position.losses)) == (last - 1, 2):
                self.position = position
                raise EndedError

    vae, stop = small(network), Stop()
    options = {"epochs": 40, "patience": 3, "optimizer": adam(vae, 0.02), **OPTIONS}
    with pytest.raises(EndedError):
        fit(vae, data, callback=stop, **options)
    assert stop.position.best.epoch == last - 3
    (record,) = fit(vae, data, start=stop.position, **options)
    assert (record.epoch, record.elbo) == (last, history[-1].elbo)
    assert same(vae, whole.state_dict().values())
    # At the end nothing is left to do, and the weights are the best ones.
    assert fit(vae, data, start=Position(last, best=stop.position.best), **options) == []
    assert same(vae, whole.state_dict().values())


def test_callbacks_are_told_that_the_training_is_complete(data):
    told = []

    class Told(Callback):
        def on_best(self, best):
            told.append(best.epoch)

        def on_end(self, completed):
            told.append(completed)

    history = fit(small(), data, epochs=40, patience=1, callback=Told(), **OPTIONS)
    better = [r.epoch for r in history if r.elbo == max(e.elbo for e in history[: r.epoch])]
    assert told == [*better, True]
    assert len(history) == better[-1] + 1 < 40


def test_a_patience_that_cannot_be_had_is_refused(data, tmp_path, capsys):
    without = Data("stripes", stripes().train, stripes().test)
    with pytest.raises(InputError, match=r"patience compares the bound of validation data"):
        fit(VAE((1, 6, 5), 2, hidden=(8,)), without, patience=2)
    with pytest.raises(InputError, match=r"patience compares the bound of validation data"):
        fit(small(), torch.rand(20, 1, 8, 8).round(), patience=2)
    with pytest.raises(InputError, match=r"patience works with an optimizer of torch, not with a"):
        fit(small(), data, patience=2, optimizer=pyro.optim.Adam({"lr": 1e-3}))
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(InputError, match="patience is a whole number above 0"):
            fit(small(), data, patience=wrong)
    command = ["train", "--data", "digits", "--validation", "0", "--patience", "2"]
    assert typed([*command, "--out", tmp_path / "run"]) == 2
    assert "give --validation, or leave --patience out" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# Runs

RUN = ["train", "--data", "digits", "--binarize", "threshold", "--hidden", "8", "--latent", "2"]
RUN += ["--batch-size", "300", "--lr", "0.3", "--patience", "2", "--epochs", "30"]
RUN += ["--network", "mlp(batch_norm=True)", "--no-compile", "--device", "cpu"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that ended by its patience."""
    run = tmp_path_factory.mktemp("patience") / "whole"
    assert typed([*RUN, "--out", run]) == 0
    return run


def best_of(run):
    return max(read_history(run), key=lambda record: record.elbo)


def test_a_run_is_used_with_its_best_weights(whole, capsys):
    history, best = read_history(whole), best_of(whole)
    assert len(history) == best.epoch + 2 < 30
    vae, config = load_run(whole)
    images = images_of(config, None, "validation", None)
    assert elbo(vae.model, vae.guide, images, seed=0).elbo == best.elbo
    state = checkpoint.read(whole)
    assert (state.position.best.epoch, state.position.best.bound) == (best.epoch, best.elbo)
    assert not all(torch.equal(t, state.vae[n]) for n, t in vae.state_dict().items())
    assert typed(["card", whole, "--replace"]) == 0
    assert f"After epoch {best.epoch}." in (whole / "README.md").read_text()
    (whole / "README.md").unlink()
    assert typed(["train", "--resume", whole, "--epochs", "50"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"its validation bound was not better than that of epoch {best.epoch} for 2;" in said


def test_other_data_begin_a_new_best_epoch_and_the_card_names_it(tmp_path):
    """Blank images, whose bounds are higher, come first. The digits after them end lower."""
    digits = load_data("digits", test_fraction=0, validation=0).train.pixels
    run, path = tmp_path / "run", tmp_path / "x.npy"
    np.save(path, torch.zeros_like(digits[:100]).numpy())
    words = ["--hidden", "8", "--latent", "2", "--likelihood", "bernoulli", "--lr", "0.01"]
    words += ["--patience", "9", "--no-compile", "--device", "cpu", "--out", run]
    assert typed(["train", "--data", path, *words, "--epochs", "2"]) == 0
    np.save(path, (digits[:100] > 0.5).float().numpy())
    again = ["train", "--resume", run, "--other-data", "--epochs", "5", "--device", "cpu"]
    assert typed(again) == 0
    history, best = read_history(run), checkpoint.read(run).position.best
    assert best.epoch == max(history[2:], key=lambda record: record.elbo).epoch > 2
    assert max(history, key=lambda record: record.elbo).epoch <= 2
    assert typed(["card", run]) == 0
    text = (run / "README.md").read_text()
    assert f"After epoch {best.epoch}." in text
    assert f"| validation ELBO | {best.bound:.2f} |" in text


def test_a_run_that_is_killed_ends_in_the_same_bits(whole, tmp_path):
    """Killed at three of its writes; the log of a run that was not tells how many there are."""
    log = tmp_path / "log"
    code, said, places = forked([*RUN, "--out", tmp_path / "once"], log, Faults(tmp_path / "once"))
    assert code == 0, said
    assert state_of(tmp_path / "once") == state_of(whole)
    for share in (0.5, 0.75, 0.95):
        run = tmp_path / f"killed-{share}"
        at = int(share * len(places))
        assert forked([*RUN, "--out", run], log, Faults(run, at, die))[0] == -9
        code, said, _ = forked(["train", "--resume", run, "--device", "cpu"], log)
        assert code == 0, said
        assert state_of(run) == state_of(whole), places[at]
        one, two = (load_run(folder)[0].state_dict() for folder in (run, whole))
        assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("harm", ["epoch", "bound", "missing", "shape", "more"])
def test_best_weights_that_are_not_whole_are_refused(whole, tmp_path, harm, capsys):
    run = shutil.copytree(whole, tmp_path / "run")
    path = Path(run) / checkpoint.NAME
    tensors = load_file(path)
    about = json.loads(checkpoint.safe_open(path, framework="pt").metadata()[checkpoint.KEY])
    if harm in ("epoch", "bound"):
        about["best"][harm] = {"epoch": 999, "bound": "nan"}[harm]
    elif harm == "missing":
        del tensors["best.0"]
    elif harm == "shape":
        tensors["best.0"] = tensors["best.0"][:1]
    else:
        tensors["best.9999"] = torch.zeros(1)
    save_file(tensors, path, {checkpoint.KEY: json.dumps(about)})
    assert typed(["evaluate", run]) == 2
    assert capsys.readouterr().err.count("\n") < 6


def test_a_comparison_measures_the_best_weights(whole, tmp_path):
    """The training of the comparison is that of the run, with the same seed and draws."""
    out = tmp_path / "comparison"
    ask = ["compare", "--guides", "mean-field", *RUN[1:], "--seeds", 1, "--samples", 2]
    assert typed([*ask, "--out", out]) == 0
    with (out / "comparison.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["elbo"]) == pytest.approx(best_of(whole).elbo, abs=1e-4)

"""A run folder restores a VAE bit for bit, or the error says what is wrong with the folder."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_model
from support.commands import typed

from pyro_vae import VAE, InputError
from pyro_vae.data import load_data
from pyro_vae.evaluation import elbo
from pyro_vae.guides import GUIDES
from pyro_vae.history import Position
from pyro_vae.likelihoods import LIKELIHOODS
from pyro_vae.priors import PRIORS
from pyro_vae.runs.folder import create, load_run, read_history
from pyro_vae.storage.checkpoint import load_optimizer, read, save, state_of
from pyro_vae.training import adam

SHAPE = (1, 6, 5)
SPECIAL = {"categorical", "relaxed-categorical", "joint", "labelled", "targeted", "conditional"}
TRAINING = {"objective": "monte-carlo", "epochs": 1, "batch_size": 8, "lr": 1e-3, "seed": 0}
DATA = {"name": "stripes", "binarize": "none"}


def run(folder, **settings):
    """Make a run folder of a VAE with random weights; the VAE."""
    vae = VAE(SHAPE, latent_size=12, **{"hidden": (8,), **settings})
    state = state_of(vae, adam(vae, 1e-3), Position(), "", None)
    create(folder, {"vae": vae.config, "data": DATA, "training": TRAINING}, state)
    return vae


@pytest.mark.parametrize(
    "settings",
    [{"likelihood": name} for name in LIKELIHOODS]
    + [{"guide": name} for name in GUIDES if name not in ("labelled", "targeted")]
    + [{"prior": name} for name in PRIORS if name not in SPECIAL]
    + [{"guide": "labelled", "condition": 3}, {"prior": "conditional", "condition": ["a", "b"]}]
    + [{"guide": "targeted", "condition": (2,), "context_scaling": [[1.0, 2.0], [0.5, 9.0]]}]
    + [{"network": "conv", "hidden": (4, 8)}, {"guide": "mean-field(scale='softplus')"}],
    ids=str,
)
def test_every_part_comes_back_bit_for_bit(tmp_path, settings):
    vae = run(tmp_path / "run", **settings)
    back, config = load_run(tmp_path / "run")
    assert config["vae"] == vae.config
    state = back.state_dict()
    assert state.keys() == vae.state_dict().keys()
    for name, tensor in vae.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_the_optimizer_comes_back_bit_for_bit(tmp_path):
    vae = VAE(SHAPE, latent_size=3, hidden=(8,))
    optimizer = adam(vae, 1e-3)
    for p in vae.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    losses = torch.tensor([3.5, 1 / 3])
    save(tmp_path, state_of(vae, optimizer, Position(7, losses), "abc", True))
    state = read(tmp_path)
    assert (state.position.epoch, state.data, state.compiled) == (7, "abc", True)
    assert torch.equal(state.position.losses, losses)
    other = adam(vae, 1e-3)
    load_optimizer(tmp_path, state, other)
    for old, new in zip(optimizer.state.values(), other.state.values(), strict=True):
        assert old.keys() == new.keys()
        assert all(torch.equal(old[key], new[key]) for key in old)


def test_a_run_is_not_written_over(tmp_path):
    run(tmp_path / "run")
    with pytest.raises(InputError, match="holds a run already"):
        run(tmp_path / "run")


def test_parts_that_have_no_name_cannot_be_stored(tmp_path):
    part = VAE(SHAPE, latent_size=12, hidden=(8,)).guide.posterior
    with pytest.raises(InputError, match="given as an object; name it like module:Class"):
        run(tmp_path / "run", guide=part)
    assert not (tmp_path / "run").exists()


def edit(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "lacks config.json"),
        (lambda f: (f / "checkpoint.safetensors").unlink(), "lacks checkpoint.safetensors"),
        (lambda f: (f / "config.json").write_text("{"), "it is not JSON"),
        (lambda f: (f / "config.json").write_text("[1, 2]"), "its parts are not objects"),
        (lambda f: edit(f, lambda c: c.update(vae=[1])), "its parts are not objects"),
        (lambda f: edit(f, lambda c: c["training"].update(lr=None)), "'lr' in 'training'.*None"),
        (lambda f: edit(f, lambda c: c["training"].update(seed="a")), "a whole number .* not 'a'"),
        (lambda f: edit(f, lambda c: c["training"].update(precision=5)), "a text, not 5"),
        (lambda f: edit(f, lambda c: c["data"].update(binarize=None)), "'binarize' in 'data'"),
        (lambda f: edit(f, lambda c: c["data"].update(name=5)), "'name' in 'data'"),
        (lambda f: (f / "checkpoint.safetensors").write_bytes(b"12"), "is not a safetensors file"),
        (lambda f: edit(f, lambda c: c["vae"].update(latent_size=4)), "do not fit"),
        (lambda f: edit(f, lambda c: c["vae"].update(colour=1)), "unknown keys: 'colour'"),
        (lambda f: edit(f, lambda c: c.pop("data")), "lacks data"),
        (lambda f: edit(f, lambda c: c["data"].pop("name")), "lacks name"),
        (lambda f: edit(f, lambda c: c["training"].update(momentum=1)), "unknown keys: 'momentum'"),
        (lambda f: edit(f, lambda c: c["vae"].update(hidden=3)), "'hidden' in 'vae' .* not 3"),
        (lambda f: edit(f, lambda c: c["vae"].update(guide="mean-feld")), "mean mean-field"),
    ],
)
def test_a_spoiled_run_says_what_is_wrong(tmp_path, spoil, message):
    run(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        load_run(tmp_path)
    assert "\n" not in str(error.value)


OLD = Path(__file__).parent / "data" / "old_run"


@pytest.mark.parametrize(
    ("name", "elbo_then"),
    [
        ("mean_field", -45.55474853515625),
        ("joint", -45.703006744384766),
        ("conv", -1252.0274658203125),
    ],
)
def test_a_run_of_an_older_version_gives_the_same_elbo(name, elbo_then):
    """The runs were trained, and the numbers measured, by the version before the contracts:

    pyro-vae train --data digits --latent 2 --hidden 4 --epochs 1 --device cpu --no-compile
    pyro-vae train --data digits --latent 4 --hidden 4 --epochs 1 --device cpu --no-compile \\
        --guide "joint(categories=3)"
    pyro-vae train --data digits --latent 2 --hidden 2,4 --epochs 1 --device cpu --no-compile \\
        --binarize none --likelihood normal-learned --network conv
    pyro-vae evaluate RUN --samples 1 --seed 0 --device cpu --json   (monte_carlo, elbo)
    """
    vae, config = load_run(OLD / name)
    images = load_data(**config["data"]).test
    assert elbo(vae.model, vae.guide, images, seed=0).elbo == pytest.approx(elbo_then, rel=1e-6)
    assert read_history(OLD / name)[0].elbo == pytest.approx(elbo_then, rel=1e-6)


def test_a_run_of_an_older_version_is_trained_further(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(OLD / "joint", run)
    assert typed(["train", "--resume", run, "--epochs", "2", "--no-compile"]) == 0
    assert [e.epoch for e in read_history(run)] == [1, 2]


def test_an_old_run_that_was_killed_while_it_saved_can_be_used_but_not_go_on(tmp_path, capsys):
    """Weights, optimizer or metrics of another epoch, as a kill between two of them leaves them."""
    run, further = tmp_path / "run", tmp_path / "further"
    shutil.copytree(OLD / "mean_field", run)
    shutil.copytree(run, further)
    assert typed(["train", "--resume", further, "--epochs", "2", "--no-compile"]) == 0
    vae, _ = load_run(further)
    save_model(vae, str(run / "weights.safetensors"))
    assert typed(["train", "--resume", run, "--epochs", "2"]) == 2
    assert "are not of the same epoch" in capsys.readouterr().err
    shutil.copytree(OLD / "mean_field", run, dirs_exist_ok=True)
    shutil.copy(further / "metrics.jsonl", run)
    assert typed(["train", "--resume", run, "--epochs", "3"]) == 2
    assert "are not of the same epoch" in capsys.readouterr().err
    shutil.copytree(OLD / "mean_field", run, dirs_exist_ok=True)
    (run / "optimizer.safetensors").write_bytes(b"12")
    assert typed(["train", "--resume", run, "--epochs", "2"]) == 2
    assert "is not a safetensors file" in capsys.readouterr().err
    assert json.loads((run / "config.json").read_text())["training"]["epochs"] == 1
    assert load_run(run)[0].sample(1).isfinite().all()


def test_a_damaged_line_of_the_metrics_is_named_and_a_line_cut_off_is_left_out(tmp_path):
    shutil.copytree(OLD / "joint", tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "lo')
    assert [e.epoch for e in read_history(tmp_path / "run")] == [1]
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(InputError, match=r"line 2 of .*metrics\.jsonl"):
        read_history(tmp_path / "run")


def test_an_optimizer_of_another_vae_is_one_sentence(tmp_path):
    vae = run(tmp_path)
    optimizer = adam(vae, 1e-3)
    for p in vae.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    state = state_of(vae, optimizer, Position(), "", None)
    other = adam(VAE(SHAPE, latent_size=3, hidden=(8,)), 1e-3)
    with pytest.raises(InputError, match="optimizer's state in 'file' does not fit the weights"):
        load_optimizer(Path("file"), state, other)
    assert not other.state


def test_a_newer_format_is_refused_and_an_older_one_is_read(tmp_path):
    run(tmp_path)
    for version, message in ((3, "format 3, which a newer version"), ("a", "which is not a whole")):
        edit(tmp_path, lambda c, version=version: c.update(format=version, unknown=1))
        with pytest.raises(InputError, match=message):
            load_run(tmp_path)
    assert "format" not in json.loads((OLD / "joint" / "config.json").read_text())


def test_an_argument_that_was_renamed_is_read(tmp_path):
    vae = run(tmp_path, guide="targeted", condition=(1,), context_scaling=[[1.0], [0.5]])
    edit(tmp_path, lambda c: c["vae"].update(target_scaling=c["vae"].pop("context_scaling")))
    assert load_run(tmp_path)[1]["vae"] == vae.config


def test_tied_weights_are_saved_and_loaded(tmp_path):
    """safetensors refuses tensors that share memory."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    net[1].weight = net[0].weight
    save(tmp_path, state_of(net, adam(net, 1e-3), Position(), "", None))
    loaded = read(tmp_path).vae
    assert torch.equal(loaded["0.weight"], net[0].weight)
    assert torch.equal(loaded["1.weight"], net[0].weight)


def test_files_have_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        run(tmp_path / "run")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "run").iterdir()}
    assert modes == {0o640}

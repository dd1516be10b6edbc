"""Messages in the words of the caller: arguments of Python or flags of a command."""

import inspect

import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import TINY, typed
from torch import nn

import pyro_vae
from pyro_vae import VAE, InputError, TrainingOptions, fit, load_data
from pyro_vae.audit import audit
from pyro_vae.data import Images, open_data
from pyro_vae.evaluation.importance import importance
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.sklearn import VAETransformer
from pyro_vae.words import called, either, own_names

ASIDE = ("OBJECTIVES", "RECIPES", "InputError", "Guide", "Likelihood", "Network", "Objective")
COMPILER = ("CompiledELBO", "CompiledSVI", "FusedAdam")  # it uses nothing of the library
OWN = [n for n in pyro_vae.__all__ if n not in (*ASIDE, *COMPILER, "Prior", "Callback", "fit")]


@pytest.mark.parametrize("name", OWN)
def test_a_misspelt_argument_of_each_public_name_gives_the_nearest(name):
    call = getattr(pyro_vae, name)
    last = list(inspect.signature(call).parameters)[-1]
    with pytest.raises(InputError, match=rf"unknown argument of {name} '{last}x'; did you mean"):
        call(**{f"{last}x": 1})


def test_a_misspelt_argument_of_what_people_write_gives_the_right_one():
    data = load_data("digits", binarize="threshold")
    vae = VAE(data.shape, 2, hidden=(4,))
    for call, right in (
        (lambda: VAE(data.shape, 2, guid="iaf"), "guide"),
        (lambda: VAE.for_data(data, 2, guid="iaf"), "guide"),
        (lambda: fit(vae, data, epoch=1), "epochs"),
        (lambda: vae.log_prob(data.test.batch([0]), sample=3), "samples"),
        (lambda: vae.traverse(data.test.batch([0]), unti=1), "unit"),
        (lambda: VAETransformer(latentsize=2), "latent_size"),
        (lambda: TrainingOptions(batchsize=2), "batch_size"),
    ):
        with pytest.raises(InputError, match=f"did you mean {right}"):
            call()


MIXED = {
    "--batch-size 10000000000": "--batch-size is at most 1,000,000,000, not 10,000,000,000",
    "--average 2": "--average is a number of at least 0 and below 1, not 2.0",
    "--crop": "--crop needs a size, such as --size 64",
    "--hidden 4 --network mlp(hidden=[3])": "--hidden 4 and the network",
    "--network mlp(hidden=0)": "hidden takes whole numbers above 0, not 0",
    "--objective annealed(epochs=-1)": "epochs is a number above 0, not -1",
    "--guide labelled": "give --known-labels 100",
    "--prior conditional": "give --condition label",
    "--labels 100": "--labels is now called --known-labels",
    "--labels=100": "--labels is now called --known-labels",
}


@pytest.mark.parametrize("arguments", MIXED)
def test_a_command_names_flags_and_a_part_its_own_options(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    words = [w for w in TINY if w not in ("--hidden", "16", "--batch-size", "256")]
    assert typed([*words, "--epochs", "1", "--out", tmp_path / "run", *arguments.split()]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"Error: {MIXED[arguments]}") or MIXED[arguments].startswith("give")
    assert MIXED[arguments] in said
    assert not (tmp_path / "run").exists()


def test_weights_of_another_scaling_are_refused_and_nothing_is_loaded():
    """Their samples would be in other units. Weights of the same data fit, also in float64."""
    torch.manual_seed(0)
    x = torch.randn(50, 3)
    a, same, b = (
        VAE.for_data(Images(each), 2, hidden=(8,)) for each in (50 + 5 * x, 50 + 5 * x, x)
    )
    before = {name: value.clone() for name, value in b.state_dict().items()}
    with pytest.raises(InputError, match=r"the mean \[50.*, and the scaling of this VAE has \[0"):
        b.load_state_dict(a.state_dict())
    assert all(torch.equal(before[name], value) for name, value in b.state_dict().items())
    same.double().load_state_dict(a.state_dict())
    z = torch.zeros(2)
    torch.testing.assert_close(same.decode(z).float(), a.decode(z))
    both = nn.ModuleList([b])
    with pytest.raises(InputError, match="are of data whose channels"):
        both.load_state_dict(nn.ModuleList([a]).state_dict())


def test_python_names_arguments():
    assert (called("grey", True), either("a", "b")) == ("grey=True", "a")
    with own_names():
        assert (called("grey", True), either("a", "b")) == ("grey=True", "a")
    with pytest.raises(InputError, match=r"^crop=True needs a size, such as size=64$"):
        load_data("digits", crop=True)


def test_more_draws_than_a_machine_can_make_are_refused_before_they_are_made(tmp_path):
    data = load_data("digits", binarize="threshold")
    vae, x = VAE(data.shape, 2, hidden=(4,)), data.test.batch([0, 1])
    with pytest.raises(InputError, match=r"samples is at most 10,000,000, not 1,000,000,000"):
        importance(vae.model, vae.guide, data.test, samples=10**9)
    objective = OBJECTIVES.build(f"miwae(num_particles=8, outer={10**9})")
    with pytest.raises(InputError, match=r"8,000,000,000 draws of z .* needs at least 4,096.0 GB"):
        audit(vae, x, objective=objective)
    np.save(tmp_path / "x.npy", np.arange(128, dtype=np.uint8).reshape(2, 8, 8))
    with pytest.raises(InputError, match="workers is a whole number from 0 to 1000, not 1000000"):
        open_data(tmp_path / "x.npy", workers=10**6)


def test_weights_that_are_loaded_bring_their_moments():
    """The config and the mean that fills holes are those of the encoder."""
    kind = {"likelihood": "student-t", "hidden": (4,), "holes": True}
    moments = [[0.25, -1.5], [2.0, 0.5]]
    trained = VAE((2, 3), 2, standardize=moments, **kind)
    vae = VAE((2, 3), 2, standardize=[[0.0, 0.0], [1.0, 1.0]], **kind)
    vae.load_state_dict(trained.state_dict())
    assert vae.config["standardize"] == moments
    assert vae.guide.blank.flatten().tolist() == moments[0]


def test_a_stream_with_a_broken_validation_image_makes_no_folder(tmp_path, capsys):
    for part in ("train", "val", "test"):
        (tmp_path / "images" / part).mkdir(parents=True)
        for i in range(120):
            grey = np.random.default_rng(i).integers(0, 255, (8, 8), np.uint8)
            Image.fromarray(grey).save(tmp_path / "images" / part / f"{i:03}.png")
    broken = tmp_path / "images" / "val" / "050.png"  # not one of those that are looked at first
    broken.write_bytes(broken.read_bytes()[:80])
    words = ["train", "--data", tmp_path / "images", "--stream", "--latent", "2", "--epochs", "1"]
    assert typed([*words, "--out", tmp_path / "run"]) == 2
    assert "050.png' is unreadable or cut short" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_a_condition_is_told_in_words():
    assert str(VAE((1, 8, 8), 2, condition=10, hidden=(4,)).model.condition) == (
        "labels of 10 classes, a whole number for each observation"
    )

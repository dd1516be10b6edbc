"""A mistake in the input is one sentence and exit code 2, and no file is written."""

import re

import numpy as np
import pytest
from PIL import Image
from support.commands import TINY, typed

BAD = {
    "--data mnst": "unknown data set 'mnst'; did you mean mnist",
    "--prior standad-normal": "unknown prior 'standad-normal'; did you mean standard-normal",
    "--likelihood bernouli": "unknown likelihood 'bernouli'; did you mean bernoulli",
    "--guide mean-feild": "unknown guide 'mean-feild'; did you mean mean-field",
    "--scale log-var": "unknown scale 'log-var'; did you mean log-variance",
    "--objective analytc": "unknown objective 'analytc'; did you mean analytic",
    "--network cnv": "unknown network 'cnv'; did you mean conv",
    "--binarize dinamic": "unknown binarisation 'dinamic'; did you mean dynamic",
    "--hidden 4,x": "--hidden takes whole numbers with commas between, like 400,200, not '4,x'",
    "--hidden 0": "Error: --hidden takes whole numbers above 0, not [0]",
    "--lr 0": "--lr is a number above 0, not 0.0",
    "--device tpu": "--device 'tpu' is not there; take auto, or cpu",
    "--binarize none --likelihood bernoulli": "--binarize none leaves 17 levels of grey",
    "--guide iaf --objective analytic": "take the monte-carlo objective",
    "--guide categorical --objective analytic": "enumerate",
    "--recipe iwea": "unknown recipe 'iwea'; did you mean iwae",
    "--lr inf": "--lr is a number above 0, not inf",
    "--lr nan": "--lr is a number above 0, not nan",
    "--seed -1": "--seed is a whole number from 0 to 4294967295, not -1",
    "--seed 9223372036854775808": "not 9223372036854775808",
    "--device meta": "--device 'meta' is not there",
    "--device hpu": "--device 'hpu' is not there",
    "--data=": "--data is empty",
    "--size 64": "--size, --crop and --grey change the image files of a folder",
    "--size 0x3": "--size takes pixels such as 64, or height and width such as 48x64, not '0x3'",
    "--guide mean-field(scale=3)": "the scale is a name, a class or function that makes one",
    "--network mlp(activation=3)": "activation is one of the names relu, leaky-relu, elu,",
    "--prior mixture(components=1000000000000000)": "this VAE needs at least 4,000,000.0 GB",
    "--network residual(blocks=1000000000000)": "this VAE needs",
    "--data-dir=": "a path is empty",
    "--trust": "--trust is for --resume",
    "--latent 1000000000000": "GB of memory",
    "--hidden 1000000000000": "GB of memory",
    "--objective iwae(num_particles=1000000000)": "GB of memory",
}


@pytest.mark.parametrize("arguments", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    run = tmp_path / "run"
    assert typed([*TINY, "--epochs", "1", "--out", run, *arguments.split()]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("Error: ")
    assert "\n" not in said
    assert BAD[arguments] in said
    assert not run.exists()


def spoiled(folder):
    """Data that cannot be trained on, by what is said of them."""
    good = np.random.RandomState(0).randint(256, size=(4, 6, 5), dtype=np.uint8)
    for name in ("empty", "torn", "uneven"):
        (folder / name).mkdir()
    for name in ("torn", "uneven"):
        for i, image in enumerate(good):
            Image.fromarray(image).save(folder / name / f"{i}.png")
    (folder / "torn/3.png").write_bytes((folder / "torn/3.png").read_bytes()[:40])
    Image.fromarray(good[0, :4]).save(folder / "uneven/3.png")
    np.save(folder / "wide.npy", np.full((4, 6, 5), 1.5, dtype=np.float32))
    np.save(folder / "holes.npy", np.full((4, 6, 5), np.nan, dtype=np.float32))
    np.save(folder / "flat.npy", np.zeros(30, dtype=np.uint8))
    return {
        "empty": "holds no images",
        "torn": "3.png",
        "uneven": "3.png",
        "wide.npy": "1.5",
        "holes.npy": "all entries",
        "flat.npy": "holds no observations",
        "nowhere": "there is no file or folder",
    }


def test_images_that_cannot_be_trained_on_are_told_in_one_sentence(tmp_path, capsys):
    for name, said in spoiled(tmp_path).items():
        run = tmp_path / "run"
        ask = ["train", "--data", tmp_path / name, "--likelihood", "normal", "--out", run]
        assert typed(ask) == 2
        *told, message = capsys.readouterr().err.strip().splitlines()
        assert said in message
        assert all("is read as numbers" in line for line in told)
        assert not run.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--latent", "8,four"], "--latent takes a whole number, or one for each layer"),
        (["--latent", "8,0", "--guide", "ladder"], "the latent size is a whole number above 0"),
        (["--latent", "8,4"], "take the guide bottom-up or ladder"),
        (["--latent", "8x3x3,4", "--guide", "ladder"], "layer 1 of the latents has 3x3 places"),
    ],
)
def test_layers_that_do_not_fit_are_refused_before_training(options, message, tmp_path, capsys):
    assert typed(["train", "--data", "digits", *options, "--out", tmp_path / "run"]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_a_picture_that_does_not_fit_into_memory_is_refused(trained, tmp_path, capsys):
    for ask in (["sample", trained, "--n"], ["interpolate", trained, "--steps"]):
        assert typed([*ask, "1000000000", "--out", tmp_path / "a.png"]) == 2
        assert "a picture of 1,000,000,000 images" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (["compare", "--guides", "mean-field,,iaf"], "has an empty name or a name twice"),
        (["compare", "--guides", "iaf,iaf"], "has an empty name or a name twice"),
        (["compare", "--guides", ""], "has an empty name"),
        (["compare", "--guides", "iaf,planr"], "unknown guide 'planr'"),
        (["scales", "--only", ""], "has an empty name"),
        (["scales", "--only", "base"], "unknown experiment 'base'"),
        (["train", "--out", ""], "a path is empty"),
        (["train", "--out", "runs"], "is a folder of runs, such as 'one'"),
        (["evaluate", "runs/one", "--figures", ""], "a path is empty"),
        (["evaluate", "runs/one", "--figures", "/"], "is the root of the file system"),
    ],
)
def test_lists_and_places_are_refused_before_anything_is_shown(
    ask, said, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "config.json").write_text("{}")
    assert typed(ask) == 2
    out = capsys.readouterr()
    assert said in out.err
    assert out.err.startswith("Error: ")
    assert out.out == ""
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == [
        "runs",
        "runs/one",
        "runs/one/config.json",
    ]


def test_a_misspelt_flag_is_answered_with_flags_of_the_help(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    assert typed(["train", "--lables", "100"]) == 2
    said = capsys.readouterr().err
    near = re.search(r"Possible options: (.*?)\)", said)[1].split(", ")
    assert "--known-labels" in near or "--label" in near
    assert typed(["train", "--help"]) == 0
    shown = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    assert set(near) <= shown

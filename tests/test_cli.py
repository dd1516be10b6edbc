"""The command line, through its entry point, as a user types it."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae.cli import main
from pyro_vae.history import CollapseWarning
from pyro_vae.runs.folder import load_run, read_history

TINY = ["train", "--data", "digits", "--hidden", "16", "--latent", "2", "--batch-size", "256"]


class Wide(torch.nn.Module):
    """A prior of a user's own: a Normal of scale 2."""

    def __init__(self, latent_size):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.full((latent_size,), 2.0))

    def forward(self):
        import pyro.distributions as dist

        return dist.Normal(torch.zeros_like(self.scale), self.scale).to_event(1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on scikit-learn's digits, trained for two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    typed([*TINY, "--epochs", "2", "--out", str(folder)])
    return folder


def typed(arguments):
    """Run the command line in this process; its exit code."""
    before = sys.argv
    sys.argv = ["pyro-vae", *map(str, arguments)]
    try:
        main()
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = before
    return 0


def picture(path):
    return np.asarray(Image.open(path))


def test_help_answers_without_torch():
    code = (
        "import sys; sys.argv = ['pyro-vae', '--help']\n"
        "from pyro_vae.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert not {'torch', 'pyro', 'matplotlib', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Train a VAE" in done.stdout


def test_the_installed_command_and_the_module_are_the_same():
    for command in ([Path(sys.executable).parent / "pyro-vae"], [sys.executable, "-m", "pyro_vae"]):
        done = subprocess.run([*command, "sample", "nowhere"], capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.strip() == "Error: there is no run folder 'nowhere'"


def test_train_leaves_a_run_folder(trained):
    files = {str(p.relative_to(trained)) for p in trained.rglob("*") if p.is_file()}
    assert files == {
        "config.json",
        "weights.safetensors",
        "optimizer.safetensors",
        "metrics.jsonl",
        "training.png",
        "kl.png",
        "reconstructions/epoch_0002.png",
        "samples/epoch_0002.png",
    }
    assert [e.epoch for e in read_history(trained)] == [1, 2]
    assert read_history(trained)[1].test_elbo > read_history(trained)[0].test_elbo
    config = json.loads((trained / "config.json").read_text())
    assert config["data"] == {"name": "digits", "binarize": "dynamic"}
    assert config["versions"]["torch"] == torch.__version__.split("+")[0]
    # 12 images to a row, 8 pixels enlarged 7 times, with lines of 2 pixels between.
    assert picture(trained / "samples/epoch_0002.png").shape == (12 * 58 + 2, 12 * 58 + 2, 3)
    assert picture(trained / "reconstructions/epoch_0002.png").shape[1] == 12 * 58 + 2


def test_training_goes_on_where_it_stopped(trained, tmp_path):
    whole = tmp_path / "whole"
    assert typed([*TINY, "--epochs", "3", "--out", whole]) == 0
    parts = tmp_path / "parts"
    assert typed([*TINY, "--epochs", "2", "--out", parts]) == 0
    assert typed(["train", "--resume", parts, "--epochs", "3"]) == 0
    one, two = (load_run(folder)[0].state_dict() for folder in (whole, parts))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert [e.epoch for e in read_history(parts)] == [1, 2, 3]


def test_sample_reconstruct_and_interpolate_draw_pictures(trained, tmp_path):
    for command, width in (
        (["sample", trained, "--n", "24"], 12),
        (["reconstruct", trained, "--n", "24"], 12),
        (["interpolate", trained, "--steps", "5"], 5),
    ):
        out = tmp_path / f"{command[0]}.png"
        assert typed([*command, "--out", out]) == 0
        assert picture(out).shape[1] == width * 58 + 2
    again = tmp_path / "again.png"
    typed(["sample", trained, "--n", "24", "--out", again])
    assert np.array_equal(picture(again), picture(tmp_path / "sample.png"))


def test_encode_writes_the_posterior_of_each_image(trained, tmp_path):
    out = tmp_path / "latents.npz"
    assert typed(["encode", trained, "--split", "test", "--out", out]) == 0
    arrays = np.load(out)
    assert arrays["loc"].shape == arrays["scale"].shape == (359, 2)
    assert arrays["labels"].shape == (359,)
    assert (arrays["scale"] > 0).all()
    out = tmp_path / "all.npz"
    assert typed(["encode", trained, "--out", out]) == 0
    assert np.load(out)["loc"].shape == (1797, 2)


@pytest.mark.parametrize(
    ("recipe", "names"),
    [("iaf-vae", {"loc", "scale"}), ("joint", {"loc_z", "scale_z", "loc_c", "scale_c"})],
)
def test_a_posterior_without_moments_is_encoded_from_draws(recipe, names, tmp_path):
    run, out = tmp_path / "run", tmp_path / "latents.npz"
    assert typed([*TINY, "--latent", "12", "--recipe", recipe, "--epochs", "1", "--out", run]) == 0
    assert typed(["encode", run, "--split", "test", "--out", out]) == 0
    arrays = np.load(out)
    assert set(arrays) == names | {"labels"}
    assert all(np.isfinite(arrays[name]).all() for name in names)


def test_evaluate_puts_the_two_kls_side_by_side(trained, capsys):
    assert typed(["evaluate", trained, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    one, two = result["monte_carlo"], result["analytic"]
    assert result["images"] == 359
    assert one["elbo"] == pytest.approx(read_history(trained)[-1].test_elbo, abs=1e-4)
    assert one["elbo"] == pytest.approx(one["reconstruction"] - one["kl"], abs=1e-4)
    assert two["kl"] == pytest.approx(one["kl"], abs=4 * one["kl_error"])
    assert typed(["evaluate", trained]) == 0
    assert "Monte Carlo" in capsys.readouterr().out


def test_evaluate_measures_log_p_the_gaps_and_the_latents(trained, capsys):
    ask = ["evaluate", trained, "--samples", "50", "--gaps", "--gap-images", "10", "--probe"]
    assert typed([*ask, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["curve"].keys() == {"1", "10", "50"}
    assert result["log_p"]["mean"] >= result["elbo"]["mean"]
    assert result["gaps"]["images"] == 10
    assert 0 < result["accuracy"]["linear"]["mean"] < 1
    assert typed(ask) == 0
    assert "amortization gap" in capsys.readouterr().out


def test_another_protocol_is_refused_or_marked(trained, capsys):
    ask = ["evaluate", trained, "--samples", "10", "--binarize", "threshold"]
    assert typed(ask) == 2
    assert "trained under dynamic binarisation" in capsys.readouterr().err
    assert typed([*ask, "--other-protocol", "--json"]) == 0
    assert "evaluated under threshold" in json.loads(capsys.readouterr().out)["mark"]


def test_audit_shows_every_site(trained, capsys):
    assert typed(["audit", trained]) == 0
    printed = capsys.readouterr().out
    assert "latent" in printed
    assert "observed" in printed
    assert "analytic" in printed


def test_a_recipe_sets_what_is_not_given(tmp_path):
    run = tmp_path / "run"
    assert typed([*TINY, "--recipe", "beta-vae", "--epochs", "1", "--out", run]) == 0
    assert load_run(run)[1]["training"]["objective"] == "beta(beta=4)"
    run = tmp_path / "other"
    ask = [*TINY, "--recipe", "beta-vae", "--objective", "analytic", "--epochs", "1"]
    assert typed([*ask, "--out", run]) == 0
    assert load_run(run)[1]["training"]["objective"] == "analytic"


def test_a_discrete_guide_is_trained_by_enumeration_unless_told_otherwise(tmp_path):
    run = tmp_path / "run"
    assert typed([*TINY, "--guide", "categorical", "--epochs", "1", "--out", run]) == 0
    assert load_run(run)[1]["training"]["objective"] == "enumerate"
    assert load_run(run)[1]["vae"]["prior"] == "categorical"


def test_score_ranks_the_images_of_a_folder_by_name(trained, tmp_path):
    pixels = np.zeros((3, 8, 8), dtype=np.uint8)
    pixels[1, 2:6, 3:5] = 255
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    out = tmp_path / "scores.csv"
    ask = ["score", trained, "--data", tmp_path, "--samples", "50", "--out", out]
    assert typed(ask) == 0
    rows = [line.split(",") for line in out.read_text().splitlines()]
    assert rows[0][:3] == ["file", "log_p", "standard_error"]
    assert {row[0] for row in rows[1:]} == {"0.png", "1.png", "2.png"}
    scores = [float(row[1]) for row in rows[1:]]
    assert scores == sorted(scores)


def test_compare_leaves_a_table_and_a_figure(tmp_path):
    out = tmp_path / "comparison"
    fixed = [*TINY[1:], "--epochs", "1", "--seeds", "2", "--samples", "10", "--out", out]
    ask = ["compare", "--likelihoods", "bernoulli,normal(scale=0.3)", "--gaps"]
    assert typed([*ask, "--gap-images", "4", *fixed]) == 0
    rows = (out / "comparison.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 2
    table = (out / "comparison.md").read_text()
    # Probabilities and densities are nats of two kinds, and stand in two tables.
    assert table.count("| --- |") == 2
    assert "| normal(scale=0.3) |" in table
    assert "approximation gap" in table
    assert json.loads((out / "protocol.json").read_text())["seeds"] == 2
    assert picture(out / "comparison.png").shape[1] > 500


def test_scales_leaves_a_verdict_and_a_figure(tmp_path, capsys):
    out = tmp_path / "scales"
    assert typed(["scales", "--quick", "--seeds", "2", "--only", "divergence", "--out", out]) == 0
    assert "is needed for the KL: " in capsys.readouterr().out
    assert {p.name for p in out.iterdir()} == {"results.json", "verdicts.md", "divergence.png"}
    assert typed(["scales", "--only", "divergense", "--out", tmp_path / "other"]) == 2
    assert "did you mean divergence" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "exactly one of --guides"),
        (["--guides", "mean-field", "--priors", "normal"], "not 2 of them"),
        (["--guides", "mean-field", "--guide", "iaf"], "--guide and --guides cannot both"),
        (["--guides", "mean-field,mean-feild"], "did you mean mean-field"),
    ],
)
def test_a_comparison_that_has_no_meaning_is_refused(arguments, message, tmp_path, capsys):
    out = tmp_path / "comparison"
    assert typed(["compare", *arguments, "--data", "digits", "--out", out]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_list_names_every_part(capsys):
    from pyro_vae.cli.train import tables

    assert typed(["list"]) == 0
    printed = capsys.readouterr().out
    for rows in tables().values():
        for name, line in rows.items():
            assert name in printed
            assert line
    assert typed(["list", "guide"]) == 2
    assert "did you mean guides" in capsys.readouterr().err


def test_a_folder_of_images_is_trained_on_and_encoded_with_its_file_names(image_folder, tmp_path):
    folder, _ = image_folder
    run = tmp_path / "run"
    args = ["train", "--data", folder, "--hidden", "8", "--epochs", "1", "--out", run]
    assert typed([*args, "--likelihood", "continuous-bernoulli"]) == 0
    out = tmp_path / "latents.npz"
    assert typed(["encode", run, "--data", folder, "--out", out]) == 0
    assert len(np.load(out)["files"]) == 12


def test_a_class_of_the_users_own_goes_where_a_name_goes(tmp_path):
    run = tmp_path / "run"
    prior = f"{Wide.__module__}:Wide"
    assert typed([*TINY, "--epochs", "1", "--prior", prior, "--out", run]) == 0
    assert typed(["sample", run, "--n", "1", "--out", tmp_path / "one.png"]) == 0


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
    "--hidden 0": "hidden takes whole numbers above 0, not [0]",
    "--lr 0": "lr is a number above 0, not 0.0",
    "--device tpu": "--device 'tpu' is not there; take auto, or cpu",
    "--binarize none": "--binarize none leaves 17 levels of grey",
    "--guide iaf --objective analytic": "take the monte-carlo objective",
    "--guide categorical --objective analytic": "enumerate",
    "--recipe iwea": "unknown recipe 'iwea'; did you mean iwae",
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
    np.save(folder / "flat.npy", np.zeros((4, 30), dtype=np.uint8))
    return {
        "empty": "holds no images",
        "torn": "3.png",
        "uneven": "3.png",
        "wide.npy": "1.5",
        "holes.npy": "NaN",
        "flat.npy": "has shape (4, 30)",
        "nowhere": "there is no file or folder",
    }


def test_images_that_cannot_be_trained_on_are_told_in_one_sentence(tmp_path, capsys):
    for name, said in spoiled(tmp_path).items():
        run = tmp_path / "run"
        ask = ["train", "--data", tmp_path / name, "--likelihood", "normal", "--out", run]
        assert typed(ask) == 2
        message = capsys.readouterr().err.strip()
        assert said in message
        assert "\n" not in message
        assert not run.exists()


def test_labels_are_not_read_off_where_there_are_none(tmp_path, capsys):
    run, array = tmp_path / "run", tmp_path / "grey.npy"
    np.save(array, np.random.RandomState(0).randint(256, size=(20, 6, 5), dtype=np.uint8))
    ask = ["train", "--data", array, "--likelihood", "normal", "--hidden", "8", "--epochs", "1"]
    assert typed([*ask, "--out", run]) == 0
    assert typed(["evaluate", run, "--probe", "--samples", "5"]) == 2
    assert "these images have none" in capsys.readouterr().err


def test_a_run_is_neither_written_over_nor_used_with_other_images(trained, tmp_path, capsys):
    before = (trained / "weights.safetensors").read_bytes()
    assert typed([*TINY, "--out", trained]) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert typed(["train", "--resume", trained, "--lr", "1"]) == 2
    assert "--lr cannot be given" in capsys.readouterr().err
    assert typed(["train", "--resume", trained, "--epochs", "1"]) == 2
    assert "has 2 epochs already" in capsys.readouterr().err
    np.save(tmp_path / "other.npy", np.zeros((3, 5, 5), dtype=np.uint8))
    assert typed(["encode", trained, "--data", tmp_path / "other.npy"]) == 2
    assert "[1, 8, 8]" in capsys.readouterr().err
    assert (trained / "weights.safetensors").read_bytes() == before


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_a_lost_loss_is_told_and_the_run_keeps_the_last_good_weights(tmp_path, capsys):
    run = tmp_path / "run"
    assert typed([*TINY, "--epochs", "30", "--lr", "1e18", "--out", run]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "the loss became" in said
    assert "epoch 1, step" in said
    assert load_run(run)[0].sample(1).isfinite().all()


@pytest.fixture(scope="module")
def layered(tmp_path_factory):
    """A run with three layers of latents, the top one too small a matter to be learned."""
    run = tmp_path_factory.mktemp("runs") / "layers"
    typed([*TINY, "--latent", "4,3,2", "--guide", "ladder", "--epochs", "2", "--out", run])
    return run


def test_a_hierarchy_is_a_list_of_latents(layered, tmp_path, capsys):
    config = load_run(layered)[1]
    assert config["vae"]["latent_size"] == [4, 3, 2]
    assert config["vae"]["prior"] == "hierarchy"
    assert set(read_history(layered)[-1].kl_of_sites) == {"z_1", "z_2", "z_3"}
    assert [len(kl) for _, kl in sorted(read_history(layered)[-1].kl_of_units.items())] == [4, 3, 2]
    assert (layered / "kl.png").stat().st_size > 5000
    assert typed(["encode", layered, "--split", "test", "--out", tmp_path / "z.npz"]) == 0
    assert np.load(tmp_path / "z.npz")["loc_z_2"].shape == (359, 3)
    capsys.readouterr()
    assert typed(["evaluate", layered, "--samples", "20", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {name: units["of"] for name, units in result["active_units"].items()} == {
        "z_1": 4,
        "z_2": 3,
        "z_3": 2,
    }
    rates = result["rate_of_sites"]
    assert sum(rate["mean"] for rate in rates.values()) == pytest.approx(result["rate"]["mean"])
    for site, units in result["kl_of_units"].items():
        noise = 5 * rates[site]["error"] + 0.05
        assert sum(units) == pytest.approx(rates[site]["mean"], abs=noise)
    assert typed(["evaluate", layered, "--samples", "20"]) == 0
    assert "active units: z_3" in capsys.readouterr().out


def test_samples_that_vary_one_layer(layered, tmp_path, capsys):
    out = tmp_path / "z_2.png"
    assert typed(["sample", layered, "--vary", "z_2", "--n", "24", "--out", out]) == 0
    assert "2 rows of 12 samples that differ in z_2" in capsys.readouterr().out
    assert picture(out).shape[0] < picture(out).shape[1]
    assert typed(["sample", layered, "--vary", "z_4", "--out", out]) == 2
    assert "the latent sites are z_3, z_2, z_1, and 'z_4' is none" in capsys.readouterr().err


def test_a_collapsed_layer_is_named(tmp_path, capsys):
    command = [*TINY, "--latent", "4,2", "--guide", "bottom-up", "--objective", "beta(beta=50)"]
    command += ["--lr", "0.01", "--epochs", "8"]
    assert typed([*command, "--out", tmp_path / "run"]) == 0
    assert "the latent layer z_2 has collapsed" in " ".join(capsys.readouterr().out.split())
    seeds = ["compare", *command[1:], "--seeds", "1", "--samples", "10"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapseWarning)
        assert typed([*seeds, "--recipes", "vae", "--out", tmp_path / "comparison"]) == 0
    table = (tmp_path / "comparison" / "comparison.md").read_text()
    assert "\nvae, seed 0: the latent layer z_" in table
    assert "the latent layer z_2 has collapsed" in table


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--latent", "8,four"], "--latent takes a whole number, or one for each layer"),
        (["--latent", "8,0", "--guide", "ladder"], "the latent size is a whole number above 0"),
        (["--latent", "8,4"], "take bottom-up or ladder"),
        (["--latent", "8x3x3,4", "--guide", "ladder"], "layer 1 of the latents has 3x3 places"),
    ],
)
def test_layers_that_do_not_fit_are_refused_before_training(options, message, tmp_path, capsys):
    assert typed(["train", "--data", "digits", *options, "--out", tmp_path / "run"]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()

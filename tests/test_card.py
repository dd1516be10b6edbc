"""The card of a run has its numbers, and does not replace what somebody else wrote."""

import json
import shutil

import pytest
import torch
import yaml
from support.commands import typed
from support.tables import patients

from pyro_vae import VAE
from pyro_vae.runs.folder import read_history


@pytest.fixture
def run(trained, tmp_path):
    """A run folder that a test may change."""
    return shutil.copytree(trained, tmp_path / "run")


def card_of(run):
    return (run / "README.md").read_text()


def test_the_card_has_the_front_matter_of_the_hub_without_a_license(run):
    assert typed(["card", run]) == 0
    _, front, text = card_of(run).split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "pyro-vae",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["variational-autoencoder", "pyro"],
    }
    assert "# license:" in front
    for words in (
        "| guide | `mean-field` |",
        "| shape | `1 x 8 x 8` |",
        "| data: name | `digits` |",
        "| epochs | 2 of 2 |",
        "| seed | `0` |",
        "vae.encode(image)  # q(z | x) of a PIL image or an array",
    ):
        assert words in text
    for internal in ("conditioned", "holes", "`None`", "`False`"):
        assert internal not in text


def python_of(text):
    """The Python code of a card."""
    return text.split("```python\n")[1].split("```")[0]


@pytest.mark.parametrize("label", [[], ["--label", "sex", "--condition", "label"]])
def test_the_card_of_a_table_is_about_rows_and_columns(label, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    patients().to_csv("patients.csv", index=False)
    small = ["--hidden", "8", "--latent", "2", "--epochs", "1", "--out", "FOLDER"]
    assert typed(["train", "--data", "patients.csv", *label, *small]) == 0
    capsys.readouterr()
    assert typed(["evaluate", "FOLDER", "--samples", "5", "--json"]) == 0
    (tmp_path / "results.json").write_text(capsys.readouterr().out)
    assert typed(["card", "FOLDER", "--results", "results.json"]) == 0
    text = card_of(tmp_path / "FOLDER")
    assert "pipeline_tag" not in text
    assert "image" not in text.lower()
    assert "| 3 real: real numbers | `age, bmi, seconds` |" in text
    assert "| 5 left out | `id, seen, note, site, empty` |" in text
    assert "In nats per row." in text
    assert ('`"CLASS"` is one of f, m.' in text) == bool(label)
    patients(rows=20).drop(columns=["sex"] if label else []).to_csv("rows.csv", index=False)
    found = {}
    exec(python_of(text).replace("CLASS", "f"), found)
    assert len(found["rows"]) == 16
    assert found["rows"]["city"].isin(["Bonn", "Paris", "Rome"]).all()


def test_the_card_of_a_conditioned_vae_of_signals_has_code_that_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    VAE((2, 9), 2, condition=["cat", "dog"], likelihood="student-t").save("FOLDER")
    assert typed(["card", "FOLDER"]) == 0
    text = card_of(tmp_path / "FOLDER")
    assert "pipeline_tag" not in text
    assert '`"CLASS"` is one of cat, dog.' in text
    code = python_of(text)
    assert 'vae.sample(16, given="CLASS")  # mean signals' in code
    exec(code.replace("CLASS", "dog"), {"signal": torch.zeros(2, 9)})


def test_the_card_has_the_numbers_of_the_metrics_and_of_evaluate(run, tmp_path, capsys):
    assert typed(["evaluate", run, "--samples", "5", "--json"]) == 0
    printed = capsys.readouterr().out
    (tmp_path / "results.json").write_text(printed)
    assert typed(["card", run, "--results", tmp_path / "results.json"]) == 0
    text, last, results = card_of(run), read_history(run)[-1], json.loads(printed)
    one = results["monte_carlo"]
    assert f"| validation ELBO | {last.elbo:.2f} |" in text
    assert f"| ELBO, Monte Carlo KL | {one['elbo']:.2f} ± {one['elbo_error']:.2f} |" in text
    log_p = results["log_p"]
    assert log_p["error"] is None  # of 5 draws it would not cover
    assert f"| log p̂(x), a lower bound, 5 draws | {log_p['mean']:.2f} |" in text
    assert "Means over 359 test images of `digits`, dynamic binarisation, seed 0." in text
    for picture in ("training.png", "reconstructions/epoch_0002.png", "samples/epoch_0002.png"):
        assert f"]({picture})" in text
        assert (run / picture).is_file()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: "{", "is not what `pyro-vae evaluate --json` prints"),
        (lambda r: "[]", "is not what `pyro-vae evaluate --json` prints"),
        (lambda r: json.dumps({**r, "monte_carlo": 3}), "is not what"),
        (lambda r: json.dumps({**r, "seed": "<b>"}), "is not what"),
        (lambda r: json.dumps({**r, "run": "runs/other"}), "has the numbers of the run"),
    ],
)
def test_numbers_of_another_run_are_refused(run, tmp_path, capsys, change, said):
    values = {"elbo": -1.0, "reconstruction": -1.0, "kl": 0.0}
    errors = {f"{key}_error": 0.1 for key in values}
    results = {
        "run": str(run),
        "data": "digits",
        "split": "test",
        "binarize": "dynamic",
        "images": 3,
        "seed": 0,
        "monte_carlo": values | errors,
        "analytic": None,
        "samples": 5,
        "log_p": {"mean": -1.0, "error": None},
    }
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    assert typed(["card", run, "--results", path]) == 0
    before = card_of(run)
    path.write_text(change(results))
    assert typed(["card", run, "--results", path]) == 2
    assert said in capsys.readouterr().err
    assert card_of(run) == before


def test_a_readme_of_another_hand_stays(run, capsys):
    (run / "README.md").write_text("mine")
    assert typed(["card", run]) == 2
    assert "was written or changed by somebody" in capsys.readouterr().err
    assert card_of(run) == "mine"
    assert typed(["card", run, "--replace"]) == 0
    assert typed(["card", run]) == 0  # a card that nobody changed is written again
    changed = card_of(run).replace("# license: name a license here, such as", "license:")
    (run / "README.md").write_text(changed)
    assert typed(["card", run]) == 2
    assert card_of(run) == changed


def test_a_card_is_not_written_through_a_link(run, tmp_path, capsys):
    (tmp_path / "kept").write_text("kept")
    (run / "README.md").symlink_to(tmp_path / "kept")
    assert typed(["card", run, "--replace"]) == 2
    assert "is a link or a folder" in capsys.readouterr().err
    assert (tmp_path / "kept").read_text() == "kept"


def test_the_texts_of_a_stranger_are_no_markdown(run):
    config = json.loads((run / "config.json").read_text())
    config["versions"] = {"[x](y)<script>": "`|<img>\n# title"}
    config["data"]["name"] = "/home/me/`| <b>pictures"
    (run / "config.json").write_text(json.dumps(config))
    assert typed(["card", run]) == 0
    text = card_of(run)
    assert "<script>" not in text
    assert "](y)" not in text
    assert "/home/me" not in text
    assert "\n# title" not in text
    assert "| data: name | `   <b>pictures` |" in text


def test_versions_that_are_no_object_are_refused(run, capsys):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"versions": [1]}))
    assert typed(["card", run]) == 2
    assert "its parts are not objects" in capsys.readouterr().err

"""The commands that train several VAEs: ``compare`` and ``scales``."""

import csv
import io
import json
import sys

import numpy as np
import pytest
from rich.console import Console
from support.commands import TINY, picture, typed

from pyro_vae import compare as compare_module
from pyro_vae import load, load_data
from pyro_vae.compare import MEASURED_WITH
from pyro_vae.comparison import figure, markdown, tables
from pyro_vae.evaluation import elbo
from pyro_vae.evaluation.importance import importance


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


def test_binary_pixels_are_one_protocol_and_auto_tells_what_it_took(tmp_path):
    images = (np.random.RandomState(0).rand(20, 4, 4) > 0.5) * np.uint8(255)
    np.save(tmp_path / "masks.npy", images)
    fixed = ["--data", tmp_path / "masks.npy", "--hidden", "4", "--latent", "2", "--no-compile"]
    ask = ["compare", "--likelihoods", "bernoulli,auto", "--epochs", "1", "--seeds", "1"]
    out = tmp_path / "comparison"
    assert typed([*ask, *fixed, "--samples", "2", "--out", out]) == 0
    table = (out / "comparison.md").read_text()
    assert table.count("| --- |") == 1
    assert "masks.npy, pixels of 0 and 1, probabilities" in table
    assert "| auto (bernoulli) |" in table


def test_compare_measures_the_observed_part_of_data_with_holes(tmp_path):
    """The numbers in the table are those of a run that was trained alone."""
    random = np.random.RandomState(0)
    x = random.randn(60, 3)
    x[random.rand(60, 3) < 0.3] = np.nan
    np.save(tmp_path / "x.npy", x)
    fixed = ["--data", tmp_path / "x.npy", "--hidden", "4", "--latent", "2", "--no-compile"]
    fixed += ["--epochs", "2", "--likelihood", "student-t"]
    out, run = tmp_path / "comparison", tmp_path / "run"
    ask = ["compare", "--guides", "mean-field,low-rank", "--seeds", "1", "--samples", "20"]
    assert typed([*ask, *fixed, "--out", out]) == 0
    assert typed(["train", *fixed, "--out", run]) == 0
    vae, data = load(run), load_data(tmp_path / "x.npy")
    assert data.validation.mask is not None
    bound = elbo(vae.model, vae.guide, data.validation, seed=MEASURED_WITH)
    log_p = importance(vae.model, vae.guide, data.validation, samples=20, seed=MEASURED_WITH)
    with (out / "comparison.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert float(rows["mean-field"]["elbo"]) == pytest.approx(bound.elbo, abs=1e-4)
    assert float(rows["mean-field"]["log_p"]) == pytest.approx(log_p.mean, abs=1e-4)
    assert rows.keys() == {"mean-field", "low-rank"}


def test_the_points_of_one_row_are_inside_the_frame():
    row = {"name": "a", "seed": 0, "observation_space": "here", "elbo": -2.0, "log_p": -1.0}
    row |= {"elbo_error": 0.1, "log_p_error": 0.1}
    sheet = figure([row])
    (axes,) = sheet.axes
    bottom, top = axes.get_ylim()
    for line in axes.lines:
        assert all(top + 0.3 < y < bottom - 0.3 for y in line.get_ydata())
    assert axes.get_legend() is None
    assert [t.get_text() for t in sheet.legends[0].get_texts()] == [
        "validation ELBO",
        "log p̂(x), a lower bound",
    ]


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


def test_scales_leaves_a_verdict_and_a_figure(tmp_path, capsys):
    out = tmp_path / "scales"
    assert typed(["scales", "--quick", "--seeds", "2", "--only", "divergence", "--out", out]) == 0
    assert "is needed for the KL: " in capsys.readouterr().out
    assert {p.name for p in out.iterdir()} == {"results.json", "verdicts.md", "divergence.png"}
    assert typed(["scales", "--only", "divergense", "--out", tmp_path / "other"]) == 2
    assert "did you mean divergence" in capsys.readouterr().err


FAILING = """
import os
from pyro_vae.guides import MeanField

class Dies(MeanField):
    "Ends its process, or raises an error, at the first batch of a training."

    def forward(self, x):
        if len(x) > 2 and self.training:
            {action}
        return super().forward(x)
"""


def test_one_training_that_fails_keeps_the_results_of_the_others(tmp_path, monkeypatch, capsys):
    """In turn and side by side, with the same numbers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])  # compare adds the current folder
    ways = (
        (1, "raise RuntimeError('no memory')", "RuntimeError: no memory"),
        (2, "os.kill(os.getpid(), 9)", "its process ended with the code -9"),
    )
    rows = []
    for jobs, action, reason in ways:
        module, out = f"failing_{jobs}", tmp_path / f"out_{jobs}"
        (tmp_path / f"{module}.py").write_text(FAILING.format(action=action))
        ask = ["compare", "--guides", f"{module}:Dies,mean-field", *TINY[1:], "--epochs", "2"]
        ask += ["--seeds", "1", "--samples", "10", "--no-compile", "--device", "cpu"]
        assert typed([*ask, "--jobs", jobs, "--out", out]) == 1
        failed = f"{module}:Dies, seed 0, failed: {reason}."
        told = capsys.readouterr()
        assert told.err.splitlines()[-1] == failed
        assert "| mean-field | -" in told.out
        assert failed in (out / "comparison.md").read_text(encoding="utf-8")
        with (out / "comparison.csv").open(encoding="utf-8") as file:
            (row,) = csv.DictReader(file)
        assert row["name"] == "mean-field"
        rows.append({key: value for key, value in row.items() if "seconds" not in key})
    assert rows[0] == rows[1]


def test_a_terminal_gets_the_table_of_the_file():
    results = [
        {
            "name": "iaf(layers=3)",
            "seed": seed,
            "observation_space": "digits, threshold binarisation, probabilities",
            "elbo": -20.0 - seed,
            "log_p": -19.0,
            "parameters": 1200,
            "epochs": 150,
            "training_seconds": 15.0 + seed,
            "collapsed": "",
        }
        for seed in (0, 1)
    ]
    console = Console(file=io.StringIO(), width=100)
    console.print(tables(results))
    shown = console.file.getvalue()
    for text in (
        "iaf(layers=3)",
        "-20.50 ± 0.71",
        "1,200",
        "15.5 ± 0.7",
        "one standard deviation over 2 trainings",
    ):
        assert text in shown
        assert text in markdown(results)
    for row, error in zip(results, (0.2, 0.3), strict=True):
        row["elbo_error"] = error
    both = markdown(results)
    assert "| validation ELBO ± seeds (± images) |" in both
    assert "| -20.50 ± 0.71 (± 0.25) |" in both
    assert "one standard error of the mean over the validation images" in both
    assert "-20.00 (± 0.20) |" in markdown(results[:1])
    assert "± seeds" not in markdown(results[:1])


def test_all_trainings_are_measured_with_the_same_draws(tmp_path, monkeypatch):
    """Two seeds whose weights are made equal give equal numbers: no pixel and no z differs."""
    prepared = compare_module.prepare

    def same_weights(settings, *arguments):
        return prepared({**settings, "seed": 0}, *arguments)

    monkeypatch.setattr(compare_module, "prepare", same_weights)
    fixed = [*TINY[1:], "--epochs", "1", "--samples", "10", "--out", tmp_path / "out"]
    ask = ["compare", "--guides", "mean-field", "--gaps", "--gap-images", "4", "--seeds", "2"]
    assert typed([*ask, *fixed, "--binarize", "dynamic"]) == 0
    with (tmp_path / "out" / "comparison.csv").open(encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert [first["seed"], second["seed"]] == ["0", "1"]
    for column in ("elbo", "log_p", "elbo_error", "approximation_gap", "amortization_gap"):
        assert first[column] == second[column]


def test_the_figure_has_an_error_bar_for_each_mean():
    base = {"observation_space": "digits", "name": "a", "seed": 0, "collapsed": ""}
    result = base | {"elbo": -20.0, "elbo_error": 0.5, "log_p": -19.0, "log_p_error": 0.25}
    (axes,) = figure([result]).axes
    widths = [
        (segment[1][0] - segment[0][0]) / 2
        for bar in axes.containers
        for segment in bar.lines[2][0].get_segments()
    ]
    assert widths == pytest.approx([0.5, 0.25])

"""The commands that train several VAEs: ``compare`` and ``scales``."""

import json

import pytest
from support.commands import TINY, picture, typed


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

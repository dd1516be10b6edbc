"""The published table: its rows are command lines, and its documents are made from its files."""

import importlib
import json
import shlex
import sys
from pathlib import Path

import pytest
import torch
from support.commands import typed

from pyro_vae.data import load_data
from pyro_vae.runs.folder import load
from pyro_vae.runs.setup import prepare

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "reproduce.py"


@pytest.fixture(scope="module")
def reproduce():
    sys.path.insert(0, str(SCRIPT.parent))  # it imports its neighbour, as a script does
    try:
        return importlib.import_module("reproduce")
    finally:
        sys.path.remove(str(SCRIPT.parent))


@pytest.fixture(scope="module")
def results(reproduce, tmp_path_factory):
    """The smoke run of two rows, with two seeds of the first."""
    before = reproduce.RESULTS
    reproduce.RESULTS = tmp_path_factory.mktemp("results")
    for name, seed in (("vae-1", 0), ("vae-1", 1), ("iwae-2-k5", 0)):
        reproduce.train(name, "smoke", seed, None)
    yield reproduce.RESULTS / "smoke"
    reproduce.RESULTS = before


def test_every_row_is_a_vae_that_trains(reproduce):
    for name in reproduce.ROWS:
        prepare(reproduce.settings_of(name, "smoke", 0), torch.device("cpu"), None)


def test_a_row_is_one_command_line(reproduce, results, tmp_path, monkeypatch):
    """The command in the file of a training gives the numbers of the file."""
    monkeypatch.chdir(tmp_path)
    stored = json.loads((results / "iwae-2-k5-0.json").read_text())
    words = shlex.split(stored["command"])
    assert typed(words[1:]) == 0
    vae = load(words[words.index("--out") + 1])
    images = load_data("mnist-5k", binarize="dynamic", validation=0).test
    found = json.loads(json.dumps(reproduce.measured(vae, images, reproduce.BUDGETS["smoke"])))
    assert found == {key: stored[key] for key in found}


def test_the_table_has_the_interval_over_seeds(reproduce, results):
    nll = [json.loads((results / f"vae-1-{n}.json").read_text())["nll"]["mean"] for n in (0, 1)]
    half = 12.706205 * abs(nll[0] - nll[1]) / 2  # t of one degree of freedom, and s / √2
    row = next(line for line in reproduce.table("smoke").splitlines() if "VAE, 1 layer |" in line)
    assert f"| {sum(nll) / 2:.2f} ± {half:.2f} |" in row
    assert "86.76 (Burda et al. 2016, table 1)" in row


def test_a_run_folder_that_was_measured_is_a_row_without_times(reproduce, tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path)
    numbers = {"nll": {"mean": 86.5}, "elbo": {"mean": -91.0}, "active_units": {"z": 20}}
    reproduce.written("vae-1", "paper", 0, numbers)
    assert reproduce.table("paper").splitlines()[-1].endswith("|  |  |  | 1 |")
    assert reproduce.figure("paper").axes


def test_the_curve_ends_at_the_number_of_the_table(results):
    stored = json.loads((results / "vae-1-0.json").read_text())
    curve = stored["curve"]
    last = curve["processor_seconds_and_nll"][-1][1]
    assert last == pytest.approx(stored["nll_by_samples"][str(curve["samples"])], abs=1e-3)
    assert len(curve["processor_seconds_and_nll"]) == 2  # after each of the two epochs


def test_what_was_kept_is_measured_without_training(reproduce, results, tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path)
    reproduce.train("vae-1", "smoke", 0, tmp_path)
    file = tmp_path / "smoke" / "vae-1-0.json"
    first = json.loads(file.read_text())
    monkeypatch.setattr(reproduce, "trained", None)
    reproduce.train("vae-1", "smoke", 0, tmp_path)
    assert json.loads(file.read_text()) == first
    other = json.loads((results / "vae-1-0.json").read_text())
    assert {k: v for k, v in first.items() if k not in ("training", "curve")} == {
        k: v for k, v in other.items() if k not in ("training", "curve")
    }


def test_the_documents_are_those_of_the_files(reproduce, monkeypatch):
    monkeypatch.setattr(reproduce, "RESULTS", SCRIPT.parent / "results" / "reproduce")
    for budget in ("short", "cpu", "paper"):
        page = reproduce.RESULTS / f"{budget}.md"
        made = reproduce.runs_of(budget)
        assert page.exists() == bool(made)
        assert not made or page.read_text() == reproduce.table(budget) + "\n"


@pytest.mark.parametrize("name", ["vae-1", "iwae-2-k5"])
def test_the_budget_of_the_paper_is_that_of_the_paper(reproduce, name):
    settings = reproduce.settings_of(name, "paper", 0)
    assert (settings["batch_size"], settings["lr"], settings["epochs"]) == (20, 1e-3, 3280)
    assert settings["schedule"] == "iwae"

"""The benchmark of semi-supervised learning, on the embedded digits, and its table."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks" / "semi_supervised.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("semi_supervised", SCRIPT)
    module = sys.modules["semi_supervised"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name", ["m1+m2", "m2", pytest.param("Pyro's ss_vae_M2", marks=pytest.mark.slow)]
)
def test_a_model_learns_from_few_labels(benchmark, name):
    """Better than chance, of which the error is 0.9, by far more than the noise of 600 images."""
    (found,) = benchmark.train(name, 5, [500], 4, "mnist-5k", True, "cpu")
    assert found["error"] < 0.5


def test_the_table_of_the_page_is_that_of_the_results(benchmark):
    results = json.loads(benchmark.RESULTS.read_text())["results"]
    assert benchmark.table(results) in (ROOT / "docs" / "labels.md").read_text()

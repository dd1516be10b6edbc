"""The intervals for log p(x) cover it where they are called trusted, and are refused elsewhere."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
import torch

from pyro_vae.evaluation.trust import light_tails, remaining_bias
from pyro_vae.evaluation.weights import Weights

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "coverage.py"


@pytest.fixture(scope="module")
def coverage():
    """The script of the measurement that the documentation shows."""
    spec = importlib.util.spec_from_file_location("benchmark_of_coverage", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_one_image_cannot_show_its_bias():
    """Its own draws may have missed a tail, and its own Pareto k is then small."""
    k = torch.tensor([-1.0, -1.0])
    assert light_tails(k, 1000)
    assert not light_tails(k[:1], 1000)


@pytest.mark.parametrize("pieces", [[1000], [1, 2, 300, 7, 690]])
def test_the_rise_of_the_curve_is_that_of_the_parts_of_the_draws(pieces):
    log_w = 3 * torch.randn(1000, 7, dtype=torch.float64) - 500
    weights = Weights(1000)
    for piece in log_w.split(pieces):
        weights.add(piece)
    used = log_w[: 16 * 62]  # 8 draws are left over
    for found, parts in zip(weights.rises(), (4, 16), strict=True):
        each = used.unflatten(0, (parts, -1)).logsumexp(1) - math.log(len(used) / parts)
        known = used.logsumexp(0) - math.log(len(used)) - each.mean(0)
        torch.testing.assert_close(found, known, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("power", [1.0, 0.5, 0.1])
def test_the_remaining_bias_of_a_power_of_k(power):
    bias = [0.2 * 4 ** (i * power) for i in range(3)]  # at K, K/4 and K/16
    rises = torch.tensor([[bias[1] - bias[0]], [bias[2] - bias[0]]]).double()
    assert remaining_bias(rises.expand(2, 5)) == pytest.approx(0.2)


def test_a_curve_that_does_not_settle_has_no_bound_and_a_flat_one_no_bias():
    assert remaining_bias(torch.tensor([[0.3], [0.6]])) == math.inf
    assert remaining_bias(torch.zeros(2, 5)) == 0
    few = Weights(15)
    few.add(torch.randn(15, 2))
    assert few.rises().isnan().all()


def test_equal_weights_do_not_outweigh_heavy_tails():
    k = torch.tensor([-math.inf] * 80 + [0.9] * 20)
    assert not light_tails(k, 500)
    assert light_tails(k[:80], 500)
    assert not light_tails(torch.full((100,), 0.55), 5000)
    assert light_tails(torch.full((100,), 0.45), 5000)
    assert not light_tails(torch.full((1,), 0.45), 500)  # one k alone is too uncertain
    assert not light_tails(torch.full((100,), math.nan), 500)


def test_the_remaining_bias_is_near_the_true_one(coverage):
    pair = next(p for p in coverage.pairs(10) if p.name.endswith("0.8"))
    row = coverage.measure(pair, repetitions=1, images=1000, draws=200, seed=0)
    assert row["bias"] < -0.005
    assert row["estimated_bias"] == pytest.approx(-row["bias"], rel=0.5)


def test_what_is_trusted_covers_and_what_is_not_is_refused(coverage):
    """30 repetitions of 20 images. Of 600 intervals that cover with 0.90 to 0.99, at least 0.876
    and at most 0.998 are found but for one case in forty; of 30, at least 0.77."""
    named = {pair.name: pair for pair in coverage.pairs(10)}
    for name in ("exact posterior, σ × 1.3", "best mean-field, KL 0.05"):
        row = coverage.measure(named[name], 30, 20, 500, seed=3)
        assert row["images_trusted"] > 0.5
        assert 0.876 <= row["coverage_of_trusted_images"] <= 0.998
        assert row["coverage_of_trusted_means"] >= 0.77
    for kl, most in ((1.0, 0.8), (4.5, 0.2)):
        row = coverage.measure(named[f"best mean-field, KL {kl}"], 30, 20, 500, seed=3)
        assert row["coverage_of_images"] < most  # so there is something to refuse
        assert row["images_trusted"] == row["means_trusted"] == 0


def test_the_published_coverage_is_in_reach_and_the_table_is_made_from_it(coverage):
    result = json.loads((SCRIPT.parent / "results" / "coverage.json").read_text())
    for share in result["coverage_of_all_trusted"].values():
        assert 0.90 <= share <= 0.99
    assert coverage.table() in (ROOT / "docs" / "evaluation.md").read_text()

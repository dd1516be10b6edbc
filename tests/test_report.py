"""The table of an evaluation, the scores of single images, and unlike protocols."""

import csv
import json
import math
from functools import partial
from types import SimpleNamespace

import pyro
import pytest
import torch
from support.exact import LinearGaussian, LinearMeanField

from pyro_vae.data.images import Images
from pyro_vae.errors import InputError
from pyro_vae.evaluation import report
from pyro_vae.evaluation.importance import importance
from pyro_vae.evaluation.report import auroc, evaluate, protocol, write_scores
from pyro_vae.guides import GUIDES
from pyro_vae.vae import VAE


def binary(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(2, (n, 1, 3, 4), generator=generator, dtype=torch.uint8) * 255
    return Images(pixels, labels=torch.arange(n) % 2, classes=("a", "b"))


def test_the_table_holds_what_is_known_and_goes_into_json():
    exact = LinearGaussian(5, (2,))
    x = exact.images(100)
    guide = LinearMeanField(exact)
    with pyro.validation_enabled(False):
        vae = exact.vae(guide)
        programs = SimpleNamespace(model=vae.model, guide=vae.guide)
        table = evaluate(
            programs, Images(x), samples=500, gap_images=10, annealed_images=2, temperatures=30
        )
    json.dumps(table, allow_nan=False)
    truth = exact.log_evidence(x).mean().item()
    gap = exact.gap(guide(x), x).mean().item()
    assert table["log_p"]["mean"] == pytest.approx(truth, abs=0.02)
    assert table["elbo"]["mean"] == pytest.approx(truth - gap, abs=0.02)
    assert -table["distortion"]["mean"] - table["rate"]["mean"] == pytest.approx(
        truth - gap, abs=0.2
    )
    assert list(table["curve"]) == ["1", "10", "100", "500"]
    assert table["curve"]["500"]["mean"] == table["log_p"]["mean"]
    assert table["active_units"] == {"z": {"count": 2, "of": 2}}
    assert sum(table["kl_of_units"]["z"]) == pytest.approx(table["rate"]["mean"], rel=0.05)
    assert "256 levels" in table["bits_per_dimension"]["why"]
    assert table["gaps"]["images"] == 10
    assert table["annealed"]["log_p"]["mean"] == pytest.approx(
        exact.log_evidence(x[:2]).mean().item(), abs=1.5
    )


def test_bits_per_dimension_and_accuracy_where_there_are_some():
    images = binary(40)
    vae = VAE((1, 3, 4), 2, hidden=(8,), likelihood="discretized-logistic", guide="iaf")
    table = evaluate(vae, images, train=images, samples=50)
    assert table["bits_per_dimension"]["mean"] == pytest.approx(
        -table["log_p"]["mean"] / 12 / math.log(2)
    )
    assert 0 <= table["accuracy"]["linear"]["mean"] <= 1
    assert "no Normal marginals" in table["kl_of_units"]["why"]
    json.dumps(table, allow_nan=False)


@pytest.mark.parametrize("guide", GUIDES)
def test_every_guide_can_be_evaluated(guide, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "gaps", partial(report.gaps, steps=5))
    options = "(categories=2)" if guide == "joint" else ""
    vae = VAE((1, 3, 4), 4, hidden=(8,), guide=guide + options)
    table = evaluate(
        vae, binary(20), samples=200, gap_images=5, annealed_images=2, temperatures=2,
        figures=tmp_path / "pictures",
    )  # fmt: skip
    json.dumps(table, allow_nan=False)
    assert table["elbo"]["mean"] < table["log_p"]["mean"] < 0
    assert table["elbo"]["mean"] == pytest.approx(
        -table["distortion"]["mean"] - table["rate"]["mean"], abs=0.5
    )
    discrete = guide in ("categorical", "gumbel-softmax", "joint")
    assert ("why" in table["annealed"]) == discrete
    assert ("why" in table["gaps"]) == (guide == "categorical")
    drawn = {file.stem for file in (tmp_path / "pictures").iterdir()}
    assert drawn >= {"draws", "latents", "reconstructions"}
    assert ("gaps" in drawn) == (guide != "categorical")
    assert ("units" in drawn) == (
        guide
        in ("mean-field", "full-covariance", "low-rank", "semi-amortized", "bottom-up", "ladder")
    )


def test_scores_are_written_with_the_file_s_name_and_the_least_likely_first(tmp_path):
    images = Images(binary(6).pixels, files=tuple(f"{c}.png" for c in "abcdef"))
    vae = VAE((1, 3, 4), 2, hidden=(8,))
    result = importance(vae.model, vae.guide, images, samples=100)
    write_scores(tmp_path / "scores.csv", images, result)
    lines = list(csv.DictReader((tmp_path / "scores.csv").open()))
    assert sorted(line["file"] for line in lines) == list(images.files)
    values = [float(line["log_p"]) for line in lines]
    assert values == sorted(values)
    for line in lines:
        i = images.files.index(line["file"])
        assert float(line["log_p"]) == pytest.approx(result.log_p[i].item(), abs=1e-4)
        assert float(line["standard_error"]) == pytest.approx(result.errors[i].item(), abs=1e-4)
        assert line["trusted"] == str(bool(result.trusted[i])).lower()


def test_the_auroc_is_the_share_of_pairs_in_the_right_order():
    usual, unusual = torch.randn(50) + 1, torch.randn(30)
    pairs = (usual[:, None] > unusual).double().mean().item()
    assert auroc(usual, unusual) == pytest.approx(pairs)
    assert auroc(unusual + 10, unusual) == 1


def test_another_protocol_is_refused_unless_it_is_meant():
    assert protocol("dynamic", None) == protocol("dynamic", "dynamic") == ("dynamic", None)
    with pytest.raises(InputError, match=r"trained under dynamic .* --other-protocol"):
        protocol("dynamic", "static")
    used, mark = protocol("dynamic", "static", anyway=True)
    assert used == "static"
    assert mark == "trained under dynamic binarisation, evaluated under static"

"""The report of an evaluation, the scores of single images, and the choice of binarisation."""

import csv
import json
import math
import re
from functools import partial
from types import SimpleNamespace

import pyro
import pytest
import torch
from pyro.distributions import StudentT
from support.exact import LinearGaussian, LinearMeanField
from torch import nn

from pyro_vae.contracts import Guide
from pyro_vae.data.images import Images
from pyro_vae.errors import InputError
from pyro_vae.evaluation import elbo, standard_error
from pyro_vae.evaluation.aggregate import aggregate
from pyro_vae.evaluation.importance import importance
from pyro_vae.evaluation.scores import auroc, score_images, write_scores
from pyro_vae.evaluation.trust import LEAST, tail_size
from pyro_vae.guides import GUIDES
from pyro_vae.report import table as report
from pyro_vae.report.intervals import withdraw
from pyro_vae.report.samples import remedies
from pyro_vae.report.sections import advice, sections
from pyro_vae.report.table import choose_binarization, evaluate
from pyro_vae.vae import VAE


def binary(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(2, (n, 1, 3, 4), generator=generator, dtype=torch.uint8) * 255
    return Images(pixels, labels=torch.arange(n) % 2, classes=("a", "b"))


def test_the_table_agrees_with_a_known_model_and_is_json():
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


def test_a_posterior_far_from_the_prior_is_a_warning_that_names_priors():
    vae = VAE((1, 3, 4), 2, hidden=(8,))
    assert "warning" not in evaluate(vae, binary(200), samples=2)["prior_gap"]
    vae.guide.posterior.head.bias.data[1] += 2  # a mean
    gap = evaluate(vae, binary(200), samples=2)["prior_gap"]
    assert gap["z"] == pytest.approx(2, abs=0.5)
    assert f"differ by {gap['z']:.2f} nats in z, the most in unit 1" in gap["warning"]
    assert "vamp, flow, mixture" in gap["warning"]


def test_the_advice_does_not_name_what_the_run_has():
    told = {}
    for prior, likelihood in (("vamp", "normal"), ("standard-normal", "normal(bounded=False)")):
        vae = VAE((1, 3, 4), 2, prior=prior, likelihood=likelihood, hidden=(8,))
        told[prior] = remedies(vae.model)
    assert "vamp" not in told["vamp"]
    assert "bounded" not in told["vamp"]
    assert "vamp" in told["standard-normal"]
    assert "bounded means" in told["standard-normal"]


@pytest.mark.parametrize("guide", ["categorical", "gumbel-softmax", "joint(categories=3)"])
def test_one_of_k_latents_are_not_compared_with_a_normal(guide):
    gap = evaluate(VAE((1, 3, 4), 5, hidden=(8,), guide=guide), binary(3), samples=2)["prior_gap"]
    assert "warning" not in gap
    assert "real numbers" in (gap["c"]["why"] if guide.startswith("joint") else gap["why"])


def test_bits_per_dimension_and_accuracy():
    images = binary(40)
    vae = VAE((1, 3, 4), 2, hidden=(8,), likelihood="discretized-logistic", guide="iaf")
    table = evaluate(vae, images, train=images, samples=50)
    assert table["bits_per_dimension"]["mean"] == pytest.approx(
        -table["log_p"]["mean"] / 12 / math.log(2)
    )
    assert 0 <= table["accuracy"]["linear"]["mean"] <= 1
    assert "no Normal marginals" in table["kl_of_units"]["why"]
    json.dumps(table, allow_nan=False)


def assert_the_two_elbos_agree(vae, images, table):
    """One ELBO has 10 draws and the other one 200. Their difference has mean 0, and a standard
    error that follows from its spread over the images."""
    ten = elbo(vae.model, vae.guide, images, samples=10)
    many = importance(vae.model, vae.guide, images, samples=200)
    assert table["elbo"]["mean"] == pytest.approx(many.elbos.mean().item())
    assert -table["distortion"]["mean"] - table["rate"]["mean"] == pytest.approx(ten.elbo)
    difference = many.elbos - ten.elbos
    assert abs(difference.mean().item()) < 5 * standard_error(difference)


class HeavyTails(Guide):
    """A correct guide whose log-weights have no variance."""

    def __init__(self, encoder, latent_size, df=2.0):
        super().__init__()
        self.encoder, self.df = encoder, df
        self.loc = nn.Linear(encoder.out_features, latent_size)

    def forward(self, x):
        return StudentT(self.df, self.loc(self.encoder(x)), 1.0).to_event(1)


@pytest.mark.parametrize("seed", range(3))
def test_a_guide_with_heavy_tails_can_be_evaluated(seed):
    torch.manual_seed(seed)
    vae = VAE((1, 3, 4), 4, hidden=(8,), guide=HeavyTails)
    table = evaluate(vae, binary(20), samples=200)
    assert_the_two_elbos_agree(vae, binary(20), table)
    assert "StudentT, which has no Normal marginals" in table["kl_of_units"]["why"]
    json.dumps(table, allow_nan=False)


def test_one_image_and_one_latent_unit_can_be_evaluated(tmp_path):
    vae = VAE((1, 3, 4), 3, hidden=(8,))
    one = binary(1)
    table = evaluate(vae, one, train=one, samples=20, gap_images=1, annealed_images=1,
                     temperatures=2, figures=tmp_path / "one")  # fmt: skip
    json.dumps(table, allow_nan=False)
    assert "at least 2 classes" in table["accuracy"]["why"]
    assert "one image has no ±" in table["trust"]["verdict"]
    assert not table["trust"]["images_trusted"]
    assert "PCA of at least 2 images" in table["figure_latents"]["why"]
    drawn = {file.stem for file in (tmp_path / "one").iterdir()}
    assert drawn == {"draws", "gaps", "reconstructions", "traversals", "units"}
    vae = VAE((1, 3, 4), 1, hidden=(8,))
    table = evaluate(vae, binary(20), samples=20, figures=tmp_path / "unit")
    assert not [key for key in table if key.startswith("figure_")]
    assert (tmp_path / "unit" / "latents.png").is_file()


def test_a_part_that_fails_does_not_lose_the_report(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise ValueError("no luck")

    monkeypatch.setattr(report, "unit_kl", broken)
    monkeypatch.setattr(report.show, "sample_curve", broken)
    monkeypatch.setattr(report, "sandwich", broken)
    vae = VAE((1, 3, 4), 2, hidden=(8,))
    table = evaluate(vae, binary(20), samples=20, annealed_images=1, temperatures=2,
                     figures=tmp_path)  # fmt: skip
    why = {"why": "the computation failed with a ValueError: no luck"}
    assert table["kl_of_units"] == table["figure_draws"] == table["annealed"]["sandwich"] == why
    assert table["annealed"]["log_p"]["mean"] < 0
    assert {file.stem for file in tmp_path.iterdir()} == {
        "latents",
        "reconstructions",
        "traversals",
    }


def test_a_mutual_information_at_its_limit_is_not_reported():
    exact = LinearGaussian(5, (2,), scale=0.01)  # each image has its own narrow posterior
    with pyro.validation_enabled(False):
        table = evaluate(exact.vae(), Images(exact.images(6)), samples=20)
    why = table["aggregate"]["mutual_information"]["why"]
    assert "is close to its upper limit log N = 1.79 nats for the N = 6 images" in why
    assert table["aggregate"]["total_correlation"]["why"] == why
    assert "mean" in table["aggregate"]["dimension_wise_kl"]
    vae = VAE((1, 3, 4), 2, hidden=(8,))
    assert "mean" in evaluate(vae, binary(20), samples=20)["aggregate"]["mutual_information"]


@pytest.mark.parametrize("guide", GUIDES)
def test_every_guide_can_be_evaluated(guide, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "gaps", partial(report.gaps, steps=5))
    options = "(categories=2)" if guide == "joint" else ""
    condition = {"labelled": 3, "targeted": (2,)}.get(guide)
    vae = VAE((1, 3, 4), 4, hidden=(8,), guide=guide + options, condition=condition)
    table = evaluate(
        vae, binary(20), samples=200, gap_images=5, annealed_images=2, temperatures=2,
        figures=tmp_path / "pictures",
    )  # fmt: skip
    json.dumps(table, allow_nan=False)
    assert table["elbo"]["mean"] < table["log_p"]["mean"] < 0
    assert_the_two_elbos_agree(vae, binary(20), table)
    discrete = guide in ("categorical", "gumbel-softmax", "joint", "labelled")
    assert ("why" in table["annealed"]) == discrete
    no_gaps = guide in ("categorical", "labelled")
    assert ("why" in table["gaps"]) == no_gaps
    drawn = {file.stem for file in (tmp_path / "pictures").iterdir()}
    assert drawn >= {"draws", "latents", "reconstructions"}
    failed = {key.removeprefix("figure_") for key in table if key.startswith("figure_")}
    assert failed == set() if "traversals" in drawn else failed == {"traversals"}
    assert ("traversals" in drawn) == (not discrete or guide == "labelled")
    assert ("gaps" in drawn) == (not no_gaps)
    assert ("units" in drawn) == (
        guide
        in (
            *("mean-field", "full-covariance", "low-rank", "semi-amortized", "bottom-up", "ladder"),
            "targeted",
        )
    )


def test_scores_are_written_with_the_file_s_name_and_the_least_likely_first(tmp_path):
    images = Images(binary(6).pixels, files=tuple(f"{c}.png" for c in "abcdef"))
    vae = VAE((1, 3, 4), 2, hidden=(8,))
    result = importance(vae.model, vae.guide, images, samples=100)
    splits = ["test", "validation"] * 3
    write_scores(tmp_path / "scores.csv", images, splits, result)
    lines = list(csv.DictReader((tmp_path / "scores.csv").open()))
    assert sorted(line["file"] for line in lines) == list(images.files)
    values = [float(line["log_p"]) for line in lines]
    assert values == sorted(values)
    for line in lines:
        i = images.files.index(line["file"])
        assert line["split"] == splits[i]
        assert float(line["log_p"]) == pytest.approx(result.log_p[i].item(), abs=1e-4)
        known = f"{result.errors[i].item():.4f}" if result.trusted else ""
        assert line["standard_error"] == known
        assert line["trusted"] == str(result.trusted).lower()


def test_the_error_of_a_mean_over_draws_of_the_pixels_covers():
    """Two seeds differ as the errors say. With one draw they differ by much more."""
    vae = VAE((1, 3, 4), 2, hidden=(8,))
    generator = torch.Generator().manual_seed(0)
    for parameter in vae.model.parameters():  # so that log p(x) depends on the pixels
        parameter.data.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    grey = Images(binary(60).pixels // 2 + 64, binarize="dynamic")
    ratio = {}
    for draws in (1, 10):
        one, two = (
            score_images(vae.model, vae.guide, grey, samples=100, pixel_draws=draws, seed=seed)
            for seed in (0, 1)
        )
        away = (one.log_p - two.log_p) / (one.errors.square() + two.errors.square()).sqrt()
        ratio[draws] = away.square().mean().sqrt().item()
    assert ratio[1] > 3
    assert 0.8 < ratio[10] < 1.4  # of a t distribution with some 18 degrees of freedom: 1.06
    with pytest.raises(InputError, match="2 draws of the pixels need dynamic binarisation"):
        score_images(vae.model, vae.guide, binary(3), pixel_draws=2)


def test_a_mean_that_would_not_cover_has_no_error():
    """The best mean-field guide, 1 nat from the posterior."""
    exact = LinearGaussian(5, (4,), scale=0.54)
    with pyro.validation_enabled(False):
        x = exact.images(100)
        wrong = evaluate(exact.vae(LinearMeanField(exact)), Images(x), samples=500)
        right = evaluate(exact.vae(), Images(x), samples=500)
    assert right["log_p"]["error"] is not None
    assert right["trust"]["mean_trusted"]
    assert wrong["log_p"]["error"] is wrong["log_p"]["monte_carlo_error"] is None
    assert wrong["trust"]["verdict"].startswith("log p̂(x) is a lower bound on log p(x) in the mean")
    assert "so it has no ±" in wrong["trust"]["verdict"]
    assert wrong["log_p"]["mean"] < exact.log_evidence(x).mean().item() - 0.1


def test_annealing_that_gives_clearly_more_takes_the_errors_away():
    table = {
        "annealed": {"difference": {"mean": 0.5, "error": 0.1}, "importance_on_the_same": {}},
        "log_p": {"mean": -1.0, "error": 0.4, "monte_carlo_error": 0.01},
        "bits_per_dimension": {"why": "no levels"},
        "trust": {"mean_trusted": True},
    }
    withdraw(table, 1.1)  # a difference of 0.3 at least, and 0.33 may be missing
    assert table["log_p"]["error"] == 0.4
    withdraw(table, 0.9)
    assert table["log_p"]["error"] is None
    assert not table["trust"]["mean_trusted"]
    assert "annealing gives 0.5 nats more" in table["trust"]["verdict"]
    assert table["bits_per_dimension"] == {"why": "no levels"}


def test_the_n_that_is_named_serves():
    """Orthogonal pixels make the posterior diagonal, and its aggregate is the prior, without any
    total correlation."""
    exact = LinearGaussian(2, (2,), scale=0.1)
    exact.layers[-1].weight.data = 0.01 * torch.eye(2).double()
    guide = LinearMeanField(exact)
    with pyro.validation_enabled(False):
        vae = exact.vae(guide)
        few = aggregate(vae.model, vae.guide, Images(exact.images(100)))
        assert few.terms["total_correlation"][0] > 0.4  # of 0
        count = int(
            re.search(r"N = ([\d,]+) images would serve", few.saturated)[1].replace(",", "")
        )
        enough = aggregate(vae.model, vae.guide, Images(exact.images(count)))
    assert count == pytest.approx(10 * 100 * 1.01, rel=0.5)  # the posterior has σ = 0.1 in 2 units
    assert enough.saturated is None
    assert enough.terms["total_correlation"][0] == pytest.approx(0, abs=0.15)


def test_the_auroc_is_the_share_of_pairs_in_the_right_order():
    usual, unusual = torch.randn(50) + 1, torch.randn(30)
    pairs = (usual[:, None] > unusual).double().mean().item()
    assert auroc(usual, unusual) == pytest.approx(pairs)
    assert auroc(unusual + 10, unusual) == 1


def test_another_binarisation_is_refused_or_marked():
    assert choose_binarization("dynamic", None) == ("dynamic", None)
    assert choose_binarization("dynamic", "dynamic") == ("dynamic", None)
    with pytest.raises(InputError, match=r"trained under dynamic .* --other-protocol"):
        choose_binarization("dynamic", "static")
    used, mark = choose_binarization("dynamic", "static", anyway=True)
    assert used == "static"
    ours = "static binarisation by a draw of our own"
    assert mark == f"trained under dynamic binarisation, evaluated under {ours}"


def small_report(**other):
    """What ``evaluate`` would give, for numbers that can be checked by hand."""
    number = {"mean": -20.0, "error": 0.5}
    return {
        "images": 100,
        "samples": 1000,
        "log_p": number,
        "elbo": number,
        "rate": number,
        "distortion": number,
        "rate_of_sites": {"z": number},
        "curve": {"1": number, "10": number, "1000": number},
        "trust": {
            "effective_samples": 30.0,
            "pareto_k": 0.3,
            "limit": 0.667,
            "untrusted_share": 0.36,
            "rise_of_curve": {"mean": 0.25, "error": 0.125},
            "remaining_bias": None,
            "images_trusted": False,
            "mean_trusted": False,
            "verdict": "a lower bound",
        },
        "bits_per_dimension": {"why": "there are no levels"},
        "active_units": {"z": {"count": 3, "of": 4}},
        "prior_gap": {"z": 0.1},
        "aggregate": {"why": "there is one image"},
        **other,
    }


def test_the_printed_report_has_each_number_with_its_error():
    report = small_report(
        gaps={"images": 7, "approximation_gap": {"mean": 0.25, "error": 0.125}},
        figure_latents={"why": "nothing to draw"},
    )
    found = sections(report)
    rows = {name: number for each in found.values() for name, number in each}
    assert rows["importance sampling, 1,000 draws of z"] == "-20.00 ± 0.50"
    assert rows["importance sampling, the first 10"] == "-20.00 ± 0.50"
    assert "importance sampling, the first 1" not in rows  # the ELBO, with more noise
    assert "importance sampling, the first 1,000" not in rows  # it is the estimate itself
    assert rows["bits per dimension"] == "undefined: there are no levels"
    # The standard error of a share p of N images is √(p (1 - p) / N) = √(0.36 · 0.64 / 100).
    assert rows["Pareto k too large"] == "36.0 ± 4.8 % of the images"
    assert rows["rise over the last factor of 4 in draws"] == "0.250 ± 0.125"
    assert rows["bias that remains"] == "not settled"
    assert rows["so"] == "a lower bound"
    assert rows["active units of z"] == "3 of 4"
    assert rows["approximation gap, at least"] == "0.25 ± 0.12"
    assert rows["aggregate posterior"] == "undefined: there is one image"
    assert rows["latents"] == "undefined: nothing to draw"
    assert "Where the bound is lost, 7 images" in found
    assert "Labels predicted from the latents" not in found


def test_too_few_draws_for_a_pareto_k_are_said_once():
    images, vae = binary(6), VAE((1, 3, 4), 2, hidden=(8,))
    for samples in (20, 21):
        table = evaluate(vae, images, samples=samples)
        trust, rows = table["trust"], dict(sections(table)["Can log p(x) be trusted?"])
        said = {name: number for name, number in rows.items() if name.startswith("Pareto k")}
        assert (trust["pareto_k"] is None) == (trust["untrusted_share"] is None) == (samples == 20)
        if samples == 20:
            assert said == {"Pareto k": "undefined: it needs at least 21 draws of z, not 20"}
        else:
            assert len(said) == 2
    assert (tail_size(20), tail_size(21)) == (LEAST - 1, LEAST)


def test_a_share_of_all_or_none_is_a_count():
    trust = small_report()["trust"] | {"untrusted_share": 0.0}
    right = {"mean": 1.0, "error": None, "count": 9, "of": 9}
    some = {"mean": 0.5, "error": 0.125, "count": 8, "of": 16}
    found = sections(small_report(trust=trust, classification={"accuracy": right},
                                  accuracy={"linear": some, "nearest": right}))  # fmt: skip
    rows = {name: number for each in found.values() for name, number in each}
    assert rows["Pareto k too large"] == "0 of 100 images"
    assert rows["accuracy of the most probable class"] == "9 of 9"
    assert rows["accuracy of a linear classifier"] == "0.500 ± 0.125"
    assert rows["accuracy of nearest neighbours"] == "9 of 9"


def test_no_number_of_a_report_is_nan_or_infinite():
    """The log p(x) of rows that are too far from a mean overflows to -inf."""
    vae = VAE((2,), 2, likelihood="normal(scale=1e-25, bounded=False)", hidden=(4,))
    rows = Images(torch.tensor([[10.0, 0.0], [0.0, 1.0], [3.0, 4.0]]))
    table = report.bounds(vae, rows, 0) | evaluate(vae, rows, samples=30)
    assert table["log_p"]["mean"] is None
    assert table["monte_carlo"]["elbo"] is None
    json.dumps(table, allow_nan=False)
    shown = {number for rows in sections(table).values() for _, number in rows}
    assert "undefined" in shown
    assert not any(re.search(r"\b(nan|inf)\b", each) for each in shown)


def test_advice_names_the_next_command_only_where_it_can_help():
    assert advice(small_report())[1] == ["--annealed", "20"]
    assert advice(small_report(samples=100))[1] == ["--samples", "1000"]
    # Annealing moves real numbers only.
    discrete = {"z": {"why": "its latents are not real numbers"}}
    assert advice(small_report(prior_gap=discrete))[1] == ["--samples", "10000"]
    assert advice(small_report(annealed={"why": "it failed"})) is None
    good = small_report()["trust"] | {"mean_trusted": True}
    assert advice(small_report(trust=good)) is None


@pytest.mark.parametrize("guide", ["categorical", "ladder"])
def test_the_report_of_every_kind_of_latents_can_be_printed(guide):
    sizes = (3, 2) if guide == "ladder" else 4
    vae = VAE((1, 3, 4), sizes, guide=guide, hidden=(8,))
    report = evaluate(vae, binary(6), samples=20, gap_images=2, annealed_images=2, temperatures=2)
    rows = [row for each in sections(report).values() for row in each]
    names = [name for name, _ in rows]
    assert ("annealing" in names) == (guide == "categorical")  # which has none, and says why
    assert ("rate of z_2" in names) == (guide == "ladder")

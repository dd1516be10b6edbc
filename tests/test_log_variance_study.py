"""The study of log-variance: cases with known answers, the rules, and a quick run."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scipy.stats import norm
from torch.distributions import kl_divergence

from pyro_vae.cli import main
from pyro_vae.errors import InputError
from pyro_vae.evaluation.importance import importance
from pyro_vae.log_variance_study import (
    EXPERIMENTS,
    QUICK_CAVEAT,
    judge,
    read_results,
    render_verdicts,
    run,
    verdict_lines,
)
from pyro_vae.log_variance_study.answer import write_answer
from pyro_vae.log_variance_study.base import (
    Setting,
    confidence_interval,
    load_mnist_5k,
    median_interval,
    share_interval,
)
from pyro_vae.log_variance_study.blow_up import (
    LOSSES,
    build_untrained,
    failure_cause,
    judge_blow_up,
    loss_by_pyro,
    loss_with_analytic_kl,
    train_until_failure,
)
from pyro_vae.log_variance_study.choice import (
    HALVED,
    add_differences,
    group_maps,
    measure_vae,
    train_vae,
)
from pyro_vae.log_variance_study.cost import judge_cost
from pyro_vae.log_variance_study.descent import (
    OPTIMISERS,
    STARTS,
    condition_number,
    fisher_information,
    gradient_and_curvature,
    judge_descent,
    steps_to_reach,
)
from pyro_vae.log_variance_study.divergence import OperationCounter
from pyro_vae.log_variance_study.factor_two import train_small_vae
from pyro_vae.log_variance_study.mismatch import PublicCodeVAE, judge_mismatch, solve_conjugate
from pyro_vae.log_variance_study.precision import (
    DENSITIES,
    KLS,
    advantage,
    measure_errors,
    sigma_grid,
)
from pyro_vae.log_variance_study.sign import judge_sign
from pyro_vae.scales import SCALES
from pyro_vae.training import adam

COMMITTED = Path(__file__).parents[1] / "benchmarks" / "results" / "scales"


def test_steps_on_a_quadratic_with_a_known_rate():
    """Gradient descent on h x²/2 shrinks x by |1 - rate h| at each step."""
    h = torch.tensor([1.0, 4.0, 10.0], dtype=torch.float64)
    rates = [0.01, 0.15, 0.3]
    steps = steps_to_reach(
        lambda x: 0.5 * h * x.square(),
        torch.full((3,), 5.0, dtype=torch.float64),
        lambda x: x.abs() < 0.01,
        rates,
        "SGD",
        700,
    )
    for rate, row in zip(rates, steps.tolist(), strict=True):
        for bend, found in zip(h.tolist(), row, strict=True):
            shrink = abs(1 - rate * bend)
            known = math.ceil(math.log(0.01 / 5) / math.log(shrink)) if shrink < 1 else math.inf
            assert found == known, (rate, bend)


def test_crossing_the_goal_is_not_reaching_it():
    steps = steps_to_reach(
        lambda x: -x, torch.tensor([-1.0]), lambda x: x.abs() < 0.2, [0.1], "SGD", 50
    )
    assert steps.item() == math.inf


@pytest.mark.parametrize(
    ("name", "gradient", "curvature"),
    [
        ("log-scale", lambda s, b: (s / b) ** 2 - 1, lambda s, b: 2 * (s / b) ** 2),
        ("log-variance", lambda s, b: ((s / b) ** 2 - 1) / 2, lambda s, b: (s / b) ** 2 / 2),
        ("raw", lambda s, b: s / b**2 - 1 / s, lambda s, b: 1 / b**2 + 1 / s**2),
    ],
)
def test_gradient_and_curvature_match_their_formulas(name, gradient, curvature):
    sigma, best = torch.tensor([0.01, 0.3, 7.0], dtype=torch.float64), 0.3
    found = gradient_and_curvature(SCALES[name](), sigma, best)
    torch.testing.assert_close(found[0], gradient(sigma, best), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found[1], curvature(sigma, best), rtol=1e-10, atol=1e-12)


def test_condition_number():
    assert condition_number([2.0, 8.0, 0.5]) == 16


@pytest.mark.parametrize(("optimiser", "factor"), [("SGD", 4.0), ("Adam", 2.0)])
def test_log_variance_and_log_scale_are_the_same_with_the_predicted_factor(optimiser, factor):
    """With v = 2u, dL/dv = ½ dL/du: SGD moves u a quarter as far, Adam half as far."""
    log_scale = train_small_vae("log-scale", 1.0, optimiser, 0.01, 1.0, 0, 50)
    log_variance = train_small_vae("log-variance", 2.0, optimiser, 0.01, factor, 0, 50)
    other = train_small_vae("log-variance", 2.0, optimiser, 0.01, 1.0, 0, 50)
    assert log_scale[0] - log_scale[-1] > 0.1
    torch.testing.assert_close(log_variance, log_scale, rtol=1e-5, atol=0.0)
    assert (other - log_scale).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("dtype", "way", "end"),
    [
        # The gradient of log(σ²) by σ² is 1/σ²; of log σ by σ, 1/σ. Both must not exceed the
        # largest number of the precision. The ½ comes first.
        (torch.float16, "log(σ²)", (0.5 / torch.finfo(torch.float16).max) ** 0.5),
        (torch.float16, "log σ", 1 / torch.finfo(torch.float16).max),
        (torch.float32, "log(σ²)", (0.5 / torch.finfo(torch.float32).max) ** 0.5),
        (torch.bfloat16, "log(σ²)", (0.5 / torch.finfo(torch.bfloat16).max) ** 0.5),
        (torch.float64, "log(σ²)", (0.5 / torch.finfo(torch.float64).max) ** 0.5),
    ],
)
def test_the_kl_from_sigma_ends_where_a_gradient_overflows(dtype, way, end):
    low = min(-30.0, math.ceil(math.log10(torch.finfo(dtype).smallest_normal)))
    row = measure_errors(SCALES["log-variance"](), sigma_grid(low, 2, 8), dtype)["kl"]
    assert end / 1.4 <= row[way]["fails_below"] <= end * 1.4
    assert row["log σ²"]["fails_below"] is None


def test_float32_at_log_variance_minus_92():
    """From σ, neither the KL nor the density has a finite gradient, but both have from log σ²."""
    raw = torch.tensor([-92.0], requires_grad=True)
    scale = SCALES["log-variance"]()
    for function in (KLS["log(σ²)"], DENSITIES["σ"]):
        (gradient,) = torch.autograd.grad(function(scale, raw).sum(), raw)
        assert not gradient.isfinite().any()
    known = -0.5 + 46 - 0.5 * math.log(2 * math.pi)
    assert DENSITIES["log σ²"](scale, raw).item() == pytest.approx(known, rel=1e-5)
    (gradient,) = torch.autograd.grad(KLS["log σ²"](scale, raw).sum(), raw)
    assert gradient.item() == -0.5


def test_an_advantage_of_log_variance_is_where_all_ways_from_sigma_fail():
    def row(own, *others):
        ways = dict(zip(["log σ²", "log(σ²)", "log σ"], [own, *others], strict=True))
        return {"kl": {way: {"fails_below": below} for way, below in ways.items()}}

    assert advantage(row(None, 1e-3, 1e-5), "kl") == 1e-5
    assert advantage(row(None, 1e-3, None), "kl") is None
    assert advantage(row(1e-5, 1e-3, 1e-5), "kl") is None


def test_float64_rounds_the_raw_output_exactly_enough():
    exact = measure_errors(SCALES["log-variance"](), sigma_grid(-12, 12, 8), torch.float64)
    assert max(exact["rounding"]) < 1e-14
    assert max(exact["kl"]["log σ²"]["error"]) < 1e-13


@pytest.mark.parametrize("formula", KLS)
def test_the_three_formulas_equal_the_kl_of_torch(formula):
    scale, raw = SCALES["softplus"](), torch.linspace(-8, 8, 9, dtype=torch.float64)
    known = kl_divergence(
        torch.distributions.Normal(torch.zeros(9, dtype=torch.float64), scale(raw)),
        torch.distributions.Normal(torch.tensor(0.0).double(), torch.tensor(1.0).double()),
    )
    torch.testing.assert_close(KLS[formula](scale, raw), known, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("way", DENSITIES)
def test_both_densities_are_that_of_scipy_at_the_draw(way):
    scale, raw = SCALES["log-variance"](), torch.linspace(-8, 8, 9, dtype=torch.float64)
    sigma = scale(raw).numpy()
    known = torch.from_numpy(norm.logpdf(sigma, scale=sigma))
    torch.testing.assert_close(DENSITIES[way](scale, raw), known, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "known"),
    [("log-variance", lambda s: 0.5 + 0 * s), ("log-scale", lambda s: 2 + 0 * s),
     ("raw", lambda s: 2 / s**2)],
)  # fmt: skip
def test_fisher_information_matches_its_formula(name, known):
    sigma = torch.tensor([0.01, 0.3, 7.0], dtype=torch.float64)
    torch.testing.assert_close(fisher_information(SCALES[name](), sigma), known(sigma), rtol=1e-10,
                               atol=0.0)  # fmt: skip


def test_operation_counter_skips_views():
    x = torch.ones(3, 4)
    with OperationCounter() as counter:
        ((x + 1) * 2).exp().view(12).t()
    assert counter.total == 3


def test_with_the_bug_the_reported_kl_is_not_the_kl_of_the_posterior():
    x = torch.zeros(6, 1, 28, 28)
    for bug in (False, True):
        model = PublicCodeVAE(bug, seed=0)
        posterior = model.posterior(x).base_dist
        kl = kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(-1)
        reported = model.terms(x)[1]
        assert torch.allclose(kl, reported, rtol=1e-5) is not bug


def test_the_bug_in_the_model_with_known_log_p():
    best = torch.tensor([0.02, 0.3, 0.9], dtype=torch.float64)
    known = solve_conjugate(best)
    sigma = torch.logspace(-4, 1, 200_001, dtype=torch.float64)[:, None]
    a = 1 / best.square()
    recon = -0.5 * (a - 1) * sigma.square()
    evidence = torch.log(best)  # the maximum of the actual bound below
    believed = recon - 0.5 * (sigma - 1 - sigma.log())
    true = recon - 0.5 * (sigma.square() - 1 - 2 * sigma.log())
    top, where = believed.max(0)
    for found, wanted in (
        (known["believed"], top - evidence),
        (known["true"], true.gather(0, where[None])[0] - evidence),
    ):
        found = torch.tensor(found, dtype=torch.float64)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(true.max(0).values, evidence, rtol=1e-6, atol=1e-6)
    assert max(known["true"]) <= 0


def test_failure_causes():
    x = torch.zeros(2, 1, 28, 28)
    found = {}
    for bias, name in ((1000.0, "infinite"), (-1000.0, "zero"), (0.0, "finite")):
        vae = build_untrained(SCALES["log-variance"](), seed=0)
        with torch.no_grad():
            vae.guide.posterior.head.bias[10:] = bias
        found[name] = failure_cause(vae, x)
    assert found == {"infinite": "σ infinite", "zero": "σ zero", "finite": "σ finite"}


@pytest.mark.parametrize("loss", ["Pyro", "KL by hand"])
def test_a_failed_training_returns_its_cause_and_step(loss):
    data = load_mnist_5k(Setting(quick=True))
    good = build_untrained(SCALES["log-variance"](initial=1.0), seed=0)
    assert train_until_failure(good, data, 1e-3, 5, 0, loss) == ("trained", 5)
    wide = build_untrained(SCALES["log-variance"](initial=1.0), seed=0, gain=1e5)
    what, step = train_until_failure(wide, data, 1e-3, 5, 0, loss)
    assert (what, step) == ("σ infinite and zero", 0)
    raw = build_untrained(SCALES["raw"](), seed=0)
    assert train_until_failure(raw, data, 1e-3, 5, 0, loss) == ("σ zero or less", 0)


def test_the_two_losses_of_claim_7_have_the_same_mean():
    """They differ only in the KL: one loss computes it exactly, the other estimates it."""
    vae = build_untrained(SCALES["softplus"](initial=0.5), seed=0)
    x = (torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    x = x.expand(2000, -1, -1, -1)
    torch.manual_seed(0)
    pyro_loss, own = loss_by_pyro(vae, x) / len(x), loss_with_analytic_kl(vae, x) / len(x)
    assert own == pytest.approx(pyro_loss, abs=0.5)


def test_confidence_interval_is_students_t():
    mean, half = confidence_interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert half == pytest.approx(4.30265 / 3**0.5, rel=1e-5)


def test_clopper_pearson_is_near_the_rule_of_three():
    low, high = share_interval(0, 100)
    assert (low, high) == (0, pytest.approx(1 - 0.025 ** (1 / 100), rel=1e-6))
    assert share_interval(100, 100) == (pytest.approx(1 - high), 1)
    assert share_interval(0, 10)[1] == pytest.approx(0.3085, abs=1e-4)


def test_the_interval_of_a_median_is_between_two_values_in_order():
    """Of 20 values, the 6th and the 15th have the median between them with 95.9 %."""
    assert median_interval(list(range(1, 21))) == (10.5, 6, 15)


def test_log_scale_with_half_the_rate_and_half_the_weights_is_log_variance(monkeypatch):
    """Claim 5 predicts it for Adam: the two rows of claim 8 then differ by nothing else."""
    images = load_mnist_5k(Setting(quick=True)).train.subset(torch.arange(300))
    options = {"lr": 3e-3, "epochs": 2, "seed": 0}
    known = train_vae("log-variance", images, **options)
    halved = train_vae(HALVED, images, **options)

    def halve(vae, lr):
        with torch.no_grad():
            for parameter in vae.guide.posterior.head.parameters():
                parameter[20:] *= 0.5
        return adam(vae, lr)

    monkeypatch.setattr("pyro_vae.log_variance_study.choice.adam", halve)
    found = train_vae(HALVED, images, **options)
    for name, weight in known.state_dict().items():
        factor = torch.ones(len(weight))
        if "head" in name:
            factor[20:] = 2.0  # log σ² = 2 log σ
        own = found.state_dict()[name] * factor.view(-1, *[1] * (weight.dim() - 1))
        torch.testing.assert_close(own, weight, rtol=1e-3, atol=1e-5)
    name = "model.likelihood.decoder.0.weight"
    assert (halved.state_dict()[name] - known.state_dict()[name]).abs().max() > 1e-4


def test_the_proposal_of_each_image_is_closer_to_the_posterior_than_the_encoder():
    """The NLL that the best Normal of each image gives is lower than the encoder's, and settled."""
    data = load_mnist_5k(Setting(quick=True))
    vae = train_vae("log-variance", data.train, lr=3e-3, epochs=3, seed=0)
    images = data.test.subset(torch.arange(30))
    found = measure_vae(vae, images, 100, 50)
    encoder = importance(vae.model, vae.guide, images, samples=100, seed=0)
    assert found["nll"] < -encoder.mean
    assert found["curve"]["100"] == pytest.approx(found["nll"])
    assert -found["elbo"] > found["nll"]


def test_maps_are_grouped_by_their_intervals():
    def seeds(*values):
        each = {"active": 5, "bias": 0.0, "noise": 0.0}
        return {"seeds": [v and {"nll": v, "curve": {"1": v, "9": v}, **each} for v in values]}

    rivals = {
        "log-variance": seeds(100.0, 101.0, 102.0),
        "softplus": seeds(100.1, 100.9, 102.0),
        "relu": seeds(105.0, 106.1, 107.0),
        "absolute": seeds(99.0, 100.1, 101.0),
        "log-scale": seeds(90.0, 101.0, 112.0),
        "soft-clamped": seeds(None, None, 100.0),
        "softplus-variance": seeds(105.0, 106.1, 107.0),
    }
    add_differences(rivals)
    mean, half = rivals["softplus-variance"]["difference"]
    rivals["softplus-variance"]["estimator"]["noise"] = mean - half + 0.01
    assert rivals["relu"]["difference"][0] == pytest.approx(5.0333, abs=1e-3)
    assert group_maps({"rivals": rivals}) == {
        "the same": ["softplus"],
        "higher": ["relu"],
        "lower": ["absolute"],
        "undecided": ["log-scale", "softplus-variance"],
        "failed": ["soft-clamped"],
    }


def test_an_interval_is_widened_by_the_difference_of_the_biases():
    def row(*biases):
        common = {"active": 5, "noise": 0.3, "curve": {"1": 0.0, "9": 0.0}}
        return {"seeds": [{"nll": 100.0 + i, "bias": b, **common} for i, b in enumerate(biases)]}

    rivals = {"log-variance": row(0.1, 0.1, 0.1), "softplus": row(0.4, 0.3, 0.2)}
    add_differences(rivals)
    assert rivals["softplus"]["difference"] == pytest.approx((0.0, 0.2))
    assert rivals["softplus"]["estimator"]["noise"] == pytest.approx(1.96 * 0.3 * (2 / 3) ** 0.5)


def test_rule_of_descent_names_where_log_variance_is_harder():
    def rows(*steps):
        cells = {
            optimiser: {
                str(s): {"steps": n, "rate": 1.0} for s, n in zip(STARTS, steps, strict=True)
            }
            for optimiser in OPTIMISERS
        }
        return {"condition": 1.0, "condition_with_means": 1.0, "fisher": [1.0], **cells}

    rivals = {name: rows(30, 30, 30, 30, 30, 30) for name in ("raw", "absolute", "softplus")}
    rivals["log-variance"] = rows(10, 30, 30, 60, 30, 30)
    verdict = judge_descent({"descent": {"limit": 99, "rivals": rivals}})
    spots = [f"{o} starts at σ = {{}}" for o in OPTIMISERS]
    easier, harder = (" or ".join(s.format(x) for s in spots) for x in (0.01, 0.8))
    assert verdict.region == f"{easier}; the opposite is true where {harder}"
    assert "2^-17, 2^-16, ..., 2^4" in verdict.evidence


@pytest.mark.parametrize(
    ("share", "word"),
    [
        ((0.3, 0.2, 0.4), "does not hold"),
        ((9.0, 8.0, 10.0), "holds"),
        ((1.9, 1.4, 2.4), "holds only where"),
    ],
)
def test_rule_of_cost(share, word):
    times = {"log-variance": 5.0, "softplus": 5.0, "absolute": 5.0}
    numbers = {"share": share, "fastest": times, "typical": times, "rounds": 9}
    assert judge_cost({"cost": numbers}).word == word


@pytest.mark.parametrize(
    ("raw", "held", "word"),
    [
        ([3, 4], [None, None], "holds"),
        ([3, None], [None, None], "holds only where"),
        ([None, None], [None, None], "does not hold"),
        ([3, 4], [None, 9], "does not hold"),
    ],
)
def test_rule_of_sign(raw, held, word):
    numbers = {"negative": [0.5], "losses": [None], "pyro": "ValueError: it has no", "steps": 10}
    numbers["runs"] = {"raw": {"0.001": raw}, "log-variance": {"0.001": held}}
    assert judge_sign({"sign": numbers}).word == word


def test_rule_of_blow_up():
    """The region has the smallest pairs of learning rate and initial weights that overflow, inside
    the grid too."""
    ok, over = {"trained": 2}, {"trained": 1, "σ infinite": 1}
    rates, gains = [0.01, 0.1, 1.0], [1.0, 10.0, 100.0]

    def verdict(*rows):
        grid = {loss: [list(row) for row in rows] for loss in LOSSES}
        numbers = {"rivals": {"log-variance": grid}, "rates": rates, "gains": gains, "seeds": 2}
        return judge_blow_up({"blow_up": numbers})

    found = verdict((ok, ok, over), (ok, over, over), (over, over, over))
    assert found.word == "holds only where"
    assert found.region.endswith("are at least 0.01 and 100, 0.1 and 10 or 1 and 1")
    assert verdict((ok, ok, ok), (ok, over, ok), (ok, ok, ok)).region.endswith("least 0.1 and 10")
    assert verdict((over, ok, ok), (ok, ok, ok), (ok, ok, ok)).word == "holds"
    assert verdict((ok, ok, ok), (ok, ok, ok), (ok, ok, ok)).word == "does not hold"


def test_rule_of_mismatch():
    def runs(*apart):
        fixed = {"elbo": -110.0, "kl": 9.0, "believed_kl": 8.0, "log_likelihood": -100.0}
        return [{**fixed, "believed": -110.0 + a} for a in apart]

    known = {"believed": [1.0], "best": [0.1]}
    clear = {"slip": runs(5.0, 5.5), "right": runs(-0.1, 0.1), "conjugate": known}
    assert judge_mismatch({"mismatch": clear}).word == "holds"
    vague = {**clear, "slip": runs(-5.0, 5.5)}
    assert judge_mismatch({"mismatch": vague}).word == "does not hold"


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    out = tmp_path_factory.mktemp("scales")
    seen = []

    def track(items, description):
        for item in items:
            seen.append(description)
            yield item

    return out, run(out, quick=True, seeds=2, track=track), seen


def read(file):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse)


def test_quick_run_writes_numbers_verdicts_and_figures_of_all_nine(quick):
    out, verdicts, seen = quick
    assert list(verdicts) == list(EXPERIMENTS)
    assert len({s.split()[0] for s in seen}) == 9
    held = read(out / "results.json")
    assert held["protocol"]["quick"] is True
    assert judge(held["results"]) == verdicts
    text = (out / "verdicts.md").read_text(encoding="utf-8")
    for name, verdict in verdicts.items():
        assert f"**{verdict}.**" in text
        assert (out / f"{name}.png").stat().st_size > 10_000


def test_quick_verdicts_carry_the_caveat_before_and_after(quick):
    out, verdicts, _ = quick
    lines = (out / "verdicts.md").read_text(encoding="utf-8").splitlines()
    caveats = [i for i, line in enumerate(lines) if line == f"**{QUICK_CAVEAT}**"]
    table = lines.index("| # | claim | verdict |")
    assert len(caveats) == 2
    assert caveats[0] < table
    assert caveats[1] == len(lines) - 1
    printed = verdict_lines(verdicts, quick=True)
    assert printed[0] == printed[-1] == QUICK_CAVEAT
    assert len(printed) == len(verdicts) + 2
    assert QUICK_CAVEAT not in verdict_lines(verdicts, quick=False)


def test_the_command_line_prints_the_caveat_before_and_after(tmp_path, capsys, monkeypatch):
    command = ["pyro-vae", "scales", "--seeds", "2", "--only", "divergence", "--quick"]
    monkeypatch.setattr("sys.argv", [*command, "--out", str(tmp_path / "quick")])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())  # the terminal breaks long lines
    before, verdict, after = printed.partition("log σ² is needed for the KL:")
    assert verdict
    assert QUICK_CAVEAT in before
    assert QUICK_CAVEAT in after


def test_quick_run_agrees_with_the_full_run_on_exact_claims(quick):
    _, verdicts, _ = quick
    assert verdicts["stability"].word == "holds only where"
    assert "the KL is computed in float16 below" in verdicts["stability"].region
    assert "in float32 below σ = " in verdicts["stability"].region
    assert verdicts["divergence"].word == "does not hold"
    assert verdicts["factor_two"].word == "holds only where"
    assert "multiplied by 4 for SGD and by 2 for Adam" in verdicts["factor_two"].region


def test_each_sentence_of_the_answer_with_a_number_links_its_measurement(quick):
    out, verdicts, _ = quick
    results = read(out / "results.json")["results"]
    answer = write_answer(results, verdicts, "verdicts.md")
    assert (out / "answer.md").read_text(encoding="utf-8").endswith(f"{answer}\n")
    headings = (out / "verdicts.md").read_text(encoding="utf-8").splitlines()
    for number in range(1, 10):
        assert f"verdicts.md#claim-{number}" in answer
        assert f"## Claim {number}" in headings
    share, low, high = results["cost"]["share"]
    assert f"{share:.2f} % of a training step ({low:.2f} to {high:.2f} %)" in answer
    assert str(verdicts["stability"]) in answer
    assert all(n in answer for n in results["choice"]["rivals"] if n != "log-variance")


def test_the_report_is_written_again_from_the_results_alone(quick, tmp_path):
    out, _, _ = quick
    (tmp_path / "results.json").write_bytes((out / "results.json").read_bytes())
    command = [sys.executable, "-m", "pyro_vae.log_variance_study", str(tmp_path)]
    subprocess.run(command, check=True)
    for name in ("verdicts.md", "answer.md"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()
    assert (tmp_path / "answer.png").stat().st_size > 10_000


def test_a_run_of_one_experiment_keeps_the_others(quick):
    out, verdicts, _ = quick
    before = read(out / "results.json")["results"]["choice"]
    again = run(out, quick=True, seeds=2, only=["stability"])
    assert again == verdicts
    assert read(out / "results.json")["results"]["choice"] == before


def test_results_of_another_protocol_are_refused_and_kept(quick, tmp_path):
    out, _, _ = quick
    held = (out / "results.json").read_bytes()
    (tmp_path / "results.json").write_bytes(held)
    with pytest.raises(InputError, match="has the results of 'pyro-vae scales --seeds 2 --quick'"):
        run(tmp_path, quick=True, seeds=3, only=["stability"])
    assert (tmp_path / "results.json").read_bytes() == held


@pytest.mark.parametrize("damage", [
    lambda held: held[: len(held) // 2],
    lambda held: b"\xff\xfe",
    lambda held: b"[]",
    lambda held: b'{"protocol": {}, "results": {}}',
    lambda held: held.replace(b'"share"', b'"shore"'),
    lambda held: held.replace(b'"fails_below": null', b'"fails_below": "low"'),
    lambda held: held.replace(b'"seconds"', b'"minutes"'),
])  # fmt: skip
def test_a_damaged_results_file_is_refused_in_one_sentence(damage, quick, tmp_path, monkeypatch):
    out, _, _ = quick
    damaged = damage((out / "results.json").read_bytes())
    (tmp_path / "results.json").write_bytes(damaged)
    monkeypatch.setattr("pyro_vae.log_variance_study.EXPERIMENTS", {"stability": None})
    with pytest.raises(InputError, match="is not a whole results"):
        run(tmp_path, quick=True, seeds=2, only=["stability"])
    assert (tmp_path / "results.json").read_bytes() == damaged


def test_each_claim_has_its_commit(quick):
    out, _, _ = quick
    found = {row["commit"] for row in read(out / "results.json")["results"].values()}
    assert len(found) == 1
    assert re.fullmatch(r"[0-9a-f]{40}(-changed)?", found.pop() or "0" * 40)


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match="at least 2 seeds"):
        run(tmp_path, seeds=1)
    with pytest.raises(InputError, match="did you mean stability"):
        run(tmp_path, only=["stabilty"])


def test_committed_report_follows_from_the_committed_numbers():
    file = COMMITTED / "results.json"
    protocol, results = read_results(file)
    assert protocol == read(file)["protocol"]
    assert protocol["quick"] is False
    assert len(protocol["seeds"]) >= 5
    assert list(results) == list(EXPERIMENTS)
    assert not any(row["commit"].endswith("-changed") for row in results.values())
    text = (COMMITTED / "verdicts.md").read_text(encoding="utf-8")
    assert text == render_verdicts(protocol, results)
    answer = (COMMITTED / "answer.md").read_text(encoding="utf-8")
    assert answer.endswith(write_answer(results, judge(results), "verdicts.md") + "\n")

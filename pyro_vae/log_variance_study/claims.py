"""The nine claims, each with its measurement, its rule and its figure."""

from __future__ import annotations

from .base import Experiment, Numbers, Verdict
from .blow_up import draw_blow_up, judge_blow_up, measure_blow_up
from .choice import draw_choice, judge_choice, measure_choice
from .cost import draw_cost, judge_cost, measure_cost
from .descent import draw_descent, judge_descent, measure_descent
from .divergence import draw_divergence, judge_divergence, measure_divergence
from .factor_two import draw_factor_two, judge_factor_two, measure_factor_two
from .mismatch import draw_mismatch, judge_mismatch, measure_mismatch
from .precision import draw_stability, judge_stability, measure_stability
from .sign import draw_sign, judge_sign, measure_sign

# The names are those of --only, of results.json and of the figure files.
EXPERIMENTS: dict[str, Experiment] = {
    "sign": Experiment(
        "σ must be positive; log σ² removes this constraint from the encoder",
        measure_sign,
        judge_sign,
        draw_sign,
    ),
    "stability": Experiment(
        "log σ² is numerically more stable when the variance is near zero",
        measure_stability,
        judge_stability,
        draw_stability,
    ),
    "divergence": Experiment(
        "log σ² is needed for the KL", measure_divergence, judge_divergence, draw_divergence
    ),
    "descent": Experiment(
        "log σ² makes gradients smoother and optimisation easier",
        measure_descent,
        judge_descent,
        draw_descent,
    ),
    "factor_two": Experiment(
        "log σ² and log σ are the same up to a factor of 2",
        measure_factor_two,
        judge_factor_two,
        draw_factor_two,
    ),
    "cost": Experiment("log σ² costs extra computation", measure_cost, judge_cost, draw_cost),
    "blow_up": Experiment(
        "exp can overflow and stop the training", measure_blow_up, judge_blow_up, draw_blow_up
    ),
    "choice": Experiment(
        "the choice of the map does not matter in the end",
        measure_choice,
        judge_choice,
        draw_choice,
    ),
    "mismatch": Experiment(
        "exp(log σ²) used as σ in the draw of z makes the reported ELBO wrong",
        measure_mismatch,
        judge_mismatch,
        draw_mismatch,
    ),
}


def judge(results: dict[str, Numbers]) -> dict[str, Verdict]:
    """The verdicts on the measured numbers, by the rules of the experiments."""
    return {name: EXPERIMENTS[name].judge(results) for name in EXPERIMENTS if name in results}

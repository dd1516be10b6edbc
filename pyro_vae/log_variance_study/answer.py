"""The short answer to the question of the study, from the measured numbers."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from .base import Numbers, Verdict, join_words
from .choice import draw_differences, group_maps
from .descent import draw_slopes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_statements(results: dict[str, Numbers], verdicts: dict[str, Verdict]) -> list[str]:
    """Five statements. Every number and every list of names in them comes from ``results``."""
    sign, descent = results["sign"], results["descent"]
    raw = [end for cell in sign["runs"]["raw"].values() for end in cell]
    kl = results["divergence"]["rivals"]
    rows, groups = results["choice"]["rivals"], group_maps(results["choice"])

    def differences(names: list[str]) -> str:
        return join_words(f"{n} ({rows[n]['difference'][0]:+z.1f} nats)" for n in names)

    def steps(name: str, optimiser: str) -> str:
        count = descent["rivals"][name][optimiser].get("0.01", {"steps": inf})["steps"]
        return f"{count:g}" if count < inf else f"more than {descent['limit']:,}"

    same = groups["the same"]
    nll = [f"the same as with log-variance for {differences(same)}"] if same else []
    nll += [f"{how} for {differences(groups[how])}" for how in ("higher", "lower") if groups[how]]
    nll += [f"not decided for {join_words(groups['undecided'])}"] if groups["undecided"] else []
    share, spread = results["cost"]["share"]
    return [
        "σ must be positive, but an encoder can output any real number. If the raw output is used "
        f"as σ, {sum(sign['negative']) / len(sign['negative']):.0%} of all σ are negative before "
        f"training, and {sum(e is not None for e in raw)} of {len(raw)} runs fail even with a "
        "start at σ = 1.",
        "An encoder therefore needs a map to positive numbers, but log σ² is not the only one. "
        f"After training, the test NLL is {'; '.join(nll)}.",
        "The KL does not need a logarithm from the encoder: its largest error is "
        f"{kl['log-variance']['error']:.0e} from log σ² and {kl['softplus']['error']:.0e} from "
        f"softplus. The claim that log σ² is numerically more stable {verdicts['stability']}.",
        "With exp, the curvature at the optimum is the same for every optimal σ. From σ = 0.01, "
        f"plain SGD needs {steps('log-variance', 'SGD')} steps with log-variance and "
        f"{steps('raw', 'SGD')} with raw. Adam adapts each step; it needs "
        f"{steps('log-variance', 'Adam')} and {steps('raw', 'Adam')}.",
        f"The exponential takes {share:.2f} ± {spread:.2f} % of a training step. The claim that it "
        f"overflows and stops the training {verdicts['blow_up']}.",
    ]


def draw_answer(results: dict[str, Numbers], figure: Figure) -> None:
    """Two panels: the gradient that each map gives to the optimiser, and the test NLL."""
    left, right = figure.subplots(1, 2, width_ratios=(5, 6))
    draw_slopes(results["descent"], left)
    left.legend(loc="lower right")
    draw_differences(results["choice"], right)

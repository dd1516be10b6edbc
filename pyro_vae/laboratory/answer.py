"""The short answer to the question, made of the measured numbers."""

from __future__ import annotations

from math import inf

from matplotlib.figure import Figure

from .base import Numbers, Verdict, listed
from .choice import compared, draw_differences
from .descent import draw_slopes


def answer(results: dict[str, Numbers], verdicts: dict[str, Verdict]) -> list[str]:
    """Five sentences; every number in them, and every list of names, is read from ``results``."""
    sign, steps = results["sign"], results["descent"]["rivals"]
    raw = [end for cell in sign["runs"]["raw"].values() for end in cell]
    kl = results["divergence"]["rivals"]
    rivals, found = results["choice"]["rivals"], compared(results["choice"])
    half = results["stability"]["precisions"]

    def mean(names: list[str]) -> str:
        return listed(f"{n} ({rivals[n]['difference'][0]:+z.1f} nats)" for n in names)

    def first(name: str, optimiser: str, start: str) -> str:
        taken = steps[name][optimiser].get(start, {"steps": inf})["steps"]
        return f"{taken:g}" if taken < inf else f"more than {results['descent']['limit']:,}"

    def served(precision: str, formula: str) -> str:
        return f"{half[precision]['log-variance']['kl'][formula]['served'][0]:.0e}"

    ends = [f"as low as log-variance's with {mean(found['the same'])}"] if found["the same"] else []
    ends += [f"{how} with {mean(found[how])}" for how in ("higher", "lower") if found[how]]
    ends += [f"not told apart with {listed(found['left open'])}"] if found["left open"] else []
    share, spread = results["cost"]["share"]
    return [
        "An encoder's output can be any number and σ cannot: taken as σ as it is, "
        f"{sum(sign['negative']) / len(sign['negative']):.0%} of the outputs are negative before "
        f"any training, and even started at σ = 1 raw σ stops {sum(e is not None for e in raw)} of "
        f"{len(raw)} runs.",
        "Some positive map is needed then, but not a logarithm: the KL is as exact from softplus "
        f"(off by {kl['softplus']['error']:.0e} at most, against {kl['log-variance']['error']:.0e})"
        f", and the test NLL after training is {'; '.join(ends)}.",
        "What the exponential gives is one curvature for every optimum (condition number "
        f"{steps['log-variance']['condition']:.0f}, raw {steps['raw']['condition']:,.0f}): from "
        f"σ = 0.01 plain SGD takes {first('log-variance', 'SGD', '0.01')} steps to it (raw "
        f"{first('raw', 'SGD', '0.01')}); with Adam, which scales each step by itself, it is "
        f"{first('log-variance', 'Adam', '0.01')} (raw {first('raw', 'Adam', '0.01')}), and from "
        f"σ = 1 {first('log-variance', 'Adam', '1.0')} (raw {first('raw', 'Adam', '1.0')}).",
        f"That log σ² is more stable near zero {verdicts['stability']}: the KL is right down to "
        f"σ = {served('float16', 'log σ²')} from log σ² and {served('float16', 'log σ')} from a "
        f"computed σ in float16, down to {served('float32', 'log σ²')} and "
        f"{served('float32', 'log σ')} in float32, and in bfloat16 holding log σ² costs up to "
        f"{max(half['bfloat16']['log-variance']['rounding']):.0%} of σ.",
        f"That log σ² and log σ are the same {verdicts['factor_two']}; exp takes {share:.2f} ± "
        f"{spread:.2f} % of a training step; and that it blows up {verdicts['blow_up']}.",
    ]


def draw_answer(results: dict[str, Numbers], figure: Figure) -> None:
    """The figure that says most: the slope that each map hands to the optimiser, and the end."""
    left, right = figure.subplots(1, 2, width_ratios=(5, 6))
    draw_slopes(results["descent"], left)
    left.legend(loc="lower right")
    draw_differences(results["choice"], right)

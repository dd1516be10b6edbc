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

    def mean(names: list[str]) -> str:
        return listed(f"{n} ({rivals[n]['difference'][0]:+z.1f} nats)" for n in names)

    def first(name: str, optimiser: str, start: str) -> str:
        taken = steps[name][optimiser].get(start, {"steps": inf})["steps"]
        return f"{taken:g}" if taken < inf else f"more than {results['descent']['limit']:,}"

    same = f"that of log-variance with {mean(found['the same'])}" if found["the same"] else ""
    ends = [same] * bool(same)
    ends += [f"{how} with {mean(found[how])}" for how in ("higher", "lower") if found[how]]
    ends += [f"not told apart with {listed(found['left open'])}"] if found["left open"] else []
    share, spread = results["cost"]["share"]
    return [
        "σ must be positive and an encoder's output need not be: taken as σ, "
        f"{sum(sign['negative']) / len(sign['negative']):.0%} of the raw outputs are negative "
        "before any training, and even from σ = 1, "
        f"{sum(e is not None for e in raw)} of {len(raw)} runs stop.",
        "So it needs a positive map, but not just this one: the test NLL after training is "
        f"{'; '.join(ends)}.",
        f"The KL needs no logarithm: it is off by {kl['log-variance']['error']:.0e} at most from "
        f"log σ² and by {kl['softplus']['error']:.0e} from softplus; that log σ² is the more "
        f"stable form {verdicts['stability']}.",
        "What the exponential gives is the same curvature at every optimum: from σ = 0.01 plain "
        f"SGD takes {first('log-variance', 'SGD', '0.01')} steps (raw {first('raw', 'SGD', '0.01')}"
        "), while with Adam, which scales each step by itself, it is "
        f"{first('log-variance', 'Adam', '0.01')} (raw {first('raw', 'Adam', '0.01')}).",
        f"It takes {share:.2f} ± {spread:.2f} % of a training step, and that it blows up "
        f"{verdicts['blow_up']}.",
    ]


def draw_answer(results: dict[str, Numbers], figure: Figure) -> None:
    """The figure that says most: the slope that each map hands to the optimiser, and the end."""
    left, right = figure.subplots(1, 2, width_ratios=(5, 6))
    draw_slopes(results["descent"], left)
    left.legend(loc="lower right")
    draw_differences(results["choice"], right)

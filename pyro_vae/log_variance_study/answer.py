"""The answer for a student: one page and one figure, from the measured numbers."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from .base import COLOURS, Numbers, Verdict, confidence_interval, join_words, share_text
from .choice import HALVED, draw_differences, group_maps
from .descent import OPTIMISERS, STARTS
from .mismatch import excess_of_report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN_MAPS = ("log-variance", "softplus", "raw")
NEAR_ONE = 0.8


def write_paragraphs(
    results: dict[str, Numbers], verdicts: dict[str, Verdict], page: str
) -> list[str]:
    """The paragraphs of the answer. Every number and list of names comes from ``results``.

    Args:
        results: the numbers of all nine experiments.
        verdicts: their verdicts.
        page: the file that has the measurements, for the links.
    """
    links = {name: f"([claim {i}]({page}#claim-{i}))" for i, name in enumerate(results, start=1)}
    rows, limit = results["descent"]["rivals"], results["descent"]["limit"]
    kl = results["divergence"]["rivals"]
    sign = {
        n: [e for cell in by.values() for e in cell] for n, by in results["sign"]["runs"].items()
    }
    negative = results["sign"]["negative"]
    information = {n: (min(r["fisher"]), max(r["fisher"])) for n, r in rows.items()}
    exp_share, exp_low, exp_high = results["cost"]["share"]
    ratio, ratio_low, ratio_high = kl["softplus"]["ratio"]
    excess, excess_half = excess_of_report(results["mismatch"]["slip"])

    def stopped(name: str) -> str:
        return share_text(sum(end is not None for end in sign[name]), len(sign[name]))

    def steps(name: str, optimiser: str, start: float) -> str:
        count = rows[name][optimiser].get(str(start), {"steps": inf})["steps"]
        return f"{count:g}" if count < inf else f"more than {limit:,}"

    return [
        "**σ must be positive, and a network can output any number.** If the output is taken as σ, "
        f"{sum(negative) / len(negative):.0%} of the σ of an untrained encoder are negative "
        f"{links['sign']}. If every σ starts near 1, training still stops at a σ of zero or less "
        f"in {stopped('raw')} runs, and with log σ² in {stopped('log-variance')} {links['sign']}. "
        "So the output needs a map to the positive numbers.",
        "**The logarithm makes every step relative.** A step of 0.1 in log σ² changes σ by 5 %, "
        "whether σ is 0.001 or 100. In other words, the output has the same Fisher information at "
        f"every σ: it is {information['log-variance'][0]:.2g} from σ = 0.001 to σ = 100. That of σ "
        f"itself goes from {information['raw'][1]:.0e} to {information['raw'][0]:.0e} "
        f"{links['descent']}.",
        "**The formulas have log σ² in them.** The closed-form KL of Kingma and Welling (2014, "
        "appendix B) is ½ Σ (μ² + σ² − 1 − log σ²), and the encoder of their appendix C.2 outputs "
        "log σ². With another map the KL is as exact, because code can take the logarithm of σ: "
        f"its largest error is {kl['softplus']['error']:.0e} with softplus and "
        f"{kl['log-variance']['error']:.0e} with log σ² {links['divergence']}. It takes "
        f"{ratio:.2f} times as long ({ratio_low:.2f} to {ratio_high:.2f}) {links['divergence']}. "
        f"The exponential that log σ² needs takes {exp_share:.2f} % of a training step "
        f"({exp_low:.2f} to {exp_high:.2f} %) {links['cost']}.",
        "**log σ² or log σ: both are in use.** PyTorch-VAE computes `exp(0.5 * logvar)`: "
        "its output is log σ². Pyro's own example takes `exp` of its output as σ: its output is "
        "log σ. The claim that the two are the same up to a factor of 2 "
        f"{verdicts['factor_two']} {links['factor_two']}. Do not mix them: code that takes "
        f"exp(log σ²) as σ reports an ELBO that is {excess:.1f} ± {excess_half:.1f} nats too high "
        f"{links['mismatch']}.",
        "**Adam removes most of the difference.** From σ = 0.01 to four known optima, plain SGD "
        f"takes {steps('log-variance', 'SGD', 0.01)} steps with log σ² and "
        f"{steps('raw', 'SGD', 0.01)} with σ; Adam takes {steps('log-variance', 'Adam', 0.01)} and "
        f"{steps('raw', 'Adam', 0.01)} {links['descent']}. A head that was not trained starts near "
        f"σ = 1. From σ = {NEAR_ONE:g}, log σ² is the slower one: Adam takes "
        f"{steps('log-variance', 'Adam', NEAR_ONE)} steps with it and "
        f"{steps('raw', 'Adam', NEAR_ONE)} with σ {links['descent']}.",
        "**Equal curvature holds for σ alone.** At the optimum, the Hessian of the outputs for σ "
        f"has the condition number {rows['log-variance']['condition']:,.0f} with log σ² and "
        f"{rows['raw']['condition']:,.0f} with σ. The Hessian of the means and these outputs "
        f"together has {rows['log-variance']['condition_with_means']:,.0f} and "
        f"{rows['raw']['condition_with_means']:,.0f} {links['descent']}.",
        "**Numerical stability is a small reason.** The claim that log σ² is more stable "
        f"{verdicts['stability']} {links['stability']}. The claim that exp overflows and stops the "
        f"training {verdicts['blow_up']} {links['blow_up']}.",
        f"**What is left after training.** {write_choice(results['choice'])} {links['choice']}.",
    ]


def write_choice(numbers: Numbers) -> str:
    """The test NLL of the other maps compared with log-variance, without the last full stop."""
    rows, groups = numbers["rivals"], group_maps(numbers)

    def differences(names: list[str]) -> str:
        return join_words(
            f"{n} ({rows[n]['difference'][0]:+z.1f} ± {rows[n]['difference'][1]:.1f})"
            for n in names
        )

    parts = {"the same": "the same within a nat for", "higher": "higher for", "lower": "lower for",
             "undecided": "not decided for"}  # fmt: skip
    found = "; ".join(f"{text} {differences(groups[g])}" for g, text in parts.items() if groups[g])
    if groups["failed"]:
        found += f"; not known for {join_words(groups['failed'])}, whose training failed"
    mean, half = confidence_interval(
        [row["nll"] for row in rows["log-variance"]["seeds"] if row is not None]
    )
    return (
        f"After {numbers['epochs']} epochs on MNIST-5k with Adam, the test NLL is {mean:.1f} ± "
        f"{half:.1f} nats with log σ². Compared with it, the NLL in nats is {found}. Here "
        f"{HALVED!r} is log σ whose head learns half as fast. This removes one of the two "
        "differences that claim 5 names; the other is the larger spread of its σ at the start"
    )


def write_answer(results: dict[str, Numbers], verdicts: dict[str, Verdict], page: str) -> str:
    """The answer in Markdown, without a heading and without the figure."""
    return "\n\n".join(write_paragraphs(results, verdicts, page))


def draw_answer(results: dict[str, Numbers], figure: Figure) -> None:
    """Three panels: the Fisher information, the steps to known optima, and the test NLL."""
    left, middle, right = figure.subplots(1, 3, width_ratios=(4, 4, 5))
    rows = results["descent"]["rivals"]
    for name in SHOWN_MAPS:
        left.plot(rows[name]["sigma"], rows[name]["fisher"], color=COLOURS[name], label=name)
    left.set(xscale="log", yscale="log", xlabel="σ", title="Fisher information of the output")
    left.legend()
    draw_steps(results["descent"], middle)
    draw_differences(results["choice"], right)


def draw_steps(numbers: Numbers, ax: Axes) -> None:
    """The steps to all known optima, over the σ at the start."""
    for name in SHOWN_MAPS:
        for optimiser, line in zip(OPTIMISERS, ("-", "--"), strict=True):
            cells = numbers["rivals"][name][optimiser]
            reached = [cells.get(str(s), {"steps": numbers["limit"]})["steps"] for s in STARTS]
            ax.plot(STARTS, reached, f"o{line}", ms=4, color=COLOURS[name], label=optimiser)
    handles = ax.get_lines()[: len(OPTIMISERS)]
    ax.legend(handles, list(OPTIMISERS), loc="lower right")
    ax.axhline(numbers["limit"], color="grey", lw=0.8, ls=":")
    ax.set(
        xscale="log",
        yscale="log",
        xlabel=f"σ at the start ({numbers['limit']:,}: not reached)",
        title="steps to the known optima",
    )

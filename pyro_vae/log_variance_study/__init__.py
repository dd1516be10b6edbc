"""Why log-variance? Nine claims of the public answers, each with a measurement and a verdict.

A VAE's encoder outputs μ and log σ², and the code computes σ = exp(½ log σ²). Why does the encoder
not output σ? :data:`EXPERIMENTS` lists the claims, and :func:`run` measures them. Three words have
one meaning in the whole study:

- the raw output: the part of the encoder's output from which σ is computed;
- a map: a function from the raw output to σ, a class of :data:`pyro_vae.scales.SCALES`;
- a verdict: whether a claim holds, by a rule that is fixed before the measurement.

Example:
    >>> from pathlib import Path
    >>> from pyro_vae.log_variance_study import run
    >>> verdicts = run(Path("scales"), quick=True)  # doctest: +SKIP
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..registry import lookup
from ..storage.creating import versions
from .answer import draw_answer, write_statements
from .base import Experiment, Numbers, Setting, Verdict, skip_progress
from .blow_up import draw_blow_up, judge_blow_up, measure_blow_up
from .choice import draw_choice, judge_choice, measure_choice
from .cost import draw_cost, judge_cost, measure_cost
from .descent import draw_descent, judge_descent, measure_descent
from .factor_two import draw_factor_two, judge_factor_two, measure_factor_two
from .mismatch import draw_mismatch, judge_mismatch, measure_mismatch
from .precision import (
    draw_divergence,
    draw_stability,
    judge_divergence,
    judge_stability,
    measure_divergence,
    measure_stability,
)
from .sign import draw_sign, judge_sign, measure_sign

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "EXPERIMENTS",
    "QUICK_CAVEAT",
    "draw_figure",
    "judge",
    "render_verdicts",
    "run",
    "verdict_lines",
    "write_report",
    "write_short_answer",
]

QUICK_CAVEAT = (
    "Caution: --quick uses few repetitions and short training. Its verdicts may contradict the "
    "full run."
)

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


def run(
    out: Path,
    *,
    quick: bool = False,
    seeds: int = 5,
    only: Sequence[str] = (),
    track: Callable[..., Iterable[Any]] = skip_progress,
) -> dict[str, Verdict]:
    """Run the experiments; write ``results.json``, ``verdicts.md`` and a figure for each.

    Args:
        out: folder of the results; created if it does not exist. If it holds results of the same
            protocol, the experiments that ``only`` leaves out keep them.
        quick: few repetitions and short training. The verdicts may contradict the full run.
        seeds: number of repetitions with different random numbers.
        only: names of :data:`EXPERIMENTS`; empty means all.
        track: shows progress, as :func:`rich.progress.track` does.

    Returns:
        The verdicts by name, of all experiments that ``out`` now holds.

    Raises:
        InputError: fewer than 2 seeds, or an unknown name.
    """
    if seeds < 2:
        raise InputError(f"seeds is {seeds}; the study needs at least 2 seeds for an interval")
    chosen = {name: lookup("experiment", name, EXPERIMENTS) for name in only or EXPERIMENTS}
    setting = Setting(quick, seeds, track)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "results.json"
    protocol = {
        "command": f"pyro-vae scales --seeds {seeds}" + " --quick" * quick,
        "quick": quick,
        "seeds": list(range(seeds)),
        "versions": versions(),
    }
    results: dict[str, Any] = {}
    if file.exists():
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            results = stored["results"] if stored["protocol"] == protocol else {}
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{str(file)!r} is not the results of this study; name another folder"
            ) from None
    for name, experiment in chosen.items():
        began = perf_counter()
        numbers = to_storable(experiment.measure(setting))
        results[name] = {"seconds": round(perf_counter() - began), **numbers}
        results = {n: results[n] for n in EXPERIMENTS if n in results}
        # The file is written after each experiment, so a stopped run loses only the current one.
        text = json.dumps({"protocol": protocol, "results": results}, ensure_ascii=False)
        file.write_text(text + "\n", encoding="utf-8")
    write_report(out, protocol, results, list(chosen))
    return judge(results)


def judge(results: dict[str, Numbers]) -> dict[str, Verdict]:
    """The verdicts on the measured numbers, by the rules of the experiments."""
    return {name: EXPERIMENTS[name].judge(results) for name in EXPERIMENTS if name in results}


def write_report(
    out: Path,
    protocol: dict[str, Any],
    results: dict[str, Numbers],
    drawn: Iterable[str] = EXPERIMENTS,
) -> None:
    """Write ``verdicts.md`` and the figures from measured numbers, without a measurement.

    Args:
        out: an existing folder.
        protocol: ``protocol`` of ``results.json``.
        results: ``results`` of ``results.json``.
        drawn: names of the experiments whose figures are drawn.
    """
    (out / "verdicts.md").write_text(render_verdicts(protocol, results), encoding="utf-8")
    for name in drawn:
        draw_figure(name, results).savefig(out / f"{name}.png", dpi=110)
    if len(results) == len(EXPERIMENTS):
        draw_figure("answer", results).savefig(out / "answer.png", dpi=110)


def draw_figure(name: str, results: dict[str, Numbers]) -> Figure:
    """The figure of one experiment, or of the short answer if ``name`` is ``"answer"``."""
    from matplotlib.figure import Figure

    height = 7.5 if name in ("descent", "stability") else 4.2
    figure = Figure(figsize=(11, height), layout="constrained")
    if name == "answer":
        draw_answer(results, figure)
    else:
        EXPERIMENTS[name].draw(results[name], figure)
    return figure


def to_storable(value: Any) -> Any:
    """The value for JSON: floats have five digits; NaN and infinity become None."""
    if isinstance(value, dict):
        return {str(k): to_storable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_storable(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value


def write_short_answer(results: dict[str, Numbers]) -> str:
    """Five statements; every number in them comes from the results of all nine experiments."""
    return " ".join(write_statements(results, judge(results)))


def verdict_lines(verdicts: dict[str, Verdict], quick: bool) -> list[str]:
    """The claims with their verdicts for the terminal; ``quick`` adds the caveat at both ends."""
    caveat = [QUICK_CAVEAT] if quick else []
    lines = [f"[bold]{EXPERIMENTS[name].claim}[/]: {v}" for name, v in verdicts.items()]
    return [*caveat, *lines, *caveat]


def render_verdicts(protocol: dict[str, Any], results: dict[str, Numbers]) -> str:
    """The verdicts as Markdown: each with its numbers, its protocol and its rule."""
    verdicts = judge(results)
    number_of = {name: i for i, name in enumerate(EXPERIMENTS, start=1)}
    software = ", ".join(f"{k} {v}" for k, v in protocol["versions"].items())
    caveat = ["", f"**{QUICK_CAVEAT}**"] if protocol["quick"] else []
    lines = [
        "# Why log-variance? Nine claims and their measurements",
        "",
        f"`{protocol['command']}`; {software}; float32 unless stated otherwise.",
        *caveat,
        "",
    ]
    if len(results) == len(EXPERIMENTS):
        lines += [write_short_answer(results), "", "![the short answer](answer.png)", ""]
    lines += [
        "| # | claim | verdict |",
        "| --- | --- | --- |",
        *(f"| {number_of[n]} | {EXPERIMENTS[n].claim} | **{v}** |" for n, v in verdicts.items()),
    ]
    for name, verdict in verdicts.items():
        # The first line of the docstring repeats the claim; the rest is protocol and rule.
        protocol_text = inspect.getdoc(EXPERIMENTS[name].measure) or ""
        lines += [
            "",
            f"## {number_of[name]}. {EXPERIMENTS[name].claim}",
            "",
            f"**{verdict}.** {verdict.evidence}",
            "",
            f"![{EXPERIMENTS[name].claim}]({name}.png)",
            "",
            *protocol_text.split("\n\n", 1)[1].replace("``", "`").split("\n"),
        ]
    return "\n".join([*lines, *caveat]) + "\n"

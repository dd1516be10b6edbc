"""Why log-variance? Nine claims of the public answers, each with its measurement and its verdict.

A VAE's encoder gives μ and log σ², and the code then computes σ = exp(½ log σ²). Why not give σ?
:data:`EXPERIMENTS` holds what is said, :func:`run` measures it:

    >>> verdicts = run(Path("scales"), quick=True)
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from matplotlib.figure import Figure

from ..runs.folder import versions
from ..errors import InputError
from ..registry import lookup
from .answer import answer, draw_answer
from .base import Experiment, Numbers, Setting, Verdict, silent
from .blow_up import blow_up, draw_blow_up, judge_blow_up
from .choice import choice, draw_choice, judge_choice
from .cost import cost, draw_cost, judge_cost
from .descent import descent, draw_descent, judge_descent
from .factor_two import draw_factor_two, factor_two, judge_factor_two
from .mismatch import draw_mismatch, judge_mismatch, mismatch
from .precision import (
    divergence,
    draw_divergence,
    draw_stability,
    judge_divergence,
    judge_stability,
    stability,
)
from .sign import draw_sign, judge_sign, sign

__all__ = ["EXPERIMENTS", "judge", "picture", "run", "short_answer", "table"]

EXPERIMENTS: dict[str, Experiment] = {
    "sign": Experiment(
        "σ must be positive; log σ² frees the encoder from the constraint",
        sign,
        judge_sign,
        draw_sign,
    ),
    "stability": Experiment(
        "numerical stability when the variance is near zero",
        stability,
        judge_stability,
        draw_stability,
    ),
    "divergence": Experiment(
        "log σ² is needed for the KL", divergence, judge_divergence, draw_divergence
    ),
    "descent": Experiment(
        "gradients are smoother, optimisation is easier", descent, judge_descent, draw_descent
    ),
    "factor_two": Experiment(
        "log σ² and log σ are the same up to a factor 2",
        factor_two,
        judge_factor_two,
        draw_factor_two,
    ),
    "cost": Experiment("it costs extra computation", cost, judge_cost, draw_cost),
    "blow_up": Experiment("exp can blow up", blow_up, judge_blow_up, draw_blow_up),
    "choice": Experiment(
        "in the end the choice does not matter", choice, judge_choice, draw_choice
    ),
    "mismatch": Experiment(
        "exp(log σ²) taken as σ where z is drawn spoils the ELBO",
        mismatch,
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
    track: Callable[..., Iterable[Any]] = silent,
) -> dict[str, Verdict]:
    """Run the experiments; write ``results.json``, ``verdicts.md`` and a figure for each.

    Args:
        out: folder of the results, made if need be. Results of the same protocol that it holds
            are kept where ``only`` leaves them out.
        quick: about a minute in all instead of the full protocol. Its verdicts are worth little.
        seeds: repetitions of what is random.
        only: names of :data:`EXPERIMENTS`; all of them if empty.
        track: shows progress, as :func:`rich.progress.track` does.

    Returns:
        The verdicts by name.

    Raises:
        InputError: fewer than 2 seeds, or an unknown name.
    """
    if seeds < 2:
        raise InputError(f"the experiments take at least 2 seeds for an interval, not {seeds}")
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
        held = json.loads(file.read_text(encoding="utf-8"))
        results = held["results"] if held["protocol"] == protocol else {}
    for name, experiment in chosen.items():
        began = perf_counter()
        numbers = storable(experiment.measure(setting))
        results[name] = {"seconds": round(perf_counter() - began), **numbers}
        # After each one, so that a long run that is stopped has lost no more than one.
        results = {n: results[n] for n in EXPERIMENTS if n in results}
        text = json.dumps(
            {"protocol": protocol, "results": results}, ensure_ascii=False, indent=None
        )
        file.write_text(text + "\n", encoding="utf-8")
    (out / "verdicts.md").write_text(table(protocol, results), encoding="utf-8")
    for name in chosen:
        picture(name, results).savefig(out / f"{name}.png", dpi=110)
    if len(results) == len(EXPERIMENTS):
        picture("answer", results).savefig(out / "answer.png", dpi=110)
    return judge(results)


def judge(results: dict[str, Numbers]) -> dict[str, Verdict]:
    """The verdicts on what was measured, by the experiments' own rules."""
    return {name: EXPERIMENTS[name].judge(results) for name in EXPERIMENTS if name in results}


def picture(name: str, results: dict[str, Numbers]) -> Figure:
    """The figure of one experiment; ``"answer"`` is the one for the short answer."""
    height = 7.5 if name in ("descent", "stability") else 4.2
    figure = Figure(figsize=(11, height), layout="constrained")
    if name == "answer":
        draw_answer(results, figure)
    else:
        EXPERIMENTS[name].draw(results[name], figure)
    return figure


def storable(value: Any) -> Any:
    """As JSON holds it: five digits, null for what is no finite number."""
    if isinstance(value, dict):
        return {str(k): storable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [storable(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value


def short_answer(results: dict[str, Numbers]) -> str:
    """Five sentences, every number in them read from the results of all nine experiments."""
    return " ".join(answer(results, judge(results)))


def table(protocol: dict[str, Any], results: dict[str, Numbers]) -> str:
    """The verdicts as Markdown, each with its numbers, its protocol and its rule."""
    verdicts = judge(results)
    numbered = {name: i for i, name in enumerate(EXPERIMENTS, start=1)}
    software = ", ".join(f"{k} {v}" for k, v in protocol["versions"].items())
    lines = [
        "# Why log-variance? Nine claims and what the measurements say",
        "",
        f"`{protocol['command']}`; {software}; float32 unless said.",
        "",
    ]
    if len(results) == len(EXPERIMENTS):
        lines += [short_answer(results), "", "![the short answer](answer.png)", ""]
    lines += [
        "| # | claim | verdict |",
        "| --- | --- | --- |",
        *(f"| {numbered[n]} | {EXPERIMENTS[n].claim} | **{v}** |" for n, v in verdicts.items()),
    ]
    for name, verdict in verdicts.items():
        protocol_text = inspect.getdoc(EXPERIMENTS[name].measure) or ""
        lines += [
            "",
            f"## {numbered[name]}. {EXPERIMENTS[name].claim}",
            "",
            f"**{verdict}.** {verdict.evidence}",
            "",
            f"![{EXPERIMENTS[name].claim}]({name}.png)",
            "",
            *protocol_text.split("\n\n", 1)[1].replace("``", "`").split("\n"),
        ]
    return "\n".join(lines) + "\n"

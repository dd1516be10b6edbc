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

import json
import math
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from ..errors import InputError
from ..registry import lookup
from ..storage.creating import versions
from ..storage.writing import written
from .answer import write_answer
from .base import Setting, Verdict, skip_progress
from .claims import EXPERIMENTS, judge
from .report import (
    QUICK_CAVEAT,
    draw_figure,
    read_results,
    render_verdicts,
    verdict_lines,
    write_report,
)

__all__ = [
    "EXPERIMENTS",
    "QUICK_CAVEAT",
    "draw_figure",
    "judge",
    "read_results",
    "render_verdicts",
    "run",
    "verdict_lines",
    "write_answer",
    "write_report",
]


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
        InputError: fewer than 2 seeds, an unknown name, or a ``results.json`` in ``out`` that is
            damaged or has another protocol.
    """
    if seeds < 2:
        raise InputError(f"seeds is {seeds}; the study needs at least 2 seeds for an interval")
    chosen = {name: lookup("experiment", name, EXPERIMENTS) for name in only or EXPERIMENTS}
    setting = Setting(quick, seeds, track)
    code = commit()
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
        stored, results = read_results(file)
        if stored != protocol:
            raise InputError(
                f"{str(file)!r} has the results of {stored['command']!r} or of other versions; "
                "name another folder"
            )
    for name, experiment in chosen.items():
        began = perf_counter()
        numbers = to_storable(experiment.measure(setting))
        seconds = round(perf_counter() - began)
        results[name] = {"seconds": seconds, "commit": code, **numbers}
        results = {n: results[n] for n in EXPERIMENTS if n in results}
        # The file is written after each experiment, so a stopped run loses only the current one.
        text = json.dumps({"protocol": protocol, "results": results}, ensure_ascii=False)
        with written(file) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    write_report(out, protocol, results, list(chosen))
    return judge(results)


def commit() -> str | None:
    """The commit of the package's code, "-changed" if the code differs; None outside git."""
    here = Path(__file__).parents[1]

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # fails if git does not hold the package
        return git("rev-parse", "HEAD") + "-changed" * bool(git("status", "--porcelain", "--", "."))
    except (OSError, subprocess.CalledProcessError):
        return None


def to_storable(value: Any) -> Any:
    """The value for JSON: floats have five digits; NaN and infinity become None."""
    if isinstance(value, dict):
        return {str(k): to_storable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_storable(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value

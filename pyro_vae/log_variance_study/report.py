"""The report of the study: verdicts, answer and figures, from measured numbers."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .answer import draw_answer, write_answer
from .base import Numbers, Verdict
from .claims import EXPERIMENTS, judge

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUICK_CAVEAT = (
    "Caution: --quick uses few repetitions and short training. Its verdicts may contradict the "
    "full run."
)

ANSWER_FIGURE = "Fisher information, steps to known optima, and test NLL"


def read_results(file: Path) -> tuple[dict[str, Any], dict[str, Numbers]]:
    """The protocol and the results of a ``results.json``.

    Raises:
        InputError: the file is not one of this study, or a number in it is missing.
    """
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        protocol, results = stored["protocol"], stored["results"]
        results = {name: results[name] for name in EXPERIMENTS if name in results}
        render_verdicts(protocol, results)  # reads all numbers of the verdicts
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
        raise InputError(
            f"{str(file)!r} is not a whole results.json of this study; name another folder"
        ) from None
    return protocol, results


def write_report(
    out: Path,
    protocol: dict[str, Any],
    results: dict[str, Numbers],
    drawn: Iterable[str] = EXPERIMENTS,
) -> None:
    """Write ``verdicts.md``, ``answer.md`` and the figures from measured numbers.

    Args:
        out: an existing folder.
        protocol: ``protocol`` of ``results.json``.
        results: ``results`` of ``results.json``.
        drawn: names of the experiments whose figures are drawn.
    """
    (out / "verdicts.md").write_text(render_verdicts(protocol, results), encoding="utf-8")
    for name in (name for name in drawn if name in results):
        draw_figure(name, results).savefig(out / f"{name}.png", dpi=110)
    if len(results) == len(EXPERIMENTS):
        draw_figure("answer", results).savefig(out / "answer.png", dpi=110)
        answer = write_answer(results, judge(results), "verdicts.md")
        text = f"# Why log-variance?\n\n![{ANSWER_FIGURE}](answer.png)\n\n{answer}\n"
        (out / "answer.md").write_text(text, encoding="utf-8")


def draw_figure(name: str, results: dict[str, Numbers]) -> Figure:
    """The figure of one experiment, or of the short answer if ``name`` is ``"answer"``."""
    from matplotlib.figure import Figure

    height = 7.5 if name in ("descent", "stability") else 4.2
    width = 13 if name in ("descent", "answer") else 11
    figure = Figure(figsize=(width, height), layout="constrained")
    if name == "answer":
        draw_answer(results, figure)
    else:
        EXPERIMENTS[name].draw(results[name], figure)
    return figure


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
        f"`{protocol['command']}`; {software}; float32 unless stated otherwise. A claim has the "
        f"seeds {protocol['seeds'][0]} to {protocol['seeds'][-1]} unless its text says otherwise.",
        *caveat,
        "",
    ]
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
            f"## Claim {number_of[name]}",
            "",
            f"{EXPERIMENTS[name].claim}: **{verdict}.** {verdict.evidence}",
            "",
            "Measured in {seconds} s at commit {commit}.".format(**results[name]),
            "",
            f"![{EXPERIMENTS[name].claim}]({name}.png)",
            "",
            *protocol_text.split("\n\n", 1)[1].replace("``", "`").split("\n"),
        ]
    return "\n".join([*lines, *caveat]) + "\n"

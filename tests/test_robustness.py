"""Strange input is accepted with finite results, or refused in one sentence, and leaves nothing.

The long test draws other cases each time and writes what it found:

    pytest -m slow tests/test_robustness.py

ROBUSTNESS_SECONDS limits its time. No case begins after it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.strange import KINDS, tried

from pyro_vae.storage.creating import versions

RESULT = Path(__file__).parent.parent / "benchmarks" / "results" / "robustness.json"


def check(results):
    """Every case of every kind was accepted or refused, and both happened."""
    for kind, result in results.items():
        assert not result["found"], "\n".join(f"{k}: {v}" for k, v in result["found"].items())
        assert min(result["accepted"], result["refused"]) >= 10, kind


@pytest.mark.parametrize("name", KINDS)
def test_500_cases_of_strange_input_are_accepted_or_refused(name):
    check({name: tried(KINDS[name], round(500 * KINDS[name].share))})


@pytest.mark.slow
def test_10000_cases_of_strange_input_are_accepted_or_refused():
    seconds = float(os.environ.get("ROBUSTNESS_SECONDS", 7200))
    results = {
        name: tried(kind, round(10_000 * kind.share), seconds * kind.time, fixed=False)
        for name, kind in KINDS.items()
    }
    cases = sum(r["accepted"] + r["refused"] + r.get("other", 0) for r in results.values())
    stored = {
        "command": f"ROBUSTNESS_SECONDS={seconds:.0f} pytest -m slow tests/test_robustness.py",
        "cases": cases,
        "by_kind": results,
        "versions": versions(),
    }
    RESULT.write_text(json.dumps(stored, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    check(results)

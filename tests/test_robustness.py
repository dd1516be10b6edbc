"""Strange input is accepted with finite results, or refused in one sentence, and leaves nothing."""

from __future__ import annotations

import pytest
from support.strange import KINDS, tried

CASES = 500
"""The cases of all kinds together."""


@pytest.mark.parametrize("name", KINDS)
def test_strange_input_is_accepted_or_refused(name):
    result = tried(KINDS[name], round(KINDS[name].share * CASES))
    assert not result["found"], "\n".join(f"{k}: {v}" for k, v in result["found"].items())
    assert min(result["accepted"], result["refused"]) >= 10, result

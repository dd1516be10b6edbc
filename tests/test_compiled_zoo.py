"""No program is trained to other numbers than by eager SVI without a word."""

import re
from pathlib import Path

import pytest
import torch
from support.menagerie import MEMBERS, kinds, python_state, tensors, train, writes  # noqa: F401


@pytest.mark.parametrize("name", MEMBERS)
def test_no_member_is_silently_different(name):
    """Losses, parameters and errors over 12 steps are those of eager SVI, or it is refused."""
    outcome, make = MEMBERS[name]
    *eager, raised, _ = train(make, compiled=False)
    *compiled, raised_c, how = train(make, compiled=True)
    assert how == outcome
    if how == "refused":
        eager, compiled = eager[0][: len(compiled[0])], compiled[0]
    else:
        assert raised_c == raised
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-4)


def test_the_zoo_is_large():
    assert len(MEMBERS) >= 250
    assert sum(outcome == "equal" for outcome, _ in MEMBERS.values()) >= 150


def test_each_row_of_the_documentation_is_tested():
    page = (Path(__file__).parent.parent / "docs" / "compiled-svi.md").read_text(encoding="utf-8")
    table = page.partition("| tested by |")[2].partition("\n\n")[0]
    rows = [row.rpartition("|")[0].rpartition("|")[2] for row in table.splitlines()[2:]]
    assert len(rows) >= 20
    for row in rows:
        names = re.findall("`([^`]+)`", row)
        assert names
        assert set(names) <= MEMBERS.keys(), row

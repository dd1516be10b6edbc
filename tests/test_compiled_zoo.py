"""No program is trained to other numbers than by eager SVI without a word."""

import re
from pathlib import Path

import pytest
import torch
from support.menagerie import (  # noqa: F401
    MEMBERS,
    arguments,
    inplace,
    kinds,
    overlooked,
    python_state,
    surroundings,
    tensors,
    train,
    writes,
)

PAGE = Path(__file__).parent.parent / "docs" / "compiled-svi.md"


def documented():
    """For each row of the table of what is guaranteed, the members that test it."""
    table = PAGE.read_text(encoding="utf-8").partition("| tested by |")[2].partition("\n\n")[0]
    rows = [row.rpartition("|")[0].rpartition("|")[2] for row in table.splitlines()[2:]]
    return [re.findall("`([^`]+)`", row) for row in rows]


def sample():
    """The members of the default run: one of each row of the table, and every 8th of each outcome.

    The members stand in the order of their files, so that every 8th is spread over all kinds.
    """
    chosen = {names[0] for names in documented()}
    for outcome in {outcome for outcome, _ in MEMBERS.values()}:
        chosen.update([name for name, (o, _) in MEMBERS.items() if o == outcome][::8])
    return chosen


SAMPLE = sample()


@pytest.mark.parametrize(
    "name", [n if n in SAMPLE else pytest.param(n, marks=pytest.mark.slow) for n in MEMBERS]
)
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
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-4, equal_nan=True)


EQUAL = [name for name, (outcome, _) in MEMBERS.items() if outcome == "equal"]
FEW = [name for name in EQUAL if name in SAMPLE][::3]


@pytest.mark.parametrize(
    "name", [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in EQUAL]
)
def test_an_evaluated_loss_is_that_of_the_programs(name):
    """``evaluate_loss`` is a graph of its own. It follows the same state as the step."""
    *eager, raised, _ = train(MEMBERS[name][1], compiled=False, evaluates=True)
    *compiled, raised_c, how = train(MEMBERS[name][1], compiled=True, evaluates=True)
    assert raised_c == raised
    # A hook on a tensor without gradients raises before anything is compiled.
    assert how == "equal" or (raised and how == "never compiled")
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_the_zoo_is_large():
    assert len(MEMBERS) >= 250
    assert sum(outcome == "equal" for outcome, _ in MEMBERS.values()) >= 150


def test_the_default_run_covers_each_kind():
    assert len(SAMPLE) >= 60
    assert {MEMBERS[name][0] for name in SAMPLE} == {outcome for outcome, _ in MEMBERS.values()}


def test_each_row_of_the_documentation_is_tested():
    rows = documented()
    assert len(rows) >= 20
    assert all(names and set(names) <= MEMBERS.keys() for names in rows), rows

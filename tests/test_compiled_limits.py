"""What a compiled step does not notice; the documentation has a table of it."""

import decimal
import re
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from support.compiled import compiled_after, refused, take
from torch.nn import functional as F

from pyro_vae.compiling import CompiledELBO, CompileError

PAGE = Path(__file__).parent.parent / "docs" / "compiled-svi.md"


def replace_relu(value, original=F.relu):
    F.relu = original if value == 1.0 else lambda z, **options: value * original(z, **options)


def hide_max(value):
    if value == 1.0:
        globals().pop("max", None)
    else:
        globals()["max"] = lambda *_: value


def set_precision(value):
    decimal.getcontext().prec = 28 if value == 1.0 else 1


STALE = {
    "code replaced inside torch": (lambda z, x: F.relu(z + 3), replace_relu),
    "a global that hides a builtin": (lambda z, x: z * max(1.0, 0.5), hide_max),
    "a setting of a library in C": (
        lambda z, x: z * float(decimal.Decimal(4) / decimal.Decimal(3)),
        set_precision,
    ),
}


@pytest.mark.parametrize("name", STALE)
def test_what_is_not_compared(name):
    """Call 3 repeats the old loss, and call 4, which traces again, raises."""
    look, change = STALE[name]
    model, guide = refused(look)
    x = torch.ones(3)
    compiled = compiled_after(model, guide, x)
    before, _ = take(Trace_ELBO(), model, guide, (x,))
    try:
        change(2.0)
        after, _ = take(Trace_ELBO(), model, guide, (x,))
        assert after != pytest.approx(before)
        assert take(compiled, model, guide, (x,))[0] == pytest.approx(before)
        with pytest.raises(CompileError, match="has changed since the step was compiled"):
            take(compiled, model, guide, (x,))
    finally:
        change(1.0)


def test_a_printed_line(capsys):
    """The first call is eager, the second is traced, the third runs the graph."""

    def look(z, x):
        print("looked")
        return z

    model, guide = refused(look)
    compiled, lines = CompiledELBO(Trace_ELBO(), "eager"), []
    for _ in range(3):
        take(compiled, model, guide, (torch.ones(3),))
        lines.append(capsys.readouterr().out.count("looked"))
    assert lines[0] == 1
    assert lines[1] > 1
    assert lines[2] == 0
    assert len(compiled.graphs) == 1


def test_a_probability_above_one_in_a_factor():
    """At a later call eager SVI raises an error, and the graph does not."""
    p = torch.tensor(0.5)

    def look(z, x):
        pyro.factor("f", dist.Bernoulli(p).log_prob(torch.ones(3)).sum())
        return z

    model, guide = refused(look)
    compiled = compiled_after(model, guide, torch.ones(3))
    p.fill_(1.5)
    with pytest.raises(ValueError, match="parameter probs"):
        take(Trace_ELBO(), model, guide, (torch.ones(3),))
    assert take(compiled, model, guide, (torch.ones(3),))[0] > 0


def test_each_row_of_the_documentation_is_tested():
    table = PAGE.read_text(encoding="utf-8").partition("| not noticed |")[2].partition("\n\n")[0]
    rows = table.splitlines()[2:]
    names = [re.findall("`([^`]+)` \\|$", row)[0] for row in rows]
    assert set(names) == {
        *STALE,
        "a printed line",
        "a stale graph is dropped",
        "a probability above one in a factor",
    }

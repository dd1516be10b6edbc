"""From names to parts."""

import pytest

from pyro_vae.errors import InputError
from pyro_vae.registry import Table, lookup, parse, split_specs, summary


class Prior:
    """A prior of a test.

    More about it.
    """

    def __init__(self, latent_size: int, width: int = 3) -> None:
        self.latent_size, self.width = latent_size, width


def needs_depth(latent_size: int, depth: int) -> tuple[int, int]:
    return latent_size, depth


TABLE = Table("prior")
TABLE.update({"prior": Prior, "deep": needs_depth})


def test_a_name_may_carry_options():
    assert parse("iwae") == ("iwae", {})
    assert parse(" mixture( components=20, spread=[0.5, 1] ) ") == (
        "mixture",
        {"components": 20, "spread": [0.5, 1]},
    )
    assert parse("mean-field(scale='softplus(initial=0.1)')")[1] == {
        "scale": "softplus(initial=0.1)"
    }


@pytest.mark.parametrize(
    "spec", ["", "a b", "a(", "a(3)", "a(x=y)", "a(x=1)b", "a(**{'x': 1})", "a(x=__import__('os'))"]
)
def test_what_is_no_name_with_options_is_refused(spec):
    with pytest.raises(InputError, match="is not a name with options"):
        parse(spec)


def test_a_list_is_cut_at_commas_outside_brackets():
    assert split_specs("vae,iwae(samples=5, outer=2), beta(beta=4)") == [
        "vae",
        "iwae(samples=5, outer=2)",
        "beta(beta=4)",
    ]


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(InputError, match=r"unknown prior 'priro'; did you mean prior\?"):
        lookup("prior", "priro", TABLE)
    with pytest.raises(InputError, match="there are: prior, deep"):
        lookup("prior", "xyzzy", TABLE)
    for value in (5, None, ["prior"]):
        with pytest.raises(InputError, match="prior is one of the names prior, deep, not "):
            lookup("prior", value, TABLE)


def test_a_part_gets_what_its_arguments_name_and_no_more():
    part = TABLE.build("prior(width=7)", latent_size=20, encoder="unasked")
    assert (part.latent_size, part.width) == (20, 7)
    assert TABLE.build(Prior, latent_size=4).latent_size == 4
    assert TABLE.build(part, latent_size=4) is part
    assert TABLE.build(f"{__name__}:Prior(width=2)", latent_size=4).width == 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("prior(depth=1)", "the prior Prior has no option 'depth'; it takes width"),
        ("prior(latent_size=1)", "has no option 'latent_size'"),
        ("deep", "the prior needs_depth needs a value for depth"),
        ("nowhere:Prior", "no module 'nowhere' can be imported"),
        ("math:Prior", "module 'math' has no 'Prior'"),
    ],
)
def test_what_does_not_fit_is_one_sentence(spec, message):
    with pytest.raises(InputError, match=message):
        TABLE.build(spec, latent_size=20)


def test_the_summary_is_the_first_line_of_the_docstring():
    assert summary(Prior) == "A prior of a test."

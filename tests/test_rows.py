"""What holds for every row of PRIORS, LIKELIHOODS and GUIDES, checked in one place."""

import pytest
from support.rows import CHECKS, ROWS


@pytest.mark.parametrize(("kind", "name"), ROWS, ids=map(" ".join, ROWS))
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_every_row(check, kind, name):
    check(kind, name)

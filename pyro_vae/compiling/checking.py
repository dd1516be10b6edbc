"""Pyro's validation inside a graph: one output says which checks the sites passed.

Eager SVI refuses a value outside the support of its distribution and a parameter outside its
constraint. A graph computes the same checks and returns a bool for each. If one is False, the call
runs eagerly, and Pyro raises its own error. If Pyro does not, the program has opted out of this
check, and it is not read any more.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Distribution
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import lazy_property


def validates() -> bool:
    """Whether Pyro and torch validate distributions now."""
    return bool(torch.distributions.Distribution._validate_args)


class SiteChecks(Messenger):
    """Collects the checks of all sites; none, if eager SVI would not make them."""

    def __init__(self, active: bool) -> None:
        super().__init__()
        self.passed: list[Tensor] = []
        self.active = active

    def _pyro_post_sample(self, msg: Any) -> None:
        fn, value = msg["fn"], msg["value"]
        if not self.active:
            return
        if isinstance(value, Tensor):
            self.add(value, lambda: fn.support)
        while isinstance(fn, Distribution):
            for name, constraint in getattr(fn, "arg_constraints", {}).items():
                if name not in vars(fn) and isinstance(getattr(type(fn), name), lazy_property):
                    continue  # as in torch: what a distribution computes later is not checked
                argument = getattr(fn, name)
                if isinstance(argument, Tensor):
                    self.add(argument, lambda c=constraint: c)
            fn = getattr(fn, "base_dist", None)  # of Independent, MaskedDistribution and others

    def add(self, value: Tensor, constraint: Any) -> None:
        """Note the check of ``value``, if torch has one that a graph can represent."""
        try:
            found = constraint()
            if found is None or constraints.is_dependent(found):
                return
            self.passed.append(torch.as_tensor(found.check(value.detach())).all())
        except Exception:  # a support may be undefined, or decide something from a value
            return

    def result(self) -> list[Tensor]:
        """One bool tensor with all checks; nothing if there is no check."""
        return [torch.stack(self.passed)] if self.passed else []

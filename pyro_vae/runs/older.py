"""Read the config of a run that an older version wrote, in which defaults had other values."""

from __future__ import annotations

from typing import Any

from ..registry import parse, spec

THEN: dict[str, dict[str, dict[str, Any]]] = {
    "likelihood": {
        name: {"bounded": False}
        for name in (
            "normal",
            "normal-learned",
            "normal-per-pixel",
            "laplace",
            "log-cosh",
            "discretized-logistic",
        )
    },
    "network": {"conv": {"kernel": 3}},
}
"""Options that did not exist, with the values that they had in effect, by part and name."""


def as_written_now(vae: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the VAE in a run's config, as this version would write them."""
    if "standardize" in vae:
        return vae
    now = {**vae, "standardize": None}
    for part, rows in THEN.items():
        if isinstance(vae[part], str):
            name, options = parse(vae[part])
            now[part] = spec(name, {**rows.get(name, {}), **options})
    return now

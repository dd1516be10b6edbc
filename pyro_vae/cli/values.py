"""From the text of an option to its value."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError


def sizes(option: str, text: str | None) -> list[int] | None:
    """``"400,200"`` -> ``[400, 200]``."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"{option} takes whole numbers with commas between, like 400,200, not {text!r}"
        ) from None


def latent_sizes(text: str | None) -> int | list[int | list[int]] | None:
    """``"20"`` -> ``20``; ``"8x14x14,32"`` -> ``[[8, 14, 14], 32]``."""
    if text is None:
        return None
    try:
        parts = [[int(n) for n in part.split("x")] for part in text.split(",")]
    except ValueError:
        raise InputError(
            "--latent takes a whole number, or one for each layer such as 64,32,16, or channels, "
            f"height and width of a layer such as 8x7x7, not {text!r}"
        ) from None
    layers = [part[0] if len(part) == 1 else part for part in parts]
    return layers[0] if len(layers) == 1 and isinstance(layers[0], int) else layers


def label_count(text: str | None) -> int | str | None:
    """``"100"`` -> ``100``; ``"all"`` stays."""
    if text is None or text == "all":
        return text
    if not text.isdecimal():
        raise InputError(f"--known-labels takes a number, such as 100, or all, not {text!r}")
    return int(text)


def validation_size(text: str | None) -> float | None:
    """``"500"`` -> ``500``; ``"0.1"`` -> ``0.1``. The data says which numbers fit."""
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,9}|\d?\.\d{1,9}", text):
        raise InputError(
            f"--validation takes a number of training rows, such as 500, or a share, such as 0.1, "
            f"not {text!r}"
        )
    return int(text) if text.isdecimal() else float(text)


def image_size(text: str | None) -> int | list[int] | None:
    """``"64"`` -> ``64``; ``"48x64"`` -> ``[48, 64]``, height and width."""
    if text is None:
        return None
    if not re.fullmatch(r"[1-9]\d{0,5}(x[1-9]\d{0,5})?", text):
        raise InputError(
            f"--size takes pixels such as 64, or height and width such as 48x64, not {text!r}"
        )
    pair = [int(n) for n in text.split("x")]
    return pair[0] if len(pair) == 1 else pair


UNITS = {"s": 1, "m": 60, "h": 3600}
LONGEST = 1000
"""The most hours of a duration."""


def duration(text: str) -> float:
    """``"90s"`` -> ``90.0``; ``"1.5h"`` -> ``5400.0``, in seconds."""
    if not re.fullmatch(r"([0-9]{1,9}(\.[0-9]{1,9})?|\.[0-9]{1,9})[smh]", text):
        raise InputError(f"--budget takes a time such as 90s, 10m or 1.5h, not {text!r}")
    seconds = float(text[:-1]) * UNITS[text[-1]]
    if not 0 < seconds <= LONGEST * UNITS["h"]:
        raise InputError(f"--budget takes a time above 0s and at most {LONGEST}h, not {text}")
    return seconds


def option_words(settings: Mapping[str, Any]) -> list[str]:
    """The words of a command line that give these settings.

    Example:
        >>> from pyro_vae.cli.values import option_words
        >>> option_words({"batch_size": 64, "size": [28, 23], "latent": [[8, 7, 7], 16]})
        ['--batch-size', '64', '--size', '28x23', '--latent', '8x7x7,16']
    """
    words = []
    for name, value in settings.items():
        words.append(f"--{name.replace('_', '-')}")
        if value is True:
            continue
        parts = [value] if name == "size" or not isinstance(value, list | tuple) else value
        texts = ["x".join(map(str, p)) if isinstance(p, list | tuple) else str(p) for p in parts]
        words.append(",".join(texts))
    return words


def filled(option: str) -> Callable[[str | None], str | None]:
    """A callback that refuses an empty value, which would be the current folder as a path."""

    def check(value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise InputError(f"{option} is empty; give it a value or leave the option out")
        return value

    return check


def place(text: str | Path) -> Path:
    """The path in an option. An empty one would be the current folder."""
    if not str(text).strip():
        raise InputError("a path is empty; give it a value or leave the option out")
    return Path(text)

"""The JSON of a run folder, read as the data of a stranger: each field is checked.

A field of another type would end in an exception far from here. A class ``module:Class`` would run
the stranger's code.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..history import Epoch
from ..options import is_number, is_whole
from ..registry import own_classes
from ..settings import LARGEST_SEED
from ..words import called

LARGEST = 1 << 24
"""The bytes that a config may have. A usual one has some hundreds; one of a table has about 200 for
each column."""
LONGEST = 1 << 24
"""The bytes that a line of the metrics may have. A latent unit takes about 20."""

Kind = tuple[str, Callable[[Any], bool]]


def is_size(value: Any) -> bool:
    """Whether ``value`` is a whole number above 0. True and False are not."""
    return is_whole(value) and value > 0


def are_sizes(value: Any, count: int | None = None) -> bool:
    """Whether ``value`` is a list of whole numbers above 0, ``count`` of them if it is given."""
    listed = isinstance(value, list) and len(value) > 0 and all(map(is_size, value))
    return listed and count in (None, len(value))


def are_layers(value: Any) -> bool:
    """Whether ``value`` is a latent size: a size, or a list of sizes ``n`` and ``[c, *sides]``."""
    if not isinstance(value, list):
        return is_size(value)
    return len(value) > 0 and all(is_size(each) or are_sizes(each) for each in value)


def are_moments(value: Any) -> bool:
    """Whether ``value`` is a pair of lists of numbers."""
    pair = isinstance(value, list) and len(value) == 2
    return pair and all(isinstance(each, list) and all(map(is_number, each)) for each in value)


def is_text(value: Any) -> bool:
    """Whether a value is a text."""
    return isinstance(value, str)


def are_texts(value: Any) -> bool:
    """Whether a value is a list of texts."""
    return isinstance(value, list) and all(map(is_text, value))


TEXT: Kind = ("a text", is_text)
SPEC: Kind = ("the name of a part, with its options", TEXT[1])
SIZE: Kind = ("a whole number above 0", is_size)
SEED: Kind = (
    f"a whole number from 0 to {LARGEST_SEED}",
    lambda v: type(v) is int and 0 <= v <= LARGEST_SEED,
)
FLAG: Kind = ("true or false", lambda v: isinstance(v, bool))

FIELDS: dict[str, dict[str, Kind]] = {
    "vae": {
        "shape": ("a list of whole numbers above 0", are_sizes),
        "latent_size": ("a whole number above 0, or a list with one for each layer", are_layers),
        "prior": SPEC,
        "likelihood": SPEC,
        "guide": SPEC,
        "network": SPEC,
        "hidden": ("a list of whole numbers above 0, or null", lambda v: v is None or are_sizes(v)),
        "standardize": ("two lists of numbers, or null", lambda v: v is None or are_moments(v)),
        "scaling": ("two lists of numbers, or null", lambda v: v is None or are_moments(v)),
        "condition": (
            "a whole number above 0, a list of them or of texts, or null",
            lambda v: v is None or is_size(v) or are_sizes(v) or are_texts(v),
        ),
        "conditioned": ("a list of texts", are_texts),
        "holes": FLAG,
        "context_scaling": (
            "two lists of numbers, or null",
            lambda v: v is None or are_moments(v),
        ),
    },
    "data": {
        "name": ("a text that is not empty", lambda v: isinstance(v, str) and v != ""),
        "binarize": TEXT,
        "size": ("one or two whole numbers above 0", lambda v: is_size(v) or are_sizes(v, 2)),
        "crop": FLAG,
        "grey": FLAG,
        "stream": FLAG,
        "validation": (
            "a whole number from 0, or null",
            lambda v: v is None or (is_whole(v) and v >= 0),
        ),
        "condition": TEXT,
        "labels": ("a whole number above 0, or 'all'", lambda v: v == "all" or is_size(v)),
        "labels_seed": SEED,
        "schema": ("a list of the columns of a table", lambda v: isinstance(v, list)),
        "label": TEXT,
        "target": TEXT,
    },
    "training": {
        "objective": SPEC,
        "epochs": SIZE,
        "batch_size": SIZE,
        "lr": ("a number above 0", lambda v: is_number(v) and v > 0),
        "schedule": SPEC,
        "clip": ("a number above 0, or null", lambda v: v is None or (is_number(v) and v > 0)),
        "average": ("a number below 1, or null", lambda v: v is None or (is_number(v) and v < 1)),
        "patience": ("a whole number above 0, or null", lambda v: v is None or is_size(v)),
        "precision": TEXT,
        "seed": SEED,
    },
}
"""What each field of a config is, in words and as a check."""

ADDED = ("standardize", "scaling", "condition", "conditioned", "holes", "context_scaling")
"""The fields of ``vae`` that the configs of older versions lack."""


def read_object(text: bytes) -> dict[str, Any]:
    """The JSON object in ``text``.

    Raises:
        ValueError: it is not JSON, or not an object; a name is there twice; a number is not finite
            or has more than 18 digits; or its lists are nested too deeply.
    """
    try:
        result = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=no_name_twice,
            parse_int=short,
            parse_float=finite,
            parse_constant=finite,
        )
    except RecursionError:
        raise ValueError("its lists are nested too deeply") from None
    if not isinstance(result, dict):
        raise ValueError("its parts are not objects")
    return result


def no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a dict; a ValueError if a name is there twice, because one would be ignored."""
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a name is in it twice")
    return result


def short(digits: str) -> int:
    if len(digits) > 18:
        raise ValueError("a number in it has more than 18 digits")
    return int(digits)


def finite(digits: str) -> float:
    if not math.isfinite(float(digits)):
        raise ValueError("a number in it is not finite")
    return float(digits)


def read_bytes(path: Path) -> bytes:
    """The bytes of a small file of a run.

    Raises:
        InputError: the file has more than :data:`LARGEST` bytes.
    """
    with path.open("rb") as file:
        text = file.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise InputError(f"{str(path)!r} has more than {LARGEST:,} bytes and is not read")
    return text


def refuse_links(folder: Path) -> None:
    """Refuse links in a run folder that is to be written to.

    A stranger's link ``training.png`` could lead to any file, which would then be replaced.

    Raises:
        InputError: something in the folder, or in a folder of its pictures, is a link.
    """
    for path in (*folder.iterdir(), *folder.glob("*/*")):
        if path.is_symlink():
            raise InputError(
                f"{str(path)!r} is a link, and training would write to where it leads; put the "
                "file itself there"
            )


def check_fields(path: Path, config: Mapping[str, Any]) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for a field that is not as in :data:`FIELDS`."""
    for part, kinds in FIELDS.items():
        for name, (words, fits) in kinds.items() if part in config else ():
            if name in config[part] and not fits(config[part][name]):
                raise InputError(
                    f"{name!r} in {part!r} of {str(path)!r} is {words}, not "
                    f"{config[part][name]!r:.60}"
                )
    source = config["data"]["name"] if "data" in config else ""
    if not os.path.isabs(source) and source != os.path.basename(source):
        raise InputError(
            f"'name' in 'data' of {str(path)!r} is the name of a data set or a whole path, not "
            f"{source!r:.60}"
        )


def specs(config: Mapping[str, Any]) -> list[Any]:
    """All values of a config that may be a spec of a part."""
    training = config.get("training", {})
    return [*config["vae"].values(), training.get("objective"), training.get("schedule")]


def check_trust(path: Path, config: Mapping[str, Any], trust: bool) -> None:
    """Refuse a config that names a class to import, unless ``trust`` is True.

    It looks at all specs before the first part is built. So no table needs to know where a spec
    came from.

    Raises:
        InputError: a class is named, and ``trust`` is False.
    """
    name = next(own_classes(specs(config)), None)
    if name is not None and not trust:
        raise InputError(
            f"{str(path)!r} names the class {name}, and to import it would run its code; if you "
            f"trust the run, give {called('trust', True)}"
        )


def older_names(numbers: dict[str, Any]) -> dict[str, Any]:
    """The numbers of an epoch as this version names them; older ones measured the test images."""
    if "test_elbo" not in numbers:
        return numbers
    return {k.removeprefix("test_"): v for k, v in numbers.items()} | {"measured_on": "test"}


def epoch_of(line: bytes) -> Epoch:
    """The numbers of an epoch from a line of the metrics.

    Raises:
        ValueError: the line is not the numbers of an epoch.
    """
    if len(line) > LONGEST:
        raise ValueError("the line is too long")
    try:
        epoch = Epoch(**older_names(read_object(line)))
    except TypeError as error:
        raise ValueError(str(error)) from None
    usual = {"train_elbo", "measured_loss"}  # that a run may lack
    given = {k: v for k, v in vars(epoch).items() if not (k in usual and v is None)}
    if given.pop("measured_on") not in ("validation", "train", "test"):
        raise ValueError("a value has another type")
    numbers = [value for value in given.values() if not isinstance(value, dict)]
    sites, units = epoch.kl_of_sites, epoch.kl_of_units
    if not isinstance(sites, dict) or not isinstance(units, dict):
        raise ValueError("a value has another type")
    numbers += sites.values()
    if not (units.keys() <= sites.keys() and all(isinstance(u, list) for u in units.values())):
        raise ValueError("a value has another type")
    numbers += [number for each in units.values() for number in each]
    named = all(name.isprintable() for name in sites)  # they are shown in a terminal
    if not (named and is_size(epoch.epoch) and all(map(is_number, numbers))):
        raise ValueError("a value has another type")
    return epoch

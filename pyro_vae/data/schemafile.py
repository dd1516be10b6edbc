"""What a user may give as a schema, and how a schema file is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from .columns import TYPES, WITH_LEVELS
from .schema import LEFT_OUT, Schema, are_levels

GivenSchema = Schema | Mapping[str, Any] | Sequence[Any] | str | Path | None
"""What a user may give as a schema."""


def read_schema(given: GivenSchema) -> Schema | dict[str, dict[str, Any]]:
    """A whole schema; or, for some columns by name, their ``type`` and perhaps their ``levels``.

    Args:
        given: a Schema; a list as :meth:`Schema.to_json` writes it, which is a whole schema; a dict
            ``{"age": "real", "stage": {"type": "ordered", "levels": ["I", "II", "III"]}}``, whose
            other columns are inferred; the path of a JSON file with one of the two; None for {}.

    Raises:
        InputError: something else.
    """
    if isinstance(given, str | Path):
        given = read_file(Path(given))
    if isinstance(given, Schema):
        return given
    if isinstance(given, list):
        return Schema.from_json(given)
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(
            'a schema gives columns their types, such as {"age": "real", "id": "left out"}, not '
            f"{given!r:.100}"
        )
    types: dict[str, dict[str, Any]] = {}
    for name, entry in given.items():
        named = {"type": entry} if isinstance(entry, str) else entry
        if not isinstance(named, Mapping) or named.get("type") not in (*TYPES, LEFT_OUT):
            raise InputError(
                f"the schema gives the column {name!r} the type {entry!r:.60}; a type is one of "
                f"{', '.join(TYPES)} and {LEFT_OUT!r}"
            )
        levels = named.get("levels")
        allowed = {"type"} if named["type"] not in WITH_LEVELS else {"type", "levels"}
        if named.keys() - allowed or (levels is not None and not are_levels(levels)):
            raise InputError(
                f"the schema gives the column {name!r} {dict(named)!r:.100}; beside the type, a "
                "column of two values or of categories can have levels, a list of at least two "
                "different words, numbers or truth values"
            )
        types[str(name)] = dict(named)
    return types


def read_file(path: Path) -> Any:
    """The JSON in a schema file.

    Raises:
        InputError: it cannot be read, is not JSON, or has a name twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise InputError(f"the schema file {str(path)!r} has a name twice")
        return found

    try:
        return json.loads(path.expanduser().read_text("utf-8"), object_pairs_hook=once)
    except OSError as error:
        raise InputError(
            f"the schema file {str(path)!r} cannot be read ({error.strerror})"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"the schema file {str(path)!r} is not JSON ({error})") from None

"""The places where Python keeps what a program reads; all of them are compared in one pass in C."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat
from operator import is_
from typing import Any, NamedTuple

from torch.utils.hooks import RemovableHandle

SCALARS = (int, float, str, bytes, bool, complex, type(None))
MISSING, END = object(), (object(),)
CONTENT, KEY, CLASS, SLOT, CELL = "content", "key", "class", "slot", "cell"


class Place(NamedTuple):
    """One place: all of a container, a key of a dict, an attribute or a variable of a closure.

    Args:
        kind: ``CONTENT`` of a dict, list, tuple, set or deque; a ``KEY`` of a dict, which may be
            the ``__dict__`` of an object or the globals of a function; an attribute of a ``CLASS``;
            an attribute in a ``SLOT``; a ``CELL`` of a closure.
        box: the dict, list, class, object or cell.
        key: the key or the name of the attribute.
        path: the names under which the programs reach it.
    """

    kind: str
    box: Any
    key: Any
    path: str

    def read(self) -> Any:
        """What is there; for a container a list of it, first the keys of a dict."""
        if self.kind == CONTENT:
            if isinstance(self.box, dict):
                return [*dict.keys(self.box), *dict.values(self.box)]
            return [*self.box]
        if self.kind == KEY:
            return dict.get(self.box, self.key, MISSING)
        if self.kind == CLASS:
            return vars(self.box).get(self.key, MISSING)
        if self.kind == SLOT:
            return getattr(self.box, self.key, MISSING)
        try:
            return self.box.cell_contents
        except ValueError:  # the variable has no value, or was deleted
            return MISSING

    def write(self, value: Any) -> None:
        """Put back what :meth:`read` returned."""
        if self.kind == CONTENT:
            if isinstance(self.box, dict):
                half = len(value) // 2
                value = dict(zip(value[:half], value[half:], strict=True))
            self.box.clear()
            add = self.box.update if isinstance(self.box, dict | set) else self.box.extend
            add(value)
        elif self.kind == KEY and value is MISSING:
            self.box.pop(self.key, None)
        elif self.kind == KEY:
            self.box[self.key] = value
        elif self.kind == CELL:
            self.box.cell_contents = value
        elif value is MISSING:
            delattr(self.box, self.key)
        else:
            setattr(self.box, self.key, value)

    def keys_changed(self, old: Any, now: Any) -> set[Any]:
        """The keys of a dict, or the attribute, that differ between two results of ``read``."""
        if self.kind != CONTENT:
            return set() if alike(old, now) else {self.key}
        if len(old) == len(now) and all(map(is_, old, now)):
            return set()
        if not isinstance(self.box, dict):
            return {None}
        maps = [dict(zip(x[: len(x) // 2], x[len(x) // 2 :], strict=True)) for x in (old, now)]
        keys = [*maps[0], *maps[1]]
        return {k for k in keys if maps[0].get(k, MISSING) is not maps[1].get(k, MISSING)} or {None}


class Comparison:
    """What was in places at one time; says whether it is there still.

    Args:
        places: the places.
        sizes: containers of which the length alone is compared.
        computed: functions whose results are compared, such as the bytes of an array.
        hooks: the dicts of hooks that are empty. Torch counts all hooks that it ever registered;
            as long as the count stays, they are not looked at.
    """

    def __init__(
        self,
        places: Iterable[Place],
        sizes: list[Any],
        computed: list[Callable[[], Any]],
        hooks: list[Any],
    ) -> None:
        of: dict[str, list[Place]] = {kind: [] for kind in (CONTENT, KEY, CLASS, SLOT, CELL)}
        for place in places:
            of[place.kind].append(place)
        contents = [place.box for place in of[CONTENT]]
        self.containers = [box for box in contents if box]
        self.mappings = [box for box in self.containers if isinstance(box, dict)]
        self.sizes = [*sizes, *(box for box in contents if not box)]
        # The dict behind vars(class) is read faster than vars(class) itself.
        self.dicts = [p.box for p in of[KEY]] + [
            gc.get_referents(vars(p.box))[0] for p in of[CLASS]
        ]
        self.keys = [p.key for p in of[KEY] + of[CLASS]]
        self.owners = [p.box for p in of[SLOT] + of[CELL]]
        self.names = [p.key for p in of[SLOT]] + ["cell_contents"] * len(of[CELL])
        self.hooks, self.registered = hooks, RemovableHandle.next_id
        self.computed = computed
        self.values = list(self.read())
        self.lengths = list(map(len, self.sizes))
        self.results = [compute() for compute in computed]

    def read(self) -> Iterator[Any]:
        """All that is in the places now, in one sequence."""
        return chain(
            chain.from_iterable(self.containers),
            chain.from_iterable(map(dict.values, self.mappings)),
            map(dict.get, self.dicts, self.keys, repeat(MISSING)),
            map(getattr, self.owners, self.names, repeat(MISSING)),
            END,
        )

    def holds(self) -> bool:
        """Whether the same objects, or equal numbers and strings, are there.

        The end mark stands at another place if a container has another length.
        """
        if RemovableHandle.next_id != self.registered:
            if any(self.hooks):
                return False
            self.registered = RemovableHandle.next_id
        try:
            same = all(map(is_, self.read(), self.values)) or self.alike(list(self.read()))
            return (
                same
                and list(map(len, self.sizes)) == self.lengths
                and [compute() for compute in self.computed] == self.results
            )
        except (RuntimeError, ValueError):  # another thread changes a dict; a variable was deleted
            return False

    def alike(self, now: list[Any]) -> bool:
        return len(now) == len(self.values) and all(map(alike, now, self.values))


def alike(a: Any, b: Any) -> bool:
    """Whether two objects are one, or equal numbers or strings; 0.0 and -0.0 are not equal."""
    return a is b or (
        type(a) is type(b) and isinstance(a, SCALARS) and a == b and repr(a) == repr(b)
    )


def entries(table: Any) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """The dict behind a weak dictionary, and its entries now, without holding their keys."""
    data = vars(table)["data"]
    return data, dict(data)


def entries_stand(data: dict[Any, Any], before: dict[Any, Any]) -> bool:
    """Whether all entries stand whose keys live. The library looks entries up by their key, so it
    does not see that others vanish at a garbage collection."""
    return all(data.get(key) is value for key, value in before.items() if key() is not None)

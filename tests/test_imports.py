"""Imports run one way, without cycles.

Absolute and relative imports count. So do those inside functions and under ``TYPE_CHECKING``,
although Python does not run them at import time: a cycle is there for the reader all the same.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pyro_vae"

ROOMS = [
    {"errors", "launch", "memory", "noise", "words", "processes", "spelling"},
    {
        "budget",
        "options",
        "registry",
        "latents",
        "settings",
        "compiling",
        "modules",
        "naming",
        "supports",
    }
    | {"batch", "sharing"},
    {"contracts", "parts", "distributions", "labels", "scales", "data", "history", "progress"}
    | {"schedules"},
    {"averaging", "sources", "streams", "pair"},
    {"networks", "holes", "joining", "conditions", "targets"},
    {"storage", "priors"},
    {"likelihoods", "guides"},
    {"pairing", "patience"},
    {"programs"},
    {"objectives"},
    {"evaluation"},
    {"alone", "inputs", "building"},
    {"usage", "exporting", "paths"},
    {"vae"},
    {"figures"},
    {"audit", "checks", "interrupt", "measures", "ranks", "report"},
    {"loop"},
    {"training"},
    {"recipes"},
    {"trackers", "sklearn"},
    {"runs"},
    {"compare", "log_variance_study", "timing"},
    {"comparison"},
    {"cli"},
    {"", "__main__"},
]
"""A room imports only from the rooms before it, and from its own set. The root package is ""."""


def modules_of(package: Path) -> dict[str, Path]:
    """``guides/flows.py`` -> ``guides.flows``; a package is named by its folder."""
    names = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def packages_of(name: str) -> set[str]:
    """The packages that hold a module; Python runs the ``__init__`` of each before the module."""
    parts = name.split(".") if name else []
    return {".".join(parts[:i]) for i in range(len(parts))}


def imported(name: str, modules: dict[str, Path], root: str) -> set[str]:
    """The modules of the package ``root`` that a module imports.

    With a module come the packages that hold it, because Python runs their ``__init__`` first. The
    packages that hold the importing module itself already run. One of them counts if a name is
    imported from its ``__init__``.
    """
    path = modules[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    package = [part for part in package if part]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names if a.name.split(".")[0] == root]
            found |= {".".join(n.split(".")[1:]) for n in names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
            elif (node.module or "").split(".")[0] == root:
                base = []
            else:
                continue
            own = (node.module or "").split(".") if node.level else node.module.split(".")[1:]
            base = [*base, *(part for part in own if part)]
            for alias in node.names:
                inner = ".".join([*base, alias.name])
                found.add(inner if inner in modules else ".".join(base))
    for other in tuple(found):
        found |= packages_of(other) - packages_of(name)
    return found - {name}


def imports_of(package: Path) -> dict[str, set[str]]:
    """What each module of a package imports of the package."""
    modules = modules_of(package)
    return {name: imported(name, modules, package.name) for name in modules}


def find_cycle(imports: dict[str, set[str]]) -> list[str] | None:
    """Modules that import each other in a ring, the first one again at the end."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in done:
            for other in sorted(imports.get(name, ())):
                if cycle := visit(other, (*path, name)):
                    return cycle
            done.add(name)
        return None

    return next((cycle for name in imports if (cycle := visit(name, ()))), None)


IMPORTS = imports_of(PACKAGE)


def test_the_reader_of_imports_sees_every_form():
    assert {"guides.normal", "registry"} <= IMPORTS["guides"]
    assert "networks" in IMPORTS["guides.flows"]
    assert "report.table" in IMPORTS["cli.use"]  # inside a function
    assert "report" in IMPORTS["cli.use"]  # which runs before report.table
    assert "vae" in IMPORTS[""]  # the root package imports it when VAE is first used
    assert "cli" in IMPORTS["__main__"]


def test_a_room_imports_only_from_the_rooms_before_it():
    level = {room: i for i, rooms in enumerate(ROOMS) for room in rooms}
    for name, others in IMPORTS.items():
        for other in others:
            room, target = name.split(".")[0], other.split(".")[0]
            if room != target:
                assert level[target] <= level[room], f"{name} imports {other}"


def test_no_module_imports_itself_by_way_of_others():
    assert find_cycle(IMPORTS) is None


@pytest.mark.parametrize(
    ("files", "cycle"),
    [
        (
            {"__init__": "from .a import A", "a": "from . import b", "b": "from lib import A"},
            ["", "a", "b", ""],
        ),
        (
            {"__init__": "", "p/__init__": "from ..q import r", "p/s": "", "q": "import lib.p.s"},
            ["p", "q", "p"],
        ),
        (
            {"__init__": "", "p/__init__": "from .s import S\nT = 1", "p/s": "from . import T"},
            ["p", "p.s", "p"],
        ),
        (
            {"__init__": "", "p/__init__": "from .s import S", "p/s": "from . import t", "p/t": ""},
            None,
        ),
    ],
    ids=["through the root", "through the package of a module", "through its own package", "none"],
)
def test_a_cycle_through_an_init_is_found(files, cycle, tmp_path):
    for name, text in files.items():
        path = tmp_path / "lib" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert find_cycle(imports_of(tmp_path / "lib")) == cycle


def test_training_names_no_part():
    parts = {"priors", "likelihoods", "guides", "networks", "programs", "vae"}
    for module in ("training", "loop"):
        assert not parts & {other.split(".")[0] for other in IMPORTS[module]}


def test_nothing_of_the_library_imports_the_study():
    for name, others in IMPORTS.items():
        if name.split(".")[0] not in ("cli", "log_variance_study"):
            assert not any(other.startswith("log_variance_study") for other in others), name


def test_the_command_line_answers_without_torch():
    code = (
        "import sys, pyro_vae.cli; "
        "heavy = {'torch', 'pyro', 'numpy', 'matplotlib', 'torchvision', 'sklearn'}; "
        "sys.exit(', '.join(sorted(heavy & sys.modules.keys())) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

"""Imports run one way, without cycles. Absolute and relative imports count, in functions, too."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pyro_vae"

ROOMS = [
    {"errors", "memory"},
    {"options", "registry", "latents", "settings", "compiling", "modules"},
    {"contracts", "parts", "distributions", "scales", "data", "history"},
    {"networks"},
    {"priors"},
    {"likelihoods", "guides"},
    {"pairing"},
    {"programs"},
    {"inputs"},
    {"vae"},
    {"objectives", "figures"},
    {"audit", "checks", "evaluation"},
    {"training"},
    {"recipes"},
    {"runs"},
    {"compare", "log_variance_study"},
    {"cli"},
]
"""A room imports only from the rooms before it, and from its own set."""


def module_name(path: Path) -> str:
    """``pyro_vae/guides/flows.py`` -> ``guides.flows``; a package is named by its folder."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(name: str) -> set[str]:
    """The modules of the package that a module imports."""
    path = MODULES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    package = [part for part in package if part]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names if a.name.split(".")[0] == "pyro_vae"]
            found |= {".".join(n.split(".")[1:]) for n in names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
            elif (node.module or "").split(".")[0] == "pyro_vae":
                base = []
            else:
                continue
            own = (node.module or "").split(".") if node.level else node.module.split(".")[1:]
            base = [*base, *(part for part in own if part)]
            for alias in node.names:
                inner = ".".join([*base, alias.name])
                found.add(inner if inner in MODULES else ".".join(base))
    return found - {"", name}


IMPORTS = {name: imported(name) for name in MODULES if name and not name.startswith("__")}


def test_the_reader_of_imports_sees_every_form():
    assert {"guides.normal", "registry"} <= IMPORTS["guides"]
    assert "networks" in IMPORTS["guides.flows"]
    assert "evaluation.report" in IMPORTS["cli.use"]  # inside a function


def test_a_room_imports_only_from_the_rooms_before_it():
    level = {room: i for i, rooms in enumerate(ROOMS) for room in rooms}
    for name, others in IMPORTS.items():
        for other in others:
            room, target = name.split(".")[0], other.split(".")[0]
            if room != target:
                assert level[target] <= level[room], f"{name} imports {other}"


def test_no_module_imports_itself_by_way_of_others():
    """A package counts as its ``__init__``; a module of a package may not import its package."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        for other in sorted(IMPORTS.get(name, ())):
            visit(other, (*path, name))
        done.add(name)

    for name in IMPORTS:
        visit(name, ())


def test_training_names_no_part():
    parts = {"priors", "likelihoods", "guides", "networks", "programs", "vae"}
    assert not parts & {other.split(".")[0] for other in IMPORTS["training"]}


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

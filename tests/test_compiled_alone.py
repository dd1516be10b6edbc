"""``pyro_vae.compiling`` could be copied into another project: it imports only ``errors``."""

import ast
from pathlib import Path

import pytest

import pyro_vae
from pyro_vae import compiling

PACKAGE = Path(pyro_vae.__file__).parent
ROOM = PACKAGE / "compiling"


def imported(code, package):
    """The full names of the modules and names that a file of ``package`` imports, at any depth."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")
            base = above[: len(above) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def foreign(names):
    """The names of this library that are neither of ``compiling`` nor of ``errors``."""
    own = [name for name in names if name.split(".")[0] == "pyro_vae"]
    return [name for name in own if name.split(".")[1:2] not in (["compiling"], ["errors"])]


def test_the_compiler_imports_only_errors():
    for path in ROOM.rglob("*.py"):
        inside = path.relative_to(PACKAGE.parent).parent.parts
        assert not foreign(imported(path.read_text(), ".".join(inside))), path.name


@pytest.mark.parametrize(
    "line",
    [
        "import pyro_vae",
        "import pyro_vae.vae as v",
        "from pyro_vae import VAE",
        "from pyro_vae.parts import build",
        "from .. import parts",
        "from ..parts import build",
        "from ..objectives.weights import ramp",
        "def f():\n    from ..parts import build",
        "class A:\n    def f(self):\n        import pyro_vae.sites",
    ],
)
def test_every_form_of_import_is_read(line):
    assert foreign(imported(line, "pyro_vae.compiling"))


@pytest.mark.parametrize(
    "line", ["from .steps import Step", "from . import steps", "from ..errors import InputError"]
)
def test_imports_of_the_compiler_itself_are_allowed(line):
    assert not foreign(imported(line, "pyro_vae.compiling"))


def test_the_rest_of_the_library_imports_only_the_public_names():
    for path in PACKAGE.rglob("*.py"):
        if ROOM in path.parents:
            continue
        inside = ".".join(path.relative_to(PACKAGE.parent).parent.parts)
        for name in imported(path.read_text(), inside):
            if name.startswith("pyro_vae.compiling"):
                assert name.removeprefix("pyro_vae.compiling.") in compiling.__all__, path.name

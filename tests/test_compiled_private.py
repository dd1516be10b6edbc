"""Every private name of torch and Pyro that the compiler uses is there, and is listed."""

import ast
import importlib
from functools import reduce
from pathlib import Path

import pytest

from pyro_vae import compiling
from pyro_vae.compiling.private import ATTRIBUTES, REPLACEMENTS


@pytest.mark.parametrize("name", REPLACEMENTS)
def test_each_private_name_is_there(name):
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        reduce(getattr, parts[cut:], module)
        return
    raise AssertionError(name)


@pytest.mark.parametrize(("owner", "name"), ATTRIBUTES)
def test_each_private_attribute_is_there(owner, name):
    assert name in dir(owner)


def test_all_private_imports_are_in_one_file():
    for path in Path(compiling.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and path.name != "private.py":
                private = [a.name for a in node.names if a.name.startswith("_")]
                parts = (node.module or "").split(".")
                assert not private, (path.name, private)
                assert not any(p.startswith("_") and p != "__future__" for p in parts), path.name

"""The files around the package agree with each other."""

import re
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import pyro_vae
from pyro_vae.cli import main

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = dict(
    line.lower().split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
)


def without_itself(requirements):
    """An extra may include another extra of this project, which is not a package to pin."""
    return [r for r in requirements if not r.startswith(f"{PROJECT['name']}[")]


def names(requirements):
    return {re.match(r"[\w-]+", r)[0].lower() for r in requirements}


def lower_bound(requirement):
    return tuple(int(n) for n in re.search(r">=([\d.]+)", requirement)[1].split("."))


def test_environment_yml_has_the_same_packages_at_the_tested_versions():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (from_pip,) = (d["pip"] for d in environment if isinstance(d, dict))
    asked = dict(r.lower().split("==") for r in from_pip if r != "-e .")
    assert "-e ." in from_pip
    assert asked.keys() == names(PROJECT["dependencies"])
    assert asked == {name: PINNED[name] for name in asked}
    python = next(d for d in environment if isinstance(d, str) and d.startswith("python="))
    assert PROJECT["requires-python"] == f">={python.removeprefix('python=')}"


def test_every_requirement_is_pinned_at_or_above_its_lower_bound():
    extras = [r for rs in PROJECT["optional-dependencies"].values() for r in rs]
    for requirement in PROJECT["dependencies"] + without_itself(extras):
        (name,) = names([requirement])
        assert tuple(int(n) for n in PINNED[name].split(".")) >= lower_bound(requirement)


def test_every_dependency_is_used():
    modules = {
        "pillow": "PIL",
        "pyro-ppl": "pyro",
        "scikit-learn": "sklearn",
    }
    source = "\n".join(p.read_text() for p in (ROOT / "pyro_vae").rglob("*.py"))
    for name in names(PROJECT["dependencies"]):
        module = modules.get(name, name)
        assert re.search(rf"(from|import) {module}\b", source), f"{name} is not used"


def test_the_readme_begins_with_the_two_commands():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert lines.index("make train") < 20
    assert lines.index("make test") < 20


LONGER = {"contracts.py": 380}  # all contracts stand on one page


def test_no_module_is_too_long_to_read_in_one_sitting():
    for path in (ROOT / "pyro_vae").rglob("*.py"):
        count = len(path.read_text().splitlines())
        most = LONGER.get(path.name, 320)
        assert count <= most, f"{path.relative_to(ROOT)} has {count} lines"


def test_every_public_name_is_where_it_is_said_to_be():
    assert set(pyro_vae._WHERE) == set(pyro_vae.__all__)
    for name, (module, attribute) in pyro_vae._WHERE.items():
        assert getattr(pyro_vae, name) is getattr(import_module(f"pyro_vae.{module}"), attribute)
    with pytest.raises(AttributeError, match="no attribute 'vea'"):
        pyro_vae.vea  # noqa: B018


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 145


def test_the_python_of_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    namespace = {}
    for block in blocks:
        exec(block, namespace)
    assert namespace["vae"].sample(16).shape == (16, 1, 28, 28)


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def anchors(page):
    """The anchors of a page: its headings as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_resolves(page):
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {link}"


def test_the_citation_has_the_version_of_the_project():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]


def test_the_package_and_the_command_line_tell_the_version(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["pyro-vae", "--version"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert capsys.readouterr().out == f"pyro-vae {pyro_vae.__version__}\n"
    assert pyro_vae.__version__ == PROJECT["version"]

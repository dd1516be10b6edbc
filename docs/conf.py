"""Sphinx builds the documentation from this file: `make docs`.

Four things are made at build time, so that they cannot differ from the code: the tables of parts,
recipes and public names; the command line; the answer of the study of log-variance; and the API
reference. The notebooks are shown with
their stored outputs.
"""

import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pyro_vae
from pyro_vae.registry import summary

HERE = Path(__file__).parent
ROOT = HERE.parent
GENERATED = HERE / "_generated"

project = "pyro_vae"
author = "The pyro_vae authors"
copyright = author
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "myst_nb",
]
exclude_patterns = ["_build", "_generated", "_templates", "**.ipynb_checkpoints"]
templates_path = ["_templates"]
default_role = "literal"  # single backticks in docstrings are code
smartquotes_action = "D"  # dashes only: a quoted option must stay as it is typed

html_theme = "furo"
html_title = "pyro_vae"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False

autosummary_generate = True
autosummary_mock_imports = ["pyro_vae.__main__"]  # importing it runs the command line
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False  # torch's docstrings refer to pages of torch
# Each object is described once, in the module that defines it.
autodoc_default_options = {"members": True, "ignore-module-all": True}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = ["Equation", "Paper", "Example"]

nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"  # outputs in Markdown have tables
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
myst_links_external_new_tab = False
# A progress bar is stored as a widget and as text; the text is shown.
suppress_warnings = ["mystnb.unknown_mime_type"]


def row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n"


def target(thing: object) -> str:
    """A link to a class or function of the package in the API reference."""
    role = "class" if isinstance(thing, type) else "func"
    return f"{{py:{role}}}`~{thing.__module__}.{thing.__qualname__}`"


def write_part_tables() -> None:
    """A file for each table of parts: the name, the class and its first line."""
    for kind in ("priors", "likelihoods", "guides", "objectives", "networks", "scales"):
        rows = getattr(import_module(f"pyro_vae.{kind}"), kind.upper())
        text = row("name", "class", "what it is") + row("---", "---", "---")
        for name, part in rows.items():
            text += row(f"`{name}`", target(part), summary(part))
        (GENERATED / f"{kind}.md").write_text(text)


def write_recipes() -> None:
    text = row("recipe", "settings", "paper") + row("---", "---", "---")
    for name, recipe in pyro_vae.RECIPES.items():
        settings = ", ".join(f"{key} `{value}`" for key, value in recipe.settings.items())
        text += row(f"`{name}`", settings or "the defaults", recipe.paper)
    (GENERATED / "recipes.md").write_text(text)


def write_public_names() -> None:
    """The names that ``from pyro_vae import ...`` offers."""
    text = row("name", "defined as", "what it is") + row("---", "---", "---")
    for name in sorted(pyro_vae.__all__, key=str.lower):
        thing = getattr(pyro_vae, name)
        if isinstance(thing, dict):
            text += row(f"`{name}`", "a dictionary", f"{len(thing)} entries, by name.")
        else:
            text += row(f"`{name}`", target(thing), summary(thing))
    (GENERATED / "public.md").write_text(text)


def write_command_line() -> None:
    """The commands and their options, as Typer documents them."""
    typer = [
        sys.executable,
        "-m",
        "typer",
        "pyro_vae.cli.app",
        "utils",
        "docs",
        "--name",
        "pyro-vae",
    ]
    text = subprocess.run(typer, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    text = text[text.index("## `") :]  # the page itself has the title
    text = re.sub(r"\[default: \((.+?)\)(?=[];])", r"[default: \1", text)
    pieces = re.split(r"(`+[^`]+`+)", text)  # every second piece is code
    pieces[::2] = [re.sub(r"(--[a-z][a-z-]*)", r"`\1`", piece) for piece in pieces[::2]]
    (GENERATED / "commands.md").write_text("".join(pieces))


def write_log_variance_answer() -> None:
    """The answer to "why log-variance?", from the results of the study."""
    study = import_module("pyro_vae.log_variance_study")
    _, results = study.read_results(ROOT / "benchmarks/results/scales/results.json")
    text = study.write_answer(results, study.judge(results), "log-variance.md")
    (GENERATED / "answer.md").write_text(text + "\n")


def copy_notebooks() -> None:
    """Put the notebooks beside the pages, and adapt their links, which start at ``../``."""
    shutil.rmtree(HERE / "_notebooks", ignore_errors=True)
    (HERE / "_notebooks").mkdir()
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        text = notebook.read_text().replace("](../", "](../../").replace("](../../docs/", "](../")
        # The page log-variance includes this file.
        text = text.replace("](../../benchmarks/results/scales/verdicts.md", "](../log-variance.md")
        (HERE / "_notebooks" / notebook.name).write_text(text)


SECTION = re.compile(r"^(Equation|Paper):(?: (.+))?$")
PAIR = re.compile(r"\|(\S|\S[^|`]*\S)\|")  # an absolute value, not a substitution
MARKUP = re.compile(r"(``.+?``|:\w+:`.+?`)")


def escaped(text: str) -> str:
    """Text whose ``*``, ``|`` and ``_`` are no markup; literals and roles stay as they are."""
    pieces = MARKUP.split(text)
    pieces[::2] = [re.sub(r"([\\*|_`])", r"\\\1", piece) for piece in pieces[::2]]
    return "".join(pieces)


def mark_sections(app, what, name, thing, options, lines: list[str]) -> None:
    """Give ``Equation: …`` and ``Paper: …`` a heading, on one line with the text or above it.

    An equation is full of characters that reStructuredText reads as markup, so it is escaped.
    """
    old, lines[:] = [*lines], []
    while old:
        line = old.pop(0)
        section = SECTION.match(line)
        if section is None:
            lines.append(PAIR.sub(r"\\|\1\\|", line))
            continue
        block = [section[2]] if section[2] else []
        while old and old[0].strip() and (section[2] or old[0].startswith(" ")):
            block.append(old.pop(0).strip())
        kind = section[1]
        text = " ".join(block)
        text = escaped(text) if kind == "Equation" else text
        lines += ["", f".. rst-class:: {kind.lower()}", "", f"**{kind}** \N{EM SPACE}{text}", ""]


def leave_out(app, what, name, obj, skip, options) -> bool | None:
    """Leave out what scikit-learn adds to an estimator: it refers to pages of scikit-learn."""
    return True if re.fullmatch(r"set_\w+_request", name.rpartition(".")[2]) else None


def setup(app) -> None:
    app.connect("autodoc-skip-member", leave_out)
    # Before napoleon, which has the default priority of 500.
    app.connect("autodoc-process-docstring", mark_sections, priority=400)
    GENERATED.mkdir(exist_ok=True)
    write_part_tables()
    write_recipes()
    write_public_names()
    write_command_line()
    write_log_variance_answer()
    copy_notebooks()

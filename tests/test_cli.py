"""The command line as a whole: help, list, the entry points, and parts by name."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.commands import TINY, typed

from pyro_vae.cli.app import app
from pyro_vae.runs.folder import load_run


def test_help_answers_without_torch():
    code = (
        "import sys; sys.argv = ['pyro-vae', '--help']\n"
        "from pyro_vae.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert not {'torch', 'pyro', 'matplotlib', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Train a VAE" in done.stdout


def test_the_installed_command_and_the_module_are_the_same():
    for command in ([Path(sys.executable).parent / "pyro-vae"], [sys.executable, "-m", "pyro_vae"]):
        done = subprocess.run([*command, "sample", "nowhere"], capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.strip() == "Error: there is no run folder 'nowhere'"


COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_puts_every_option_into_a_group(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert typed([command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("╭─ Options "))
    assert "--help" in lines[start + 1]
    assert lines[start + 2].startswith("╰")  # nothing else is in the group without a name
    if command == "train":
        assert len(lines) <= 64


def test_list_names_every_part(capsys):
    from pyro_vae.cli.listing import tables

    assert typed(["list"]) == 0
    printed = capsys.readouterr().out
    for rows in tables().values():
        for name, line in rows.items():
            assert name in printed
            assert line
    assert typed(["list", "guide"]) == 2
    assert "did you mean guides" in capsys.readouterr().err


def test_no_list_is_empty_in_a_process_that_imports_nothing_else():
    ask = (
        "from pyro_vae.cli.listing import tables; print([k for k, v in tables().items() if not v])"
    )
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_recipe_sets_what_is_not_given(tmp_path):
    run = tmp_path / "run"
    assert typed([*TINY, "--recipe", "beta-vae", "--epochs", "1", "--out", run]) == 0
    assert load_run(run)[1]["training"]["objective"] == "beta(beta=4)"
    run = tmp_path / "other"
    ask = [*TINY, "--recipe", "beta-vae", "--objective", "analytic", "--epochs", "1"]
    assert typed([*ask, "--out", run]) == 0
    assert load_run(run)[1]["training"]["objective"] == "analytic"


def test_a_discrete_guide_is_trained_by_enumeration_unless_told_otherwise(tmp_path):
    run = tmp_path / "run"
    assert typed([*TINY, "--guide", "categorical", "--epochs", "1", "--out", run]) == 0
    assert load_run(run)[1]["training"]["objective"] == "enumerate"
    assert load_run(run)[1]["vae"]["prior"] == "categorical"


class Wide(torch.nn.Module):
    """A prior of a user's own: a Normal of scale 2."""

    def __init__(self, latent_size):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.full((latent_size,), 2.0))

    def forward(self):
        import pyro.distributions as dist

        return dist.Normal(torch.zeros_like(self.scale), self.scale).to_event(1)


def test_a_class_of_the_users_own_goes_where_a_name_goes(tmp_path):
    run = tmp_path / "run"
    prior = f"{Wide.__module__}:Wide"
    assert typed([*TINY, "--epochs", "1", "--prior", prior, "--out", run]) == 0
    assert typed(["sample", run, "--n", "1", "--trust", "--out", tmp_path / "one.png"]) == 0

"""``pyro-vae``: train a VAE from the command line, and use what was trained.

Nothing that needs torch is imported before a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import sys

import typer
from rich.console import Console
from rich.markup import escape

from ..errors import InputError, TrainingError
from . import train, use

app = typer.Typer(
    help="Variational autoencoders in Pyro: prior, likelihood, guide and objective, each a word.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for command in (
    train.train,
    use.sample,
    use.reconstruct,
    use.interpolate,
    use.encode,
    use.evaluate,
    use.score,
    use.audit,
    train.compare,
    train.scales,
):
    app.command()(command)
app.command("list")(train.list_parts)


def main() -> None:
    """Run the command line; a mistake in the input is one sentence and exit code 2."""
    sys.path.insert(0, os.getcwd())  # where a user's own module:Class lies
    try:
        app()
    except (InputError, TrainingError) as error:
        stderr = Console(stderr=True, highlight=False)
        stderr.print("[bold red]Error:[/]", escape(str(error)), soft_wrap=True)
        sys.exit(2 if isinstance(error, InputError) else 1)

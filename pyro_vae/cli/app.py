"""The commands of ``pyro-vae``, and the sentence and the exit code of each failure."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ..errors import BROKEN, InputError, RankError, TrainingError, invalid
from ..launch import is_first, launched
from ..words import on_command_line
from . import draw, impute, listing, many, share, train, use
from .options import console, stderr, warn

app = typer.Typer(
    help="Variational autoencoders in Pyro, made of a prior, a likelihood, a guide and an "
    "objective.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


RENAMED = {"--labels": "--known-labels"}
"""New names of flags by the old ones. A hidden option would be among those that a misspelt flag is
answered with."""


class Command(TyperCommand):
    """A command whose errors name the options by its flags."""

    def make_context(self, info_name: Any, args: list[str], *others: Any, **options: Any) -> Any:
        given, flags = {word.partition("=")[0] for word in args}, self.flags()
        for old, new in RENAMED.items():
            if old in given and new in flags.values():
                raise InputError(f"{old} is now called {new}")
        with on_command_line(flags):
            return super().make_context(info_name, args, *others, **options)

    def invoke(self, ctx: Any) -> Any:
        with on_command_line(self.flags()):
            return super().invoke(ctx)

    def flags(self) -> dict[str, str]:
        """The flags by the names of their arguments."""
        return {str(p.name): p.opts[0] for p in self.params if p.param_type_name == "option"}


def show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"pyro-vae {version('pyro-vae')}")
        raise typer.Exit


@app.callback()
def with_version(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """The options that come before a command."""
    console.quiet = stderr.quiet = not is_first()  # `train` says what goes wrong in another process
    if launched() and context.invoked_subcommand not in ("train", None):
        also = "; compare --jobs N trains N VAEs at the same time"
        raise InputError(
            f"torchrun starts several processes for one training, and {context.invoked_subcommand} "
            f"runs in one{also if context.invoked_subcommand == 'compare' else ''}: start it "
            "without torchrun"
        )


for command in (
    train.train,
    draw.sample,
    draw.reconstruct,
    draw.interpolate,
    impute.impute,
    use.encode,
    use.evaluate,
    use.score,
    use.audit,
    share.export,
    share.card,
    share.push,
    share.pull,
    many.compare,
    many.scales,
):
    app.command(cls=Command)(command)
app.command("list", cls=Command)(listing.list_parts)


def run() -> int:
    """Run the command that ``sys.argv`` names; its exit code.

    It is 2 for a mistake in the input and 1 for another failure. Every expected failure is one
    sentence on stderr.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show σ shows "?" instead of a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = ended()
    except BrokenPipeError:  # the reader, such as `head`, has enough
        code = 1
    except ConnectionError as error:  # of push and pull
        code = tell(str(error), 1)
    except InputError as error:
        code = tell(str(error), 2)
    except (TrainingError, RankError) as error:
        code = tell(str(error), 1)
    except OSError as error:
        code = tell(about(error), 1)
    except (MemoryError, *BROKEN) as error:
        # torch raises a RuntimeError with this word if memory is full.
        if isinstance(error, MemoryError) or "allocate" in str(error):
            code = tell("there is not enough memory for this; give smaller numbers", 1)
        else:
            code = tell(f"with these weights, {invalid(error)}", 1)
    if code and sys.stdout is not None and not flushed():
        # Else Python tries again when it ends, and prints a traceback.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    return code


def ended() -> int:
    """Run the command; the exit code with which it ends by itself."""
    if os.path.lexists("matplotlibrc"):
        # matplotlib would read this file. It can make it run LaTeX.
        with contextlib.chdir(os.path.dirname(__file__)):
            import matplotlib  # noqa: F401
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: warn(f"Warning: {message}")
            app()
    except SystemExit as end:  # Typer ends every command so
        code = end.code
    if sys.stdout is not None:
        sys.stdout.flush()  # a full disk must raise here and not when Python ends
    return code if isinstance(code, int) else 0


def flushed() -> bool:
    """Whether everything that was printed has reached its place."""
    try:
        sys.stdout.flush()
    except OSError:
        return False
    return True


def about(error: OSError) -> str:
    """The sentence about a file or an output that the system refuses."""
    reason = error.strerror or str(error)
    if error.filename is None:
        return f"the output cannot be written ({reason})"
    return f"{os.fsdecode(error.filename)!r} cannot be read or written ({reason})"


def tell(sentence: str, code: int) -> int:
    """Print an error; the exit code is given back."""
    try:
        stderr.print("Error: ", style="bold red", end="")
        stderr.print(sentence, soft_wrap=True)
    except OSError:
        pass  # stderr is closed or full, so the exit code alone has to tell
    return code

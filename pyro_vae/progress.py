"""Show how far some work is: a bar where a person looks, else a line for each epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .history import Callback, Epoch, Position

Report = Callable[[str, float], None]
"""How a long function says how far it is: what it computes, and the share that is done, 0 to 1."""


def silent(what: str, share: float) -> None:
    """The :data:`Report` that shows nothing."""


def part(report: Report, what: str, begin: float, end: float) -> Callable[[float], None]:
    """Report a part of the work: its shares 0 to 1 are ``begin`` to ``end`` of the whole.

    Example:
        >>> from pyro_vae.progress import part
        >>> part(lambda what, share: print(what, share), "second half", 0.5, 1)(0.5)
        second half 0.75
    """
    return lambda share: report(what, begin + share * (end - begin))


def watched(console: Console) -> bool:
    """Whether a person looks at the console: it is a terminal or a notebook."""
    return console.is_interactive or console.is_jupyter


def progress_bar(console: Console) -> Progress:
    """A progress bar with a description, the percentage and the time that remains."""
    return Progress(
        TextColumn("{task.description}", markup=False),  # a name of a part may have brackets
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
        console=console,
    )


@contextmanager
def reporting(console: Console) -> Iterator[Report]:
    """A :data:`Report` that moves a bar in a terminal. Elsewhere nothing is shown.

    The bar is removed at the end, because the results are printed then.
    """
    if not console.is_interactive:
        yield silent
        return
    bar = progress_bar(console)
    bar.live.transient = True
    with bar:
        task = bar.add_task("", total=1.0)
        yield lambda what, share: bar.update(task, description=what, completed=share)


class Bar(Callback):
    """The progress of ``fit``: one bar in a terminal or a notebook, else a line for each epoch.

    Args:
        console: where it is shown.
        epochs: the number of epochs, with those before ``start``.
        rows: the rows of the training data, or its images; None if their number is not known.
        batch_size: rows in a step.
        start: where training begins.
        unit: what a row is, for the lines.
    """

    def __init__(
        self,
        console: Console,
        epochs: int,
        rows: int | None,
        batch_size: int,
        start: Position,
        unit: str = "image",
    ) -> None:
        self.console, self.epochs, self.start, self.unit = console, epochs, start, unit
        self.progress = progress_bar(console)
        total, done = None, 0
        if rows is not None:
            done = start.epoch * rows + min(len(start.losses) * batch_size, rows)
            total = epochs * rows
        self.task = self.progress.add_task("", total=total, completed=done)
        self.output: Any = None  # where a notebook shows the bar
        self.drawn = 0.0

    def show(self, text: str) -> None:
        """Show a text before the bar, which appears with the first one."""
        self.progress.update(self.task, description=text)
        if self.console.is_jupyter:
            self.draw()
        elif self.console.is_interactive and not self.progress.live.is_started:
            self.progress.start()

    def line(self, text: str) -> None:
        """Show a text before the bar, or as a line where there is no bar."""
        self.show(text)
        if not watched(self.console):
            self.console.print(text, soft_wrap=True)

    def draw(self) -> None:
        """Show the bar in the notebook's cell. The widget that rich would use is not stored with
        the notebook."""
        from IPython.display import display

        self.drawn = monotonic()
        if self.output is None:
            self.output = display(self.progress, display_id=True)
        else:
            self.output.update(self.progress)

    def on_compile(self) -> None:
        self.line("compiling a step takes some seconds")

    def on_start(self) -> None:
        self.show(f"epoch {self.start.epoch + 1}/{self.epochs}")

    def on_step(self, images: int, position: Position) -> None:
        self.progress.advance(self.task, images)
        if self.output is not None and monotonic() - self.drawn > 0.2:
            self.draw()

    def on_epoch(self, record: Epoch) -> None:
        where = record.measured_on
        numbers = {"train": record.train_elbo, where: record.elbo}
        if record.elbo is None:
            numbers = {"loss": record.loss, f"{where} loss": record.measured_loss}
        shown = (f"{name} {value:.2f}" for name, value in numbers.items() if value is not None)
        self.line(f"epoch {record.epoch}/{self.epochs}, nats per {self.unit}: {', '.join(shown)}")

    def on_end(self, completed: bool) -> None:
        if self.progress.live.is_started:
            self.progress.stop()
        elif self.output is not None:
            self.draw()

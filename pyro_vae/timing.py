"""How many epochs of each training fit into a time: some epochs are trained first and timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median

import torch

from .checks import check_compiler
from .errors import InputError
from .history import Callback, Position
from .loop import Loop
from .pair import Pair
from .runs.setup import Run
from .settings import MOST, TrainingOptions
from .training import begun, pays
from .words import called, first_line

LEAST, SHARE, LONGEST = 3, 0.05, 60.0
"""Each training is timed for at least so many epochs, and for this share of the budget or so many
seconds, whichever is less."""


@torch.inference_mode(False)
def epochs_within(
    budget: float,
    runs: Mapping[str, Run],
    compiled: bool | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, int]:
    """How many whole epochs of each training fit into ``budget`` seconds.

    An epoch takes the median time of some epochs. The trainings are timed in turn (a, b, c, a, b,
    c, …), so a machine that becomes slower affects all of them equally. The measurement of the
    validation data after each epoch counts, because :func:`~pyro_vae.training.fit` and
    ``pyro-vae train`` measure it too. Compiling and the first epoch of each do not count.

    Args:
        budget: the seconds that each training gets.
        runs: the trainings by name. They are trained here, so prepare them anew afterwards.
        compiled: whether steps are compiled, as in :func:`~pyro_vae.training.fit`. None decides as
            ``fit`` does for the number of epochs that fits.
        clock: gives the time in seconds.

    Returns:
        the number of epochs by name, at least 1.

    Raises:
        InputError: an epoch takes longer than the budget, or a training fails.

    Example:
        >>> from itertools import count
        >>> from pyro_vae.runs.setup import prepare
        >>> run = prepare({"data": "digits", "hidden": [8]}, torch.device("cpu"), None)
        >>> ticks = count().__next__  # each epoch takes one second
        >>> epochs_within(10.5, {"mean-field": run}, compiled=False, clock=ticks)
        {'mean-field': 10}
    """
    loops: dict[str, Loop] = {}
    for name, run in runs.items():
        # With so many epochs, schedules stay at their beginning while an epoch is timed.
        options = TrainingOptions(**{**run.training, "epochs": MOST})
        with told(name):
            loops[name] = begun(Pair.of(run.vae), run.data, options, run.optimizer, Position())
    if compiled:
        check_compiler(next(iter(loops.values())).device)
    for name, loop in loops.items():
        with told(name):
            loop.choose_step(compiled, False, Callback())
    seconds = epoch_seconds(loops, budget, clock)
    if compiled is None:
        steps = {name: (loop.source.steps or 0) * budget for name, loop in loops.items()}
        fast = {name: loops[name] for name in loops if pays(int(steps[name] / seconds[name]))}
        for name, loop in fast.items():
            with told(name):
                loop.choose_step(None, True, Callback())
        seconds |= epoch_seconds(fast, budget, clock)
    slowest = max(seconds, key=lambda name: seconds[name])
    if seconds[slowest] > budget:
        raise InputError(
            f"one epoch of {slowest} takes {seconds[slowest]:.3g} seconds, and {called('budget')} "
            f"is {budget:g} seconds; give more time"
        )
    return {name: int(budget / each) for name, each in seconds.items()}


def epoch_seconds(
    loops: Mapping[str, Loop], budget: float, clock: Callable[[], float]
) -> dict[str, float]:
    """The median time of an epoch of each training, by name; they are trained in turn."""
    took: dict[str, list[float]] = {name: [] for name in loops}
    epoch, enough = 0, not loops
    while not enough:
        epoch += 1
        for name, loop in loops.items():
            with told(name):
                began = clock()
                loss = loop.run(Position(epoch - 1), Callback())
                loop.measure(epoch, loss, began)
                took[name].append(clock() - began)
        counted = [times[1:] for times in took.values()]
        # A training whose epochs are too long is refused, and needs no exact time.
        enough = epoch > 1 and any(median(times) > budget for times in counted)
        enough |= epoch > LEAST and all(sum(t) >= min(SHARE * budget, LONGEST) for t in counted)
    return {name: median(times[1:]) for name, times in took.items()}


@contextmanager
def told(name: str) -> Iterator[None]:
    """Say in an error which training failed."""
    try:
        yield
    except Exception as error:
        raise InputError(f"{name} fails while its epochs are timed: {first_line(error)}") from error

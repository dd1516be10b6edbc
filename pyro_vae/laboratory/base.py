"""What every experiment of the laboratory is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from time import perf_counter
from typing import Any, Literal

from matplotlib.figure import Figure
from scipy.stats import t

from ..data import Data
from ..data import load_data as load
from ..scales import SCALES

Numbers = dict[str, Any]  # what JSON can hold

COLOURS = dict(
    zip(
        SCALES,
        (
            *("#000000", "#0072b2", "#009e73", "#e69f00", "#56b4e9"),
            *("#9467bd", "#cc79a7", "#8c564b", "#7f7f7f", "#d62728"),
        ),
        strict=True,
    )
)


def silent(items: Iterable[Any], description: str) -> Iterable[Any]:
    """The items themselves; :func:`rich.progress.track` takes its place on a terminal."""
    return items


@dataclass(frozen=True)
class Setting:
    """How much to measure.

    Args:
        quick: about a minute in all, on two cores, instead of the full protocol.
        seeds: repetitions of what is random, at least 2 for an interval.
        track: wraps a sequence to show progress, as :func:`rich.progress.track` does.
    """

    quick: bool = False
    seeds: int = 5
    track: Callable[..., Iterable[Any]] = silent


@dataclass(frozen=True)
class Verdict:
    """What the numbers say of a claim, by a rule that the experiment's docstring states."""

    word: Literal["holds", "holds only where", "does not hold"]
    evidence: str  # one or two sentences with the numbers
    region: str = ""  # where it holds, if only somewhere

    def __str__(self) -> str:
        return f"{self.word} {self.region}".strip()


@dataclass(frozen=True)
class Experiment:
    """A claim, the measurement that settles it, the rule, and the figure.

    Args:
        claim: as the public answers put it.
        measure: setting -> numbers.
        judge: numbers of all the experiments by name -> verdict.
        draw: numbers of this one, empty figure -> None.
    """

    claim: str
    measure: Callable[[Setting], Numbers]
    judge: Callable[[dict[str, Numbers]], Verdict]
    draw: Callable[[Numbers, Figure], None]


def digits(setting: Setting) -> Data:
    """MNIST-5k, pixels drawn anew each time; a fifth of it in quick mode."""
    data = load("mnist-5k", binarize="dynamic")
    if not setting.quick:
        return data
    return Data(data.name, data.train.split(0.25, seed=0)[1], data.test.split(0.2, seed=0)[1])


def milliseconds(work: Callable[[], Any], times: int) -> float:
    """What one call takes, mean over ``times`` of them."""
    began = perf_counter()
    for _ in range(times):
        work()
    return 1e3 * (perf_counter() - began) / times


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Mean of at least two values, and half the width of its interval by Student's t."""
    quantile = t.ppf(0.5 + level / 2, len(values) - 1)
    return fmean(values), float(quantile) * stdev(values) / len(values) ** 0.5


def listed(words: Iterable[str]) -> str:
    """``a, b and c``."""
    *most, last = list(words) or ["none"]
    return f"{', '.join(most)} and {last}" if most else last

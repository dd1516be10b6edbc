"""What all experiments of the study share: settings, verdicts, data, timing and intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from scipy.stats import binomtest, quantile_test, t

from ..data import Data, load_data
from ..scales import SCALES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Numbers = dict[str, Any]  # values that JSON can store

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


def skip_progress(items: Iterable[Any], description: str) -> Iterable[Any]:
    """Return the items and show no progress; same arguments as :func:`rich.progress.track`."""
    return items


@dataclass(frozen=True)
class Setting:
    """How much to measure.

    Args:
        quick: few repetitions and short training instead of the full protocol.
        seeds: number of repetitions with different random numbers; an interval needs at least 2.
        track: wraps a sequence to show progress, as :func:`rich.progress.track` does.
    """

    quick: bool = False
    seeds: int = 5
    track: Callable[..., Iterable[Any]] = skip_progress


@dataclass(frozen=True)
class Verdict:
    """The result of a claim, by the rule in the docstring of its experiment."""

    word: Literal["holds", "holds only where", "does not hold"]
    evidence: str  # the numbers, in a few sentences
    region: str = ""  # the conditions under which the claim holds, for "holds only where"

    def __str__(self) -> str:
        return f"{self.word} {self.region}".strip()


@dataclass(frozen=True)
class Experiment:
    """A claim, its measurement, its rule and its figure.

    Args:
        claim: the claim, as the public answers state it.
        measure: setting -> numbers. Its docstring describes the protocol and the rule.
        judge: the numbers of all experiments, by name -> verdict.
        draw: the numbers of this experiment, an empty figure -> None.
    """

    claim: str
    measure: Callable[[Setting], Numbers]
    judge: Callable[[dict[str, Numbers]], Verdict]
    draw: Callable[[Numbers, Figure], None]


def load_mnist_5k(setting: Setting) -> Data:
    """MNIST-5k with dynamic binarisation; a smaller part of it in quick mode."""
    data = load_data("mnist-5k", binarize="dynamic", validation=0)
    if not setting.quick:
        return data
    return Data(data.name, data.train.split(0.25, seed=0)[1], data.test.split(0.2, seed=0)[1])


def time_calls(work: Callable[[], Any], times: int) -> float:
    """Mean time of one call in milliseconds, over ``times`` calls."""
    began = perf_counter()
    for _ in range(times):
        work()
    return 1e3 * (perf_counter() - began) / times


def confidence_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The mean of at least two values, and half the width of its Student's t interval."""
    quantile = t.ppf(0.5 + level / 2, len(values) - 1)
    return fmean(values), float(quantile) * stdev(values) / len(values) ** 0.5


def median_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """The median and both ends of its interval, which assumes no distribution of the values.

    It serves times on a machine that does other work, whose mean follows a few slow rounds.
    """
    low, high = quantile_test(values, p=0.5).confidence_interval(level)
    return median(values), float(low), float(high)


def share_interval(count: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Both ends of the Clopper-Pearson interval of a share: 0 of 10 gives 0 to 0.31."""
    found = binomtest(count, total).proportion_ci(level, method="exact")
    return float(found.low), float(found.high)


def share_text(count: int, total: int) -> str:
    """``3 of 10 (7 % to 65 %)``, with the 95 % interval of the share."""
    low, high = share_interval(count, total)
    return f"{count} of {total} ({100 * low:.0f} % to {100 * high:.0f} %)"


def join_words(words: Iterable[str], conjunction: str = "and") -> str:
    """``a, b and c``; ``none`` without words."""
    *most, last = list(words) or ["none"]
    return f"{', '.join(most)} {conjunction} {last}" if most else last

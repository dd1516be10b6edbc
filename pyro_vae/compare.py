"""Train several VAEs for the same epochs, or for the same time, and compare them.

One setting differs, for instance the guide. All others are equal. Each VAE is trained with several
seeds, in turn (a, b, c, a, b, c, …). So a machine that becomes slower affects all of them equally.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from statistics import median, stdev
from typing import Any

import torch

from .contracts import Likelihood
from .data import Images, in_memory
from .errors import InputError, TrainingError
from .evaluation import elbo
from .evaluation.gaps import gaps
from .evaluation.importance import importance
from .history import Callback, CollapseWarning, Position, collapsed
from .options import at_least_one, number
from .patience import bound_of, is_over
from .processes import side_by_side
from .registry import parse
from .runs.setup import prepare
from .settings import Settings
from .spelling import spelled
from .timing import epochs_within
from .training import fit
from .words import called, first_line, protocol_of

MEASURED_WITH = 0
"""The seed of the draws of pixels and of z, the same for all trainings, so that the spread over the
trainings is theirs alone."""

Result = dict[str, Any]
"""One trained VAE: ``name``, ``seed``, ``observation_space``, the columns of
:data:`~pyro_vae.comparison.COLUMNS`, ``seconds_per_epoch`` (the median), the standard error of each
as ``COLUMN_error``, and ``collapsed``."""


@dataclass(frozen=True)
class Training:
    """One training of a comparison; the arguments are those of :func:`compare`."""

    name: str
    seed: int
    settings: Mapping[str, Any]
    device: torch.device
    data_dir: Path | None
    samples: int
    gap_images: int
    compiled: bool | None

    def __call__(self, on_step: Callable[[int], None]) -> Result | str:
        """The result; or the sentence of the error, which must not lose the other results.

        ``on_step`` is called with the number of images in each step.
        """
        try:
            return self.measure(on_step)
        except (InputError, TrainingError) as error:
            return str(error)
        except Exception as error:
            return f"{type(error).__name__}: {first_line(error)}"

    def measure(self, on_step: Callable[[int], None]) -> Result:
        """Train and measure."""
        run = prepare({**self.settings, "seed": self.seed}, self.device, self.data_dir)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CollapseWarning)  # the table says it
            history = fit(
                run.vae,
                run.data,
                **run.training,
                compiled=self.compiled,
                optimizer=run.optimizer,
                callback=Steps(on_step),
                progress=False,
            )
        best = max(history, key=bound_of, default=None) if run.training["patience"] else None
        ended = best and is_over(len(history), best.epoch, run.training["patience"])
        if len(history) < run.training["epochs"] and not ended:
            raise KeyboardInterrupt  # fit was interrupted, and half a training is not compared
        model, guide, held_out = run.vae.model, run.vae.guide, run.data.validation
        assert held_out is not None  # compare() refuses it
        bound = elbo(model, guide, held_out, seed=MEASURED_WITH)
        log_p = importance(model, guide, held_out, samples=self.samples, seed=MEASURED_WITH)
        seconds = [e.seconds for e in history]
        taken = f" ({parse(run.vae.config['likelihood'])[0]})"
        taken = taken if self.name == Settings.likelihood else ""
        result = {
            "name": self.name + taken,
            "seed": self.seed,
            "observation_space": observation_space(run.vae, run.source, in_memory(run.data.train)),
            "elbo": bound.elbo,
            "elbo_error": bound.errors["elbo"],
            "log_p": log_p.mean,
            "log_p_error": log_p.standard_error,
            "parameters": sum(p.numel() for p in run.vae.parameters()),
            "epochs": len(history),
            "seconds_per_epoch": median(seconds),
            "seconds_per_epoch_error": (
                stdev(seconds) / len(seconds) ** 0.5 if len(seconds) > 1 else nan
            ),
            "training_seconds": sum(seconds),
            "collapsed": "; ".join(collapsed(best or history[-1])),
        }
        if self.gap_images > 0:
            few = held_out.first(self.gap_images)
            for key, value in gaps(model, guide, few, seed=MEASURED_WITH).summary().items():
                if key.endswith("_gap"):
                    result |= {key: value["mean"], f"{key}_error": value["error"]}
        return result


@spelled
def compare(
    settings: Mapping[str, Mapping[str, Any]],
    seeds: int,
    *,
    budget: float | None = None,
    device: torch.device,
    data_dir: Path | None = None,
    samples: int = 200,
    gap_images: int = 0,
    compiled: bool | None = None,
    jobs: int = 1,
    on_timing: Callable[[], None] = lambda: None,
    on_epochs: Callable[[dict[str, int]], None] = lambda epochs: None,
    on_start: Callable[[str, int, int], None] = lambda name, seed, total: None,
    on_step: Callable[[int], None] = lambda images: None,
) -> tuple[list[Result], list[str]]:
    """Train each of ``settings`` with seeds 0, 1, … and measure it on the validation images.

    The test images are not used, so that what is chosen here can be evaluated on them.

    All are measured with the same draws of the pixels and of z. So the spread over the seeds comes
    from the training alone, and differences between settings are paired.

    Args:
        settings: by name, the settings that differ from the defaults of
            :class:`~pyro_vae.settings.Settings`.
        seeds: the number of trainings of each.
        budget: the seconds of each training, in place of ``epochs``. Some epochs of each setting
            are timed first (:func:`~pyro_vae.timing.epochs_within`). All seeds of a setting get the
            number of epochs that fits, so schedules end with the training, and ``epochs`` repeats
            it. None trains for the ``epochs`` of the settings.
        device: where to train.
        data_dir: folder of downloaded data sets.
        samples: draws of z for each image, K, for log p̂(x) by importance sampling.
        gap_images: how many validation images the two gaps are measured on; 0 leaves the gaps out.
        compiled: whether steps are compiled, as in :func:`~pyro_vae.training.fit`.
        jobs: how many trainings run at the same time. From 2 on, each has a process of its own, and
            the processes share the threads.
        on_timing: called before the epochs are timed; not called without a ``budget``.
        on_epochs: called before the first training with the epochs that fit into ``budget``, by
            name; not called without a ``budget``.
        on_start: called before each training with its name, its seed, and the number of images in
            the steps of all trainings together.
        on_step: called after each step with the number of images in it.

    Returns:
        a result for each training, in the order in which they began; and a sentence for each
        training that failed.

    Raises:
        InputError: no settings, ``seeds`` or ``jobs`` below 1, settings that do not fit, no
            validation images, or a ``budget`` with ``epochs``, with several ``jobs``, or below the
            time of one epoch.
    """
    if not settings:
        raise InputError("there are no settings to compare; give at least one")
    at_least_one("seeds", seeds, most=10_000)
    at_least_one("jobs", jobs, most=1000)
    if budget is not None:
        check_budget(budget, settings, jobs)
    # Settings that do not fit raise here, before the first training.
    runs = {name: prepare(each, device, data_dir) for name, each in settings.items()}
    if any(run.data.validation is None for run in runs.values()):
        raise InputError(
            "a comparison chooses by the validation images, and the data has none; give "
            f"{called('validation')} a number above 0"
        )
    epochs = {name: run.training["epochs"] for name, run in runs.items()}
    if budget is not None:
        on_timing()
        epochs = epochs_within(budget, runs, compiled)
        on_epochs(epochs)
    total = seeds * sum(epochs[name] * len(run.data.train) for name, run in runs.items())
    del runs  # the trainings need the memory
    settings = {name: {**each, "epochs": epochs[name]} for name, each in settings.items()}
    trainings = [
        Training(name, seed, given, device, data_dir, samples, gap_images, compiled)
        for seed in range(seeds)
        for name, given in settings.items()
    ]

    def begin(training: Training) -> None:
        on_start(training.name, training.seed, total)

    done: list[Any] = []
    if jobs > 1:
        threads = max(1, torch.get_num_threads() // jobs)
        done = side_by_side(trainings, jobs, threads, begin, on_step)
    else:
        for training in trainings:
            begin(training)
            done.append(training(on_step))
    failures = [
        f"{training.name}, seed {training.seed}, failed: {result}"
        for training, result in zip(trainings, done, strict=True)
        if not isinstance(result, dict)
    ]
    return [result for result in done if isinstance(result, dict)], failures


def check_budget(budget: float, settings: Mapping[str, Mapping[str, Any]], jobs: int) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for a budget that cannot be had; the arguments are
    those of :func:`compare`."""
    number("budget", budget, above=0)
    if any("epochs" in each for each in settings.values()):
        raise InputError(
            f"{called('budget')} gives the number of epochs, so {called('epochs')} cannot be given "
            "with it"
        )
    if jobs > 1:
        raise InputError(
            f"{called('budget')} times each setting alone, and trainings at the same time slow "
            f"each other down, so their epochs would take longer; leave {called('jobs')} out"
        )


class Steps(Callback):
    """Calls a function after each step with the number of images in it."""

    def __init__(self, on_step: Callable[[int], None]) -> None:
        self.call = on_step

    def on_step(self, images: int, position: Position) -> None:
        self.call(images)


def observation_space(vae: Any, source: Mapping[str, Any], images: Images) -> str:
    """The data, the pixels, whether p(x | z) is a probability or a density, and what is given.

    Nats can be compared only if all four are equal. To draw pixels that are 0 or 1 changes
    nothing, so these are the same pixels with and without ``dynamic``.

    Args:
        vae: the VAE.
        source: the settings of the data.
        images: the training images.
    """
    likelihood = Likelihood.of(vae.model.likelihood)
    discrete = likelihood.support.is_discrete or likelihood.levels is not None
    pixels = {"none": "grey pixels"}.get(source["binarize"], protocol_of(source["binarize"]))
    if source["binarize"] in ("none", "dynamic") and replace(images, binarize="none").is_binary:
        pixels = "pixels of 0 and 1"
    if not images.in_unit_interval:
        pixels = "numbers as they are"
    kind = "densities on [0, 1]" if images.in_unit_interval else "densities"
    kind = "probabilities" if discrete else kind
    given = "" if source.get("condition") is None else ", given the label"
    return f"{Path(source['name']).name}, {pixels}, {kind}{given}"

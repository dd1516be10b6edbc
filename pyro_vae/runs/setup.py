"""From settings to a VAE with its data, ready to be trained."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch

from ..audit import audit
from ..averaging import Averaging
from ..budget import Budget
from ..conditions import condition_of
from ..contracts import Likelihood
from ..data import DATASETS, Data, Images, StoredData, StoredImages, in_memory
from ..data.splitting import refuse_few
from ..errors import InputError, broken_distribution, invalid
from ..figures import COLUMNS
from ..history import Position
from ..loop import PRECISIONS
from ..measures import MEASURED
from ..memory import check_memory, total_memory
from ..modules import buffers_restored
from ..pairing import fitting_likelihood, fitting_objective
from ..patience import check_measured
from ..recipes import RECIPES
from ..registry import OBJECTIVES, lookup, own_classes, parse, spec
from ..schedules import Steering
from ..settings import READING, TRAINING, Settings
from ..sources import known_labels
from ..training import adam
from ..vae import VAE
from ..words import counted, first_line, word_of
from .images import name_of, opened
from .labels import check_labels, context_of, label_note
from .notes import missing_note, stream_note, table_note
from .splits import own_splits

DRAWN_NOTE = (
    "The images have values between black and white, and the likelihood scores only 0 and 1, so "
    "each pixel is drawn as 0 or 1 (--binarize dynamic). To model the values themselves take "
    "--likelihood auto."
)
"""For grey or colour images under a likelihood that the user named, without --binarize."""

NOT_STREAMED = "these are in memory; give --stream, or leave --workers out"
ROWS = 1000
"""The rows of a table whose columns are drawn."""


@dataclass
class Run:
    """A VAE, the data it is trained on, and how it is trained.

    Args:
        vae: the VAE, on its device.
        data: training, validation and test images, on the same device or on disk.
        source: the arguments of :func:`.images.opened` that load this data again.
        training: the settings that :func:`~pyro_vae.training.fit` takes.
        optimizer: the optimizer, with its state.
        start: where training stands.
        checksum: that of the data.
        compiled: whether steps are compiled; None leaves it to :func:`~pyro_vae.training.fit`.
        note: a sentence that the user should read before training; "" for none.
    """

    vae: VAE
    data: Data | StoredData
    source: dict[str, Any]
    training: dict[str, Any]
    optimizer: torch.optim.Optimizer
    start: Position = field(default_factory=Position)
    checksum: str = ""
    compiled: bool | None = None
    note: str = ""

    def shown(self) -> Images:
        """The images of the pictures, on the device of the VAE: validation images, if there are
        some, or training images."""
        table = isinstance(self.data, Data) and self.data.train.schema is not None
        shown = self.data.validation or self.data.train
        few = in_memory(shown.first(ROWS if table else 4 * COLUMNS))
        return few.to(next(self.vae.parameters()).device)

    def measured_data(self) -> Data | StoredData:
        """The data for ``fit``, with the validation images that are measured after each epoch."""
        if isinstance(self.data, Data) or self.data.validation is None:
            return self.data
        return replace(self.data, validation=self.data.validation.first(MEASURED))


def settled(given: Mapping[str, Any]) -> Settings:
    """The settings: the defaults, overridden by the recipe, overridden by what is given.

    Args:
        given: settings by name; ``recipe`` may be one of them.
    """
    recipe = given.get("recipe")
    named = {} if recipe is None else lookup("recipe", recipe, RECIPES).settings
    chosen = {**named, **given}
    return Settings(**{f.name: chosen[f.name] for f in fields(Settings) if f.name in chosen})


def recipe_line(given: Mapping[str, Any]) -> str:
    """The sentence that says what the recipe in ``given`` sets."""
    name = given["recipe"]
    own = {k: v for k, v in RECIPES[name].settings.items() if k not in given}
    changed = ", ".join(f"{setting} = {value}" for setting, value in own.items())
    return f"recipe {name} sets {changed or 'nothing: all settings are given or the defaults'}"


def prepare(
    given: Mapping[str, Any], device: torch.device, data_dir: Path | None, workers: int = 0
) -> Run:
    """Build the VAE that the settings name, and load its data.

    Everything that ``fit`` would refuse is refused here, before a file is written.

    Args:
        given: as in :func:`settled`.
        device: where to train.
        data_dir: folder of downloaded data sets.
        workers: how many processes read images that stay on disk.

    Raises:
        InputError: a wrong setting, or settings that do not fit together.
    """
    settings = settled(given)
    training = {key: vars(settings)[key] for key in TRAINING}
    lookup("precision", settings.precision, PRECISIONS)
    reading = {key: vars(settings)[key] for key in READING if vars(settings)[key]}
    if workers and not settings.stream:
        raise InputError(f"--workers read images that stay on disk, and {NOT_STREAMED}")
    reading |= context_of(settings)
    source = {"name": settings.data, "binarize": settings.binarize or "none", **reading}
    loaded = opened(source | {"validation": settings.validation}, data_dir, workers=workers)
    rows = sum(len(part or ()) for part in (loaded.train, loaded.validation, loaded.test))
    name = repr(Path(settings.data).name)
    refuse_few(name, len(loaded.train), rows, word_of(loaded.shape))
    parts = {
        "prior": settings.prior,
        "guide": with_scale(settings.guide, settings.scale),
        "network": settings.network,
        "hidden": settings.hidden,
        "likelihood": settings.likelihood,
    }
    protocol = settings.binarize or usual_protocol(loaded, settings, parts)
    data = loaded.binarized(protocol)
    check_measured(settings.patience, None if data.validation is None else "validation")
    if isinstance(data, StoredData):  # so that a broken image is found before the run begins
        (data.validation or data.train).first(MEASURED).read_once()
    some = data.train.sample() if isinstance(data, StoredData) else data.train
    torch.manual_seed(settings.seed)
    with options_explained(settings):
        vae = VAE.for_data(some, settings.latent, **parts)
    check_labels(vae, settings)
    binary = Likelihood.of(vae.model.likelihood).binary
    if binary and not some.is_binary:
        raise InputError(
            f"--binarize {protocol} leaves {counted(some.levels(), 'level')} of grey, and "
            f"the {vae.config['likelihood']} likelihood scores pixels that are 0 or 1; take "
            "--binarize dynamic, static or threshold, or --likelihood continuous-bernoulli"
        )
    few = some.rows(slice(0, 2))
    training["objective"] = training["objective"] or fitting_objective(vae, few)
    with options_explained(settings):
        objective = built_objective(training, data.train)
        precision = PRECISIONS[settings.precision]()
        with torch.random.fork_rng(), warnings.catch_warnings(), buffers_restored(vae), precision:
            # Pyro's warnings would repeat the sentence of the error.
            warnings.simplefilter("ignore")
            audit(vae, *few.args, objective=objective, **few.named)
    vae.to(device)
    if some.schema is not None:
        reading["schema"] = some.schema.to_json()
    # The number that was cut, so that the run has this split for ever; null for a folder's own.
    held: int | None = 0 if data.validation is None else len(data.validation)
    held = None if held and "validation" in own_splits(settings.data) else held
    source = {"name": name_of(settings.data), "binarize": protocol, "validation": held, **reading}
    if settings.likelihood == Settings.likelihood:
        likelihood, why = fitting_likelihood(some)
        usual = " (--binarize dynamic), as is usual for this data set"
        as_usual = settings.binarize is None and protocol == "dynamic"
        note = f"The likelihood is {parse(likelihood)[0]}: {why}{usual if as_usual else ''}."
    else:
        own = settings.binarize is None and settings.data not in DATASETS
        grey = not replace(some, binarize="none").is_binary
        drawn = own and protocol == "dynamic" and grey
        note = DRAWN_NOTE if drawn else ""
    optimizer = adam(vae, training["lr"])
    Steering(optimizer, training["schedule"], training["clip"])  # refuses what fit would refuse
    Averaging(optimizer, training["average"])
    about = (table_note(settings.data, some), note, label_note(data), missing_note(some))
    note = " ".join(part for part in (*about, stream_note(data, len(some))) if part)
    return Run(vae, placed(data, device, vae), source, training, optimizer, note=note)


def placed(data: Data | StoredData, device: torch.device, vae: VAE) -> Data | StoredData:
    """Data on the device of a VAE. Images on disk are moved in batches, and are checked as they are
    read if the likelihood scores only 0 and 1."""
    if isinstance(data, Data):
        return data.to(device)
    binary = Likelihood.of(vae.model.likelihood).binary
    held_out = data.validation
    return replace(
        data,
        train=replace(data.train, binary=binary),
        test=replace(data.test, binary=binary),
        validation=None if held_out is None else replace(held_out, binary=binary),
    )


def usual_protocol(loaded: Data | StoredData, settings: Settings, parts: dict[str, Any]) -> str:
    """The binarisation where the user names none.

    A likelihood that the user names decides: ``dynamic`` if it scores only 0 and 1. With ``auto``,
    it is ``dynamic`` for the data sets whose results are usually for drawn pixels.
    """
    if settings.likelihood == Settings.likelihood:
        drawn = settings.data in DATASETS and DATASETS[settings.data].drawn
    else:
        # The likelihood says so once it is made. The random numbers that follow stay the same.
        with torch.random.fork_rng(devices=[]), options_explained(settings):
            train = loaded.train
            condition = condition_of(train) if isinstance(train, Images) else None
            trial = VAE(loaded.shape, settings.latent, condition=condition, **parts)
        drawn = Likelihood.of(trial.model.likelihood).binary
    return "dynamic" if drawn else "none"


@contextmanager
def options_explained(settings: Settings) -> Iterator[None]:
    """Turn an exception of a part into an InputError, and refuse what does not fit into memory.

    An option of a wrong type, such as ``mixture(components='a')``, raises many kinds of exceptions
    in torch and Pyro. An exception of the user's own class keeps its traceback.
    """
    specs = [settings.prior, settings.likelihood, settings.guide, settings.network]
    named = [str(each) for each in (*specs, settings.objective)]
    optioned = [f"{each!r:.200}" for each in named if "(" in each]
    try:
        # Training holds each weight four times: with its gradient and Adam's two moments.
        with Budget("this VAE", total_memory() // 4):
            yield
    except InputError:
        raise
    except Exception as error:
        if any(own_classes(named)):
            raise
        if broken_distribution(error):
            raise InputError(
                f"with these data and settings, {invalid(error)}; numbers that are far from the "
                "others of their column, or an option, can be the cause"
            ) from error
        where = f"an option in {' or '.join(optioned)}" if optioned else "a setting"
        raise InputError(
            f"{where} has a wrong type or value ({type(error).__name__}: {first_line(error):.200})"
        ) from error


def built_objective(training: Mapping[str, Any], train: Images | StoredImages) -> Any:
    """The objective of a training.

    Args:
        training: the settings of a training, :data:`~pyro_vae.settings.TRAINING`.
        train: the training images.

    Raises:
        InputError: a step with its draws does not fit into memory.
    """
    known = known_labels(train.context) if isinstance(train, Images) else None
    objective = OBJECTIVES.build(training["objective"], data_size=len(train), labelled=known)
    images = min(training["batch_size"], len(train))
    check_memory(
        4 * objective.num_particles * images * math.prod(train.shape),
        f"a step on {images} images with {objective.num_particles:,} draws of z each",
    )
    return objective


def with_scale(guide: Any, scale: str | None) -> Any:
    """The guide's spec with its option ``scale`` set; unchanged if ``scale`` is None."""
    if scale is None:
        return guide
    name, options = parse(guide)
    if "scale" in options:
        raise InputError(f"--scale {scale} and --guide {guide!r} both name a scale; give one")
    return spec(name, {**options, "scale": scale})


def vacant_folder(given: Mapping[str, Any]) -> Path:
    """``runs/DATA-1``, or the first number that is not used yet."""
    data = Path(given.get("data", Settings.data)).stem[:100] or "data"
    free = (Path("runs") / f"{data}-{n}" for n in count(1))
    return next(folder for folder in free if not os.path.lexists(folder))

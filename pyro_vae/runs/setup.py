"""From settings to a VAE with its data, ready to be trained."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import count
from pathlib import Path
from typing import Any

import torch

from ..audit import audit
from ..contracts import Likelihood
from ..data import DATASETS, Data, Images, load_data
from ..errors import InputError
from ..modules import buffers_restored
from ..pairing import fitting_objective
from ..recipes import RECIPES
from ..registry import OBJECTIVES, lookup, parse
from ..settings import TRAINING, Settings, positive
from ..training import PRECISIONS, adam
from ..vae import VAE


@dataclass
class Run:
    """A VAE, what it is trained on and how, and all that is needed to do the same again.

    Args:
        vae: the VAE, on its device.
        data: training and test images, on the same device.
        source: the name of the data set and how its pixels are binarized.
        training: the settings that :func:`~pyro_vae.training.fit` takes.
        optimizer: the optimizer, with its state.
        start: epochs that have already been trained.
    """

    vae: VAE
    data: Data
    source: dict[str, Any]
    training: dict[str, Any]
    optimizer: torch.optim.Optimizer
    start: int = 0


def settled(given: Mapping[str, Any]) -> Settings:
    """The settings: the defaults, overridden by the recipe, overridden by what is given.

    Args:
        given: settings by name; ``recipe`` may be one of them.
    """
    recipe = given.get("recipe")
    named = {} if recipe is None else lookup("recipe", recipe, RECIPES).settings
    chosen = {**named, **given}
    return Settings(**{f.name: chosen[f.name] for f in fields(Settings) if f.name in chosen})


def prepare(given: Mapping[str, Any], device: torch.device, data_dir: Path | None) -> Run:
    """Build what the settings name. Everything that ``fit`` would refuse is refused here.

    Args:
        given: as in :func:`settled`.
        device: where to train.
        data_dir: folder of downloaded data sets.

    Raises:
        InputError: a setting that is wrong, or several that do not fit together.
    """
    settings = settled(given)
    training = {key: vars(settings)[key] for key in TRAINING}
    lookup("precision", settings.precision, PRECISIONS)
    positive(epochs=settings.epochs, batch_size=settings.batch_size, lr=settings.lr)
    grey = load_data(settings.data, data_dir=data_dir)
    torch.manual_seed(settings.seed)
    vae = VAE(
        grey.shape,
        settings.latent,
        prior=settings.prior,
        likelihood=settings.likelihood,
        guide=with_scale(settings.guide, settings.scale),
        network=settings.network,
        hidden=settings.hidden,
    )
    binary = Likelihood.of(vae.model.likelihood).binary
    protocol = settings.binarize or ("dynamic" if binary else "none")
    data = grey.binarized(protocol)
    if binary and not data.train.is_binary:
        raise InputError(
            f"--binarize {protocol} leaves {data.train.levels()} levels of grey, and the "
            f"{settings.likelihood} likelihood scores pixels that are 0 or 1; take --binarize "
            "dynamic, static or threshold, or --likelihood continuous-bernoulli"
        )
    few = data.train.batch(slice(0, 2))
    training["objective"] = training["objective"] or fitting_objective(vae, few)
    objective = OBJECTIVES.build(training["objective"], data_size=len(data.train))
    with torch.random.fork_rng(), warnings.catch_warnings(), buffers_restored(vae):
        # Parts that do not fit each other are refused here, in one sentence, before anything is
        # written. Pyro's warnings on the way would repeat it.
        warnings.simplefilter("ignore")
        audit(vae, few, objective=objective)
    vae.to(device)
    source = {"name": name_of(settings.data), "binarize": protocol}
    return Run(vae, data.to(device), source, training, adam(vae, training["lr"]))


def with_scale(guide: Any, scale: str | None) -> Any:
    """The guide's spec with its option ``scale`` set; unchanged if ``scale`` is None."""
    if scale is None:
        return guide
    name, options = parse(guide)
    if "scale" in options:
        raise InputError(f"--scale {scale} and --guide {guide!r} both name a scale; give one")
    return f"{name}({', '.join(f'{k}={v!r}' for k, v in {**options, 'scale': scale}.items())})"


def name_of(data: str) -> str:
    """A data set's name, or the absolute path of the user's own images."""
    return data if data in DATASETS else str(Path(data).resolve())


def vacant_folder(given: Mapping[str, Any]) -> Path:
    """``runs/DATA-1``, or the first number that is not used yet."""
    data = Path(given.get("data", Settings.data)).stem
    free = (Path("runs") / f"{data}-{n}" for n in count(1))
    return next(folder for folder in free if not folder.exists())


def images_of(
    config: dict[str, Any], name: str | None, split: str, data_dir: Path | None
) -> Images:
    """The images that a command on a run works on, with the run's own binarisation.

    Args:
        config: the run's config.
        name: another data set than the run's own; None for its own.
        split: ``train``, ``test`` or ``all``.
        data_dir: folder of downloaded data sets.

    Raises:
        InputError: images of another shape than the run's, or an empty split.
    """
    own = config["data"]
    source = {**own, "name": name_of(name) if name else own["name"]}
    whole = split == "all" and source["name"] not in DATASETS
    data = load_data(**source, data_dir=data_dir, test_fraction=0.0 if whole else 0.2)
    if list(data.shape) != config["vae"]["shape"]:
        raise InputError(
            f"the run was trained on images of shape {config['vae']['shape']}, and those of "
            f"{source['name']!r} have {list(data.shape)}"
        )
    splits = {"train": data.train, "test": data.test}
    chosen = data.train.joined(data.test) if split == "all" else splits[split]
    if len(chosen) == 0:
        raise InputError(f"there are no {split} images in {source['name']!r}")
    return chosen

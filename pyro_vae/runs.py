"""What the command line does with a run, without its options: begin, continue, train, and use."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from . import checkpoints, figures
from .audit import audit
from .data import BINARIZE, DATASETS, Data, Images
from .data import load_data as load
from .evaluation.scoring import draw as drawn
from .evaluation.scoring import values
from .guides import GUIDES, moments
from .likelihoods import LIKELIHOODS
from .networks import ACTIVATIONS, NETWORKS
from .objectives import OBJECTIVES
from .parts import InputError, build, lookup, parse, resolve, summary
from .priors import PRIORS
from .recipes import RECIPES
from .scales import SCALES
from .sites import fitting_objective
from .training import PRECISIONS, CollapseWarning, Epoch, adam, collapsed, fit, positive
from .vae import VAE

DEFAULTS: dict[str, Any] = {
    "data": "mnist-5k",
    "binarize": None,
    "prior": None,
    "likelihood": "bernoulli",
    "guide": "mean-field",
    "scale": None,
    "objective": None,
    "latent": 20,
    "network": "mlp",
    "hidden": None,
    "epochs": 200,
    "batch_size": 128,
    "lr": 1e-3,
    "precision": "float32",
    "seed": 0,
}
TRAINING = ("objective", "epochs", "batch_size", "lr", "precision", "seed")


@dataclass
class Run:
    """A VAE, what it is trained on and how, and what it takes to do so again."""

    vae: VAE
    data: Data
    source: dict[str, Any]
    training: dict[str, Any]
    optimizer: torch.optim.Optimizer
    start: int = 0


def prepare(given: Mapping[str, Any], device: torch.device, data_dir: Path | None) -> Run:
    """Build what the settings name, and refuse what fit() would refuse.

    The settings are those of :data:`DEFAULTS`, then of the recipe if one is given, then the given.

    Raises:
        InputError: whatever is wrong with a setting, or with several of them together.
    """
    recipe = given.get("recipe")
    named = {} if recipe is None else lookup("recipe", recipe, RECIPES).settings
    settings = {**DEFAULTS, **named, **given}
    training = {key: settings[key] for key in TRAINING}
    lookup("precision", training["precision"], PRECISIONS)
    positive(**{key: training[key] for key in ("epochs", "batch_size", "lr")})
    likelihood, _ = resolve("likelihood", settings["likelihood"], LIKELIHOODS)
    binary = getattr(likelihood, "binary", False)
    protocol = settings["binarize"] or ("dynamic" if binary else "none")
    data = load(settings["data"], data_dir=data_dir, binarize=protocol)
    if binary and not data.train.is_binary:
        raise InputError(
            f"--binarize {protocol} leaves {data.train.levels()} levels of grey, and the "
            f"{settings['likelihood']} likelihood scores pixels that are 0 or 1; take --binarize "
            "dynamic, static or threshold, or --likelihood continuous-bernoulli"
        )
    torch.manual_seed(settings["seed"])
    vae = VAE(
        data.shape,
        settings["latent"],
        guide=with_scale(settings["guide"], settings["scale"]),
        **{part: settings[part] for part in ("prior", "likelihood", "network", "hidden")},
    )
    few = data.train.batch(slice(0, 2))
    training["objective"] = training["objective"] or fitting_objective(vae.guide, few)
    objective = build("objective", training["objective"], OBJECTIVES, data_size=len(data.train))
    with torch.random.fork_rng(), warnings.catch_warnings():
        # Parts that do not fit each other are refused here, before anything is written, and in
        # one sentence: what Pyro warns of on the way is part of it.
        warnings.simplefilter("ignore")
        audit(vae, few, objective=objective)
    vae.to(device)
    source = {"name": name_of(settings["data"]), "binarize": protocol}
    return Run(vae, data.to(device), source, training, adam(vae, training["lr"]))


def begin(run: Run, folder: Path) -> None:
    """Make a run's folder, which from now on can be loaded."""
    config = {"vae": run.vae.config, "data": run.source, "training": run.training}
    checkpoints.create(folder, config)
    checkpoints.save(folder, run.vae, run.optimizer)


def resume(folder: Path, epochs: int | None, device: torch.device, data_dir: Path | None) -> Run:
    """Take up a run where its last epoch left it, to go on to ``epochs`` in all."""
    vae, config = checkpoints.load(folder, device)
    training = config["training"]
    done = len(checkpoints.history(folder))
    training["epochs"] = epochs or training["epochs"]
    if training["epochs"] <= done:
        raise InputError(
            f"the run {str(folder)!r} has {done} epochs already; give --epochs a larger number"
        )
    optimizer = adam(vae, training["lr"])
    checkpoints.load_optimizer(folder, optimizer)
    data = load(**config["data"], data_dir=data_dir).to(device)
    checkpoints.write_config(folder, config)
    return Run(vae, data, config["data"], training, optimizer, done)


def train(
    run: Run, folder: Path, pictures: int, compiled: bool | None, console: Console
) -> list[Epoch]:
    """Train to the end, showing progress; weights and metrics are written after each epoch,
    pictures after every ``pictures`` of them and the last."""
    epochs = run.training["epochs"]
    compiling: list[float] = []  # when it began, and when it ended
    with progress_bar(console) as progress:
        steps = (epochs - run.start) * len(run.data.train)
        task = progress.add_task(f"epoch {run.start + 1}/{epochs}", total=steps)

        def on_epoch(record: Epoch) -> None:
            checkpoints.save(folder, run.vae, run.optimizer)
            checkpoints.log(folder, record)
            progress.update(
                task,
                description=f"epoch {record.epoch}/{epochs}, nats per image: "
                f"train {record.train_elbo:.2f}, test {record.test_elbo:.2f}",
            )
            if record.epoch % pictures == 0 or record.epoch == epochs:
                draw(run, folder, record.epoch)

        def on_compile() -> None:
            compiling.append(perf_counter())
            progress.update(task, description="compiling a step, some seconds")

        def on_step(images: int) -> None:
            progress.advance(task, images)
            if len(compiling) == 1:
                compiling.append(perf_counter())

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CollapseWarning)  # said below, once the bar is gone
            fit(
                run.vae,
                run.data,
                **run.training,
                compiled=compiled,
                optimizer=run.optimizer,
                start=run.start,
                on_epoch=on_epoch,
                on_step=on_step,
                on_compile=on_compile,
            )
    history = checkpoints.history(folder)
    last = history[-1]
    figures.training_curves(history).savefig(folder / "training.png", dpi=120)
    pictures_made = ["training.png"]
    if last.kl_of_units:
        figures.kl_curves(history).savefig(folder / "kl.png", dpi=120)
        pictures_made.append("kl.png")
    console.print(
        f"test ELBO {last.test_elbo:.2f} nats per image (reconstruction "
        f"{last.test_reconstruction:.2f}, KL {last.test_kl:.2f}) after {last.epoch} epochs in "
        f"{sum(e.seconds for e in history):.0f} s"
        + (f", {compiling[1] - compiling[0]:.0f} of them compiling" if compiling else ""),
        highlight=False,
    )
    for sentence in collapsed(last):
        console.print(f"[yellow]{sentence}[/]", highlight=False)
    name = f"epoch_{last.epoch:04d}.png"
    for picture in (*pictures_made, f"reconstructions/{name}", f"samples/{name}"):
        console.print(f"  {folder / picture}", highlight=False, soft_wrap=True)
    return history


def progress_bar(console: Console) -> Progress:
    """What is being done, how far it is, and how long it will take."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
        console=console,
    )


def draw(run: Run, folder: Path, epoch: int) -> None:
    """The pictures of an epoch: the same test images and the same draws of z each time."""
    device = run.data.test.pixels.device
    with torch.random.fork_rng():
        torch.manual_seed(run.training["seed"])
        x = run.data.test.batch(slice(0, 4 * figures.COLUMNS)).to(device)
        name = f"epoch_{epoch:04d}.png"
        recon = figures.pairs(x, run.vae.reconstruct(x))
        figures.save_grid(recon, folder / "reconstructions" / name)
        figures.save_grid(run.vae.sample(144), folder / "samples" / name)


def images(config: dict[str, Any], name: str | None, split: str, data_dir: Path | None) -> Images:
    """The images that a command on a run works on, under the run's own protocol.

    Raises:
        InputError: images of another shape than the run's, or a split with none in it.
    """
    own = config["data"]
    source = {**own, "name": name_of(name) if name else own["name"]}
    whole = split == "all" and source["name"] not in DATASETS
    data = load(**source, data_dir=data_dir, test_fraction=0.0 if whole else 0.2)
    if list(data.shape) != config["vae"]["shape"]:
        raise InputError(
            f"the run was trained on images of shape {config['vae']['shape']}, and those of "
            f"{source['name']!r} have {list(data.shape)}"
        )
    chosen = data.train.joined(data.test) if split == "all" else getattr(data, split)
    if len(chosen) == 0:
        raise InputError(f"there are no {split} images in {source['name']!r}")
    return chosen


@torch.no_grad()
def latents(vae: VAE, data: Images, seed: int, batch_size: int = 500) -> dict[str, np.ndarray]:
    """μ and σ of the posterior of each image, with labels and file names where there are some.

    Where the latent has several sites, their names stand behind ``loc_`` and ``scale_``, and μ and
    σ are those of 100 draws of all of them together.
    """
    generator = torch.Generator(data.pixels.device).manual_seed(seed)
    parts: dict[str, list[torch.Tensor]] = {}
    for x in data.batches(batch_size, generator):
        q = vae.encode(x)
        if isinstance(q, dict):
            z = values(drawn(vae.guide, x, 100))
            found = {name: (draws.mean(0), draws.std(0)) for name, draws in z.items()}
        else:
            found = {"": moments(q)}
        for site, pair in found.items():
            for name, moment in zip(("loc", "scale"), pair, strict=True):
                parts.setdefault(f"{name}_{site}".rstrip("_"), []).append(moment)
    arrays = {name: torch.cat(moment).cpu().numpy() for name, moment in parts.items()}
    if data.labels is not None:
        arrays["labels"] = data.labels.cpu().numpy()
    if data.files is not None:
        arrays["files"] = np.array(data.files)
    return arrays


def tables() -> dict[str, dict[str, str]]:
    """All names that there are, each with its line, by kind."""
    parts: dict[str, Mapping[str, Any]] = {
        "priors": PRIORS,
        "likelihoods": LIKELIHOODS,
        "guides": GUIDES,
        "scales": SCALES,
        "objectives": OBJECTIVES,
        "networks": NETWORKS,
    }
    return {
        "data": {name: row.summary for name, row in DATASETS.items()},
        "binarize": BINARIZE,
        **{kind: {n: summary(row) for n, row in t.items()} for kind, t in parts.items()},
        "recipes": {name: recipe.line for name, recipe in RECIPES.items()},
        "activations": {name: summary(row) for name, row in ACTIVATIONS.items()},
    }


def with_scale(guide: str, scale: str | None) -> str:
    """The guide's spec with its option ``scale`` set."""
    if scale is None:
        return guide
    name, options = parse(guide)
    if "scale" in options:
        raise InputError(f"--scale {scale} and --guide {guide!r} both name a scale; give one")
    return f"{name}({', '.join(f'{k}={v!r}' for k, v in {**options, 'scale': scale}.items())})"


def name_of(data: str) -> str:
    """A data set's name, or the whole path of the user's own images, good from any folder."""
    return data if data in DATASETS else str(Path(data).resolve())


def vacant_folder(given: Mapping[str, Any]) -> Path:
    """``runs/DATA-1``, or the first number that is free."""
    data = Path(given.get("data", DEFAULTS["data"])).stem
    free = (Path("runs") / f"{data}-{n}" for n in count(1))
    return next(folder for folder in free if not folder.exists())

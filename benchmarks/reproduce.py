"""The published table of test NLLs, reproduced: one row for each result, under three budgets.

Each row is the settings of one ``pyro-vae train`` command. All rows have the same data, MNIST with
dynamic binarisation, 60,000 training and 10,000 test images. All are measured with the same draws
of the test pixels and of z.

    python benchmarks/reproduce.py calibrate --budget short      # epochs that fit the budget
    python benchmarks/reproduce.py train vae-1 --budget short --seed 0  # one training, one file
    python benchmarks/reproduce.py train own --seed 0 --kept FOLDER     # keeps what was trained
    python benchmarks/reproduce.py command vae-1 --budget paper  # the command of a row
    python benchmarks/reproduce.py measure vae-1 --budget paper --run RUN
    python benchmarks/reproduce.py search                        # how the settings were chosen
    python benchmarks/reproduce.py table --budget short          # the files as short.md and .png

The budgets:

- ``smoke``: two epochs of mnist-5k and few draws; for the tests.
- ``short``: each training has 10 minutes of processor time on one thread. ``results/reproduce/
  epochs.json`` has its epochs. The settings were chosen on validation images (``search``).
- ``cpu``: as ``short``, with 60 minutes of processor time: 30 minutes of two cores for two seeds.
- ``paper``: the epochs, the batches and the learning rates of the paper. ``command`` gives the
  command, which can be stopped and resumed, and ``measure`` measures its run folder.

``train`` writes ``results/reproduce/BUDGET/ROW-SEED.json``. With ``--kept``, a command that is
stopped while it measures does not train again when it is repeated.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import shlex
import time
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from scipy.stats import t
from speed import processor

from pyro_vae.cli.values import option_words
from pyro_vae.data import Data, Images, load_data
from pyro_vae.evaluation import elbo
from pyro_vae.evaluation.importance import importance
from pyro_vae.evaluation.latents import active_units
from pyro_vae.history import Callback, Epoch
from pyro_vae.runs.folder import load
from pyro_vae.runs.setup import Run, prepare
from pyro_vae.timing import epochs_within
from pyro_vae.training import fit
from pyro_vae.vae import VAE

RESULTS = Path(__file__).parent / "results" / "reproduce"
BURDA = "Burda et al. 2016, table 1"


@dataclass(frozen=True)
class Row:
    """A model of the table, and its published value.

    Args:
        title: its name in the table.
        settings: the options of ``pyro-vae train`` by which it differs from the others.
        published: the published NLL in nats, and where it stands; "" for a model of our own.
        read: whether the value was read in the paper, and not in another document.
    """

    title: str
    settings: dict[str, Any] = field(default_factory=dict)
    published: str = ""
    read: bool = True


ONE = {"latent": 50, "hidden": (200, 200), "network": "mlp(activation='tanh')"}
TWO = {
    "latent": (100, 50),
    "guide": "bottom-up",
    "hidden": (200, 200),
    "network": "mlp(activation='tanh', middle=[100, 100])",
}
LADDER = {
    "guide": "ladder",
    "hidden": (200, 200),
    "network": "mlp(activation='leaky-relu', middle=[100, 100], batch_norm=True)",
    "objective": "annealed(epochs=10)",
}

CONV = {"network": "conv(activation='leaky-relu', batch_norm=True)"}


def several(objective: str, k: int) -> dict[str, str]:
    return {"objective": f"{objective}(num_particles={k})"}


ROWS: dict[str, Row] = {
    "vae-1": Row("VAE, 1 layer", ONE, f"86.76 ({BURDA})"),
    "vae-1-k5": Row("VAE, 1 layer, k = 5", ONE | several("monte-carlo", 5), f"86.47 ({BURDA})"),
    "vae-1-k50": Row("VAE, 1 layer, k = 50", ONE | several("monte-carlo", 50), f"86.35 ({BURDA})"),
    "iwae-1-k5": Row("IWAE, 1 layer, k = 5", ONE | several("iwae", 5), f"85.54 ({BURDA})"),
    "iwae-1-k50": Row("IWAE, 1 layer, k = 50", ONE | several("iwae", 50), f"84.78 ({BURDA})"),
    "vae-2": Row("VAE, 2 layers", TWO, f"85.33 ({BURDA})"),
    "vae-2-k5": Row("VAE, 2 layers, k = 5", TWO | several("monte-carlo", 5), f"85.01 ({BURDA})"),
    "vae-2-k50": Row("VAE, 2 layers, k = 50", TWO | several("monte-carlo", 50), f"84.78 ({BURDA})"),
    "iwae-2-k5": Row("IWAE, 2 layers, k = 5", TWO | several("iwae", 5), f"83.89 ({BURDA})"),
    "iwae-2-k50": Row("IWAE, 2 layers, k = 50", TWO | several("iwae", 50), f"82.90 ({BURDA})"),
    "ladder-3": Row("ladder, 3 layers", LADDER | {"latent": (64, 32, 16)}),
    "ladder-5": Row(
        "ladder, 5 layers",
        LADDER | {"latent": (64, 32, 16, 8, 4)},
        "81.74 (Sønderby et al. 2016)",
        read=False,
    ),
    "vamp-1": Row("VampPrior, 1 layer", ONE | {"prior": "vamp(components=500)"}),
    "vamp-2": Row(
        "VampPrior, 2 layers",
        LADDER | {"latent": (40, 40), "prior": "hierarchy(top='vamp(components=500)')"},
        "81.24 (Tomczak & Welling 2018)",
        read=False,
    ),
    "iaf-1": Row("IAF, 1 layer", ONE | {"guide": "iaf"}),
    "ladder-3-conv": Row(
        "convolutional ladder, 3 layers",
        LADDER | CONV | {"latent": (64, 32, 16), "hidden": (16, 32, 128)},
    ),
    "own": Row(
        "convolutional ladder of our own, 3 layers",
        LADDER
        | CONV
        | {
            "latent": (64, 32, 16),
            "hidden": (32, 64, 128, 256),
            "prior": "hierarchy(skip=True)",
            "lr": 4e-3,
            "precision": "bfloat16",
        },
    ),
}
"""The models, in the order of the table."""

CPU: dict[str, Any] = {"batch_size": 128, "lr": 2e-3, "schedule": "cosine"}
"""How all rows are trained under the budgets of a CPU, unless a row says otherwise."""
PAPER: dict[str, Any] = {"batch_size": 20, "lr": 1e-3, "schedule": "iwae", "epochs": 3280}
"""How Burda et al. train. Their Adam has ε = 1e-4, and this one 1e-8."""


@dataclass(frozen=True)
class Budget:
    """How long a row is trained, and how well it is measured.

    Args:
        settings: options of ``pyro-vae train``.
        minutes: of processor time for the training of a row; None if the settings have the epochs.
        samples: draws of z for the NLL, K.
        coarse: draws of z for the NLL of a checkpoint within the training.
        images: test images that are measured; None for all.
    """

    settings: dict[str, Any]
    minutes: float | None = None
    samples: int = 5000
    coarse: int = 100
    images: int | None = None


MNIST = {"data": "mnist", "validation": 0}
BUDGETS = {
    "smoke": Budget(CPU | {"data": "mnist-5k", "validation": 0, "epochs": 2}, None, 50, 10, 100),
    "short": Budget(MNIST | CPU | {"compile": True}, 10),
    "cpu": Budget(MNIST | CPU | {"compile": True}, 60),
    "paper": Budget(MNIST | PAPER),
}

BN = "mlp(activation='leaky-relu', middle=[100, 100], batch_norm=True)"
THREE = LADDER | {"latent": (64, 32, 16), "lr": 4e-3}
SKIP = {"prior": "hierarchy(skip=True)"}
WIDE = {"hidden": (500, 300)}
VAMP = {"prior": "hierarchy(skip=True, top='vamp(components=100)')"}
RESIDUAL = {
    "guide": "ladder",
    "objective": "annealed(epochs=2)",
    "network": "residual(units=128)",
    "hidden": (16, 32),
} | SKIP
NORMED = THREE | SKIP | CONV | {"hidden": (16, 32, 128)}
BFLOAT16 = NORMED | {"precision": "bfloat16"}
SEARCH: dict[str, dict[str, Any]] = {
    "vae-1, lr 2e-3": ONE,
    "vae-1, lr 4e-3": ONE | {"lr": 4e-3},
    "vae-1, batch normalization, lr 4e-3": ONE | {"network": BN, "lr": 4e-3},
    "vae-1, batch normalization, lr 8e-3": ONE | {"network": BN, "lr": 8e-3},
    "vae-1, batch normalization, batch 64": ONE | {"network": BN, "lr": 4e-3, "batch_size": 64},
    "ladder-3": THREE,
    "ladder-3, skip": THREE | SKIP,
    "ladder-3, vamp": THREE | VAMP,
    "ladder-3, iwae 5": THREE | several("iwae", 5),
    "ladder-3, skip, dreg 5": THREE | SKIP | several("dreg", 5),
    "ladder-3, skip, average": THREE | SKIP | {"average": 0.999},
    "ladder-2, skip, vamp": THREE | VAMP | {"latent": (40, 40)},
    "ladder-2, skip, vamp, tanh": {
        "guide": "ladder",
        "latent": (40, 40),
        "objective": "annealed(epochs=10)",
        **VAMP,
        "hidden": (200, 200),
        "network": "mlp(activation='tanh', middle=[100, 100])",
    },
    "ladder-2, skip, vamp, convolutions": {
        "guide": "ladder",
        "latent": (40, 40),
        "objective": "annealed(epochs=2)",
        **VAMP,
        "network": "conv",
        "hidden": (16, 32, 128),
    },
    "ladder-3, skip, wide": THREE | SKIP | WIDE,
    "ladder-3, skip, wide, dreg 5": THREE | SKIP | WIDE | several("dreg", 5),
    "ladder-3, skip, wide, iwae 5": THREE | SKIP | WIDE | several("iwae", 5),
    "ladder-3, skip, wide, vamp": THREE | VAMP | WIDE,
    "ladder-5, skip, wide": THREE | SKIP | WIDE | {"latent": (64, 32, 16, 8, 4)},
    "ladder-3, skip, convolutions": RESIDUAL
    | {"latent": (64, 32, 16), "network": "conv", "hidden": (16, 32, 128)},
    "ladder-3, skip, convolutions, batch normalization": NORMED,
    "ladder-3, skip, wide convolutions, batch normalization": NORMED | {"hidden": (32, 64, 256)},
    "ladder-3, skip, wide convolutions, batch normalization, bfloat16": BFLOAT16
    | {"hidden": (32, 64, 256)},
    "ladder-3, skip, three convolutions, batch normalization, bfloat16": BFLOAT16
    | {"hidden": (32, 64, 128, 256)},
    "ladder-3, skip, residual": RESIDUAL | {"latent": (64, 32, 16)},
    "ladder-2, skip, residual, places": RESIDUAL | {"latent": ((2, 7, 7), 32)},
    "ladder-3, skip, residual, places": RESIDUAL | {"latent": ((1, 14, 14), (2, 7, 7), 32)},
    "ladder-2, skip, residual, places, vamp": RESIDUAL | VAMP | {"latent": ((2, 7, 7), 32)},
    "iwae-2-k5, lr 2e-3": TWO | several("iwae", 5),
    "iwae-2-k5, lr 1e-3": TWO | several("iwae", 5) | {"lr": 1e-3},
    "vae-1, lr 1e-3": ONE | {"lr": 1e-3},
}
"""Settings to choose from for the budgets of a CPU; ``search.json`` has those that were tried."""


class Snapshots(Callback):
    """Copies of the weights at some epochs, with the processor time that they took.

    Args:
        vae: the VAE that is trained.
        epochs: how many epochs the training has. Copies are made after 1/32, 1/16, … of them.
    """

    def __init__(self, vae: VAE, epochs: int) -> None:
        self.vae = vae
        self.at = {max(1, epochs >> n) for n in range(1, 6)} - {epochs}
        self.kept: list[tuple[float, dict[str, torch.Tensor]]] = []
        self.times: list[float] = []

    def on_start(self) -> None:
        self.began, self.clock = time.process_time(), time.perf_counter()

    def on_epoch(self, record: Epoch) -> None:
        self.times.append(time.process_time() - self.began)
        self.seconds = time.perf_counter() - self.clock
        if record.epoch in self.at:
            weights = {k: v.clone() for k, v in self.vae.state_dict().items()}
            self.kept.append((self.times[-1], weights))


def settings_of(name: str, budget: str, seed: int) -> dict[str, Any]:
    """The options of ``pyro-vae train`` of one training."""
    row, how = ROWS[name].settings, BUDGETS[budget].settings
    settings = (row | how if budget == "paper" else how | row) | {"seed": seed}
    if BUDGETS[budget].minutes is not None:
        settings["epochs"] = json.loads((RESULTS / "epochs.json").read_text())[budget][name]
    return settings


def command(settings: dict[str, Any], out: str) -> str:
    """The command line that trains with these settings."""
    return shlex.join(["pyro-vae", "train", *option_words(settings), "--out", out])


def prepared(settings: dict[str, Any], device: str = "cpu") -> Run:
    """What ``pyro-vae train`` makes of these settings before it trains."""
    options = {name: value for name, value in settings.items() if name != "compile"}
    return replace(prepare(options, torch.device(device), None), compiled=settings.get("compile"))


def trained(settings: dict[str, Any], device: str = "cpu") -> tuple[Run, Snapshots]:
    """Train as ``pyro-vae train`` does, without measuring images after each epoch."""
    run = prepared(settings, device)
    snapshots = Snapshots(run.vae, run.training["epochs"])
    assert isinstance(run.data, Data)  # in memory
    fit(
        run.vae,
        run.data.train,
        **run.training,
        compiled=run.compiled,
        optimizer=run.optimizer,
        callback=snapshots,
        progress=False,
    )
    return run, snapshots


def fitting(name: str, settings: dict[str, Any], minutes: float) -> int:
    """The epochs of a training that fit into these minutes of processor time.

    Epochs are timed on whole batches of the 4,000 training images of mnist-5k, and counted in
    proportion. Nothing is measured after an epoch.
    """
    run = prepared(settings | {"data": "mnist-5k", "validation": 0})
    assert isinstance(run.data, Data)  # in memory
    batch = settings["batch_size"]  # a smaller last batch would not be compiled
    train: Any = run.data.train.first(len(run.data.train) // batch * batch)
    whole = 60_000 - settings["validation"]
    seconds = 60 * minutes * len(train) / whole
    alone = {name: replace(run, data=train)}
    return epochs_within(seconds, alone, compiled=True, clock=time.process_time)[name]


def calibrate(names: list[str], budget: str) -> None:
    """Write down how many epochs of each row fit into the budget."""
    path, how = RESULTS / "epochs.json", BUDGETS[budget]
    assert how.minutes is not None
    found = json.loads(path.read_text()) if path.exists() else {}
    for name in names:
        epochs = fitting(name, how.settings | ROWS[name].settings, how.minutes)
        found.setdefault(budget, {})[name] = epochs
        RESULTS.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{name}: {epochs} epochs", flush=True)


def measured(vae: VAE, images: Images, budget: Budget) -> dict[str, Any]:
    """The numbers of a trained VAE on the test images, all with the same draws."""
    few = images if budget.images is None else images.first(budget.images)
    bound = elbo(vae.model, vae.guide, few, samples=10, seed=0)
    log_p = importance(vae.model, vae.guide, few, samples=budget.samples, seed=0)
    moves = active_units(vae.guide, few, seed=0)
    return {
        "nll": {
            "mean": -log_p.mean,
            "error_over_images": log_p.standard_error,
            "samples": budget.samples,
            "remaining_bias": log_p.bias,
        },
        "nll_by_samples": {k: -each.mean().item() for k, each in log_p.curve.items()},
        "elbo": {"mean": bound.elbo, "error_over_images": bound.errors["elbo"]},
        "kl_of_sites": {k: v.mean().item() for k, v in bound.kl_of_sites.items()},
        "active_units": {k: int((v > 0.01).sum()) for k, v in moves.items()},
        "images": len(few),
        "parameters": sum(p.numel() for p in vae.parameters()),
    }


def written(name: str, budget: str, seed: int, found: dict[str, Any]) -> None:
    """Write the file of a training, with its protocol."""
    result = {
        "row": name,
        "budget": budget,
        "seed": seed,
        "command": command(settings_of(name, budget, seed), f"runs/{name}-{seed}"),
        **found,
        "versions": {n: version(n) for n in ("pyro-vae", "pyro-ppl", "torch", "numpy")},
        "machine": f"{processor()}, Python {platform.python_version()}",
    }
    path = RESULTS / budget / f"{name}-{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{name} {seed}: NLL {found['nll']['mean']:.2f}, ELBO {found['elbo']['mean']:.2f}")


def train(name: str, budget: str, seed: int, kept: Path | None) -> None:
    """Train a row with a seed, measure it and its checkpoints, and write all down.

    Args:
        name, budget, seed: the training.
        kept: a folder for what was trained. If it has this training, only the measurement is made.
    """
    file = None if kept is None else kept / f"{budget}-{name}-{seed}.pt"
    settings = settings_of(name, budget, seed)
    if file is not None and file.exists():
        run, found = prepared(settings), torch.load(file)
    else:
        run, snapshots = trained(settings)
        assert isinstance(run.data, Data)  # in memory
        drawn = len(run.data.train) * len(snapshots.times)
        found = {
            "training": {
                "processor_seconds": round(snapshots.times[-1], 1),
                "seconds": round(snapshots.seconds, 1),
                "images_per_second": round(drawn / snapshots.seconds),
                "peak_memory_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "threads": torch.get_num_threads(),
                "processor": processor(),
            },
            "weights": [*snapshots.kept, (snapshots.times[-1], run.vae.state_dict())],
        }
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.save(found, file)
    assert isinstance(run.data, Data)  # in memory
    images, how = run.data.test, BUDGETS[budget]
    *earlier, (seconds, weights) = found.pop("weights")
    run.vae.load_state_dict(weights)
    found = measured(run.vae.eval(), images, how) | found
    last = found["nll_by_samples"][how.coarse]
    curve = []
    for processor_seconds, weights in earlier:
        run.vae.load_state_dict(weights)
        few = images.first(found["images"])
        log_p = importance(run.vae.model, run.vae.guide, few, samples=how.coarse, seed=0)
        curve.append([round(processor_seconds, 1), round(-log_p.mean, 3)])
    curve.append([round(seconds, 1), round(last, 3)])
    found["curve"] = {"samples": how.coarse, "processor_seconds_and_nll": curve}
    written(name, budget, seed, found)


def search(names: list[str], minutes: float, epochs: int | None, device: str, path: Path) -> None:
    """Train settings on 50,000 images and measure them on validation images, one after another.

    Args:
        names: the trials.
        minutes: of processor time for each, unless ``epochs`` are given.
        epochs: of each.
        device: trains and measures.
        path: the file of the results.
    """
    found = json.loads(path.read_text()) if path.exists() else {"trials": {}}
    for name in names:
        settings = BUDGETS["cpu"].settings | SEARCH[name] | {"validation": 10_000, "seed": 100}
        settings["epochs"] = epochs or fitting(name, settings, minutes)
        run, snapshots = trained(settings, device)
        assert isinstance(run.data, Data)  # in memory
        assert run.data.validation is not None
        few, pair = run.data.validation.first(2000), (run.vae.model, run.vae.guide)
        bound, log_p = elbo(*pair, few, samples=10), importance(*pair, few, samples=500)
        label = f"{name}, {f'{epochs} epochs' if epochs else f'{minutes:g} min'}"
        found["trials"][label] = {
            "command": command(settings, "runs/trial"),
            "device": torch.cuda.get_device_name() if device == "cuda" else device,
            "seconds": round(snapshots.seconds, 1),
            "processor_seconds": round(snapshots.times[-1], 1),
            "validation_nll": round(-log_p.mean, 3),
            "validation_elbo": round(bound.elbo, 3),
            "error_over_images": round(log_p.standard_error, 3),
        }
        print(label, found["trials"][label], flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")


def runs_of(budget: str) -> dict[str, list[dict[str, Any]]]:
    """The stored results of each row, in the order of the table; rows without results left out."""
    files = {name: sorted((RESULTS / budget).glob(f"{name}-[0-9]*.json")) for name in ROWS}
    every = {name: [json.loads(f.read_text()) for f in each] for name, each in files.items()}
    return {name: [r for r in each if r["row"] == name] for name, each in every.items() if each}


def interval(values: list[float]) -> str:
    """Mean ± the half-width of its 95 % t-interval over seeds; the mean alone for one seed."""
    if len(values) < 2:
        return f"{mean(values):.2f}"
    half = t.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):.2f} ± {half:.2f}"


def table(budget: str) -> str:
    """The Markdown table of a budget."""
    lines = [
        "| model | test NLL | -ELBO | active units | published | min | images/s | MB | seeds |",
        "| --- | ---: | ---: | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for name, runs in runs_of(budget).items():
        # A run folder that was measured has no times of its training.
        row, training = ROWS[name], [r["training"] for r in runs if "training" in r]
        mark = "" if row.read or not row.published else ", second-hand"
        units = [sum(r["active_units"].values()) for r in runs]
        cells = [
            row.title,
            interval([r["nll"]["mean"] for r in runs]),
            interval([-r["elbo"]["mean"] for r in runs]),
            " / ".join(map(str, units)),
            row.published + mark,
            *(
                f"{mean(each[key] for each in training) / unit:,.0f}" if training else ""
                for key, unit in (
                    ("processor_seconds", 60),
                    ("images_per_second", 1),
                    ("peak_memory_megabytes", 1),
                )
            ),
            str(len(runs)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(budget: str) -> Any:
    """NLL of the test images against processor minutes, a line for each training."""
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(7, 4.5), layout="constrained")
    axes = sheet.subplots()
    for i, (name, runs) in enumerate(runs_of(budget).items()):
        for n, run in enumerate(r for r in runs if "curve" in r):
            seconds, nll = zip(*run["curve"]["processor_seconds_and_nll"], strict=True)
            minutes = [each / 60 for each in seconds]
            label = ROWS[name].title if n == 0 else None
            axes.plot(minutes, nll, "o-", color=f"C{i}", ms=3, lw=1, label=label)
    draws = BUDGETS[budget].coarse
    axes.set(
        xscale="log",
        xlabel="minutes of processor time, one thread",
        ylabel=f"NLL of the test images, K = {draws}, nats",
    )
    axes.set_ylim(top=min(100.0, axes.get_ylim()[1]))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    actions = ("calibrate", "train", "command", "measure", "search", "table")
    parser.add_argument("action", choices=actions)
    parser.add_argument("names", nargs="*", help="rows of the table, or trials of the search")
    parser.add_argument("--budget", choices=BUDGETS, default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kept", type=Path, help="a folder that keeps what train has trained")
    parser.add_argument("--run", type=Path, help="the run folder that measure measures")
    parser.add_argument("--minutes", type=float, default=6.0, help="of a trial of the search")
    parser.add_argument("--epochs", type=int, help="of a trial of the search, instead of minutes")
    parser.add_argument("--device", default="cpu", help="of the search")
    parser.add_argument("--out", type=Path, default=RESULTS / "search.json", help="of the search")
    asked = parser.parse_args()
    known = SEARCH if asked.action == "search" else ROWS
    if wrong := [name for name in asked.names if name not in known]:
        parser.error(f"{wrong[0]!r} is not one of {', '.join(known)}")
    names = asked.names or list(known)
    torch.set_num_threads(1)
    if asked.budget == "paper" and asked.action in ("train", "command", "measure"):
        for name in names:
            if BURDA not in ROWS[name].published:
                parser.error(f"the budget paper is that of Burda et al.; {name} is not theirs")
    if asked.action == "calibrate" and BUDGETS[asked.budget].minutes is None:
        parser.error(f"the budget {asked.budget} has its epochs; calibrate takes short or cpu")
    if asked.action == "table":
        (RESULTS / f"{asked.budget}.md").write_text(table(asked.budget) + "\n")
        figure(asked.budget).savefig(RESULTS / f"{asked.budget}.png", dpi=120)
    elif asked.action == "calibrate":
        calibrate(names, asked.budget)
    elif asked.action == "search":
        search(names, asked.minutes, asked.epochs, asked.device, asked.out)
    elif asked.action == "measure":
        if asked.run is None or len(names) != 1:
            parser.error("measure takes one row, and --run")
        images = load_data("mnist", binarize="dynamic", validation=0).test
        found = measured(load(asked.run), images, BUDGETS[asked.budget])
        written(names[0], asked.budget, asked.seed, found)
    else:
        for name in names:
            if asked.action == "train":
                train(name, asked.budget, asked.seed, asked.kept)
            else:
                settings = settings_of(name, asked.budget, asked.seed)
                print(command(settings, f"runs/{name}-{asked.seed}"))


if __name__ == "__main__":
    main()

"""What layers of latents buy, and which guide fits them: test NLL at an equal budget of training.

Full MNIST, dynamic binarisation. All runs have the layers of the IWAE paper between image and z_1
(784-200-200) and of its second layer between any two latents (100-100), the sizes of the latents,
leaky ReLUs, batch normalization and warm-up of the ladder VAE's paper, skip connections in the
prior, the same optimizer, and the same processor time:
``calibrate`` times a step of each model, by turns, and gives the epochs that fit into the budget.
One thread for each run, so that two can run side by side.

    python benchmarks/hierarchy.py calibrate --data FOLDER
    python benchmarks/hierarchy.py train 3-ladder --seed 0 --data FOLDER
    python benchmarks/hierarchy.py table

``train`` writes ``results/hierarchy/NAME-SEED.json``, ``table`` a Markdown table of all of them.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch

from pyro_vae.compiling import CompiledSVI
from pyro_vae.data import Data, load_data
from pyro_vae.evaluation import elbo
from pyro_vae.evaluation.importance import importance
from pyro_vae.evaluation.latents import active_units
from pyro_vae.history import Callback, Epoch, measured
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.sources import as_float
from pyro_vae.training import adam, fit
from pyro_vae.vae import VAE

RESULTS = Path(__file__).parent / "results" / "hierarchy"
SIZES = (64, 32, 16)
MODELS: dict[str, dict[str, Any]] = {
    "1": {"latent_size": SIZES[:1]},
    **{
        f"{depth}-{guide}": {
            "latent_size": SIZES[:depth],
            "guide": guide,
            "prior": "hierarchy(skip=True)",
        }
        for depth in (2, 3)
        for guide in ("bottom-up", "ladder")
    },
}
NETWORK: dict[str, Any] = {
    "network": "mlp(activation='leaky-relu', middle=[100, 100], batch_norm=True)",
    "hidden": (200, 200),
}
BATCH, FIRST_LR, LAST_LR, WARM_UP = 128, 4e-3, 2e-4, 10
"""Images in a step; Adam's rate, falling geometrically by epoch; the epochs in which the KL's
weight rises from 0 to 1."""


def built(name: str, seed: int) -> VAE:
    torch.manual_seed(seed)
    return VAE((1, 28, 28), **MODELS[name], **NETWORK)


def calibrate(data: Data, minutes: float) -> dict[str, int]:
    """Epochs of each model in the budget, by the median processor time of a step."""
    pixels = data.train.drawn().pixels
    steps = {}
    for name in MODELS:
        vae = built(name, 0)
        objective = OBJECTIVES["monte-carlo"]()
        svi = CompiledSVI(vae.model, vae.guide, adam(vae, 1e-3), objective, prepare=as_float)
        steps[name] = svi
    took: dict[str, list[float]] = {name: [] for name in MODELS}
    for _ in range(9):
        for name, svi in steps.items():
            rows = torch.randint(len(pixels), (40, BATCH))
            svi.epoch(pixels, rows[:4])
            began = time.process_time()
            svi.epoch(pixels, rows)
            took[name].append((time.process_time() - began) / len(rows))
    epoch = {name: median(each) * len(pixels) / BATCH for name, each in took.items()}
    for name, seconds in epoch.items():
        print(f"{name}: {seconds:.2f} s of processor time an epoch")
    return {name: round(60 * minutes / seconds) for name, seconds in epoch.items()}


class Progress(Callback):
    """Prints the numbers of every tenth epoch, and lowers Adam's rate after each."""

    def __init__(self, title: str, optimizer: torch.optim.Optimizer, epochs: int) -> None:
        self.title, self.optimizer, self.epochs = title, optimizer, epochs

    def on_epoch(self, record: Epoch) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = FIRST_LR * (LAST_LR / FIRST_LR) ** (record.epoch / self.epochs)
        if record.epoch % 10 == 0:
            sites = ", ".join(f"{k} {v:.2f}" for k, v in record.kl_of_sites.items())
            print(f"{self.title}: epoch {record.epoch}, {record.elbo:.2f}, KL {sites}")


def train(name: str, seed: int, data: Data, epochs: int, samples: int, weights: Path) -> None:
    """Train one model, estimate its NLL, and write both down."""
    vae = built(name, seed)
    optimizer = adam(vae, FIRST_LR)
    # As measured in the published runs, whose curves are of 1,000 test images.
    some = Data(data.name, data.train, data.test, validation=data.test.first(1000))
    began, clock = time.process_time(), time.perf_counter()
    history = fit(
        vae,
        some,
        objective=f"annealed(epochs={WARM_UP})",
        epochs=epochs,
        batch_size=BATCH,
        optimizer=optimizer,
        seed=seed,
        compiled=True,
        callback=Progress(f"{name} {seed}", optimizer, epochs),
    )
    processor, wall = time.process_time() - began, time.perf_counter() - clock
    weights.mkdir(parents=True, exist_ok=True)
    torch.save(vae.state_dict(), weights / f"{name}-{seed}.pt")
    # The same draws of the pixels and of z for all trainings.
    bound = elbo(vae.model, vae.guide, data.test, samples=10, seed=0)
    estimate = importance(vae.model, vae.guide, data.test, samples=samples, seed=0)
    moves = active_units(vae.guide, data.test, seed=0)
    result = {
        "model": {k: v for k, v in vae.config.items() if v is not None},
        "seed": seed,
        "protocol": {
            "data": "mnist: 60,000 training and 10,000 test images, dynamic binarisation",
            "batch_size": BATCH,
            "epochs": epochs,
            "learning_rate": [FIRST_LR, LAST_LR],
            "warm_up_epochs": WARM_UP,
            "samples": samples,
            "command": f"python benchmarks/hierarchy.py train {name} --seed {seed}",
        },
        "training_seconds": {"processor": round(processor), "wall": round(wall), "threads": 1},
        "nll": {"mean": -estimate.mean, "error": estimate.standard_error},
        "elbo": {"mean": bound.elbo, "error": bound.errors["elbo"]},
        "reconstruction": bound.reconstruction,
        "kl_of_sites": {k: v.mean().item() for k, v in bound.kl_of_sites.items()},
        "active_units": {k: int((v > 0.01).sum()) for k, v in moves.items()},
        "kl_of_sites_by_epoch": [
            {k: round(v, 3) for k, v in record.kl_of_sites.items()} for record in history
        ],
        "test_elbo_by_epoch": [round(measured(record.elbo), 2) for record in history],
        "versions": {n: version(n) for n in ("pyro-vae", "pyro-ppl", "torch", "numpy")},
        "machine": f"{platform.machine()}, {platform.python_version()}",
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}-{seed}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{name} {seed}: NLL {-estimate.mean:.2f}, ELBO {bound.elbo:.2f}, {processor:.0f} s")


def table() -> str:
    """Mean over seeds, and their spread, of what was measured."""
    lines = [
        "| layers, guide | latents | epochs | test NLL | test ELBO | KL of z_1, z_2, … | seeds |",
        "| --- | --- | ---: | ---: | ---: | --- | ---: |",
    ]
    for name, settings in MODELS.items():
        runs = [json.loads(f.read_text()) for f in sorted(RESULTS.glob(f"{name}-?.json"))]
        if not runs:
            continue
        sites = sorted(runs[0]["kl_of_sites"])
        kls = ", ".join(f"{mean(r['kl_of_sites'][s] for r in runs):.1f}" for s in sites)
        cells = [
            name.replace("-", ", ", 1),
            ", ".join(map(str, settings["latent_size"])),
            str(runs[0]["protocol"]["epochs"]),
            spread([r["nll"]["mean"] for r in runs]),
            spread([r["elbo"]["mean"] for r in runs]),
            kls,
            str(len(runs)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean ± standard error over seeds, if there are some."""
    error = f" ± {stdev(values) / math.sqrt(len(values)):.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f}{error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("calibrate", "train", "table"))
    parser.add_argument("model", nargs="?", choices=MODELS)
    parser.add_argument("--data", help="the folder of the full MNIST")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=12.0, help="of processor time for a run")
    parser.add_argument("--samples", type=int, default=500, help="draws of z for each image")
    parser.add_argument("--weights", type=Path, default=Path("runs/hierarchy"))
    given = parser.parse_args()
    if given.what == "table":
        print(table())
        return
    torch.set_num_threads(1)
    budget = RESULTS / "epochs.json"
    data = load_data("mnist", data_dir=given.data, binarize="dynamic", validation=0)
    if given.what == "calibrate":
        epochs = calibrate(data, given.minutes)
        RESULTS.mkdir(parents=True, exist_ok=True)
        budget.write_text(json.dumps({"minutes": given.minutes, "epochs": epochs}, indent=1) + "\n")
        print(epochs)
    elif given.model is None:
        parser.error("train takes a model")
    else:
        epochs = json.loads(budget.read_text())["epochs"][given.model]
        train(given.model, given.seed, data, epochs, given.samples, given.weights)


if __name__ == "__main__":
    main()

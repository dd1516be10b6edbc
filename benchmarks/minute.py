"""What a minute of training buys: settings of ``pyro-vae train`` at the same processor time.

The images are those of ``mnist-5k``, dynamic binarisation. 800 of its 4,000 training images are cut
off for validation; the test images are not used. Each training gets the epochs that fit into the
budget, by the processor time of three epochs of the same settings. One thread; compiling is not
counted.

    python benchmarks/minute.py train --seeds 3
    python benchmarks/minute.py table

``train`` writes ``results/recipes/minute.json`` after each training and leaves out what it has
already; ``table`` prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch

from pyro_vae.data import Data
from pyro_vae.evaluation import elbo
from pyro_vae.evaluation.importance import importance
from pyro_vae.history import Callback, Epoch, measured
from pyro_vae.runs.setup import Run, prepare
from pyro_vae.training import fit

EFFORT = ("epochs", "processor_seconds")
RESULTS = Path(__file__).parent / "results" / "recipes" / "minute.json"
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "schedule cosine": {"schedule": "cosine"},
    "batch 256, lr 0.002": {"batch_size": 256, "lr": 2e-3},
    "batch normalization": {"network": "mlp(batch_norm=True)"},
    "batch normalization, schedule cosine": {
        "network": "mlp(batch_norm=True)",
        "schedule": "cosine",
    },
    "recipe lvae": {"recipe": "lvae"},
    "recipe lvae, schedule cosine": {"recipe": "lvae", "schedule": "cosine"},
}


class Clock(Callback):
    """The processor time since the first step, and the validation ELBO, after each epoch."""

    def on_start(self) -> None:
        self.began = time.process_time()
        self.curve: list[tuple[float, float]] = []

    def on_epoch(self, record: Epoch) -> None:
        self.curve.append((time.process_time() - self.began, measured(record.elbo)))


def prepared(name: str, seed: int, epochs: int) -> Run:
    """A run of these settings, with validation images that the VAE was built with."""
    settings = {
        "data": "mnist-5k",
        "validation": 0,
        "seed": seed,
        "epochs": epochs,
        **SETTINGS[name],
    }
    run = prepare(settings, torch.device("cpu"), None)
    assert isinstance(run.data, Data)  # in memory
    kept, held_out = run.data.train.split(0.2, seed=0)
    run.data = replace(run.data, train=kept, validation=held_out)
    return run


def train(name: str, seed: int, epochs: int) -> tuple[Run, Clock]:
    run, clock = prepared(name, seed, epochs), Clock()
    fit(
        run.vae,
        run.data,
        **run.training,
        optimizer=run.optimizer,
        compiled=True,
        callback=clock,
        progress=False,
    )
    return run, clock


def trained_for(name: str, seed: int, budget: float) -> dict[str, Any]:
    """Train for ``budget`` seconds of processor time, and measure on the validation images."""
    times = [seconds for seconds, _ in train(name, seed, 4)[1].curve]
    epoch = median(b - a for a, b in pairwise(times))
    run, clock = train(name, seed, epochs := max(1, round(budget / epoch)))
    model, guide, images = run.vae.model, run.vae.guide, run.data.validation
    assert images is not None
    # The same draws of the pixels and of z for all trainings.
    bound = elbo(model, guide, images, samples=10, seed=0)
    log_p = importance(model, guide, images, samples=1000, seed=0)
    thinned = clock.curve[:: max(1, len(clock.curve) // 20)]
    return {
        "name": name,
        "seed": seed,
        "settings": SETTINGS[name],
        "epochs": epochs,
        "processor_seconds": round(clock.curve[-1][0], 1),
        "elbo": bound.elbo,
        "elbo_error": bound.errors["elbo"],
        "log_p": log_p.mean,
        "log_p_error": log_p.standard_error,
        "curve": [[round(seconds, 1), round(value, 2)] for seconds, value in thinned],
    }


def table(results: list[dict[str, Any]]) -> str:
    lines = [
        "| settings | epochs | s of processor time | ELBO | log p̂(x) | seeds |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in SETTINGS:
        runs = [r for r in results if r["name"] == name]
        if not runs:
            continue
        cells = [
            f"{mean(r[key] for r in runs):.2f}"
            + (f" ± {stdev(r[key] for r in runs):.2f}" if len(runs) > 1 else "")
            for key in ("elbo", "log_p")
        ]
        epochs, seconds = (round(mean(r[key] for r in runs)) for key in EFFORT)
        lines.append(
            f"| {name} | {epochs} | {seconds} | {' | '.join(cells)} | {len(runs)} |",
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("action", choices=["train", "table"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", nargs="*", choices=list(SETTINGS), default=list(SETTINGS))
    asked = parser.parse_args()
    done = json.loads(RESULTS.read_text())["results"] if RESULTS.exists() else []
    if asked.action == "table":
        print(table(done))
        return
    torch.set_num_threads(1)
    for seed in range(asked.seeds):
        for name in asked.only:
            if any(r["name"] == name and r["seed"] == seed for r in done):
                continue
            done.append(trained_for(name, seed, asked.seconds))
            shown = {k: done[-1][k] for k in (*EFFORT, "elbo", "log_p")}
            print(f"{name}, seed {seed}: {shown}", flush=True)
            content = {
                "data": "mnist-5k: 3,200 training and 800 validation images, dynamic binarisation",
                "threads": 1,
                "seconds": asked.seconds,
                "samples": 1000,
                "command": "python benchmarks/minute.py train --seeds 3",
                "versions": {name: version(name) for name in ("torch", "pyro-ppl", "pyro-vae")},
                "results": done,
            }
            RESULTS.parent.mkdir(parents=True, exist_ok=True)
            RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()

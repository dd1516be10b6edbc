"""What a VAE of default settings reaches on the test images of ``mnist-5k``.

Each training is the one of ``pyro-vae train --seed SEED``: it trains on 3,600 images, and 400 are
its validation images. All are measured on the 1,000 test images, with the same draws of the pixels
and of z.

    python benchmarks/default.py

writes ``results/default.json`` and prints the means over seeds.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from pyro_vae.data import Data
from pyro_vae.evaluation import elbo
from pyro_vae.evaluation.importance import importance
from pyro_vae.runs.setup import prepare
from pyro_vae.training import fit

RESULTS = Path(__file__).parent / "results" / "default.json"
SEEDS = range(5)
SAMPLES = 5000
"""Draws of z for each image, K."""


def trained(seed: int) -> dict[str, float]:
    """Train with this seed, and measure on the test images."""
    run = prepare({"seed": seed}, torch.device("cpu"), None)
    fit(run.vae, run.data, **run.training, optimizer=run.optimizer, progress=False)
    assert isinstance(run.data, Data)  # in memory
    bound = elbo(run.vae.model, run.vae.guide, run.data.test, samples=10, seed=0)
    log_p = importance(run.vae.model, run.vae.guide, run.data.test, samples=SAMPLES, seed=0)
    return {
        "epochs": run.training["epochs"],
        "elbo": bound.elbo,
        "elbo_error_over_images": bound.errors["elbo"],
        "log_p": log_p.mean,
        "log_p_error_over_images": log_p.standard_error,
    }


def main() -> None:
    runs: list[dict[str, Any]] = []
    for seed in SEEDS:
        runs.append({"seed": seed, **trained(seed)})
        print(runs[-1], flush=True)
    content = {
        "data": "mnist-5k: 3,600 training and 1,000 test images, dynamic binarisation",
        "command": "python benchmarks/default.py",
        "samples": SAMPLES,
        "versions": {name: version(name) for name in ("torch", "pyro-ppl", "pyro-vae")},
        "results": runs,
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")
    for key in ("elbo", "log_p"):
        values, error = [r[key] for r in runs], mean(r[f"{key}_error_over_images"] for r in runs)
        print(f"{key}: {mean(values):.2f} ± {stdev(values):.2f} (± {error:.2f})")


if __name__ == "__main__":
    main()

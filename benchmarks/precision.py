"""What bfloat16 costs: the final test ELBO of the same training in both precisions.

python benchmarks/precision.py
"""

import json
import time
from importlib.metadata import version
from pathlib import Path
from statistics import fmean

import torch

from pyro_vae import VAE, fit, load_data
from pyro_vae.training import PRECISIONS

EPOCHS, SEEDS = 40, (0, 1, 2)


def main():
    torch.set_num_threads(1)
    data = load_data("mnist-5k", binarize="dynamic")
    runs = []
    for precision in PRECISIONS:
        for seed in SEEDS:
            torch.manual_seed(seed)
            vae = VAE(data.shape, latent_size=20)
            began = time.process_time()
            last = fit(vae, data, epochs=EPOCHS, seed=seed, precision=precision)[-1]
            seconds = time.process_time() - began
            runs.append(
                {
                    "precision": precision,
                    "seed": seed,
                    "test_elbo": round(last.test_elbo, 3),
                    "processor_seconds": round(seconds, 1),
                }
            )
            print(runs[-1], flush=True)
    mean = {p: fmean(r["test_elbo"] for r in runs if r["precision"] == p) for p in PRECISIONS}
    result = {
        "protocol": f"mnist-5k, dynamic, VAE with 20 latents, {EPOCHS} epochs, one thread; test "
        "ELBO in nats per image, evaluated in float32",
        "command": "python benchmarks/precision.py",
        "versions": {p: version(p) for p in ("torch", "pyro-ppl")},
        "runs": runs,
        "mean_test_elbo": {p: round(v, 3) for p, v in mean.items()},
        "bfloat16_minus_float32": round(mean["bfloat16"] - mean["float32"], 3),
    }
    file = Path(__file__).parent / "results" / "precision.json"
    file.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

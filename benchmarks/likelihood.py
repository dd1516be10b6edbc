"""How much of the machine's own matrix-product rate the importance estimate of log p(x) reaches.

The estimate of a 784-200-200-50 VAE (its decoder makes 413,600 floating-point operations for a draw
of z) and a product of two square matrices, by turns in one process; then the peak memory of fresh
processes, over the number of draws and of images. On a CPU the clock is the process's own CPU time
on one thread, so that what else runs on the machine counts for little.

    python benchmarks/likelihood.py --out benchmarks/results/likelihood.json
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch

from pyro_vae.data import load_data
from pyro_vae.evaluation.importance import importance
from pyro_vae.vae import VAE

HIDDEN, LATENT = (200, 200), 50
FLOPS = 2 * (LATENT * 200 + 200 * 200 + 200 * 784)
"""Multiplications and additions of the decoder for one draw of z."""


def prepared(count: int, device: str):
    torch.manual_seed(0)
    vae = VAE((1, 28, 28), LATENT, hidden=HIDDEN).to(device)
    images = load_data("mnist-5k", binarize="dynamic").test.subset(torch.arange(count))
    return vae, images.to(device)


def seconds(work, device: str) -> float:
    """The time that ``work()`` takes, all kernels included."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def rates(count: int, samples: int, rounds: int, device: str) -> dict:
    """Operations per second of both, the best of several rounds taken by turns."""
    vae, images = prepared(count, device)
    size = 2048 if device == "cpu" else 16384
    a = torch.randn(size, size, device=device)

    def product() -> float:
        return 2 * size**3 / seconds(lambda: a @ a, device)

    def estimate() -> float:
        run = lambda: importance(vae.model, vae.guide, images, samples=samples)  # noqa: E731
        return count * samples * FLOPS / seconds(run, device)

    pairs = [(product(), estimate(), product()) for _ in range(rounds)]
    own = max(max(before, after) for before, _, after in pairs)
    reached = max(middle for _, middle, _ in pairs)
    return {
        "images": count,
        "samples": samples,
        "rounds": rounds,
        "matrix_product_gflops": round(own / 1e9, 1),
        "estimate_gflops": round(reached / 1e9, 1),
        "share": round(reached / own, 3),
        "share_of_each_round": [round(b / max(a, c), 3) for a, b, c in pairs],
        "seconds_for_10000_images_at_5000": round(10_000 * 5000 * FLOPS / reached, 1),
    }


def peak(count: int, samples: int, device: str) -> float:
    """Peak memory in MiB that the estimate adds in this process."""
    vae, images = prepared(count, device)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        importance(vae.model, vae.guide, images, samples=samples)
        return torch.cuda.max_memory_allocated() / 2**20
    importance(vae.model, vae.guide, images.subset(torch.arange(1)), samples=1)  # what is once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    importance(vae.model, vae.guide, images, samples=samples)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--device", default="cpu")
    options.add_argument("--images", type=int, default=20)
    options.add_argument("--rounds", type=int, default=8)
    options.add_argument("--out", type=Path)
    options.add_argument("--peak", type=int, nargs=2, metavar=("IMAGES", "SAMPLES"))
    given = options.parse_args()
    torch.set_num_threads(1)
    if given.peak:
        count, samples = given.peak
        print(peak(count, samples, given.device))
        return
    memory = []
    for count, samples in ((20, 500), (20, 5000), (20, 50_000), (400, 500)):
        command = [sys.executable, __file__, "--peak", str(count), str(samples)]
        command += ["--device", given.device]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        memory.append({"images": count, "samples": samples, "mib": round(float(text), 1)})
    cpu = given.device == "cpu"
    result = {
        "what": "importance estimate of log p(x), float32, MLP 50-200-200-784, Bernoulli",
        "command": " ".join(["python", *sys.argv]),
        "device": platform.machine() if cpu else torch.cuda.get_device_name(),
        "clock": "process CPU time, 1 thread" if cpu else "wall time",
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "pyro-ppl", "numpy")},
        "rate": rates(given.images, 5000, given.rounds, given.device),
        "peak_memory": memory,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()

"""What the guards of a compiled step cost: the VAE 784-400-20 at batch 128, with and without them.

    python benchmarks/guards.py                     # 15 rounds of 50 steps, processor time
    python benchmarks/guards.py --rounds 3          # a short look

Three ways to take the same step take turns in one process. "guards" compares the state of the
programs before each step and checks the sites inside the graph. "no checks" switches Pyro's
validation off, as ``fit`` does. "neither" also skips the comparison. It prints the median
milliseconds of each, the ratios of medians, and the microseconds of one comparison.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from statistics import median

import pyro
import torch
from pyro.infer import Trace_ELBO

from pyro_vae import VAE
from pyro_vae.compiling import CompiledSVI, FusedAdam

BATCH, PIXELS = 128, (1, 28, 28)


def stepper(images: torch.Tensor, checks: bool, backend: str):
    """A function that takes one step, after it has compiled."""
    pyro.set_rng_seed(0)
    vae = VAE(PIXELS, latent_size=20, hidden=(400,))
    svi = CompiledSVI(vae.model, vae.guide, FusedAdam({"lr": 1e-3}), Trace_ELBO(), backend=backend)
    with pyro.validation_enabled(checks):
        for _ in range(4):
            svi.step(images)
    (step,) = svi.elbo.steps.values()
    (bound,) = step.bounds
    step.next_check = 10**9  # a second trace is no cost of a step
    holds = bound.holds

    def take(guards: bool = True) -> float:
        bound.holds = holds if guards else lambda: True  # type: ignore[method-assign]
        with pyro.validation_enabled(checks):
            return svi.step(images)

    return take, bound


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--backend", default="inductor", choices=("inductor", "eager"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = (torch.rand(BATCH, *PIXELS) < 0.3).float()
    checked, _ = stepper(images, True, options.backend)
    plain, bound = stepper(images, False, options.backend)
    contenders = {"guards": checked, "no checks": plain, "neither": partial(plain, False)}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, take in contenders.items():
            take()
            began = time.process_time()
            for _ in range(options.steps):
                take()
            times[name].append((time.process_time() - began) / options.steps * 1e3)
    for name, values in times.items():
        print(f"{name:10s} {median(values):.3f} ms a step (fastest {min(values):.3f})")
    base = median(times["neither"])
    print(f"comparison of state: {median(times['no checks']) / base - 1:+.1%}")
    print(f"checks in the graph: {median(times['guards']) / median(times['no checks']) - 1:+.1%}")
    began = time.process_time()
    for _ in range(2000):
        bound.watch.unchanged()
    spent = (time.process_time() - began) / 2000
    print(f"one comparison of {len(bound.watch.places)} places: {spent * 1e6:.0f} µs")


if __name__ == "__main__":
    main()

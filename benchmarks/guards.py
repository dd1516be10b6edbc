"""What the guards of a compiled step cost: the VAE 784-400-20 at batch 128, with and without them.

    python benchmarks/guards.py                     # 150 rounds, processor time
    python benchmarks/guards.py --rounds 20         # a short look

Three ways to take the same step take turns in one process, in a random order in each round.
"guards" compares the state of the programs before each step and checks the sites inside the graph.
"no checks" switches Pyro's validation off, as ``fit`` does. "neither" also skips the comparison. It
prints the median milliseconds of each, and what the guards add: the median over the rounds, with
the standard error of the median. It also times the comparison alone where it happens, between two
steps that fill the caches of the processor.
"""

from __future__ import annotations

import argparse
import random
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
    holds, spent = bound.holds, []

    def timed() -> bool:
        began = time.process_time()
        valid = holds()
        spent.append(time.process_time() - began)
        return valid

    def take(guards: bool = True) -> float:
        bound.holds = timed if guards else lambda: True  # type: ignore[method-assign]
        with pyro.validation_enabled(checks):
            return svi.step(images)

    return take, bound, spent


def spread(values: list[float]) -> float:
    """The standard error of the median, from 200 draws with replacement."""
    medians = sorted(median(random.choices(values, k=len(values))) for _ in range(200))
    return (medians[168] - medians[31]) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--backend", default="inductor", choices=("inductor", "eager"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    images = (torch.rand(BATCH, *PIXELS) < 0.3).float()
    checked, *_ = stepper(images, True, options.backend)
    plain, bound, spent = stepper(images, False, options.backend)
    contenders = {"guards": checked, "no checks": plain, "neither": partial(plain, False)}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name in random.sample(list(contenders), len(contenders)):
            take = contenders[name]
            take()
            taken = []
            for _ in range(options.steps):
                began = time.process_time()
                take()
                taken.append((time.process_time() - began) * 1e3)
            times[name].append(median(taken))
    for name, values in times.items():
        print(f"{name:10s} {median(values):.3f} ms a step (fastest {min(values):.3f})")
    for label, more, less in (
        ("comparison of state", "no checks", "neither"),
        ("checks in the graph", "guards", "no checks"),
    ):
        added = [a - b for a, b in zip(times[more], times[less], strict=True)]
        base = median(times[less])
        print(f"{label}: {median(added) / base:+.1%} ± {spread(added) / base:.1%}")
    alone = median(spent) * 1e3
    print(f"the comparison alone: {alone:.3f} ms, {alone / median(times['neither']):.1%} of a step")
    print(f"{len(bound.watch.places)} places and {len(bound.tensors)} tensors are compared")


if __name__ == "__main__":
    main()

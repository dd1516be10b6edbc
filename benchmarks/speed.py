"""Speed of a training step and of an epoch, beside hand-written torch, Pyro, pythae and NumPyro.

    python benchmarks/speed.py --data FOLDER            # wall clock, all cores: a quiet machine
    python benchmarks/speed.py --data FOLDER --one-core # processor time of one core: a shared one
    python benchmarks/speed.py --data FOLDER --only profile   # where a step's time goes
    python benchmarks/speed.py --data FOLDER --one-core --only pays   # what compiling saves

Contenders take turns in one process, a few steps each, for a number of rounds; what is compared
are ratios of the medians over rounds. Their losses must agree within 6 %. FOLDER holds MNIST in
torchvision's layout; without one, random images are used and no epoch is run. NumPyro comes with
``pip install -e '.[benchmarks]'``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = {"pyro-ppl": "pyro"} | {p: p for p in ("torch", "numpy", "jax", "numpyro", "pythae")}


def images_of(folder):
    import numpy as np
    import torch

    if folder is None:
        return torch.randint(256, (60_000, 784), dtype=torch.uint8)
    file = Path(folder) / "MNIST" / "raw" / "train-images-idx3-ubyte"
    return torch.from_numpy(np.fromfile(file, dtype=np.uint8)[16:].reshape(-1, 784).copy())


def take_turns(runs, batches_of, rounds, clock, warm=5):
    """Milliseconds a step of each contender, by round, and its mean loss over the later half."""
    for run in runs.values():
        for _ in range(warm):
            run(batches_of())
    times: dict[str, list[float]] = {name: [] for name in runs}
    losses: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            batches = batches_of()
            began = clock()
            losses[name].append(run(batches))
            times[name].append((clock() - began) / len(batches) * 1e3)
    return times, {name: fmean(v[rounds // 2 :]) for name, v in losses.items()}


def summary(times):
    quarters = {name: quantiles(t, n=4) for name, t in times.items()}
    return {
        name: {
            "median_ms": round(median(t), 3),
            "quartiles_ms": [round(quarters[name][0], 3), round(quarters[name][2], 3)],
            "min_ms": round(min(t), 3),
        }
        for name, t in times.items()
    }


def ratio(times, a, b):
    return round(median(times[a]) / median(times[b]), 3)


def same_loss(losses, slack=0.06):
    """Whether all contenders train alike, within the noise of few images."""
    values = [v for v in losses.values() if v]
    if max(values) - min(values) > slack * min(values):
        raise SystemExit(f"the contenders do not reach the same loss: {losses}")


def steps(images, rounds, clock, per_turn):
    import torch
    from peers import CASES, CONTENDERS

    found = {}
    for label, case in CASES.items():
        made = {name: make(case, images) for name, make in CONTENDERS.items()}
        runs = {name: run for name, run in made.items() if run is not None}
        n = per_turn if case.particles == 1 else max(per_turn // 3, 3)

        def batches_of(n=n, case=case):
            return torch.randint(len(images), (n, case.batch))

        times, losses = take_turns(runs, batches_of, rounds, clock)
        same_loss(losses)
        found[label] = {
            "times": summary(times),
            "loss_nats_per_image": {k: round(v, 2) for k, v in losses.items() if v},
            "ratios": {
                "ours / hand-written compiled": ratio(times, "ours", "hand-written, compiled"),
                "Pyro SVI / ours": ratio(times, "Pyro SVI", "ours"),
                "floor / ours": ratio(times, "matrix products alone", "ours"),
                **(
                    {"ours / NumPyro": ratio(times, "ours", "NumPyro")} if "NumPyro" in runs else {}
                ),
            },
        }
        print(label, json.dumps(found[label]["ratios"]), json.dumps(found[label]["times"]["ours"]))
    return found


def epochs(images, folder, rounds, clock):
    import torch
    from peers import CONTENDERS, Case, ours_from_images, tutorial_epoch

    case = Case()
    names = ("hand-written, compiled", "NumPyro", "matrix products alone")
    runs = {"ours": ours_from_images(case, images)}
    runs |= {name: CONTENDERS[name](case, images) for name in names}
    if folder is not None:
        runs["Pyro tutorial loop"] = tutorial_epoch(case, folder)
    n = len(images) // case.batch

    def batches_of():
        return torch.randperm(len(images))[: n * case.batch].view(n, case.batch)

    times, losses = take_turns(runs, batches_of, rounds, clock, warm=1)
    same_loss(losses, slack=0.03)
    seconds = {k: [round(t * n / 1e3, 3) for t in v] for k, v in times.items()}
    found: dict[str, Any] = {
        "protocol": "60,000 images, batch 128, 784-400-20, binarised anew, data handling included",
        "seconds": seconds,
        "loss_nats_per_image": {k: round(v, 2) for k, v in losses.items()},
        "ratios": {
            "ours / NumPyro": ratio(times, "ours", "NumPyro"),
            "ours / hand-written compiled": ratio(times, "ours", "hand-written, compiled"),
            "floor / ours": ratio(times, "matrix products alone", "ours"),
        },
    }
    if folder is not None:
        found["ratios"]["Pyro tutorial loop / ours"] = ratio(times, "Pyro tutorial loop", "ours")
    print("epoch", json.dumps(found))
    return found


KINDS = {  # of work, by the names that torch's profiler gives
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "random numbers": ("aten::uniform_", "aten::normal_"),
    "Adam": ("aten::_fused_adam_", "aten::_foreach_add_", "aten::add_"),
    "all else, fused": ("graph_",),
}


def profile(images, steps=250):
    """Microseconds of a step of ours by the kind of work, wall clock; what is left of the step is
    Python and allocation."""
    import torch
    from peers import CASES, ours
    from torch.profiler import ProfilerActivity

    found = {}
    for label, case in CASES.items():
        # Each kernel that Inductor makes then tells the profiler its name.
        with torch._inductor.config.patch({"cpp.enable_kernel_profile": True}):
            run = ours(case, images)
            for _ in range(2):
                run(torch.randint(len(images), (300, case.batch)))  # past the look at call 256
        took = []
        for _ in range(5):
            batches = torch.randint(len(images), (steps // 5, case.batch))
            began = time.perf_counter()
            run(batches)
            took.append((time.perf_counter() - began) / len(batches) * 1e6)
        with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as seen:
            run(torch.randint(len(images), (steps, case.batch)))
        events = {e.key: e.self_cpu_time_total / steps for e in seen.key_averages()}
        parts = {
            kind: round(sum(t for name, t in events.items() if name.startswith(names)), 1)
            for kind, names in KINDS.items()
        }
        whole = round(median(took), 1)
        parts["Python, allocation"] = round(whole - sum(parts.values()), 1)
        kernels = {k: round(t, 1) for k, t in events.items() if k.startswith("graph_")}
        largest = sorted(kernels.items(), key=lambda item: -item[1])[:3]
        found[label] = {
            "step_us": whole,
            "parts_us": parts,
            "largest_fused_kernels_us": dict(largest),
        }
        print(label, json.dumps(found[label]))
    return {"clock": "wall clock", "cases": found}


SETTINGS: dict[
    str, tuple[dict[str, Any], dict[str, Any]]
] = {  # of the library's own VAE and of fit
    "mlp, batch 128": ({}, {}),
    "mlp, batch 20": ({}, {"batch_size": 20}),
    "mlp, iwae k = 5": ({}, {"objective": "iwae(num_particles=5)"}),
    "conv, batch 128": ({"network": "conv"}, {}),
    "mlp, iaf": ({"guide": "iaf"}, {}),
}


# Compilers are then children of the process itself, and their time can be asked for.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}


def pays(folder, one_core):
    """Seconds of an epoch of ``fit`` with and without compiling, and what compiling took, with
    nothing compiled before: a process and an empty cache for each. On one core they are seconds of
    the processor, with one thread, else seconds of the clock."""
    found, threads = {}, ONE_THREAD if one_core else {}
    for label in SETTINGS:
        with TemporaryDirectory() as cache:
            out = subprocess.run(
                [sys.executable, __file__, "--pays-of", label]
                + (["--data", folder] if folder else [])
                + (["--one-core"] if one_core else []),
                env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache} | threads,
                capture_output=True, text=True, check=True,
            )  # fmt: skip
        found[label] = json.loads(out.stdout.splitlines()[-1])
        print(label, found[label])
    return found


def pays_of(label, folder, one_core, epochs=4):
    import torch

    from pyro_vae import VAE, fit
    from pyro_vae.data import Data
    from pyro_vae.data.images import Images
    from pyro_vae.history import Callback

    class Clock(Callback):
        """The time at the start and after each epoch; that of processors has that of compilers."""

        def __init__(self):
            self.times = [now()]

        def on_epoch(self, record):
            self.times.append(now())

    def now():
        return sum(os.times()[:4]) if one_core else time.perf_counter()

    settings, options = SETTINGS[label]
    images = images_of(folder)[:12_000].view(-1, 1, 28, 28)
    train, test = (Images(part, binarize="dynamic") for part in images.split([10_000, 2_000]))
    took = {}
    for compiled in (False, True):
        torch.manual_seed(0)
        clock = Clock()
        fit(
            VAE((1, 28, 28), **settings), Data(label, train, test, test),
            epochs=epochs, compiled=compiled, **options,
            callback=clock,
        )  # fmt: skip
        took[compiled] = [b - a for a, b in pairwise(clock.times)]
    eager, later = min(took[False]), min(took[True][1:])
    steps = -(-len(train) // options.get("batch_size", 128))
    result = {
        "epoch_s": round(eager, 2),
        "compiled_epoch_s": round(later, 2),
        "saved": round(1 - later / eager, 3),
        "saved_ms_a_step": round((eager - later) / steps * 1e3, 1),
        "compiling_s": round(took[True][0] - later, 1),
        "pays_after_s": round((took[True][0] - later) / (1 - later / eager), 1),
    }
    print(json.dumps(result))


def growth(images, rounds, clock):
    """Step time of ours and of the floor as one size grows."""
    import torch
    from peers import CONTENDERS, Case

    axes = {
        "batch": [Case(batch=b) for b in (16, 64, 256, 1024, 4096)],
        "latent": [Case(latents=(z,)) for z in (2, 16, 64, 256)],
        "particles": [Case(particles=k, batch=20) for k in (1, 8, 32, 128)],
        "layers": [Case((200,), (32,) * n) for n in (1, 2, 3, 5)],
    }
    found = {}
    for axis, cases in axes.items():
        rows = []
        for case in cases:
            names = ("ours", "matrix products alone")
            runs = {name: CONTENDERS[name](case, images) for name in names}

            def batches_of(case=case):
                return torch.randint(len(images), (3, case.batch))

            times, _ = take_turns(runs, batches_of, rounds, clock, warm=2)
            size = {"latent": case.latents[0], "layers": len(case.latents)}.get(axis)
            rows.append(
                {
                    axis: size or getattr(case, axis),
                    "ours_ms": round(median(times["ours"]), 3),
                    "floor_ms": round(median(times["matrix products alone"]), 3),
                }
            )
            print(axis, rows[-1])
        found[axis] = rows
    return found


def growth_figure(found, file):
    """How the step's time grows with each size, beside that of its matrix products."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(3 * len(found), 2.8), sharey=True)
    for ax, (axis, rows) in zip(axes, found.items(), strict=True):
        sizes = [row[axis] for row in rows]
        ax.loglog(sizes, [row["ours_ms"] for row in rows], "o-", label="compiled step")
        ax.loglog(sizes, [row["floor_ms"] for row in rows], "o:", label="matrix products alone")
        ax.set_xticks(sizes, [str(size) for size in sizes])
        ax.minorticks_off()
        ax.set_xlabel(axis)
    axes[0].set_ylabel("ms a step")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def memory(folder):
    """Largest resident memory of a process that runs 110 steps, everything included, in MiB."""
    found = {}
    for name in ("ours", "hand-written, compiled", "hand-written, eager"):
        command = [sys.executable, __file__, "--memory-of", name]
        out = subprocess.run(
            command + (["--data", folder] if folder else []),
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found[name] = float(out.stdout.split()[-1])
    return found


def memory_of(name, folder):
    import torch
    from peers import CONTENDERS, Case

    images = images_of(folder)
    run = CONTENDERS[name](Case(), images)
    run(torch.randint(len(images), (10, 128)))  # compiles

    def resident():
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024

    peak = resident()
    for _ in range(10):
        run(torch.randint(len(images), (10, 128)))
        peak = max(peak, resident())
    print(peak)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", help="folder that holds MNIST/raw")
    parser.add_argument("--one-core", action="store_true", help="processor time of one core")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20, help="steps in a turn")
    parser.add_argument("--only", nargs="+", default=["steps", "epochs", "growth", "memory"])
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--pays-of", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one_core:  # before torch and jax count the cores
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        os.environ["OMP_NUM_THREADS"] = "1"
    if not (given.memory_of or given.pays_of) and find_spec("pythae") is None:
        print("pythae is not installed and is left out (pip install --no-deps pythae)")
    import torch

    if given.memory_of:
        return memory_of(given.memory_of, given.data)
    torch.set_num_threads(1 if given.one_core else len(os.sched_getaffinity(0)))
    if given.pays_of:
        return pays_of(given.pays_of, given.data, given.one_core)
    clock = time.process_time if given.one_core else time.perf_counter
    images = images_of(given.data)
    parts = {
        "steps": lambda: steps(images, given.rounds, clock, given.steps),
        "epochs": lambda: epochs(images, given.data, given.rounds, clock),
        "growth": lambda: growth(images, 5, clock),
        "memory": lambda: memory(given.data),
        "profile": lambda: profile(images),
        "pays": lambda: pays(given.data, given.one_core),
    }
    file = RESULTS / ("speed-one-core.json" if given.one_core else "speed.json")
    result = json.loads(file.read_text()) if file.exists() else {}
    result |= {
        "protocol": {
            "clock": "processor time, one core" if given.one_core else "wall clock, all cores",
            "images": "random" if given.data is None else "MNIST training set",
            "rounds": given.rounds,
            "steps_in_a_turn": given.steps,
            "command": "python benchmarks/speed.py --data FOLDER"
            + (" --one-core" if given.one_core else ""),
        },
        "machine": {"cores": os.cpu_count(), "processor": processor(), "gpu": "none"},
        "versions": {p: version(p) for p in PACKAGES if find_spec(PACKAGES[p])}
        | {"python": platform.python_version()},
    }
    for name in given.only:
        result[name] = parts[name]()
        RESULTS.mkdir(exist_ok=True)
        file.write_text(json.dumps(result, indent=1) + "\n")
    if "growth" in given.only:
        growth_figure(result["growth"], file.with_name(f"{file.stem}-growth.png"))
    return None


def processor():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (x.partition(":")[2].strip() for x in lines if "model name" in x), platform.machine()
    )


if __name__ == "__main__":
    main()

"""Speed of a training step and of an epoch, beside hand-written torch, Pyro and NumPyro.

    python benchmarks/speed.py --data FOLDER            # wall clock, all cores: a quiet machine
    python benchmarks/speed.py --data FOLDER --one-core # processor time of one core: a shared one

Contenders take turns in one process, a few steps each, for a number of rounds; what is compared
are ratios of the medians over rounds. All must have come to the same loss. FOLDER holds MNIST in
torchvision's layout; without one, random images are used and no epoch is run.
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
from pathlib import Path
from statistics import fmean, median, quantiles

RESULTS = Path(__file__).parent / "results"


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
    times = {name: [] for name in runs}
    losses = {name: [] for name in runs}
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
    names = ("hand-written, compiled", "NumPyro")
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
    found = {
        "protocol": "60,000 images, batch 128, 784-400-20, binarised anew, data handling included",
        "seconds": seconds,
        "loss_nats_per_image": {k: round(v, 2) for k, v in losses.items()},
        "ratios": {
            "ours / NumPyro": ratio(times, "ours", "NumPyro"),
            "ours / hand-written compiled": ratio(times, "ours", "hand-written, compiled"),
        },
    }
    if folder is not None:
        found["ratios"]["Pyro tutorial loop / ours"] = ratio(times, "Pyro tutorial loop", "ours")
    print("epoch", json.dumps(found))
    return found


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
    given = parser.parse_args()
    if given.one_core:  # before torch and jax count the cores
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    if given.memory_of:
        return memory_of(given.memory_of, given.data)
    torch.set_num_threads(1 if given.one_core else len(os.sched_getaffinity(0)))
    clock = time.process_time if given.one_core else time.perf_counter
    images = images_of(given.data)
    parts = {
        "steps": lambda: steps(images, given.rounds, clock, given.steps),
        "epochs": lambda: epochs(images, given.data, 5, clock),
        "growth": lambda: growth(images, 5, clock),
        "memory": lambda: memory(given.data),
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
        "versions": {p: version(p) for p in ("torch", "pyro-ppl", "jax", "numpyro", "numpy")}
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

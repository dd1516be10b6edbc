"""Memory and images per second of training on images on disk, beside images in memory.

    python benchmarks/stored.py

It writes arrays of 28 x 28 pixels to a temporary folder, trains one epoch in a process of its own
for each, and writes ``benchmarks/results/stored.json``. ``anonymous`` is the largest memory of the
process without the pages of the mapped file, which the system drops when memory is short.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from pyro_vae import VAE, Callback, Position, fit, load_data
from pyro_vae.data import open_data

RESULT = Path(__file__).parent / "results" / "stored.json"
COUNTS = (10_000, 100_000)
STEPS = 150


class Watch(Callback):
    """The largest memory of the process, and the time of the steps; ends after some steps."""

    def __init__(self) -> None:
        self.peak, self.times = 0, [time.perf_counter()]

    def on_step(self, images: int, position: Position) -> None:
        status = Path("/proc/self/status").read_text()
        self.peak = max(self.peak, int(status.partition("RssAnon:")[2].split()[0]))
        self.times.append(time.perf_counter())
        if len(self.times) > STEPS:
            raise KeyboardInterrupt


def measure(path: str, kind: str) -> dict[str, Any]:
    """Train on an array; the memory and the images per second.

    Args:
        path: the array.
        kind: ``memory``, ``disk``, or ``workers`` for a loader with two of them.
    """
    torch.set_num_threads(1)
    watch = Watch()
    data: Any
    some: Any
    if kind == "memory":
        data = load_data(path, binarize="dynamic", validation=0).train
        some = data.first(10_000)
    else:
        data = open_data(path, binarize="dynamic", validation=0).train
        some = data.sample()
    vae = VAE.for_data(some, 20)
    if kind == "workers":
        data = DataLoader(data, batch_size=100, shuffle=True, num_workers=2)
    size: Any = {} if kind == "workers" else {"batch_size": 100}
    with suppress(KeyboardInterrupt):
        fit(vae, data, epochs=1, compiled=False, callback=watch, **size)
    half = len(watch.times) // 2  # the first steps also start the workers
    seconds = watch.times[-1] - watch.times[half]
    speed = 100 * (len(watch.times) - 1 - half) / seconds
    return {"anonymous_mb": round(watch.peak / 1024), "images_per_second": round(speed)}


def main() -> None:
    if len(sys.argv) == 3:
        print(json.dumps(measure(*sys.argv[1:])))
        return
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for count in COUNTS:
            path = Path(folder) / f"{count}.npy"
            array = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 28, 28))
            random = np.random.default_rng(0)
            for start in range(0, count, 10_000):
                array[start : start + 10_000] = random.integers(0, 256, (10_000, 28, 28))
            del array
            for kind in ("memory", "disk", "workers"):
                command = [sys.executable, __file__, str(path), kind]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                results.append({"images": count, "kind": kind, **json.loads(done.stdout)})
                print(results[-1])
            path.unlink()
    about = {
        "command": "python benchmarks/stored.py",
        "steps": STEPS,
        "machine": f"{platform.machine()}, {platform.python_version()}, 1 thread",
        "versions": {n: version(n) for n in ("pyro-vae", "pyro-ppl", "torch", "numpy")},
        "results": results,
    }
    RESULT.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()

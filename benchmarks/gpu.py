"""Speed of a training step on a CUDA GPU, beside hand-written CUDA graphs and Pyro's SVI.

    python benchmarks/gpu.py --data FOLDER --only "VAE 784-400-20, batch 128"
    python benchmarks/gpu.py --data FOLDER --only "IWAE 784-200-200-50, k = 50, batch 20"

Contenders take turns in one process, an epoch of MNIST each, for a number of rounds; what is
compared are ratios of the medians over rounds. Each case is a process of its own. All have the same
network, Adam and loss, gather their batch from uint8 images on the device, and draw its pixels
anew. Their losses must agree within 6 %. FOLDER holds MNIST in torchvision's layout; without one,
random images are used, and Pyro's example, which reads MNIST through a DataLoader, is not run.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pyro
import torch
import torch.nn.functional as F
from peers import LR, Case, Net, Programs, binarise, objective
from pyro.infer import SVI, Trace_ELBO
from speed import images_of, ratio, same_loss, summary
from torch import Tensor

from pyro_vae.compiling import CompiledSVI, FusedAdam

CASES = {
    "VAE 784-400-20, batch 128": Case(),
    "IWAE 784-200-200-50, k = 50, batch 20": Case((200, 200), (50,), 20, 50),
}
HAND = "hand-written, one CUDA graph"
HAND_COMPILED = "hand-written, torch.compile in one CUDA graph"
OURS, SEEDED, SLOW = "ours", "ours, each step seeded", "Pyro SVI"


def programs(case: Case) -> Programs:
    torch.manual_seed(0)
    return Programs(case).cuda()


def ours(case: Case, images: Tensor, seeded: bool = False) -> Any:
    net, numbers = programs(case), iter(range(1 << 30))

    def seed() -> None:
        torch.cuda.manual_seed(next(numbers))

    svi = CompiledSVI(
        net.model, net.guide, FusedAdam({"lr": LR}), objective(case), binarise,
        before_step=seed if seeded else None,
    )  # fmt: skip
    return lambda batches: svi.epoch(images, batches).mean().item() / case.batch


def pyro_svi(case: Case, images: Tensor) -> Any:
    """One Python call for each batch, with Pyro's Adam; the images are on the device."""
    net = programs(case)
    adam = pyro.optim.Adam({"lr": LR})  # type: ignore[attr-defined]  # Pyro makes it at run time
    svi = SVI(net.model, net.guide, adam, loss=objective(case))

    def run(batches: Tensor) -> float:
        return sum(svi.step(binarise(images[index])) for index in batches) / batches.numel()

    return run


def hand_loss(net: Net, case: Case, images: Tensor, index: Tensor) -> Tensor:
    """Minus the importance-weighted bound (the ELBO if K = 1), summed over the batch."""
    x, k = binarise(images[index]), case.particles
    ((mean, logvar),) = net.posterior(x)
    noise = torch.randn(k, *mean.shape, device=x.device)
    z = mean + noise * (logvar / 2).exp()
    log_w = 0.5 * (noise**2 + logvar - z**2).sum(-1)
    logits = net.out(z)
    target = x.expand_as(logits)
    log_w = log_w - F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)
    return -(log_w.logsumexp(0) - torch.tensor(float(k)).log()).sum()


def by_hand(case: Case, images: Tensor, compiled: bool) -> Any:
    """Forward, backward and Adam of one step, captured once and replayed."""
    torch.manual_seed(0)
    net = Net(case).cuda()
    optimizer = torch.optim.Adam(net.parameters(), lr=LR, fused=True, capturable=True)
    loss_of: Any = partial(hand_loss, net, case, images)
    if compiled:
        loss_of = torch.compile(loss_of, fullgraph=True, options={"fallback_random": True})
    place = torch.zeros(case.batch, dtype=torch.int64, device="cuda")

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(place)
        loss.backward()
        optimizer.step()
        return loss.detach()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    held = (net, optimizer, images)
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad()
    with torch.cuda.graph(graph):
        loss = step()

    def run(batches: Tensor) -> float:
        total = torch.zeros((), device="cuda")
        for index in batches:
            place.copy_(index)
            graph.replay()
            total += loss
        assert held  # the graph reads and writes their memory
        return total.item() / batches.numel()

    return run


def example(case: Case, folder: str) -> Any:
    """Pyro's example: torchvision's MNIST through a DataLoader, to the GPU batch by batch."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    data = datasets.MNIST(folder, train=True, transform=transforms.ToTensor())
    loader = DataLoader(data, case.batch, shuffle=True, drop_last=True, pin_memory=True)
    net = programs(case)
    adam = pyro.optim.Adam({"lr": LR})  # type: ignore[attr-defined]
    svi = SVI(net.model, net.guide, adam, loss=Trace_ELBO())

    def run() -> float:
        total = 0.0
        for x, _ in loader:
            x = x.cuda().view(len(x), -1)
            total += svi.step((torch.rand_like(x) < x).float())
        return total / (len(loader) * case.batch)

    return run


def timed(work: Any) -> tuple[float, float]:
    torch.cuda.synchronize()
    began = time.perf_counter()
    loss = work()
    torch.cuda.synchronize()
    return time.perf_counter() - began, loss


def compare(case: Case, images: Tensor, rounds: int) -> dict[str, Any]:
    runs = {
        OURS: ours(case, images),
        SEEDED: ours(case, images, seeded=True),
        HAND: by_hand(case, images, compiled=False),
        HAND_COMPILED: by_hand(case, images, compiled=True),
        SLOW: pyro_svi(case, images),
    }
    n = len(images) // case.batch
    times: dict[str, list[float]] = {name: [] for name in runs}
    losses: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            # SVI takes a hundred times longer, so a part of an epoch is enough.
            count = min(n, 60) if name == SLOW else n
            order = torch.randperm(len(images), device="cuda")
            batches = order[: count * case.batch].view(count, case.batch)
            seconds, loss = timed(partial(run, batches))
            if turn:
                times[name].append(seconds / count * 1e3)
                losses[name].append(loss)
    fast = [name for name in runs if name != SLOW]  # SVI has taken fewer steps
    same_loss({name: fmean(losses[name][rounds // 2 :]) for name in fast})
    return {
        "times": summary(times),
        "ratios": {
            "ours / hand-written CUDA graph": ratio(times, OURS, HAND),
            "ours / hand-written compiled CUDA graph": ratio(times, OURS, HAND_COMPILED),
            "ours, seeded / hand-written CUDA graph": ratio(times, SEEDED, HAND),
            "Pyro SVI / ours": ratio(times, SLOW, OURS),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", help="a folder with MNIST in torchvision's layout")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="*", choices=list(CASES), default=list(CASES)[:1])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu.json")
    asked = parser.parse_args()
    images = images_of(asked.data).cuda()
    found: dict[str, Any] = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    found |= {
        "device": torch.cuda.get_device_name(),
        "command": "python benchmarks/gpu.py --data FOLDER",
        "rounds": asked.rounds,
        "versions": {k: version(k) for k in ("torch", "pyro-ppl")},
    }
    found.setdefault("steps", {})
    for label in asked.only:
        pyro.clear_param_store()
        found["steps"][label] = compare(CASES[label], images, asked.rounds)
        print(label, json.dumps(found["steps"][label]), flush=True)
    case = Case()
    if asked.data and case in map(CASES.get, asked.only):
        pyro.clear_param_store()
        own, run = ours(case, images), example(case, asked.data)
        order = torch.randperm(len(images), device="cuda")[: len(images) // 128 * 128].view(-1, 128)
        timed(partial(own, order))
        turns = [(timed(partial(own, order))[0], timed(run)[0]) for _ in range(5)]
        own_s, example_s = (median(each) for each in zip(*turns, strict=True))
        found["epochs"] = {
            "turns": len(turns),
            "ours, s": round(own_s, 4),
            "Pyro's example, s": round(example_s, 3),
            "example / ours": round(example_s / own_s, 1),
        }
        print(json.dumps(found["epochs"]))
    asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

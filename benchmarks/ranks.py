"""Images per second of one training in one and in two processes, and what the exchange costs.

    python benchmarks/ranks.py            # some minutes, on a quiet machine with two cores or more
    python benchmarks/ranks.py --rounds 2 --steps 20 --only mlp

Processes of one thread each train the same VAE with the same global batch. One process, two
processes and two processes with torch's ``DistributedDataParallel`` take turns for a number of
rounds; each turn is some steps. Medians over rounds and the quartiles are written to
``results/ranks/NETWORK.json``, with the bytes that a step exchanges and its floating-point
operations, from which follows where more processes stop paying.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import socket
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from pyro_vae import VAE
from pyro_vae.compiling import CompiledSVI
from pyro_vae.noise import STEP, seed_noise
from pyro_vae.objectives import MonteCarlo
from pyro_vae.ranks import Ranks, joined
from pyro_vae.ranks.exchange import Share, exchanging, sum_gradients
from pyro_vae.sources import as_float
from pyro_vae.training import adam

RESULTS = Path(__file__).parent / "results" / "ranks"
NETWORKS = ("mlp", "conv", "residual")
IMAGES = 1024


class Bound(nn.Module):
    """The loss of a batch as one ``forward``, which DistributedDataParallel needs."""

    def __init__(self, vae: VAE, loss: Share) -> None:
        super().__init__()
        self.vae, self.loss = vae, loss

    def forward(self, x: Tensor) -> Tensor:
        from pyro_vae.ranks.draws import Draws

        with Draws(self.loss.ranks):
            return self.loss.elbo.differentiable_loss(self.vae.model, self.vae.guide, x)


class Turn:
    """Some steps of one contender in this process.

    Args:
        vae: the VAE.
        ranks: the processes that share a batch.
        batch: the images of the whole batch.
        how: ``eager``, ``compiled`` or ``ddp``.
    """

    def __init__(self, vae: VAE, ranks: Ranks, batch: int, how: str) -> None:
        self.vae, self.ranks, self.how = vae, ranks, how
        self.rows, self.taken = ranks.begin(batch), 0
        self.loss: Any = Share(MonteCarlo(), ranks) if ranks.size > 1 else MonteCarlo()
        self.optimizer = adam(vae, 1e-3)
        generator = torch.Generator().manual_seed(0)
        size = (IMAGES, 1, 28, 28)
        self.pixels = torch.randint(2, size, generator=generator, dtype=torch.uint8) * 255
        self.order = torch.arange(IMAGES).view(-1, batch)[:, self.rows]
        self.prepare = partial(as_float, dtype=torch.float32)
        if how == "compiled":
            self.svi = CompiledSVI(
                *(vae.model, vae.guide, self.optimizer, self.loss, self.prepare),
                before_step=self.seed,
            )
            self.svi.compile(self.pixels, self.order[0])
        if how == "ddp":
            self.module = DistributedDataParallel(Bound(vae, Share(MonteCarlo(), ranks)))

    def __call__(self, steps: int) -> float:
        """The seconds of some steps."""
        if self.ranks.size > 1:
            dist.barrier()
        began = time.perf_counter()
        if self.how == "ddp":
            self.steps(steps)
        else:
            with exchanging(self.ranks, self.optimizer):
                self.steps(steps)
        return time.perf_counter() - began

    def seed(self) -> None:
        """Seed the noise of the next step, as training does."""
        seed_noise(self.pixels.device, 0, STEP, self.taken)
        self.taken += 1

    def steps(self, steps: int) -> None:
        for step in range(steps):
            rows = self.order[step % len(self.order)]
            if self.how == "compiled":
                self.svi.epoch(self.pixels, rows[None])
                continue
            self.seed()
            x = self.prepare(self.pixels[rows])
            if self.how == "ddp":  # it takes the mean over processes, and the loss is a sum
                (self.module(x) * self.ranks.size).backward()
            else:
                self.loss.loss_and_grads(self.vae.model, self.vae.guide, x)
            self.optimizer.step()
            self.optimizer.zero_grad()


def exchange_alone(vae: VAE, ranks: Ranks, steps: int) -> float:
    """The seconds of some exchanges of gradients, without anything between them."""
    optimizer = adam(vae, 1e-3)
    for p in vae.parameters():
        p.grad = torch.zeros_like(p)
    dist.barrier()
    began = time.perf_counter()
    for _ in range(steps):
        sum_gradients(optimizer, ranks)
    return time.perf_counter() - began


def work(rank: int, size: int, port: int, network: str, options: argparse.Namespace) -> None:
    """What each process measures; the first one writes it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    names = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in names.items()}
    kinds = ("eager", "compiled") if options.compile else ("eager",)
    with joined() as ranks:

        def vae() -> VAE:
            return VAE((1, 28, 28), 20, network=network).train()

        many = {f"2 processes, {how}": Turn(vae(), ranks, options.batch, how) for how in kinds}
        many["2 processes, DistributedDataParallel"] = Turn(vae(), ranks, options.batch, "ddp")
        alone = {f"1 process, {how}": Turn(vae(), Ranks(), options.batch, how) for how in kinds}
        model = vae()
        times: dict[str, list[float]] = {name: [] for name in (*alone, *many, "exchange alone")}
        for turn in range(options.rounds + 1):  # the first one warms up
            for name, contender in (*alone.items(), *many.items()):
                if name in alone and rank > 0:  # the other process is idle
                    dist.barrier()
                    continue
                seconds = contender(options.steps)
                if name in alone:
                    dist.barrier()
                if turn:
                    times[name].append(seconds / options.steps)
            seconds = exchange_alone(model, ranks, options.steps)
            if turn:
                times["exchange alone"].append(seconds / options.steps)
        if rank == 0:
            write(network, options, times, model)


def write(network: str, options: argparse.Namespace, times: dict[str, Any], vae: VAE) -> None:
    """Write the results of a network, and print them."""
    numbers = sum(p.numel() for p in vae.parameters())
    x = torch.rand(1, 1, 28, 28).round()
    with FlopCounterMode(display=False) as counter:
        MonteCarlo().loss_and_grads(vae.model, vae.guide, x)
    steps = {}
    for name, each in times.items():
        low, _, high = quantiles(each, n=4) if len(each) > 1 else each * 3
        steps[name] = {"ms": 1e3 * median(each), "ms_quartiles": [1e3 * low, 1e3 * high]}
        if name != "exchange alone":
            steps[name]["images_per_second"] = options.batch / median(each)
            print(f"{network}: {name}: {steps[name]['images_per_second']:.0f} images/s")
    step, alone = steps["2 processes, eager"]["ms"], steps["exchange alone"]["ms"]
    flops = counter.get_total_flops()
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "batch_size": options.batch,
        "steps": steps,
        "share_of_exchange": alone / step,
        "parameters": numbers,
        "bytes_of_gradient": 4 * numbers,
        "flops_per_image": flops,
        "flops_per_byte_at_one_image": flops / (8 * numbers),
        "machine": {
            "cpu": platform.processor(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
        },
    }
    print(f"{network}: exchange {alone:.2f} ms, {100 * alone / step:.0f} % of an eager step")
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{network}.json").write_text(json.dumps(result, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=128, help="images of the whole batch")
    parser.add_argument("--only", choices=NETWORKS)
    parser.add_argument("--compile", action="store_true", help="compiled steps, too")
    options = parser.parse_args()
    for network in [options.only] if options.only else NETWORKS:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        mp.spawn(work, (2, port, network, options), nprocs=2)


if __name__ == "__main__":
    main()

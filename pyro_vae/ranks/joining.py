"""Join the other processes that torchrun has started."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic, sleep
from typing import Any

import torch
import torch.distributed as dist

from ..errors import InputError
from ..launch import launched, local_rank, restarts
from .alive import Watch
from .group import WATCHES, Ranks, loss_told

COMING = timedelta(minutes=5)
"""How long the processes wait for each other at the start."""
LONGEST = timedelta(hours=12)
"""How long one operation between processes may take. :class:`.alive.Watch` finds dead ones sooner,
and the others may wait long for the process 0, which measures and draws."""


def local_device(device: str) -> str:
    """The device of this process: with one GPU for each process of a host, the GPU of its number.

    Args:
        device: what the user named: ``auto``, ``cuda``, or a device.
    """
    if launched() and device in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{local_rank()}"
    return device


@contextmanager
def joined(device: str | torch.device = "cpu") -> Iterator[Ranks]:
    """A context in which the processes that torchrun has started train together.

    Without torchrun, this process is alone.

    Args:
        device: where this process trains.

    Raises:
        InputError: the processes do not find each other, or cannot, because their port is 0.
        RankError: from inside the context, if a process ended or cannot be reached.

    Example:
        >>> from pyro_vae.ranks import joined
        >>> data = load_data("digits", binarize="threshold")
        >>> with joined() as ranks:
        ...     history = fit(VAE(data.shape, 2), data, epochs=1)
        >>> ranks.size
        1
    """
    if not launched():
        yield Ranks()
        return
    store, rank, size = met()
    watch = Watch(store.clone(), rank, introduced(store, rank, size))
    watch.start()
    ranks = Ranks(rank, size)
    ranks.watch = watch
    backend = "gloo"
    if torch.device(device).type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"  # not run on GPUs yet
    WATCHES.append(watch)
    try:
        with loss_told(ranks):
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=size, timeout=LONGEST
            )
            yield ranks
    except Exception:
        watch.stop(failed=True)
        raise
    except BaseException:
        watch.stop()
        raise
    finally:
        WATCHES.remove(watch)
    watch.stop()
    dist.destroy_process_group()


def met() -> tuple[Any, int, int]:
    """torch's store, the number of this process and the number of processes.

    torchrun keeps the store when it starts the processes again, so each start has its own keys.
    """
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    if os.environ.get("MASTER_PORT") == "0":
        raise InputError(
            "the processes of this training were given the port 0, which is another one for each "
            "of them, so they cannot meet; leave torchrun's --master-port out, or name a port"
        )
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=COMING))
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"the processes of this training cannot meet at {where} "
            f"({str(error).partition(chr(10))[0]:.200}); name another place by torchrun's "
            "--master-addr and --master-port, or another --rdzv-endpoint"
        ) from None
    return dist.PrefixStore(f"start {restarts()[0]}", store), rank, size


def introduced(store: Any, rank: int, size: int) -> list[str]:
    """Host and process id of each process, once all have come."""
    store.set(f"who/{rank}", f"host {socket.gethostname()}, process id {os.getpid()}")
    store.set(f"beat/{rank}", "0")
    limit = monotonic() + COMING.total_seconds()
    while missing := [str(r) for r in range(size) if not store.check([f"who/{r}", f"beat/{r}"])]:
        if monotonic() > limit:
            raise InputError(
                f"process {', '.join(missing)} of {size} did not come within "
                f"{COMING.total_seconds() / 60:.0f} minutes; look at what it says on its host"
            )
        sleep(0.1)  # not store.wait(), in which Python does not see a Ctrl-C
    return [store.get(f"who/{r}").decode() for r in range(size)]

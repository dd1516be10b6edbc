"""Several processes on this machine, as torchrun starts them, and VAEs that they train."""

from __future__ import annotations

import multiprocessing
import os
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch

from pyro_vae import VAE, InputError, fit
from pyro_vae.contracts import Likelihood
from pyro_vae.data import Data, Images
from pyro_vae.ranks import joined
from support.commands import typed
from support.density import SHAPE
from support.rows import images_for


def launch(size: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """What ``work(*args)`` gives in each of ``size`` new processes; the exit code of one that gives
    nothing."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for rank in range(size):
        ours, theirs = spawn.Pipe(duplex=False)
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
        told = {name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"}
        process = spawn.Process(target=run, args=(told, theirs, work, args))
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    try:
        return [received(*each) for each in zip(pipes, processes, strict=True)]
    finally:
        for process in processes:
            process.join(20)
            process.kill()


def received(pipe: Any, process: Any) -> Any:
    """What a process sends, or its exit code."""
    try:
        return pipe.recv() if pipe.poll(240) else None
    except EOFError:
        process.join()
        return process.exitcode


def run(told: dict[str, str], pipe: Any, work: Callable[..., Any], args: Any) -> None:
    os.environ |= told
    torch.set_num_threads(1)
    pipe.send(work(*args))


def command(arguments: list[str], folder: Path | None = None) -> int:
    """Run ``pyro-vae``; its output goes to files in ``folder``, one for each process."""
    if folder is not None:
        log = os.open(folder / f"log-{os.environ['RANK']}", os.O_CREAT | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
    return typed(arguments)


class Case:
    """A VAE in float64 and its training.

    Args:
        vae: the arguments of the VAE.
        images, batch_size: the batches are of 6 and 7 images by default, so the rows of two
            processes are unequal.
        sgd: whether plain gradient steps are taken. Adam divides the gradient of a bias before
            batch normalization, which is 0 to rounding, by its own size.
        training: the arguments of ``fit``.
    """

    def __init__(
        self,
        vae: dict[str, Any],
        images: int = 13,
        batch_size: int = 6,
        sgd: bool = False,
        **training: Any,
    ) -> None:
        self.vae = {"latent_size": 3, "hidden": (12,)} | vae
        self.images, self.sgd = images, sgd
        self.training = {"epochs": 2, "batch_size": batch_size, "compiled": False} | training

    def train(self) -> Any:
        """Train; the weights and buffers, and the numbers of the epochs; or the refusal."""
        pyro.clear_param_store()
        torch.manual_seed(0)
        vae = VAE(SHAPE, **self.vae).double()
        x = images_for(vae, self.images, torch.float64)
        if self.vae.get("holes"):
            x = x.masked_fill(torch.rand(x.shape) < 0.3, torch.nan)
        data, test = x, x[:5]
        if Likelihood.of(vae.model.likelihood).binary:
            pixels = (255 * x).to(torch.uint8)
            data, test = Data("digits", Images(pixels), *2 * [Images(pixels[:5])]), None
        optimizer = torch.optim.SGD(vae.parameters(), 1e-3, momentum=0.9) if self.sgd else None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                history = fit(
                    vae, data, validation=test, optimizer=optimizer, progress=False, **self.training
                )
        except InputError as error:
            return str(error)
        numbers = [(r.loss, r.elbo, r.kl) for r in history]
        return {k: v.numpy() for k, v in vae.state_dict().items()}, numbers


def train_all(cases: dict[str, Case]) -> dict[str, Any]:
    """Train all cases, one after the other, together with the other processes."""
    with joined():
        return {name: case.train() for name, case in cases.items()}


def refusals(makers: list[Callable[[], Any]]) -> list[str]:
    """What ``fit`` says to each training, together with the other processes.

    Args:
        makers: each gives the arguments of ``fit``: a list of those by place and a dict.
    """
    said = []
    with joined():
        for make in makers:
            pyro.clear_param_store()
            torch.manual_seed(0)
            args, kwargs = make()
            try:
                fit(*args, **{"epochs": 1, "batch_size": 8, "compiled": False} | kwargs)
                said.append("")
            except InputError as error:
                said.append(str(error))
    return said

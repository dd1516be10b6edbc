"""The training loop. It knows a model, a guide and an objective, and nothing of what is in them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, isfinite
from typing import Any

import pyro
import torch

from .data import Data
from .evaluation import elbo
from .objectives import OBJECTIVES
from .parts import InputError, TrainingError, build


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to. All but ``epoch`` and ``seconds`` is in nats per image.

    ``loss`` is the objective's own, over the epoch's training batches. The others are the plain
    ELBO, β = 1 whatever the objective, so that training and test, and runs with different
    objectives, can be compared: ``elbo`` = ``reconstruction`` - ``kl``.
    """

    epoch: int
    loss: float
    train_elbo: float
    test_elbo: float
    test_reconstruction: float
    test_kl: float
    seconds: float


def fit(
    vae: Any,
    data: Data,
    *,
    objective: Any = "monte-carlo",
    epochs: int = 50,
    batch_size: int = 128,
    lr: float = 1e-3,
    seed: int = 0,
    optimizer: torch.optim.Optimizer | None = None,
    start: int = 0,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> list[Epoch]:
    """Train with Adam on the whole training set, ``epochs`` times.

    An epoch's noise depends on ``seed`` and on the epoch's number alone, so that training which
    is stopped and continued (``start``, with the same ``optimizer``) ends in the same weights.

    Args:
        vae: a module with ``model`` and ``guide``, Pyro programs that take a batch of images.
        data: training and test images.
        objective: a name of :data:`~pyro_vae.objectives.OBJECTIVES`, or any Pyro ELBO.
        epochs: passes over the training images, those before ``start`` included.
        batch_size: images in a step.
        lr: learning rate of Adam.
        seed: of the order of the images and of all noise.
        optimizer: a torch optimizer of your own in place of Adam; ``lr`` is then its own.
        start: epochs that have been trained before.
        on_epoch: called after each epoch with its numbers.
        on_step: called after each step with the number of images in it.

    Returns:
        The numbers of each epoch.

    Raises:
        InputError: an unknown objective, numbers out of range, or parts that do not fit the data.
        TrainingError: the loss became NaN or infinite.

    Example:
        >>> data = load("mnist-5k", binarize="dynamic")
        >>> history = fit(VAE(data.shape), data, epochs=10)
    """
    positive(epochs=epochs, batch_size=batch_size, lr=lr)
    train = data.train
    loss_of = build("objective", objective, OBJECTIVES, data_size=len(train))
    advance = getattr(loss_of, "advance", lambda epoch: None)  # Pyro's own have no schedule
    optimizer = optimizer or adam(vae, lr)
    steps = ceil(len(train) / batch_size)
    # As many training images as test images tell how far the two have come apart.
    shown = train.subset(torch.arange(min(len(train), max(len(data.test), 1))))
    history = []
    checked = False
    for epoch in range(start + 1, epochs + 1):
        began = time.perf_counter()
        good = {k: v.detach().clone() for k, v in vae.state_dict().items()}
        total = 0.0
        vae.train()
        with torch.random.fork_rng():
            torch.manual_seed(100_003 * seed + epoch)
            for step, x in enumerate(train.batches(batch_size, shuffle=True), start=1):
                advance(epoch - 1 + (step - 1) / steps)
                # Pyro checks every value of every site: once is enough, and costs a third of
                # the time if it is done at each step.
                with pyro.validation_enabled(not checked):
                    loss = loss_of.loss_and_grads(vae.model, vae.guide, x)
                checked = True
                if not isfinite(loss):
                    vae.load_state_dict(good)
                    raise TrainingError(
                        f"the loss became {loss} in epoch {epoch}, step {step}; the weights are "
                        f"those of epoch {epoch - 1}, and a smaller learning rate often helps"
                    )
                optimizer.step()
                optimizer.zero_grad()
                total += loss
                if on_step is not None:
                    on_step(len(x))
        vae.eval()
        test, before = (elbo(vae.model, vae.guide, i, seed=seed) for i in (data.test, shown))
        record = Epoch(
            epoch,
            total / len(train),
            before.elbo,
            test.elbo,
            test.reconstruction,
            test.kl,
            time.perf_counter() - began,
        )
        history.append(record)
        if on_epoch is not None:
            on_epoch(record)
    return history


def positive(**numbers: float) -> None:
    """Raise :class:`~pyro_vae.parts.InputError` unless all numbers lie above 0."""
    for name, value in numbers.items():
        if not value > 0:
            raise InputError(f"{name} is a number above 0, not {value}")


def adam(vae: torch.nn.Module, lr: float) -> torch.optim.Adam:
    """One fused Adam over all parameters: the mathematics of ``pyro.optim.Adam``, which keeps one
    optimizer for each, in a sixth of the time."""
    return torch.optim.Adam(vae.parameters(), lr=lr, fused=True)

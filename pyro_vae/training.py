"""Train a model and a guide on an objective, without looking inside them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from pyro.optim import PyroOptim
from rich.console import Console

from . import checks
from .data import Data
from .history import Callback, Callbacks, CollapseWarning, Epoch, Position, collapsed
from .interrupt import Interrupt, Interrupted
from .loop import Loop
from .progress import Bar, watched
from .ranks import current
from .settings import Settings, check_numbers

SAVED, COMPILING = 0.003, 20.0
"""The seconds that compiling saves in each step, and the seconds that it takes.

Measured on one core: compiling saves 3 to 6 ms a step for any network, because it removes Pyro's
own work, and takes 18 to 26 s with an empty cache.
"""


@torch.inference_mode(False)
def fit(
    vae: Any,
    data: Data,
    *,
    objective: Any = Settings.objective,
    epochs: int = Settings.epochs,
    batch_size: int = Settings.batch_size,
    lr: float = Settings.lr,
    schedule: Any = Settings.schedule,
    clip: float | None = Settings.clip,
    precision: str = Settings.precision,
    seed: int = Settings.seed,
    optimizer: torch.optim.Optimizer | PyroOptim | None = None,
    compiled: bool | None = None,
    start: Position | None = None,
    callback: Callback | Sequence[Callback] | None = None,
    progress: bool | None = None,
) -> list[Epoch]:
    """Train with Adam, ``epochs`` times over the whole training set.

    The order and the drawn pixels of an epoch depend only on ``seed`` and on the number of the
    epoch, and the noise of a step only on ``seed`` and on the number of the step. So training that
    stops after any step and goes on (``start``, with the same ``optimizer``) ends with the same
    weights and numbers, to the bit on the same machine. This holds for compiled steps too. Random
    numbers that a part draws without torch are not seeded.

    Where ``torch.distributed`` is initialised, all its processes call this function and train
    together: see :mod:`~pyro_vae.ranks`. Each is given all images, and takes the steps that one
    process would take.

    Args:
        vae: a module with ``model`` and ``guide``, Pyro programs that take a batch of images.
        data: training and test images. They are moved to the VAE's device.
        objective: a name of :data:`~pyro_vae.registry.OBJECTIVES`, or any Pyro ELBO. None takes
            the objective that fits the guide.
        epochs: passes over the training images, with those before ``start``.
        batch_size: images in a step. If the last batch would have one image, this image is added
            to the batch before it.
        lr: learning rate of Adam.
        schedule: how the learning rate changes, a name of :data:`~pyro_vae.registry.SCHEDULES`. It
            is a function of the share of ``epochs`` that is done.
        clip: the largest norm of a step's gradient, of the loss per image; None for no limit.
        precision: ``float32``, or ``bfloat16`` for the matrix products, by torch's autocast.
        seed: of the order of the images and of all random numbers.
        optimizer: your own optimizer in place of Adam, of torch or of ``pyro.optim``; ``lr`` is
            then not used.
        compiled: whether steps are compiled (:class:`~pyro_vae.compiling.CompiledSVI`). None
            decides by the number of steps, see :func:`pays`, and trains without compiling on a
            machine that has no C++ compiler.
        start: where to go on: the ``position`` that ``callback.on_step`` was given last, or
            ``Position(n)`` after n whole epochs. None is the beginning.
        callback: is called after steps and epochs; one or several.
        progress: whether the progress is shown on stderr: a bar in a terminal or a notebook, else
            a line for each epoch. None shows the bar, and no lines.

    Returns:
        The numbers of each epoch. Ctrl-C ends training after the step and gives the epochs so far.
        The VAE then has the weights of this step. A second Ctrl-C raises KeyboardInterrupt at once.

    Raises:
        InputError: an unknown objective, numbers out of range, parts that do not fit the data,
            nothing to train, a ``start`` that does not fit, or ``compiled=True`` without a C++
            compiler.
        TrainingError: the loss or a weight became NaN or infinite.

    Warns:
        UserWarning: Ctrl-C ended training.
        CollapseWarning: a latent site has less than 0.01 nats of KL per unit at the end. Sites
            whose units depend on each other, such as those of ``iaf``, are not checked.

    Example:
        >>> data = load_data("digits", binarize="threshold")
        >>> history = fit(VAE(data.shape, 8), data, epochs=2)
    """
    check_numbers(epochs, batch_size, lr, seed)
    checks.check_data(data)
    checks.check_vae(vae)
    optimizer = adam(vae, lr) if optimizer is None else optimizer
    checks.check_optimizer(vae, optimizer)
    start, several = start or Position(), checks.check_callbacks(callback)
    ranks = current()
    loop = Loop(
        vae, data, objective, optimizer, batch_size, precision, seed, schedule, clip, epochs, ranks
    )
    loop.check(start)
    if start.epoch >= epochs:
        return []
    if compiled:
        checks.check_compiler(loop.pixels.device)
    # By the steps of all epochs, so that a run that goes on decides as it did when it began.
    steps = loop.steps_per_epoch * epochs
    console = Console(stderr=True)
    if ranks.first and (watched(console) if progress is None else progress):
        several.append(Bar(console, epochs, len(data.train), batch_size, start))
    history: list[Epoch] = []
    with Interrupt(ranks) as interrupt, ExitStack() as stack:
        told = Callbacks([*several, interrupt])
        stack.callback(lambda: told.on_end(len(history) == epochs - start.epoch))
        loop.choose_step(pays(steps) if compiled is None else compiled, told)
        told.on_start()
        try:
            for epoch in range(start.epoch + 1, epochs + 1):
                began = time.perf_counter()
                loss = loop.run(start if epoch == start.epoch + 1 else Position(epoch - 1), told)
                history.append(loop.measure(epoch, loss, began))
                told.on_epoch(history[-1])
        except Interrupted as place:
            stack.close()  # the bar ends before the warning
            warnings.warn(
                f"Ctrl-C ended training after {place} of {epochs} epochs; the VAE has the weights "
                f"of that step, and the history has {len(history)} epochs",
                stacklevel=3,
            )
            return history
    for sentence in collapsed(history[-1]) if history else ():
        warnings.warn(sentence, CollapseWarning, stacklevel=3)  # 1 is fit, 2 its decorator
    return history


def pays(steps: int) -> bool:
    """Whether compiling so many steps saves time: :data:`SAVED` against :data:`COMPILING`."""
    return SAVED * steps > COMPILING


def adam(vae: torch.nn.Module, lr: float) -> torch.optim.Adam:
    """One fused Adam over all parameters. ``pyro.optim.Adam`` computes the same with one optimizer
    for each parameter, which takes longer."""
    parameters = list(vae.parameters())
    cuda = all(p.is_cuda for p in parameters)
    return torch.optim.Adam(parameters, lr=lr, fused=True, capturable=cuda)

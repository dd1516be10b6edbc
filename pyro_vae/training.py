"""The training loop. It uses a model, a guide and an objective, and does not look inside them."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn

import pyro
import torch
from pyro import poutine
from pyro.infer import SVI
from pyro.optim import PyroOptim
from torch import Tensor

from . import checks, objectives  # noqa: F401  (objectives fills the table)
from .compiling import HANDLERS, CompiledSVI
from .contracts import Objective
from .data import Data
from .errors import TrainingError
from .evaluation import elbo
from .history import Callback, CollapseWarning, Epoch, collapsed
from .modules import buffers_restored, mode
from .pairing import fitting_objective
from .registry import OBJECTIVES, lookup
from .settings import Settings, check_numbers

PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}
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
    precision: str = Settings.precision,
    seed: int = Settings.seed,
    optimizer: torch.optim.Optimizer | PyroOptim | None = None,
    compiled: bool | None = None,
    start: int = 0,
    callback: Callback | None = None,
) -> list[Epoch]:
    """Train with Adam, ``epochs`` times over the whole training set.

    The random numbers of an epoch depend only on ``seed`` and on the number of the epoch. So
    training that is stopped and continued (``start``, with the same ``optimizer``) ends with the
    same weights: equal to the bit without compiling, and equal up to rounding where one part was
    compiled and the other was not.

    Args:
        vae: a module with ``model`` and ``guide``, Pyro programs that take a batch of images.
        data: training and test images. They are moved to the VAE's device.
        objective: a name of :data:`~pyro_vae.registry.OBJECTIVES`, or any Pyro ELBO. None takes
            the objective that fits the guide.
        epochs: passes over the training images, including those before ``start``.
        batch_size: images in a step. If the last batch would have one image, this image is added
            to the batch before it.
        lr: learning rate of Adam.
        precision: ``float32``, or ``bfloat16`` for the matrix products, by torch's autocast.
        seed: of the order of the images and of all random numbers.
        optimizer: your own optimizer in place of Adam, of torch or of ``pyro.optim``; ``lr`` is
            then not used.
        compiled: whether steps are compiled (:class:`~pyro_vae.compiling.CompiledSVI`). None
            decides by the number of steps to come, see :func:`pays`, and trains without compiling
            on a machine that has no C++ compiler.
        start: number of epochs that have already been trained.
        callback: is called after steps and epochs.

    Returns:
        The numbers of each epoch.

    Raises:
        InputError: an unknown objective, numbers out of range, parts that do not fit the data,
            nothing to train, or ``compiled=True`` without a C++ compiler.
        TrainingError: the loss or a weight became NaN or infinite.

    Warns:
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
    callback = callback or Callback()
    loop = Loop(vae, data, objective, optimizer, batch_size, precision, seed)
    loop.check(start)
    steps = loop.steps_per_epoch * max(epochs - start, 0)
    if compiled:
        checks.check_compiler(loop.pixels.device)
    loop.choose_step(pays(steps) if compiled is None else compiled, callback)
    history = []
    for epoch in range(start + 1, epochs + 1):
        began = time.perf_counter()
        loss = loop.run(epoch, callback)
        history.append(loop.measure(epoch, loss, began))
        callback.on_epoch(history[-1])
    for sentence in collapsed(history[-1]) if history else ():
        warnings.warn(sentence, CollapseWarning, stacklevel=3)  # 1 is fit, 2 its decorator
    return history


class Loop:
    """The state of one call of :func:`fit`; its arguments are those of ``fit``."""

    def __init__(
        self,
        vae: Any,
        data: Data,
        objective: Any,
        optimizer: torch.optim.Optimizer | PyroOptim,
        batch_size: int,
        precision: str,
        seed: int,
    ) -> None:
        weight = next(vae.parameters())
        data = data.to(weight.device)
        self.vae = vae
        self.data = data
        self.optimizer = optimizer
        self.batch_size = batch_size
        self.dtype = lookup("precision", precision, PRECISIONS)
        self.seed = seed
        self.prepare = partial(as_float, dtype=weight.dtype)
        train = data.train
        if objective is None:
            objective = fitting_objective(vae, self.prepare(train.batch(slice(0, 1))))
        self.elbo = OBJECTIVES.build(objective, data_size=len(train))
        self.advance = Objective.schedule_of(self.elbo)
        # As many training images as test images show how far the two ELBOs are apart.
        self.shown = train.first(max(len(data.test), 1))
        # One place in memory for the pixels of all epochs, as a CUDA graph needs it.
        self.pixels = train.drawn().pixels
        self.steps_per_epoch = max(len(train) // batch_size, 1)

    def check(self, start: int) -> None:
        """Compute the loss of the first batch once, with all of Pyro's checks. Random numbers and
        buffers are afterwards as before.

        Raises:
            InputError: parts that do not fit the data, or a batch of one image for a part that
                needs two.
        """
        for p in (*self.vae.parameters(), *checks.held_by(self.optimizer).values()):
            p.grad = None  # a gradient from before would be added to that of the first step
        if self.advance is not None:
            self.advance(start)
        x = self.prepare(self.pixels[: self.batch_size])
        with (
            checks.one_image_told(len(x), self.batch_size),
            checks.parameters_told(),
            HANDLERS,
            torch.random.fork_rng(),
            pyro.validation_enabled(),
            mode(True, self.vae),
            buffers_restored(self.vae),
            poutine.trace(param_only=True) as used,
        ):
            self.elbo.loss(self.vae.model, self.vae.guide, x)
        checks.check_parameters(self.vae, used.trace)

    def choose_step(self, compiled: bool, callback: Callback) -> None:
        """Decide how a step is computed: by Pyro as it is, or as one compiled graph."""
        programs = (self.vae.model, self.vae.guide)
        self.together = 1
        self.step: Callable[[Tensor], Tensor] = self.eager_step
        if compiled:
            svi = CompiledSVI(*programs, self.optimizer, self.elbo, self.prepare)
            callback.on_compile()
            # A schedule moves at each step; without one, many steps are one call.
            self.together = 32 if self.advance is None else 1
            self.step = lambda rows: (
                # A batch of another size would need its own graph, which does not pay.
                svi.epoch(self.pixels, rows)
                if rows.shape[1] == self.batch_size
                else self.eager_step(rows)
            )

    def eager_step(self, rows: Tensor) -> Tensor:
        """One step on the images ``rows`` ``[1, B]``; the loss, summed over the batch, ``[1]``."""
        programs = (self.vae.model, self.vae.guide)
        x = self.prepare(self.pixels.index_select(0, rows[0]))
        with HANDLERS:
            if isinstance(self.optimizer, PyroOptim):
                loss = SVI(*programs, self.optimizer, self.elbo).step(x)
            else:
                loss = self.elbo.loss_and_grads(*programs, x)
                self.optimizer.step()
                self.optimizer.zero_grad()
        return torch.as_tensor(loss)[None]

    def run(self, epoch: int, callback: Callback) -> float:
        """Train for one epoch; the loss in nats per image.

        Raises:
            TrainingError: the loss or a weight became NaN or infinite. The VAE then has the
                weights from before the epoch.
        """
        self.good = {name: value.clone() for name, value in self.vae.state_dict().items()}
        device, count = self.pixels.device, len(self.pixels)
        losses = torch.zeros(0, device=device)
        self.vae.train()
        with (
            torch.random.fork_rng(),
            torch.enable_grad(),
            pyro.validation_enabled(False),  # check() did it once, and it takes time
            # The cache would keep the casts of the epoch's first weights.
            torch.autocast(device.type, self.dtype, enabled=bool(self.dtype), cache_enabled=False),
        ):
            torch.manual_seed(100_003 * self.seed + epoch)
            self.data.train.drawn(out=self.pixels)
            order = torch.randperm(count, device=device)
            for rows in batches(order, self.batch_size, self.together):
                if self.advance is not None:
                    self.advance(epoch - 1 + len(losses) * self.batch_size / count)
                now = self.step(rows)
                losses = torch.cat([losses, now.to(losses)])
                if not now.isfinite().all():
                    step = int(losses.isfinite().long().argmin())
                    self.stop(f"the loss became {losses[step]}", epoch, step + 1)
                callback.on_step(rows.numel())
        for p in self.vae.parameters():
            p.grad = None  # of parameters that the optimizer does not hold
        if not all(p.isfinite().all() for p in self.vae.parameters()):
            self.stop("a weight became NaN or infinite", epoch, len(losses))
        self.vae.eval()
        return losses.double().sum().item() / count

    def stop(self, what: str, epoch: int, step: int) -> NoReturn:
        """Restore the weights from before the epoch and raise a TrainingError."""
        self.vae.load_state_dict(self.good)
        raise TrainingError(
            f"{what} in epoch {epoch}, step {step}; the weights are those of epoch {epoch - 1}, "
            "and a smaller learning rate often helps"
        )

    def measure(self, epoch: int, loss: float, began: float) -> Epoch:
        """The ELBO of test and training images after an epoch that began at ``began``.

        Raises:
            TrainingError: the weights give a distribution invalid parameters, such as σ = 0.
        """
        model, guide = self.vae.model, self.vae.guide
        try:
            test = elbo(model, guide, self.data.test, seed=self.seed)
            train = elbo(model, guide, self.shown, seed=self.seed)
        except ValueError as error:
            if not str(error).startswith(
                ("Expected parameter", "Expected value")
            ):  # torch's checks
                raise
            what = f"a distribution has invalid parameters ({str(error).partition(' (Tensor')[0]})"
            self.stop(what, epoch, self.steps_per_epoch)
        if not math.isfinite(test.elbo + train.elbo):
            self.stop("the ELBO became NaN or infinite", epoch, self.steps_per_epoch)
        return Epoch(
            epoch,
            loss,
            train.elbo,
            test.elbo,
            test.reconstruction,
            test.kl,
            time.perf_counter() - began,
            {name: kl.mean().item() for name, kl in test.kl_of_sites.items()},
            {name: kl.tolist() for name, kl in test.kl_of_units.items()},
        )


def batches(order: Tensor, size: int, together: int) -> Iterator[Tensor]:
    """Cut the order of an epoch into batches, ``[together, size]`` at a time.

    A last batch of another size comes alone, ``[1, B]``. A single last image is added to the
    batch before it, because batch normalization and some objectives need two images.
    """
    whole = len(order) // size
    if len(order) - whole * size == 1 and whole > 0 and size > 1:
        whole -= 1
    if whole > 0:
        yield from order[: whole * size].view(-1, size).split(together)
    if whole * size < len(order):
        yield order[None, whole * size :]


def as_float(pixels: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Stored pixels as numbers in [0, 1]; uint8 is divided by 255.

    ``dtype`` is the type of the result; None leaves it as it is.
    """
    return (pixels / 255 if pixels.dtype == torch.uint8 else pixels).to(dtype)


def pays(steps: int) -> bool:
    """Whether compiling so many steps saves time: :data:`SAVED` against :data:`COMPILING`."""
    return SAVED * steps > COMPILING


def adam(vae: torch.nn.Module, lr: float) -> torch.optim.Adam:
    """One fused Adam over all parameters. ``pyro.optim.Adam`` computes the same with one optimizer
    for each parameter, which takes longer."""
    parameters = list(vae.parameters())
    cuda = all(p.is_cuda for p in parameters)
    return torch.optim.Adam(parameters, lr=lr, fused=True, capturable=cuda)

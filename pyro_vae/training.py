"""The training loop. It knows a model, a guide and an objective, not what is in them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from torch import Tensor

from .compiling import CompiledSVI
from .data import Data
from .evaluation import elbo
from .objectives import OBJECTIVES
from .parts import InputError, TrainingError, build, lookup

PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}
SAVED, COMPILING = 0.003, 20.0
"""The seconds that compiling saves of a step, and that it takes. Measured on one core: 3 to 6 ms,
for it is Pyro's work that goes, whatever the network; 18 to 26 s with an empty cache."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to. All but ``epoch`` and ``seconds`` is in nats per image.

    ``loss`` is the objective's own, over the epoch's training batches. The others are the plain
    ELBO, β = 1 whatever the objective, so that training and test, and runs with different
    objectives, can be compared: ``elbo`` = ``reconstruction`` - ``kl``. The test images' KL is also
    there by latent site, and by unit ``[Z]`` where a site's units are independent.
    """

    epoch: int
    loss: float
    train_elbo: float
    test_elbo: float
    test_reconstruction: float
    test_kl: float
    seconds: float
    kl_of_sites: dict[str, float] = field(default_factory=dict)
    kl_of_units: dict[str, list[float]] = field(default_factory=dict)


class CollapseWarning(UserWarning):
    """A layer of latents says next to nothing about the image."""


def collapsed(epoch: Epoch, below: float = 0.01) -> list[str]:
    """A sentence for each latent site whose mean KL per unit lies ``below`` so many nats."""
    sites = {
        name: (epoch.kl_of_sites[name] / len(kl), len(kl)) for name, kl in epoch.kl_of_units.items()
    }
    return [
        f"the latent layer {name} has collapsed: {each:.4f} nats of KL in each of its {units} units"
        f" on average, below {below}; annealed or free-bits as objective, or batch normalization,"
        " may keep it"
        for name, (each, units) in sites.items()
        if each < below
    ]


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
    precision: str = "float32",
    compiled: bool | None = None,
    start: int = 0,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: Callable[[int], None] | None = None,
    on_compile: Callable[[], None] | None = None,
) -> list[Epoch]:
    """Train with Adam on the whole training set, ``epochs`` times.

    An epoch's noise depends on ``seed`` and on the epoch's number alone, so that training which
    is stopped and continued (``start``, with the same ``optimizer``) ends in the same weights: bit
    for bit without compiling, else but for the rounding of the two ways to compute a step.

    Args:
        vae: a module with ``model`` and ``guide``, Pyro programs that take a batch of images.
        data: training and test images.
        objective: a name of :data:`~pyro_vae.objectives.OBJECTIVES`, or any Pyro ELBO.
        epochs: passes over the training images, those before ``start`` included.
        batch_size: images in a step.
        lr: learning rate of Adam.
        seed: of the order of the images and of all noise.
        optimizer: a torch optimizer of your own in place of Adam; ``lr`` is then its own.
        precision: ``float32``, or ``bfloat16`` for the matrix products by torch's autocast.
        compiled: whether steps are compiled (:class:`~pyro_vae.compiled.CompiledSVI`). None
            decides by the number of steps to come: :func:`pays`.
        start: epochs that have been trained before.
        on_epoch: called after each epoch with its numbers.
        on_step: called after each step, or some steps at once, with the number of their images.
        on_compile: called before the first compiled step.

    Returns:
        The numbers of each epoch.

    Raises:
        InputError: an unknown objective, numbers out of range, or parts that do not fit the data.
        TrainingError: the loss became NaN or infinite.

    Warns:
        CollapseWarning: a latent site carries less than 0.01 nats of KL per unit at the end.

    Example:
        >>> data = load("mnist-5k", binarize="dynamic")
        >>> history = fit(VAE(data.shape), data, epochs=10)
    """
    positive(epochs=epochs, batch_size=batch_size, lr=lr)
    dtype = lookup("precision", precision, PRECISIONS)
    train = data.train
    kind = train.pixels.device.type
    loss_of = build("objective", objective, OBJECTIVES, data_size=len(train))
    advance = getattr(loss_of, "advance", lambda epoch: None)  # Pyro's own have no schedule
    optimizer = optimizer or adam(vae, lr)
    svi = CompiledSVI(vae.model, vae.guide, optimizer, loss_of, prepare=as_float)
    # As many training images as test images tell how far the two have come apart.
    shown = train.subset(torch.arange(min(len(train), max(len(data.test), 1))))
    pixels = train.drawn().pixels
    history: list[Epoch] = []
    with torch.random.fork_rng(), pyro.validation_enabled():
        advance(start)
        loss_of.loss(vae.model, vae.guide, as_float(pixels[:batch_size]))
    for epoch in range(start + 1, epochs + 1):
        began = time.perf_counter()
        good = {name: value.clone() for name, value in vae.state_dict().items()}
        if compiled is None:
            compiled = pays(len(train) // batch_size * (epochs - start))
        if compiled and on_compile is not None:
            on_compile()
            on_compile = None
        # A schedule moves at each step; without one, many steps are one call.
        together = 32 if compiled and not hasattr(loss_of, "advanced") else 1
        losses = torch.zeros(0, device=pixels.device)
        vae.train()
        with (
            torch.random.fork_rng(),
            pyro.validation_enabled(False),  # all was checked above, and checks take time
            # A cached cast would be that of the epoch's first weights.
            torch.autocast(kind, dtype, enabled=dtype is not None, cache_enabled=False),
        ):
            torch.manual_seed(100_003 * seed + epoch)
            train.drawn(out=pixels)  # one place in memory, as a CUDA graph needs it
            order = torch.randperm(len(train), device=pixels.device)
            for rows in batches(order, batch_size, together):
                advance(epoch - 1 + len(losses) * batch_size / len(train))
                # A short last batch would be a graph of its own, which is not worth it.
                if compiled and rows.shape[1] == batch_size:
                    now = svi.epoch(pixels, rows)
                else:
                    x = as_float(pixels.index_select(0, rows[0]))
                    now = torch.as_tensor(loss_of.loss_and_grads(vae.model, vae.guide, x))[None]
                    optimizer.step()
                    optimizer.zero_grad()
                losses = torch.cat([losses, now.to(losses)])
                if not now.isfinite().all():
                    step = int(losses.isfinite().long().argmin())
                    vae.load_state_dict(good)
                    raise TrainingError(
                        f"the loss became {losses[step]} in epoch {epoch}, step {step + 1}; the "
                        f"weights are those of epoch {epoch - 1}, and a smaller learning rate "
                        "often helps"
                    )
                if on_step is not None:
                    on_step(rows.numel())
        vae.eval()
        test, before = (elbo(vae.model, vae.guide, i, seed=seed) for i in (data.test, shown))
        record = Epoch(
            epoch,
            losses.double().sum().item() / len(train),
            before.elbo,
            test.elbo,
            test.reconstruction,
            test.kl,
            time.perf_counter() - began,
            {name: kl.mean().item() for name, kl in test.kl_of_sites.items()},
            {name: kl.tolist() for name, kl in test.kl_of_units.items()},
        )
        history.append(record)
        if on_epoch is not None:
            on_epoch(record)
    for sentence in collapsed(history[-1]) if history else ():
        warnings.warn(sentence, CollapseWarning, stacklevel=2)
    return history


def batches(order: Tensor, size: int, together: int) -> Iterator[Tensor]:
    """Cut the order of an epoch into batches, ``[together, size]`` at a time; the last one, if it
    is short, comes alone."""
    whole = len(order) // size * size
    if whole > 0:
        yield from order[:whole].view(-1, size).split(together)
    if whole < len(order):
        yield order[None, whole:]


def as_float(pixels: Tensor) -> Tensor:
    """Pixels as they are kept, uint8 or float, to numbers in [0, 1]."""
    return pixels / 255 if pixels.dtype == torch.uint8 else pixels


def pays(steps: int) -> bool:
    """Whether it pays to compile so many steps: :data:`SAVED` against :data:`COMPILING`."""
    return SAVED * steps > COMPILING


def positive(**numbers: float) -> None:
    """Raise :class:`~pyro_vae.parts.InputError` unless all numbers lie above 0."""
    for name, value in numbers.items():
        if not value > 0:
            raise InputError(f"{name} is a number above 0, not {value}")


def adam(vae: torch.nn.Module, lr: float) -> torch.optim.Adam:
    """One fused Adam over all parameters: the mathematics of ``pyro.optim.Adam``, which keeps one
    optimizer for each, in less time."""
    parameters = list(vae.parameters())
    cuda = all(p.is_cuda for p in parameters)
    return torch.optim.Adam(parameters, lr=lr, fused=True, capturable=cuda)

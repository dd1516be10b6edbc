"""Train a model and a guide on an objective, without looking inside them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Unpack, overload

import torch
from pyro.optim import PyroOptim
from rich.console import Console
from torch.utils.data import DataLoader

from . import checks, objectives  # noqa: F401  (objectives fills the table)
from .batch import Batch
from .compiling import clear_subnormals
from .data import Data, Images, StoredData
from .errors import InputError
from .history import Callback, Callbacks, CollapseWarning, Epoch, Position, collapsed
from .interrupt import Interrupt, Interrupted
from .loop import Loop
from .measures import Measures, measured_rows, shown_of
from .pair import WHAT, Pair
from .pairing import objective_of
from .patience import Patience, check
from .progress import Bar, watched
from .ranks import current, loss_told
from .ranks.refusing import refuse
from .ranks.trial import try_share
from .registry import OBJECTIVES, lookup
from .settings import TrainingArguments, TrainingOptions
from .sources import ImagesInMemory, InMemory
from .streams import source_of
from .words import word_of

SAVED, COMPILING = 0.003, 20.0
"""The seconds that compiling saves in each step, and the seconds that it takes.

Measured on one core: compiling saves 3 to 6 ms a step for any network, because it removes Pyro's
own work, and takes 18 to 26 s with an empty cache.
"""

Optimizer = torch.optim.Optimizer | PyroOptim


class Arguments(TrainingArguments, total=False):
    """The keyword arguments of :func:`fit`, as type checkers see them."""

    options: TrainingOptions | None
    validation: Any
    kwargs: Mapping[str, Any] | None
    optimizer: Optimizer | None
    compiled: bool | None
    start: Position | None
    callback: Callback | Sequence[Callback] | None
    progress: bool | None


@overload
def fit(vae: Any, data: Any, /, **given: Unpack[Arguments]) -> list[Epoch]: ...


@overload
def fit(model: Any, guide: Any, data: Any, /, **given: Unpack[Arguments]) -> list[Epoch]: ...


@torch.inference_mode(False)
def fit(
    *programs_and_data: Any,
    options: TrainingOptions | None = None,
    validation: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    optimizer: Optimizer | None = None,
    compiled: bool | None = None,
    start: Position | None = None,
    callback: Callback | Sequence[Callback] | None = None,
    progress: bool | None = None,
    **given: Any,
) -> list[Epoch]:
    """Train any Pyro model and guide: ``fit(vae, data)`` or ``fit(model, guide, data)``.

    The programs are functions, modules, methods of modules or autoguides of Pyro. What is trained
    are the parameters of these modules, and those that the programs make or register by
    ``pyro.param`` and ``pyro.module``. A step is that of ``pyro.infer.SVI``. Only a parameter that
    a step does not use differs: SVI moves it by its momentum, and the Adam of ``fit`` leaves it.

    The data is a ``Data`` or a ``StoredData``, of which the training images are trained on and the
    validation images are measured after each epoch, or ``Images``; a tensor; a tuple or a dict of
    tensors; a torch ``Dataset``, map-style or iterable; or a ``DataLoader``. A batch becomes the
    arguments of both programs: a tensor is ``model(x)``, a tuple or a list is ``model(*batch)``, a
    dict is ``model(**batch)``. The first dimension of each tensor counts the rows. For a VAE of
    this library, NaN in x makes the mask of what was observed. What belongs to a row, such as its
    label, stands in the data. What is the same for all rows, such as a weight of the KL, stands in
    ``kwargs``: ``svi.step(x, y,
    beta=0.5)`` is ``fit(model, guide, (x, y), kwargs={"beta": 0.5})``. The rows are in random
    order. If one batch holds all rows, they keep their order, except for images.

    The order and the drawn pixels of an epoch depend only on ``seed`` and on the number of the
    epoch, and the noise of a step only on ``seed`` and on the number of the step. So training that
    stops after any step and goes on (``start``, with the same ``optimizer``) ends with the same
    weights and numbers, to the bit on the same machine. This holds for compiled steps too, and for
    data that is loaded in batches as far as :mod:`~pyro_vae.streams` says. Parameters of
    ``pyro.param`` live in Pyro's store: to go on in another program, load the store first. Random
    numbers that a part draws without torch are not seeded.

    Where ``torch.distributed`` is initialised, all its processes call this function with the same
    arguments and train together: see :mod:`~pyro_vae.ranks`. Each is given all data, and takes the
    steps that one process would take.

    Args:
        programs_and_data: a VAE, or any object with Pyro programs ``model`` and ``guide``, and the
            data; or a model, a guide and the data. The data is moved to the programs' device.
        options: the training options; the arguments in ``given`` change them.
        given: the fields of :class:`~pyro_vae.settings.TrainingOptions`: objective, epochs,
            batch_size, lr, schedule, clip, average, patience, precision, seed.
        validation: the data that is measured after each epoch, of any kind that ``data`` can be.
            A ``Data`` has its own; of one without, training images are measured, at most 10,000.
        kwargs: further arguments of both programs by name, the same for all rows. A value that
            changes is a tensor that a callback fills in place.
        optimizer: your own optimizer in place of Adam, of torch or of ``pyro.optim``; ``lr`` is
            then not used. A scheduler of ``pyro.optim`` is moved after each epoch.
        compiled: whether steps are compiled (:class:`~pyro_vae.compiling.CompiledSVI`). None
            decides by the number of steps, see :func:`pays`, and trains without compiling, with a
            warning, on a machine that has no C++ compiler and for programs that cannot be compiled.
        start: where to go on: the ``position`` that ``callback.on_step`` was given last, or
            ``Position(n)`` after n whole epochs. None is the beginning.
        callback: is called after steps and epochs; one or several.
        progress: whether the progress is shown on stderr: a bar in a terminal or a notebook, else
            a line for each epoch. None shows the bar, and no lines.

    Returns:
        The numbers of each epoch. Before the last ones are measured, the moments of batch
        normalization are computed anew over the training data. Ctrl-C ends training after the step
        and gives the epochs so far. The VAE then has the weights of this step. A second Ctrl-C
        raises KeyboardInterrupt at once.

    Raises:
        InputError: an unknown argument or objective, numbers out of range, programs that do not fit
            the data, nothing to train, a ``start`` that does not fit, or ``compiled=True`` without
            a C++ compiler.
        TrainingError: the loss or a weight became NaN or infinite.
        RankError: another process of the training ended or cannot be reached.

    Warns:
        UserWarning: Ctrl-C ended training.
        CollapseWarning: a latent site has less than 0.01 nats of KL per unit at the end. Sites
            whose units depend on each other, such as those of ``iaf``, are not checked.

    Example:
        >>> data = load_data("digits", binarize="threshold")
        >>> history = fit(VAE(data.shape, 8), data, epochs=2)

        Linear regression, with an automatic guide:

        >>> import pyro.distributions as dist
        >>> def model(x, y):
        ...     w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...     with pyro.plate("rows", len(x)):
        ...         pyro.sample("y", dist.Normal(x @ w, 0.1), obs=y)
        >>> guide = pyro.infer.autoguide.AutoNormal(model)
        >>> x = torch.randn(50, 2)
        >>> history = fit(model, guide, (x, x @ torch.tensor([1.0, -2.0])), epochs=50, lr=0.05)
        >>> history[-1].loss < history[0].loss
        True
    """
    options = options_of(options, given)
    if len(programs_and_data) not in (2, 3):
        raise InputError(f"{WHAT}, and the data: fit(vae, data) or fit(model, guide, data)")
    *programs, data = programs_and_data
    pair, start = Pair.of(*programs), Position() if start is None else start
    several = checks.check_callbacks(callback)
    loop = begun(pair, data, options, optimizer, start, validation, kwargs, "batch_size" in given)
    epochs, source, before = options.epochs, loop.source, start.epoch
    patience = Patience(pair, options.patience, start.best)
    if patience.ended(before, epochs):
        patience.give()
        return []
    if compiled:
        checks.check_compiler(loop.device)
    console = Console(stderr=True)
    if loop.ranks.first and (watched(console) if progress is None else progress):
        own = isinstance(data, Data | StoredData | Images)
        unit = word_of(data.shape) if own else "row"
        several.append(Bar(console, epochs, source.rows, source.batch_size, start, unit))
    history: list[Epoch] = []
    with loss_told(loop.ranks), Interrupt(loop.ranks) as interrupt, ExitStack() as stack:
        told = Callbacks([*several, interrupt])
        stack.callback(lambda: told.on_end(patience.ended(before + len(history), epochs)))
        # By the steps of all epochs, so that a run that goes on decides as it did when it began.
        loop.choose_step(compiled, pays((source.steps or 0) * epochs), told)
        told.on_start()
        try:
            for epoch in range(before + 1, epochs + 1):
                began = time.perf_counter()
                loss = loop.run(start, told)
                history.append(loop.measure(epoch, loss, began))
                if best := patience.better(history[-1]):
                    told.on_best(best)
                told.on_epoch(history[-1])
                start = Position(epoch, best=patience.best)
                if patience.ended(epoch, epochs):
                    break
            patience.give()
        except Interrupted as place:
            stack.close()  # the bar ends before the warning
            warnings.warn(
                f"Ctrl-C ended training after {place} of {epochs} epochs; the VAE has the weights "
                f"of that step, and the history has {len(history)} epochs",
                stacklevel=3,
            )
            return history
    for sentence in collapsed(patience.chosen(history)) if history else ():
        warnings.warn(sentence, CollapseWarning, stacklevel=3)  # 1 is fit, 2 its decorator
    return history


def begun(
    pair: Pair,
    data: Any,
    options: TrainingOptions,
    optimizer: Optimizer | None,
    start: Position,
    validation: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    size_given: bool = False,
) -> Loop:
    """The loop of a training, after everything that can be refused was refused.

    The arguments are those of :func:`fit`; ``size_given`` is whether the user gave ``batch_size``.
    """
    checks.check_weights(pair)
    pair.warn_of_old()
    images = isinstance(data, Data | StoredData)
    if images:
        checks.check_data(data)
    if images and data.validation is not None and validation is not None:
        raise InputError(
            f"the data {data.name!r} has validation images of its own; leave validation out"
        )
    if not isinstance(kwargs or {}, Mapping):
        raise InputError(f"kwargs is a dict of further arguments by name, not {kwargs!r:.100}")
    further, weight = kwargs or {}, pair.first_weight()
    device, dtype = (None, None) if weight is None else (weight.device, weight.dtype)
    train_data, masked = data.train if images else data, checks.makes_masks(pair)
    source = source_of(train_data, options.batch_size, device, dtype, masked)
    if size_given and isinstance(data, DataLoader) and source.batch_size != options.batch_size:
        raise InputError(
            f"the DataLoader has batches of {source.batch_size} rows, so it does not fit "
            f"batch_size={options.batch_size}; leave batch_size out"
        )
    checks.check_start(start, source)
    every = Batch.of(source.data if isinstance(source, InMemory) else source.first(), further)
    if masked and isinstance(source, InMemory):
        checks.check_holes(every)
    checks.check_context(pair, every)
    batch, begins = Batch.of(source.first(), further), not (start.epoch or len(start.losses))
    sites = checks.try_programs(pair, batch, begins, options.seed)
    pair.register()
    pair.refuse_batches(len(batch), source.rows)
    checks.warn_of_shared(pair, sites, batch, source.rows)
    name = objective_of(sites) if options.objective is None else options.objective
    objective = OBJECTIVES.build(name, data_size=source.rows, labelled=source.labelled)
    checks.try_step(pair, objective, source, batch, start, options.seed)
    pair.refuse_outside()
    checks.check_trainable(pair)
    checks.check_precision(pair, options.precision)
    optimizer = adam(pair.parameters(), options.lr) if optimizer is None else optimizer
    checks.check_optimizer(pair, optimizer)
    for p in (*pair.parameters(), *checks.held_by(optimizer).values()):
        p.grad = None  # a gradient from before would be added to that of the first step
    train: Any = Batch.of(source.data) if isinstance(source, InMemory) else None
    if isinstance(source, ImagesInMemory):
        train = source.images
    elif isinstance(data, StoredData):
        train = data.train
    rows, measured_on = measured_rows(data if images else None, validation)
    shown = shown_of(train, rows) if measured_on == "validation" else None
    measures = Measures(
        pair, objective, rows, measured_on, shown, source.batch_size, options.seed, further
    )
    check(options.patience, optimizer, None if rows is None else measured_on)
    measures.decide()
    ranks = current()
    if ranks.size > 1:
        refuse(ranks, pair, source, objective, optimizer, options, start)
        try_share(ranks, pair, objective, batch, begins, options.seed)
    return Loop(pair, source, objective, optimizer, options, measures, further, ranks)


def options_of(options: TrainingOptions | None, given: Mapping[str, Any]) -> TrainingOptions:
    """The training options that ``fit`` was given.

    Raises:
        InputError: an unknown argument; the sentence has the nearest names.
    """
    for name in given:
        lookup("argument of fit", name, Arguments.__annotations__)
    if options is not None and not isinstance(options, TrainingOptions):
        raise InputError(f"options is a TrainingOptions of pyro_vae.settings, not {options!r:.100}")
    return replace(options or TrainingOptions(), **given)


def pays(steps: int) -> bool:
    """Whether compiling so many steps saves time: :data:`SAVED` against :data:`COMPILING`."""
    return SAVED * steps > COMPILING


def adam(vae: torch.nn.Module | Sequence[torch.Tensor], lr: float) -> torch.optim.Adam:
    """One fused Adam over all parameters, those of a module or those given. ``pyro.optim.Adam``
    computes the same with one optimizer for each parameter, which takes longer."""
    parameters = list(vae.parameters()) if isinstance(vae, torch.nn.Module) else list(vae)
    cuda = all(p.is_cuda for p in parameters)
    optimizer = torch.optim.Adam(parameters, lr=lr, fused=True, capturable=cuda)
    clear_subnormals(optimizer)
    return optimizer

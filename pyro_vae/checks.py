"""What ``fit`` refuses before its first step, in one sentence each."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor

from .batch import Batch
from .contracts import Objective
from .data import Data, StoredData
from .errors import BROKEN, InputError, broken_distribution
from .evaluation.rows import check_arguments
from .history import Callback, Position
from .holes import refuse_unobserved
from .latents import Sites
from .modules import refuse_device
from .objectives.checks import check_draws
from .options import is_whole
from .pair import Pair
from .programs import ModelProgram
from .sources import Source, epochs_done
from .words import called


def check_data(data: Data | StoredData) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` unless ``data`` has training images, and each
    validation split has images."""
    for part, images in (("training", data.train), ("validation", data.validation)):
        if images is not None and len(images) == 0:
            raise InputError(f"the data set {data.name!r} has no {part} images")


def check_weights(pair: Pair) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for a parameter that cannot be trained."""
    for name, p in pair.named_parameters():
        refuse_device(p.device)
        if p.dtype in (torch.float16, torch.bfloat16):
            raise InputError(
                f"the weight {name} has the type {str(p.dtype).removeprefix('torch.')}, which is "
                "too coarse for Adam's steps; call vae.float() and give precision='bfloat16' for "
                "fast matrix products"
            )
        if p.is_inference():
            raise InputError(
                f"the weight {name} was made in torch.inference_mode and can have no gradient; "
                "make the VAE outside of it"
            )


def check_precision(pair: Pair, precision: str) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` if the precision would change nothing."""
    if precision == "bfloat16" and not any(p.dtype == torch.float32 for p in pair.parameters()):
        raise InputError(
            "the precision bfloat16 is for layers in float32, and no weight has this type; call "
            "vae.float(), or leave precision out"
        )


def makes_masks(pair: Pair) -> bool:
    """Whether NaN in the data makes a mask: whether the programs are those of this library."""
    return isinstance(pair.model, ModelProgram)


def check_holes(batch: Batch) -> None:
    """Raise :class:`~pyro_vae.errors.InputError`, or warn, if an entry was observed in no row.

    Args:
        batch: the training data, as the programs of a VAE of this library take it.
    """
    mask = batch.args[2] if len(batch.args) > 2 else batch.named.get("mask")
    x = batch.args[0] if batch.args else batch.kwargs.get("x")
    if not isinstance(mask, Tensor) or not isinstance(x, Tensor) or mask.shape != x.shape:
        return
    if sentence := refuse_unobserved(mask):
        warnings.warn(sentence, stacklevel=5)


def check_context(pair: Pair, batch: Batch) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for labels or covariates that a VAE of this
    library does not take. Training runs without Pyro's validation, which checks them elsewhere."""
    if not isinstance(pair.model, ModelProgram) or pair.model.condition is None:
        return
    for context in batch.args[1:2]:
        if isinstance(context, Tensor):
            pair.model.condition.check(context)


def check_trainable(pair: Pair) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` if no parameter can be trained."""
    if not any(p.requires_grad for p in pair.parameters()):
        raise InputError(
            "there is nothing to train: no parameter of the programs requires a gradient"
        )


def check_start(start: Any, source: Source) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for a start that does not fit the data."""
    if not isinstance(start, Position):
        raise InputError(f"start is a pyro_vae.Position, not {start!r:.100}")
    if not is_whole(start.epoch) or start.epoch < 0:
        raise InputError(f"the epoch of start is a whole number from 0, not {start.epoch!r}")
    if source.steps is not None and len(start.losses) > source.steps:
        raise InputError(
            f"start has {len(start.losses)} steps after epoch {start.epoch}, and an epoch of "
            f"these images has {source.steps}"
        )


def check_optimizer(pair: Pair, optimizer: Any) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` unless ``optimizer`` trains the pair in single
    steps. An optimizer that holds only some of its parameters is told in a warning."""
    own = isinstance(optimizer, PyroOptim)
    if not own and not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(
            "the optimizer is a torch optimizer over the VAE's parameters or one of pyro.optim, "
            f"not a {type(optimizer).__name__}"
        )
    closure = None if own else inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise InputError(
            f"fit computes the loss once for each step, and {type(optimizer).__name__} needs a "
            "closure that computes it again; take an optimizer such as Adam"
        )
    groups = [optimizer.pt_optim_args] if own else optimizer.param_groups
    if any(isinstance(group, Mapping) and group.get("maximize") for group in groups):
        raise InputError(
            "fit minimises the loss, -ELBO, and the optimizer has maximize=True; leave it out"
        )
    if isinstance(optimizer, torch.optim.SparseAdam):
        raise InputError(
            "SparseAdam takes sparse gradients, and those of fit are dense; take an optimizer such "
            "as Adam"
        )
    # An optimizer of Pyro takes the parameters that a step uses and that Pyro knows.
    held = pair.used if own else held_by(optimizer).keys()
    missing = [name for name, p in pair.named_parameters() if p.requires_grad and id(p) not in held]
    if len(missing) == sum(p.requires_grad for p in pair.parameters()):
        raise InputError(
            "there is nothing to train: the optimizer holds no parameter of the programs"
        )
    if missing:
        warnings.warn(
            f"the optimizer does not hold {missing[0]} and {len(missing) - 1} other parameters of "
            "this VAE that require a gradient; they stay as they are",
            stacklevel=5,  # 1 is this function, 2 begun, 3 fit, 4 its decorator
        )


def check_callbacks(callback: Any) -> list[Callback]:
    """The callbacks as a list.

    Raises:
        InputError: one of them is not a :class:`~pyro_vae.history.Callback`.
    """
    several = [callback] if isinstance(callback, Callback) else callback or []
    if not isinstance(several, list | tuple) or not all(isinstance(c, Callback) for c in several):
        raise InputError(
            f"callback is a pyro_vae.Callback or a list of them, not {callback!r:.200}"
        )
    return list(several)


def try_programs(pair: Pair, batch: Batch, begins: bool, seed: int) -> Sites:
    """Run both programs once, so that all their parameters are there; their latent sites.

    The arguments are those of :meth:`Pair.tried() <pyro_vae.pair.Pair.tried>`.

    Raises:
        InputError: arguments that a program does not take, parameters that are missing or belong
            to another module, or invalid parameters of a distribution.
    """
    check_arguments(batch, pair.model, pair.guide)
    try:
        with (
            parameters_told(batch) if begins else nullcontext(),
            torch.no_grad(),
            pair.tried(False, begins, batch, seed),
        ):
            return pair.sites(batch)
    except BROKEN as error:
        if begins or not broken_distribution(error):
            raise
        return {}


def try_step(
    pair: Pair, objective: Any, source: Source, batch: Batch, start: Position, seed: int
) -> None:
    """Compute the loss of a batch once, with all of Pyro's checks. Random numbers and buffers are
    afterwards as before. The parameters that the programs make are there.

    Raises:
        InputError: programs that do not fit the data or each other, or a batch of one row for a
            part that needs two.
    """
    advance, done = Objective.schedule_of(objective), epochs_done(source, start)
    if advance is not None:
        advance(done)
    begins = done == 0
    check_draws(objective, pair.model, batch.args)
    try:
        with (
            one_image_told(len(batch), source.batch_size),
            parameters_told(batch) if begins else nullcontext(),
            pyro.validation_enabled(),
            pair.tried(True, begins, batch, seed),
        ):
            loss: Any = objective.loss(pair.model, pair.guide, *batch.args, **batch.named)
    except BROKEN as error:
        # The weights of a training that goes on may be lost in its next step, which says so.
        if begins or not broken_distribution(error):
            raise
        return
    if isinstance(loss, tuple):
        raise InputError(
            f"the loss of {type(objective).__name__} is {len(loss)} numbers, and fit minimises "
            "one; train with pyro.infer.SVI, or compile it with CompiledSVI"
        )


def warn_of_shared(pair: Pair, sites: Sites, batch: Batch, rows: int | None) -> None:
    """Warn of a latent that all rows share, if each batch counts the whole of its KL.

    Args:
        pair: the programs.
        sites: their latent sites, from a run on ``batch``.
        batch: some of the rows.
        rows: all rows; None if their number is not known.
    """
    count = len(batch)
    if rows == count or pair.full is not None:
        return
    for name, site in sites.items():
        own = any(frame.size == count for frame in site["cond_indep_stack"])
        if not own and float(torch.as_tensor(site["scale"]).max()) == 1.0:
            often = "" if rows is None else f", {-(-rows // count)} times in an epoch"
            remedy = "a plate of all rows with subsample_size"
            if rows is not None:
                remedy = f"pyro.plate(..., {rows}, subsample_size=len(x)), or batch_size={rows}"
            warnings.warn(
                f"all rows share the latent {name!r}, and each batch counts the whole of its KL"
                f"{often}, so that its posterior is too close to its prior; give {remedy}",
                stacklevel=5,  # 1 is this function, 2 begun, 3 fit, 4 its decorator
            )
            return


def held_by(optimizer: Any) -> dict[int, Tensor]:
    """The parameters of a torch optimizer by ``id``; none for an optimizer of Pyro."""
    groups = [] if isinstance(optimizer, PyroOptim) else optimizer.param_groups
    return {id(p): p for group in groups for p in group["params"]}


@contextmanager
def one_image_told(images: int, batch_size: int) -> Iterator[None]:
    """Turn torch's error for batch normalization of one image into an InputError.

    Args:
        images: the images in the batch.
        batch_size: the images that a batch should have.
    """
    try:
        yield
    except ValueError as error:
        if images > 1 or "Expected more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            "batch normalization needs at least 2 images in a batch, and "
            + ("there is 1 training image" if batch_size > 1 else f"{called('batch_size')} is 1")
        ) from None


@contextmanager
def parameters_told(batch: Batch) -> Iterator[None]:
    """Turn torch's error for invalid parameters of a distribution into an InputError.

    Args:
        batch: what the programs are run on.
    """
    try:
        yield
    except ValueError as error:
        if not (reason := broken_distribution(error)):
            raise
        if not all(x.isfinite().all() for x in batch.tensors() if x.is_floating_point()):
            raise InputError(
                f"the data has NaN or infinite numbers, and they give a distribution invalid "
                f"parameters ({reason}); leave such rows out, or give the programs a mask"
            ) from None
        raise InputError(
            f"the weights give a distribution invalid parameters ({reason}); weights as large as "
            "these cannot be used"
        ) from None


def check_compiler(device: torch.device) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` if steps on the CPU cannot be compiled."""
    if device.type != "cpu":
        return
    # Imported here, because the import takes seconds.
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise InputError(
            f"{called('compiled', True)} needs a C++ compiler, and torch finds none; install one, "
            "such as g++, name it in the environment variable CXX, or give "
            f"{called('compiled', False)}"
        ) from None

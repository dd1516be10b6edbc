"""What ``fit`` refuses before its first step, in one sentence each."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor, nn

from .data import Data
from .errors import InputError, broken_distribution
from .evaluation.scoring import Programs
from .history import Callback


def check_data(data: Any) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` unless ``data`` is a Data with images."""
    if not isinstance(data, Data):
        raise InputError(
            "fit takes a Data with training and test images, which load_data gives (a tensor of "
            "pixels becomes one by Data('name', Images(train), Images(test)) of pyro_vae.data), "
            f"not a {type(data).__name__}"
        )
    for part, images in (("training", data.train), ("test", data.test)):
        if len(images) == 0:
            raise InputError(f"the data set {data.name!r} has no {part} images; fit needs both")


def check_vae(vae: Any) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` unless ``vae`` has programs and can be trained."""
    if not (isinstance(vae, nn.Module) and isinstance(vae, Programs)):
        raise InputError(
            "fit takes a VAE, or a torch module with the Pyro programs model and guide, not a "
            f"{type(vae).__name__}"
        )
    for name, p in vae.named_parameters():
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
    if not any(p.requires_grad for p in vae.parameters()):
        raise InputError("there is nothing to train: no parameter of this VAE requires a gradient")


def check_optimizer(vae: nn.Module, optimizer: Any) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` unless ``optimizer`` trains the VAE in single
    steps. An optimizer that holds only some of its parameters is told in a warning."""
    if isinstance(optimizer, PyroOptim):  # it takes the parameters that a step uses
        return
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(
            "the optimizer is a torch optimizer over the VAE's parameters or one of pyro.optim, "
            f"not a {type(optimizer).__name__}"
        )
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise InputError(
            f"fit computes the loss once for each step, and {type(optimizer).__name__} needs a "
            "closure that computes it again; take an optimizer such as Adam"
        )
    held = held_by(optimizer)
    missing = [name for name, p in vae.named_parameters() if p.requires_grad and id(p) not in held]
    if len(missing) == sum(p.requires_grad for p in vae.parameters()):
        raise InputError("there is nothing to train: the optimizer holds no parameter of this VAE")
    if missing:
        warnings.warn(
            f"the optimizer does not hold {missing[0]} and {len(missing) - 1} other parameters of "
            "this VAE that require a gradient; they stay as they are",
            stacklevel=4,  # 1 is this function, 2 fit, 3 its decorator
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


def check_parameters(vae: nn.Module, trace: Any) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for a parameter that belongs to no module.

    Args:
        vae: the VAE.
        trace: a Pyro trace of the parameters that a step uses.
    """
    own = {id(p) for p in vae.parameters()}
    for name, site in trace.nodes.items():
        if site["type"] == "param" and id(site["value"].unconstrained()) not in own:
            raise InputError(
                f"the parameter {name!r} of pyro.param belongs to no module of this VAE, so it "
                "would not be trained or saved; make it an nn.Parameter of a part, or train with "
                "pyro.infer.SVI"
            )


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
            + ("there is 1 training image" if batch_size > 1 else "batch_size is 1")
        ) from None


@contextmanager
def parameters_told() -> Iterator[None]:
    """Turn torch's error for invalid parameters of a distribution into an InputError."""
    try:
        yield
    except ValueError as error:
        if not (reason := broken_distribution(error)):
            raise
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
            "compiled=True needs a C++ compiler, and torch finds none; install one such as g++, "
            "name it in the environment variable CXX, or give compiled=False"
        ) from None

"""The two Pyro programs of a VAE: the model p(z) p(x | z) and the guide q(z | x)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import pyro
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from .contracts import Given, Guide, Likelihood, Prior
from .errors import InputError
from .latents import Shape

_names: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
_numbers = count(1)


def register(module: nn.Module, label: str) -> None:
    """Register a module's parameters with Pyro under a name that no other module has had.

    Pyro's parameter store is global and keeps the first tensor under each name. If a second module
    used the same name, it would compute with its own weights while the optimizer changed those of
    the first module. So every module, a copy included, gets its own number. If the store holds
    another tensor under the name nevertheless (a store that was loaded from a file), the module's
    own weights are used.
    """
    name = _names.get(module)
    if name is None:
        name = _names[module] = f"{label}_{next(_numbers)}"
    for key, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        full = f"{name}$$${key}"  # the form that pyro.module uses
        if pyro.param(full, parameter) is not parameter:
            warnings.warn(
                f"Pyro's parameter store held other values for {full}; the module's own are used "
                "(weights are loaded with load_state_dict)",
                stacklevel=3,
            )
            pyro.get_param_store()[full] = parameter
            pyro.param(full, parameter)


class ModelProgram(nn.Module):
    """The generative program: z ~ p(z), x ~ p(x | z), independently for each image.

    Args:
        shape: the shape of one observation, ``(C, H, W)``.
        prior: a module that meets the contract :class:`~pyro_vae.contracts.Prior`.
        likelihood: a module that meets the contract :class:`~pyro_vae.contracts.Likelihood`.
    """

    def __init__(self, shape: Shape, prior: nn.Module, likelihood: nn.Module) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.prior = prior
        self.likelihood = likelihood

    def forward(
        self, x: Tensor | None = None, context: Tensor | None = None, *, n: int = 1
    ) -> Tensor:
        """Score the images ``x`` ``[B, C, H, W]``, or draw new images if ``x`` is None.

        Args:
            x: the images to score.
            context: labels or covariates, ``[B, ...]``, for the parts that take them.
            n: how many images to draw if ``x`` and ``context`` are None.
        """
        register(self, "model")
        prior, likelihood = Prior.of(self.prior), Likelihood.of(self.likelihood)
        given = Given(context)
        if context is not None:
            n = len(expect_context(context, prior, likelihood))
        if x is not None:
            n = len(expect(self.shape, x))
            if is_validation_enabled():
                likelihood.check(x)
        with pyro.plate("data", n, dim=-1):
            z = prior.sample_sites(given)  # [*, B, Z]
            return pyro.sample("x", likelihood.run(z, given=given), obs=x)  # [*, B, C, H, W]


class GuideProgram(nn.Module):
    """The inference program: z ~ q(z | x), independently for each image.

    Args:
        shape: the shape of one observation, ``(C, H, W)``.
        posterior: a module that meets the contract :class:`~pyro_vae.contracts.Guide`.
    """

    def __init__(self, shape: Shape, posterior: nn.Module) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.posterior = posterior

    def forward(self, x: Tensor, context: Tensor | None = None, *, n: int = 1) -> Any:
        """Draw z for the images ``x`` ``[B, C, H, W]``.

        Args:
            x: the images.
            context: labels or covariates, ``[B, ...]``, for a guide that takes them.
            n: ignored; it matches the model's signature.
        """
        register(self, "guide")
        with pyro.plate("data", len(expect(self.shape, x)), dim=-1):
            return Guide.of(self.posterior).sample_sites(x, Given(context))  # [*, B, Z]


def expect(shape: Sequence[int], x: Tensor) -> Tensor:
    """``x`` if it is a batch of images of ``shape``; an InputError if it is not."""
    if not isinstance(x, Tensor) or tuple(x.shape[1:]) != tuple(shape) or x.dim() < 2:
        given = list(x.shape) if isinstance(x, Tensor) else repr(x)
        raise InputError(f"expected images of shape [B, {', '.join(map(str, shape))}], not {given}")
    if is_validation_enabled() and not ((x >= 0) & (x <= 1)).all():
        raise InputError(
            "pixels are numbers in [0, 1]; the given ones reach "
            f"from {x.min():.3g} to {x.max():.3g}"
        )
    return x


def expect_context(context: Tensor, *parts: Prior | Likelihood) -> Tensor:
    """``context`` if it is a tensor that one of the parts takes; an InputError if it is not."""
    if not isinstance(context, Tensor):
        raise InputError(
            f"the context is a tensor of labels or covariates [B, ...], not {context!r}; the "
            "number of images to draw is the keyword n"
        )
    if not any(part.takes("context") for part in parts):
        raise InputError(
            "a context was given, and neither the prior nor the likelihood takes one: their "
            "forward has no argument 'context'"
        )
    return context


class AtMean(Messenger):
    """A Pyro handler that gives each named site the mean of its distribution, without a draw."""

    def __init__(self, *sites: str) -> None:
        super().__init__()
        self.sites = sites

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.sites:
            msg["value"] = msg["fn"].mean


def mean_image(model: Any, n: int, context: Tensor | None = None) -> Tensor:
    """Run a model for ``n`` images and give the mean of its site "x"; ``[n, C, H, W]``."""
    with AtMean("x"):
        return poutine.trace(model).get_trace(None, context, n=n).nodes["x"]["value"]

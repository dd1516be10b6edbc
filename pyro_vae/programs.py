"""The two Pyro programs of a VAE: the model p(z) p(x | z) and the guide q(z | x)."""

from __future__ import annotations

import warnings
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import pyro
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from .contracts import Given, Guide, Likelihood, Prior
from .data.arrays import ROUNDING, suggest_scaling
from .errors import InputError
from .latents import Shape
from .modules import drop_weakrefs
from .options import is_whole

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
    name = unique_name(module, label)
    for key, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        full = f"{name}$$${key}"  # the form that pyro.module uses
        pyro.param(full, parameter)  # its result can be wrapped by a handler of Pyro
        if pyro.get_param_store()[full] is not parameter:
            warnings.warn(
                f"Pyro's parameter store held other values for {full}; the module's own are used "
                "(weights are loaded with load_state_dict)",
                stacklevel=3,
            )
            pyro.get_param_store()[full] = parameter
            pyro.param(full, parameter)


def unique_name(module: nn.Module, label: str) -> str:
    """The name of a module in Pyro's store; it is made when it is first asked for."""
    name = _names.get(module)
    if name is None:
        name = _names[module] = f"{label}_{next(_numbers)}"
        name_pyro_modules(module, name)
    return name


def name_pyro_modules(module: nn.Module, name: str) -> None:
    """Give every ``PyroModule`` inside a module a full name that begins with ``name``.

    A ``PyroModule`` looks up its parameters in Pyro's store by its full name. One that stands in a
    plain module has no such name, so that two of them would share their weights.
    """
    for path, part in module.named_modules():
        if isinstance(part, PyroModule) and not isinstance(parent_of(module, path), PyroModule):
            part._pyro_set_supermodule(f"{name}.{path}", part._pyro_context)


def parent_of(module: nn.Module, path: str) -> nn.Module:
    """The module that holds the one at ``path``."""
    return module.get_submodule(path.rpartition(".")[0])


class Program(nn.Module):
    """What the two programs have in common."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.context_taken = False  # whether a part of the VAE takes a context; the VAE sets it

    def __getstate__(self) -> dict[str, Any]:
        drop_weakrefs(self)
        return vars(self).copy()


class ModelProgram(Program):
    """The generative program: z ~ p(z), x ~ p(x | z), independently for each image.

    Args:
        shape: the shape of one observation, ``(C, H, W)``.
        prior: a module that meets the contract :class:`~pyro_vae.contracts.Prior`.
        likelihood: a module that meets the contract :class:`~pyro_vae.contracts.Likelihood`.
    """

    def __init__(self, shape: Shape, prior: nn.Module, likelihood: nn.Module) -> None:
        super().__init__(shape)
        self.prior = prior
        self.likelihood = likelihood

    def forward(
        self, x: Tensor | None = None, context: Tensor | None = None, *, n: int | None = None
    ) -> Tensor:
        """Score the images ``x`` ``[B, C, H, W]``, or draw new images if ``x`` is None.

        Args:
            x: the images to score.
            context: labels or covariates, ``[B, ...]``, for the parts that take them.
            n: how many images to draw if ``x`` is None; None for 1, or for one for each row of
                the context.
        """
        register(self, "model")
        prior, likelihood = Prior.of(self.prior), Likelihood.of(self.likelihood)
        given = Given(context)
        if x is not None:
            x = expect(self, x)
            n = len(x)
            if is_validation_enabled():
                likelihood.check(x)
        if context is not None:
            n = expect_context(context, n, self.context_taken)
        n = 1 if n is None else n
        expect_count("the number of images", n, least=1)
        with pyro.plate("data", n, dim=-1):
            z = prior.sample_sites(given)  # [*, B, Z]
            return pyro.sample("x", likelihood.run(z, given=given), obs=x)  # [*, B, C, H, W]


class GuideProgram(Program):
    """The inference program: z ~ q(z | x), independently for each image.

    Args:
        shape: the shape of one observation, ``(C, H, W)``.
        posterior: a module that meets the contract :class:`~pyro_vae.contracts.Guide`.
    """

    def __init__(self, shape: Shape, posterior: nn.Module) -> None:
        super().__init__(shape)
        self.posterior = posterior

    def forward(self, x: Tensor, context: Tensor | None = None, *, n: int = 1) -> Any:
        """Draw z for the images ``x`` ``[B, C, H, W]``.

        Args:
            x: the images.
            context: labels or covariates, ``[B, ...]``, for a guide that takes them.
            n: ignored; it matches the model's signature.
        """
        register(self, "guide")
        x = expect(self, x)
        posterior = Guide.of(self.posterior)
        if context is not None:
            expect_context(context, len(x), self.context_taken)
        with pyro.plate("data", len(x), dim=-1):
            return posterior.sample_sites(x, Given(context))  # [*, B, Z]


def expect(program: Program, x: Tensor) -> Tensor:
    """The batch of images ``x`` in the type of the program's weights.

    Under Pyro's validation the pixels are then in [0, 1]: those that rounding took out are clipped.
    Without it they are not looked at.

    Raises:
        InputError: images of another shape, an empty batch or, under Pyro's validation, pixels
            out of range.
    """
    shape = f"[B, {', '.join(map(str, program.shape))}]"
    if not isinstance(x, Tensor):
        raise InputError(f"expected a tensor of images {shape}, not a {type(x).__name__}")
    if x.dim() < 2 or tuple(x.shape[1:]) != program.shape:
        raise InputError(f"expected images of shape {shape}, not {list(x.shape)}")
    expect_count("the number of images", len(x), least=1)
    weight = next(program.parameters(), None)
    if weight is not None:
        x = x.to(weight.dtype)
    if is_validation_enabled():
        low, high = x.min().item(), x.max().item()
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # "not", because NaN compares False
            raise InputError(
                f"the given pixels reach from {low:.7g} to {high:.7g}, and pixels are numbers in "
                f"[0, 1]{suggest_scaling(low, high)}"
            )
        if low < 0 or high > 1:
            x = x.clamp(0, 1)
    return x


def expect_count(what: str, n: Any, least: int) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` unless ``n`` is a whole number of at least
    ``least``."""
    if not is_whole(n) or n < least:
        raise InputError(f"{what} is a whole number of at least {least}, not {n!r}")


def expect_context(context: Any, n: int | None, taken: bool) -> int:
    """The number of images that a context is for.

    Args:
        context: the context that was given.
        n: the number of images, if it is known.
        taken: whether a part of the VAE takes a context.

    Raises:
        InputError: not a tensor with one row for each image, or a context that no part takes.
    """
    if not isinstance(context, Tensor) or context.dim() == 0:
        raise InputError(
            "the context is a tensor of labels or covariates [B, ...], one row for each image, "
            f"not {context!r}; the number of images to draw is the keyword n"
        )
    if not taken:
        raise InputError(
            "a context was given, and no part takes one: neither the forward of the prior, of the "
            "likelihood nor of the guide has an argument 'context'"
        )
    if n is not None and len(context) != n:
        raise InputError(f"the context has {len(context)} rows, and the number of images is {n}")
    return len(context)


class AtMean(Messenger):
    """A Pyro handler that gives each named site the mean of its distribution, without a draw."""

    def __init__(self, *sites: str) -> None:
        super().__init__()
        self.sites = sites

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.sites:
            msg["value"] = msg["fn"].mean


def mean_image(model: Any, n: int | None, context: Tensor | None = None) -> Tensor:
    """Run a model for ``n`` images and give the mean of its site "x"; ``[n, C, H, W]``."""
    with AtMean("x"):
        return poutine.trace(model).get_trace(None, context, n=n).nodes["x"]["value"]

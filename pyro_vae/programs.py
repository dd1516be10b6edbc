"""The two Pyro programs of a VAE: the model p(z) p(x | z) and the guide q(z | x)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from math import inf
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Independent, constraints

from .conditions import Condition
from .contracts import Given, Guide, Likelihood, Prior
from .errors import InputError
from .holes import as_mask, fill, of_observed
from .joining import Input, beside
from .latents import Shape, innermost, kind_of
from .modules import drop_weakrefs
from .naming import register
from .options import is_whole
from .parts import forward_arguments
from .supports import refuse_outside, within
from .targets import Units
from .words import counted


class Program(nn.Module):
    """What the two programs have in common.

    Args:
        shape: the shape of one observation.
        condition: what the context is; None leaves the context to the parts.
    """

    def __init__(self, shape: Shape, condition: Condition | None = None) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.condition = condition
        self.units = Units.of(condition)
        self.context_taken = False  # whether a part of the VAE takes a context; the VAE sets it
        self.bounds = -inf, inf  # of the numbers in x, by the likelihood; the VAE sets it

    def encoded(
        self, context: Tensor | None, n: int | None, x: Tensor | None = None
    ) -> Tensor | None:
        """The context as parts get it: as numbers ``[B, n]`` if the VAE has a condition.

        Args:
            context: the context that the program was called with.
            n: the number of observations, if it is known.
            x: the observations. The numbers get their type if the program has no weights.

        Raises:
            InputError: a context that does not fit, or none where the VAE has a condition.
        """
        if context is None:
            if self.condition is not None and not self.condition.inferred:
                raise InputError(
                    f"this VAE is conditioned on {self.condition}; give it to methods of the VAE, "
                    "such as sample(n, given=c) and encode(x, context=c), or to the Pyro programs, "
                    "model(x, c) and guide(x, c)"
                )
            return None
        expect_context(context, n, self.context_taken)
        if self.condition is None:
            return context
        weight = next(self.parameters(), torch.zeros(()) if x is None else x)
        if is_validation_enabled():
            self.condition.check(context)
        return self.units(self.condition.encode(context, weight))

    def __getstate__(self) -> dict[str, Any]:
        drop_weakrefs(self)
        return vars(self).copy()


class ModelProgram(Program):
    """The generative program: z ~ p(z), x ~ p(x | z), independently for each observation.

    Args:
        shape: the shape of one observation.
        prior: a module that meets the contract :class:`~pyro_vae.contracts.Prior`.
        likelihood: a module that meets the contract :class:`~pyro_vae.contracts.Likelihood`.
        condition: as in :class:`Program`.
        joined: whether the likelihood gets the context beside z.
    """

    def __init__(
        self,
        shape: Shape,
        prior: nn.Module,
        likelihood: nn.Module,
        condition: Condition | None = None,
        joined: bool = False,
    ) -> None:
        super().__init__(shape, condition)
        self.prior = prior
        self.likelihood = likelihood
        self.joined = joined

    def forward(
        self,
        x: Tensor | None = None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        n: int | None = None,
    ) -> Tensor:
        """Score the observations ``x`` ``[B, *shape]``, or draw new ones if ``x`` is None.

        Args:
            x: the observations to score.
            context: labels or covariates, ``[B, ...]``, for the parts that take them. Give it by
                its place and not by its name: Pyro's handlers have an argument of this name.
            mask: bool, True where x was observed, of the shape of x or ``[B]``. Only these entries
                are scored. Under Pyro's validation, NaN in x stands for an entry that is missing.
            n: how many observations to draw if ``x`` is None; None for 1, or for one for each row
                of the context.
        """
        register(self, "model")
        prior, likelihood = Prior.of(self.prior), Likelihood.of(self.likelihood)
        if x is not None:
            x, mask = expect(self, x, mask)
            n = len(x)
            if mask is None and "mask" in forward_arguments(likelihood):
                # It scores what was observed, also where all was, so a row counts by itself.
                mask = torch.ones_like(x, dtype=torch.bool)
            if mask is not None:
                x = fill(x, mask, likelihood.support)
            if is_validation_enabled():
                likelihood.check(x)
        elif mask is not None:
            raise InputError("a mask says which entries of x were observed, and x is None")
        given = Given(self.encoded(context, n, x), mask)
        if context is not None:
            n = len(context)
        n = 1 if n is None else n
        expect_count("the number of images", n, least=1)
        with pyro.plate("data", n, dim=-1):
            z = prior.sample_sites(given)  # [*, B, Z]
            if self.joined and given.context is not None:
                z = beside(z, given.context)  # [*, B, Z + n]
            p = likelihood.run(z, given=given)
            if x is not None and mask is not None:
                p = of_observed(p, mask, f"the {likelihood.name()} likelihood")
                x = fill(x, mask, p.support)
            if x is not None and is_validation_enabled():
                refuse_unscored(likelihood, p, x)
            return pyro.sample("x", p, obs=x)  # [*, B, *shape]


class GuideProgram(Program):
    """The inference program: z ~ q(z | x), independently for each observation.

    Args:
        shape: the shape of one observation.
        posterior: a module that meets the contract :class:`~pyro_vae.contracts.Guide`.
        seen: what the guide is handed in place of x; None for x itself.
        condition: as in :class:`Program`.
    """

    blank: Tensor

    def __init__(
        self,
        shape: Shape,
        posterior: nn.Module,
        seen: Input | None = None,
        condition: Condition | None = None,
    ) -> None:
        super().__init__(shape, condition)
        self.posterior = posterior
        self.seen = seen
        # What the encoder sees where x is missing; the VAE sets it.
        self.register_buffer("blank", torch.zeros(()), persistent=False)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        n: int = 1,
    ) -> Any:
        """Draw z for the observations ``x`` ``[B, *shape]``.

        Args:
            x: the observations.
            context: labels or covariates, ``[B, ...]``, for a guide that takes them.
            mask: as for the model. The encoder sees 0 in the holes, the mean if it standardises.
            n: ignored; it matches the model's signature.
        """
        register(self, "guide")
        x, mask = expect(self, x, mask)
        if mask is not None:
            x = torch.where(mask, x, self.blank.to(x))
        posterior = Guide.of(self.posterior)
        given = Given(self.encoded(context, len(x), x), mask)
        n = len(x)
        if self.seen is not None:
            given = replace(given, observations=x)
            x = self.seen(x, mask, given.context)
        with pyro.plate("data", n, dim=-1):
            return posterior.sample_sites(x, given)  # [*, B, Z]


def expect(program: Program, x: Tensor, mask: Any = None) -> tuple[Tensor, Tensor | None]:
    """The batch of observations ``x`` in the type of the program's weights, and its mask.

    Under Pyro's validation the numbers are then in the bounds of the likelihood's support: those
    that rounding took out are clipped, and NaN makes a mask if none is given. Without it they are
    not looked at.

    Raises:
        InputError: observations of another shape, an empty batch, another mask or, under Pyro's
            validation, numbers out of bounds.
    """
    shape, what = f"[B, {', '.join(map(str, program.shape))}]", f"{kind_of(program.shape)}s"
    if not isinstance(x, Tensor):
        raise InputError(f"expected a tensor of {what} {shape}, not a {type(x).__name__}")
    if x.dim() < 2 or tuple(x.shape[1:]) != program.shape:
        raise InputError(f"expected {what} of shape {shape}, not {list(x.shape)}")
    expect_count("the number of images", len(x), least=1)
    if x.is_complex() or x.layout is not torch.strided:
        given = "complex numbers" if x.is_complex() else "a sparse tensor"
        raise InputError(f"expected a dense tensor of real numbers, not {given}")
    weight = next(program.parameters(), None)
    if weight is not None:
        if x.device != weight.device:
            raise InputError(
                f"the {what} are on the device {x.device}, and the VAE is on {weight.device}; call "
                f"x.to({str(weight.device)!r})"
            )
        x = x.to(weight.dtype)
    if mask is not None:
        mask = as_mask(mask, x)
    if not is_validation_enabled():
        return x, mask
    if mask is None and x.amin().isnan():  # in one pass: the smallest of numbers and NaN is NaN
        mask = ~x.isnan()
    low, high = program.bounds
    if mask is not None:
        x = torch.where(mask, x, x.new_zeros(()).clamp(low, high))
    return within(x, low, high), mask


def refuse_unscored(likelihood: Likelihood, p: Any, x: Tensor) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` if ``x`` is outside the support of a distribution
    ``p`` whose likelihood states no support of its own."""
    if likelihood.support is constraints.real:
        with suppress(NotImplementedError):  # the user's own distribution may state none
            refuse_outside(x, innermost(p.support), f"the {likelihood.name()} likelihood")


def expect_count(what: str, n: Any, least: int) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` unless ``n`` is a whole number of at least
    ``least``."""
    if not is_whole(n) or n < least:
        raise InputError(f"{what} is a whole number of at least {least}, not {n!r}")


def expect_context(context: Any, n: int | None, taken: bool) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for a context that does not fit.

    It is not a tensor with one row for each image, or no part takes it.

    Args:
        context: the context that was given.
        n: the number of images, if it is known.
        taken: whether a part of the VAE takes a context.
    """
    keyword = "; the number of images to draw is the keyword n" if n is None else ""
    if not taken:
        raise InputError(
            "a context was given, and no part takes one: neither the forward of the prior, of the "
            "likelihood nor of the guide has an argument 'context', and the VAE was made without a "
            f"condition{keyword}"
        )
    if not isinstance(context, Tensor) or context.dim() == 0:
        raise InputError(
            "the context is a tensor of labels or covariates [B, ...], one row for each image, "
            f"not {context!r}{keyword}"
        )
    if n is not None and len(context) != n:
        raise InputError(
            f"the context has {counted(len(context), 'row')}, and the number of images is {n}"
        )


def typical(fn: Any) -> Tensor:
    """The mean of a distribution; of categories without an order, which have no mean, the most
    probable one."""
    entries = fn.base_dist if isinstance(fn, Independent) else fn
    return fn.mode if type(entries) is dist.Categorical else fn.mean


class AtMean(Messenger):
    """A Pyro handler that gives each named site the mean of its distribution, without a draw; see
    :func:`typical`."""

    def __init__(self, *sites: str) -> None:
        super().__init__()
        self.sites = sites

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.sites:
            msg["value"] = typical(msg["fn"])


def mean_image(model: Any, n: int | None, context: Tensor | None = None) -> Tensor:
    """Run a model for ``n`` observations and give the mean of its site "x"; ``[n, *shape]``."""
    with AtMean("x"):
        return poutine.trace(model).get_trace(None, context, n=n).nodes["x"]["value"]

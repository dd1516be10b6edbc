"""Run a Pyro program for several draws of z: all draws at once, or one draw after the other.

All draws at once is fast: the program runs once, inside a plate of draws at dim -2, and its tensors
are ``[K, B, *]``. Some programs cannot compute with this leading dimension, for example a decoder
with ``nn.ConvTranspose2d``. Such a program runs once for each draw, with tensors ``[B, *]``, and
the results are stacked.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, ClassVar

import pyro
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.distributions.util import scale_and_mask
from pyro.infer.autoguide import AutoGuide
from torch import Tensor
from torch.distributions import Independent

from ..batch import Batch
from ..compiling import HANDLERS
from ..holes import WithMask, of_observed
from ..latents import Latents, Sites

Decisions = dict[tuple[int, bool], tuple[bool, Any]]
DECISIONS: ContextVar[Decisions | None] = ContextVar("decisions", default=None)
"""Whether a program takes all draws at once, by its id and by whether its latents are given. It is
None outside :func:`.scoring.measuring`, and each call then decides anew. The program is stored,
too, so that no other program gets its id."""


def run(program: Any, x: Batch, draws: int, latents: Latents) -> list[Sites]:
    """Run a program on the rows ``x``; ``latents`` ``[K, B, *]`` are given values.

    Returns:
        the sites of one run with tensors ``[K, B, *]``, or of K runs with tensors ``[B, *]``.
    """
    with HANDLERS:
        if takes_all_draws(program, x, latents):
            return [run_all(program, x, draws, latents)]
        return [run_one(program, x, draw_of(latents, k)) for k in range(draws)]


def run_all(program: Any, x: Batch, draws: int, latents: Latents) -> Sites:
    """The sites of one run for all draws at once."""
    with pyro.plate("_draws", draws, dim=-2):
        return run_one(program, x, latents)


def run_one(program: Any, x: Batch, latents: Latents) -> Sites:
    """The sites of one run."""
    traced = poutine.trace(poutine.condition(program, data=latents))
    return dict(traced.get_trace(*x.args, **x.named).nodes)


def plates_of(site: Any) -> dict[int, int]:
    """The sizes of the plates around a site by their dims, without that of the draws."""
    frames = site["cond_indep_stack"]
    return {f.dim: f.size for f in frames if f.vectorized and f.name != "_draws"}


def draw_of(latents: Latents, k: int) -> Latents:
    """Draw number ``k`` of each latent, ``[B, *]``."""
    return {name: z[k] for name, z in latents.items()}


def holds_all_draws(nodes: Sites) -> bool:
    """Whether the sites are from :func:`run_all`."""
    sites = (site for site in nodes.values() if site["type"] == "sample")
    return any(frame.name == "_draws" for site in sites for frame in site["cond_indep_stack"])


def takes_all_draws(program: Any, x: Batch, latents: Latents) -> bool:
    """Whether a program can run for all draws at once; decided once in each ``measuring``."""
    decisions = DECISIONS.get()
    key = (id(program), bool(latents))
    if decisions is None:
        return decide(program, x, latents)
    if key not in decisions:
        decisions[key] = decide(program, x, latents), program
    return decisions[key][0]


def decide(program: Any, x: Batch, latents: Latents) -> bool:
    """Try both ways on a few rows. The random numbers that follow are not changed.

    All draws at once must run and, if the latents are given, agree with single draws. The second
    condition finds a program that runs and computes something else, for example one that slices
    ``z[:, :2]``.

    Raises:
        Exception: the program's own error, if it fails both ways.
    """
    # An autoguide has parameters for each row, so some rows do not fit it.
    few = [] if len(x) <= 3 or isinstance(program, AutoGuide) else [x.cut(0, 3)]
    cuda = [x.device] if x.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(cuda):
        for some in few:
            try:
                return same_both_ways(program, some, latents)
            except Exception:  # it may need all rows; if not, it fails below, too
                continue
        return same_both_ways(program, x, latents)


def same_both_ways(program: Any, x: Batch, latents: Latents) -> bool:
    """Whether all draws at once give the same as single draws; an error of a single draw is
    raised."""
    draws = 3 if len(x) == 2 else 2  # not the number of images, so that no size fits by accident
    # A call may give one draw. Other images' latents are as good as other draws here.
    given = [{n: z[0, : len(x)].roll(k, 0) for n, z in latents.items()} for k in range(draws)]
    single = [run_one(program, x, z) for z in (given if latents else given[:1])]
    try:
        stacked = {name: torch.stack([z[name] for z in given]) for name in latents}
        nodes = run_all(program, x, draws, stacked)
        together = log_density_of(nodes)
    except Exception:
        return False
    sampled = [site for site in nodes.values() if site["type"] == "sample"]
    if any(plates_of(site).keys() - {-1} for site in sampled):
        return False  # the plate of draws would be between two other plates
    if not latents:
        return True
    apart = sum(map(log_density_of, single))
    # Rounding is much smaller than 0.1 %. A difference of infinities is NaN and accepted.
    return not abs(together - apart) > 1e-3 * (abs(apart) + 1)


def log_density_of(nodes: Sites) -> float:
    """The log density of all sites of a run, without that of a mask, which depends on a draw of
    the missing entries."""
    total = 0.0
    for site in nodes.values():
        if site["type"] == "sample":
            fn = site["fn"]
            if isinstance(fn, WithMask):
                fn = of_observed(fn.p, fn.observed, "the likelihood")
            log_prob = scale_and_mask(fn.log_prob(site["value"]), mask=site["mask"])
            total += torch.as_tensor(log_prob).sum().item()
    return total


def stack_distributions(fns: Sequence[Any]) -> Any:
    """One distribution with batch shape ``[K, *]`` from K distributions with batch shape ``[*]``.

    It has the class of the K distributions if tensors are all that their constructor takes.
    Otherwise it is :class:`OneByOne`.
    """
    first = fns[0]
    if isinstance(first, Independent):
        inner = stack_distributions([fn.base_dist for fn in fns])
        if isinstance(inner, OneByOne):
            return OneByOne(fns)
        return inner.to_event(first.reinterpreted_batch_ndims)
    names = set(first.arg_constraints)
    options = set(inspect.signature(type(first)).parameters) - {"validate_args"}
    if not names or not options <= names:  # its constructor takes more than these parameters
        return OneByOne(fns)
    # Several parameters can describe the same distribution, and a constructor takes one.
    if "logits" in names:
        names.discard("probs")
    if "scale_tril" in names:
        names -= {"covariance_matrix", "precision_matrix"}
    # getattr, because the distributions are torch's or the user's.
    parameters = {name: torch.stack([getattr(f, name) for f in fns]) for name in names}
    return type(first)(**parameters, validate_args=False)


class OneByOne(TorchDistribution):
    """K distributions of any class, as one distribution with batch shape ``[K, *]``."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, fns: Sequence[Any]) -> None:
        self.fns = list(fns)
        batch = torch.Size((len(self.fns), *fns[0].batch_shape))
        super().__init__(batch, fns[0].event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return self.fns[0].has_rsample

    @property
    def support(self) -> Any:
        return self.fns[0].support

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        each = [fn.rsample(torch.Size(sample_shape)) for fn in self.fns]
        return torch.stack(each, len(sample_shape))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        each = [fn.sample(torch.Size(sample_shape)) for fn in self.fns]
        return torch.stack(each, len(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density of ``value`` ``[..., K, *]``."""
        shape = torch.broadcast_shapes(value.shape, self.batch_shape + self.event_shape)
        each = value.expand(shape).unbind(-len(self.batch_shape) - len(self.event_shape))
        parts = [fn.log_prob(v) for fn, v in zip(self.fns, each, strict=True)]
        return torch.stack(parts, -len(self.batch_shape))

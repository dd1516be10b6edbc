"""Checks: whether the traces of model and guide fit each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ..errors import InputError
from ..latents import infer, is_latent
from ..memory import check_memory
from ..programs import ModelProgram
from ..words import first_line

PARTICLES = "num_particles_vectorized"  # Pyro's name for its plate of draws
PLAIN = "take the monte-carlo objective, or kl='monte-carlo'"


def check_sides(model: Trace, guide: Trace) -> None:
    """Raise :class:`InputError` unless model and guide have the same latent sites, and each site
    has the same scale and mask in both.

    Tensors are compared only if Pyro's validation is on.
    """
    for name, p in model.nodes.items():
        enumerated = infer(p, "_enumerate_dim") is not None
        if is_latent(p) and name not in guide.nodes and not enumerated:
            raise InputError(f"the model samples {name!r} and the guide does not")
    for name, q in guide.nodes.items():
        if q["type"] != "sample" or site_is_subsample(q):
            continue
        if infer(q, "_deterministic"):
            continue
        if name not in model.nodes:
            if not infer(q, "is_auxiliary"):
                raise InputError(f"the guide samples {name!r} and the model does not")
            continue
        p = model.nodes[name]
        if not agree(p["scale"], q["scale"]):
            raise InputError(
                f"site {name!r} has the scale {show(p['scale'])} in the model and "
                f"{show(q['scale'])} in the guide, so that log p and log q of its KL have "
                "different weights; take the beta objective, or put the same poutine.scale around "
                "both programs"
            )
        if not agree(p["mask"], q["mask"]):
            raise InputError(
                f"site {name!r} has one mask in the model and another in the guide, so that log p "
                "and log q of its KL cover different images; put the same poutine.mask around "
                "both programs"
            )


@contextmanager
def leading_told(model: Any, guide: Any, args: Any, kwargs: Any) -> Iterator[None]:
    """Tell the error of a program that cannot run for several draws of z at once as an InputError.

    An error of full memory stays what it is.

    Several particles and a sum over values add dimensions in front of the batch. That they are the
    cause is known if the programs run with one draw.
    """
    try:
        yield
    except InputError:
        raise
    except (RuntimeError, ValueError, IndexError) as error:
        if not is_validation_enabled() or "allocate" in str(error):
            raise
        try:
            with torch.random.fork_rng(), torch.no_grad(), poutine.block():
                q = poutine.trace(guide).get_trace(*args, **kwargs)
                poutine.trace(poutine.replay(model, trace=q)).get_trace(*args, **kwargs)
        except Exception:
            raise error from None
        raise InputError(
            f"this objective runs the model with several z for each image, [*, B, Z], and a part "
            f"takes only [B, Z] ({first_line(error):.200}); a layer that counts dimensions from "
            "the front, such as nn.Unflatten(1, ...), needs z.reshape(-1, Z) before it and "
            "x.reshape(*z.shape[:-1], C, H, W) after the decoder"
        ) from error


def check_draws(objective: Any, model: Any, args: Any) -> None:
    """Raise :class:`InputError` if one step with the draws of an objective needs more memory than
    the machine has. It is called before a step, because a compiled step cannot ask the system."""
    draws = objective.num_particles
    if draws == 1 or not args or not isinstance(args[0], Tensor):
        return
    # A VAE of this library gives x for each draw, and another model at least log p(x | z).
    size = args[0].numel() if isinstance(model, ModelProgram) else len(args[0])
    check_memory(
        4 * draws * size,
        f"a step with {draws:,} draws of z for each image",
        "give fewer draws, or fewer images in a batch",
    )


def check_order(q: Mapping[str, Any], p: Mapping[str, Any]) -> None:
    """Raise :class:`InputError` unless the guide draws its sites in the order of the model.

    In another order, the closed-form KL at a draw of the earlier sites does not have the right
    mean over these draws.

    Args:
        q, p: the latent sites in the order of the guide and of the model.
    """
    for a, b in zip((name for name in q if name in p), p, strict=True):
        if a != b:
            raise InputError(
                f"the guide draws {a!r} where the model draws {b!r}, and the closed-form KL of a "
                f"site is right only if both draw in the same order; {PLAIN}"
            )


def agree(a: Any, b: Any) -> bool:
    """Whether two scales or masks are equal. Tensors are compared only under validation."""
    if a is b or not (isinstance(a, Tensor) or isinstance(b, Tensor)):
        return a is b or a == b
    if a is None or b is None:
        return False
    return not is_validation_enabled() or bool(torch.as_tensor(a == b).all())


def show(scale: Any) -> str:
    """A scale as text for messages: a number, or a list with the number of each image."""
    many = isinstance(scale, Tensor) and scale.dim() > 0
    return str(scale.tolist()) if many else f"{float(scale):g}"


def plates(site: Any) -> set[int]:
    """The dims of the plates around a site, without Pyro's own plate of draws."""
    return {f.dim for f in site["cond_indep_stack"] if f.vectorized and f.name != PARTICLES}

"""What a graph would freeze is refused while it is traced, with the line it stands in.

A graph repeats what it was traced with. So whatever Python decides by looking at a tensor's value
cannot be part of one, and :class:`Tripwire` raises where Python looks.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from traceback import walk_stack
from types import FrameType
from typing import Any

import pyro
import torch
from pyro.infer.util import Dice
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.util import warn_if_inf, warn_if_nan
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributions import Distribution, distribution
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.overrides import TorchFunctionMode

from ..errors import InputError


class CompileError(InputError):
    """A program that one graph cannot stand for; the message names the line."""


class EagerReason(Exception):
    """A program that runs as Pyro runs it, for the reason given."""


DATA: Any = Tensor.data
# Python learns a tensor's value by one of these; a graph has no value to give.
LOOKS = {
    Tensor.__bool__: "a branch on a tensor",
    Tensor.__contains__: "`in` on a tensor",
    Tensor.__float__: "float(tensor)",
    Tensor.__int__: "int(tensor)",
    Tensor.__index__: "a tensor as a Python index",
    Tensor.__complex__: "complex(tensor)",
    Tensor.__array__: "a NumPy array of a tensor",
    Tensor.numpy: "tensor.numpy()",
    Tensor.tolist: "tensor.tolist()",
    Tensor.is_nonzero: "tensor.is_nonzero()",
    Tensor.equal: "tensor.equal()",
    Tensor.allclose: "tensor.allclose()",
    DATA.__set__: "an assignment to tensor.data",
    torch.is_nonzero: "torch.is_nonzero",
    torch.equal: "torch.equal",
    torch.allclose: "torch.allclose",
}
DICE = Dice.compute_expectation.__code__
# What Pyro and torch themselves ask: checks, which the eager call before has passed (NaN is asked
# again of the loss at each call), and whether a term is free of zeros, which may be denied.
CHECKS = {
    DICE: False,
    warn_if_nan.__code__: False,
    warn_if_inf.__code__: False,
    Distribution.__init__.__code__: True,
    Distribution._validate_sample.__code__: True,
}
if hasattr(distribution, "_all_true_or_runtime_assert"):  # torch 2.10 and later
    CHECKS[distribution._all_true_or_runtime_assert.__code__] = True


class Tripwire(TorchFunctionMode):
    """While a program is traced: ``item`` stays a tensor, ``backward`` is put off to the end, and
    whatever would tell Python a value is refused."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.item:
            index = plate_index(asker(), args[0])
            return args[0].detach().reshape(()) if index is None else index
        if func is Tensor.backward:
            weight = dict(enumerate(args)).get(1, (kwargs or {}).get("gradient"))
            self.losses.append(args[0] if weight is None else (args[0] * weight).sum())
            return None
        if func == DATA.__get__:  # it would leave the graph
            return args[0].detach()
        if func in (Tensor.__bool__, Tensor.register_hook, Tensor.masked_select):
            code = asker().f_code
            if code is DICE and func is Tensor.masked_select:
                return torch.where(args[1], args[0], 0)  # same sum, and a shape that is known
            if code in CHECKS:
                return CHECKS[code]
        if func is Tensor.random_ and len(args) > 2:
            raise CompileError("tensor.random_(low, high), unlike torch.randint(low, high, size)")
        if func in LOOKS:
            raise CompileError(LOOKS[func])
        result = func(*args, **(kwargs or {}))
        mark(user_line([*walk_stack(sys._getframe(1))][::-1]))
        return result

    def gradients(self) -> tuple[list[Tensor], list[Tensor]]:
        """The leaves that ``backward`` would have reached, and what it would have added there."""
        nodes: list[Any] = [loss.grad_fn for loss in self.losses]
        seen: dict[Any, None] = {}
        while nodes:
            node = nodes.pop()
            if node is not None and node not in seen:
                seen[node] = None
                nodes += [parent for parent, _ in node.next_functions]
        leaves = [node.variable for node in seen if hasattr(node, "variable")]
        if not leaves:
            raise EagerReason("there is no parameter to train")
        gradients = torch.autograd.grad(self.losses, leaves, allow_unused=True)
        reached = [(p, g) for p, g in zip(leaves, gradients, strict=True) if g is not None]
        # Each gradient in memory of its own, laid out as its parameter: an optimizer writes there.
        own = [torch.empty_like(p).copy_(g) if aliased(g, p) else g for p, g in reached]
        return [p for p, _ in reached], own


def asker() -> FrameType:
    """The frame that called the torch function which the mode sees."""
    frame: FrameType = sys._getframe(2)
    while frame.f_code.co_filename in (torch.overrides.__file__, torch._tensor.__file__):
        assert frame.f_back is not None
        frame = frame.f_back
    return frame


def aliased(gradient: Tensor, leaf: Tensor) -> bool:
    """Whether a gradient is a view, or is laid out in another way than its parameter."""
    return gradient._is_view() or gradient.stride() != leaf.stride()


def plate_index(frame: FrameType, value: Tensor) -> int | None:
    """The loop's index if ``item`` is asked by a sequential plate; a graph has one branch for
    each, under a name of its own."""
    if frame.f_code is not IndepMessenger.__iter__.__code__:
        return None
    plate = frame.f_locals["self"]
    if plate.subsample_size != plate.size or not isinstance(value, FakeTensor):
        raise EagerReason(f"the sequential plate {plate.name!r} takes a random subsample")
    return plate.counter - 1


LIBRARIES = (
    *(f"{Path(str(module.__file__)).parent}/" for module in (torch, pyro)),
    f"{sysconfig.get_path('stdlib')}/",
    "<string>",
    f"{Path(__file__).parent}/",
    str(Path(__file__).parent.with_name("compiled.py")),
)


def user_line(frames: Iterable[tuple[FrameType, int]]) -> str:
    """``file:line`` of the innermost frame that is the user's own; frames come outermost first."""
    own = [
        f"{frame.f_code.co_filename}:{line}"
        for frame, line in frames
        if not frame.f_code.co_filename.startswith(LIBRARIES)
    ]
    return own[-1] if own else "the model or the guide"


def mark(line: str) -> None:
    """Note the line that the newest nodes of the graph being traced come from."""
    tracer: Any = getattr(get_proxy_mode(), "tracer", None)
    for node in reversed(tracer.graph.nodes if tracer is not None else []):
        if "line" in node.meta:
            break
        node.meta["line"] = line

"""Programs that write into their tensors: into a whole tensor, or through a view of it."""

import copy

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from . import Member, member, normal_guide


class Counting(nn.Module):
    """A weight and a buffer of three numbers, into which ``write`` writes at each call."""

    def __init__(self, write, start=0.5):
        super().__init__()
        self.write = write
        self.w = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("count", torch.full((3,), start))

    def model(self, x):
        pyro.module("counting", self)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with torch.no_grad():
            self.write(self.count)
        mean = z * self.w + self.count[0]
        pyro.sample("x", dist.Normal(mean, 1.0).expand([3]).to_event(1), obs=x)


def infinite_at_7(step):
    x = torch.linspace(-1.0, 1.0, 3)
    return (x * torch.inf if step == 7 else x,)


WRITES = {
    "a number is added to a buffer": lambda b: b.add_(1.0),
    "a buffer is multiplied by a number": lambda b: b.mul_(0.9),
    "a buffer is the output of an operation": lambda b: torch.add(b, 0.5, out=b),
    "an element of a buffer is increased": lambda b: b[0].add_(0.5),
    "an element of a buffer is set": lambda b: b.__setitem__(0, b[0] + 0.5),
    "a buffer is increased through data": lambda b: b.data.add_(0.5),
    "a view of a buffer is written": lambda b: b.view(-1)[:2].mul_(0.9).add_(0.1),
    "a detached buffer is written": lambda b: b.detach().lerp_(torch.ones(3), 0.1),
    "a list of buffers is written": lambda b: torch._foreach_add_([b], 0.5),
    "one of several views is written": lambda b: b.split(1)[0].add_(0.5),
    "a buffer is clipped": lambda b: b.add_(0.3).clamp_(max=2.0),
}

for name, write in WRITES.items():

    def make(write=write):
        made = Counting(write)
        return Member(made.model, normal_guide, result=made.count.clone)

    def repeated(write=write):  # the step whose loss is infinite is repeated eagerly
        made = Counting(write)
        return Member(made.model, normal_guide, args=infinite_at_7, result=made.count.clone)

    make.__name__ = name
    repeated.__name__ = f"{name} before an infinite loss"
    member("equal")(make)
    member("equal")(repeated)


@member("equal")
def _a_target_network_that_follows():
    net = nn.Linear(1, 3)
    target = copy.deepcopy(net).requires_grad_(False)

    def model(x):
        pyro.module("net", net)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with torch.no_grad():
            for a, b in zip(target.parameters(), net.parameters(), strict=True):
                a.mul_(0.9).add_(b, alpha=0.1)
        mean = net(z[None]) + target(z[None])
        pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    return Member(model, normal_guide, result=lambda: [p.clone() for p in target.parameters()])


@member("equal")
def _a_weight_that_shrinks():
    net = nn.Linear(1, 3)

    def model(x):
        pyro.module("net", net)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with torch.no_grad():
            net.weight.mul_(0.9)
        pyro.sample("x", dist.Normal(net(z[None]), 1.0).to_event(1), obs=x)

    return Member(model, normal_guide)


@member("equal")
def _a_tensor_that_is_read_through_a_view():
    kept = torch.ones(3)
    view = kept[:2]

    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        kept.add_(0.5)
        mean = (z * view.sum()).expand(3)
        pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    return Member(model, normal_guide, result=lambda: kept.clone())

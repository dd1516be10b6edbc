"""Tensors as Python numbers, objects of torch and Pyro, hooks, and modules of torch."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints
from torch.utils.checkpoint import checkpoint

from . import Member, looks, member, normal_guide, programs


def number(look, outcome="refused"):
    """A look that reads a 0-dim tensor as a number; the tensor is changed in place."""

    def make():
        kept = torch.tensor(1)
        return lambda z, x: look(z, x, kept), lambda v: kept.fill_(int(v))

    make.__name__ = look.__name__
    looks(outcome)(make)
    return look


@number
def a_tensor_as_fill_value(z, x, t):
    return z * torch.full((3,), t)


@number
def a_tensor_as_the_end_of_a_range(z, x, t):
    return z * torch.arange(t + 2).sum()


@number
def a_tensor_as_the_end_of_a_real_range(z, x, t):
    return z * torch.arange(t).sum()


@number
def a_tensor_as_alpha(z, x, t):
    return torch.add(z, x, alpha=t)


@number
def a_tensor_as_an_index(z, x, t):
    return z * [1.0, 2.0, 3.0][t]


@number
def a_tensor_as_the_end_of_a_slice(z, x, t):
    return z * x[:t].sum()


@number
def a_tensor_as_text(z, x, t):
    return z * (2.0 if "2" in str(t) else 1.0)


@number
def a_tensor_in_a_formatted_string(z, x, t):
    return z * (2.0 if "2" in f"{t}" else 1.0)


@number
def a_tensor_as_a_size(z, x, t):
    return z * torch.ones(t).sum()


@number
def a_tensor_as_a_repetition(z, x, t):
    return z * x.repeat(t).sum()


@number
def a_tensor_in_range(z, x, t):
    return z * sum(range(t))


@number
def a_tensor_as_an_exponent_of_a_number(z, x, t):
    return z * (2.0 ** int(t))


@number
def a_tensor_as_a_condition(z, x, t):
    return 2 * z if t > 1 else z


@number
def a_tensor_in_a_format_method(z, x, t):
    return z * float(f"{t.item():d}")


def live(look):
    return number(look, "equal")


@live
def a_tensor_as_a_factor(z, x, t):
    return z * t


@live
def a_tensor_as_an_exponent(z, x, t):
    return x**t + z


@live
def an_item_as_a_factor(z, x, t):
    return z * t.item()


@live
def a_tensor_in_where(z, x, t):
    return torch.where(t > 1, 2 * z, z)


@live
def a_tensor_in_clamp(z, x, t):
    return z + x.clamp(max=t)


@looks("equal")
def an_attribute_of_a_distribution():
    prior = dist.Normal(0.0, 1.0)

    def look(z, x):
        return z + pyro.sample("w", prior, infer={}).detach() * 0 + prior.scale

    del look
    return (
        lambda z, x: z * prior.scale,
        lambda v: setattr(prior, "scale", torch.tensor(v)),
    )


@member("equal")
def a_prior_whose_scale_is_replaced():
    prior = dist.Normal(torch.tensor(0.0), torch.tensor(1.0))

    def model(x):
        z = pyro.sample("z", prior)
        pyro.sample("x", dist.Normal(z, 1.0).expand([3]).to_event(1), obs=x)

    return Member(model, normal_guide, change=lambda v: setattr(prior, "scale", torch.tensor(v)))


@member("equal")
def a_handler_whose_scale_is_changed():
    handler = poutine.scale(scale=1.0)

    def model(x):
        with handler:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0).expand([3]).to_event(1), obs=x)

    return Member(model, normal_guide, change=lambda v: setattr(handler, "scale", v))


@member("equal")
def a_decorated_model_whose_scale_is_changed():
    handler = poutine.scale(scale=1.0)

    @handler
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0).expand([3]).to_event(1), obs=x)

    return Member(model, normal_guide, change=lambda v: setattr(handler, "scale", v))


@member("equal")
def a_transform_with_state():
    transform = dist.transforms.AffineTransform(0.0, 1.0)
    return programs(lambda z, x: transform(z), change=lambda v: setattr(transform, "scale", v))


@member("equal")
def an_expanded_prior_in_an_attribute():
    class Model(nn.Module):
        prior = dist.Normal(0.0, 1.0).expand([3]).to_event(1)

        def forward(self, x):
            z = pyro.sample("z", self.prior)
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(3))
        pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    model = Model()

    def change(v):
        model.prior.base_dist.scale = torch.full((3,), v)

    return Member(model, guide, change=change)


@member("equal")
def particles_changed_on_the_elbo():
    made = programs(lambda z, x: z)
    made.change = lambda v: setattr(made.elbo, "num_particles", int(v))
    return made


@member("equal")
def particles_changed_on_the_wrapper():
    made = programs(lambda z, x: z)
    value = [1]
    made.change = lambda v: value.__setitem__(0, int(v))
    made.after = lambda svi: setattr(svi.loss_and_grads.__self__, "num_particles", value[0])
    made.elbo = Trace_ELBO()
    return made


class Net(nn.Module):
    """A regression through a network; its own layers come from ``layers``."""

    def __init__(self, *layers):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), *layers, nn.Linear(4, 3))

    def forward(self, x):
        pyro.module("net", self)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(self.net(x + z), 1.0).to_event(2), obs=x)


def network(*layers, change=lambda net: None, after=lambda net: None):
    net = Net(*(layer() for layer in layers))
    return Member(
        net,
        normal_guide,
        args=lambda step: (torch.linspace(-1.0, 1.0, 12).view(4, 3) + 0.1 * step,),
        change=lambda v: change(net, v) if change.__code__.co_argcount == 2 else None,
        result=lambda: {k: v.clone() for k, v in net.named_buffers()},
    )


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)


LAYERS = {
    "relu": ("equal", nn.ReLU),
    "batch norm": ("equal", lambda: nn.BatchNorm1d(4)),
    "batch norm without momentum": ("refused", lambda: nn.BatchNorm1d(4, momentum=None)),
    "layer norm": ("equal", lambda: nn.LayerNorm(4)),
    "group norm": ("equal", lambda: nn.GroupNorm(2, 4)),
    "dropout": ("equal", lambda: nn.Dropout(0.5)),
    "alpha dropout": ("equal", lambda: nn.AlphaDropout(0.2)),
    "softplus": ("equal", nn.Softplus),
    "gelu": ("equal", nn.GELU),
    "prelu": ("equal", nn.PReLU),
    "random relu": ("equal", nn.RReLU),
    "bilinear embedding": ("equal", lambda: nn.Linear(4, 4, bias=False)),
    "spectral norm": ("equal", lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))),
    "weight norm": ("equal", lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))),
    "checkpoint over dropout": ("eager", lambda: Checkpointed(False)),
    "reentrant checkpoint over dropout": ("eager", lambda: Checkpointed(True)),
}
for _name, (_outcome, _layer) in LAYERS.items():

    def _build(layer=_layer):
        return network(layer)

    _build.__name__ = f"layer_{_name.replace(' ', '_')}"
    member(_outcome)(_build)


def changed(name, outcome, change, layer=nn.ReLU):
    def build():
        return network(layer, change=change)

    build.__name__ = name.replace(" ", "_")
    member(outcome)(build)


changed("eval and train", "equal", lambda net, v: net.train(v == 1.0), lambda: nn.Dropout(0.5))
changed(
    "the rate of dropout",
    "equal",
    lambda net, v: setattr(net.net[1], "p", v / 8),
    lambda: nn.Dropout(0.5),
)
changed(
    "the momentum of batch norm",
    "equal",
    lambda net, v: setattr(net.net[1], "momentum", v / 8),
    lambda: nn.BatchNorm1d(4),
)
changed(
    "the epsilon of layer norm",
    "equal",
    lambda net, v: setattr(net.net[1], "eps", v),
    lambda: nn.LayerNorm(4),
)
changed(
    "a layer is replaced",
    "equal",
    lambda net, v: net.net.__setitem__(1, nn.Tanh() if v > 1 else nn.ReLU()),
)
changed("a layer is frozen", "equal", lambda net, v: net.net[0].requires_grad_(v == 1.0))
changed("weights are written in place", "equal", lambda net, v: net.net[0].weight.data.mul_(v))
changed(
    "a rebound data",
    "equal",
    lambda net, v: setattr(net.net[0].weight, "data", net.net[0].weight.data.t().t() * v),
)
changed(
    "weights with other strides",
    "equal",
    lambda net, v: setattr(net.net[0].weight, "data", net.net[0].weight.data.t().contiguous().t()),
)
changed(
    "a forward hook",
    "equal",
    lambda net, v: v > 1 and net.net[1].register_forward_hook(lambda m, i, o: 2 * o),
)
changed(
    "a forward pre hook",
    "equal",
    lambda net, v: v > 1 and net.net[1].register_forward_pre_hook(lambda m, i: (2 * i[0],)),
)
changed(
    "a full backward hook",
    "equal",
    lambda net, v: v > 1 and net.net[1].register_full_backward_hook(lambda m, i, o: (0.1 * i[0],)),
)
changed(
    "a hook of a parameter",
    "eager",
    lambda net, v: v > 1 and net.net[0].weight.register_hook(lambda g: 0.1 * g),
)
changed(
    "a hook after accumulation",
    "eager",
    lambda net, v: (
        v > 1 and net.net[0].weight.register_post_accumulate_grad_hook(lambda p: p.grad.mul_(0.1))
    ),
)


@member("equal")
def a_hook_that_is_removed():
    made = network(nn.ReLU)
    handle = made.model.net[1].register_forward_hook(lambda m, i, o: 2 * o)
    made.change = lambda v: handle.remove()
    return made


@member("eager")
def a_parameter_hook_that_is_removed():
    made = network(nn.ReLU)
    handle = made.model.net[0].weight.register_hook(lambda g: 0.1 * g)
    made.change = lambda v: handle.remove()
    return made


@member("equal")
def a_hook_for_all_modules():
    made, handles = network(nn.ReLU), []

    def change(v):
        if v > 1:
            hook = nn.modules.module.register_module_forward_hook(
                lambda m, i, o: 2 * o if isinstance(m, nn.ReLU) else None
            )
            handles.append(hook)
        else:
            handles.pop().remove()

    made.change = change
    return made


@member("equal")
def a_hook_on_a_latent():
    def look(z, x):
        w = pyro.param("w", torch.tensor(1.0)) * z
        w.register_hook(lambda g: 0.1 * g)
        return w

    return programs(look)


@member("equal")
def an_attribute_of_a_parameter():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor(1.0))
            self.w.factor = 1.0

        def forward(self, x):
            pyro.module("model", self)
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            mean = z * self.w * self.w.factor
            pyro.sample("x", dist.Normal(mean, 1.0).expand([3]).to_event(1), obs=x)

    model = Model()
    return Member(model, normal_guide, change=lambda v: setattr(model.w, "factor", v))


@member("equal")
def a_constrained_parameter():
    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.w = PyroParam(torch.tensor(1.0), constraints.positive)

        def forward(self, x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, self.w).expand([3]).to_event(1), obs=x)

    return Member(Model(), normal_guide)


@member("eager")
def a_sparse_embedding():
    table = nn.Embedding(5, 1, sparse=True)

    def look(z, x):
        pyro.module("table", table)
        return z + table(torch.tensor([0, 1, 2])).squeeze(-1)

    return programs(look, optim=lambda: pyro.optim.SGD({"lr": 0.05}))


def recurrent(cell):
    def build():
        net = cell(3, 4)

        def look(z, x):
            pyro.module("net", net)
            return z + net(x[None, None])[0].sum()

        return programs(look)

    build.__name__ = f"recurrent_{cell.__name__.lower()}"
    member("eager" if cell is nn.LSTM else "equal")(build)


for _cell in (nn.RNN, nn.GRU, nn.LSTM):
    recurrent(_cell)


@member("equal")
def a_convolution():
    net = nn.Conv1d(1, 2, 3, padding=1)

    def look(z, x):
        pyro.module("net", net)
        return z + net(x[None, None]).sum(1)[0]

    return programs(look)


@member("equal")
def a_custom_backward():
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, g):
            return 2 * g

    return programs(lambda z, x: Double.apply(z * pyro.param("w", torch.tensor(1.0))))


@member("equal")
def a_straight_through_estimate():
    return programs(lambda z, x: z + (z.round() - z).detach())


@member("equal")
def no_grad_inside():
    def look(z, x):
        with torch.no_grad():
            y = z * 2
        return y + z

    return programs(look)

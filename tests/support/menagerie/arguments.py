"""What programs can ask about a tensor among their arguments, besides its values."""

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.distributions import constraints

from . import Member, member, normal_guide

X = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
TRANSPOSED = X.t().contiguous().t()
EXPANDED = X[:1].expand(3, 2)
TAGGED = X.clone()
TAGGED.tag = 2.0
PARAMETER = nn.Parameter(X.clone())
KEPT = [X.clone()]
ROOT = X.clone().requires_grad_()


def of_matrices(factor, args):
    """A member whose arguments have rows; the mean of their sums is z, times ``factor``."""

    def model(x, *others):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        mean = (z * factor(x, *others)).expand(len(x))
        pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x.detach().sum(-1))

    return Member(model, normal_guide, args=args)


def asked(outcome, question, first, later):
    """A member whose factor depends on an argument, which is another from step 5 on."""

    def make():
        return of_matrices(
            lambda x: 2.0 if question(x) else 1.0,
            lambda step: (later if step >= 5 else first,),
        )

    return lambda f: (setattr(make, "__name__", f.__name__), member(outcome)(make))


@asked("equal", lambda x: x.is_contiguous(), X, TRANSPOSED)
def whether_an_argument_is_contiguous():
    pass


@asked("equal", lambda x: x.stride(0) == 1, TRANSPOSED, X)
def the_strides_of_an_argument():
    pass


@asked("eager", lambda x: x.stride(0) == 0, EXPANDED, X)
def an_expanded_argument():
    pass


@asked("eager", lambda x: getattr(x, "tag", 0), TAGGED, X)
def an_attribute_of_an_argument():
    pass


@asked("eager", lambda x: x is KEPT[0], KEPT[0], X)
def an_argument_that_is_read_elsewhere():
    pass


@asked("eager", lambda x: x is KEPT[0], X, KEPT[0])
def an_argument_that_is_read_elsewhere_later():
    pass


@asked("eager", lambda x: isinstance(x, nn.Parameter), PARAMETER, X)
def an_argument_that_is_a_parameter():
    pass


@asked("eager", lambda x: x.is_leaf, ROOT, ROOT * 1)
def whether_an_argument_is_a_leaf():
    pass


@asked("eager", lambda x: x.grad_fn is None, ROOT, ROOT * 1)
def what_made_an_argument():
    pass


@asked("eager", lambda x: x.storage_offset() == 0, X, torch.cat([X, X])[3:])
def the_storage_offset_of_an_argument():
    pass


@asked("eager", lambda x: x._is_view(), X, torch.cat([X, X])[:3])
def whether_an_argument_is_a_view():
    pass


def pair(step):
    return (X, X) if step < 5 else (X, X.clone())


@member("equal")
def _one_tensor_as_two_arguments():
    return of_matrices(lambda x, y: 2.0 if x is y else 1.0, pair)


@member("equal")
def _one_tensor_twice_in_a_tuple():
    return of_matrices(
        lambda x, both: 2.0 if both[0] is both[1] else 1.0, lambda step: (X, pair(step))
    )


@member("equal")
def _a_constraint_replaced_in_the_store():
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        s = pyro.param("s", torch.tensor(0.5), constraint=constraints.positive)
        pyro.sample("x", dist.Normal(z, s).expand([len(x)]).to_event(1), obs=x)

    def change(value):
        state = pyro.get_param_store().get_state()
        new = constraints.softplus_positive if value > 1 else constraints.positive
        state["constraints"] = {**state["constraints"], "s": new}
        pyro.get_param_store().set_state(state)

    return Member(model, normal_guide, change=change)

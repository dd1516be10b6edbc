"""FusedOptim against pyro.optim: the same steps, states that either can read."""

from copy import deepcopy
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch.optim.lr_scheduler import ExponentialLR

from pyro_vae.compiling import FusedAdam, FusedOptim, clear_subnormals
from pyro_vae.compiling.optim import bare_adam
from pyro_vae.errors import InputError

X = torch.tensor([0.3, -1.2, 2.0])


def model():
    z = pyro.sample("z", dist.Normal(pyro.param("prior", torch.tensor(0.5)), 1.0))
    scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
    pyro.sample("x", dist.Normal(z, scale).expand([3]).to_event(1), obs=X)


def guide():
    loc = pyro.param("loc", torch.zeros(2))
    pyro.sample("z", dist.Normal(loc.sum(), 0.5))


def fit(optim, steps=12, after=lambda optim, i: None, clear=True):
    """The parameters after some steps of SVI."""
    if clear:
        pyro.clear_param_store()
    pyro.set_rng_seed(0)
    svi = SVI(model, guide, optim, loss=Trace_ELBO())
    for i in range(steps):
        svi.step()
        after(optim, i)
    return {k: v.detach().clone() for k, v in pyro.get_param_store().named_parameters()}


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def options(name):
    return {"lr": 0.1} if name == "scale" else {"lr": 0.01, "betas": (0.8, 0.9)}


@pytest.mark.parametrize(
    ("constructor", "args"),
    [
        (torch.optim.Adam, {"lr": 0.05}),
        (torch.optim.Adam, {"lr": 0.05, "betas": (0.95, 0.99), "weight_decay": 0.1}),
        (torch.optim.AdamW, {"lr": 0.05}),
        (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9}),
        (torch.optim.RMSprop, {"lr": 0.01}),
        (torch.optim.Adam, options),
    ],
)
@pytest.mark.parametrize("clip", [None, {"clip_norm": 0.5}, {"clip_value": 0.2}])
def test_same_steps_as_pyro(constructor, args, clip):
    close(
        fit(FusedOptim(constructor, args, clip)),
        fit(pyro.optim.PyroOptim(constructor, args, clip)),
    )


def test_scheduler_moves_the_learning_rate_as_pyros_does():
    def move(optim, i):
        if i % 3 == 2:
            optim.step()

    ours = FusedOptim(torch.optim.Adam, {"lr": 0.1}, scheduler=partial(ExponentialLR, gamma=0.5))
    theirs = pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "gamma": 0.5}
    )
    close(fit(ours, after=move), fit(theirs, after=move))
    assert ours.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**4)


@pytest.mark.parametrize("save", [FusedAdam, pyro.optim.Adam])
@pytest.mark.parametrize("load", [FusedAdam, pyro.optim.Adam])
def test_states_are_pyros(save, load):
    """Stop, store, load into another optimizer, go on: as if nothing had been."""
    args = {"lr": 0.05}
    fit(first := save(args), 6)
    state = deepcopy(first.get_state())
    expected = fit(first, 6, clear=False)

    fit(save(args), 6)
    second = load(args)
    second.set_state(state)
    close(fit(second, 6, clear=False), expected)


def test_a_state_is_taken_at_once_by_parameters_that_are_known():
    fit(first := FusedAdam({"lr": 0.05}), 6)
    state = deepcopy(first.get_state())
    store = pyro.get_param_store()
    values = {k: v.detach().clone() for k, v in store.named_parameters()}
    expected = fit(first, 6, clear=False)
    with torch.no_grad():
        for name, p in store.named_parameters():
            p.copy_(values[name])
    first.set_state(state)
    close(fit(first, 6, clear=False), expected)


def test_state_with_a_scheduler(tmp_path):
    make = partial(
        FusedOptim, torch.optim.Adam, {"lr": 0.1}, scheduler=partial(ExponentialLR, gamma=0.5)
    )

    def move(optim, i):
        optim.step()

    fit(first := make(), 4, move)
    first.save(tmp_path / "state")
    expected = fit(first, 4, move, clear=False)
    fit(make(), 4, move)
    second = make()
    second.load(tmp_path / "state")
    close(fit(second, 4, move, clear=False), expected)


def test_only_the_given_parameters_move():
    a, b = (torch.ones(2, requires_grad=True) for _ in range(2))
    optim = FusedAdam({"lr": 0.1})
    for params in ({a, b}, {a}):
        a.grad, b.grad = torch.ones(2), torch.ones(2)
        optim(params)
    assert (a < b).all()
    torch.testing.assert_close(b.detach(), torch.full((2,), 0.9))
    torch.testing.assert_close(b.grad, torch.ones(2))


def test_a_parameter_that_comes_later_has_moments_of_its_own():
    a, b = (torch.ones(2, requires_grad=True) for _ in range(2))
    optim = FusedAdam({"lr": 0.1})
    for params in ({a}, {a, b}, {a, b}):
        for p in params:
            p.grad = torch.ones(2)
        optim(params)
    torch.testing.assert_close(a.detach(), torch.full((2,), 0.7))
    torch.testing.assert_close(b.detach(), torch.full((2,), 0.8))
    assert len(optim.optimizer.param_groups) == 1


def test_a_scheduler_with_options_by_name_is_refused():
    with pytest.raises(InputError, match="one set of options"):
        FusedOptim(torch.optim.Adam, options, scheduler=partial(ExponentialLR, gamma=0.5))


def adam(params, **options):
    return torch.optim.Adam(params, lr=0.05, fused=True, **options)


def test_bare_adam_is_adam():
    options = {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1, "maximize": True}
    sets = [[torch.tensor([1.0, -2.0], requires_grad=True) for _ in range(2)] for _ in range(2)]
    optimizers = [adam(params, **options) for params in sets]
    torch.manual_seed(0)
    for i in range(6):
        gradients = [torch.randn(2), torch.randn(2)]
        for params, optimizer in zip(sets, optimizers, strict=True):
            bare = bare_adam(optimizer, params)
            assert (bare is None) == (i == 0)  # the first step makes the state
            if bare is not None and params is sets[0]:
                bare(gradients)
                continue
            for p, g in zip(params, gradients, strict=True):
                p.grad = g.clone()
            optimizer.step()
    states = [[o.state[p] for p in params] for o, params in zip(optimizers, sets, strict=True)]
    torch.testing.assert_close((sets[0], states[0]), (sets[1], states[1]), rtol=0, atol=0)


OTHERS = {
    "amsgrad": lambda p: adam(p, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, fused=True),
    "not fused": lambda p: torch.optim.Adam(p, fused=False),
    "more parameters": lambda p: adam([*p, torch.ones(2, requires_grad=True)]),
    "two groups": lambda p: adam([{"params": p}, {"params": torch.ones(2, requires_grad=True)}]),
    "clipping": lambda p: FusedAdam({"lr": 0.1}, {"clip_norm": 1.0}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_bare_adam_is_nothing_else(name):
    params = [torch.ones(2, requires_grad=True)]
    params[0].grad = torch.ones(2)
    optim = OTHERS[name](params)
    optim(params) if isinstance(optim, FusedOptim) else optim.step()
    assert bare_adam(optim, params) is None


def test_bare_adam_passes_neither_hooks_nor_a_scheduler():
    for watch in (
        lambda o: o.register_step_post_hook(lambda *_: None),
        lambda o: ExponentialLR(o, gamma=0.5),
    ):
        params = [torch.ones(2, requires_grad=True)]
        params[0].grad = torch.ones(2)
        optimizer = adam(params)
        optimizer.step()
        assert bare_adam(optimizer, params) is not None
        watch(optimizer)
        assert bare_adam(optimizer, params) is None


def moments(optimizer):
    state = optimizer.state[optimizer.param_groups[0]["params"][0]]
    return state["exp_avg"], state["exp_avg_sq"]


def descend(optimizer, p, step, zeros=2_000):
    """Ten steps with gradients, then steps in which the first entry has a gradient of 0."""
    for i in range(10 + zeros):
        p.grad = torch.tensor([1e-3 if i < 10 else 0.0, 1.0])
        step()
    return moments(optimizer)


def is_subnormal(x):
    return (x != 0) & (x.abs() < torch.finfo(x.dtype).tiny)


@pytest.mark.parametrize("how", ["step", "bare", "FusedAdam"])
def test_no_moment_of_adam_becomes_subnormal_and_the_parameters_are_those_of_torch(how):
    plain, p = (torch.ones(2, requires_grad=True) for _ in range(2))
    torchs = adam([plain])
    assert is_subnormal(descend(torchs, plain, torchs.step)[0]).tolist() == [True, False]
    if how == "FusedAdam":
        pyro.clear_param_store()
        pyro.get_param_store().setdefault("p", torch.ones(2))
        p = pyro.get_param_store()._params["p"]
        optim = FusedAdam({"lr": 0.05})
        optim.add({p})
        optimizer, step = optim.optimizer, lambda: optim({p})
    else:
        optimizer = adam([p])
        clear_subnormals(optimizer)
        step = optimizer.step
        if how == "bare":
            p.grad = torch.zeros(2)
            optimizer.state[p] = {"step": torch.tensor(0.0)} | {
                name: torch.zeros(2) for name in ("exp_avg", "exp_avg_sq")
            }
            bare = bare_adam(optimizer, [p])
            step = lambda: bare([p.grad])  # noqa: E731
    mean, square = descend(optimizer, p, step)
    assert mean[0] == 0
    assert not is_subnormal(square).any()
    assert torch.equal(p, plain)


def test_only_moments_near_the_least_normal_number_are_cleared():
    p = torch.ones(4, requires_grad=True)
    optimizer = adam([p])
    clear_subnormals(optimizer)
    for _ in range(99):
        p.grad = torch.zeros(4)
        optimizer.step()
    mean, square = moments(optimizer)
    mean.copy_(torch.tensor([1e-40, -1e-34, 1e-32, float("nan")]))
    square.copy_(torch.tensor([1e-40, 1e-37, 1e-30, 1.0]))
    optimizer.step()
    assert mean[:2].tolist() == [0, 0]
    assert mean[2] > 0
    assert mean[3].isnan()
    assert square[0] == 0
    assert (square[1:] > 0).all()


def test_moments_are_kept_where_epsilon_does_not_hide_them():
    plain, p = (torch.ones(1, requires_grad=True) for _ in range(2))
    torchs, ours = (torch.optim.Adam([x], lr=1e-3, eps=0.0, fused=True) for x in (plain, p))
    clear_subnormals(ours)
    for _ in range(130):
        for x, optimizer in ((plain, torchs), (p, ours)):
            x.grad = torch.full((1,), 1e-19)
            optimizer.step()
    assert torch.equal(p, plain)
    assert moments(ours)[1] < 1e-38


def test_each_parameter_has_its_own_hundred_steps():
    late, early = (torch.ones(1, requires_grad=True) for _ in range(2))
    optimizer = adam([late, early])
    clear_subnormals(optimizer)
    for i in range(730):
        late.grad = None if i < 30 else torch.full((1,), 1e-3 if i < 40 else 0.0)
        early.grad = torch.zeros(1)
        if i == 729:
            assert 0 < optimizer.state[late]["exp_avg"] < 1e-33  # the step 700 of early is over
        optimizer.step()
    assert int(optimizer.state[late]["step"]) == 700
    assert optimizer.state[late]["exp_avg"] == 0


def test_another_optimizer_is_refused():
    with pytest.raises(InputError, match="is for Adam and AdamW of torch, not RMSprop"):
        clear_subnormals(torch.optim.RMSprop([torch.ones(1, requires_grad=True)]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_moments_of_other_types_keep_what_is_normal(dtype):
    p, plain = (torch.ones(2, dtype=dtype, requires_grad=True) for _ in range(2))
    ours, torchs = adam([p]), adam([plain])
    clear_subnormals(ours)
    for _ in range(300):
        for x, optimizer in ((p, ours), (plain, torchs)):
            x.grad = torch.tensor([1e-3, 1.0], dtype=dtype)
            optimizer.step()
    assert torch.equal(p, plain)
    for one, other in zip(moments(ours), moments(torchs), strict=True):
        assert torch.equal(one, other)

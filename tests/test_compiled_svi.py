"""``CompiledSVI`` moves parameters as SVI does, and errors of Pyro are raised at every call."""

import dataclasses

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch.distributions import constraints

from pyro_vae.compiling import CompiledELBO, CompiledSVI, FusedAdam, FusedOptim

X = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
STEPS = 8
OPTIMIZERS = {
    "Adam": lambda: pyro.optim.Adam({"lr": 0.01}),
    "FusedAdam": lambda: FusedAdam({"lr": 0.01}),
    "momentum": lambda: pyro.optim.SGD({"lr": 0.01, "momentum": 0.9}),
    "weight decay": lambda: pyro.optim.SGD({"lr": 0.01, "weight_decay": 0.1}),
    "clipped": lambda: pyro.optim.ClippedAdam({"lr": 0.01, "clip_norm": 0.5}),
}


class Programs:
    """A Normal model and guide; ``detached`` cuts the gradient of the guide's mean."""

    detached = False

    def model(self, x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x):
        loc = pyro.param("loc", torch.zeros(2))
        scale = pyro.param("scale", torch.ones(2) * 0.5, constraint=constraints.positive)
        loc = loc.detach() if self.detached else loc
        pyro.sample("z", dist.Normal(loc, scale).to_event(1))


def path(kind, optim, before):
    """The losses and the parameters after each step."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    programs = Programs()
    if kind == "CompiledSVI":
        svi = CompiledSVI(programs.model, programs.guide, optim, Trace_ELBO(), backend="eager")
    else:
        elbo = Trace_ELBO() if kind == "SVI" else CompiledELBO(Trace_ELBO(), "eager")
        svi = SVI(programs.model, programs.guide, optim, elbo)
    losses, params = [], []
    for step in range(STEPS):
        before(step, programs)
        losses.append(svi.step(X))
        params += [p.detach().clone() for _, p in sorted(pyro.get_param_store().items())]
    return losses, params


def detached(step, programs):
    programs.detached = step >= 4


def frozen(step, programs):
    if step == 4:
        pyro.get_param_store()._params["loc"].requires_grad_(False)


def regularised(step, programs):
    """A gradient of the user's own, before the step."""
    if step > 2:
        (pyro.param("loc").sum() * 3).backward()


@pytest.mark.parametrize("before", [detached, frozen, regularised])
@pytest.mark.parametrize("optim", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["CompiledELBO", "CompiledSVI"])
def test_gradients_that_are_missing_or_there_move_parameters_as_in_svi(kind, optim, before):
    expected = path("SVI", OPTIMIZERS[optim](), before)
    torch.testing.assert_close(path(kind, OPTIMIZERS[optim](), before), expected)


@pytest.mark.parametrize("optim", ["Adam", "FusedAdam"])
def test_a_gradient_that_is_there_before_an_epoch_is_added(optim):
    def trained(epochs):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        programs = Programs()
        made = OPTIMIZERS[optim]()
        svi = CompiledSVI(programs.model, programs.guide, made, Trace_ELBO(), backend="eager")
        plain = SVI(programs.model, programs.guide, made, Trace_ELBO())
        for epoch in range(4):
            if epoch:
                regularised(3, programs)
            for _ in range(1 if epochs else 3):
                svi.epoch(X, torch.arange(6).expand(3, 6)) if epochs else plain.step(X)
        return [p.detach().clone() for _, p in sorted(pyro.get_param_store().items())]

    torch.testing.assert_close(trained(epochs=True), trained(epochs=False))


@pytest.mark.parametrize("way", ["SVI", "CompiledELBO", "CompiledSVI"])
def test_a_leaf_outside_of_the_store_collects_its_gradients(way):
    weight = torch.ones(2, requires_grad=True)

    def model(x, w):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x * w)

    def guide(x, w):
        Programs().guide(x)

    def collected(way):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        weight.grad = None
        optim = pyro.optim.Adam({"lr": 0.01})
        if way == "CompiledSVI":
            svi = CompiledSVI(model, guide, optim, Trace_ELBO(), backend="eager")
        else:
            elbo = Trace_ELBO() if way == "SVI" else CompiledELBO(Trace_ELBO(), "eager")
            svi = SVI(model, guide, optim, elbo)
        return [(svi.step(X, weight), weight.grad.clone()) for _ in range(5)]

    torch.testing.assert_close(collected(way), collected("SVI"))


GOOD, BAD = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.5, 3.0])


def counts(x):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Poisson(z.exp()), obs=x)


def switched_off(x):
    """As :func:`counts`, and a site that opts out of the checks and fails them."""
    counts(x)
    pyro.sample("y", dist.Bernoulli(torch.tensor(0.5), validate_args=False), obs=torch.tensor(0.5))


def normal(x):
    pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 0.3))


@pytest.mark.parametrize("model", [counts, switched_off])
@pytest.mark.parametrize("way", ["CompiledELBO", "CompiledSVI"])
def test_each_call_with_a_value_outside_of_its_support_raises(way, model):
    """An error is raised at the tenth bad batch as at the first, and the parameters stay."""
    optim = pyro.optim.Adam({"lr": 0.01})
    if way == "CompiledSVI":
        svi = CompiledSVI(model, normal, optim, Trace_ELBO(), backend="eager")
    else:
        svi = SVI(model, normal, optim, CompiledELBO(Trace_ELBO(), "eager"))
    for _ in range(6):
        svi.step(GOOD)
    for _ in range(10):
        before = pyro.param("loc").item()
        with pytest.raises(ValueError, match="support"):
            svi.step(BAD)
        assert pyro.param("loc").item() == before
        svi.step(GOOD)
    assert pyro.param("loc").item() != before


def test_an_epoch_raises_at_a_value_outside_of_its_support_again_and_again():
    optim = pyro.optim.Adam({"lr": 0.01})
    svi = CompiledSVI(counts, normal, optim, Trace_ELBO(), backend="eager")
    whole = torch.arange(3).expand(2, 3)
    for _ in range(3):
        svi.epoch(GOOD, whole)
    for _ in range(6):
        with pytest.raises(ValueError, match="support"):
            svi.epoch(BAD, whole)


@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_two_trainings_of_one_network_move_it_as_in_svi(optim):
    """The second one only sees the network detached, but its optimizer moves it, too: by its
    weight decay or its momentum, as ``SVI`` leaves gradients of zero."""

    def path(compiled):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        net = torch.nn.Linear(2, 2)

        def model(x, detached):
            pyro.module("net", net)
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = net(z).detach() if detached else net(z)
            with pyro.plate("rows", len(x)):
                pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

        def guide(x, detached):
            loc = pyro.param(f"loc {detached}", torch.zeros(2))
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

        options = {"backend": "eager"} if compiled else {}
        make = CompiledSVI if compiled else SVI
        first, second = (
            make(model, guide, OPTIMIZERS[optim](), Trace_ELBO(), **options) for _ in range(2)
        )
        losses = [svi.step(X, svi is second) for _ in range(STEPS) for svi in (first, second)]
        return losses, [p.detach().clone() for p in net.parameters()]

    torch.testing.assert_close(path(compiled=True), path(compiled=False), rtol=1e-5, atol=1e-5)


class Freezing(pyro.optim.PyroOptim):
    """An optimizer that stops the training of a bias at its 10th step."""

    def __init__(self, net):
        super().__init__(torch.optim.SGD, {"lr": 0.01})
        self.net, self.steps = net, 0

    def __call__(self, params):
        super().__call__(params)
        self.steps += 1
        if self.steps == 10:
            self.net.bias.requires_grad_(False)


def test_what_an_optimizer_changes_within_an_epoch_is_noticed():
    rows = torch.arange(24).view(12, 2)
    data = torch.randn(24, 2, generator=torch.Generator().manual_seed(0))

    def path(compiled):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        net = torch.nn.Linear(2, 2)

        def model(x):
            pyro.module("net", net)
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with pyro.plate("rows", len(x)):
                pyro.sample("x", dist.Normal(net(z), 1.0).to_event(1), obs=x)

        def guide(x):
            loc = pyro.param("loc", torch.zeros(2))
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

        optim = Freezing(net)
        if compiled:
            svi = CompiledSVI(model, guide, optim, Trace_ELBO(), backend="eager")
            losses = svi.epoch(data, rows).tolist()
        else:
            svi = SVI(model, guide, optim, Trace_ELBO())
            losses = [svi.step(data[row]) for row in rows]
        return losses, net.bias.detach().clone()

    torch.testing.assert_close(path(compiled=True), path(compiled=False), rtol=1e-5, atol=1e-5)


@dataclasses.dataclass(frozen=True)
class Named:
    """Two of these are equal although their factors differ."""

    factor: float = dataclasses.field(compare=False)

    def __call__(self, x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(self.factor * z, 1.0).to_event(1), obs=x)


@dataclasses.dataclass
class Unhashable(Programs):
    """A dataclass has no hash, because it compares by its fields."""


def guide_of_z(x):
    loc = pyro.param("loc", torch.zeros(2))
    pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


@pytest.mark.parametrize(
    "make", [lambda: [Named(1.0), Named(3.0)], lambda: [Unhashable().model, Unhashable().model]]
)
def test_programs_are_told_apart_by_identity(make):
    def path(compiled):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        models = make()
        elbo = CompiledELBO(Trace_ELBO(), "eager") if compiled else Trace_ELBO()
        optim = pyro.optim.Adam({"lr": 0.01})
        each = [SVI(model, guide_of_z, optim, elbo) for model in models]
        return [svi.step(X) for _ in range(4) for svi in each]

    assert path(compiled=True) == pytest.approx(path(compiled=False))


def steps_of_an_epoch(make, before_step=None):
    """The parameters after two epochs of ``CompiledSVI`` with an optimizer."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    optim = make()
    before = None if before_step is None else lambda: before_step(optim)
    programs, rows = Programs(), torch.arange(24).view(8, 3)
    data = torch.randn(24, 2, generator=torch.Generator().manual_seed(0))
    svi = CompiledSVI(
        programs.model, programs.guide, optim, Trace_ELBO(), backend="eager", before_step=before
    )
    for _ in range(2):
        svi.epoch(data, rows)
    return [p.detach().clone() for _, p in sorted(pyro.get_param_store().items())]


def halve(optim):
    """Halve the learning rate of all groups that an optimizer has."""
    inner = getattr(optim, "optimizer", None)
    each = [inner] if inner is not None else getattr(optim, "optim_objs", {}).values()
    for optimizer in each:
        for group in optimizer.param_groups:
            group["lr"] *= 0.5


def test_a_rate_that_changes_before_a_step_is_used():
    fused = steps_of_an_epoch(lambda: FusedAdam({"lr": 0.1}), halve)
    plain = steps_of_an_epoch(lambda: pyro.optim.Adam({"lr": 0.1}), halve)
    torch.testing.assert_close(fused, plain)


class Clamping(FusedOptim):
    """An optimizer that keeps its parameters small."""

    def __init__(self):
        super().__init__(torch.optim.Adam, {"lr": 0.1})

    def __call__(self, params, *args, **kwargs):
        super().__call__(params, *args, **kwargs)
        with torch.no_grad():
            for p in params:
                p.clamp_(-0.2, 0.2)


def test_an_optimizer_of_the_users_own_is_called_at_each_step():
    loc, scale = steps_of_an_epoch(Clamping)
    assert loc.abs().max() <= 0.2
    assert scale.log().abs().max() <= 0.2 + 1e-6


def test_a_second_batch_outside_of_the_support_leaves_gradients_that_are_there():
    """The proof of a new graph runs the programs, which raise Pyro's error."""

    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Exponential(z.exp()).expand([3]).to_event(1), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.5)), 1.0))

    def gradient(elbo):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        elbo.loss_and_grads(model, guide, torch.ones(3))
        with pytest.raises(ValueError, match="support"):
            elbo.loss_and_grads(model, guide, -torch.ones(3))
        return pyro.param("loc").unconstrained().grad

    expected = gradient(Trace_ELBO())
    assert torch.equal(gradient(CompiledELBO(Trace_ELBO(), "eager")), expected)

"""The options of ``fit``: one object, keywords that are checked, and the data that fit takes."""

from __future__ import annotations

import copy
import warnings
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from rich.console import Console
from support.pairs import PAIRS, Counts, TutorialVAE, bits
from support.small import assert_equal_weights, small, stripes
from torch import nn

from pyro_vae import VAE, InputError, fit
from pyro_vae.history import Epoch, Position
from pyro_vae.progress import Bar
from pyro_vae.settings import TrainingOptions


def test_an_options_object_and_keywords_are_the_same():
    data = stripes(40)
    one, two, three = (copy.deepcopy(vae) for vae in [small()] * 3)
    fit(one, data, epochs=2, batch_size=8, lr=1e-2)
    fit(two, data, options=TrainingOptions(epochs=2, batch_size=8, lr=1e-2))
    fit(three, data, options=TrainingOptions(epochs=9, batch_size=8, lr=1e-2), epochs=2)
    assert_equal_weights(one, two)
    assert_equal_weights(one, three)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epoch": 2}, r"unknown argument of fit 'epoch'; did you mean epochs"),
        ({"batchsize": 2}, r"unknown argument of fit 'batchsize'; did you mean batch_size"),
        ({"callbacks": []}, r"unknown argument of fit 'callbacks'; did you mean callback"),
        ({"options": {"epochs": 2}}, r"options is a TrainingOptions of pyro_vae.settings"),
        ({"validation": stripes().test}, r"'stripes' has validation images of its own; leave val"),
    ],
)
def test_an_argument_that_fit_does_not_have_is_refused_in_one_sentence(given, message):
    with pytest.raises(InputError, match=message) as error:
        fit(small(), stripes(), **given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("given", [(), (small,), (1, 2, 3, 4)])
def test_fit_without_its_programs_and_data_is_refused(given):
    with pytest.raises(InputError, match=r"fit\(vae, data\) or fit\(model, guide, data\)"):
        fit(*given)


@pytest.mark.parametrize("model", [1, "model", TutorialVAE])
def test_what_is_not_a_program_is_refused(model):
    with pytest.raises(InputError, match="the model is a Pyro program, not"):
        fit(model, lambda x: None, bits())


def test_the_ways_to_give_the_programs_are_the_same():
    """A module with both, a namespace, and both programs alone end in the same weights."""
    start, x, ends = TutorialVAE(), bits(20), []
    for way in range(3):
        pyro.clear_param_store()
        vae = copy.deepcopy(start)
        both = SimpleNamespace(model=vae.model, guide=vae.guide)
        given = [(vae,), (both,), (vae.model, vae.guide)][way]
        fit(*given, x, epochs=2, batch_size=8)
        ends.append(vae)
    assert_equal_weights(ends[0], ends[1])
    assert_equal_weights(ends[0], ends[2])


def test_a_module_under_a_name_that_is_taken_is_refused():
    """Pyro would train the first module, and the second one would stay as it is."""
    first, second = TutorialVAE(), TutorialVAE()
    fit(first.model, first.guide, bits(), epochs=1)
    with pytest.raises(InputError, match=r"belongs to another module.*clear_param_store"):
        fit(second.model, second.guide, bits(), epochs=1)
    pyro.clear_param_store()
    fit(second.model, second.guide, bits(), epochs=1)


def test_weights_in_another_layout_are_refused():
    """Pyro's store would hold a contiguous copy, and the copy would be trained."""
    x = torch.rand(8, 1, 8, 8).round()
    vae = VAE((1, 8, 8), network="conv", hidden=(4, 8, 8)).to(memory_format=torch.channels_last)
    with pytest.raises(InputError, match=r"'.*weight' .* not contiguous .*contiguous_format"):
        fit(vae, x, epochs=1)
    vae.to(memory_format=torch.contiguous_format)
    fit(vae, x, epochs=1)


def test_a_second_autoguide_that_begins_at_the_first_one_is_told():
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.randn(10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model, AutoNormal(model), x, epochs=1)
    with pytest.warns(UserWarning, match=r"AutoNormal\.locs\.z.* of an earlier guide") as told:
        fit(model, AutoNormal(model), x, epochs=1)
    assert told[0].filename == __file__


def test_an_autoguide_with_parameters_for_the_rows_of_a_batch_needs_one_batch():
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.randn(32)
    with pytest.raises(InputError, match=r"each of the 16 rows of a batch .* give batch_size=32"):
        fit(model, AutoNormal(model), x, batch_size=16)
    pyro.clear_param_store()
    guide = AutoNormal(model)
    fit(model, guide, x, batch_size=32, epochs=200, lr=0.05)
    # The posterior mean of a row is x / 2, so the rows have kept their order.
    assert torch.corrcoef(torch.stack([guide.median(x)["z"], x]))[0, 1] > 0.95


def test_programs_without_a_parameter_are_refused():
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    with pytest.raises(InputError, match="there is nothing to train"):
        fit(model, guide, torch.randn(5))


def test_a_lost_loss_restores_the_parameters_of_pyro_s_store():
    def model(x):
        a = pyro.param("a", torch.tensor(1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(a, 1.0), obs=x)

    class Lost(pyro.infer.Trace_ELBO):
        steps = 0

        def loss_and_grads(self, *args, **kwargs):
            self.steps += 1
            loss = super().loss_and_grads(*args, **kwargs)
            return float("nan") if self.steps == 3 else loss

    from pyro_vae.errors import TrainingError

    with pytest.raises(TrainingError, match="became nan in epoch 2, step 1") as error:
        fit(model, lambda x: None, torch.randn(8), epochs=3, batch_size=4, objective=Lost(), lr=0.1)
    assert len(set(error.value.images)) == 4
    kept = pyro.param("a").item()
    pyro.clear_param_store()
    torch.manual_seed(0)
    pyro.set_rng_seed(0)
    fit(model, lambda x: None, torch.randn(8), epochs=1, batch_size=4, lr=0.1)
    assert kept == pytest.approx(pyro.param("a").item(), abs=1e-6)


def test_going_on_without_the_parameters_of_pyro_s_store_is_refused():
    case = Counts()
    x = torch.poisson(torch.full((20,), 3.0))
    fit(case.model, case.guide, x, epochs=2, batch_size=8)
    fit(case.model, case.guide, x, epochs=3, batch_size=8, start=Position(2))
    pyro.clear_param_store()
    for _ in range(2):  # nothing was made by the first refusal
        with pytest.raises(InputError, match=r"the parameter .* is not in Pyro's store"):
            fit(case.model, case.guide, x, epochs=3, batch_size=8, start=Position(2))


def test_a_parameter_that_is_made_late_is_refused_or_taken_by_an_optimizer_of_pyro():
    calls = []

    def model(x):
        calls.append(1)
        a = pyro.param("a", torch.tensor(1.0))
        late = pyro.param("late", torch.tensor(1.0)) if len(calls) > 4 else 0.0
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(a + late, 1.0), obs=x)

    x = torch.randn(8)
    with pytest.raises(InputError, match="'late' was made in epoch 1, after the optimizer"):
        fit(model, lambda x: None, x, batch_size=2, epochs=2)
    pyro.clear_param_store()
    calls.clear()
    fit(model, lambda x: None, x, batch_size=2, epochs=2, optimizer=pyro.optim.Adam({"lr": 0.1}))
    assert pyro.param("late").item() != 1.0


def test_a_loss_of_two_numbers_is_refused():
    case = PAIRS["namespace"]()
    with pytest.raises(InputError, match="the loss of ReweightedWakeSleep is 2 numbers"):
        fit(case.model, case.guide, case.data, objective=pyro.infer.ReweightedWakeSleep())


def scheduler(kind):
    options = {"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.1}}
    if kind == "exponential":
        return pyro.optim.ExponentialLR({**options, "gamma": 0.5})
    return pyro.optim.ReduceLROnPlateau({**options, "patience": 0, "threshold": 1e9})


@pytest.mark.parametrize("kind", ["exponential", "plateau"])
def test_a_scheduler_of_pyro_moves_after_each_epoch(kind):
    """As the loop of Pyro's documentation does: the steps of an epoch, then scheduler.step()."""

    def model(x):
        a = pyro.param("a", torch.tensor(3.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(a, 1.0), obs=x)

    x, optimizer = torch.zeros(4), scheduler(kind)
    fit(model, lambda x: None, x, epochs=3, batch_size=4, optimizer=optimizer)
    value, lr, factor = 3.0, 0.1, {"exponential": 0.5, "plateau": 0.1}[kind]
    for _ in range(3):
        value -= lr * 4 * value  # the loss is 4 * a² / 2
        lr *= factor  # no loss is below the threshold of the plateau
    assert pyro.param("a").item() == pytest.approx(value, rel=1e-5)


class Line(Bar):
    def line(self, text):
        self.text = text


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (Epoch(1, 2.0), "epoch 1/3, nats per row: loss 2.00"),
        (
            Epoch(1, 2.0, measured_loss=3.0),
            "epoch 1/3, nats per row: loss 2.00, validation loss 3.00",
        ),
        (Epoch(1, 2.0, None, -3.0, -2.0, 1.0), "epoch 1/3, nats per row: validation -3.00"),
        (Epoch(1, 2.0, -2.5, -3.0), "epoch 1/3, nats per row: train -2.50, validation -3.00"),
    ],
)
def test_the_line_of_an_epoch_shows_what_was_measured(record, line):
    bar = Line(Console(quiet=True), 3, None, 8, Position(), "row")
    bar.on_epoch(record)
    assert bar.text == line


@pytest.mark.parametrize("name", PAIRS)
def test_an_epoch_has_the_numbers_that_can_be_measured(name):
    """The ELBO of rows where all latents are local; else the loss of test data; else neither."""
    case = PAIRS[name]()
    (record,) = fit(
        case.model,
        case.guide,
        case.data,
        validation=case.test,
        objective=case.objective,
        kwargs=case.kwargs,
        epochs=1,
        **({} if name in ("loaded", "semi_supervised") else {"batch_size": case.batch_size}),
    )
    by_row = {"ppca", "tutorial", "conditional", "pyro_modules", "sequences", "counts", "namespace"}
    if name in by_row | {"loaded"}:
        assert record.elbo == pytest.approx(record.reconstruction - record.kl)
        assert record.measured_loss is None
        assert (record.train_elbo is None) == (name == "loaded")
        assert sum(record.kl_of_sites.values()) == pytest.approx(record.kl, rel=1e-5)
    else:
        assert record.elbo is record.train_elbo is record.kl is None
        assert (record.measured_loss is None) == (case.test is None)
    assert isinstance(record.loss, float)


def test_a_plain_module_without_pyro_names_is_trained():
    """The parameters of a module that is a program are trained, registered or not."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(torch.tensor(3.0))

        def forward(self, x):
            with pyro.plate("rows", len(x)):
                pyro.sample("x", dist.Normal(self.loc, 1.0), obs=x)

    model = Model()
    fit(model, lambda x: None, torch.zeros(20), epochs=300, batch_size=20, lr=0.05)
    assert abs(model.loc.item()) < 0.05


def test_a_named_pyro_module_is_found_inside_a_handler_and_a_partial():
    from functools import partial

    from pyro import poutine

    from pyro_vae.modules import module_of

    module = PyroModule("name")
    assert module_of(partial(module.forward, 1)) is module
    assert module_of(poutine.scale(module, scale=2.0)) is module
    assert module_of(poutine.block(partial(module, 2))) is module
    assert module_of(lambda: None) is None


def test_a_parameter_outside_the_module_that_is_given_is_refused():
    """Whoever saves the module would lose it. Given as two programs, it is trained."""

    class Outside(TutorialVAE):
        def guide(self, x):
            pyro.param("shift", torch.zeros(2))
            super().guide(x)

    vae = Outside()
    with pytest.raises(InputError, match=r"'shift' of pyro.param belongs to no module of this VAE"):
        fit(vae, bits(), epochs=1)
    pyro.clear_param_store()
    fit(vae.model, vae.guide, bits(), epochs=1)

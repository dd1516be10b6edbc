"""Evaluation and compiled steps on plain Pyro programs and any data, against closed forms."""

from __future__ import annotations

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from support.pairs import PAIRS, PPCA, Counts, Noisy, TutorialVAE, bits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pyro_vae import CompiledSVI, InputError, elbo, gaps, importance
from pyro_vae.batch import Batch
from pyro_vae.evaluation.annealing import annealed
from pyro_vae.evaluation.rows import batches_of, rows_of


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_the_exact_posterior_has_no_gap():
    """Counts: with q(z | x) = p(z | x) each draw gives log p(x), a negative binomial."""
    counts, x = Counts(), torch.tensor([0, 3, 7, 1])
    counts.model(x)  # makes its parameters
    bound = elbo(counts.model, counts.posterior, x, samples=3)
    result = importance(counts.model, counts.posterior, x, samples=20)
    known = counts.log_p(x)
    torch.testing.assert_close(bound.elbos, known, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(result.log_p, known, rtol=1e-10, atol=1e-10)
    assert result.errors.max() < 1e-6
    assert bound.kl_of_units == {}  # a scalar for each row is not a vector of units


def test_importance_and_annealing_find_log_p_of_a_model_with_plates_at_other_dims():
    """Probabilistic PCA with rows at dim -2: log p(x) is a Normal density."""
    ppca, x = PPCA(), torch.randn(6, 4)
    result = importance(ppca.model, ppca.guide, x, samples=4000)
    known = ppca.log_p(x)
    assert ((result.log_p - known).abs() < 5 * result.errors).all()
    assert result.errors.max() < 0.2
    chains = annealed(ppca.model, x, temperatures=150, chains=8, leapfrogs=5)
    assert ((chains.log_p - known).abs() < 5 * chains.errors + 0.05).all()
    bound = elbo(ppca.model, ppca.guide, x, samples=4000)
    assert ((bound.elbos - result.elbos).abs() < 8 * result.elbo_errors).all()
    assert (bound.elbos < known).all()


def test_the_plate_over_the_rows_is_found_by_what_all_sites_share():
    """Four rows of four numbers: only the plate of patients is around the latent, too."""
    ppca, x = PPCA(), torch.randn(4, 4)
    result = importance(ppca.model, ppca.guide, x, samples=4000)
    assert ((result.log_p - ppca.log_p(x)).abs() < 5 * result.errors).all()


def test_two_plates_around_all_sites_of_the_same_size_are_refused():
    def model(x):
        with pyro.plate("rows", len(x), dim=-2), pyro.plate("columns", 3, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), torch.tensor(1.0)))
            pyro.sample("x", dist.Normal(z, torch.tensor(1.0)), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x), dim=-2), pyro.plate("columns", 3, dim=-1):
            pyro.sample("z", dist.Normal(x / 2, torch.tensor(0.5**0.5)))

    x = torch.randn(5, 3)
    known = dist.Normal(torch.tensor(0.0), torch.tensor(2.0**0.5)).log_prob(x).sum(1)
    torch.testing.assert_close(elbo(model, guide, x).elbos, known, rtol=1e-10, atol=1e-10)
    with pytest.raises(InputError, match="in two plates of size 3"):
        elbo(model, guide, x[:3])


class Linear(nn.Module):
    """x = W z + noise on vectors, and a mean-field guide with a linear encoder."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[1.0, 0.5], [-0.5, 1.0], [0.3, 0.2]]))
        self.mean = nn.Linear(3, 2)
        precision = torch.eye(2) + self.w.T.detach() @ self.w.detach() / 0.25
        covariance = precision.inverse()
        with torch.no_grad():
            self.mean.weight.copy_(covariance @ self.w.T / 0.25)
            self.mean.bias.fill_(shift)
        self.scale = precision.diagonal() ** -0.5  # the best mean-field guide
        self.gap = 0.5 * (precision.diagonal().log().sum() - precision.logdet())
        self.amortization = 0.5 * shift**2 * precision.sum()

    def model(self, x):
        pyro.module("linear", self)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.w.T, torch.tensor(0.5)).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(self.mean(x), self.scale).to_event(1))


def test_the_gaps_of_vectors_are_those_of_the_closed_form():
    linear, x = Linear(shift=0.3), torch.randn(8, 3)
    found = gaps(linear.model, linear.guide, x, samples=3000, steps=200, draws=20)
    covariance = linear.w @ linear.w.T + 0.25 * torch.eye(3)
    known = dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(x)
    torch.testing.assert_close(found.log_p, known, atol=0.05, rtol=0)
    assert found.approximation.mean().item() == pytest.approx(linear.gap.item(), abs=0.03)
    assert found.amortization.mean().item() == pytest.approx(linear.amortization.item(), abs=0.1)


LOCAL = ("conditional", "counts", "namespace", "ppca", "pyro_modules", "sequences", "tutorial")
GLOBAL = ("regression", "mixture", "hierarchical", "bayesian_network")
SCALED = ("weighted", "subsample_inside")


@pytest.mark.parametrize("name", LOCAL)
def test_every_pair_with_local_latents_is_measured(name):
    """The ELBO of both functions agrees, log p̂ is above it, and data in batches gives the same."""
    case = PAIRS[name]()
    pair = (case.model, case.guide)
    bound = elbo(*pair, case.test, samples=500)
    result = importance(*pair, case.test, samples=500)
    assert ((bound.elbos - result.elbos).abs() < 7 * result.elbo_errors + 1e-6).all()
    assert (result.log_p >= result.elbos - 1e-9).all()
    whole = Batch.of(case.test)
    cut = [whole.cut(i, i + 3) for i in range(0, len(whole), 3)]
    loader = DataLoader([each.kwargs or each.args for each in cut], batch_size=None)
    parts = elbo(*pair, loader, samples=500)
    assert parts.elbos.shape == bound.elbos.shape
    assert ((parts.elbos - bound.elbos).abs() < 10 * result.elbo_errors + 1e-6).all()


@pytest.mark.parametrize("name", [*GLOBAL, *SCALED])
def test_programs_without_a_bound_for_each_row_are_refused_in_one_sentence(name):
    case = PAIRS[name]()
    data = case.data
    match = "has a scale of" if name in SCALED else "outside the plate"
    for measure in (elbo, importance, partial(gaps, steps=1)):
        with pytest.raises(InputError, match=f"{match}|plain function") as error:
            measure(case.model, case.guide, data, samples=5, kwargs=case.kwargs)
        assert "\n" not in str(error.value)


def test_annealing_refuses_latents_that_are_not_real():
    counts = Counts()
    with pytest.raises(InputError, match="annealing needs real-valued latents, and site 'rate'"):
        annealed(counts.model, torch.tensor([1, 2]), temperatures=5)


def test_all_kinds_of_data_give_the_same_numbers():
    vae, x = TutorialVAE(), bits(20)
    pair = (vae.model, vae.guide)
    expected = importance(*pair, x, samples=50)
    for data in ((x,), {"x": x}, TensorDataset(x), DataLoader(TensorDataset(x), batch_size=20)):
        torch.manual_seed(0)
        assert torch.equal(importance(*pair, data, samples=50).log_p, expected.log_p)
        assert rows_of(data) == (None if isinstance(data, DataLoader) else 20)


def test_further_arguments_reach_both_programs():
    seen = []

    def model(x, scale):
        seen.append(scale)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), torch.tensor(1.0)))
            pyro.sample("x", dist.Normal(z, scale), obs=x)

    def guide(x, scale):
        seen.append(scale)
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x / (1 + scale**2), (scale**2 / (1 + scale**2)).sqrt()))

    x, scale = torch.randn(4), torch.tensor(0.7)
    bound = elbo(model, guide, x, kwargs={"scale": scale})
    known = dist.Normal(torch.tensor(0.0), (1 + scale**2).sqrt()).log_prob(x)
    torch.testing.assert_close(bound.elbos, known, rtol=1e-10, atol=1e-10)
    assert set(map(id, seen)) == {id(scale)}
    with pytest.raises(
        InputError, match=r"with one argument, the rows, and this one takes \(x, scale\)"
    ):
        elbo(model, guide, x)
    with pytest.raises(InputError, match="the argument 'x' is in the data and in kwargs"):
        elbo(model, guide, {"x": x}, kwargs={"x": x})


@pytest.mark.parametrize("data", [torch.zeros(0, 3), TensorDataset(torch.zeros(0, 3))])
def test_no_rows_are_refused(data):
    with pytest.raises(InputError, match="there are no rows to evaluate on"):
        next(batches_of(data, 5, 0, None))


@pytest.mark.parametrize("data", ["words", 3, [], (1, 2), None])
def test_what_is_not_rows_is_refused(data):
    with pytest.raises(InputError, match="a batch is a tensor, or a tuple or a dict of tensors"):
        elbo(print, print, data)


@pytest.mark.parametrize("name", ["regression", "ppca", "conditional", "sequences", "counts"])
@pytest.mark.parametrize("method", ["step", "epoch"])
def test_compiled_steps_of_any_data_are_those_of_svi(name, method):
    """Two steps on tensors, tuples and dicts, the programs' arguments as fit has them."""
    ends = []
    for compiled in (False, True):
        pyro.clear_param_store()
        pyro.set_rng_seed(4)
        case = PAIRS[name]()
        batch = Batch.of(case.data).cut(0, 12)
        optim, losses = pyro.optim.Adam({"lr": 0.01}), []
        pyro.set_rng_seed(5)
        if not compiled:
            svi = SVI(case.model, case.guide, optim, Trace_ELBO())
            losses = [svi.step(*batch.args, **batch.kwargs) for _ in range(4)]
        else:
            svi = CompiledSVI(case.model, case.guide, optim, Trace_ELBO(), backend="eager")
            if method == "step":
                losses = [svi.step(*batch.args, **batch.kwargs) for _ in range(4)]
            else:
                data = batch.kwargs or batch.args
                losses = svi.epoch(data, torch.arange(12).expand(4, 12)).tolist()
        modules = {k: v.detach().clone() for k, v in pyro.get_param_store().items()}
        ends.append((torch.tensor(losses), modules))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-10, atol=1e-10)


def test_rows_that_get_noise_when_they_are_loaded_are_read_once():
    vae = TutorialVAE()
    with pyro.validation_enabled(False):
        bound = elbo(vae.model, vae.guide, Noisy(bits(20)))
    assert bound.elbos.shape == (20,)

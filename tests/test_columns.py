"""The likelihood of a table against scipy, column by column, with and without holes."""

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from scipy import stats
from torch import nn

from pyro_vae import VAE, InputError, fit
from pyro_vae.data import Images
from pyro_vae.likelihoods import LIKELIHOODS, Categorical
from pyro_vae.networks import MLP
from pyro_vae.programs import typical

TYPES = [
    "real",
    "categorical(3)",
    "count",
    "positive",
    "ordered(2)",
    "binary",
    "categorical(5)",
    "ordered(4)",
    "real",
    "count",
    "positive",
]
MEAN = [50.0, 1.0, 3.0, 2.5, 0.5, 0.3, 2.0, 1.5, -1e3, 120.0, 4e4]
SCALE = [10.0, 0.8, 4.0, 1.5, 0.5, 0.46, 1.4, 1.1, 0.5, 60.0, 5e4]
SPEC = f"columns(columns={TYPES!r})"


@pytest.fixture
def vae():
    """A VAE of all types in float64, its numbers by column away from where they start."""
    vae = VAE((11,), 2, likelihood=SPEC, hidden=(16,), scaling=[MEAN, SCALE], holes=True).double()
    for parameter in vae.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return vae


def rows(vae, n=40):
    with torch.no_grad():
        return vae.model(n=n)


def units(group, k, mean, scale):
    """The units of log x: mean and deviation of the log-normal with these moments of x."""
    unit = np.sqrt(np.log1p((scale / mean) ** 2))
    expected = (np.log(mean) - unit**2 / 2, unit)
    found = group.centre[k].item(), group.unit[k].item()
    assert found == pytest.approx(expected, rel=1e-6)  # they were computed in float32
    return found


def by_hand(likelihood, z, x):
    """log p(x_i | z) of each column by scipy, from the decoder's numbers by column."""
    raw = likelihood.decoder(z).detach().numpy()
    of = {type(g).__name__: g.double() for g in likelihood.groups}
    own = {name: iter(range(len(group.places))) for name, group in of.items()}
    x, at, found = x.numpy(), 0, []
    gap_lists = [np.array([]), of["Ordered"].log_gaps.detach().exp().numpy()]  # of 2 and 4 levels
    for i, kind in enumerate(TYPES):
        name = kind.split("(")[0].capitalize()
        k, m, s = next(own[name]), MEAN[i], SCALE[i]
        width = int(kind[12]) if name == "Categorical" else 1
        r, v = raw[:, at : at + width], x[:, i]
        at += width
        if name == "Real":
            group = of[name]
            df = 2 + group.log_excess[k].exp().item()
            scale = s * (0.5 * group.logvar[k]).exp().item()
            found.append(stats.t.logpdf(v, df, m + s * r[:, 0], scale))
        elif name == "Positive":
            centre, unit = units(of[name], k, m, s)
            loc = centre + unit * r[:, 0]
            sigma = unit * (0.5 * of[name].logvar[k]).exp().item()
            found.append(stats.lognorm.logpdf(v, sigma, 0, np.exp(loc)))
        elif name == "Count":
            centre, unit = units(of[name], k, m + 1, s)
            mu = np.exp(centre + unit * r[:, 0])
            theta = of[name].log_inverse[k].exp().item()
            found.append(stats.nbinom.logpmf(v, theta, theta / (theta + mu)))
        elif name == "Binary":
            found.append(stats.bernoulli.logpmf(v, 1 / (1 + np.exp(-r[:, 0]))))
        elif name == "Categorical":
            p = np.exp(r) / np.exp(r).sum(1, keepdims=True)
            found.append(np.log(p[np.arange(len(v)), v.astype(int)]))
        else:
            cuts = of[name].first[k].item() + np.concatenate([[0.0], np.cumsum(gap_lists[k])])
            below = stats.logistic.cdf(np.array([-np.inf, *cuts, np.inf]) - r)  # [N, K + 1]
            p = np.diff(below, axis=1)
            found.append(np.log(p[np.arange(len(v)), v.astype(int)]))
    return torch.from_numpy(np.stack(found, 1))


def test_log_prob_is_the_sum_of_the_columns_densities_by_scipy(vae):
    x, z = rows(vae), 2 * torch.randn(40, 2).double()
    likelihood = vae.model.likelihood
    expected = by_hand(likelihood, z, x)
    torch.testing.assert_close(likelihood(z).base_dist.log_prob(x), expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(likelihood(z).log_prob(x), expected.sum(1), rtol=1e-8, atol=1e-8)


def test_density_and_probabilities_sum_to_one(vae):
    """Over a grid, with the units of each column: the Jacobian is there."""
    z = torch.randn(1, 2).double()
    entries = vae.model.likelihood(z).base_dist
    for i, kind in enumerate(TYPES):
        if kind == "real":
            reach = 1000 * SCALE[i] * torch.linspace(-1, 1, 400_001).double() ** 3
            grid = MEAN[i] + reach
        elif kind == "positive":
            grid = (torch.linspace(-40, 40, 200_001).double()).exp()
        elif kind == "count":
            grid = torch.arange(100_000.0).double()
        else:
            grid = torch.arange(2.0 if kind == "binary" else float(kind[-2])).double()
        x = entries.mean.expand(len(grid), 11).clone()
        x[:, [j for j, k in enumerate(TYPES) if k not in ("real", "positive")]] = 0
        x[:, i] = grid
        p = entries.log_prob(x)[:, i].exp()
        mass = torch.trapezoid(p, grid) if kind in ("real", "positive") else p.sum()
        assert mass.item() == pytest.approx(1, abs=1e-4)


def test_a_batch_with_holes_is_the_sum_of_its_rows_each_with_its_own_columns(vae):
    x, z = rows(vae, 12), torch.randn(12, 2).double()
    mask = torch.rand(12, 11) > 0.5
    mask[0] = False
    holed = torch.where(mask, x, torch.nan)
    each = by_hand(vae.model.likelihood, z, x)
    model = pyro.condition(vae.model, {"z": z})
    trace = pyro.poutine.trace(model).get_trace(holed)
    trace.compute_log_prob()
    expected = torch.stack([each[i, mask[i]].sum() for i in range(12)])
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], expected, rtol=1e-8, atol=1e-8)
    assert trace.nodes["x"]["log_prob"][0] == 0


def test_what_stands_in_a_hole_changes_nothing(vae):
    x = rows(vae, 12)
    mask = torch.rand(12, 11) > 0.5
    losses = []
    for other in (torch.nan, torch.inf, -7.5):
        torch.manual_seed(1)
        vae.zero_grad()
        holed = torch.where(mask, x, other)
        losses.append(Trace_ELBO().loss_and_grads(vae.model, vae.guide, holed, mask=mask))
        assert all(p.grad is None or p.grad.isfinite().all() for p in vae.parameters())
    assert losses[0] == losses[1] == losses[2]


def test_a_compiled_training_with_holes_is_the_eager_one(vae):
    x = rows(vae, 60).float()
    x = torch.where(torch.rand(60, 11) > 0.3, x, torch.nan)
    losses = []
    for compiled in (False, True):
        torch.manual_seed(0)
        own = VAE((11,), 2, likelihood=SPEC, hidden=(8,), scaling=[MEAN, SCALE], holes=True)
        options = {"epochs": 2, "batch_size": 20, "compiled": compiled, "progress": False}
        losses.append(
            [epoch.train_elbo for epoch in fit(own, Images(x), validation=Images(x), **options)]
        )
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_draws_have_the_mean_of_each_column(vae):
    with torch.no_grad():
        p = vae.model.likelihood(torch.zeros(1, 2).double())
        x = p.sample((20_000,))[:, 0]
        error = x.std(0) / len(x) ** 0.5
        close = ((x.mean(0) - p.mean[0]).abs() < 5 * error).tolist()
        for i, kind in enumerate(TYPES):
            if kind.startswith("categorical"):
                assert p.mean[0, i] == x[:, i].mode().values
            else:
                assert close[i], kind
    torch.testing.assert_close(typical(p), p.mean)
    assert vae.model.likelihood.support.check(x).all()


def test_leading_dimensions_of_z_are_free(vae):
    likelihood, z, x = vae.model.likelihood, torch.randn(3, 1, 40, 2).double(), rows(vae)
    expected = torch.stack([likelihood(each[0]).log_prob(x) for each in z])
    torch.testing.assert_close(likelihood(z).log_prob(x)[:, 0], expected)
    wide = likelihood(z[0]).expand([7, 40])
    torch.testing.assert_close(wide.log_prob(x), expected[:1].expand(7, 40))


def test_the_encoder_sees_columns_in_units_near_one_and_zeros_in_holes(vae):
    x = torch.tensor([[60.0, 2, 5, 2.5, 1, 0, 4, 3, -1e3, 120, 4e4]]).double()
    seen = vae.model.likelihood.seen(x)[0]
    unit = np.sqrt(np.log1p((4.0 / 4) ** 2))
    assert seen[:2].tolist() == [1, 0]  # the real columns
    assert seen[4].item() == pytest.approx((np.log(6) - np.log(4) + unit**2 / 2) / unit)
    assert seen[6:].tolist() == [-1, 0, 0, 1, 0, 0, 0, 0, 1, 1, 1]  # binary, one-of-K, ordered
    mask = torch.ones(1, 11, dtype=torch.bool)
    mask[0, [0, 1, 5, 7]] = False
    holes = vae.model.likelihood.seen(x, mask)[0]
    assert holes.nonzero().flatten().tolist() == [
        i for i in seen.nonzero().flatten().tolist() if i not in (0, 6, 9, 16)
    ]


def test_categories_are_seen_as_one_of_k():
    likelihood = Categorical(nn.Identity(), categories=3)
    x = torch.tensor([[0.0, 2.0]])
    assert likelihood.seen(x).tolist() == [[1, 0, 0, 0, 0, 1]]  # P(0), P(0), P(1), … as the decoder
    assert likelihood.seen(x, torch.tensor([[True, False]])).tolist() == [[1, 0, 0, 0, 0, 0]]


def test_a_decoder_starts_at_the_means():
    mean = torch.tensor(MEAN)
    outputs = VAE((11,), 2, likelihood=SPEC).model.likelihood.outputs
    decoder = MLP((11,), hidden=(8,)).decoder(2, outputs)
    scaling = (mean, torch.tensor(SCALE))
    likelihood = LIKELIHOODS.build(SPEC, decoder=decoder, shape=(11,), scaling=scaling)
    for name, weight in decoder.named_parameters():
        if name.endswith("weight"):
            nn.init.zeros_(weight)
    likelihood.start(mean)
    started = [i for i, k in enumerate(TYPES) if k in ("real", "positive", "count", "binary")]
    p = likelihood(torch.zeros(1, 2))
    torch.testing.assert_close(p.mean[0, started], mean[started], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        (1, 3, "whole numbers in [0, 2] in column 1, which is categorical(3)"),
        (2, -1, "whole numbers of at least 0 in column 2, which is count"),
        (3, 0, "numbers above 0 in column 3, which is positive"),
        (5, 2, "0 and 1 in column 5, which is binary"),
        (7, 1.5, "whole numbers in [0, 3] in column 7, which is ordered(4)"),
    ],
)
def test_a_value_that_a_column_cannot_have_is_named(vae, column, value, words):
    x = rows(vae, 4)
    x[2, column] = value
    with pytest.raises(InputError, match=r"x\[2, \d\] is") as error:
        vae.model(x)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "columns", [["real"], ["real", "word"], ["real", "categorical"], ["real", "ordered(1)"], [1, 2]]
)
def test_types_that_do_not_fit_are_refused(columns):
    with pytest.raises(InputError, match=r"the type of a column|types of columns"):
        VAE((2,), 2, likelihood=f"columns(columns={columns!r})")

"""Real targets that are partly missing: the bound and the posterior of y against closed forms."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from math import isnan, nan, sqrt

import numpy as np
import pandas as pd
import pytest
import torch
from support.commands import typed
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from pyro_vae import VAE, InputError, evaluate, fit
from pyro_vae.data import Data, Images, load_data
from pyro_vae.data.labelled import some_targets
from pyro_vae.evaluation.calibration import coverage, regressions, root_mean_square
from pyro_vae.labels import TargetPosterior, TargetPrior
from pyro_vae.likelihoods import Normal as NormalLikelihood
from pyro_vae.objectives import ImportanceWeighted, MonteCarlo, SemiSupervisedReal
from pyro_vae.runs.folder import load_run

M, S = torch.tensor(100.0).double(), torch.tensor(20.0).double()
NOISE = 0.6
A, B = torch.tensor([1.5, -0.5, 0.3]).double(), torch.tensor([0.8, 1.0, -0.7]).double()
D = len(A)


class Seen(nn.Identity):
    """An encoder whose features are x."""

    out_features = D


def linear() -> VAE:
    """y ~ N(m, s²), z ~ N(0, 1), x ~ N(A z + B (y - m) / s, σ² I), with the exact posterior."""
    decoder = nn.Linear(2, D, bias=False).double()
    decoder.weight.data = torch.stack([A, B], 1)
    vae = VAE(
        (D,), 1, guide="targeted", condition=(1,), context_scaling=[[100.0], [20.0]],
        likelihood=NormalLikelihood(decoder, NOISE, bounded=False), hidden=(D,),
    ).double()  # fmt: skip
    part = vae.guide.posterior
    part.encoder = Seen()
    # q(y | x): the mean is linear in x and log σ² is constant.
    mean, variance = posterior_of_y()
    head = nn.Linear(D, 2).double()
    head.weight.data = torch.stack([mean, torch.zeros(D).double()])
    head.bias.data = torch.tensor([0.0, variance.log()]).double()
    part.classifier = nn.Sequential(Seen(), head)
    # q(z | x, y): the mean is linear in (x, y) as the difference of two units of ReLU.
    precision = 1 + (A @ A) / NOISE**2
    gain = torch.cat([A, -(A @ B)[None]]) / NOISE**2 / precision
    part.mix[0].weight.data = torch.stack([gain, -gain, torch.zeros(D + 1).double()])
    part.mix[0].bias.data.zero_()
    part.z.head.weight.data = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]]).double()
    part.z.head.bias.data = torch.stack([torch.zeros(()).double(), -precision.log()])
    return vae


def covariance() -> torch.Tensor:
    """That of x, when z and y are summed out."""
    return torch.outer(A, A) + torch.outer(B, B) + NOISE**2 * torch.eye(D).double()


def posterior_of_y() -> tuple[torch.Tensor, torch.Tensor]:
    """The gain and the variance of p((y - m) / s | x)."""
    gain = torch.linalg.solve(covariance(), B)
    return gain, 1 - gain @ B


def drawn(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    z, y, noise = (torch.randn(n, k, generator=generator, dtype=torch.float64) for k in (1, 1, D))
    return z * A + y * B + NOISE * noise, M + S * y


def truth(x, y):
    """log p(x) where y is NaN, and log p(x, y) elsewhere."""
    alone = MultivariateNormal(torch.zeros(D).double(), covariance()).log_prob(x)
    given = covariance() - torch.outer(B, B)
    both = MultivariateNormal((y.nan_to_num() - M) / S * B, given).log_prob(x)
    both = both + Normal(M, S).log_prob(y.nan_to_num())[:, 0]
    return torch.where(y[:, 0].isnan(), alone, both)


@pytest.mark.parametrize("known", [0, 4, 8])
def test_the_bound_is_the_log_probability_of_what_is_known(known):
    """With the exact posterior, each draw gives it: in rows with y log p(x, y), else log p(x)."""
    vae, (x, y) = linear(), drawn(8)
    hidden = y.clone()
    hidden[known:] = nan
    expected = truth(x, hidden)
    for objective in (MonteCarlo(), MonteCarlo(3), ImportanceWeighted(num_particles=4)):
        torch.testing.assert_close(
            objective.elbo(vae.model, vae.guide, x, hidden), expected, rtol=0, atol=1e-9
        )
        loss = objective.loss(vae.model, vae.guide, x, hidden)
        assert loss == pytest.approx(-expected.sum().item(), abs=1e-8)


def test_a_prediction_is_the_posterior_in_the_units_of_y():
    vae, (x, _) = linear(), drawn(8)
    gain, variance = posterior_of_y()
    mean, scale = vae.predict(x)
    torch.testing.assert_close(mean[:, 0], M + S * (x @ gain))
    torch.testing.assert_close(scale, S * variance.sqrt().expand(8, 1))


def test_a_batch_is_the_sum_of_both_losses():
    """Rows with y give -log p(x, y) - w log q(y | x), the others -log p(x)."""
    vae, (x, y) = linear(), drawn(8)
    hidden = y.clone()
    hidden[3:] = nan
    weight = 0.5 * 80 / 30
    mean, scale = vae.predict(x)
    regression = -Normal(mean, scale).log_prob(y)[:3].sum()
    expected = (-truth(x, hidden).sum() + weight * regression).item()
    for particles in (1, 5):
        objective = SemiSupervisedReal(80, 30, alpha=0.5, num_particles=particles)
        for loss in (objective.loss, objective.loss_and_grads):
            assert loss(vae.model, vae.guide, x, hidden) == pytest.approx(expected, abs=1e-8)
    alone = [
        SemiSupervisedReal(80, 30, alpha=0.5).loss(vae.model, vae.guide, x[i : i + 1], c)
        for i in range(8)
        for c in [hidden[i : i + 1]]
    ]
    assert sum(alone) == pytest.approx(expected, abs=1e-8)
    none = SemiSupervisedReal(80, 30).loss(vae.model, vae.guide, x)
    assert none == pytest.approx(-truth(x, torch.full_like(y, nan)).sum().item(), abs=1e-8)


def test_gradients_of_a_general_guide_are_those_of_the_sum_by_hand():
    """Two targets, of which a row can have one; the noise is that of one seed."""
    torch.manual_seed(0)
    vae = VAE(
        (D,), 2, guide="targeted", condition=(2,), likelihood="normal(bounded=False)", hidden=(8,),
        context_scaling=[[1.0, -2.0], [2.0, 0.5]],
    ).double()  # fmt: skip
    x = torch.randn(3, D, dtype=torch.float64)
    y = torch.tensor([[1.5, -1.0], [nan, -2.2], [nan, nan]]).double()
    part, scale = vae.guide.posterior, vae.model.likelihood.scale
    torch.manual_seed(1)
    noise_y, noise_z = (torch.randn(3, 2, dtype=torch.float64) for _ in range(2))
    m, s = torch.tensor([1.0, -2.0]).double(), torch.tensor([2.0, 0.5]).double()
    loc, logvar = part.classifier(x).chunk(2, -1)
    q_y = Normal(m + s * loc, s * (logvar / 2).exp())
    known = ~y.isnan()
    value = torch.where(known, y, q_y.mean + q_y.stddev * noise_y)
    unit = (value - m) / s
    loc, logvar = part.z.head(part.mix(torch.cat([part.encoder(x), unit], -1))).chunk(2, -1)
    q_z = Normal(loc, (logvar / 2).exp())
    z = loc + q_z.stddev * noise_z
    log_x = Normal(vae.model.likelihood.decoder(torch.cat([z, unit], -1)), scale).log_prob(x)
    log_q_y = q_y.log_prob(value)
    expected = (
        q_z.log_prob(z).sum() - Normal(0.0, 1.0).log_prob(z).sum() - log_x.sum()
        - Normal(m, s).log_prob(value).sum() + log_q_y[~known].sum() - 0.7 * log_q_y[known].sum()
    )  # fmt: skip
    gradients = torch.autograd.grad(expected, list(vae.parameters()))
    objective = SemiSupervisedReal(alpha=0.7)
    objective.loss(vae.model, vae.guide, x, y)  # finds the depth of the plates
    torch.manual_seed(1)
    assert objective.loss_and_grads(vae.model, vae.guide, x, y) == pytest.approx(expected.item())
    for p, gradient in zip(vae.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-9, atol=1e-9)


def test_a_known_target_is_a_point():
    target = torch.tensor([[2.5, nan], [nan, nan]])
    loc, scale = torch.zeros(2, 2), torch.full((2, 2), 3.0)
    q, p = (kind(loc, scale, target) for kind in (TargetPosterior, TargetPrior))
    for fn in (q, p, q.expand((4, 2, 2))):
        draws = fn.rsample((2000,))
        assert (draws[..., 0, 0] == 2.5).all()
        spread = draws[..., 1, :].std().item()
        assert spread == pytest.approx(3, abs=6 * 3 / sqrt(2 * draws[..., 1, :].numel()))
    value = q.sample()
    plain = Normal(loc, scale).log_prob(value)
    assert torch.equal(q.log_prob(value), torch.where(target.isnan(), plain, 0))
    assert torch.equal(p.log_prob(value), plain)
    assert torch.equal(q.mean, torch.where(target.isnan(), loc, target))
    assert torch.equal(q.stddev, torch.where(target.isnan(), 3.0, 0.0))
    other = TargetPrior(torch.ones(2, 2), torch.ones(2, 2), target)
    kl = kl_divergence(q, other)
    assert kl[0, 0].item() == pytest.approx(-Normal(1.0, 1.0).log_prob(torch.tensor(2.5)).item())
    assert kl[1, 1].item() == kl_divergence(Normal(0.0, 3.0), Normal(1.0, 1.0)).item()


def test_draws_have_the_target_that_is_given():
    vae, (x, y) = linear(), drawn(6)
    seen = []
    vae.model.likelihood.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for make in (
        lambda: vae.sample(4, given=130.0),
        lambda: vae.sample(4, given="130"),
        lambda: vae.decode({"z": torch.zeros(4, 1)}, 130.0),
        lambda: vae.reconstruct(x, given=130.0),
        lambda: vae.reconstruct(x, y, given=130.0),
        lambda: vae.traverse(x[0], steps=3, given=130.0),
        lambda: vae.interpolate(x[0], x[1], 3, given=130.0),
    ):
        make()
        assert torch.allclose(seen[-1][..., 1], (130.0 - M) / S)
    vae.traverse(x[:1], steps=3)
    expected = (vae.predict(x[:1])[0][0, 0] - M) / S
    torch.testing.assert_close(seen[-1][:, 1], expected.expand(3))


def test_error_and_coverage_by_hand():
    error, spread = root_mean_square(torch.tensor([1.0, -2.0, 2.0]))
    assert error == pytest.approx(sqrt(3))
    # The standard deviation of the squares 1, 4 and 4 is √3.
    assert spread == pytest.approx(sqrt(3) / sqrt(3) / (2 * sqrt(3)))
    assert isnan(root_mean_square(torch.tensor([0.5]))[1])
    y = torch.randn(20_000, dtype=torch.float64)
    share, spread = coverage(torch.zeros(20_000).double(), torch.ones(20_000).double(), y)
    assert spread == pytest.approx(sqrt(share * (1 - share) / 20_000))
    assert share == pytest.approx(0.9, abs=5 * spread)
    half, _ = coverage(torch.zeros(2).double(), torch.ones(2).double(), torch.tensor([1.64, 1.65]))
    assert half == 0.5
    for y, expected in ((1.64, 1.0), (1.65, 0.0)):  # a sample cannot show that its share is exact
        share, spread = coverage(*torch.tensor([[0.0] * 9, [1.0] * 9, [y] * 9]).double())
        assert share == expected
        assert isnan(spread)


def test_targets_that_stay_are_nested():
    y = torch.randn(50, 2)
    y[::5] = nan
    some, more = some_targets(y, 10, seed=1), some_targets(y, 20, seed=1)
    known = ~some[:, 0].isnan()
    assert known.sum() == 10
    assert torch.equal(some[known], y[known])
    assert not more[known].isnan().any()
    for count in (1, 41, 2.5):
        with pytest.raises(InputError, match="whole number from 2 to 40"):
            some_targets(y, count, seed=0)


def toy() -> Data:
    x, y = (each.float() for each in drawn(400))
    images = Images(x, targets=y)
    return Data("toy", images.subset(torch.arange(300)), images.subset(torch.arange(300, 400)))


def test_the_report_of_an_exact_posterior():
    """Its error is that of the posterior mean, and its 90 % intervals cover 90 % of the targets."""
    data, vae = toy(), linear().float()
    gain, variance = posterior_of_y()
    mean, _, y = regressions(vae, data.train)
    assert (mean[:, 0] - M - S * (data.train.pixels.double() @ gain)).abs().max() < 1e-4
    table = evaluate(vae, data.train, samples=5)["regression"]
    rmse, share = table["rmse"], table["coverage"]
    assert rmse["mean"] == pytest.approx((mean - y).square().mean().sqrt().item())
    assert rmse["mean"] == pytest.approx((S * variance.sqrt()).item(), abs=4 * rmse["error"])
    assert share["mean"] == pytest.approx(0.9, abs=4 * share["error"])
    assert 0 < share["error"] < 0.02
    missing = replace(data.train, targets=data.train.targets.clone())
    missing.targets[30:] = nan
    few = evaluate(vae, missing, samples=5)["regression"]
    assert few["rmse"]["mean"] == pytest.approx((mean - y)[:30].square().mean().sqrt().item())


def test_training_with_some_targets_lowers_both_losses():
    data, vae = toy().labelled(60), linear().float()
    for p in vae.parameters():
        p.data += 0.2 * torch.randn_like(p)
    history = fit(vae, data, epochs=4, lr=0.01, compiled=False)
    assert history[-1].kl_of_sites.keys() == {"y", "z"}
    assert history[-1].elbo > history[0].elbo
    assert history[-1].loss < history[0].loss


def test_a_vae_for_data_measures_the_known_targets():
    data = toy().labelled(60)
    vae = VAE.for_data(data, 1, guide="targeted", hidden=(8,), likelihood="student-t")
    y = data.train.context[~data.train.context.isnan()].double()
    assert len(y) == 60
    moments = [[y.mean().item()], [y.std(correction=0).item()]]
    assert np.allclose(vae.config["context_scaling"], moments, rtol=1e-12)
    for part in (vae.guide.posterior, vae.model.prior):
        assert (part.loc.item(), part.scale.item()) == pytest.approx((moments[0][0], moments[1][0]))


def test_what_does_not_fit_is_refused():
    x, y = (each.float() for each in drawn(8))
    settings = {"hidden": (8,), "likelihood": "normal(bounded=False)"}
    vae = VAE((D,), 2, guide="targeted", condition=(1,), **settings)
    with pytest.raises(InputError, match="real targets"):
        vae.encode(x, torch.arange(8))
    with pytest.raises(InputError, match="a target is infinite"):
        vae.encode(x, y / 0)
    with pytest.raises(InputError, match="infers real targets, so it is for a VAE with"):
        VAE((D,), 2, guide="targeted")
    with pytest.raises(InputError, match="infers real targets, so it is for a VAE with"):
        VAE((D,), 2, guide="targeted", condition=3)
    with pytest.raises(InputError, match="leave conditioned out"):
        VAE((D,), 2, guide="targeted", condition=(1,), conditioned=("guide",))
    plain = VAE((D,), 2, **settings)
    with pytest.raises(InputError, match="m2-real is for a guide that infers real targets"):
        SemiSupervisedReal().loss(plain.model, plain.guide, x)
    for targets, message in (
        (y[:, 0], "targets are real numbers"),
        (y.long(), "targets are real numbers"),
        (y[:3], "a row for each observation"),
        (y / 0, "a target is infinite"),
    ):
        with pytest.raises(InputError, match=message):
            Images(x, targets=targets)
    data = toy()
    gone = Images(data.train.pixels, context=torch.full_like(data.train.targets, nan))
    with pytest.raises(InputError, match="known in none of the training rows"):
        VAE.for_data(gone, 2, guide="targeted")
    same = torch.where(torch.arange(len(data.train))[:, None] < 3, M.float(), nan)
    with pytest.raises(InputError, match=r"a target is 100 in all 3 training rows .* a constant"):
        VAE.for_data(Images(data.train.pixels, context=same), 2, guide="targeted")
    half = Images(x, targets=y.masked_fill(y > M, nan))
    with pytest.raises(InputError, match="needs all of them"):
        half.conditioned("target")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table with 200 rows, a target "yield" that is missing in some, and other holes."""
    x, y = drawn(200)
    frame = pd.DataFrame(x.numpy(), columns=["a", "b", "c"])
    frame.insert(1, "yield", y[:, 0].numpy().round(1))
    frame.loc[::7, "yield"] = nan
    frame.loc[::9, "a"] = nan
    path = tmp_path_factory.mktemp("table") / "harvest.csv"
    frame.to_csv(path, index=False)
    return path


SHORT = ["--recipe", "m2-real", "--latent", "2", "--hidden", "8", "--no-compile", "--lr", "0.01"]


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    """A run on the table. Tests must not change it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = ["train", "--data", table, "--target", "yield", *SHORT, "--epochs", "20"]
    assert typed([*words, "--known-labels", "80", "--out", folder]) == 0
    return folder


def test_the_commands_of_a_run_with_a_target(run, table, tmp_path, capsys):
    vae, config = load_run(run)
    data = load_data(table, target="yield").labelled(80)
    known = data.train.context[~data.train.context.isnan()].double()
    assert vae.config["context_scaling"][0] == pytest.approx([known.mean().item()])
    assert len(known) == 80
    assert (config["data"]["target"], config["data"]["labels"]) == ("yield", 80)
    assert [column.name for column in data.train.schema.columns] == ["a", "b", "c"]
    assert typed(["evaluate", run, "--samples", "5"]) == 0
    said = capsys.readouterr()
    assert "root mean square error, in units of the target" in said.out
    assert "targets in the 90 % intervals" in said.out
    assert "are not those that the run was trained on" not in said.err
    for given, spread in ((["--given", "130.5"], 0.0), ([], 20.0)):
        out = tmp_path / "rows.csv"
        assert typed(["sample", run, *given, "--n", "400", "--out", out]) == 0
        rows = pd.read_csv(out)
        assert list(rows) == ["a", "b", "c", "yield"]
        assert rows["yield"].std() == pytest.approx(spread, rel=0.3)
        assert rows["yield"].mean() == pytest.approx(
            130.5 if given else 100, abs=6 if spread else 1e-4
        )
    assert typed(["encode", run, "--out", tmp_path / "z.npz"]) == 0
    arrays = np.load(tmp_path / "z.npz")
    assert arrays["loc_y"].shape == arrays["targets"].shape == (200, 1)
    for words in (["audit", run], ["score", run, "--samples", "5", "--out", tmp_path / "s.csv"]):
        assert typed(words) == 0
    filled = tmp_path / "filled.csv"
    assert typed(["impute", run, "--data", table, "--samples", "20", "--out", filled]) == 0
    before, after = pd.read_csv(table), pd.read_csv(filled)
    assert after["a"].notna().all()
    pd.testing.assert_series_equal(before["yield"], after["yield"])


def test_impute_says_what_predicts_a_target_or_a_label(run, table, tmp_path, capsys):
    """The command that the sentence names gives a number for each row."""
    frame = pd.read_csv(table).fillna({"a": 0.5})
    frame.to_csv(tmp_path / "rows.csv", index=False)
    out = ["--out", tmp_path / "filled.csv"]
    assert typed(["impute", run, "--data", tmp_path / "rows.csv", *out]) == 2
    said = capsys.readouterr().err
    assert "no entry that impute fills is missing" in said
    assert "the target 'yield' is predicted and not imputed, by `pyro-vae encode" in said
    words = shlex.split(said.split("`")[1])[1:]
    assert typed([*words, "--out", tmp_path / "z.npz"]) == 0
    assert np.isfinite(np.load(tmp_path / "z.npz")["loc_y"]).sum() == 200
    frame["kind"] = np.where(frame["b"] > 0, "high", "low")
    frame.loc[::7, "kind"] = None
    frame.drop(columns="yield").to_csv(tmp_path / "labels.csv", index=False)
    short = [*SHORT[2:], "--epochs", "1"]
    for name, role, asked, said in (
        (
            "rows",
            ["--target", "yield"],
            [],
            "'yield' is predicted and not imputed, by a run",
        ),
        ("labels", ["--label", "kind"], ["--recipe", "m2"], "(the array loc_y)"),
    ):
        words = ["--data", tmp_path / f"{name}.csv", *role, *asked, *short]
        assert typed(["train", *words, "--out", tmp_path / name]) == 0
        assert typed(["impute", tmp_path / name, *out]) == 2
        assert said in capsys.readouterr().err


def test_a_saved_vae_predicts_the_same(run, table, tmp_path):
    vae, _ = load_run(run)
    vae.save(tmp_path / "saved")
    back, _ = load_run(tmp_path / "saved")
    data = load_data(table, target="yield")
    one, two = (v.predict(data.test.pixels, mask=data.test.mask) for v in (vae, back))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert typed(["evaluate", tmp_path / "saved", "--data", table, "--samples", "5"]) == 0
    assert typed(["sample", tmp_path / "saved", "--n", "3", "--out", tmp_path / "rows.csv"]) == 0
    assert list(pd.read_csv(tmp_path / "rows.csv")) == ["a", "b", "c", "yield"]


def test_a_run_goes_on_as_if_it_had_not_stopped(table, tmp_path):
    words = [
        "train",
        "--data",
        table,
        "--target",
        "yield",
        *SHORT,
        "--known-labels",
        "50",
        "--seed",
        "3",
    ]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert typed([*words, "--epochs", "2", "--out", whole]) == 0
    assert typed([*words, "--epochs", "1", "--out", parts]) == 0
    assert typed(["train", "--resume", parts, "--epochs", "2", "--no-compile"]) == 0
    one, two = (load_run(folder)[0].state_dict() for folder in (whole, parts))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_target_can_be_the_condition(table, tmp_path, capsys):
    frame = pd.read_csv(table).dropna()
    frame.to_csv(tmp_path / "whole.csv", index=False)
    words = ["--target", "yield", "--condition", "target", "--hidden", "8", "--no-compile"]
    words += ["--epochs", "1", "--latent", "2", "--out", tmp_path / "run"]
    assert typed(["train", "--data", tmp_path / "whole.csv", *words]) == 0
    assert "Model and guide are given the target." in capsys.readouterr().out
    assert typed(["evaluate", tmp_path / "run", "--samples", "5"]) == 0
    assert "p(x) given the target" in capsys.readouterr().out
    out = tmp_path / "rows.csv"
    assert typed(["sample", tmp_path / "run", "--given", "90", "--n", "3", "--out", out]) == 0
    assert (pd.read_csv(out)["yield"] == 90).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "none"], "the target 'none' is not a column of 'harvest.csv'"),
        (["--target", "yield", "--label", "a"], "give one of the two"),
        (["--target", "yield", "--recipe", "m2"], "infers labels"),
        (["--target", "yield", "--known-labels", "1"], "a whole number from 2 to"),
        (["--label", "yield"], "and a label has classes"),
        (["--target", "yield", "--condition", "target"], "give one of the two"),
    ],
)
def test_commands_that_do_not_fit_are_refused(table, tmp_path, words, message, capsys):
    given = ["train", "--data", table, *SHORT, *words, "--out", tmp_path / "run"]
    assert typed(given) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_empty_cells_of_the_target_are_inferred_without_a_further_option(table, tmp_path, capsys):
    words = ["train", "--data", table, "--target", "yield", *SHORT, "--epochs", "1"]
    assert typed([*words, "--out", tmp_path / "run"]) == 0
    assert "training rows keep their target" in capsys.readouterr().out
    table = tmp_path / "table.csv"
    pd.DataFrame({"a": [0.5, 1.5, 4.0] * 10, "b": [2.0, 1.25] * 15}).to_csv(table, index=False)
    assert typed(["train", "--data", table, *SHORT, "--out", tmp_path / "no"]) == 2
    assert "or --target for numbers" in capsys.readouterr().err


def test_a_constant_target_is_refused(run, table, tmp_path, capsys):
    """Other rows for a run may have one target: nothing is learned of them."""
    path = tmp_path / "t.csv"
    pd.read_csv(table).assign(**{"yield": [7.5, nan] * 100}).to_csv(path, index=False)
    for words in (SHORT, ["--condition", "target"]):
        given = ["--data", path, "--target", "yield", *words, "--out", tmp_path / "run"]
        assert typed(["train", *given]) == 2
        assert "'yield' of 't.csv' is 7.5 in all 100 rows where it" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert typed(["evaluate", run, "--data", path, "--samples", "5"]) == 0
    pd.read_csv(table).assign(**{"yield": [7.5] + [nan] * 199}).to_csv(path, index=False)
    assert typed(["train", "--data", path, "--target", "yield", *SHORT]) == 2
    assert "'yield' of 't.csv' is known in one row only" in capsys.readouterr().err


def test_one_row_has_no_errors(run, table, tmp_path, capsys):
    path = tmp_path / "t.csv"
    pd.read_csv(table)[1:2].to_csv(path, index=False)
    words = ["evaluate", run, "--data", path, "--split", "all", "--samples", "20"]
    assert typed([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["regression"]["rmse"]["error"] is None
    coverage = found["regression"]["coverage"]
    assert (coverage["error"], coverage["of"]) == (None, 1)
    assert coverage["mean"] == coverage["count"]
    for way in ("monte_carlo", "analytic"):
        assert {found[way][f"{key}_error"] for key in ("elbo", "reconstruction", "kl")} == {None}
    assert typed(words) == 0
    said = capsys.readouterr()
    assert said.out.startswith("1 row of ")
    assert re.search(r"targets in the 90 % intervals +[01] of 1 *\n", said.out)
    assert re.search(r"root mean square error, in units of the target +[0-9.]+ *\n", said.out)
    assert "which one row cannot show" in said.err
    assert typed([*words, "--probe"]) == 2
    assert "1 row cannot be split into train and test" in capsys.readouterr().err


def test_a_target_of_words_names_its_row(tmp_path, capsys):
    path = tmp_path / "t.csv"
    path.write_text("a,y\n" + "".join(f"{i}.5,{i}\n" for i in range(20)) + "3.5,many\n")
    assert typed(["train", "--data", path, "--target", "y", *SHORT, "--out", tmp_path / "run"]) == 2
    assert "the column 'y' of 't.csv' needs real numbers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        (
            torch.randn(40, 1).double() * 1e-3 + 1e6,
            "to six digits, .* its difference to this number",
        ),
        (torch.randn(40, 1).double() * 1e25, "give it in another unit"),
        (torch.randn(40, 1).double() * 1e-30, "give it in another unit"),
    ],
)
def test_a_target_in_an_extreme_unit_is_refused(targets, told):
    images = Images(torch.randn(40, 3), targets=targets)
    data = Data("mine", images, images, images).labelled()
    with pytest.raises(InputError, match=told):
        VAE.for_data(data, 2, guide="targeted")


def test_the_guide_of_labels_is_told_its_objective():
    images = Images(torch.randn(40, 3), labels=torch.arange(40) % 2)
    data = Data("mine", images, images, images).labelled(20, 0)
    vae = VAE.for_data(data, 2, guide="labelled", hidden=(4,))
    for objective in ("m2-real", "iwae", "analytic"):
        with pytest.raises(InputError, match="m2"):
            fit(vae, data, objective=objective, epochs=1)

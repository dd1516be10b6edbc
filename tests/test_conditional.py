"""A VAE given a label or covariates: its bound against a closed form, and its use."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from support.commands import TINY, picture, typed
from support.compiled import agree, take
from support.density import SHAPE, digits
from torch import nn
from torch.distributions import MultivariateNormal

from pyro_vae import VAE, Guide, InputError, fit, load
from pyro_vae.compiling import CompiledELBO
from pyro_vae.data import Data, Images, load_data
from pyro_vae.evaluation import elbo
from pyro_vae.figures import by_class
from pyro_vae.likelihoods import Normal
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.runs.folder import load_run

D, Z = 5, 2
CONDITIONS = {"classes": (4, 4), "covariates": ((3,), 3)}


class ExactPosterior(Guide):
    """p(z | x, c) of the linear-Gaussian model: x = W z + V c + b + noise, z ~ N(μ(c), Σ(c))."""

    def __init__(self) -> None:
        super().__init__()
        self.model: list = []

    def attach(self, model) -> None:
        self.model.append(model)

    def forward(self, x, context, observations):
        (model,) = self.model
        mean, w, noise = parts(model, context)
        prior = model.prior(context)
        precision = prior.variance.reciprocal().diag_embed() + w.T @ w / noise**2
        pull = (prior.mean / prior.variance) + (observations - mean(0 * prior.mean)) @ w / noise**2
        cov = torch.linalg.inv(precision)
        loc = (cov @ pull.unsqueeze(-1)).squeeze(-1)
        return dist.MultivariateNormal(loc, (cov + cov.mT) / 2)


def parts(model, context):
    """The mean of p(x | z, c) as a function of z, W, and σ."""
    linear = model.likelihood.decoder

    def mean(z):
        return linear(torch.cat([z, context], -1))

    return mean, linear.weight[:, :Z], 0.5


def linear_gaussian(condition, size: int) -> VAE:
    """The model in float64, with random weights; the guide is the exact posterior."""
    vae = VAE(
        (D,),
        Z,
        prior="conditional",
        likelihood=Normal(nn.Linear(Z + size, D), 0.5, bounded=False),
        guide=ExactPosterior,
        condition=condition,
    ).double()
    with torch.no_grad():
        for p in vae.model.prior.parameters():
            p.normal_()
    return vae


@pytest.mark.parametrize("name", CONDITIONS)
def test_log_p_of_x_given_c_is_the_closed_form(name):
    condition, size = CONDITIONS[name]
    vae = linear_gaussian(condition, size)
    x = torch.randn(6, D, dtype=torch.float64)
    if name == "classes":
        context = torch.tensor([0, 1, 2, 3, 3, 0])
        c = torch.eye(size, dtype=torch.float64)[context]
    else:
        context = c = torch.randn(6, size, dtype=torch.float64)
    mean, w, noise = parts(vae.model, c)
    prior = vae.model.prior(c)
    cov = w @ prior.variance.diag_embed() @ w.T + noise**2 * torch.eye(D, dtype=torch.float64)
    truth = MultivariateNormal(mean(prior.mean), cov).log_prob(x).detach()
    images = Images(x, context=context)
    bound = elbo(vae.model, vae.guide, images, samples=3)
    torch.testing.assert_close(bound.elbos, truth, rtol=1e-9, atol=1e-9)
    found = vae.log_prob(x, samples=7, context=context)
    torch.testing.assert_close(found.log_p, truth, rtol=1e-9, atol=1e-9)


def test_the_conditional_prior_starts_at_the_standard_normal_and_learns_by_class():
    """z of class 0 has the mean -2 and of class 1 the mean 2, with x = z."""
    own = {"likelihood": "student-t", "conditioned": ("guide",), "hidden": (8,)}
    vae = VAE((1,), 1, prior="conditional", condition=2, **own)
    start = vae.model.prior(torch.eye(2))
    assert torch.equal(start.mean, torch.zeros(2, 1))
    assert torch.equal(start.stddev, torch.ones(2, 1))
    labels = torch.arange(2).repeat(100)
    x = torch.randn(200, 1) + 4 * labels[:, None] - 2
    fit(vae, (x, labels), epochs=30, lr=0.02, batch_size=50, compiled=False)
    learned = vae.model.prior(torch.eye(2))
    assert (learned.mean[0] - learned.mean[1]).abs() > 0.5
    with pytest.raises(InputError, match="is for a VAE with a condition"):
        VAE((1,), 1, prior="conditional", likelihood="normal")


def test_the_steps_of_the_semi_amortized_guide_see_the_context():
    """With an exact step, the refined posterior is the mode of p(z | x, c) in each row."""
    vae = VAE(
        (D,),
        Z,
        prior="conditional",
        likelihood=Normal(nn.Linear(Z + 3, D), 0.5, bounded=False),
        guide="semi-amortized(steps=200, rate=0.3)",
        condition=3,
    ).double()
    with torch.no_grad():
        vae.model.prior.linear.weight.normal_()
    x, context = torch.randn(6, D, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    exact = linear_gaussian(3, 3)
    exact.model.load_state_dict(vae.model.state_dict())
    torch.testing.assert_close(
        vae.encode(x, context).mean, exact.encode(x, context).mean, rtol=1e-6, atol=1e-6
    )


LAYERED = {"latent_size": (3, 2), "guide": "bottom-up"}


@pytest.mark.parametrize(
    "settings",
    [{}, {"prior": "conditional"}, {"guide": "semi-amortized"}, LAYERED, {"network": "conv"}],
    ids=str,
)
def test_compiled_steps_are_the_eager_ones(settings):
    hidden = (4, 8) if settings.get("network") == "conv" else (8,)
    vae = VAE(SHAPE, **{"latent_size": Z, "hidden": hidden, "condition": 3} | settings)
    args = digits(6), torch.tensor([0, 1, 2, 0, 1, 2])
    objective = OBJECTIVES["monte-carlo"]()
    compiled = CompiledELBO(objective, "eager")
    for _ in range(2):  # the first call makes the names of the parameters
        take(compiled, vae.model, vae.guide, args)
    gradients = agree(objective, compiled, vae.model, vae.guide, args, 1, rtol=1e-4)
    assert len(compiled.graphs) == 1
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_two_layers_are_trained_with_a_label_and_drawn_with_it():
    data = load_data("digits", binarize="threshold").conditioned("label")
    vae = VAE.for_data(data, (4, 2), guide="bottom-up", hidden=(32,))
    history = fit(vae, data, epochs=8, lr=3e-3, compiled=False)
    assert history[-1].elbo > history[0].elbo + 3
    shown = [vae.sample(200, given=name).mean(0) for name in ("0", "1")]
    truth = [data.train.batch(torch.where(data.train.labels == k)[0]).mean(0) for k in (0, 1)]
    assert (shown[0] - truth[0]).norm() < (shown[0] - truth[1]).norm()
    assert (shown[1] - truth[1]).norm() < (shown[1] - truth[0]).norm()


def test_given_is_a_class_by_name_or_number_or_a_row_for_each():
    vae = VAE(SHAPE, Z, condition=["cat", "dog"], hidden=(8,))
    assert vae.rows("dog", 3).tolist() == vae.rows(1, 3).tolist() == [1, 1, 1]
    assert vae.rows(torch.tensor(1), 3).tolist() == [1, 1, 1]
    assert vae.rows(torch.tensor([0, 1]), 2).tolist() == [0, 1]
    numbered = VAE(SHAPE, Z, condition=["3", "1"], hidden=(8,))
    assert numbered.rows(1, 1).tolist() == numbered.rows("1", 1).tolist() == [1]
    for name in ("cow", "0", 5):  # 0 and 5 are the names of no class
        with pytest.raises(InputError, match=f"there is no class {name!r}; the classes are 3, 1"):
            numbered.sample(given=name)
    signed = VAE(SHAPE, Z, condition=["-1", "0", "1"], hidden=(8,))
    assert signed.rows(-1, 1).tolist() == [0]
    with pytest.raises(InputError, match="there is no class 2; the classes are -1, 0, 1"):
        signed.sample(given=2)
    real = VAE(SHAPE, Z, condition=(2,), hidden=(8,))
    assert real.rows("0.5,-1", 2).tolist() == real.rows([0.5, -1], 2).tolist() == [[0.5, -1]] * 2
    assert real.rows(torch.eye(2), 2).tolist() == torch.eye(2).tolist()
    for wrong in ("a,b", [1.0], [float("nan"), 0.0], "1"):
        with pytest.raises(InputError, match=r"finite numbers of shape \[2\]"):
            real.sample(3, given=wrong)
    with pytest.raises(InputError, match=r"of 2 classes.*sample\(n, given=c\).*model\(x, c\)"):
        vae.sample(3)
    with pytest.raises(InputError, match="condition is a number of classes from 2"):
        VAE(SHAPE, Z, condition=["cat", "cat"])


def test_data_are_conditioned_on_their_labels_or_on_covariates():
    labels = torch.tensor([0, 1, 0, 1])
    images = Images(digits(4), labels, ("bee", "ant"))
    assert torch.equal(images.conditioned("label").context, labels)
    assert images.conditioned("label", ["ant", "bee"]).context.tolist() == [1, 0, 1, 0]
    with pytest.raises(InputError, match=r"the class 'ant' was never seen .* bee, cat"):
        images.conditioned("label", ["bee", "cat"])
    with pytest.raises(InputError, match="needs data with labels, and these have none"):
        Images(digits(4)).conditioned("label")
    with pytest.raises(InputError, match=r"one number each is \[N, 1\]"):
        images.conditioned(torch.randn(4))
    with pytest.raises(InputError, match="covariates are conditions of its parts"):
        Data("bees", images, images).conditioned(torch.randn(4, 2))
    assert VAE.for_data(images.conditioned("label"), Z).config["condition"] == ["bee", "ant"]
    assert VAE.for_data(images.conditioned(torch.randn(4, 2)), Z).config["condition"] == [2]


def test_a_picture_by_class_has_equal_noise_in_a_column():
    vae, seen = VAE(SHAPE, Z, condition=3, hidden=(8,)), []
    vae.model.likelihood.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    assert by_class(vae, columns=4).shape == (12, *SHAPE)
    assert torch.equal(seen[0][:, :Z], seen[1][:, :Z])
    assert [rows[:, Z:].argmax(-1).unique().item() for rows in seen] == [0, 1, 2]
    with pytest.raises(InputError, match="the VAE has no classes"):
        by_class(VAE(SHAPE, Z, hidden=(8,)))


def test_condition_and_names_are_saved_and_loaded(tmp_path):
    vae = VAE(SHAPE, Z, condition=["cat", "dog"], prior="conditional", hidden=(8,))
    vae.save(tmp_path / "saved")
    back = load(tmp_path / "saved")
    assert back.model.condition.names == ("cat", "dog")
    for one in (vae, back):
        torch.manual_seed(0)
        one.drawn = one.sample(4, given="dog")
    assert torch.equal(vae.drawn, back.drawn)


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    """A run conditioned on the label. Tests must not change it."""
    run = tmp_path_factory.mktemp("runs") / "cvae"
    assert typed([*TINY, "--recipe", "cvae", "--epochs", "1", "--no-compile", "--out", run]) == 0
    return run


def test_the_commands_of_a_conditional_run(conditional, tmp_path, capsys):
    config = json.loads((conditional / "config.json").read_text())
    assert config["data"]["condition"] == "label"
    assert config["vae"]["condition"] == [str(k) for k in range(10)]
    for words in (
        ["sample", conditional, "--given", "7", "--n", "5", "--out", tmp_path / "x.npy"],
        ["sample", conditional, "--out", tmp_path / "rows.png"],
        ["reconstruct", conditional, "--n", "4", "--given", "3", "--out", tmp_path / "recon.png"],
        ["interpolate", conditional, "--given", "3", "--out", tmp_path / "path.png"],
        ["evaluate", conditional, "--samples", "5", "--figures", tmp_path / "figures"],
        ["encode", conditional, "--out", tmp_path / "z.npz"],
        ["score", conditional, "--samples", "5", "--out", tmp_path / "scores.csv"],
        ["audit", conditional],
        ["card", conditional],
    ):
        assert typed(words) == 0, capsys.readouterr()
    assert "p(x) given the label" in capsys.readouterr().out
    torch.manual_seed(0)  # as the command does
    samples = load_run(conditional)[0].sample(5, given=7).numpy()
    assert np.array_equal(np.load(tmp_path / "x.npy"), samples)
    assert picture(tmp_path / "rows.png").std() > 0
    assert (tmp_path / "figures" / "traversals.png").exists()


def test_classes_of_other_data_are_found_by_their_names(conditional, tmp_path, capsys):
    images = np.zeros((6, 8, 8), np.uint8)
    images[::2] = 255
    for name, labels in (("known", [3, 7, 3, 7, 3, 7]), ("unknown", [3, 11, 3, 11, 3, 11])):
        np.savez(tmp_path / f"{name}.npz", images=images, labels=labels)
    known, unknown = (tmp_path / f"{name}.npz" for name in ("known", "unknown"))
    out = ["--out", tmp_path / "scores.csv"]
    assert typed(["score", conditional, "--data", known, "--samples", "5", *out]) == 0
    assert typed(["score", conditional, "--data", unknown, "--samples", "5", *out]) == 2
    assert "the class '11' was never seen in training" in capsys.readouterr().err
    np.save(tmp_path / "plain.npy", images)
    assert typed(["score", conditional, "--data", tmp_path / "plain.npy", *out]) == 2
    assert "needs data with labels" in capsys.readouterr().err


def test_given_needs_a_condition_and_a_class(conditional, trained, tmp_path, capsys):
    out = ["--out", tmp_path / "x.png"]
    for words, message in (
        (["sample", trained, "--given", "7", *out], "--given is for a run with a condition"),
        (["sample", conditional, "--given", "x", *out], "there is no class 'x'; the classes are"),
        (["sample", conditional, "--vary", "z", *out], "say with --given on what to draw"),
        (["interpolate", conditional, *out], "say with given which one"),
    ):
        assert typed(words) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "x.png").exists()


def test_log_p_given_the_label_is_not_compared_with_log_p(tmp_path):
    """The table names what each number is given."""
    words = ["compare", "--recipes", "vae,cvae", "--data", "digits", "--epochs", "1"]
    small = ["--seeds", "1", "--hidden", "8", "--latent", "2", "--samples", "5", "--no-compile"]
    assert typed([*words, *small, "--out", tmp_path / "out"]) == 0
    rows = list(csv.DictReader((tmp_path / "out" / "comparison.csv").open()))
    given = {row["name"]: row["observation_space"].endswith(", given the label") for row in rows}
    assert given == {"vae": False, "cvae": True}


def test_a_label_and_holes_go_together():
    """The bound of a row with holes does not depend on what stands in them."""
    x, mask = digits(4, dtype=torch.float64), torch.rand(4, *SHAPE) < 0.7
    labels = torch.tensor([0, 1, -1, -1])
    for settings, known in (({"guide": "labelled"}, labels), ({}, labels.abs())):
        vae = VAE(SHAPE, Z, condition=3, holes=True, hidden=(8,), **settings).double()
        losses = []
        for filled in (x, torch.where(mask, x, 1 - x)):
            torch.manual_seed(0)
            objective = OBJECTIVES["m2" if settings else "monte-carlo"](num_particles=2)
            losses.append(objective.loss(vae.model, vae.guide, filled, known, mask))
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)
        assert losses[0] > 0


@pytest.mark.parametrize("prior", ["standard-normal", "conditional"])
def test_the_unit_of_covariates_does_not_matter(prior):
    x, c = torch.randn(40, 3), torch.randn(40, 2)

    def trained(unit, start):
        images = Images(x, context=start + unit * c.double())
        torch.manual_seed(0)
        vae = VAE.for_data(images, 2, prior=prior, hidden=(8,)).double()
        (record,) = fit(vae, images, epochs=1, batch_size=10, seed=0, progress=False)
        torch.manual_seed(1)
        return record.loss, vae.sample(4, given=start + unit * c[:4].double())

    (loss, drawn), (other_loss, other) = trained(1.0, 0.0), trained(1e5, 1.6e9)
    assert loss == pytest.approx(other_loss, rel=1e-5)
    torch.testing.assert_close(drawn, other, rtol=1e-3, atol=1e-3)


def test_a_size_factor_is_not_standardised():
    images = Images(torch.ones(20, 3), context=torch.linspace(1, 900, 20)[:, None])
    vae = VAE.for_data(images, 2, likelihood="poisson(size_factor=True)", hidden=(8,))
    assert torch.equal(vae.model.encoded(images.context, 20), images.context)


def test_weights_carry_the_unit_of_their_covariates():
    x, c = torch.randn(20, 3), torch.randn(20, 1)
    own, other = (
        VAE.for_data(Images(x, context=covariates), 2, hidden=(8,))
        for covariates in (c, 1000 * c + 5000)
    )
    other.load_state_dict(own.state_dict())
    assert torch.equal(own.encode(x, c).mean, other.encode(x, c).mean)


@pytest.mark.parametrize(
    ("covariates", "words"),
    [
        (1e9 + torch.randn(20, 1).double(), r"the mean 1e\+09 .* its difference to this mean"),
        (1e-33 * torch.randn(20, 1).double(), "another unit"),
        (torch.randn(20), r"one number for each row, .* give context\[:, None\]"),
    ],
)
def test_covariates_that_float32_cannot_hold_or_without_columns_are_refused(covariates, words):
    with pytest.raises(InputError, match=words):
        VAE.for_data(Images(torch.randn(20, 3), context=covariates), 2, hidden=(8,))


def test_a_constant_covariate_is_taken_and_a_scaling_without_covariates_is_refused():
    for number in (0.1, 1e9):
        images = Images(torch.randn(20, 3), context=torch.full((20, 1), number))
        assert VAE.for_data(images, 2, hidden=(8,)).config["context_scaling"][1] == [1.0]
    for condition in (None, 3):
        with pytest.raises(InputError, match="context_scaling is for a VAE with a condition of"):
            VAE((3,), 2, condition=condition, context_scaling=[[0.0], [1.0]])


def test_covariates_may_be_an_array():
    images, c = Images(torch.randn(4, 3)), np.arange(8.0).reshape(4, 2)
    assert images.conditioned(c).context.tolist() == c.tolist()
    with pytest.raises(InputError, match=r"not an array of <U1$"):
        images.conditioned(np.array(["a", "b"]))

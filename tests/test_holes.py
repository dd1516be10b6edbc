"""Missing entries: a loss is that of the observed part, for every likelihood and objective."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from math import isfinite

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from support.linear import NAN, D, evidence, holes, linear
from support.objectives import BY_IMAGE, ONE_VECTOR, SUMS_OVER_CLASSES, objective
from support.rows import scored
from torch.utils.data import DataLoader, TensorDataset

from pyro_vae import VAE, InputError, Likelihood, fit
from pyro_vae.compiling import CompiledELBO
from pyro_vae.data import Images
from pyro_vae.evaluation import elbo
from pyro_vae.evaluation.annealing import annealed
from pyro_vae.evaluation.importance import importance
from pyro_vae.likelihoods import LIKELIHOODS
from pyro_vae.objectives import OBJECTIVES as OBJECTIVES_TABLE

# The closed form is that of a mean-field Normal.
OBJECTIVES = sorted({"monte-carlo", "iwae", *BY_IMAGE} - {*ONE_VECTOR, "closed-form"})


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_sees_the_observed_part_alone(name):
    """NaN makes the same mask. At the exact posterior, a bound at KL weight 1 is log p(x_observed),
    that of the batch and that of each row."""
    vae, (x, mask) = linear(), holes()
    made = objective(name)
    getattr(made, "advance", lambda epoch: None)(1.0)
    if name in ("monte-carlo", "iwae", "stl"):
        expected = -evidence(vae, x, mask).detach()
        found = made.loss(vae.model, vae.guide, x, mask=mask)
        assert found == pytest.approx(expected.sum().item(), rel=1e-9)
        for row, m, each in zip(x, mask, expected, strict=True):
            found = made.loss(vae.model, vae.guide, row[None], mask=m[None])
            assert found == pytest.approx(each.item(), rel=1e-9, abs=1e-9)
    pyro.set_rng_seed(1)
    given = made.loss(vae.model, vae.guide, x, mask=mask)
    missing = torch.where(mask, x, NAN)
    pyro.set_rng_seed(1)
    assert made.loss(vae.model, vae.guide, missing) == given


@pytest.mark.parametrize("name", OBJECTIVES_TABLE)
def test_an_objective_with_holes_is_that_of_the_sub_vectors(name):
    """If the last entry is missing in all rows, loss and gradients are those of the VAE of the
    other entries, also for the objectives that look at all latents of the batch, and for those that
    infer labels or targets, of which two of six are known."""
    guide = "categorical" if name in SUMS_OVER_CLASSES else "mean-field"
    parts = {"likelihood": "student-t", "guide": guide, "hidden": (6,)}
    labels = []
    if name == "m2":
        parts |= {"guide": "labelled", "condition": 3}
        labels = [torch.tensor([2, -1, 0, -1, -1, -1])]
    if name == "m2-real":
        parts |= {"guide": "targeted", "condition": (1,)}
        labels = [torch.tensor([[0.3], [NAN], [-1.2], [NAN], [NAN], [NAN]]).double()]
    whole, cut = VAE((D,), 3, **parts).double(), VAE((D - 1,), 3, **parts).double()
    shapes = {key: value.shape for key, value in cut.state_dict().items()}

    def without_last(key, value):
        """A weight without what belongs to the last entry of x; labels stand behind x."""
        for dim, size in enumerate(shapes[key]):
            if value.shape[dim] != size:
                first, _, rest = value.split([D - 1, 1, size - D + 1], dim)
                value = torch.cat([first, rest], dim)
        return value

    cut.load_state_dict({k: without_last(k, value) for k, value in whole.state_dict().items()})
    x, mask = holes()
    mask[:, -1] = False
    losses = []
    for vae, rows, known in ((whole, x, mask), (cut, x[:, :-1], mask[:, :-1])):
        made = objective(name)
        pyro.set_rng_seed(3)
        made.loss_and_grads(vae.model, vae.guide, rows, *labels, mask=known)
        pyro.set_rng_seed(4)
        losses.append(made.loss(vae.model, vae.guide, rows, *labels, mask=known))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    gradients = {name: p.grad for name, p in whole.named_parameters()}
    for key, p in cut.named_parameters():
        if p.grad is not None:
            own = without_last(key, gradients[key])
            torch.testing.assert_close(own, p.grad, rtol=1e-9, atol=1e-12)


def test_the_bound_and_the_importance_estimate_are_those_of_the_observed_part():
    """With a guide that is off, the bound loses exactly KL(q || posterior) = shift² / 2 in units of
    the posterior; the estimate with many draws does not."""
    vae, (x, mask) = linear(), holes()
    truth = evidence(vae, x, mask).detach()
    x[~mask] = NAN
    images = Images(x)
    torch.testing.assert_close(elbo(vae.model, vae.guide, images).elbos, truth)
    torch.testing.assert_close(importance(vae.model, vae.guide, images, samples=7).log_p, truth)
    torch.testing.assert_close(vae.log_prob(x, samples=3).log_p, truth)
    off = linear(shift=0.2)
    off.load_state_dict(vae.state_dict())
    precision = torch.linalg.inv(off.encode(x).covariance_matrix)
    lost = 0.5 * 0.2**2 * precision.sum((-1, -2)).detach()
    closed = elbo(off.model, off.guide, images, samples=4000)
    assert ((closed.elbos - (truth - lost)).abs() < 0.05).all()
    result = importance(off.model, off.guide, images, samples=5000)
    assert ((result.log_p - truth).abs() < 5 * result.errors + 1e-9).all()


def test_annealing_is_that_of_the_observed_part():
    """Annealing does not use the guide, and finds log p(x_observed)."""
    vae, (x, mask) = linear(), holes()
    truth = evidence(vae, x, mask).detach()
    images = Images(torch.where(mask, x, NAN))
    found = annealed(vae.model, images, temperatures=40, chains=20, leapfrogs=4)
    assert ((found.log_p - truth).abs() < 5 * found.errors + 0.05).all()


def log_likelihood(vae, x, z, **mask):
    nodes = poutine.trace(poutine.condition(vae.model, {"z": z})).get_trace(x, **mask)
    nodes.compute_log_prob()
    return nodes.nodes["x"]["log_prob"]


@pytest.mark.parametrize("shape", [(6,), (2, 3, 4)])
@pytest.mark.parametrize(
    "name", sorted(LIKELIHOODS.keys() - {"self-masking"})
)  # scores the mask, too
def test_every_likelihood_sums_over_the_observed_entries(name, shape):
    vae = VAE(shape, 2, likelihood=name, hidden=(8,)).double()
    x = scored(Likelihood.of(vae.model.likelihood), torch.rand(5, *shape).double().round())
    mask, z = torch.rand(5, *shape) < 0.5, torch.randn(5, 2).double()
    entries = vae.model.likelihood(z).base_dist.log_prob(x)
    expected = torch.where(mask, entries, 0).flatten(1).sum(1)
    missing = torch.where(mask, x, NAN)
    for found in (
        log_likelihood(vae, x, z, mask=mask),
        log_likelihood(vae, missing, z),
        log_likelihood(vae, missing, z, mask=mask),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    whole = torch.tensor([True, False, True, True, False])
    torch.testing.assert_close(
        log_likelihood(vae, x, z, mask=whole), torch.where(whole, entries.flatten(1).sum(1), 0)
    )
    Trace_ELBO().differentiable_loss(vae.model, vae.guide, missing).backward()
    assert all(p.grad.isfinite().all() for p in vae.parameters())


@pytest.mark.parametrize("guide", ["mean-field", "semi-amortized", "iaf", "bottom-up", "ladder"])
def test_what_stands_in_a_hole_does_not_matter(guide):
    vae = VAE((D,), 2, guide=guide, hidden=(8,), likelihood="student-t").double()
    x, mask = holes()
    losses = []
    for value in (0.0, 7.0, NAN):
        pyro.set_rng_seed(0)
        filled = torch.where(mask, x, value)
        losses.append(Trace_ELBO().loss(vae.model, vae.guide, filled, mask=mask))
    assert losses[0] == losses[1] == losses[2]
    pyro.set_rng_seed(0)
    plain = Trace_ELBO().loss(vae.model, vae.guide, x)
    pyro.set_rng_seed(0)
    all_there = torch.ones_like(mask)
    assert Trace_ELBO().loss(vae.model, vae.guide, x, mask=all_there) == pytest.approx(plain)
    assert plain != losses[0]


def test_the_encoder_sees_the_mean_in_a_hole():
    moments = [[10.0, -3.0, 5.0], [2.0, 1.0, 7.0]]
    vae = VAE((3,), 2, likelihood="student-t", standardize=moments, scaling=moments, hidden=(8,))
    at_mean = vae.encode(torch.tensor([[12.0, -3.0, 5.0]]))
    missing = vae.encode(torch.tensor([[12.0, NAN, NAN]]))
    assert torch.equal(at_mean.mean, missing.mean)
    assert vae.reconstruct(torch.tensor([[12.0, NAN, NAN]])).isfinite().all()


def test_a_compiled_step_with_a_mask_is_the_eager_one():
    vae, (x, mask) = VAE((D,), 2, likelihood="student-t", hidden=(8,)).double(), holes()
    compiled = CompiledELBO(Trace_ELBO(), "eager")
    with pyro.validation_enabled(False):
        for seed, m in enumerate((mask, ~mask, mask)):
            losses = []
            for each in (Trace_ELBO(), compiled):
                pyro.set_rng_seed(seed)
                vae.zero_grad()
                losses.append(each.loss_and_grads(vae.model, vae.guide, x, mask=m))
                losses.append(torch.cat([p.grad.flatten() for p in vae.parameters()]))
            assert losses[0] == pytest.approx(losses[2])
            torch.testing.assert_close(losses[1], losses[3])
    assert len(compiled.graphs) == 1


class Correlated(Likelihood):
    """Entries that depend on each other."""

    def forward(self, z):
        (loc,) = self.raw(z)
        return dist.MultivariateNormal(loc, torch.eye(D).to(loc))


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.ones(6, D), r"a tensor of bool, .* \[6, 5\] or \[6\], not a tensor of type float32"),
        (torch.ones(5, dtype=torch.bool), r"\[6, 5\] or \[6\], not .* shape \[5\]"),
        ([[True] * D] * 6, "not a list"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask, words):
    vae, x = VAE((D,), 2, likelihood="student-t", hidden=(8,)), torch.randn(6, D)
    with pytest.raises(InputError, match=words):
        Trace_ELBO().loss(vae.model, vae.guide, x, mask=mask)


def test_what_a_mask_cannot_serve_is_refused():
    x = torch.randn(6, D)
    vae = VAE((D,), 2, likelihood=Correlated, hidden=(8,))
    assert Trace_ELBO().loss(vae.model, vae.guide, x) > 0
    with pytest.raises(InputError, match="Correlated likelihood scores an observation as a whole"):
        Trace_ELBO().loss(vae.model, vae.guide, x, mask=x > 0)
    plain = VAE((D,), 2, likelihood="student-t", hidden=(8,))
    with pytest.raises(InputError, match="which entries of x were observed, and x is None"):
        plain.model(mask=x > 0)
    x[2, 1] = NAN
    with pytest.raises(InputError, match=r"x\[2, 1\] is nan"):
        Trace_ELBO().loss(plain.model, plain.guide, x, mask=torch.ones_like(x) > 0)


def trained(vae, data, **options):
    copy = deepcopy(vae)
    fit(copy, data, **{"epochs": 2, "batch_size": 16, "compiled": False} | options)
    return copy.state_dict()


def assert_equal(a, b):
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


@pytest.fixture(scope="module")
def rows():
    """Vectors with NaN, which the first 16 rows do not have; their mask; and a VAE for them."""
    torch.manual_seed(0)
    x, mask = torch.randn(40, 5), torch.rand(40, 5) < 0.7
    mask[:16] = True
    return torch.where(mask, x, NAN), mask, VAE((5,), 2, likelihood="student-t", hidden=(4,))


def test_fit_makes_the_mask_of_nan(rows):
    """NaN is the same as a mask, and what stands in the holes changes nothing."""
    missing, mask, vae = rows
    first = trained(vae, {"x": missing, "mask": mask})
    filled = {"x": torch.where(mask, missing, 9.0), "mask": mask}
    for data in (missing, (missing,), {"x": missing}, filled):
        assert_equal(first, trained(vae, data))
    history = fit(deepcopy(vae), missing, validation=missing[:20], epochs=1, compiled=False)
    assert isfinite(history[-1].elbo)


def test_fit_makes_the_mask_of_nan_in_batches_that_are_read(rows):
    """The first batch has no NaN, and the others have."""
    missing, mask, vae = rows
    both = trained(vae, DataLoader(TensorDataset(missing, mask), 16, collate_fn=with_mask))
    assert_equal(both, trained(vae, DataLoader(missing, 16)))


def with_mask(pairs):
    x, mask = (torch.stack(each) for each in zip(*pairs, strict=True))
    return {"x": x, "mask": mask}


def test_a_compiled_training_makes_the_mask_of_nan(rows):
    missing, _, vae = rows
    eager = trained(vae, missing)
    compiled = trained(vae, missing, compiled=True)
    for name, value in eager.items():
        torch.testing.assert_close(compiled[name], value)


def test_an_entry_that_is_never_observed_is_named(rows):
    missing, _, vae = rows
    nothing = missing.clone()
    nothing[:, 3] = NAN
    for begin in (partial(fit, vae), lambda x: VAE.for_data(Images(x))):
        with pytest.raises(InputError, match="entry 3 of x was observed in none of the 40"):
            begin(nothing)
    images = torch.rand(8, 1, 3, 3)
    images[:, 0, 2] = NAN
    with pytest.warns(UserWarning, match=r"3 of 9 entries .* first is \[0, 2, 0\]"):
        fit(VAE((1, 3, 3), 2, likelihood="continuous-bernoulli"), images, epochs=1, compiled=False)


def test_a_mask_that_is_scored_is_scored_where_nothing_is_missing():
    """log p of a complete row does not depend on a hole in another row of the batch."""
    vae = VAE((D,), 2, likelihood="self-masking", holes=True, hidden=(8,)).double()
    x = torch.randn(2, D, dtype=torch.float64)
    x[0, 0] = NAN
    batch, alone = vae.log_prob(x, samples=20_000), vae.log_prob(x[1], samples=20_000)
    assert batch.log_p[1].item() == pytest.approx(alone.log_p.item(), abs=0.05)
    full = torch.ones(1, D, dtype=torch.bool)
    losses = []
    for kwargs in ({}, {"mask": full}):
        pyro.set_rng_seed(0)
        losses.append(Trace_ELBO().loss(vae.model, vae.guide, x[1:], **kwargs))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("unit", [1.0, 1e4])
def test_a_likelihood_of_the_mask_trains_in_any_unit(unit):
    """Its encoder standardises x, as that of the likelihood inside does."""
    x = (1 + 3 * torch.randn(60, 4)) * unit
    images = Images(x.masked_fill(torch.rand(x.shape) < 0.2, torch.nan))
    torch.manual_seed(0)
    vae = VAE.for_data(images, 2, likelihood="self-masking", hidden=(8,))
    mean = images.pixels.sum(0) / images.mask.sum(0)
    torch.testing.assert_close(vae.guide.posterior.encoder.mean[:4].flatten(), mean)
    (record,) = fit(vae, images, objective="iwae(num_particles=3)", epochs=1, progress=False)
    assert isfinite(record.loss)


def test_a_likelihood_of_the_mask_shows_what_the_one_inside_shows():
    images = Images(torch.rand(20, 3) + 0.1)
    spec = "self-masking(likelihood='log-normal')"
    vae = VAE.for_data(images, 2, likelihood=spec, holes=True, hidden=(8,))
    inside = VAE.for_data(images, 2, likelihood="log-normal", holes=True, hidden=(8,))
    x = images.batch(slice(None))
    assert torch.equal(vae.guide.seen(x, None, None), inside.guide.seen(x, None, None))

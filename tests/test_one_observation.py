"""One observation gives one answer: that of its row in a batch of one, without the dimension."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from support.rows import images_for, row_vae
from torch.distributions import kl_divergence

from pyro_vae import VAE, InputError
from pyro_vae.data import Images
from pyro_vae.evaluation import elbo
from pyro_vae.evaluation.annealing import annealed
from pyro_vae.evaluation.gaps import gaps
from pyro_vae.guides import GUIDES

SHAPES = [(7,), (2, 9), (1, 6, 5)]
NAN = float("nan")


def same(one, batch, dim=0):
    """Whether a result is the only row of another one."""
    assert batch.shape[dim] == 1
    torch.testing.assert_close(one, batch.select(dim, 0), equal_nan=True)


def seeded(call):
    torch.manual_seed(0)
    return call()


@pytest.mark.parametrize("name", GUIDES)
def test_encode_gives_the_posterior_of_the_row(name):
    vae = row_vae("guide", name).double()
    x = images_for(vae, 1, torch.float64)
    one, batch = (seeded(lambda x=x: vae.encode(x)) for x in (x[0], x))
    sites = batch if isinstance(batch, dict) else {"z": batch}
    for site, rows in sites.items():
        q = one[site] if isinstance(batch, dict) else one
        assert (q.batch_shape, q.event_shape) == ((), rows.event_shape)
        for of in ("sample", "rsample") if q.has_rsample else ("sample",):
            for size in ((), (4,)):
                z, own = (seeded(partial(getattr(fn, of), size)) for fn in (q, rows))
                same(z, own, len(size))
                same(q.log_prob(z), rows.log_prob(own), len(size))
        assert seeded(lambda q=q: q.expand((3,)).sample()).shape == (3, *q.event_shape)
        try:
            expected = rows.mean, rows.stddev
        except NotImplementedError:
            continue
        same(q.mean, expected[0])
        same(q.stddev, expected[1])


PARAMETERS = ("loc", "scale", "covariance_matrix", "scale_tril", "probs", "logits")


@pytest.mark.parametrize("name", GUIDES)
def test_a_posterior_has_the_parameters_of_the_row(name):
    vae = row_vae("guide", name).double().requires_grad_(False)
    x = images_for(vae, 1, torch.float64)
    one, batch = (seeded(lambda x=x: vae.encode(x)) for x in (x[0], x))
    pairs = [(one[n], batch[n]) for n in batch] if isinstance(batch, dict) else [(one, batch)]
    for q, rows in pairs:
        for each in [n for n in PARAMETERS if hasattr(rows, n)]:
            same(getattr(q, each), getattr(rows, each))
        if hasattr(rows, "base_dist") and hasattr(rows.base_dist, "loc"):
            same(q.base_dist.loc, rows.base_dist.loc)
        if rows.has_enumerate_support:
            same(q.enumerate_support(), rows.enumerate_support(), 1)
        assert repr(q) == f"OneRow({q.rows})"
        assert copy.copy(q).event_shape == q.event_shape
        with pytest.raises(AttributeError):
            _ = q.nothing


@pytest.mark.parametrize("use", ["encode", "reconstruct", "log_prob", "impute"])
def test_a_tensor_without_dimensions_is_refused(use):
    with pytest.raises(InputError, match=r"expected vectors of shape \[B, 5\], not \[\]"):
        getattr(VAE((5,), 2, likelihood="student-t"), use)(torch.tensor(1.0))


def test_the_kl_of_one_posterior():
    vae = VAE((7,), 3, likelihood="student-t", hidden=(8,)).double()
    x = torch.randn(2, 7).double()  # in float32 rounding is 1e-5 of so small a KL
    (a, b), prior = map(vae.encode, x), vae.model.prior()
    both = vae.encode(x)
    assert kl_divergence(a, prior) == kl_divergence(both, prior)[0]
    p = vae.encode(x[[1, 1]])
    assert kl_divergence(a, b).item() == pytest.approx(kl_divergence(both, p)[0].item())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("array", [False, True])
def test_all_uses_of_a_vae(shape, array):
    vae = VAE(shape, 3, likelihood="student-t", hidden=(8,))
    x = torch.randn(1, *shape)
    x.flatten()[2] = NAN
    known, z = ~x.isnan(), torch.randn(1, 3)
    given = x.numpy() if array else x
    for use in (
        lambda x, m: vae.reconstruct(x),
        lambda x, m: vae.reconstruct(x, mask=m),
        lambda x, m: vae.encode(x, mask=m).mean,
        lambda x, m: vae.impute(x, samples=20),
        lambda x, m: vae.impute(x, mask=m, samples=20),
        lambda x, m: vae.log_prob(x, samples=20).log_p,
        lambda x, m: vae.log_prob(x, samples=20).curve[10],
    ):
        same(*(seeded(lambda use=use, i=i: use(given[i], known[i])) for i in (0, slice(None))))
    draws = [vae.impute(each, samples=20, draws=2) for each in (given[0], given)]
    same(*draws, dim=1)
    same(vae.decode(z[0]), vae.decode(z))
    same(vae.sample(z=z.numpy()[0]), vae.decode(z))
    assert vae.decode(vae.encode(given[0]).sample()).shape == shape


def test_the_numbers_of_log_prob_are_those_of_a_batch_of_one():
    vae = VAE((7,), 3, likelihood="student-t", hidden=(8,))
    x = torch.randn(1, 7)
    one, batch = (vae.log_prob(each, samples=500) for each in (x[0], x))
    assert (one.mean, one.bias) == (batch.mean, batch.bias)
    assert one.monte_carlo_error == batch.monte_carlo_error == one.errors.item()
    assert "one row, K = 500" in repr(one)
    assert "mean of 1 row, K = 500" in repr(batch)
    assert not one.trusted


def test_the_results_of_one_row_print_no_error():
    vae, x = VAE((7,), 3, likelihood="student-t", hidden=(8,)), torch.randn(1, 7)
    for shown in (
        repr(elbo(vae.model, vae.guide, x)),
        repr(gaps(vae.model, vae.guide, x, samples=20, steps=2)),
        repr(annealed(vae.model, x, temperatures=2)),
    ):
        assert "1 row)" in shown
        assert "±" not in shown


def test_what_is_inferred_of_one_observation():
    labelled = VAE((7,), 2, likelihood="student-t", guide="labelled", condition=3, hidden=(8,))
    targeted = VAE((7,), 2, likelihood="student-t", guide="targeted", condition=(2,), hidden=(8,))
    x = torch.randn(1, 7)
    same(labelled.predict(x[0]), labelled.predict(x))
    for one, batch in zip(targeted.predict(x[0]), targeted.predict(x), strict=True):
        same(one, batch)
    values = torch.tensor([[1.0, NAN, 2.0]])
    of_levels = VAE((3,), 2, likelihood="categorical(categories=4)", hidden=(8,))
    pairs = (of_levels.impute(v, samples=20, probabilities=True) for v in (values[0], values))
    for one, batch in zip(*pairs, strict=True):
        same(one, batch)


def test_a_context_beside_one_observation_is_one_value():
    x = torch.rand(1, 1, 6, 5)
    vae = VAE((1, 6, 5), 2, condition=["cat", "dog"], hidden=(8,))
    expected = vae.encode(x, torch.tensor([1])).mean
    for one in ("dog", 1, torch.tensor(1), torch.tensor([1]), ["dog"]):
        same(vae.encode(x[0], one).mean, expected)
    same(vae.decode(torch.zeros(2), "dog"), vae.decode(torch.zeros(1, 2), "dog"))
    real = VAE((1, 6, 5), 2, condition=(2,), hidden=(8,))
    c = torch.tensor([[0.5, -1.0]])
    for one in (c[0], c, [0.5, -1.0], "0.5,-1"):
        same(real.encode(x[0], one).mean, real.encode(x, c).mean)


def test_layers_of_latents():
    vae = VAE((1, 6, 5), (3, 2), guide="ladder", hidden=(8,))
    z_1, z_2 = torch.randn(1, 3), torch.randn(1, 2)
    same(vae.decode({"z_1": z_1[0], "z_2": z_2[0]}), vae.decode({"z_1": z_1, "z_2": z_2}))
    assert vae.decode({"z_1": z_1[0], "z_2": z_2}).shape == (1, 1, 6, 5)  # one of them is a batch


def test_a_pil_image_is_one_and_a_batch_of_one_stays_a_batch():
    vae, image = VAE((1, 6, 5), 3, hidden=(8,)), Image.new("L", (5, 6), 255)
    assert vae.encode(image).mean.shape == (3,)
    assert vae.reconstruct(image).shape == (1, 6, 5)
    assert vae.log_prob(image, samples=10).log_p.shape == ()
    assert vae.reconstruct(torch.rand(1, 1, 6, 5)).shape == (1, 1, 6, 5)
    assert vae.traverse(image, steps=4).shape == (3, 4, 1, 6, 5)


def test_the_mask_of_one_observation_has_the_shape_of_what_was_given():
    vae, grey = VAE((1, 6, 5), 2, hidden=(8,)), np.zeros((6, 5))
    m = np.ones((6, 5), bool)
    m[:3] = False
    for x in (grey, grey[None], grey[..., None], torch.zeros(1, 6, 5)):
        expected = vae.encode(x, mask=torch.tensor(m)[None]).mean
        for each in (m.reshape(x.shape), torch.tensor(m.reshape(x.shape))):
            assert torch.equal(vae.encode(x, mask=each).mean, expected)
    holes = torch.where(torch.tensor(m), torch.tensor(grey).float(), NAN)[None]
    assert torch.equal(expected, vae.encode(holes).mean)
    filled = vae.impute(grey, mask=m, samples=30)
    assert filled.shape == (1, 6, 5)
    assert ((filled != 0) == ~torch.tensor(m)).all()
    for x, shapes in (
        (torch.zeros(1, 6, 5), r"\[1, 6, 5\]"),
        (grey, r"\[6, 5\] or \[1, 6, 5\]"),
        (grey[None].repeat(2, 0), r"\[2, 6, 5\] or \[2, 1, 6, 5\] or \[2\]"),
    ):
        given = torch.ones(x.shape)
        said = rf"of shape {shapes}, not a tensor of type float32 and shape \[.*\]$"
        for use in (vae.impute, vae.encode, vae.reconstruct):
            with pytest.raises(InputError, match=said):
                use(x, mask=given)


@pytest.mark.parametrize("last", [False, True])
def test_the_mask_of_a_batch_in_another_layout(last):
    vae, x, m = VAE((3, 6, 5), 2, hidden=(8,)), np.zeros((2, 3, 6, 5)), torch.rand(2, 3, 6, 5) > 0.5
    expected = vae.encode(torch.zeros(2, 3, 6, 5), mask=m).mean
    order = (0, 2, 3, 1) if last else (0, 1, 2, 3)
    for each in (m.numpy(), m.numpy().transpose(order)):
        assert torch.equal(vae.encode(x.transpose(order), mask=each).mean, expected)
    rows = np.array([True, False])
    assert torch.equal(vae.encode(x, mask=rows).mean, vae.encode(x, mask=torch.tensor(rows)).mean)


def test_a_context_is_a_numpy_array_where_x_is_one():
    x, z = np.random.RandomState(0).rand(2, 6, 5).round(), np.zeros((2, 2))
    holes = np.where(np.arange(5) > 2, np.nan, x)
    covariates = np.array([[0.5, -1.0], [2.0, 0.0]])
    for condition, contexts in (
        (["cat", "dog"], [np.array([1, 0], np.uint8), np.array(["dog", "cat"])]),
        (10, [np.array([7, 3])]),
        ((2,), [covariates, covariates.astype(">f4")]),
    ):
        vae = VAE((1, 6, 5), 2, condition=condition, hidden=(8,))
        for c in contexts:
            same_tensor = torch.tensor([1, 0]) if c.dtype.kind == "U" else c.astype(float)
            expected = torch.as_tensor(same_tensor)
            expected = expected if vae.guide.condition.shape else expected.long()
            for use in (
                lambda c, v=vae: v.encode(x, c).mean,
                lambda c, v=vae: v.reconstruct(x, c),
                lambda c, v=vae: v.reconstruct(x, c, given=c),
                lambda c, v=vae: v.log_prob(x, 5, context=c).log_p,
                lambda c, v=vae: v.impute(holes, c, samples=30),
                lambda c, v=vae: v.sample(given=c),
                lambda c, v=vae: v.decode(z, c),
            ):
                one, other = (seeded(lambda use=use, c=c: use(c)) for c in (c, expected))
                assert torch.equal(one, other)
    with pytest.raises(InputError, match="there is no class 'bird'; the classes are cat, dog"):
        VAE((1, 6, 5), 2, condition=["cat", "dog"]).encode(x, np.array(["bird", "cat"]))


def test_one_covariate_is_a_number_or_a_tensor_without_a_dimension():
    vae, x = VAE((7,), 2, likelihood="normal", condition=(1,), hidden=(8,)), torch.zeros(2, 7)
    expected = vae.encode(x, torch.full((2, 1), 0.5)).mean
    for one in (0.5, torch.tensor(0.5), np.array(0.5), np.float32(0.5)):
        assert torch.equal(vae.encode(x, one).mean, expected)
    with pytest.raises(InputError, match=r"a row for each observation, not \['a'\]$"):
        vae.encode(x, "a")


@pytest.mark.parametrize("shape", [(7,), (1, 6, 5)])
def test_a_tensor_of_uint8_holds_x_itself_in_all_uses(shape):
    """An array of uint8 pixels is x = k / 255, and Images say the same of a tensor."""
    vae = VAE(shape, 2, hidden=(8,))
    x = torch.ones(2, *shape, dtype=torch.uint8)
    for use in (
        lambda x: vae.encode(x).mean,
        vae.reconstruct,
        lambda x: vae.log_prob(x, 5).log_p,
        lambda x: vae.impute(x, samples=30),
    ):
        assert torch.equal(*(seeded(lambda use=use, x=x: use(x)) for x in (x, x.float())))
        with pytest.raises(InputError, match="is 255"):
            use(x * 255)


def test_what_is_not_known_is_given_alone_as_in_a_batch():
    x = torch.randn(2, 5)
    vae = VAE((5,), 3, hidden=(16,), likelihood="student-t", condition=3, guide="labelled")
    for hidden in (-1, np.int8(-1), torch.tensor(-1)):
        one, many = vae.predict(x[1]), vae.encode(x, torch.tensor([-1, -1]))
        assert torch.equal(vae.encode(x[1], hidden)["y"].probs, many["y"].probs[1])
        assert torch.allclose(one, many["y"].probs[1])
    with pytest.raises(InputError, match="-1 is one that is not known"):
        vae.encode(x[1], -2)
    real = VAE((5,), 3, hidden=(16,), likelihood="student-t", condition=(2,), guide="targeted")
    row = torch.tensor([float("nan"), 2.0])
    alone, batch = real.encode(x[1], row)["y"], real.encode(x, row.expand(2, 2))["y"]
    assert torch.allclose(alone.base_dist.loc, batch.base_dist.loc[1])
    with pytest.raises(InputError, match="NaN where one is not known"):
        real.encode(x[1], torch.tensor([float("inf"), 2.0]))


@pytest.mark.parametrize(
    "given",
    [torch.tensor(1.7), np.array(1.7), torch.tensor(True), torch.tensor(float("nan")), -1],
    ids=str,
)
def test_a_class_is_a_whole_number(given):
    vae = VAE((5,), 3, hidden=(16,), likelihood="student-t", condition=3)
    with pytest.raises(InputError, match="there is no class"):
        vae.encode(torch.randn(5), given)


@pytest.mark.parametrize("given", [1 + 2j, 10**400, torch.tensor([1 + 2j])], ids=["1", "2", "3"])
def test_a_covariate_is_a_real_number(given):
    vae = VAE((5,), 3, hidden=(16,), likelihood="student-t", condition=(1,))
    with pytest.raises(InputError, match="given is finite numbers of shape"):
        vae.encode(torch.randn(5), given)


def test_a_context_beyond_int64_is_refused():
    vae = VAE((5,), 3, hidden=(16,), likelihood="student-t", condition=3, guide="labelled")
    with pytest.raises(InputError, match="18446744073709551615, which int64 does not hold"):
        vae.encode(torch.randn(1, 5), np.array([2**64 - 1], np.uint64))


@pytest.mark.parametrize("far", [1e3, 1e9])
def test_an_outlier_in_new_data_has_a_score(far):
    """The encoder sees up to 100 standard deviations; the likelihood scores the number itself."""
    vae = VAE.for_data(Images(torch.randn(60, 4)), 2, hidden=(8,))
    x = torch.tensor([far, 1.0, -far, 2.0])
    assert vae.encode(x).stddev.isfinite().all()
    assert vae.log_prob(x).log_p < vae.log_prob(torch.zeros(4)).log_p - 10

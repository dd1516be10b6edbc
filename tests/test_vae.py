"""The VAE goes wherever Pyro takes a model and a guide, and its weights are its own."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from support.rows import scored
from support.small import SHAPE, binary, small, weights

from pyro_vae import VAE, InputError, Likelihood
from pyro_vae.building import statistics
from pyro_vae.data import Data, Images
from pyro_vae.likelihoods import LIKELIHOODS, Bernoulli


def moved(before: dict[str, torch.Tensor], vae: torch.nn.Module) -> set[str]:
    return {name for name, p in vae.named_parameters() if not torch.equal(before[name], p)}


def test_svi_steps_as_in_a_pyro_tutorial():
    vae, x = small(), binary()
    before = weights(vae)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO())
    losses = [svi.step(x) for _ in range(200)]
    assert sum(losses[-20:]) < 0.9 * sum(losses[:20])
    assert moved(before, vae) == set(before)


def test_an_elbo_module_trains_with_an_optimizer_of_torch():
    vae, x = small(), binary()
    before = weights(vae)
    elbo = Trace_ELBO()(vae.model, vae.guide)
    optimizer = torch.optim.Adam(elbo.parameters(), lr=1e-2)
    assert len(list(elbo.parameters())) == len(before)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = elbo(x)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.9 * sum(losses[:20])
    assert moved(before, vae) == set(before)


def test_svi_and_a_torch_optimizer_take_the_same_steps():
    one, x = small(), binary()
    two = copy.deepcopy(one)
    svi = SVI(one.model, one.guide, pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO())
    elbo = Trace_ELBO()(two.model, two.guide)
    optimizer = torch.optim.Adam(elbo.parameters(), lr=1e-2)
    for seed in range(10):
        torch.manual_seed(seed)
        svi.step(x)
        torch.manual_seed(seed)
        optimizer.zero_grad()
        elbo(x).backward()
        optimizer.step()
    for name, p in one.named_parameters():
        torch.testing.assert_close(p, dict(two.named_parameters())[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", ["built anew", "copied"])
def test_two_vaes_train_their_own_weights_each(how):
    """A second module under a name that Pyro's store has seen would train the first one's."""
    x = binary()
    first = small()
    svi = SVI(first.model, first.guide, pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO())
    svi.step(x)
    second = small() if how == "built anew" else copy.deepcopy(first)
    trained, untrained = weights(first), weights(second)
    svi = SVI(second.model, second.guide, pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO())
    svi.step(x)
    assert moved(untrained, second) == set(untrained)
    assert moved(trained, first) == set()


def test_training_goes_on_after_the_store_is_cleared():
    vae, x = small(), binary()
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO())
    svi.step(x)
    pyro.clear_param_store()
    before = weights(vae)
    svi.step(x)
    assert moved(before, vae) == set(before)


def test_a_store_with_other_values_is_told_and_the_module_trains_on():
    vae, x = small(), binary()
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO())
    svi.step(x)
    state = copy.deepcopy(pyro.get_param_store().get_state())
    pyro.clear_param_store()
    pyro.get_param_store().set_state(state)  # what loading a stored one does
    before = weights(vae)
    with pytest.warns(UserWarning, match="the module's own are used"):
        svi.step(x)
    assert moved(before, vae) == set(before)


def test_a_frozen_part_stays_as_it_is_without_a_warning(recwarn):
    vae, x = small(), binary()
    vae.model.requires_grad_(False)
    before = weights(vae)
    SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO()).step(x)
    assert moved(before, vae) == {name for name in before if name.startswith("guide")}
    assert not recwarn.list


def test_the_traces_have_the_documented_sites():
    vae, x = small(), binary(4)
    guide = poutine.trace(vae.guide).get_trace(x)
    model = poutine.trace(poutine.replay(vae.model, trace=guide)).get_trace(x)
    assert guide.nodes["z"]["value"].shape == (4, 3)
    assert model.nodes["z"]["value"] is guide.nodes["z"]["value"]
    assert model.nodes["x"]["is_observed"]
    model.compute_log_prob()
    assert model.nodes["z"]["log_prob"].shape == model.nodes["x"]["log_prob"].shape == (4,)


def test_predictive_draws_images_from_the_prior():
    vae = small()
    draws = Predictive(vae.model, num_samples=7)(None, n=2)
    assert draws["x"].shape == (7, 2, *SHAPE)
    assert draws["z"].shape == (7, 2, 3)
    assert set(draws["x"].unique().tolist()) <= {0.0, 1.0}


def test_predictive_with_the_guide_draws_from_the_posterior():
    vae, x = small(), binary(4)
    with torch.no_grad():
        draws = Predictive(vae.model, guide=vae.guide, num_samples=4000)(x)["z"]
        q = vae.encode(x)
    error = (draws.mean(0) - q.mean) / (q.stddev / 4000**0.5)
    assert error.abs().max() < 5


def test_encode_is_the_distribution_that_the_guide_samples():
    vae, x = small(), binary(4)
    site = poutine.trace(vae.guide).get_trace(x).nodes["z"]
    torch.testing.assert_close(
        vae.encode(x).log_prob(site["value"]), site["fn"].log_prob(site["value"])
    )
    assert vae.encode(x).batch_shape == (4,)
    assert vae.encode(x).event_shape == (3,)


def test_reconstruct_goes_through_the_guide_and_does_not_hand_back_what_it_saw():
    vae, x = small(), binary(4)
    with torch.no_grad():
        q = vae.encode(x)
    torch.manual_seed(1)
    got = vae.reconstruct(x)
    torch.manual_seed(1)
    with torch.no_grad():
        z = q.sample()
        expected = torch.sigmoid(vae.model.likelihood.decoder(z))
    torch.testing.assert_close(got, expected)
    assert not torch.equal(got, x)


def grey(n=20, shape=SHAPE):
    generator = torch.Generator().manual_seed(0)
    return Images(torch.randint(256, (n, *shape), generator=generator, dtype=torch.uint8))


def test_a_vae_for_data_takes_the_training_images_of_a_data():
    data = Data("grey", grey(), grey(3))
    for given in (data, data.train):
        mean, scale = VAE.for_data(given, 2, hidden=(8,)).config["standardize"]
        x = data.train.pixels.double() / 255
        assert mean == pytest.approx([x.mean().item()])
        assert scale == pytest.approx([x.std(correction=0).item()])


def test_a_standardisation_of_numpy_numbers_is_that_of_floats():
    settings = {"shape": (1, 4, 3), "latent_size": 2, "hidden": (8,)}
    torch.manual_seed(0)
    plain = VAE(**settings, standardize=[[0.5], [0.2]])
    torch.manual_seed(0)
    given = VAE(**settings, standardize=[np.array([0.5]).tolist(), list(np.array([0.2]))])
    x = torch.rand(3, 1, 4, 3)
    assert torch.equal(given.encode(x).mean, plain.encode(x).mean)


def test_pixels_of_0_and_1_are_not_standardised():
    for images in (replace(grey(), binarize="dynamic"), Images(grey().pixels // 128 * 255)):
        assert VAE.for_data(images, 2, hidden=(8,)).config["standardize"] is None


def test_a_channel_that_hardly_changes_is_only_centred():
    images = grey(1000, (2, 4, 4))
    images.pixels[:, 1] = 100
    images.pixels[0, 1, 0, 0] = 101
    assert statistics(images)[1][1][1] == 1


FLOATS = torch.rand(5, 1, 4, 4)
WRONG = {
    "a tensor": (FLOATS, {}, "as Images, such as"),
    "NaN": (Images(FLOATS * float("nan")), {}, "all entries of the training data are missing"),
    "infinite": (Images(FLOATS / 0), {}, r"x\[0, 0, 0, 0\] is inf, and a VAE scores finite"),
    "0 to 255": (Images(FLOATS * 255), {"likelihood": "normal-learned"}, "divide them by 255"),
    "negative": (Images(FLOATS - 1), {"likelihood": "poisson"}, "Poisson .* whole numbers of at"),
    "no axis": (Images(FLOATS[:, 0, 0, 0]), {}, r"\[N, \*shape\], .* Tensor of shape \[5\]"),
    "scaling": (Images(FLOATS), {"scaling": [[0.0], [1.0]]}, "measures the means"),
    "standardize": (Images(FLOATS), {"standardize": [[0.0], [1.0]]}, "measures the means"),
}


@pytest.mark.parametrize("case", WRONG)
def test_data_that_does_not_fit_is_refused_in_a_sentence(case):
    images, options, words = WRONG[case]
    with pytest.raises(InputError, match=words):
        VAE.for_data(images, 2, hidden=(8,), **options)


def test_images_of_bytes_0_and_1_are_told():
    with pytest.warns(UserWarning, match="if 1 is white, give pixels"):
        VAE.for_data(Images(grey().pixels % 2), 2, hidden=(8,))


def test_the_likelihood_auto_needs_images():
    with pytest.raises(InputError, match="give VAE"):
        VAE(SHAPE, 2, likelihood="auto")


def test_weights_come_with_the_standardisation_that_they_were_trained_on():
    dark, bright = grey(), grey()
    dark.pixels.div_(4, rounding_mode="floor")
    one, two = (VAE.for_data(images, 2, hidden=(8,)) for images in (dark, bright))
    two.load_state_dict(one.state_dict())
    x = bright.batch(slice(None))
    torch.testing.assert_close(two.encode(x).mean, one.encode(x).mean)


def test_a_likelihood_that_never_has_the_outputs_that_it_needs_is_refused():
    class Growing(Likelihood):
        def __init__(self, decoder):
            super().__init__(decoder)
            self.outputs = 1 + decoder(torch.zeros(1, 2)).shape[-3] // SHAPE[0]

    with pytest.raises(InputError, match="Growing needs another number of outputs each time"):
        VAE(SHAPE, 2, hidden=(8,), likelihood=Growing)


def test_the_start_of_a_likelihood_is_checked():
    class Wrong(Bernoulli):
        def start(self):
            pass

    with pytest.raises(InputError, match=r"method start of Wrong takes the mean"):
        VAE.for_data(grey(), 2, hidden=(8,), likelihood=Wrong)


def test_a_decoder_whose_last_layer_has_no_bias_keeps_its_start():
    class NoBias(Bernoulli):
        def __init__(self, decoder):
            super().__init__(decoder)
            decoder[-2].bias = None

    VAE.for_data(grey(), 2, hidden=(8,), likelihood=partial(NoBias))


def test_samples_are_the_mean_images_of_draws_from_the_prior():
    vae = small()
    torch.manual_seed(1)
    got = vae.sample(5)
    torch.manual_seed(1)
    with torch.no_grad():
        expected = torch.sigmoid(vae.model.likelihood.decoder(torch.randn(5, 3)))
    torch.testing.assert_close(got, expected)


def test_a_path_is_a_straight_line_in_the_latent_space():
    vae, x = small(), binary(2)
    with torch.no_grad():
        q = vae.encode(x)
    torch.manual_seed(1)
    path = vae.interpolate(x[0], x[1], steps=3)
    torch.manual_seed(1)
    with torch.no_grad():
        z = q.sample()
        line = torch.stack([z[0], z.mean(0), z[1]])
        expected = torch.sigmoid(vae.model.likelihood.decoder(line))
    torch.testing.assert_close(path, expected)


def test_what_one_does_with_a_vae_needs_no_gradients():
    vae, x = small(), binary(2)
    for images in (vae.reconstruct(x), vae.sample(2), vae.interpolate(x[0], x[1], 4)):
        assert not images.requires_grad


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 8, 8), (1, 28, 20), (3, 32, 32)])
def test_every_shape_is_modelled_whole(likelihood, network, shape):
    hidden = (8,) if network == "mlp" else (4, 8)
    vae = VAE(shape, 2, likelihood=likelihood, network=network, hidden=hidden)
    x = scored(vae.model.likelihood, (torch.rand(3, *shape) > 0.5).float())
    assert vae.reconstruct(x).shape == x.shape
    assert vae.sample(2).shape == (2, *shape)
    assert Trace_ELBO().loss(vae.model, vae.guide, x) > 0 or not vae.model.likelihood.binary


def test_the_loss_of_a_batch_is_the_sum_over_its_images():
    vae, x = small().double(), binary(6).double()
    z = torch.randn(6, 3, dtype=torch.float64)

    def loss(rows: slice) -> float:
        given = {"z": z[rows]}
        guide = poutine.trace(poutine.condition(vae.guide, given)).get_trace(x[rows])
        model = poutine.trace(poutine.condition(vae.model, given)).get_trace(x[rows])
        return (guide.log_prob_sum() - model.log_prob_sum()).item()

    parts = sum(loss(slice(i, i + 1)) for i in range(6))
    assert loss(slice(None)) == pytest.approx(parts, rel=1e-12)


def test_the_module_moves_between_types_as_a_whole():
    vae = small(likelihood="normal-learned").double()
    x = torch.rand(2, *SHAPE, dtype=torch.float64)
    assert vae.sample(1).dtype == vae.reconstruct(x).dtype == torch.float64


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(4, 30), r"expected images of shape \[B, 1, 6, 5\], not \[4, 30\]"),
        (torch.zeros(4, 1, 5, 6), r"not \[4, 1, 5, 6\]"),
        (torch.full((4, 1, 6, 5), 0.5), "scores pixels that are 0 or 1"),
        (
            torch.full((4, 1, 6, 5), 255.0),
            r"x\[0, 0, 0, 0\] is 255, .* scores numbers in \[0, 1\]; divide them by 255$",
        ),
        (torch.zeros(4, 1, 6, 5, dtype=torch.complex64), "not complex numbers"),
        (torch.zeros(4, 1, 6, 5).to_sparse(), "not a sparse tensor"),
        (torch.zeros(4, 1, 6, 5, device="meta"), "on the device meta, and the VAE is on cpu"),
    ],
)
def test_images_that_do_not_fit_are_refused_in_one_sentence(x, message):
    vae = small()
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO())
    with pytest.raises(InputError, match=message) as error:
        svi.step(x)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": ()}, r"shape of an observation is whole numbers above 0, .* not \(\)"),
        ({"shape": (28, 0)}, r"not \(28, 0\)"),
        ({"shape": (28,), "network": "conv"}, r"conv network is for signals .* is \(28,\)"),
        ({"latent_size": 0}, "latent size is a whole number above 0, .* not 0"),
        ({"prior": "standard"}, "unknown prior 'standard'; did you mean standard-normal"),
        ({"likelihood": "normal(scale=0)"}, "scale is a number above 0, not 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused_at_construction(settings, message):
    with pytest.raises(InputError, match=message):
        VAE(**{"shape": SHAPE, "latent_size": 3, **settings})


def test_a_path_of_one_step_is_refused():
    with pytest.raises(InputError, match="steps of a path is a whole number of at least 2, not 1"):
        small().interpolate(*binary(2), steps=1)

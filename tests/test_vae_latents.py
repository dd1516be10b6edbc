"""What a VAE does with latents: decode, traverse, and log p(x)."""

import pytest
import torch
from support.exact import LinearGaussian

from pyro_vae import VAE, InputError

Z = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])


def small(**settings):
    return VAE((1, 6, 5), **{"latent_size": 3, "hidden": (8,)} | settings)


def test_decode_gives_the_mean_image_of_each_row():
    vae = small().double()
    images = vae.decode(Z)
    torch.testing.assert_close(images, vae.model.likelihood(Z.double()).mean)
    assert torch.equal(vae.decode(Z[0]), images[0])
    assert torch.equal(vae.decode({"z": Z}), images)
    assert not images.requires_grad


def test_sample_takes_latents_in_place_of_a_number():
    vae = small()
    assert torch.equal(vae.sample(z=Z), vae.decode(Z))
    with pytest.raises(InputError, match="n = 2 draws of the prior or latents z, not both"):
        vae.sample(2, z=Z)


def test_layers_that_are_not_given_are_drawn_from_the_prior():
    vae = small(latent_size=(3, 2), guide="ladder")
    z_1 = Z.repeat(2, 1)
    expected = vae.model.likelihood(z_1).mean
    torch.testing.assert_close(vae.decode({"z_1": z_1}), expected)  # x depends on z_1 alone
    a, b = vae.decode({"z_2": torch.zeros(2, 2)})
    assert not torch.equal(a, b)  # two draws of z_1
    torch.testing.assert_close(vae.decode({"z_2": Z[:, :2], "z_1": Z}), expected[:2])


@pytest.mark.parametrize(
    ("z", "message"),
    [
        (torch.zeros(4, 2), r"latents of 'z' are a tensor \[n, 3\] or \[3\], not .* \[4, 2\]"),
        (torch.tensor(1.0), r"are a tensor \[n, 3\] or \[3\]"),
        ([0.0, 0.0], "not a list"),
        ([[0.0], [0.0, 1.0]], "not a list"),
        ("abc", "not a str"),
        (Z[:0], r"not a Tensor of shape \[0, 3\]"),
        (Z * float("nan"), "NaN or infinite"),
        (Z / 0, "NaN or infinite"),
        ({"z_1": torch.zeros(4, 3)}, "sites z, and no 'z_1'"),
        ({}, "at least one of the sites z"),
    ],
)
def test_latents_that_do_not_fit_are_refused(z, message):
    with pytest.raises(InputError, match=message):
        small().decode(z)


def test_latents_may_be_arrays_or_lists():
    vae = small()
    for z in (Z.numpy(), Z.tolist(), Z.double().numpy()):
        torch.testing.assert_close(vae.decode(z), vae.decode(Z))


def test_a_layer_with_the_layout_of_an_image_may_be_given_as_one():
    vae = VAE((1, 6, 4), ((2, 3, 2), 2), guide="ladder", hidden=(8,))
    z = torch.randn(5, 2, 3, 2)
    torch.testing.assert_close(vae.decode({"z_1": z}), vae.decode({"z_1": z.flatten(1)}))
    with pytest.raises(InputError, match=r"\[n, 12\] or \[12\] \(or \[n, 2, 3, 2\]\)"):
        vae.decode({"z_1": z.transpose(1, 2)})


def test_latents_outside_the_support_of_the_prior_are_refused():
    vae = VAE((1, 6, 5), 5, guide="joint(categories=3, discrete='categorical')", hidden=(8,))
    z, c = torch.zeros(2, 2), torch.eye(3)[:2]
    assert vae.decode({"z": z, "c": c}).shape == (2, 1, 6, 5)
    with pytest.raises(InputError, match="'c' are outside the support of the prior"):
        vae.decode({"z": z, "c": c / 2})


def test_layers_of_different_lengths_are_refused():
    vae = small(latent_size=(3, 2), guide="ladder")
    with pytest.raises(InputError, match=r"number of rows, not \[1, 2\]"):
        vae.decode({"z_1": Z, "z_2": torch.zeros(2)})
    with pytest.raises(InputError, match="sites z_2, z_1, and no 'z'"):
        vae.decode(Z)


def test_a_traversal_moves_one_unit_and_keeps_the_others():
    vae = VAE((1, 6, 5), 3, hidden=(8,)).double()
    x, seen = torch.rand(1, 6, 5).double(), []
    vae.model.likelihood.register_forward_pre_hook(lambda _, z: seen.append(z[0]))
    images = vae.traverse(x, steps=5)
    assert images.shape == (3, 5, 1, 6, 5)
    z = seen[-1].view(3, 5, 3)
    mean = vae.encode(x[None]).mean[0]
    for unit in range(3):
        others = [u for u in range(3) if u != unit]
        torch.testing.assert_close(z[unit, :, unit], torch.linspace(-3, 3, 5).double())
        torch.testing.assert_close(z[unit][:, others], mean[others].expand(5, 2))
    torch.testing.assert_close(images.flatten(0, 1), vae.model.likelihood(seen[-1]).mean)
    torch.testing.assert_close(vae.traverse(x, 1, steps=5), images[1])


@pytest.mark.parametrize(
    ("latent", "guide", "words"),
    [
        ((4, 3), "ladder", "need one latent vector"),
        (4, "categorical", "need latents that are real numbers"),
        (5, "joint(categories=3)", "there are the sites z, c"),
    ],
)
def test_traversals_of_other_latents_are_refused(latent, guide, words):
    vae = VAE((1, 6, 5), latent, guide=guide, hidden=(8,))
    with pytest.raises(InputError, match=words):
        vae.traverse(torch.rand(1, 6, 5))


@pytest.mark.parametrize("prior", ["mixture", "vamp"])
def test_a_traversal_goes_along_the_moments_of_a_mixture_prior(prior):
    vae, seen = small(prior=prior).double(), []
    vae.model.likelihood.register_forward_pre_hook(lambda _, z: seen.append(z[0]))
    vae.traverse(torch.rand(1, 6, 5), 1, steps=3, reach=2)
    each = vae.model.prior().component_distribution
    weight = vae.model.prior().mixture_distribution.probs[:, None]
    mean = (weight * each.mean).sum(0)
    sigma = ((weight * (each.variance + each.mean**2)).sum(0) - mean**2).sqrt()
    known = (mean + sigma * torch.tensor([[-2.0], [0], [2]]).double())[:, 1]
    torch.testing.assert_close(seen[-1][:, 1], known)


@pytest.mark.parametrize("n", [0, 2, 11])
def test_several_images_are_not_one(n):
    x = torch.rand(n, 1, 6, 5)
    for use in (small().traverse, lambda x: small().interpolate(x, x)):
        with pytest.raises(InputError, match=r"expected one image of shape \[1, 6, 5\]"):
            use(x)


@pytest.mark.parametrize("reach", [float("nan"), "3", 0, True])
def test_a_reach_that_is_not_a_number_above_0_is_refused(reach):
    with pytest.raises(InputError, match="reach is a number above 0"):
        small().traverse(torch.rand(1, 6, 5), reach=reach)


@pytest.mark.parametrize("unit", [-1, 3, 1.0, True])
def test_a_unit_that_is_not_there_is_refused(unit):
    with pytest.raises(InputError, match=f"units 0 to 2, and no unit {unit}"):
        small().traverse(torch.rand(1, 6, 5), unit)


@pytest.mark.usefixtures("any_pixels")
def test_log_prob_is_that_of_a_model_with_a_known_answer():
    exact = LinearGaussian(5, (2,))
    vae, x = exact.vae(), exact.images(30)
    before = torch.get_rng_state()
    result = vae.log_prob(x, samples=10)  # the guide is the exact posterior: no spread
    torch.testing.assert_close(result.log_p, exact.log_evidence(x))
    assert result.errors.max() < 1e-6  # the rounding of weights that are all equal
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(vae.log_prob(x[0], samples=10).log_p, exact.log_evidence(x[:1])[0])

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
    assert torch.equal(vae.decode(Z[0]), images[:1])
    assert torch.equal(vae.decode({"z": Z}), images)
    assert not images.requires_grad


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
        ([0.0, 0.0, 0.0], "not a list"),
        ({"z_1": torch.zeros(4, 3)}, "sites z, and no 'z_1'"),
        ({}, r"the same number of rows, not \[\]"),
    ],
)
def test_latents_that_do_not_fit_are_refused(z, message):
    with pytest.raises(InputError, match=message):
        small().decode(z)


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
    ],
)
def test_traversals_of_other_latents_are_refused(latent, guide, words):
    vae = VAE((1, 6, 5), latent, guide=guide, hidden=(8,))
    with pytest.raises(InputError, match=words):
        vae.traverse(torch.rand(1, 6, 5))


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
    torch.testing.assert_close(vae.log_prob(x[0], samples=10).log_p, exact.log_evidence(x[:1]))


def test_one_image_is_a_batch_of_one():
    vae, x = small(), torch.rand(1, 6, 5)
    assert vae.encode(x).mean.shape == (1, 3)
    assert vae.reconstruct(x).shape == (1, 1, 6, 5)

"""Encoders and decoders: every shape, any leading dimensions, one image at a time."""

import pytest
import torch

from pyro_vae.contracts import Network
from pyro_vae.errors import InputError
from pyro_vae.latents import check_layouts, layouts
from pyro_vae.networks import NETWORKS, layout
from pyro_vae.vae import network_of

SHAPES = [(1, 28, 28), (1, 8, 8), (1, 28, 20), (3, 32, 32), (2, 7, 5), (1, 1, 3)]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_both_halves_fit_every_shape_and_any_leading_dimensions(name, shape):
    network = NETWORKS.build(name, shape=shape)
    encoder, decoder = network.encoder(), network.decoder(5, outputs=2)
    c, h, w = shape
    for leading in [(), (4,), (3, 4)]:
        assert encoder(torch.rand(*leading, *shape)).shape == (*leading, encoder.out_features)
        assert decoder(torch.randn(*leading, 5)).shape == (*leading, 2 * c, h, w)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("sources", [[(5,)], [(2, 4, 6), (3,)], [(2, 2, 3), (2, 2, 3), (1, 8, 12)]])
@pytest.mark.parametrize("target", [(4,), (3, 4, 6), (3, 2, 3)])
def test_what_stands_between_layers_takes_vectors_side_by_side(name, sources, target):
    network = NETWORKS.build(name, shape=(3, 8, 12))
    middle = Network.of(network).between(sources, target).double()
    x = torch.randn(2, 4, sum(torch.Size(s).numel() for s in sources), dtype=torch.float64)
    assert middle(x).shape == (2, 4, middle.out_features)
    assert torch.Size(layout(middle)).numel() == middle.out_features
    torch.testing.assert_close(middle(x)[1, 2], middle(x[1, 2]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_image_is_encoded_and_decoded_by_itself(name):
    network = NETWORKS.build(name, shape=(3, 9, 7))
    encoder, decoder = network.encoder().double(), network.decoder(5).double()
    x, z = torch.rand(2, 4, 3, 9, 7).double(), torch.randn(2, 4, 5).double()
    torch.testing.assert_close(encoder(x)[1, 2], encoder(x[1, 2]), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(decoder(z)[1, 2], decoder(z[1, 2]), rtol=1e-12, atol=1e-12)


def test_the_mlp_is_its_matrix_products():
    network = NETWORKS.build("mlp(activation='tanh', hidden=(4, 5))", shape=(1, 2, 3))
    first, _, second, _ = (m for m in network.encoder() if not isinstance(m, torch.nn.Flatten))
    encoder = network.encoder()
    encoder[1], encoder[3] = first, second
    x = torch.rand(7, 1, 2, 3)
    hidden = torch.tanh(x.reshape(7, 6) @ first.weight.T + first.bias)
    expected = torch.tanh(hidden @ second.weight.T + second.bias)
    torch.testing.assert_close(encoder(x), expected)


@pytest.mark.parametrize(
    ("spec", "hidden", "message"),
    [
        ("mlp", (), "hidden takes whole numbers above 0, not \\[\\]"),
        (
            "mlp",
            (40, -1),
            "hidden takes whole numbers above 0, not \\[40, -1\\]",
        ),
        ("conv", (32,), "at least one convolution"),
        ("mlp(activation='rleu')", (4,), "unknown activation 'rleu'; did you mean relu"),
        ("cnov", (4,), "unknown network 'cnov'; did you mean conv"),
    ],
)
def test_sizes_and_names_that_do_not_fit_are_refused(spec, hidden, message):
    with pytest.raises(InputError, match=message):
        network_of(spec, hidden, {"shape": (1, 8, 8)}).encoder()


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (20, ((20,),)),
        ([64, 32], ((64,), (32,))),
        ([[8, 7, 7], 32], ((8, 7, 7), (32,))),
        (((8, 7, 7),), ((8, 7, 7),)),
    ],
)
def test_a_latent_size_names_layers(given, read):
    assert layouts(given) == read


@pytest.mark.parametrize("given", [(), 0, (4, -1), (4, ()), (4, (8, 7, 0)), (4.0,), ("4",)])
def test_a_latent_size_that_names_none_is_refused(given):
    with pytest.raises(InputError, match="latent size is a whole number above 0, or one for each"):
        layouts(given)


def test_places_divide_what_lies_below_them():
    check_layouts((1, 24, 12), [(8,), (2, 24, 12), (2, 8, 4), (3,), (2, 4, 2), (5, 4, 2)])
    with pytest.raises(InputError, match=r"layer 3 .* 8x8 places, and layer 1 has 12x12, .* 6x6"):
        check_layouts((1, 24, 24), [(2, 12, 12), (4,), (2, 8, 8)])
    with pytest.raises(InputError, match=r"12x8 places, and the image has 24x24, .* 12x12 or 8x8"):
        check_layouts((1, 24, 24), [(2, 12, 8)])

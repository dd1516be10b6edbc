"""Encoders and decoders: every shape, any leading dimensions, one image at a time."""

import pytest
import torch

from pyro_vae.networks import NETWORKS
from pyro_vae.parts import InputError, build

SHAPES = [(1, 28, 28), (1, 8, 8), (1, 28, 20), (3, 32, 32), (2, 7, 5), (1, 1, 3)]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_both_halves_fit_every_shape_and_any_leading_dimensions(name, shape):
    network = build("network", name, NETWORKS, shape=shape)
    encoder, decoder = network.encoder(), network.decoder(5, outputs=2)
    c, h, w = shape
    for leading in [(), (4,), (3, 4)]:
        assert encoder(torch.rand(*leading, *shape)).shape == (*leading, encoder.out_features)
        assert decoder(torch.randn(*leading, 5)).shape == (*leading, 2 * c, h, w)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_image_is_encoded_and_decoded_by_itself(name):
    network = build("network", name, NETWORKS, shape=(3, 9, 7))
    encoder, decoder = network.encoder().double(), network.decoder(5).double()
    x, z = torch.rand(2, 4, 3, 9, 7).double(), torch.randn(2, 4, 5).double()
    torch.testing.assert_close(encoder(x)[1, 2], encoder(x[1, 2]), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(decoder(z)[1, 2], decoder(z[1, 2]), rtol=1e-12, atol=1e-12)


def test_the_mlp_is_its_matrix_products():
    network = build("network", "mlp(activation='tanh')", NETWORKS, shape=(1, 2, 3), hidden=(4, 5))
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
        ("mlp", (40, -1), "hidden takes whole numbers above 0, not \\[40, -1\\]"),
        ("conv", (32,), "at least one convolution"),
        ("mlp(activation='rleu')", (4,), "unknown activation 'rleu'; did you mean relu"),
        ("cnov", (4,), "unknown network 'cnov'; did you mean conv"),
    ],
)
def test_sizes_and_names_that_do_not_fit_are_refused(spec, hidden, message):
    with pytest.raises(InputError, match=message):
        build("network", spec, NETWORKS, shape=(1, 8, 8), hidden=hidden).encoder()

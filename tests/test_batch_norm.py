"""Batch normalization: what passes through it besides a batch of images changes no statistics."""

import copy
import warnings

import pyro
import pytest
import torch
from support.small import SHAPE, binary
from torch import nn

from pyro_vae import VAE, InputError, fit, load_data
from pyro_vae.networks.layers import ChannelNorm
from pyro_vae.pairing import fitting_objective

NORM = "mlp(batch_norm=True)"
CONV = "conv(hidden=(8, 16), batch_norm=True)"


def statistics(module: nn.Module) -> list[torch.Tensor]:
    return [buffer.clone() for buffer in module.buffers()]


def vamp(network: str = NORM) -> VAE:
    """A VAE whose running statistics are those of a few batches."""
    vae = VAE(SHAPE, 3, prior="vamp(components=4)", network=network, hidden=(16,)).double()
    for _ in range(20):
        vae.guide(binary(32).double())
    return vae


def test_the_pseudo_images_change_no_statistics():
    vae = vamp()
    before = statistics(vae)
    vae.model.prior()
    pyro.poutine.trace(vae.model.prior.sample_sites).get_trace()
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(vae), strict=True))
    vae.guide(binary().double())
    assert not all(torch.equal(a, b) for a, b in zip(before, statistics(vae), strict=True))


def test_the_vamp_prior_is_the_same_function_in_training_and_in_evaluation():
    """It is the mixture of the posteriors in evaluation mode, also after a batch in training."""
    vae = vamp()
    z = torch.randn(7, 3).double()
    vae.train()
    training = vae.model.prior().log_prob(z)
    assert all(module.training for module in vae.modules())
    vae.eval()
    torch.testing.assert_close(vae.model.prior().log_prob(z), training, rtol=0, atol=0)
    assert not any(module.training for module in vae.modules())
    u = vae.model.prior.logits.sigmoid()
    each = torch.stack([vae.encode(u[k : k + 1]).log_prob(z) for k in range(4)])
    torch.testing.assert_close(training, each.logsumexp(0) - torch.tensor(4.0).double().log())


def test_a_part_of_the_users_with_dropout_gives_one_vamp_prior():
    vae = vamp(network="mlp")
    vae.guide.posterior.encoder.append(nn.Dropout(0.5))
    z = torch.randn(7, 3).double()
    assert torch.equal(vae.model.prior().log_prob(z), vae.model.prior().log_prob(z))


def test_the_weights_of_the_guide_have_gradients_through_the_vamp_prior():
    vae = vamp()
    vae.model.prior().log_prob(torch.randn(3, 3).double()).sum().backward()
    assert all(p.grad is not None for p in vae.guide.parameters())


@pytest.mark.parametrize(
    ("prior", "network"),
    [("vamp", "mlp"), ("standard-normal", "mlp"), ("standard-normal", "conv")],
)
def test_training_with_batch_normalization_agrees_with_training_without(prior, network):
    """Digits, 20 epochs: training and test agree, and both agree with the run without it."""
    data = load_data("digits", binarize="threshold")
    last, hidden = {}, (64,) if network == "mlp" else (16, 64)
    for norm in (False, True):
        torch.manual_seed(0)
        each = f"{network}(batch_norm={norm})"
        vae = VAE(data.shape, 8, prior=prior, network=each, hidden=hidden)
        last[norm] = fit(vae, data, epochs=20, batch_size=64, lr=2e-3, compiled=False)[-1]
    for record in last.values():
        assert record.elbo == pytest.approx(-record.loss, abs=2)
        assert record.elbo == pytest.approx(record.train_elbo, abs=2)
    near = 2 if network == "mlp" else 4  # convolutions train faster with it
    assert last[True].loss == pytest.approx(last[False].loss, abs=near)
    assert last[True].elbo == pytest.approx(last[False].elbo, abs=near)


@pytest.mark.parametrize(
    "settings",
    [
        {"latent_size": 3, "prior": "vamp(components=4)", "network": NORM, "hidden": (16,)},
        {"latent_size": (3, 2), "guide": "ladder", "network": CONV},
    ],
    ids=["vamp", "convolutional ladder"],
)
def test_a_compiled_step_is_the_eager_step(settings):
    data = load_data("digits", binarize="threshold")
    eager = VAE(data.shape, **settings)
    compiled = copy.deepcopy(eager)
    for vae, how in ((eager, False), (compiled, True)):
        # Not Adam, which would scale up the rounding in a gradient that is zero.
        sgd = torch.optim.SGD(vae.parameters(), lr=1e-4)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "this step runs eagerly")
            fit(vae, data, epochs=1, batch_size=64, optimizer=sgd, compiled=how)
    for name, value in eager.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("guide", ["mean-field", "ladder"])
def test_the_choice_of_an_objective_changes_no_statistics(guide):
    """A ladder guide runs networks of the prior."""
    vae = VAE(SHAPE, (3, 2) if guide == "ladder" else 3, guide=guide, network=NORM, hidden=(16,))
    before = statistics(vae)
    assert fitting_objective(vae, binary(1)) == "monte-carlo"
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(vae), strict=True))
    assert all(module.training for module in vae.modules())


def test_a_ladder_trains_with_batch_normalization():
    data = load_data("digits", binarize="threshold")
    vae = VAE(data.shape, (4, 2), guide="ladder", network=NORM, hidden=(32,))
    last = fit(vae, data, epochs=10, batch_size=64, lr=2e-3, compiled=False)[-1]
    assert last.elbo == pytest.approx(-last.loss, abs=2)


@pytest.mark.parametrize("sides", [(7,), (4, 5), (3, 2, 4)])
def test_channels_are_normalized_over_images_and_places_as_torch_does(sides):
    torchs = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[len(sides) - 1](6).double()
    ours = ChannelNorm(6).double()
    with torch.no_grad():
        for norm in (torchs, ours):
            norm.weight.copy_(torch.linspace(0.5, 2, 6))
            norm.bias.copy_(torch.linspace(-1, 1, 6))
    for _ in range(3):
        x = torch.randn(9, 6, *sides).double() * 3 + 1
        torch.testing.assert_close(ours(x), torchs(x))
    for a, b in zip(ours.buffers(), torchs.buffers(), strict=True):
        torch.testing.assert_close(a, b, check_dtype=False)
    ours.eval(), torchs.eval()
    torch.testing.assert_close(ours(x), torchs(x))


def test_channels_are_normalized_without_the_rounding_error_of_many_rows():
    x = torch.randn(128, 16, 14, 14) * 0.01 + 0.3
    torch.testing.assert_close(
        ChannelNorm(16)(x).double(), ChannelNorm(16).double()(x.double()), rtol=0, atol=1e-5
    )


def test_a_convolutional_network_has_a_normalization_before_each_activation_but_none_of_pixels():
    vae = VAE(SHAPE, 3, network="conv(hidden=(4, 6, 16), batch_norm=True)")
    found = [
        type(layer).__name__
        for layer in vae.modules()
        if isinstance(layer, (nn.BatchNorm1d, nn.ReLU, nn.modules.conv._ConvNd, nn.Linear))
    ]
    encoder = ["Conv2d", "ChannelNorm", "ReLU"] * 2 + ["Linear", "BatchNorm", "ReLU"]
    decoder = ["Linear", "BatchNorm", "ReLU"] * 2
    decoder += ["ConvTranspose2d", "ChannelNorm", "ReLU", "ConvTranspose2d"]
    assert " ".join(encoder) in " ".join(found)
    assert " ".join(decoder) in " ".join(found)
    with pytest.raises(InputError, match="batch_norm is True or False, not 1"):
        VAE(SHAPE, 3, network="conv(batch_norm=1)")

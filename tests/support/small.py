"""A small VAE, images of its shape, and its weights before and after training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_vae import VAE
from pyro_vae.data import Data, Images
from support.density import digits

SHAPE = (1, 6, 5)


def small(shape: tuple[int, int, int] = SHAPE, **settings) -> VAE:
    """A VAE that trains in no time."""
    return VAE(shape, **{"latent_size": 3, "hidden": (16,), **settings})


def binary(n: int = 8) -> Tensor:
    """``n`` images of random pixels, 0 or 1, ``[n, 1, 6, 5]``."""
    return (torch.rand(n, *SHAPE) > 0.5).float()


def stripes(count: int = 160, test: int = 20) -> Data:
    """Images of stripes, upright and lying in turn, so that there is something to learn."""
    upright = torch.arange(5) % 2 * 255
    lying = (torch.arange(6) % 2 * 255)[:, None]
    pixels = torch.stack([upright.expand(6, 5), lying.expand(6, 5)])[:, None].to(torch.uint8)
    train, rest = (Images(pixels[torch.arange(n) % 2]) for n in (count, test))
    return Data("stripes", train, rest, rest)


def digit_data(count: int = 40) -> Data:
    """scikit-learn's 8x8 digits, binary: four fifths to train, one fifth to measure."""
    train, test = Images((digits(count) * 255).to(torch.uint8)).split(0.2, seed=0)
    return Data("digits", train, test, test)


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights, by name."""
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def assert_equal_weights(one: nn.Module, two: nn.Module) -> None:
    """The weights of both are equal to the bit."""
    others = dict(two.named_parameters())
    for name, p in one.named_parameters():
        assert torch.equal(p, others[name]), name

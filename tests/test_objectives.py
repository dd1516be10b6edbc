"""Every row of OBJECTIVES: it trains, it is consistent, and its plain ELBO is available."""

from __future__ import annotations

from math import prod

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from support.objectives import (
    SUMS_OVER_CLASSES,
    SUMS_OVER_IMAGES,
    both,
    close,
    objective,
    small,
)
from support.small import SHAPE, stripes
from torch import nn

from pyro_vae import InputError, fit
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.vae import VAE


@pytest.mark.parametrize("name", OBJECTIVES)
def test_training_lowers_the_loss(name):
    vae = small(name)
    pattern = torch.rand(4, 1, 4, 4).round()
    x = pattern.repeat(8, 1, 1, 1)
    made = objective(name)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss=made)

    def now():
        return sum(svi.evaluate_loss(x) for _ in range(20)) / 20

    before = now()
    for _ in range(60):
        svi.step(x)
    after = now()
    assert after < before - 10


@pytest.mark.parametrize("name", OBJECTIVES)
def test_all_methods_give_the_same_loss(name):
    vae = small(name).double()
    x = torch.rand(6, 1, 4, 4, dtype=torch.float64).round()
    made = objective(name)
    made.loss(vae.model, vae.guide, x)
    results = []
    for ask in (
        lambda: made.loss(vae.model, vae.guide, x),
        lambda: made.differentiable_loss(vae.model, vae.guide, x).item(),
        lambda: made(vae.model, vae.guide)(x).item(),
        lambda: made.loss_and_grads(vae.model, vae.guide, x),
    ):
        pyro.set_rng_seed(0)
        results.append(ask())
    close(results, [results[0]] * 4)
    pyro.set_rng_seed(0)
    close([p.grad for p in vae.parameters()], both(name, vae, x)[1])


class StillNormal(dist.Normal):
    """A Normal whose noise depends only on μ, so that single images get the noise of the batch."""

    def rsample(self, sample_shape=()):
        k = torch.arange(1.0, 1 + self.loc[..., 0].numel() // self.loc.shape[-2])
        eps = (7 * self.loc.detach() + k.reshape(-1, 1, 1)).sin()
        return self.loc + self.scale * eps.reshape(self.loc.shape)


class StillGuide(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Linear(16, 4).double()

    def forward(self, x):
        loc = self.loc(x.flatten(-3))
        return StillNormal(loc, 0.5 * torch.ones_like(loc)).to_event(1)


@pytest.mark.parametrize("name", [n for n in SUMS_OVER_IMAGES if n not in ("m2", "m2-real")])
def test_a_batch_is_the_sum_of_its_images(name):
    guide = "categorical" if name in SUMS_OVER_CLASSES else StillGuide()
    vae = VAE((1, 4, 4), 4, guide=guide, hidden=(16,)).double()
    x = torch.rand(6, 1, 4, 4, dtype=torch.float64).round()
    whole = both(name, vae, x)
    single = [both(name, vae, image[None]) for image in x]
    close(whole[0], sum(loss for loss, _ in single))
    close(whole[1], [sum(g) for g in zip(*(g for _, g in single), strict=True)])


@pytest.mark.parametrize("name", sorted({*OBJECTIVES} - {*SUMS_OVER_IMAGES}))
def test_per_image_is_false_only_if_a_batch_is_not_the_sum_of_its_parts(name):
    guide = StillGuide()
    guide.loc.weight.data *= 10  # so that black images have a small KL, and others a large KL
    vae = VAE((1, 4, 4), 4, guide=guide, hidden=(16,)).double()
    x = torch.rand(6, 1, 4, 4, dtype=torch.float64).round()
    x[:3] = 0
    whole = both(name, vae, x)[0]
    halves = sum(both(name, vae, half)[0] for half in (x[:3], x[3:]))
    assert abs(whole - halves) > 1e-3 * abs(whole)


@pytest.mark.filterwarnings("ignore:z")  # Pyro's own warning about discrete draws
@pytest.mark.parametrize("name", OBJECTIVES)
def test_elbo_gives_the_plain_elbo_for_every_objective(name):
    vae = small(name).double()
    x = torch.rand(6, 1, 4, 4, dtype=torch.float64).round()
    made = objective(name)
    pyro.set_rng_seed(0)
    found = made.elbo(vae.model, vae.guide, x)
    plain = OBJECTIVES["monte-carlo"](made.num_particles)
    pyro.set_rng_seed(0)
    close(-found.sum().item(), plain.loss(vae.model, vae.guide, x))
    assert found.shape == (6,)


class FixedRank:
    """A network whose decoder counts dimensions from the front."""

    def __init__(self, shape):
        self.pixels = prod(shape)

    def encoder(self):
        layers = nn.Sequential(nn.Flatten(1), nn.Linear(self.pixels, 8))
        layers.out_features = 8
        return layers

    def decoder(self, latent_size, outputs):
        return nn.Sequential(nn.Linear(latent_size, self.pixels), nn.Unflatten(1, SHAPE))


@pytest.mark.parametrize(
    ("guide", "objective"),
    [("mean-field", "iwae"), ("mean-field", "analytic(num_particles=3)"), ("categorical", None)],
)
def test_a_decoder_of_fixed_rank_is_told_where_several_draws_are_made(guide, objective):
    vae, data = VAE(SHAPE, 3, network=FixedRank, guide=guide), stripes(8, 4)
    with pytest.raises(InputError, match=r"takes only \[B, Z\] .* such as nn.Unflatten\(1"):
        fit(vae, data, objective=objective, epochs=1, compiled=False)
    fit(vae, data, objective="monte-carlo", epochs=1, compiled=False)  # one draw is enough


def test_another_error_of_a_part_is_not_called_a_question_of_draws():
    vae = VAE(SHAPE, 3, network=FixedRank)
    vae.model.likelihood.decoder[1] = nn.Unflatten(1, (1, 1))  # wrong for one draw, too
    with pytest.raises(RuntimeError, match="unflatten"):
        OBJECTIVES.build("iwae", data_size=8).loss(vae.model, vae.guide, torch.ones(2, *SHAPE))

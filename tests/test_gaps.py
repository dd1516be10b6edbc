"""The two gaps, in linear-Gaussian models whose gaps are known."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.exact import LinearGaussian
from torch import nn

from pyro_vae.batch import Batch
from pyro_vae.data.images import Images
from pyro_vae.errors import InputError
from pyro_vae.evaluation import elbo, standard_error
from pyro_vae.evaluation.draws import takes_all_draws
from pyro_vae.evaluation.gaps import freed, gaps, layers_of_the_image
from pyro_vae.evaluation.scoring import measuring
from pyro_vae.guides import FullCovariance, MeanField
from pyro_vae.vae import VAE

EXACT = LinearGaussian(5, (3,), scale=1.0)


class Encoder(nn.Sequential):
    out_features = 6


def trained(guide):
    """The model with a guide whose ELBO is about a nat below log p(x)."""
    torch.manual_seed(3)
    encoder = Encoder(nn.Flatten(-3), nn.Linear(5, 6), nn.Tanh())
    vae = EXACT.vae(guide(encoder, 3))
    x = EXACT.images(400, seed=1)
    adam = torch.optim.Adam(vae.guide.parameters(), lr=0.02)
    loss = pyro.infer.Trace_ELBO()
    for _ in range(150):
        adam.zero_grad()
        loss.differentiable_loss(vae.model, vae.guide, x).backward()
        adam.step()
    return vae


pytestmark = pytest.mark.usefixtures("any_pixels")


@pytest.mark.parametrize("guide", [MeanField, FullCovariance])
def test_both_gaps_are_right(guide):
    vae = trained(guide)
    x = EXACT.images(60)
    result = gaps(vae.model, vae.guide, Images(x), samples=4000, steps=400)
    best = EXACT.gap(EXACT.best_mean_field(x), x).detach() if guide is MeanField else 0.0
    with torch.no_grad():
        whole = EXACT.gap(vae.encode(x), x)
    assert (whole - best).mean() > 0.1
    if guide is MeanField:
        assert best.mean() > 0.1
    slack = 0.005  # q* after finitely many steps
    for gap, known in (
        (result.approximation, best),
        (result.amortization, whole - best),
    ):
        error = gap - known
        assert abs(error.mean().item()) < 3 * standard_error(error) + slack
    torch.testing.assert_close(
        result.log_p - result.guide.elbos, result.approximation + result.amortization
    )
    summary = result.summary()
    assert summary["approximation_gap"]["mean"] == result.approximation.mean().item()
    assert summary["elbo"]["error"] == standard_error(result.guide.elbos)
    # The best mean-field guide is 0.3 nats from the posterior, and its weights have heavy tails.
    refused = guide is MeanField
    assert math.isnan(summary["approximation_gap"]["error"]) == refused
    assert math.isnan(summary["log_p"]["error"]) == refused


def test_the_gap_of_an_image_does_not_depend_on_the_others():
    vae = trained(MeanField)
    images = Images(EXACT.images(6))
    torch.manual_seed(0)
    some = gaps(vae.model, vae.guide, images, samples=2000, steps=100)
    one = gaps(vae.model, vae.guide, images.subset(torch.tensor([4])), samples=2000, steps=100)
    assert abs(some.approximation[4] - one.approximation[0]) < 0.05


def test_the_guide_is_not_changed():
    vae = VAE((1, 3, 3), 2, hidden=(8,))
    images = Images(torch.randint(2, (5, 1, 3, 3)).float())
    before = {k: v.clone() for k, v in vae.state_dict().items()}
    bound = elbo(vae.model, vae.guide, images)
    gaps(vae.model, vae.guide, images, samples=10, steps=3)
    assert torch.equal(elbo(vae.model, vae.guide, images).elbos, bound.elbos)
    assert all(torch.equal(v, before[k]) for k, v in vae.state_dict().items())
    assert all(p.grad is None for p in vae.parameters())


def test_a_layer_that_takes_a_draw_of_z_gets_no_bias():
    class TwoLayers(nn.Module):
        def __init__(self):
            super().__init__()
            self.of_x, self.of_z = nn.Linear(9, 4), nn.Linear(2, 4)

        def forward(self, x):
            with pyro.plate("images", len(x), dim=-1):
                loc, raw = self.of_x(x.flatten(1)).chunk(2, -1)
                z = pyro.sample("z_1", dist.Normal(loc, raw.exp()).to_event(1))
                loc, raw = self.of_z(z).chunk(2, -1)
                pyro.sample("z_2", dist.Normal(loc, raw.exp()).to_event(1))

    guide, x = TwoLayers(), torch.zeros(5, 1, 3, 3)
    with measuring(guide, seed=0, device=x.device):
        assert layers_of_the_image(guide, x) == [guide.of_x]
    with freed(guide, 5) as biases, pyro.plate("draws", 1, dim=-2):
        guide(x)
        assert list(biases) == [guide.of_x]
    # With a fixed shape the guide runs one draw at a time, and z has as many dimensions as x.
    last = nn.Linear(2, 4)
    guide.of_z = nn.Sequential(nn.Unflatten(1, (1, 2)), nn.Flatten(1), last)
    with measuring(guide, seed=0, device=x.device):
        assert not takes_all_draws(guide, Batch.of(x), {})
        assert layers_of_the_image(guide, x) == [guide.of_x]
    with freed(guide, 5, [guide.of_x]) as biases:
        guide(x)
        assert list(biases) == [guide.of_x]
    assert not guide.of_x._forward_hooks


@pytest.mark.parametrize("option", ["samples", "steps", "draws"])
def test_a_count_below_one_is_refused(option):
    vae = VAE((1, 3, 3), 2, hidden=(8,))
    with pytest.raises(InputError, match=f"{option} is a whole number above 0, not 0"):
        gaps(vae.model, vae.guide, Images(torch.zeros(3, 1, 3, 3)), **{option: 0})


def test_guides_without_an_encoder_or_gradients_are_refused():
    vae = VAE((1, 3, 3), 2, hidden=(8,))
    images = Images(torch.zeros(3, 1, 3, 3))

    def plain(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    class WithoutLayers(nn.Module):
        def forward(self, x):
            plain(x)

    with pytest.raises(InputError, match="a plain function does not show its layers; give a guide"):
        gaps(vae.model, plain, images, samples=10)
    with pytest.raises(InputError, match="no fully connected layer"):
        gaps(vae.model, WithoutLayers(), images, samples=10)

    class Discrete(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(9, 4)

        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.OneHotCategorical(logits=self.layer(x.flatten(1))))

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(4) / 4))
            loc = z[..., :1, None, None].expand(*z.shape[:-1], 1, 3, 3)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(3), obs=x)

    with pytest.raises(InputError, match="the draws of 'z' have no gradient"):
        gaps(model, Discrete(), images, samples=10)

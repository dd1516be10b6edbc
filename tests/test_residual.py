"""The residual network: what is laid out like an image stays so, in latents and features."""

import json

import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from support.density import assert_batch_is_independent, assert_moves
from torch import nn

from pyro_vae import VAE, InputError
from pyro_vae.compiling import CompiledELBO, FusedAdam
from pyro_vae.data.images import Images
from pyro_vae.evaluation import elbo
from pyro_vae.evaluation.gaps import ascend, freed
from pyro_vae.evaluation.scoring import log_ratio, run_guide, run_model, values
from pyro_vae.networks import Residual, head, layout
from pyro_vae.networks.residual import Block

SMALL = "residual(hidden=[4, 6], units=8)"
LAYERS = [
    ((1, 28, 28), ((2, 14, 14), (3, 7, 7), 5)),
    ((3, 32, 32), ((2, 16, 16), (2, 16, 16), (3, 4, 4))),
    ((3, 64, 64), ((2, 16, 16), 6)),
    ((1, 7, 5), (4, 3)),
    ((1, 7, 5), ((2, 7, 5), 3)),
    ((2, 12, 20), ((2, 6, 10), 4, (3, 3, 5))),
    ((1, 28, 28), ((1, 4, 4), (2, 1, 1))),
    ((1, 1, 3), ((2, 1, 3), 2)),
]
PROGRAMS = [
    {"guide": "ladder"},
    {"guide": "ladder(merge='learned')", "prior": "hierarchy(skip=True)"},
    {"guide": "bottom-up"},
]


def small(shape=(2, 12, 20), latents=((2, 6, 10), (3, 3, 5), 4), **settings):
    settings = {"guide": "ladder", "likelihood": "normal", "network": SMALL, **settings}
    vae = VAE(shape, latents, **settings)
    for block in vae.modules():
        if isinstance(block, Block):  # as it is once it has learned something
            nn.init.normal_(block.change[-1].weight, std=0.1)
    return vae


@pytest.mark.parametrize("programs", PROGRAMS)
@pytest.mark.parametrize(("shape", "latents"), LAYERS)
def test_layers_of_every_layout_make_a_vae(shape, latents, programs):
    vae, x = small(shape, latents, likelihood="normal-per-pixel", **programs), torch.rand(3, *shape)
    sizes = {
        f"z_{i}": torch.Size([z] if isinstance(z, int) else z).numel()
        for i, z in enumerate(latents, start=1)
    }
    q = vae.encode(x)
    assert {name: each.event_shape[0] for name, each in q.items()} == sizes
    assert vae.reconstruct(x).shape == x.shape
    assert vae.sample(2).shape == (2, *shape)
    assert vae.interpolate(x[0], x[1], 4).shape == (4, *shape)
    result = elbo(vae.model, vae.guide, Images((255 * x).byte()))
    assert {name: len(kl) for name, kl in result.kl_of_units.items()} == sizes
    assert sum(kl.mean().item() for kl in result.kl_of_sites.values()) == pytest.approx(result.kl)
    loss = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    loss.loss_and_grads(vae.model, vae.guide, x)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.parameters())


@pytest.mark.parametrize("programs", PROGRAMS)
def test_an_image_is_modelled_by_itself(programs):
    vae = small(**programs).double()
    assert_batch_is_independent(vae, torch.rand(3, 2, 12, 20, dtype=torch.float64))
    assert_moves(small(**programs))


def test_a_spatial_ladder_is_built_again_from_its_config():
    vae = small()
    again = VAE(**json.loads(json.dumps(vae.config)))
    again.load_state_dict(vae.state_dict())
    x = torch.rand(3, 2, 12, 20)
    images = []
    for each in (vae, again):
        torch.manual_seed(0)
        images.append(each.reconstruct(x))
    assert torch.equal(*images)


def reached(gradient):
    """The first and the last row, then column, at which a map [C, H, W] is not 0."""
    rows, columns = (gradient.abs().sum((0, d)).nonzero() for d in (2, 1))
    return rows.min().item(), rows.max().item(), columns.min().item(), columns.max().item()


def test_a_latent_shapes_the_pixels_around_its_place_and_is_told_by_them():
    vae = small((3, 64, 64), ((2, 16, 16), 5)).double()
    one = torch.zeros(2, 16, 16, dtype=torch.float64)
    one[1, 6, 4] = 1
    z = torch.randn(512, dtype=torch.float64)
    decoder = vae.model.likelihood.decoder
    _, at = torch.autograd.functional.jvp(decoder, z, one.flatten())  # [3, 64, 64]
    # Level 1 repeats the place twice; a block and the last convolution reach 3 places further, of
    # two pixels each.
    assert reached(at) == (2 * (12 - 3), 2 * (13 + 3) + 1, 2 * (8 - 3), 2 * (9 + 3) + 1)
    near = at[:, 24:28, 16:20].square().mean()
    assert near > 4 * at.square().sum() / (3 * 16 * 16)

    x = torch.rand(3, 64, 64, dtype=torch.float64, requires_grad=True)
    features = vae.guide.posterior.up[0](x).unflatten(-1, (6, 16, 16))
    (seen,) = torch.autograd.grad(features[:, 6, 4].sum(), x)
    # A block reaches 2 places further and a halving one: 2, then 2·2 + 1 + 2, then 2·7 + 1.
    assert reached(seen) == (24 - 15, 24 + 15, 16 - 15, 16 + 15)


def test_halves_of_the_head_s_output_are_halves_of_its_channels():
    encoder = Residual((1, 8, 8), ((3, 4, 4),), hidden=(5,)).encoder().double()
    assert layout(encoder) == (5, 4, 4)
    to_raw = head(encoder, 2 * 48).double()
    x = torch.rand(7, 1, 8, 8, dtype=torch.float64)
    loc, raw = to_raw(encoder(x)).chunk(2, -1)
    features = encoder(x).view(7, 5, 4, 4)
    weight, bias = to_raw.linear.weight[:, :, 0, 0], to_raw.linear.bias
    each = torch.einsum("oc,bchw->bohw", weight, features) + bias[:, None, None]
    torch.testing.assert_close(loc, each[:, :3].flatten(1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(raw, each[:, 3:].flatten(1), rtol=1e-12, atol=1e-12)


def test_outputs_that_the_places_do_not_share_come_from_all_features():
    placed = Residual((1, 8, 8), ((3, 4, 4),), hidden=(5,)).encoder()
    for encoder, outputs in ((placed, 33), (Residual((1, 8, 8), ((3,),)).encoder(), 256)):
        h = torch.zeros(encoder.out_features, requires_grad=True)
        to_raw = head(encoder, outputs)
        for output in to_raw(h)[:3]:
            (seen,) = torch.autograd.grad(output, h, retain_graph=True)
            assert (seen != 0).all()
    assert head(placed, 2 * 3 * 4 * 4)(torch.zeros(80)).shape == (96,)
    h = torch.zeros(80, requires_grad=True)
    (seen,) = torch.autograd.grad(head(placed, 96)(h)[0], h)
    assert (seen != 0).sum() == 5  # the features at the output's own place


def test_a_deep_stack_starts_as_a_shallow_one():
    (block,) = Residual((4, 6, 6)).stack(4)
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(block(x), x)
    network = Residual((8, 64, 64), hidden=(32,) * 6, blocks=4)
    down = network.path((8, 64, 64), (32, 1, 1))
    up = network.path((32, 1, 1), (1, 64, 64))
    x = torch.randn(16, 8 * 64 * 64)
    features = down(x)
    assert 0.3 < features.std() < 2  # the padding at small sides is 0
    assert 0.5 < up(features).std() / features.std() < 2


@pytest.mark.parametrize("latents", [((2, 6, 10), (3, 3, 5)), ((2, 6, 10), 4), (5, 4)])
def test_a_ladder_cut_from_the_image_is_the_prior(latents):
    vae = small(latents=latents)
    for part, size in zip(vae.guide.posterior.posteriors, latents, strict=True):
        affine = getattr(part, "linear", part)
        nn.init.zeros_(affine.weight)
        half = len(affine.bias) // 2
        nn.init.constant_(affine.bias[half:].data, 1e30)  # so wide that it says nothing
        assert torch.Size([size] if isinstance(size, int) else size)[0] == half
    result = elbo(vae.model, vae.guide, Images(torch.randint(256, (3, 2, 12, 20)).byte()))
    assert all((kl == 0).all() for kl in result.kl_of_sites.values())


def test_compiled_steps_are_the_plain_ones():
    losses, x = [], torch.rand(4, 1, 8, 8)
    for compiled in (False, True):
        torch.manual_seed(0)
        vae = small((1, 8, 8), ((2, 4, 4), 3), guide="ladder(merge='learned')")
        loss = CompiledELBO(Trace_ELBO(), backend="eager") if compiled else Trace_ELBO()
        svi = SVI(vae.model, vae.guide, FusedAdam({"lr": 1e-3}), loss=loss)
        losses.append([svi.step(x) for _ in range(4)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("programs", PROGRAMS)
def test_freeing_the_encoder_finds_a_better_bound_for_each_image(programs):
    vae, x = small(**programs), torch.rand(5, 2, 12, 20)

    def bound():
        torch.manual_seed(1)
        with torch.no_grad():
            q = run_guide(vae.guide, x, 50)
            p, log_p = run_model(vae.model, x, values(q))
            return (log_p - sum(log_ratio(q[name], p[name]) for name in q)).mean(0)  # [B]

    before = bound()
    with freed(vae.guide, 5) as biases:
        torch.testing.assert_close(bound(), before)
        ascend(vae.model, vae.guide, x, biases, 40, draws=5, rate=0.05, tell=lambda share: None)
        best = bound()
    assert (best > before + 0.1).all()
    assert torch.equal(bound(), before)


@pytest.mark.parametrize(
    ("shape", "latents", "network", "message"),
    [
        ((1, 28, 28), ((8, 16, 16), 4), SMALL, "16x16 places, and the image has 28x28, .* 14x14"),
        ((1, 28, 28), ((8, 7, 7), (8, 3, 3)), SMALL, "layer 2 .* layer 1 has 7x7, .* 7x7 or 1x1"),
        ((2, 12, 20), ((8, 6, 5), 4), SMALL, "6x5 places, .* 12x20 or 6x10 or 3x5"),
        ((1, 24, 24), ((8, 8, 8), 4), SMALL, "halves .* 12x12 or 6x6 .* layer 1 of them has 8x8"),
        ((1, 25, 25), ((8, 5, 5),), SMALL, "can have 25x25 or 1x1 places, .* has 5x5"),
        (
            (1, 8, 8),
            ((8, 4), 4),
            SMALL,
            "x has .* .1, 8, 8.; give one number, or channels and 2 sides",
        ),
        ((1, 8, 8), 4, "residual(units=0)", "units is a whole number above 0, not 0"),
        ((1, 8, 8), 4, "residual(blocks=0)", "blocks is a whole number above 0, not 0"),
        ((1, 8, 8), 4, "residual(hidden=[])", "hidden takes whole numbers above 0"),
    ],
)
def test_layouts_and_sizes_that_do_not_fit_are_refused(shape, latents, network, message):
    with pytest.raises(InputError, match=message) as error:
        VAE(shape, latents, guide="ladder", network=network)
    assert "\n" not in str(error.value)

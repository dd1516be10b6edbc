"""What encoder and decoder get beside x and z: the mask of the holes, and the context."""

from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

from pyro_vae import VAE, Guide, InputError, Likelihood, fit
from pyro_vae.compiling import CompiledSVI
from pyro_vae.conditions import Condition
from pyro_vae.data import Images, load_data
from pyro_vae.evaluation import elbo
from pyro_vae.joining import Input

SHAPES = {"mlp": (5,), "conv": (1, 8, 8), "residual": (2, 8, 8)}


def example(shape, n=6):
    torch.manual_seed(0)
    x = torch.rand(n, *shape).round()
    return x, torch.arange(n) % 3, torch.rand(n, *shape) > 0.4


@pytest.mark.parametrize("network", SHAPES)
@pytest.mark.parametrize("guide", ["mean-field", "iaf", "ladder"])
def test_every_guide_sees_mask_and_context(network, guide):
    """The bound changes with the label, and with an entry of the mask where x is the same."""
    shape = SHAPES[network]
    x, c, mask = example(shape)
    latent = (4, 2) if guide == "ladder" else 3
    vae = VAE(shape, latent, guide=guide, network=network, condition=3, holes=True).eval()

    def posterior(*given, **named):
        pyro.set_rng_seed(1)
        q = vae.encode(*given, **named)
        return (q["z_1"] if isinstance(q, dict) else q)(torch.Size()).detach()

    same = posterior(x * mask, c, mask=mask)
    assert torch.equal(posterior(x, c, mask=mask), same)  # what is in a hole does not matter
    assert not torch.allclose(posterior(x, (c + 1) % 3, mask=mask), same)
    x0 = x * mask
    assert not torch.allclose(posterior(x0, c), same)  # zeros that were observed are no holes


@pytest.mark.parametrize(
    ("network", "placed", "shape"), [("mlp", False, (2 * 5 + 3,)), ("conv", True, (2 + 3, 8, 8))]
)
def test_the_joined_tensor_is_x_mask_and_context(network, placed, shape):
    x, c, mask = example(SHAPES[network])
    vae = VAE(SHAPES[network], 3, network=network, condition=3, holes=True)
    joined = vae.guide.seen(x, mask, Condition(classes=3).encode(c, x))
    assert joined.shape == (6, *shape)
    one = torch.eye(3)[c]
    if placed:
        places = one[:, :, None, None].expand(-1, -1, 8, 8)
        expected = torch.cat([x, mask.float(), places], 1)
    else:
        expected = torch.cat([x, mask.float(), one], 1)
    assert torch.equal(joined, expected)


@pytest.mark.parametrize("placed", [True, False])
def test_only_x_is_standardised(placed):
    class Plain(Likelihood):
        def forward(self, z):
            return dist.Normal(z, 1).to_event(1)

    seen = Input(Plain(), (2, 3, 3), holes=True, context=1, placed=placed)
    mean, scale = seen.moments([0.1, 0.2], [2.0, 3.0])
    assert (len(mean), len(scale)) == (seen.shape[0],) * 2
    if placed:
        assert mean == [0.1, 0.2, 0, 0, 0]
        assert scale == [2.0, 3.0, 1, 1, 1]
    else:
        assert mean == [0.1] * 9 + [0.2] * 9 + [0] * 19
        assert scale == [2.0] * 9 + [3.0] * 9 + [1] * 19


def test_the_decoder_gets_z_and_the_context():
    """With the decoder's weights of the context at 0, the label does not matter; else it does."""
    vae = VAE((5,), 3, condition=4, hidden=(8,)).double().eval()
    z, c = torch.randn(6, 3, dtype=torch.float64), torch.arange(6) % 4
    first = next(m for m in vae.model.likelihood.modules() if isinstance(m, torch.nn.Linear))
    assert first.in_features == 3 + 4
    assert not torch.allclose(vae.decode(z, c), vae.decode(z, (c + 1) % 4))
    weight, bias = first.weight.detach().clone(), first.bias
    by_hand = z @ weight[:, :3].T + weight[:, 3:].T[c] + bias
    got = []
    first.register_forward_hook(lambda _, args, out: got.append(out))
    vae.decode(z, c)
    torch.testing.assert_close(got[-1], by_hand)
    with torch.no_grad():
        first.weight[:, 3:] = 0
    assert torch.equal(vae.decode(z, c), vae.decode(z, (c + 1) % 4))


def test_only_the_parts_that_are_named_get_the_context():
    x, c, _ = example((5,))
    for conditioned, sees, decodes in ((["guide"], True, False), (["likelihood"], False, True)):
        vae = VAE((5,), 3, condition=3, conditioned=conditioned)
        other = (c + 1) % 3
        assert (not torch.allclose(vae.encode(x, c).mean, vae.encode(x, other).mean)) == sees
        z = torch.zeros(6, 3)
        assert (not torch.allclose(vae.decode(z, c), vae.decode(z, other))) == decodes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"condition": 1}, "a number of classes from 2"),
        ({"condition": "label"}, "a number of classes from 2"),
        ({"condition": 3, "conditioned": ["prior"]}, "likelihood and guide, not"),
        ({"condition": 3, "conditioned": []}, "no part gets it"),
        ({"holes": True, "network": "built"}, "was built for x alone"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, words):
    from pyro_vae.networks import MLP

    if arguments.get("network") == "built":
        arguments = {**arguments, "network": MLP((5,))}
    with pytest.raises(InputError, match=words):
        VAE((5,), 2, **arguments)


@pytest.mark.parametrize(
    ("context", "words"),
    [
        (None, "conditioned on labels of 3 classes"),
        (
            torch.tensor([0, 1, 2, 3, 0, 1]),
            "the label 3 was never seen: it is not one of the 3 classes, 0 to 2",
        ),
        (torch.rand(6), "labels of 3 classes, a whole number"),
        (torch.zeros(6, 3, dtype=torch.int64), "labels of 3 classes, a whole number"),
        (torch.zeros(5, dtype=torch.int64), "5 rows, and the number of images is 6"),
    ],
)
def test_a_context_that_does_not_fit_is_refused(context, words):
    vae, (x, _, _) = VAE((5,), 2, condition=3), example((5,))
    with pytest.raises(InputError, match=words):
        vae.encode(x, context)


@pytest.mark.parametrize("latent", [3, (4, 2)])
def test_a_compiled_step_with_context_and_mask_is_that_of_svi(latent):
    x, c, mask = example((5,), 8)
    losses = []
    for compiled in (False, True):
        torch.manual_seed(0)
        guide = "ladder" if isinstance(latent, tuple) else "mean-field"
        vae = VAE((5,), latent, guide=guide, condition=3, holes=True, hidden=(8,))
        kind = CompiledSVI if compiled else SVI
        optimizer = (
            torch.optim.Adam(vae.parameters(), 1e-2) if compiled else pyro.optim.Adam({"lr": 1e-2})
        )
        options = {"backend": "eager"} if compiled else {}
        svi = kind(vae.model, vae.guide, optimizer, Trace_ELBO(), **options)
        pyro.set_rng_seed(3)
        losses.append([float(svi.step(x, c, mask)) for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_data_with_holes_and_context_trains_and_is_measured():
    data = load_data("digits", binarize="threshold")

    def with_both(images, seed):
        mask = torch.rand(images.pixels.shape, generator=torch.manual_seed(seed)) > 0.3
        return replace(images, context=images.labels, mask=mask)

    data = replace(data, train=with_both(data.train, 0), validation=with_both(data.validation, 1))
    vae = VAE.for_data(data, 4, hidden=(32,))
    assert vae.config["condition"] == [str(digit) for digit in range(10)]
    assert vae.config["holes"] is True
    history = fit(vae, data, epochs=2, progress=False)
    rows = data.validation.rows(slice(None))
    by_hand = elbo(vae.model, vae.guide, rows).elbo
    assert history[-1].elbo == pytest.approx(by_hand, rel=1e-5)


def test_images_keep_mask_and_context_with_their_rows():
    x = torch.arange(12.0).reshape(6, 2)
    x[1, 0] = float("nan")
    images = Images(x, context=torch.arange(6), labels=torch.arange(6))
    assert torch.equal(images.mask, ~x.isnan())
    assert images.pixels[1, 0] == 0
    some = images.subset(torch.tensor([1, 4]))
    assert torch.equal(some.mask, ~x[[1, 4]].isnan())
    assert some.context.tolist() == [1, 4]
    joined = some.joined(Images(x[[0]], context=torch.tensor([0]), labels=torch.tensor([0])))
    assert torch.equal(joined.mask, ~x[[1, 4, 0]].isnan())
    assert joined.context.tolist() == joined.labels.tolist() == [1, 4, 0]
    first, second, count = images.moments()
    for entry in range(2):
        seen = x[:, entry][~x[:, entry].isnan()].double()
        assert count[entry] == len(seen)
        assert first[entry].item() == pytest.approx(seen.mean().item())
        assert second[entry].item() == pytest.approx(seen.square().mean().item())


def test_a_guide_of_one_s_own_sees_the_joined_tensor_and_x_itself():
    class Own(Guide):
        def __init__(self, encoder, latent_size):
            super().__init__()
            self.encoder = encoder
            self.head = torch.nn.Linear(encoder.out_features, latent_size)

        def forward(self, x, observations=None):
            self.handed = x.shape, observations
            return dist.Normal(self.head(self.encoder(x)), 1.0).to_event(1)

    x, c, _ = example((5,))
    vae = VAE((5,), 2, guide=Own, condition=3)
    vae.encode(x, c)
    shape, observations = vae.guide.posterior.handed
    assert shape == (6, 8)
    assert torch.equal(observations, x)


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_a_vamp_prior_has_masks_and_contexts_of_its_own(network):
    """Its pseudo-inputs are what the encoder sees; the mixture is that of the posteriors there."""
    shape = SHAPES[network]
    vae = VAE(shape, 2, network=network, condition=3, holes=True, prior="vamp(components=4)").eval()
    prior = vae.model.prior
    assert prior.pseudo_images().shape == (4, *vae.guide.seen.shape)
    q = vae.guide.posterior(prior.pseudo_images())
    z = torch.randn(7, 1, 2)
    expected = q.log_prob(z).logsumexp(-1) - torch.tensor(4.0).log()
    torch.testing.assert_close(prior().log_prob(z[:, 0]), expected)
    x, c, mask = example(shape)
    assert torch.isfinite(elbo(vae.model, vae.guide, (x, c, mask)).elbos).all()


def test_a_batch_has_nan_where_an_entry_is_missing():
    x = torch.rand(5, 3)
    x[2, 1] = float("nan")
    images = Images(x)
    assert torch.equal(images.batch([2, 0]).isnan(), x[[2, 0]].isnan())
    vae = VAE.for_data(images, 2, hidden=(4,)).eval()
    rows = images.rows(slice(None))
    by_mask = vae.encode(*rows.args, **rows.kwargs).mean
    assert torch.equal(vae.encode(images.batch(slice(None))).mean, by_mask)


def test_categories_are_not_scored_as_numbers():
    import pandas as pd

    from pyro_vae.data import Data

    table = pd.DataFrame({"a": torch.randn(40).numpy(), "b": ["x", "y"] * 20})
    data = Data.of_table(table)
    with pytest.raises(InputError, match="'b' of the table has categories"):
        VAE.for_data(data, 2, likelihood="student-t")

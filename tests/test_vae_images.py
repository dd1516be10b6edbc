"""Images that a VAE takes besides tensors, numbers that it takes, and its mode in use."""

import numpy as np
import pyro
import pytest
import torch
from PIL import Image
from pyro.infer import SVI, Trace_ELBO
from support.small import SHAPE as GREY
from support.small import small
from torch import nn

from pyro_vae import VAE, InputError, load_data

COLOUR = (3, 6, 5)


def pixels(*shape: int) -> np.ndarray:
    return np.random.RandomState(0).randint(256, size=shape, dtype=np.uint8)


def mean_of(vae: VAE, x) -> torch.Tensor:
    with torch.no_grad():
        return vae.encode(x).mean


@pytest.mark.parametrize(
    ("shape", "given", "layout"),
    [
        (GREY, (6, 5), lambda a: a[None]),
        (GREY, (1, 6, 5), lambda a: a),
        (GREY, (6, 5, 1), lambda a: a.transpose(2, 0, 1)),
        (GREY, (4, 6, 5), lambda a: a[:, None]),
        (GREY, (4, 1, 6, 5), lambda a: a),
        (GREY, (4, 6, 5, 1), lambda a: a.transpose(0, 3, 1, 2)),
        (COLOUR, (6, 5, 3), lambda a: a.transpose(2, 0, 1)),
        (COLOUR, (3, 6, 5), lambda a: a),
        (COLOUR, (4, 6, 5, 3), lambda a: a.transpose(0, 3, 1, 2)),
        (COLOUR, (4, 3, 6, 5), lambda a: a),
    ],
)
@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
def test_arrays_in_each_layout_are_the_tensors_that_they_hold(shape, given, layout, kind):
    vae, array = small(shape), pixels(*given)
    x = torch.from_numpy(layout(array).copy()).float() / 255
    if kind != "uint8":
        array = (array / 255).astype(kind)
    torch.testing.assert_close(mean_of(vae, array), mean_of(vae, x))
    torch.manual_seed(0)
    got = vae.reconstruct(array)
    torch.manual_seed(0)
    torch.testing.assert_close(got, vae.reconstruct(x))
    assert got.shape == x.shape


def test_an_array_of_bools_is_black_and_white():
    vae, array = small(), pixels(6, 5) > 127
    x = torch.from_numpy(array)[None].float()
    torch.testing.assert_close(mean_of(vae, array), mean_of(vae, x))


def test_the_scale_of_bytes_does_not_depend_on_the_other_images_of_a_call():
    vae, dark, bright = small(), pixels(6, 5) % 2, pixels(6, 5)
    both = mean_of(vae, np.stack([dark, bright]))
    torch.testing.assert_close(mean_of(vae, dark), both[0])
    torch.testing.assert_close(mean_of(vae, Image.fromarray(dark)), both[0])
    x = torch.from_numpy(dark)[None] / 255
    torch.testing.assert_close(mean_of(vae, dark), mean_of(vae, x))


def test_a_grey_pil_image_that_is_stored_as_colour_is_grey():
    vae, array = small(), pixels(6, 5)
    image = Image.fromarray(array).convert("RGB")
    torch.testing.assert_close(mean_of(vae, image), mean_of(vae, array))


def test_a_pil_image_is_what_load_data_reads_from_its_file(tmp_path):
    """Grey, colour, palette, transparency, black and white; a folder holds two of each."""
    colour = Image.fromarray(pixels(6, 5, 3))
    images = {
        "L": (GREY, Image.fromarray(pixels(6, 5))),
        "1": (GREY, Image.fromarray(pixels(6, 5)).convert("1")),
        "LA": (COLOUR, Image.fromarray(pixels(6, 5)).convert("LA")),
        "RGB": (COLOUR, colour),
        "P": (COLOUR, colour.quantize(8)),
        "RGBA": (COLOUR, Image.fromarray(pixels(6, 5, 4))),
    }
    for name, (shape, image) in images.items():
        folder = tmp_path / name
        folder.mkdir()
        for copy in ("a", "b"):
            image.save(folder / f"{copy}.png")
        x = load_data(folder, test_fraction=0).train.batch([0])
        if x.shape[1] != shape[0]:
            x = x.expand(1, *shape)
        vae = small(shape)
        torch.testing.assert_close(mean_of(vae, image), mean_of(vae, x)[0], msg=name)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (pixels(5, 6), r"shape \[1, 6, 5\] or \[6, 5, 1\].*array of shape \[5, 6\]$"),
        (pixels(6, 5, 3), r"array of shape \[6, 5, 3\]$"),
        (pixels(0, 6, 5), "holds no pixels"),
        (np.full((6, 5), 255.0), "divide them by 255$"),
        (np.full((6, 5), 7), "is of type int64; allowed are uint8, bool, and float"),
        (Image.fromarray(pixels(6, 5, 3)), r"array of shape \[6, 5, 3\]$"),
        (Image.new("I;16", (5, 6)), "more than 8 bits in a channel"),
        (Image.new("F", (5, 6)), "more than 8 bits in a channel"),
        ([[0.0] * 5] * 6, "a NumPy array or a PIL image, not a list$"),
        ("image.png", "a NumPy array or a PIL image, not a str$"),
        (None, "a NumPy array or a PIL image, not a NoneType$"),
        (torch.zeros(0, *GREY), "number of images is a whole number of at least 1, not 0$"),
    ],
)
@pytest.mark.parametrize("method", ["encode", "reconstruct"])
def test_images_that_do_not_fit_are_refused_in_a_sentence(x, message, method):
    with pytest.raises(InputError, match=message) as error:
        getattr(small(), method)(x)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("n", [-1, 0, 2.5, "3", True])
def test_a_number_of_images_that_does_not_fit_is_refused(n):
    with pytest.raises(InputError, match="number of images is a whole number of at least 1, not"):
        small().sample(n)


def test_a_number_of_images_may_be_one_of_numpy():
    assert small().sample(np.int64(3)).shape == (3, *GREY)


@pytest.mark.parametrize("steps", [1, 2.5, -3])
def test_a_number_of_steps_that_does_not_fit_is_refused(steps):
    with pytest.raises(InputError, match="steps of a path is a whole number of at least 2, not"):
        small().interpolate(*torch.zeros(2, *GREY), steps=steps)


def test_an_empty_batch_is_refused_by_svi():
    vae = small()
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    with pytest.raises(InputError, match="number of images is a whole number of at least 1, not 0"):
        svi.step(torch.zeros(0, *GREY))


EPS = torch.finfo(torch.float32).eps


@pytest.mark.parametrize(
    "likelihood", ["bernoulli", "continuous-bernoulli", "discretized-logistic"]
)
def test_pixels_that_rounding_took_out_of_the_range_are_clipped(likelihood):
    vae = small(likelihood=likelihood)
    clean = (torch.rand(4, *GREY) > 0.5).float()
    x = torch.where(clean == 1, 1 + 8 * EPS, -8 * EPS)
    losses = []
    for images in (clean, x):
        torch.manual_seed(0)
        losses.append(Trace_ELBO().loss(vae.model, vae.guide, images))
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (0.0, 1 + 10 * EPS, r"is 1\.000001, and the likelihood .* if an interpolation"),
        (0.0, 255.0, r"is 255, .* \[0, 1\]; divide them by 255$"),
        (-1.0, 1.0, r"is -1, .*scaled to \[-1, 1\]"),
        (0.0, 3e4, r"is 30000, .* scores numbers in \[0, 1\]; a likelihood of all real"),
        (0.0, torch.inf, r"is inf, .* scores numbers in \[0, 1\]$"),
    ],
)
def test_pixels_out_of_range_are_told_what_to_do(low, high, message):
    x = torch.full((2, *GREY), low)
    x[1, 0, 2, 2] = high
    with pytest.raises(InputError, match=message):
        small().encode(x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bool, torch.uint8])
def test_images_are_cast_to_the_type_of_the_weights(dtype):
    vae, x = small(), (torch.rand(4, *GREY) > 0.5).float()
    torch.testing.assert_close(mean_of(vae, x.to(dtype)), mean_of(vae, x))
    assert mean_of(small().double(), x).dtype == torch.float64


def test_gradients_reach_the_images():
    x = torch.rand(4, *GREY, dtype=torch.float64, requires_grad=True)
    small().encode(x).mean.sum().backward()
    assert x.grad is not None
    assert (x.grad != 0).any()


def test_a_path_between_arrays_or_pil_images_is_that_of_tensors():
    vae, (a, b) = small(), pixels(2, 6, 5)
    paths = []
    for make in (lambda i: torch.from_numpy(i)[None] / 255, lambda i: i, Image.fromarray):
        torch.manual_seed(0)
        paths.append(vae.interpolate(make(a), make(b), 3))
    torch.testing.assert_close(paths[1], paths[0])
    torch.testing.assert_close(paths[2], paths[0])


def test_the_use_of_a_vae_leaves_its_statistics_and_its_mode():
    vae = small(network="mlp(batch_norm=True)")
    x = (torch.rand(4, *GREY) > 0.5).float()
    frozen = next(m for m in vae.modules() if isinstance(m, nn.BatchNorm1d)).eval()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    vae.sample(1), vae.reconstruct(x[:1]), vae.interpolate(x[0], x[1], 3), vae.encode(x)
    assert all(torch.equal(before[name], value) for name, value in vae.state_dict().items())
    assert [m for m in vae.modules() if not m.training] == [frozen]
    torch.testing.assert_close(vae.encode(x[0]).mean, vae.encode(x).mean[0])
    torch.manual_seed(0)
    training = vae.reconstruct(x)
    torch.manual_seed(0)
    torch.testing.assert_close(vae.eval().reconstruct(x), training)

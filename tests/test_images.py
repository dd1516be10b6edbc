"""Binarisation, batches and splits, against their definitions."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from pyro_vae.data import BINARIZE, load_data
from pyro_vae.data.drawing import PIECE, bernoulli
from pyro_vae.data.images import Images

RANDOM = np.random.RandomState(0)


# Binarisation


def chi_square(draws: torch.Tensor, p: torch.Tensor) -> float:
    """Sum of squared z over the columns of ``draws``, each Bernoulli(p) if the code is right."""
    error = draws.double().mean(0) - p
    return (error**2 * len(draws) / (p * (1 - p))).sum().item()


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_draws_are_bernoulli_of_each_grey_level(kind):
    level = torch.arange(256, dtype=torch.uint8)
    pixels = level if kind == torch.uint8 else level / 255
    draws = torch.cat([bernoulli(pixels.expand(100_000, 256)) for _ in range(4)])
    assert not draws[:, 0].any()
    assert draws[:, 255].all()
    # 254 degrees of freedom: mean 254, deviation 22.5. With 256 for 255 it would be near 1,800.
    assert chi_square(draws[:, 1:255], level[1:255].double() / 255) < 254 + 5 * 22.5


def test_draws_are_independent_within_the_words_that_they_share():
    x = bernoulli(torch.full((2_000_000,), 128, dtype=torch.uint8)).double() - 128 / 255
    for lag in range(1, 17):
        assert abs((x[:-lag] * x[lag:]).mean()) < 5 * 0.25 / len(x) ** 0.5


def test_no_draw_depends_on_how_many_follow():
    pixels, found = torch.full((30_000,), 128, dtype=torch.uint8), []
    for count in (20_000, 30_000):
        torch.manual_seed(0)
        found.append(bernoulli(pixels[:count])[:20_000])
    assert torch.equal(*found)


@pytest.mark.parametrize("count", [1, 7, 8, 9])
def test_draws_of_any_number_of_pixels(count):
    assert bernoulli(torch.full((count,), 255, dtype=torch.uint8)).sum() == count


def test_no_draw_depends_on_the_number_of_threads():
    """And two pieces of equal pixels get different draws."""
    images = Images(torch.full((5, 1, 256, PIECE // 256), 128, dtype=torch.uint8))
    images = images.binarized("dynamic", RANDOM)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        found.append(images.drawn().pixels)
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    x = (found[0].double() - 128).flatten(1) / 128  # pieces are images here
    correlations = x @ x.T / PIECE
    assert (correlations.fill_diagonal_(0).abs() < 5 / PIECE**0.5).all()


@pytest.fixture(scope="module")
def digits():
    return {protocol: load_data("digits", binarize=protocol) for protocol in BINARIZE}


EVERYTHING = slice(None)


def test_none_is_the_pixel_over_255(digits):
    train = digits["none"].train
    expected = train.pixels.double() / 255
    torch.testing.assert_close(train.batch(EVERYTHING).double(), expected, atol=6e-8, rtol=0)
    assert train.batch(EVERYTHING).max() == 1


def test_threshold_is_one_from_half_on():
    images = Images(torch.tensor([0, 127, 128, 255], dtype=torch.uint8).view(4, 1, 1, 1))
    assert images.binarized("threshold", RANDOM).batch(EVERYTHING).flatten().tolist() == [
        0,
        0,
        1,
        1,
    ]
    floats = Images(torch.tensor([0.0, 0.4999, 0.5, 1.0]).view(4, 1, 1, 1))
    assert floats.binarized("threshold", RANDOM).batch(EVERYTHING).flatten().tolist() == [
        0,
        0,
        1,
        1,
    ]


def test_dynamic_is_drawn_again_and_repeats_with_its_generator(digits):
    train = digits["dynamic"].train
    generator = torch.Generator().manual_seed(3)
    first, second = (train.batch(EVERYTHING, generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, train.batch(EVERYTHING, generator.manual_seed(3)))
    assert first.unique().tolist() == [0, 1]
    grey = train.pixels / 255
    draws = torch.stack([train.batch(EVERYTHING) for _ in range(200)]).mean(0)
    torch.testing.assert_close(draws, grey, atol=6 * (0.25 / 200) ** 0.5, rtol=0)


def test_static_of_floats_is_bernoulli_too():
    images = Images(torch.full((1, 1, 1000, 1000), 0.3001))
    x = images.binarized("static", np.random.RandomState(0)).batch(EVERYTHING)
    assert abs(x.double().mean() - 0.3001) < 5 * (0.21 / 1e6) ** 0.5


@pytest.mark.parametrize(
    ("pixels", "binarize", "levels", "binary"),
    [
        (torch.tensor([0, 255], dtype=torch.uint8), "none", 2, True),
        (torch.tensor([0, 255], dtype=torch.uint8), "static", 2, True),
        (torch.tensor([0, 1], dtype=torch.uint8), "none", 2, False),
        (torch.tensor([0, 1, 7], dtype=torch.uint8), "dynamic", 2, True),
        (torch.tensor([0, 0, 0], dtype=torch.uint8), "none", 1, True),
        (torch.arange(256, dtype=torch.uint8), "none", 256, False),
        (torch.tensor([0.0, 1.0]), "none", 2, True),
        (torch.tensor([0.0, 0.5, 1.0]), "none", 3, False),
        (torch.linspace(0, 1, 5000), "none", 256, False),
        (torch.cat([torch.zeros(64), torch.tensor([0.25, 0.5])]), "none", 3, False),
    ],
)
def test_levels(pixels, binarize, levels, binary):
    images = Images(pixels.view(-1, 1, 1, 1), binarize=binarize)
    assert images.levels() == levels
    assert images.is_binary is binary


# Batches


def numbered(count: int) -> Images:
    """Images whose only pixel is their number."""
    return Images(torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1))


@pytest.mark.parametrize("shuffle", [False, True])
def test_an_epoch_holds_every_image_once(shuffle):
    batches = list(numbered(103).batches(25, shuffle=shuffle))
    assert [x.shape for x in batches] == [(25, 1, 1, 1)] * 4 + [(3, 1, 1, 1)]
    seen = (torch.cat(batches).flatten() * 255).round().int().tolist()
    assert sorted(seen) == list(range(103))
    assert (seen == sorted(seen)) is not shuffle


def test_shuffling_follows_the_generator_and_differs_between_epochs():
    images, generator = numbered(50), torch.Generator().manual_seed(1)
    epochs = [torch.cat(list(images.batches(8, generator, shuffle=True))) for _ in range(2)]
    again = torch.cat(list(images.batches(8, generator.manual_seed(1), shuffle=True)))
    assert torch.equal(epochs[0], again)
    assert not torch.equal(epochs[0], epochs[1])


@pytest.mark.parametrize("index", [[4, 1], torch.tensor([4, 1]), np.array([4, 1])])
def test_batch_by_index_keeps_the_order(index):
    assert (numbered(5).batch(index).flatten() * 255).tolist() == [4, 1]


def test_batch_of_floats_is_a_copy():
    images = Images(torch.rand(3, 1, 2, 2))
    images.batch(EVERYTHING).zero_()
    assert images.pixels.all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda():
    level = torch.arange(256, dtype=torch.uint8)
    images = Images(level.view(256, 1, 1, 1), binarize="dynamic").to("cuda")
    generator = torch.Generator("cuda").manual_seed(0)
    draws = torch.stack([images.batch(EVERYTHING, generator).flatten() for _ in range(20_000)])
    assert draws.device.type == "cuda"
    assert not draws[:, 0].any()
    assert draws[:, 255].all()
    assert chi_square(draws[:, 1:255].cpu(), level[1:255].double() / 255) < 254 + 5 * 22.5
    on_cpu = images.to("cpu").batch([9, 200], torch.Generator().manual_seed(7))
    assert torch.equal(images.batch([9, 200], torch.Generator().manual_seed(7)).cpu(), on_cpu)
    assert torch.cat(list(images.batches(100, generator, shuffle=True))).shape == (256, 1, 1, 1)


# Splits


def test_split_of_many_classes_gives_each_its_share():
    labels = torch.from_numpy(
        RANDOM.permutation(np.repeat(np.arange(7), [3, 10, 21, 50, 4, 100, 9]))
    )
    images = Images(torch.zeros(len(labels), 1, 1, 1), labels)
    train, test = images.split(0.2, seed=0)
    assert len(test) == round(0.2 * len(labels))
    assert (test.labels.bincount(minlength=7) - 0.2 * labels.bincount()).abs().max() < 1
    assert torch.equal(test.labels.bincount() + train.labels.bincount(), labels.bincount())
    assert any(a > b for a, b in pairwise(test.labels.tolist()))  # not sorted by class


def test_two_parts_are_joined_in_order_with_labels_and_files_that_both_have():
    pixels = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1)
    labels = torch.arange(5)
    whole = Images(pixels, labels, files=tuple("abcde"))
    a, b = whole.subset(torch.tensor([3, 1])), whole.subset(torch.tensor([4]))
    both = a.joined(b)
    assert both.pixels.flatten().tolist() == both.labels.tolist() == [3, 1, 4]
    assert both.files == ("d", "b", "e")
    assert a.joined(Images(pixels)).labels is None


def test_drawn_pixels_of_floats_are_independent_of_torch_s_numbers_of_the_same_seed():
    """The draws of z in an evaluation have the same seed on a CPU."""
    pixels = torch.full((1, 20_000), 0.5)
    drawn = bernoulli(pixels, torch.Generator().manual_seed(3))[0].float()
    torch.manual_seed(3)
    for noise in (torch.rand(20_000), torch.randn(20_000)):
        assert torch.corrcoef(torch.stack([drawn, noise]))[0, 1].abs() < 0.03

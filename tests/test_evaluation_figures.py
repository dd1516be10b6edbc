"""The pictures show the numbers that they are given."""

import pytest
import torch

from pyro_vae.data.images import Images
from pyro_vae.evaluation.figures import (
    best_to_worst,
    gap_bars,
    latent_map,
    sample_curve,
    unit_bars,
)
from pyro_vae.evaluation.gaps import gaps
from pyro_vae.evaluation.importance import importance
from pyro_vae.vae import VAE


@pytest.fixture
def images():
    pixels = torch.randint(2, (30, 1, 6, 5), dtype=torch.uint8) * 255
    return Images(pixels, labels=torch.arange(30) % 3, classes=("a", "b", "c"))


def test_the_curve_s_points_are_the_estimates(images):
    vae = VAE((1, 6, 5), 2, hidden=(8,))
    result = importance(vae.model, vae.guide, images, samples=200)
    (axes,) = sample_curve({"mean-field": result}).axes
    line = axes.lines[0]
    assert line.get_xdata().tolist() == [1, 10, 100, 200]
    assert line.get_ydata()[-1] == pytest.approx(result.mean)
    assert axes.get_legend().get_texts()[0].get_text() == "mean-field"


def test_the_bars_are_the_gaps(images):
    vae = VAE((1, 6, 5), 2, hidden=(8,))
    result = gaps(vae.model, vae.guide, images, samples=50, steps=3)
    (axes,) = gap_bars({"mean-field": result, "again": result}).axes
    low, high = (
        container.patches for container in axes.containers if hasattr(container, "patches")
    )
    assert low[1].get_height() == pytest.approx(result.approximation.mean().item())
    assert high[1].get_y() == pytest.approx(low[1].get_height())
    assert high[1].get_height() == pytest.approx(result.amortization.mean().item())


def test_the_units_are_sorted():
    (axes,) = unit_bars({"z_2": torch.tensor([0.5, 3.0]), "z_1": torch.tensor([0.0, 1.0])}).axes
    assert [bar.get_height() for bar in axes.patches] == [1.0, 0.0, 3.0, 0.5]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["z_1", "z_2"]


@pytest.mark.parametrize("latent", [2, 4])
def test_the_map_has_a_colour_for_each_label(images, latent):
    vae = VAE((1, 6, 5), latent, hidden=(8,))
    (axes,) = latent_map(vae.guide, images).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b", "c"]
    assert [len(points.get_offsets()) for points in axes.collections] == [10, 10, 10]
    assert ("component 1" in axes.get_xlabel()) == (latent == 4)
    (axes,) = latent_map(vae.guide, Images(images.pixels)).axes
    assert [len(points.get_offsets()) for points in axes.collections] == [30]


def test_reconstructions_go_from_the_best_to_the_worst(images):
    vae = VAE((1, 6, 5), 2, hidden=(8,))
    (axes,) = best_to_worst(vae, images, columns=5).axes
    best, worst = (float(word) for word in axes.get_title().split() if word.lstrip("-").isdigit())
    assert best >= worst
    assert len(axes.images) == 1

"""The pictures of an evaluation show the numbers that they are given."""

import pytest
import torch

from pyro_vae.data.images import Images
from pyro_vae.errors import InputError
from pyro_vae.evaluation.annealing import annealed
from pyro_vae.evaluation.gaps import gaps
from pyro_vae.evaluation.importance import importance
from pyro_vae.report.figures import (
    best_to_worst,
    gap_bars,
    latent_map,
    sample_curve,
    traversal_grid,
    unit_bars,
)
from pyro_vae.vae import VAE


@pytest.fixture
def images():
    pixels = torch.randint(2, (30, 1, 6, 5), dtype=torch.uint8) * 255
    return Images(pixels, labels=torch.arange(30) % 3, classes=("a", "b", "c"))


def test_the_curve_s_points_are_the_estimates(images):
    vae = VAE((1, 6, 5), 2, hidden=(8,))
    result = importance(vae.model, vae.guide, images, samples=200)
    figure = sample_curve({"mean-field": result}, title="noise")
    (axes,) = figure.axes
    line = axes.lines[0]
    assert line.get_xdata().tolist() == [1, 10, 100, 200]
    assert line.get_ydata()[-1] == pytest.approx(result.mean)
    assert figure.legends[0].get_texts()[0].get_text() == "mean-field"
    title, what, bar = axes.get_title().split("\n")
    assert (title, what) == ("noise", "importance sampling, 30 images")
    assert "one standard error" in bar


def test_the_annealed_value_is_drawn_with_the_curve_of_the_same_images(images):
    vae = VAE((1, 6, 5), 2, hidden=(8,))
    result = importance(vae.model, vae.guide, images, samples=100)
    few = images.subset(torch.arange(4))
    other = annealed(vae.model, few, temperatures=3, chains=4, leapfrogs=2)
    figure = sample_curve({"mean-field": result}, other)
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert lines["annealing, the first 4 images (± one standard error)"][0] == other.mean
    same = lines["mean-field, the first 4 images"]
    assert same[-1] == pytest.approx(result.log_p[:4].mean().item())


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


def test_the_units_are_sorted_in_a_panel_for_each_layer():
    kl = {"z_2": torch.tensor([0.5, 3.0]), "z_1": torch.tensor([0.0, 1.0, 0.5])}
    one, two = unit_bars(kl).axes
    assert [bar.get_height() for bar in one.patches] == [1.0, 0.5, 0.0]
    assert [bar.get_height() for bar in two.patches] == [3.0, 0.5]
    assert (one.get_xlabel(), two.get_xlabel()) == ("unit of z_1", "unit of z_2")
    assert [tick.get_text() for tick in one.get_xticklabels()] == ["1", "2", "0"]
    assert [tick.get_text() for tick in two.get_xticklabels()] == ["1", "0"]
    assert one.get_ylim() == two.get_ylim()


@pytest.mark.parametrize("latent", [2, 4])
def test_the_map_has_a_colour_for_each_label(images, latent):
    vae = VAE((1, 6, 5), latent, hidden=(8,))
    (axes,) = latent_map(vae.guide, images).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b", "c"]
    assert [len(points.get_offsets()) for points in axes.collections] == [10, 10, 10]
    assert ("component 1" in axes.get_xlabel()) == (latent == 4)
    (axes,) = latent_map(vae.guide, Images(images.pixels)).axes
    assert [len(points.get_offsets()) for points in axes.collections] == [30]
    assert ("PCA of 4 latent units" in axes.get_title()) == (latent == 4)


def test_the_map_of_one_unit_is_a_histogram(images):
    vae = VAE((1, 6, 5), 1, hidden=(8,))
    (axes,) = latent_map(vae.guide, images).axes
    top = max(bar.get_y() + bar.get_height() for bar in axes.patches)
    assert sum(bar.get_height() for bar in axes.patches) == 30
    assert top <= 30
    assert axes.get_xlabel() == "unit 0"


def test_a_map_of_one_image_is_refused(images):
    vae = VAE((1, 6, 5), 3, hidden=(8,))
    with pytest.raises(InputError, match="PCA of at least 2 images"):
        latent_map(vae.guide, images.subset(torch.arange(1)))


def test_the_traversals_have_a_named_row_for_each_unit(images):
    vae = VAE((1, 6, 5), 3, hidden=(8,))
    before = torch.get_rng_state()
    (axes,) = traversal_grid(vae, images).axes
    assert torch.equal(torch.get_rng_state(), before)
    assert [t.get_text() for t in axes.get_yticklabels()] == ["unit 0", "unit 1", "unit 2"]
    assert "-3σ to 3σ" in axes.get_title()


def test_reconstructions_go_from_the_best_to_the_worst(images):
    vae = VAE((1, 6, 5), 2, hidden=(8,))
    (axes,) = best_to_worst(vae, images, columns=5).axes
    best, worst = (float(word) for word in axes.get_title().split() if word.lstrip("-").isdigit())
    assert best >= worst
    assert len(axes.images) == 1


def test_dynamic_images_are_shown_grey_and_binarized():
    pixels = torch.randint(256, (5, 1, 6, 5), dtype=torch.uint8)
    vae = VAE((1, 6, 5), 2, hidden=(8,))
    (axes,) = best_to_worst(vae, Images(pixels, binarize="dynamic")).axes
    assert axes.get_title().endswith("grey images, binarized pixels, reconstructions")
    height, width, _ = axes.images[0].get_array().shape
    assert height / 3 == pytest.approx(width / 5 * 6 / 5, rel=0.05)  # 3 rows of 5 images

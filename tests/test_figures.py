"""Grids of images and curves of a training show what the model and the history contain."""

from dataclasses import replace

import numpy as np
import pyro
import pytest
import torch
from PIL import Image

from pyro_vae import VAE, InputError
from pyro_vae.data.images import Images
from pyro_vae.figures import (
    grid,
    kl_curves,
    latent_names,
    pairs,
    save_grid,
    save_reconstructions,
    stack_rows,
    training_curves,
    vary,
)
from pyro_vae.history import Epoch


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return VAE((1, 6, 5), (4, 3, 2), guide="ladder", hidden=(8,)).double()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_row_varies_one_layer_under_one_draw_of_those_above(vae, place):
    names = ["z_3", "z_2", "z_1"]
    site, seen = names[place], {}
    vae.model.likelihood.register_forward_pre_hook(lambda _, z: seen.update(x=z[0]))
    conditional = vae.model.prior.conditional
    values = {}

    def watched(above):
        p = conditional(above)
        values[names[len(above)]] = (p, list(above))
        return p

    vae.model.prior.conditional = watched
    images = vary(vae, site, rows=3, columns=4)
    assert images.shape == (12, 1, 6, 5)
    z = dict(zip(reversed(names), [seen["x"], *values["z_1"][1]], strict=True))
    for name in names[:place]:  # above: one draw for each row
        rows = z[name].view(3, 4, -1)
        assert torch.equal(rows, rows[:, :1].expand_as(rows))
        assert len(rows[:, 0].unique(dim=0)) == 3
    assert len(z[site].unique(dim=0)) == 12
    for name in names[place + 1 :]:  # below: the mean of what the layers above say
        torch.testing.assert_close(z[name], values[name][0].mean)
    torch.testing.assert_close(images, vae.model.likelihood(seen["x"]).mean)


def test_the_top_layer_is_drawn_from_its_prior(vae):
    """Every image of the top layer's picture has a draw of its own: their mean is the prior's."""
    seen = {}
    vae.model.likelihood.register_forward_pre_hook(lambda _, z: seen.update(z=z[0]))
    torch.manual_seed(1)
    vary(vae, "z_3", rows=100, columns=40)
    with torch.no_grad(), pyro.plate("data", 4000):
        top = torch.randn(4000, 2).double()
        middle = vae.model.prior.conditional([top]).mean
        expected = vae.model.prior.conditional([middle, top]).mean
    error = (seen["z"].var(0) / 4000 + expected.var(0) / 4000).sqrt()
    assert ((seen["z"].mean(0) - expected.mean(0)).abs() < 5 * error).all()


def test_a_layer_that_is_not_there_is_refused(vae):
    with pytest.raises(InputError, match="site 'z_4'; the latent sites are z_3, z_2, z_1"):
        vary(vae, "z_4")
    with pytest.raises(InputError, match="no latent site 'x'; the latent sites are z"):
        vary(VAE((1, 6, 5), 2, hidden=(8,)), "x")


def epoch(number, units):
    sites = {name: sum(kl) for name, kl in units.items()}
    return Epoch(number, 0, 0, 0, 0, 0, 0, sites, units)


def test_the_curves_are_the_history_and_the_units_are_sorted_by_their_end():
    history = [
        epoch(1, {"z_2": [0.5, 1.0], "z_1": [0.0, 0.0, 3.0]}),
        epoch(2, {"z_2": [2.0, 0.25], "z_1": [0.5, -0.1, 1.0]}),
    ]
    curves, one, two, _ = kl_curves(history).axes
    drawn = {line.get_label(): line.get_ydata().tolist() for line in curves.lines}
    assert drawn == {"z_1": [3.0, 1.4], "z_2": [1.5, 2.25]}
    assert one.images[0].get_array().tolist() == [[3.0, 1.0], [0.0, 0.5], [0.0, 0.0]]
    assert two.images[0].get_array().tolist() == [[0.5, 2.0], [1.0, 0.25]]
    assert [text.get_text() for text in one.get_yticklabels()] == ["2", "0", "1"]
    assert [axes.get_title() for axes in (one, two)] == ["z_1: 3 units", "z_2: 2 units"]


def test_a_layer_of_many_units_names_at_most_twenty():
    (_, axes, _) = kl_curves([epoch(1, {"z": list(range(50))})]).axes
    assert [text.get_text() for text in axes.get_yticklabels()][:3] == ["49", "46", "43"]
    assert len(axes.get_yticklabels()) <= 20


def test_images_of_few_pixels_are_apart():
    for side, gap in ((3, 6), (8, 2), (28, 2)):
        picture = grid(torch.zeros(2, 1, side, side), 2)[0]
        line = picture[picture.shape[0] // 2]
        assert (line == 0.5).sum() == 3 * gap


def test_units_without_a_kl_of_their_own_are_refused():
    with pytest.raises(InputError, match="units of these latents are dependent"):
        kl_curves([Epoch(1, 0, 0, 0, 0, 0, 0)])


def numbered(n):
    """``n`` images of 2 x 2 pixels with different grey levels."""
    return torch.linspace(0, 0.4, n)[:, None, None, None].expand(n, 1, 2, 2)


def test_originals_are_above_their_reconstructions_for_any_number():
    x = numbered(5)
    for columns, blank in ((12, 7), (5, 0), (3, 1)):
        rows = pairs(x, 1 - x, columns).view(-1, 2, columns, 1, 2, 2)
        above, below = (rows[:, i].flatten(0, 1) for i in (0, 1))
        assert torch.equal(above[:5], x)
        assert torch.equal(below[:5], 1 - x)
        assert (above[5:] == 0.5).all()
        assert len(above) == 5 + blank
    assert stack_rows(x, x, x, columns=4).shape == (24, 1, 2, 2)


def test_a_caption_is_above_the_picture(tmp_path):
    save_grid(numbered(4), tmp_path / "plain.png", columns=4)
    save_grid(numbered(4), tmp_path / "captioned.png", columns=4, caption="four images")
    plain, captioned = (
        np.asarray(Image.open(tmp_path / f"{name}.png").convert("L"))
        for name in ("plain", "captioned")
    )
    height, width = plain.shape
    assert np.array_equal(captioned[-height:, :width], plain)
    assert captioned[:-height].min() < 100  # the text


def test_a_path_may_be_a_string(tmp_path):
    save_grid(torch.rand(2, 1, 6, 5), str(tmp_path / "new" / "grid.png"))
    save_reconstructions(VAE((1, 6, 5), 2), Images(torch.rand(2, 1, 6, 5)), str(tmp_path / "r.png"))
    assert (tmp_path / "new" / "grid.png").exists()
    assert (tmp_path / "r.png").exists()


def test_reconstructions_of_dynamic_images_have_three_rows(tmp_path):
    vae = VAE((1, 6, 5), 2, hidden=(8,))
    pixels = torch.randint(256, (5, 1, 6, 5), dtype=torch.uint8)
    sizes = {}
    for binarize in ("none", "dynamic"):
        save_reconstructions(vae, Images(pixels, binarize=binarize), tmp_path / "recon.png")
        sizes[binarize] = Image.open(tmp_path / "recon.png").size
    assert sizes["none"][0] == sizes["dynamic"][0]
    assert sizes["dynamic"][1] > 1.3 * sizes["none"][1]


def of_training(number, elbo, distortion):
    return Epoch(number, -elbo, elbo, elbo, -distortion, 1.0, 1.0)


def test_one_epoch_is_drawn_as_points_at_whole_ticks():
    figure = training_curves([of_training(1, -50.0, 40.0)])
    for axes in figure.axes:
        assert all(line.get_marker() == "o" for line in axes.lines)
        assert all(tick == round(tick) for tick in axes.get_xticks())


def test_a_negative_distortion_is_not_cut_off():
    history = [of_training(i, 10.0 * i, -20.0 * i) for i in (1, 2, 3)]
    right = training_curves(history).axes[1]
    assert right.get_ylim()[0] < -60
    assert [tick for tick in right.get_xticks() if 1 <= tick <= 3] == [1, 2, 3]
    positive = [of_training(i, -10.0 / i, 20.0) for i in (1, 2, 3)]
    assert training_curves(positive).axes[1].get_ylim()[0] == 0


@pytest.mark.parametrize("apart", [0.3, -0.3])
def test_both_curves_of_the_elbo_are_inside_the_axes(apart):
    history = [
        replace(of_training(i, -20.0 + i / 50, 20.0), train_elbo=-20.0 + i / 50 + apart)
        for i in (1, 2, 3)
    ]
    left = training_curves(history).axes[0]
    low, high = left.get_ylim()
    assert all(low < y < high for line in left.lines for y in line.get_ydata())


def test_epochs_below_the_axis_are_mentioned():
    history = [of_training(i, -1000.0 if i == 1 else -20.0 + i / 10, 20.0) for i in range(1, 31)]
    left = training_curves(history).axes[0]
    assert left.get_title() == "ELBO (the first epochs are below)"


def test_the_first_name_is_the_top_layer(vae):
    assert latent_names(vae) == ["z_3", "z_2", "z_1"]


def test_a_grid_takes_arrays_and_refuses_what_is_not_images(tmp_path):
    x = np.random.RandomState(0).rand(4, 1, 6, 5).astype(np.float32)
    save_grid(x, tmp_path / "a.png")
    save_grid(torch.from_numpy(x), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    save_grid(x[0], tmp_path / "one.png")
    save_grid(x[:1], tmp_path / "batch.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "batch.png").read_bytes()
    for wrong in (x[0, 0], x.repeat(2, 1), [1.0]):
        with pytest.raises(InputError, match=r"one \[C, H, W\], of 1 or 3 channels, not a"):
            save_grid(wrong, tmp_path / "c.png")

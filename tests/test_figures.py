"""Pictures of layers: what they show is what the model and the history say."""

import pyro
import pytest
import torch

from pyro_vae import VAE, InputError
from pyro_vae.figures import kl_curves, vary
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
    given = vae.model.prior.conditional
    values = {}

    def watched(above):
        p = given(above)
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


def test_units_without_a_kl_of_their_own_are_refused():
    with pytest.raises(InputError, match="units of these latents are dependent"):
        kl_curves([Epoch(1, 0, 0, 0, 0, 0, 0)])

"""What does not fit layers of latents is refused in a sentence, before anything is trained."""

import pytest
from support.deep import SIZES
from support.density import SHAPE, digits
from support.rows import WITH_CONDITION

from pyro_vae import VAE, InputError
from pyro_vae.guides import GUIDES, BottomUp, Ladder
from pyro_vae.latents import layouts
from pyro_vae.networks import MLP
from pyro_vae.priors import PRIORS


def one_vector(decoder, latent_size):
    """A likelihood of a user's that asks for the size of one latent vector."""


def flat(shape, latent_size, hidden):
    """A network of a user's that asks for the same."""


class OneLayer:
    """A network of a user's that knows of no hierarchy."""

    def __init__(self, shape, hidden):
        self.encoder, self.decoder = MLP(shape, hidden).encoder, MLP(shape, hidden).decoder


def built(guide, sizes):
    """A guide of the library's, for a VAE of other sizes."""
    network = MLP(SHAPE, (8,))
    return guide(network.encoder(), layouts(sizes), network)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent_size": ()}, r"for each layer such as \(64, 32, 16\), .*, not \(\)$"),
        ({"latent_size": (0,)}, r"a whole number above 0, .*, not \(0,\)$"),
        ({"latent_size": (3, -1)}, r"a whole number above 0, .*, not \(3, -1\)$"),
        ({"latent_size": (2.5,)}, r"a whole number above 0, .*, not \(2.5,\)$"),
        ({"latent_size": "abc"}, "a whole number above 0, .*, not 'abc'$"),
        ({"latent_size": (True, 3)}, r"a whole number above 0, .*, not \(True, 3\)$"),
        ({"latent_size": ((2, 4), 3)}, r"give one number, or channels and 2 sides$"),
        ({"guide": built(BottomUp, (4, 3, 2))}, "sites z_1, z_2, z_3, the prior has z_2, z_1; "),
        ({"guide": built(BottomUp, (4, 2))}, r"'z_2' has the shape \[2\] in the guide and \[3\]"),
        (
            {"guide": built(Ladder, (4, 3, 2))},
            r"ladder guide has the layers \[\[4\], \[3\], \[2\]\] and .* layers \[\[4\], \[3\]\]",
        ),
        (
            {"latent_size": SIZES, "guide": "mean-field"},
            r"MeanField is for one layer .* vector, not \(4, 3, 2\); take the guide bottom-up",
        ),
        (
            {"prior": "standard-normal"},
            r"prior StandardNormal is for one layer .* vector, not \(4, 3\); .* prior hierarchy$",
        ),
        (
            {"latent_size": 3, "prior": "normal"},
            "the prior NormalPrior is not a hierarchy; take the prior",
        ),
        (
            {"likelihood": one_vector},
            r"likelihood one_vector is for one layer .* vector, not \(4, 3\); take the guide",
        ),
        (
            {"network": flat},
            r"the network flat is for one layer .* vector, not \(4, 3\); take the guide bottom-up",
        ),
        ({"guide": "ladder(merge=5)"}, "merge is one of the names precision, learned, not 5"),
        ({"guide": "ladder(merge='sum')"}, "unknown merge 'sum'; there are: precision, learned"),
        ({"guide": "ladder(layer='iaf')"}, "two Normals, and layer is 'iaf'; take merge='learned'"),
        ({"guide": "bottom-up(layer=['iaf'])"}, "layer names 1 guides, and there are 2 layers"),
        (
            {"guide": "ladder(merge='learned', layer=['iaf', 'iaf', 'iaf'])"},
            "layer names 3 guides, and there are 2 layers",
        ),
        ({"guide": "bottom-up(layer='nothing')"}, "unknown guide 'nothing'; did you mean"),
        ({"latent_size": ((2, 3, 4), 3)}, "layer 1 of the latents has 3x4 places, and the image"),
        (
            {"latent_size": ((2, 4, 4), (2, 3, 3))},
            "layer 2 of the latents has 3x3 places, and layer 1 has 4x4, .* 4x4 or 2x2 or 1x1$",
        ),
        (
            {"network": OneLayer},
            r"network OneLayer makes no network between .* method between\(sources, target\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(settings, message):
    with pytest.raises(InputError, match=message) as refusal:
        VAE(SHAPE, **{"latent_size": (4, 3), "guide": "ladder", "hidden": (8,)} | settings)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "layer",
    ["joint", "categorical", "gumbel-softmax", "semi-amortized", "bottom-up", "ladder"],
)
@pytest.mark.parametrize("guide", ["bottom-up(layer={!r})", "ladder(merge='learned', layer={!r})"])
def test_a_layer_s_guide_is_one_of_a_real_vector(guide, layer):
    with pytest.raises(InputError, match=f"such as mean-field, .* not {layer!r}$"):
        VAE(SHAPE, (4, 4), guide=guide.format(layer), hidden=(8,))


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("prior", PRIORS)
def test_three_layers_fit_the_hierarchy_alone(guide, prior):
    if guide in ("bottom-up", "ladder") and prior == "hierarchy":
        vae = VAE(SHAPE, SIZES, guide=guide, prior=prior, hidden=(8,))
        assert set(vae.encode(digits(2))) == {"z_1", "z_2", "z_3"}
        return
    condition = 3 if {guide, prior} & WITH_CONDITION else None
    condition = (2,) if guide == "targeted" else condition
    message = "is for one layer of latents that is a plain vector"
    if guide in ("bottom-up", "ladder") and prior == "vamp":
        message = "the vamp prior needs a guide that gives one distribution"
    with pytest.raises(InputError, match=message):
        VAE(SHAPE, SIZES, guide=guide, prior=prior, hidden=(8,), condition=condition)


def test_a_ladder_without_a_model_says_so():
    with pytest.raises(InputError, match=r"has no model; call attach\(model\) first"):
        built(Ladder, (3, 2)).sample_sites(digits(2))

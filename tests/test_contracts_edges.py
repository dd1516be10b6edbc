"""Contracts at their edges: what a stranger tried, and what must happen."""

from __future__ import annotations

import copy
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam
from support.density import SHAPE, digits
from support.small import digit_data, weights
from torch import nn

from pyro_vae import VAE, Guide, InputError, Likelihood, Network, Prior, fit, load_data
from pyro_vae.data import DATASETS, DataSet, Images
from pyro_vae.guides import MeanField
from pyro_vae.networks import PlaceByPlace
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.objectives.terms import PerImage
from pyro_vae.registry import parse, split_specs


def vae(latent_size=3, **parts):
    return VAE(SHAPE, latent_size, **{"hidden": (8,)} | parts)


# What a constructor is handed -------------------------------------------------------------------


class Encoder(nn.Sequential):
    out_features = 7


def test_an_argument_that_a_partial_binds_is_kept():
    encoder = Encoder(nn.Flatten(-3), nn.Linear(64, 7))
    assert vae(guide=partial(MeanField, encoder=encoder)).guide.posterior.encoder is encoder


def test_a_class_that_forwards_keyword_arguments_has_those_of_its_base():
    class Sub(MeanField):
        def __init__(self, rank=1, **others):
            super().__init__(**others)
            self.rank = rank

    assert vae(guide=Sub).guide.posterior.rank == 1
    part = vae(guide=partial(Sub, rank=4, scale="softplus")).guide.posterior
    assert part.rank == 4
    assert type(part.scale).__name__ == "Softplus"


def test_a_likelihood_may_run_its_decoder_when_it_is_made_and_may_have_none():
    class Runs(Likelihood):
        outputs = 2

        def __init__(self, decoder):
            super().__init__(decoder)
            decoder(torch.zeros(1, 3)).chunk(2, -3)[1]

        def forward(self, z):
            loc, raw = self.decoder(z).chunk(2, -3)
            return dist.Normal(loc, raw.exp()).to_event(3)

    class NoDecoder(Likelihood):
        def __init__(self, latent_size):
            super().__init__()
            self.own = nn.Sequential(nn.Linear(latent_size, 64), nn.Unflatten(-1, SHAPE))

        def forward(self, z):
            return dist.Bernoulli(logits=self.own(z)).to_event(3)

    for likelihood in (Runs, NoDecoder):
        assert vae(likelihood=likelihood).sample(2).shape == (2, *SHAPE)


class Positional(Prior):
    def __init__(self, latent_size, /):
        super().__init__()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"prior": Positional}, "positional-only argument 'latent_size'"),
        ({"prior": dist.Normal(0.0, 1.0)}, "the prior is a name, .*this is a Normal"),
        ({"guide": None}, "the guide is a name, .*this is a NoneType"),
        ({"guide": ["iaf"]}, "this is a list"),
        ({"prior": lambda latent_size: None}, r"<lambda> made is a NoneType"),
        ({"network": 3, "hidden": None}, "the network int has no method encoder"),
        ({"prior": ":x"}, "is not of the form module:Class"),
        ({"prior": ".x:y"}, "is not of the form module:Class"),
        ({"guide": "mean-field(scale=3)"}, "the scale is a name, .* this is a int: 3"),
        ({"guide": "low-rank(rank=2.0)"}, "rank is a whole number between 1 and"),
        ({"latent_size": (4, 2), "guide": "bottom-up(layer=3)"}, "this is a int: 3"),
        ({"hidden": 8}, "hidden takes whole numbers above 0"),
        ({"prior": "mixture(components=2)()"}, "is not a name with options"),
        ({"prior": "mixture(components=2,components=3)"}, "is not a name with options"),
        (
            {"network": type("NoEncoder", (Network,), {"__init__": lambda s, shape, hidden: None})},
            r"the network NoEncoder has no method (en|de)coder",
        ),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_is_not_a_part_is_refused_in_one_sentence(parts, message):
    with pytest.raises(InputError, match=message) as refusal:
        vae(**parts)
    assert "\n" not in str(refusal.value)


def test_specs_are_split_at_commas_outside_all_brackets():
    specs = "bottom-up(layer=['iaf(units=2)','mean-field']),iaf"
    assert split_specs(specs) == ["bottom-up(layer=['iaf(units=2)','mean-field'])", "iaf"]
    assert parse(split_specs(specs)[0])[1] == {"layer": ["iaf(units=2)", "mean-field"]}


# What a forward gives ---------------------------------------------------------------------------


class Shaped(Likelihood):
    """A likelihood of a wrong shape: ``cut`` is applied to the logits."""

    def __init__(self, decoder, cut, event):
        super().__init__(decoder)
        self.cut, self.event = cut, event

    def forward(self, z):
        return dist.Bernoulli(logits=self.cut(self.decoder(z))).to_event(self.event)


@pytest.mark.parametrize(
    ("cut", "event"),
    [
        (lambda logits: logits, 4),
        (lambda logits: logits, 2),
        (lambda logits: logits[..., :1], 3),
        (lambda logits: logits.mean(0, keepdim=True), 3),
    ],
)
def test_a_likelihood_of_a_wrong_shape_is_refused(cut, event):
    with pytest.raises(InputError, match=r"Shaped gives a distribution of batch shape .* must be"):
        vae(likelihood=partial(Shaped, cut=cut, event=event))


@pytest.mark.parametrize("kind", ["prior", "guide", "likelihood"])
def test_a_forward_that_gives_something_else_is_refused(kind):
    base = {"prior": Prior, "guide": Guide, "likelihood": Likelihood}[kind]

    class Wrong(base):
        def __init__(self):
            nn.Module.__init__(self)

        def forward(self, *args):
            count = 2 if args else 1
            normal = torch.distributions.Normal(torch.zeros(count, 3), 1.0)
            return torch.distributions.Independent(normal, 1)

    with pytest.raises(InputError, match=r"gives a Independent of torch\.distributions; it must"):
        vae(**{kind: Wrong})


def test_a_prior_without_to_event_is_told_so():
    class Loose(Prior):
        def forward(self):
            return dist.Normal(torch.zeros(3), 1.0)

    with pytest.raises(InputError, match=r"event shape \[\]; z is one vector, \[Z\]: call .to_ev"):
        vae(prior=Loose)


@pytest.mark.parametrize("wrong", [lambda loss: loss[..., None], lambda loss: loss.mean()])
def test_losses_of_a_wrong_shape_are_refused(wrong):
    class Wrong(PerImage):
        def loss_per_image(self, terms):
            return wrong(super().loss_per_image(terms))

    module = vae()
    with pytest.raises(InputError, match=r"loss_per_image of Wrong gives .* for each image, \[4\]"):
        Wrong().loss(module.model, module.guide, digits(4))


def test_a_guide_of_a_smaller_support_fits_at_every_seed():
    """E_q[log p(x, z) - log q(z)] is a bound for it; a guide on a simplex is on another measure."""

    class Positive(MeanField):
        def forward(self, x):
            loc, _ = self.head(self.encoder(x)).chunk(2, -1)
            return dist.Gamma(loc.exp(), torch.ones_like(loc)).to_event(1)

    for seed in range(12):
        torch.manual_seed(seed)
        vae(guide=Positive)
        with pytest.raises(InputError, match="outside the support"):
            vae(guide="gumbel-softmax", prior="standard-normal")


def test_code_of_a_part_that_fails_is_named():
    class Fails(MeanField):
        def forward(self, x):
            return super().forward(x[:, :, :2])

    with pytest.raises(
        InputError, match="a trial run of Fails on two images failed with a Runtime"
    ):
        vae(guide=Fails)


# Names that torch keeps elsewhere ---------------------------------------------------------------


def test_a_buffer_with_a_name_of_the_contract_is_refused():
    class Buffer(nn.Module):
        def __init__(self, decoder):
            super().__init__()
            self.decoder = decoder
            self.register_buffer("outputs", torch.tensor(2))

        def forward(self, z):
            return dist.Bernoulli(logits=self.decoder(z)).to_event(3)

    with pytest.raises(InputError, match="Buffer has 'outputs', which belongs to the contract"):
        vae(likelihood=Buffer)


def test_the_layout_of_any_encoder_is_read():
    class Spatial(Network):
        def __init__(self, shape, hidden):
            pass

        def encoder(self):
            encoder = nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nn.Flatten(-3))
            encoder.out_features, encoder.out_layout = 32, (2, 4, 4)
            return encoder

        def decoder(self, latent_size, outputs=1):
            return nn.Sequential(nn.Linear(latent_size, 64), nn.Unflatten(-1, SHAPE))

    assert isinstance(vae(16, network=Spatial).guide.posterior.head, PlaceByPlace)


# Weights of one's own ---------------------------------------------------------------------------


class WithPyroParam(PyroModule):
    def __init__(self, latent_size):
        super().__init__()
        self.loc = PyroParam(torch.zeros(latent_size))

    def forward(self):
        return dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1)


def test_a_pyro_module_has_its_own_weights_in_each_vae():
    one, two, data = vae(prior=WithPyroParam), vae(prior=WithPyroParam), digit_data()
    fit(one, data, epochs=1, batch_size=8)
    kept = weights(one)
    fit(two, data, epochs=1, batch_size=8)
    assert all(torch.equal(p, kept[n]) for n, p in one.named_parameters())
    assert one.model.prior.loc_unconstrained is not two.model.prior.loc_unconstrained
    assert (two.model.prior.loc_unconstrained != 0).all()
    twin = copy.deepcopy(one)
    with torch.no_grad():
        twin.model.prior.loc_unconstrained.fill_(3.0)
    twin.sample(1)
    assert (twin.model.prior.loc_unconstrained == 3).all()
    assert torch.equal(one.model.prior.loc_unconstrained, kept["model.prior.loc_unconstrained"])


def test_a_parameter_that_belongs_to_no_module_is_refused_by_fit():
    class Loose(Likelihood):
        def forward(self, z):
            shift = pyro.param("shift", torch.zeros(1))
            return dist.Bernoulli(logits=self.decoder(z) + shift).to_event(3)

    with pytest.raises(InputError, match=r"the parameter 'shift' of pyro\.param belongs to no mod"):
        fit(vae(likelihood=Loose), digit_data(), epochs=1)


@pytest.mark.parametrize("guide", ["semi-amortized", "ladder"])
def test_a_guide_that_uses_its_model_serves_one_vae(guide):
    one = vae(guide=guide)
    with pytest.raises(InputError, match="belongs to another VAE already"):
        vae(guide=one.guide.posterior, prior=one.config["prior"])


# Sites that only the guide has ------------------------------------------------------------------


def test_a_guide_may_have_auxiliary_and_deterministic_sites():
    class Auxiliary(MeanField):
        def sample_sites(self, x, given=None):
            q = self(x)
            u = pyro.sample("u", q, infer={"is_auxiliary": True})
            pyro.deterministic("m", 2 * u)
            return pyro.sample("z", dist.Normal(u, 1.0).to_event(1))

    module, x = vae(guide=Auxiliary), digits(4)
    assert OBJECTIVES["monte-carlo"]().loss_and_grads(module.model, module.guide, x) > 0
    assert OBJECTIVES["iwae"]().loss_and_grads(module.model, module.guide, x) > 0


# Data sets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda n, f: Images(torch.zeros(4, 1, 4, 4)), "must give two Images"),
        (
            lambda n, f: (Images(torch.zeros(4, 1, 8, 8)), Images(torch.zeros(4, 1, 4, 4))),
            r"pixels of shape \[4, 1, 4, 4\]; training and test pixels are",
        ),
        (lambda n, f: (Images(torch.zeros(4, 8, 8)),) * 2, r"gives pixels of shape \[4, 8, 8\];"),
        (lambda n, f: Images([[0.0]]), r"pixels are a tensor \[N, \*shape\], not a list"),
        (
            lambda n, f: Images(torch.zeros(4, 1, 8, 8), torch.zeros(3)),
            r"labels are a tensor \[4\]",
        ),
        (
            lambda n, f: (Images(torch.zeros(4, 1, 8, 8), torch.arange(4), ("a", "b")),) * 2,
            "a label of the data set 'mine' is 3, and there are 2 classes",
        ),
    ],
)
def test_a_data_set_that_is_not_what_its_row_says_is_refused(read, message, monkeypatch):
    monkeypatch.setitem(DATASETS, "mine", DataSet("mine", (1, 8, 8), (4, 4), 2, read, True))
    with pytest.raises(InputError, match=message):
        load_data("mine")

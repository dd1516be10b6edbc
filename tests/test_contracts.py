"""What a stranger's part may be: a plain module, a function, a partial, a class of the contract."""

from __future__ import annotations

import copy
import inspect
from functools import partial
from typing import get_type_hints

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from support.density import SHAPE, digits
from support.small import weights
from torch import nn

from pyro_vae import VAE, Guide, InputError, Likelihood, Objective, Prior, fit, loop, training
from pyro_vae.compiling import CompiledSVI
from pyro_vae.contracts import Borrowed
from pyro_vae.data import Data, Images
from pyro_vae.guides import Ladder, MeanField
from pyro_vae.likelihoods import NormalPerPixel
from pyro_vae.networks import MLP, features
from pyro_vae.settings import TRAINING, Settings, TrainingArguments, TrainingOptions


def learns(vae, x, steps=40):
    """SVI lowers the loss and moves every weight."""
    before = weights(vae)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO())
    losses = [svi.step(x) for _ in range(steps)]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert all(not torch.equal(p, before[n]) for n, p in vae.named_parameters())


# Plain modules ---------------------------------------------------------------------------------


class PlainLikelihood(nn.Module):
    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, z):
        return dist.Bernoulli(logits=self.decoder(z)).to_event(3)


class PlainPrior(nn.Module):
    def __init__(self, latent_size):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(latent_size))

    def forward(self):
        return dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1)


class PlainGuide(nn.Module):
    def __init__(self, encoder, latent_size):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(features(encoder), latent_size)

    def forward(self, x):
        loc = self.head(self.encoder(x))
        return dist.Normal(loc, torch.ones_like(loc)).to_event(1)


class PlainNetwork:
    def __init__(self, shape):
        self.mlp = MLP(shape, (8,))

    def encoder(self):
        return self.mlp.encoder()

    def decoder(self, latent_size, outputs):
        return self.mlp.decoder(latent_size, outputs)


PLAIN = {
    "likelihood": PlainLikelihood,
    "prior": PlainPrior,
    "guide": PlainGuide,
    "network": PlainNetwork,
}


@pytest.mark.parametrize("kinds", [[kind] for kind in PLAIN] + [list(PLAIN)], ids="+".join)
def test_a_plain_module_works_by_its_forward_alone(kinds):
    vae = VAE(SHAPE, 3, **{kind: PLAIN[kind] for kind in kinds})
    x = digits(8)
    learns(vae, x)
    assert vae.sample(2).shape == (2, *SHAPE)
    assert vae.reconstruct(x).shape == x.shape
    twin = copy.deepcopy(vae)
    assert twin.state_dict().keys() == vae.state_dict().keys()
    assert not any("part." in key or "forward" in key for key in vae.state_dict())


def test_a_plain_module_that_offers_more_than_forward_is_told_to_derive():
    class Outputs(PlainLikelihood):
        outputs = 2

    class Sites(PlainPrior):
        def sample_sites(self):
            return None

    class Attached(PlainGuide):
        def attach(self, model):
            self.model = model

    for kind, part in (("likelihood", Outputs), ("prior", Sites), ("guide", Attached)):
        with pytest.raises(InputError, match=rf"belongs to the contract {kind.capitalize()}; der"):
            VAE(SHAPE, 3, **{kind: part})


def test_a_plain_module_that_samples_its_own_sites_is_told_what_to_do():
    class Samples(PlainPrior):
        def forward(self):
            return pyro.sample("z", super().forward())

    with pytest.raises(
        InputError, match=r"the forward of Samples gives a Tensor of torch; .*sample_sites"
    ):
        VAE(SHAPE, 3, prior=Samples)


def test_pictures_do_not_draw_x():
    """Some distributions have no draws on some devices, such as a Beta on torch's "meta"."""

    class Undrawable(dist.Normal):
        def rsample(self, *args):
            raise AssertionError("x was drawn")

        sample = rsample

    class NoDraws(Likelihood):
        def forward(self, z):
            loc = self.decoder(z)
            return Undrawable(loc, torch.ones_like(loc)).to_event(3)

    vae = VAE(SHAPE, 3, likelihood=NoDraws, hidden=(8,))
    assert vae.sample(2).shape == (2, *SHAPE)
    assert vae.reconstruct(digits(2)).shape == (2, *SHAPE)


# Factories -------------------------------------------------------------------------------------


def per_pixel(decoder):
    return NormalPerPixel(decoder, floor=0.1)


def softplus_guide(encoder, latent_size):
    return MeanField(encoder, latent_size, scale="softplus")


@pytest.mark.parametrize("likelihood", [per_pixel, partial(NormalPerPixel, floor=0.1)])
def test_a_likelihood_made_by_a_function_has_the_outputs_that_it_needs(likelihood):
    vae = VAE(SHAPE, 3, likelihood=likelihood, hidden=(8,))
    assert vae.model.likelihood.floor == 0.1
    torch.manual_seed(0)
    same = VAE(SHAPE, 3, likelihood="normal-per-pixel(floor=0.1)", hidden=(8,))
    torch.manual_seed(0)
    again = VAE(SHAPE, 3, likelihood=likelihood, hidden=(8,))
    for a, b in zip(same.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_partial_and_a_function_are_guides():
    vae = VAE(SHAPE, (4, 3), guide=partial(Ladder, merge="learned"), hidden=(8,))
    assert set(vae.encode(digits(2))) == {"z_1", "z_2"}
    assert type(VAE(SHAPE, 3, guide=softplus_guide).guide.posterior.scale).__name__ == "Softplus"
    with pytest.raises(InputError, match=r"the guide softplus_guide is for one layer of latents"):
        VAE(SHAPE, (4, 3), guide=softplus_guide)


@pytest.mark.parametrize("guide", ["bottom-up(layer={!r})", "ladder(merge='learned', layer={!r})"])
def test_a_layer_s_guide_may_have_options(guide):
    spec = guide.format("mean-field(scale='softplus')")
    one, two = VAE(SHAPE, (4, 3), guide=spec, hidden=(8,)).guide.posterior.posteriors
    assert type(one.scale).__name__ == type(two.scale).__name__ == "Softplus"


def test_sizes_that_are_given_twice_are_refused():
    with pytest.raises(InputError, match=r"hidden=\[8\] and the network .* both set the layer si"):
        VAE(SHAPE, 3, network="mlp(hidden=(4,))", hidden=(8,))


# Schedules -------------------------------------------------------------------------------------


class Own(Trace_ELBO, Objective):
    """An objective of a user's own that overrides ``advance``, as its docstring invites."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def advance(self, epoch):
        self.epochs.append(epoch)


def tiny_data(count=40):
    pixels = (digits(count)[:, :, ::2, ::2] * 255).to(torch.uint8)
    train, test = Images(pixels).split(0.2, seed=0)
    return Data("tiny", train, test)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_schedule_of_one_s_own_moves_at_each_step_compiled_or_not(compiled, monkeypatch):
    monkeypatch.setattr(loop, "CompiledSVI", partial(CompiledSVI, backend="eager"))
    data, objective = tiny_data(), Own()
    vae = VAE(data.shape, 2, hidden=(8,))
    fit(vae, data, objective=objective, epochs=2, batch_size=4, compiled=compiled)
    assert objective.epochs == pytest.approx([0.0, *(i / 8 for i in range(16))])


@pytest.mark.parametrize("spec", ["beta", "free-bits", "monte-carlo", "analytic"])
def test_a_constant_objective_takes_many_steps_in_one_call(spec, monkeypatch):
    calls = []

    class Counted(CompiledSVI):
        def epoch(self, data, batches, *args):
            calls.append(len(batches))
            return super().epoch(data, batches, *args)

    monkeypatch.setattr(loop, "CompiledSVI", partial(Counted, backend="eager"))
    data = tiny_data()
    vae = VAE(data.shape, 2, hidden=(8,))
    fit(vae, data, objective=spec, epochs=1, batch_size=4, compiled=True)
    assert calls == [8]


def test_an_elbo_with_a_schedule_that_would_be_ignored_is_refused():
    class Foreign(Trace_ELBO):
        def advance(self, epoch):
            pass

    data = tiny_data()
    with pytest.raises(InputError, match=r"Foreign has 'advance'.* derive .* pyro_vae\.Objective"):
        fit(VAE(data.shape, 2, hidden=(8,)), data, objective=Foreign(), epochs=1)


# One default for one word ----------------------------------------------------------------------


def test_python_and_the_command_line_have_the_same_defaults():
    assert Settings.epochs == TrainingOptions().epochs
    assert get_type_hints(TrainingArguments).keys() == get_type_hints(TrainingOptions).keys()
    assert tuple(get_type_hints(TrainingOptions)) == TRAINING
    parts = inspect.signature(VAE).parameters
    for name in ("prior", "guide", "network", "hidden"):
        assert parts[name].default == getattr(Settings, name)
    assert parts["latent_size"].default == Settings.latent


def test_fit_takes_the_objective_that_fits_the_guide(monkeypatch):
    built = []
    table = training.OBJECTIVES

    class Watched(dict):
        def build(self, spec, **handed):
            built.append(spec)
            return table.build(spec, **handed)

    monkeypatch.setattr(training, "OBJECTIVES", Watched())
    data = tiny_data()
    fit(VAE(data.shape, 4, guide="categorical", hidden=(8,)), data, epochs=1)
    fit(VAE(data.shape, 4, hidden=(8,)), data, epochs=1)
    assert built == ["enumerate", "monte-carlo"]


# Small helpers ---------------------------------------------------------------------------------


def test_a_borrowed_module_is_neither_registered_nor_saved_and_is_copied_with_its_owner():
    class Owner(nn.Module):
        def __init__(self):
            super().__init__()
            self.own = nn.Linear(2, 2)
            self.other = Borrowed(self.own)

    owner = Owner()
    assert len(list(owner.parameters())) == 2
    twin = copy.deepcopy(owner)
    assert twin.other.module is twin.own


@pytest.mark.parametrize("contract", [Prior, Guide, Likelihood])
def test_a_part_without_forward_says_so(contract):
    part = contract(nn.Identity()) if contract is Likelihood else contract()
    with pytest.raises(NotImplementedError, match=f"{contract.__name__} has no forward"):
        part() if contract is Prior else part(torch.zeros(1))

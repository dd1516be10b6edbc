"""Objectives with a weight, a schedule, a capacity or a floor."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from support.exact import LinearGaussian, LinearMeanField
from support.objectives import (
    close,
    gradients,
)
from torch.distributions import kl_divergence

from pyro_vae.errors import InputError
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.vae import VAE


def weight(made):
    (level,) = made.levels.values()
    return level.item()


def test_annealing_rises_linearly_then_stays_constant():
    made = OBJECTIVES["annealed"](epochs=4, start=0.2, beta=1.0)
    seen = []
    for epoch in (0, 1, 2, 4, 9):
        made.advance(epoch)
        seen.append(round(weight(made), 12))
    assert seen == [0.2, 0.4, 0.6, 1.0, 1.0]


def test_cyclical_annealing_starts_again():
    made = OBJECTIVES["cyclical"](epochs=4, ratio=0.5, beta=2.0)
    seen = []
    for epoch in (0, 1, 2, 3.5, 4, 5, 7):
        made.advance(epoch)
        seen.append(weight(made))
    assert seen == [0, 1, 2, 2, 0, 1, 2]


def test_a_schedule_changes_its_number_in_place(exact):
    x, vae = exact.images(7), exact.vae(LinearMeanField(exact, shift=0.3))
    made = OBJECTIVES["annealed"](epochs=4, kl="analytic")
    losses = []
    for epoch in (0, 2, 4):
        made.advance(epoch)
        if epoch == 2:
            kept = made.levels[""].data_ptr()
        pyro.set_rng_seed(0)
        losses.append(made.loss(vae.model, vae.guide, x))
    assert made.levels[""].data_ptr() == kept
    kl = kl_divergence(vae.encode(x), vae.model.prior()).sum().item()
    close(losses[1] - losses[0], kl / 2)
    close(losses[2] - losses[0], kl)


@pytest.mark.parametrize("spec", ["annealed", "cyclical", "capacity"])
def test_a_schedule_without_advance_is_refused(spec, exact):
    made = OBJECTIVES.build(spec)
    vae = exact.vae()
    with pytest.raises(InputError, match=r"call its advance\(epoch\)"):
        made.loss(vae.model, vae.guide, exact.images(2))


def test_capacity_rises_and_counts_for_each_site():
    exact = LinearGaussian(5, (2, 3))
    x, vae = exact.images(7), exact.vae()
    made = OBJECTIVES["capacity"](nats={"z_1": 4, "z_2": 1}, gamma=10, epochs=8)
    made.advance(2)
    pyro.set_rng_seed(0)
    loss = made.differentiable_loss(vae.model, vae.guide, x).item()
    pyro.set_rng_seed(0)
    ((p, q),) = Trace_ELBO()._get_traces(vae.model, vae.guide, (x,), {})
    kl = {n: (q.nodes[n]["log_prob"] - p.nodes[n]["log_prob"]).mean() for n in ("z_1", "z_2")}
    held = 10 * ((kl["z_1"] - 1).abs() + (kl["z_2"] - 0.25).abs())
    close(loss, (7 * held - p.nodes["x"]["log_prob"].sum()).item())


@pytest.mark.parametrize("size", [1, 2, 4])
def test_free_bits_with_groups_of_units(size):
    vae = VAE((1, 4, 4), 4, hidden=(8,)).double()
    x = torch.rand(6, 1, 4, 4, dtype=torch.float64).round()
    q = vae.encode(x).base_dist
    units = (0.5 * (q.loc**2 + q.scale**2 - 1) - q.scale.log()).mean(0)  # [Z]
    groups = units.reshape(-1, size).sum(-1)
    floor = groups.mean().item()  # some groups below, some above
    made = OBJECTIVES["free-bits"](nats=floor, group_size=size, kl="analytic")
    pyro.set_rng_seed(0)
    loss = made.differentiable_loss(vae.model, vae.guide, x)
    plain = OBJECTIVES["analytic"]()
    pyro.set_rng_seed(0)
    gained = loss - plain.differentiable_loss(vae.model, vae.guide, x)
    close(gained.item(), 6 * (groups.clamp(min=floor) - groups).sum().item())
    # Below the floor, only the likelihood has a gradient in q.
    high = OBJECTIVES["free-bits"](nats=1e6, group_size=size, kl="analytic")
    pyro.set_rng_seed(0)
    held = gradients(high.differentiable_loss(vae.model, vae.guide, x), vae.guide)
    nothing = OBJECTIVES["beta"](beta=0, kl="analytic")
    pyro.set_rng_seed(0)
    close(held, gradients(nothing.differentiable_loss(vae.model, vae.guide, x), vae.guide))


def test_free_bits_of_whole_sites_by_name():
    exact = LinearGaussian(5, (2, 3))
    x, vae = exact.images(7), exact.vae()
    pyro.set_rng_seed(0)
    ((p, q),) = Trace_ELBO()._get_traces(vae.model, vae.guide, (x,), {})
    kl = {n: (q.nodes[n]["log_prob"] - p.nodes[n]["log_prob"]).mean() for n in ("z_1", "z_2")}
    made = OBJECTIVES["free-bits"](nats={"z_1": 0.0, "z_2": 50.0})
    pyro.set_rng_seed(0)
    loss = made.loss(vae.model, vae.guide, x)
    close(loss, (7 * (max(kl["z_1"], 0) + 50.0) - p.nodes["x"]["log_prob"].sum()).item())


def test_beta_by_site():
    exact = LinearGaussian(5, (2, 3))
    x, vae = exact.images(7), exact.vae()
    pyro.set_rng_seed(0)
    ((p, q),) = Trace_ELBO()._get_traces(vae.model, vae.guide, (x,), {})
    kl = {n: (q.nodes[n]["log_prob"] - p.nodes[n]["log_prob"]).sum() for n in ("z_1", "z_2")}
    pyro.set_rng_seed(0)
    loss = OBJECTIVES["beta"](beta={"z_1": 0.5, "z_2": 3}).loss(vae.model, vae.guide, x)
    close(loss, (0.5 * kl["z_1"] + 3 * kl["z_2"] - p.nodes["x"]["log_prob"].sum()).item())

"""VAEs of several layers, and what is looked at in them."""

from __future__ import annotations

import pyro
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO

from pyro_vae import VAE
from pyro_vae.latents import is_latent
from support.density import SHAPE

SIZES = (4, 3, 2)
LAYERED = ["bottom-up", "ladder", "ladder(merge='learned')"]
SKIPS = ["hierarchy", "hierarchy(skip=True)"]


def deep(guide="ladder", sizes=SIZES, **settings) -> VAE:
    """A VAE in float64 whose weights are far from where they start."""
    vae = VAE(
        **{"shape": SHAPE, "latent_size": sizes, "guide": guide, "hidden": (16,), **settings}
    ).double()
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return vae


def drawn(program, *args, **kwargs) -> dict:
    """The latents of one run of a program, by site."""
    nodes = poutine.trace(program).get_trace(*args, **kwargs).nodes
    return {n: s["value"].detach() for n, s in nodes.items() if is_latent(s) and n != "x"}


def close(a, b, tolerance=1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def learns(vae, x, steps=30):
    """Some steps of SVI lower the loss and move every weight."""
    before = {n: p.detach().clone() for n, p in vae.named_parameters()}
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO())
    losses = [svi.step(x) / len(x) for _ in range(steps)]
    assert sum(losses[-5:]) < sum(losses[:5]) - 10
    assert all(not torch.equal(p, before[n]) for n, p in vae.named_parameters())

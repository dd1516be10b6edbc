"""Latents that all rows share, and batches that hold some of the rows."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal

from pyro_vae import fit

N, SCALE = 640, 1.0


def regression(subsampled):
    def model(x, y):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        plate = pyro.plate("rows", N, subsample_size=len(x)) if subsampled else None
        with plate or pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(x @ w, SCALE), obs=y)

    return model


@pytest.fixture(scope="module")
def rows():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 2, generator=generator)
    return x, x @ torch.tensor([1.0, -2.0]) + torch.randn(N, generator=generator)


def posterior_scale(x):
    """σ of the best mean-field Normal: 1/√ of the diagonal of the posterior's precision."""
    precision = torch.eye(2) + x.T @ x / SCALE**2
    return precision.diagonal().rsqrt()


def test_batches_that_each_count_the_whole_kl_are_told(rows):
    with pytest.warns(
        UserWarning, match=r"share the latent 'w', .* 5 times in an epoch.* 640, sub"
    ):
        fit(model := regression(False), AutoNormal(model), rows, epochs=1, progress=False)


@pytest.mark.parametrize("subsampled", [True, False])
def test_the_remedies_are_not_told_and_give_the_posterior(rows, subsampled):
    pyro.set_rng_seed(0)
    model = regression(subsampled)
    guide = AutoNormal(model, init_scale=0.05)
    size = {} if subsampled else {"batch_size": N}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = fit(
            model, guide, rows, epochs=150 if subsampled else 500, lr=0.02, schedule="cosine",
            validation=rows, progress=False, **size,
        )  # fmt: skip
    scale = guide.scales.w.detach()
    # A KL that counts five times makes σ 2.2 times as large.
    assert scale.tolist() == pytest.approx(posterior_scale(rows[0]).tolist(), rel=0.3)
    # The numbers are in nats per row, as those of Pyro's loss on all rows.
    whole = Trace_ELBO(num_particles=50).loss(regression(False), guide, *rows) / N
    assert history[-1].loss == pytest.approx(whole, rel=0.03)
    assert history[-1].measured_loss == pytest.approx(whole, rel=0.03)


def test_a_kl_that_is_scaled_by_hand_is_not_told(rows):
    def model(x, y):
        with pyro.poutine.scale(scale=len(x) / N):
            w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(x @ w, SCALE), obs=y)

    def guide(x, y):
        loc = pyro.param("loc", torch.zeros(2))
        with pyro.poutine.scale(scale=len(x) / N):
            pyro.sample("w", dist.Normal(loc, 0.1).to_event(1))

    pyro.clear_param_store()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = fit(model, guide, rows, epochs=1, progress=False)
    assert math.isfinite(history[-1].loss)


def test_a_plain_module_can_be_made_and_trained_again(rows):
    """As in a cell of a notebook that runs twice: each module has a name of its own."""

    class Guide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = torch.nn.Parameter(torch.zeros(2))

        def forward(self, x, y):
            pyro.sample("w", dist.Normal(self.loc, 0.1).to_event(1))

    model = regression(True)
    for _ in range(2):
        guide = Guide()
        fit(model, guide, rows, epochs=1, progress=False)
        assert guide.loc.abs().sum() > 0

"""What the examples in docstrings can use without an import."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def few_digits():
    """The first digits of mnist-5k, binarised anew at each draw."""
    import dataclasses

    import torch

    from pyro_vae import load_data

    data = load_data("mnist-5k", binarize="dynamic")
    train, test = (images.subset(torch.arange(64)) for images in (data.train, data.test))
    return dataclasses.replace(data, train=train, test=test)


@pytest.fixture(autouse=True)
def names_of_examples(request):
    """Give a docstring's example its names, a folder of its own and a seed."""
    if not isinstance(request.node, pytest.DoctestItem):
        return
    import pyro
    import torch
    from pyro.infer import SVI, Trace_ELBO

    from pyro_vae import VAE, fit, load_data
    from pyro_vae.networks import MLP

    torch.set_num_threads(1)
    request.getfixturevalue("monkeypatch").chdir(request.getfixturevalue("tmp_path"))
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    data = request.getfixturevalue("few_digits")
    request.getfixturevalue("doctest_namespace").update(
        MLP=MLP,
        Path=Path,
        SVI=SVI,
        Trace_ELBO=Trace_ELBO,
        VAE=VAE,
        data=data,
        fit=fit,
        load_data=load_data,
        pyro=pyro,
        torch=torch,
        vae=VAE(data.shape, latent_size=20),
        x=data.test.batch(slice(0, 8)),
    )

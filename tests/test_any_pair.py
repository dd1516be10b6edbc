"""``fit`` and evaluation on plain Pyro programs of many kinds, against SVI and closed forms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI
from support.pairs import PAIRS, Case
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pyro_vae import fit
from pyro_vae.batch import Batch
from pyro_vae.history import Callback
from pyro_vae.modules import modules_of
from pyro_vae.noise import EPOCH, STEP, seed_noise
from pyro_vae.pair import Pair
from pyro_vae.pairing import objective_of
from pyro_vae.streams import source_of

CPU, SEED, EPOCHS = torch.device("cpu"), 5, 2


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def made(name: str) -> Case:
    """The case, always with the same data and first weights, and an empty store."""
    pyro.clear_param_store()
    pyro.set_rng_seed(11)
    return PAIRS[name]()


class Losses(Callback):
    """Keeps the loss of each step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_step(self, images, position) -> None:
        self.losses += position.losses[-1:].tolist()


def parameters(case: Case) -> dict[str, Tensor]:
    """All parameters of the programs, of Pyro's store and of modules, by name."""
    named = {f"store {k}": v.detach().clone() for k, v in pyro.get_param_store().items()}
    for i, module in enumerate(modules_of((case.model, case.guide))):
        named |= {f"{i} {k}": v.detach().clone() for k, v in module.named_parameters()}
    return named


def epoch_of(case: Case, epoch: int) -> Iterator[Batch]:
    """The batches of an epoch. For tensors, they are cut here, as the documentation says."""
    if isinstance(case.data, Dataset | DataLoader):
        source = source_of(case.data, case.batch_size, None, None)
        for piece in source.epoch(SEED, epoch, 0, 1):
            yield Batch.of(piece.batch, case.kwargs)
        return
    whole = Batch.of(case.data, case.kwargs)
    seed_noise(CPU, SEED, EPOCH, epoch)
    count = len(whole)
    order = torch.randperm(count) if case.batch_size < count else torch.arange(count)
    for rows in order.split(case.batch_size):
        yield whole.map(lambda t, rows=rows: t[rows])


def by_hand(case: Case, kind: str) -> list[float]:
    """The losses of plain SVI on the same batches, with the same random numbers.

    With ``own``, torch's Adam takes the steps: a parameter that a step does not use stays, while
    SVI moves it by the average of its gradients if the programs register it.
    """
    first = next(epoch_of(case, 1))
    args, kwargs = first.args, {**first.kwargs, **first.further}
    seed_noise(CPU, SEED, STEP, 0)  # the programs make their parameters
    q = poutine.trace(case.guide).get_trace(*args, **kwargs)
    poutine.trace(poutine.replay(case.model, trace=q)).get_trace(*args, **kwargs)
    svi = SVI(case.model, case.guide, pyro.optim.Adam({"lr": 0.03}), case.objective)
    modules = modules_of((case.model, case.guide))
    leaves = [
        *pyro.get_param_store()._params.values(),
        *(p for m in modules for p in m.parameters()),
    ]
    adam = torch.optim.Adam(list(dict.fromkeys(leaves)), lr=0.03)
    losses: list[float] = []
    steps = source_of(case.data, case.batch_size, None, None).steps or 1 << 20
    for epoch in range(EPOCHS):
        for i, batch in enumerate(epoch_of(case, epoch + 1)):
            seed_noise(CPU, SEED, STEP, epoch * steps + i)
            args, kwargs = batch.args, {**batch.kwargs, **batch.further}
            if kind == "pyro":
                losses.append(svi.step(*args, **kwargs))
                continue
            losses.append(case.objective.loss_and_grads(case.model, case.guide, *args, **kwargs))
            adam.step()
            adam.zero_grad()
    return losses


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("kind", ["pyro", "own"])
def test_a_step_of_fit_is_a_step_of_svi(name, kind):
    """To the bit with an optimizer of Pyro, and to 1e-12 with the one fused Adam of fit."""
    case, told = made(name), Losses()
    options: dict[str, Any] = {"epochs": EPOCHS, "seed": SEED, "lr": 0.03}
    if not isinstance(case.data, DataLoader):
        options["batch_size"] = case.batch_size
    optimizer = pyro.optim.Adam({"lr": 0.03}) if kind == "pyro" else None
    history = fit(
        case.model,
        case.guide,
        case.data,
        **options,
        objective=case.objective,
        kwargs=case.kwargs,
        optimizer=optimizer,
        compiled=False,
        callback=told,
    )
    ours = parameters(case)
    case = made(name)
    begin = parameters(case)
    theirs = by_hand(case, kind)
    expected = parameters(case)
    assert ours.keys() == expected.keys()
    assert any(key not in begin or not torch.equal(ours[key], begin[key]) for key in ours)
    exact = {"rtol": 0, "atol": 0} if kind == "pyro" else {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(torch.tensor(told.losses), torch.tensor(theirs), **exact)
    for key, value in ours.items():
        torch.testing.assert_close(value, expected[key], **exact, msg=key)
    assert len(history) == EPOCHS


@pytest.mark.parametrize("name", PAIRS)
def test_the_objective_that_fits_is_found(name):
    """``fit`` takes ``enumerate`` where discrete latents are to be summed out."""
    case = made(name)
    pair = Pair(case.model, case.guide)
    batch = next(epoch_of(case, 1))
    found = objective_of(pair.sites(batch))
    assert found == ("enumerate" if name in ("mixture", "semi_supervised") else "monte-carlo")

"""Data that comes in batches: its order, its random numbers, and training that goes on."""

from __future__ import annotations

import copy
import random
from functools import partial
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from support.pairs import Encode, Mean, Noisy, Stream
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from pyro_vae import InputError, fit, loop, training
from pyro_vae.batch import Batch
from pyro_vae.compiling import CompiledSVI
from pyro_vae.history import Callback, Position
from pyro_vae.noise import Randomness
from pyro_vae.sources import Source
from pyro_vae.streams import source_of

LEGACY = np.random.mtrand._rand  # the generator behind np.random.rand


class Numbered(Dataset[Any]):
    """Row i is i, with a random number of each generator."""

    def __init__(self, count: int = 23) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Tensor:
        return torch.tensor([i, torch.rand(()).item(), LEGACY.rand(), random.random()])


def rows(source: Source, epoch: int = 1, done: int = 0, seed: int = 0) -> list[Tensor]:
    return [Batch.of(p.batch).first_tensor() for p in source.epoch(seed, epoch, done, 1)]


def source(data: Any, batch_size: int = 5) -> Source:
    return source_of(data, batch_size, None, None)


def loader(workers: int = 0, **options: Any) -> DataLoader[Any]:
    return DataLoader(
        Numbered(), **{"batch_size": 5, "shuffle": True, **options}, num_workers=workers
    )


MAPS = {
    "dataset": Numbered,
    "loader": loader,
    "workers": lambda: loader(2),
    "persistent": lambda: loader(2, persistent_workers=True),
    "generator": lambda: loader(generator=torch.Generator()),
    "weighted": lambda: loader(shuffle=False, sampler=WeightedRandomSampler(torch.rand(23), 23)),
    "batch sampler": lambda: DataLoader(
        Numbered(), batch_sampler=BatchSampler(WeightedRandomSampler(torch.ones(23), 23), 5, False)
    ),
}


@pytest.mark.parametrize("kind", MAPS)
def test_an_epoch_is_a_function_of_the_seed_and_its_number(kind):
    """The rows, their order, and the random numbers that they are loaded with."""
    one, two = source(MAPS[kind]()), source(MAPS[kind]())
    if kind == "weighted":
        two = one  # the weights are drawn
    torch.rand(3), LEGACY.rand(3), random.random()
    first = torch.cat(rows(one))
    assert torch.equal(first, torch.cat(rows(two)))
    for other in (rows(one, epoch=2), rows(one, seed=1)):
        assert not torch.equal(first[:, 0], torch.cat(other)[:, 0])
        assert not torch.equal(first[:, 1:], torch.cat(other)[:, 1:])
    again = rows(one, epoch=2)
    for done in range(5):
        assert torch.equal(torch.cat(rows(one, epoch=2, done=done)), torch.cat(again[done:]))
    if "weighted" not in kind and "sampler" not in kind:
        assert sorted(first[:, 0].tolist()) == list(range(23))


def test_the_rows_do_not_depend_on_the_number_of_workers():
    expected = torch.cat(rows(source(loader(0))))
    for workers in (1, 2):
        assert torch.equal(torch.cat(rows(source(loader(workers)))), expected)


def test_loading_leaves_the_global_generators_alone():
    torch.manual_seed(1), LEGACY.seed(2), random.seed(3)
    expected = torch.rand(1).item(), LEGACY.rand(), random.random()
    torch.manual_seed(1), LEGACY.seed(2), random.seed(3)
    made = source(loader())
    rows(made), Randomness(1, 2), made.first()
    assert (torch.rand(1).item(), LEGACY.rand(), random.random()) == expected


def test_a_distributed_sampler_is_told_the_epoch():
    sampler = DistributedSampler(Numbered(), num_replicas=2, rank=1)
    made = source(loader(shuffle=False, sampler=sampler))
    assert not torch.equal(torch.cat(rows(made))[:, 0], torch.cat(rows(made, epoch=2))[:, 0])
    assert made.rows == 12


@pytest.mark.parametrize(
    ("count", "size", "sizes"), [(23, 5, [5, 5, 5, 5, 3]), (21, 5, [5, 5, 5, 6]), (4, 5, [4])]
)
def test_a_data_set_is_cut_as_data_in_memory(count, size, sizes):
    """A last row that would be alone joins the batch before it; one batch keeps the order."""
    made = source(Numbered(count), size)
    assert [len(each) for each in rows(made)] == sizes
    assert (made.rows, made.steps) == (count, len(sizes))
    if len(sizes) == 1:
        assert torch.cat(rows(made))[:, 0].tolist() == list(range(count))
    memory = source(torch.arange(count).double(), size)
    assert [p.size for p in memory.epoch(0, 1, 0, 1)] == sizes


def test_the_rows_of_a_step_are_known():
    made = source(loader())
    for piece, batch in zip(made.epoch(0, 1, 0, 1), rows(made), strict=True):
        assert piece.numbers(0) == batch[:, 0].tolist()


class Sizeless(Dataset[Any]):
    def __getitem__(self, i: int) -> Tensor:
        return torch.zeros(2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Sizeless(), "the data set Sizeless has no length"),
        (TensorDataset(torch.zeros(0, 6)), "the data has no rows"),
        (torch.zeros(0, 6), "the data has no rows"),
        ((torch.zeros(4, 6), torch.zeros(3)), "have 3 and 4 rows"),
        (DataLoader(Numbered(4), batch_size=5, drop_last=True), "the data has no rows"),
    ],
)
def test_data_that_cannot_be_read_is_refused(data, message):
    with pytest.raises(InputError, match=message):
        source(data)


def test_a_batch_size_beside_a_loader_is_refused():
    with pytest.raises(InputError, match=r"batches of 8 rows, so it does not fit batch_size=5"):
        fit(Mean(), Encode(), DataLoader(Noisy(torch.zeros(20, 6)), 8), batch_size=5)


class Halting(Callback):
    """Stops ``fit`` after some steps, and keeps where it stood."""

    def __init__(self, steps: int) -> None:
        self.steps, self.position, self.losses = steps, Position(), []

    def on_step(self, images, position):
        self.position, self.left = position, self.left - 1
        if self.left == 0:
            raise KeyboardInterrupt

    def on_epoch(self, record):
        self.position = Position(record.epoch)
        self.losses.append(record.loss)

    def train(self, *args, **options):
        while True:
            self.left = self.steps
            try:
                fit(*args, **options, start=self.position, callback=self)
            except KeyboardInterrupt:
                torch.rand(7), LEGACY.rand(7)  # what happens in between does not matter
            else:
                return


DATA = {
    "dataset": lambda: (Noisy(torch.ones(23, 6)), {"batch_size": 5}),
    "workers": lambda: (DataLoader(Noisy(torch.ones(23, 6)), 5, True, num_workers=2), {}),
    "iterable": lambda: (Stream(), {"batch_size": 8}),
    "tuple": lambda: ((torch.randn(23, 6),), {"batch_size": 5}),
}


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("compiled", [False, True])
def test_training_that_stops_anywhere_and_goes_on_ends_in_the_same_bits(
    kind, compiled, monkeypatch
):
    monkeypatch.setattr(loop, "CompiledSVI", partial(CompiledSVI, backend="eager"))
    torch.manual_seed(0)
    data, options = DATA[kind]()
    options |= {"epochs": 3, "compiled": compiled}
    start = Mean(), Encode()
    ends = []
    for steps in (10**6, 3):
        pyro.clear_param_store()
        pair = copy.deepcopy(start)
        parameters = [p for program in pair for p in program.parameters()]
        halting = Halting(steps)
        halting.train(*pair, data, **options, optimizer=torch.optim.Adam(parameters, lr=0.01))
        ends.append([*(p.detach() for p in parameters), torch.tensor(halting.losses)])
    for one, two in zip(*ends, strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(ends[0][1], next(start[0].parameters()))


@pytest.mark.parametrize("kind", [*DATA, "pair"])
def test_compiled_steps_are_the_eager_steps(kind, monkeypatch):
    monkeypatch.setattr(loop, "CompiledSVI", partial(CompiledSVI, backend="eager"))
    torch.manual_seed(0)
    data, options = DATA.get(kind, DATA["tuple"])()
    start, ends = (Mean(), Encode()), []
    for compiled in (False, True):
        pyro.clear_param_store()
        model, guide = copy.deepcopy(start)
        fit(model, guide, data, **options, epochs=2, lr=0.01, compiled=compiled)
        ends.append([p.detach() for each in (model, guide) for p in each.parameters()])
    for one, two in zip(*ends, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_programs_that_cannot_be_compiled_run_eagerly_unless_compiling_is_asked_for(monkeypatch):
    def model(x):
        if x.sum() > 0:  # a branch on a tensor
            pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
        scale = pyro.param("scale", torch.tensor(1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", pyro.distributions.Normal(0.0, scale), obs=x)

    def guide(x):
        if x.sum() > 0:
            pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))

    x = torch.rand(12)
    with pytest.raises(InputError, match="a branch on a tensor"):
        fit(model, guide, x, batch_size=4, epochs=1, compiled=True)
    monkeypatch.setattr(training, "pays", lambda steps: True)
    with pytest.warns(UserWarning, match="training runs without compiling: .*branch") as told:
        fit(model, guide, x, batch_size=4, epochs=1)
    assert told[0].filename == __file__


@pytest.mark.parametrize("kind", ["tensor", "loader"])
def test_further_arguments_reach_the_programs_with_any_data(kind):
    seen = set()

    def model(x, beta=1.0):
        seen.add(beta)
        with pyro.plate("rows", len(x)):
            pyro.sample(
                "x", pyro.distributions.Normal(pyro.param("m", torch.zeros(())), 1.0), obs=x
            )

    def guide(x, beta=1.0):
        seen.add(beta)

    x = torch.rand(8)
    data = x if kind == "tensor" else DataLoader(TensorDataset(x), 4)
    fit(model, guide, data, epochs=1, kwargs={"beta": 2.0}, compiled=False)
    assert seen == {2.0}

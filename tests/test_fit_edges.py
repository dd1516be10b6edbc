"""What ``fit`` does at the edges: lost losses, data that ends, and wrong arguments."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.utils.data import IterableDataset

from pyro_vae import FusedAdam, InputError, Position, fit
from pyro_vae.errors import TrainingError

X = torch.linspace(-1, 1, 64)[:, None]


class Scaled(torch.nn.Module):
    """A Normal with one weight, and a switch that makes the loss NaN."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(0.5))
        self.broken = False

    def model(self, x):
        pyro.module("scaled", self)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            loc = self.w * z * (float("nan") if self.broken and len(x) < 64 else 1.0)
            pyro.sample("x", dist.Normal(loc, 1.0, validate_args=False), obs=x[:, 0])

    def guide(self, x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0], 1.0))


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda vae: torch.optim.Adam(vae.parameters(), lr=0.1),
        lambda vae: pyro.optim.Adam({"lr": 0.1}),
        lambda vae: FusedAdam({"lr": 0.1}),
    ],
    ids=["torch", "pyro", "fused"],
)
def test_training_goes_on_after_a_lost_loss_as_if_it_had_not_been(optimizer):
    ends, more = [], {"epochs": 2, "start": Position(1)}
    for broken in (False, True):
        pyro.clear_param_store()
        pair = Scaled()
        ours, options = optimizer(pair), {"batch_size": 16, "compiled": False}
        fit(pair.model, pair.guide, X, epochs=1, optimizer=ours, **options)
        if broken:
            pair.broken = True
            with pytest.raises((TrainingError, InputError)):
                fit(
                    pair.model,
                    pair.guide,
                    X,
                    epochs=2,
                    start=Position(1),
                    optimizer=ours,
                    **options,
                )
            pair.broken = False
        fit(pair.model, pair.guide, X, optimizer=ours, **more, **options)
        ends.append(pair.w.item())
    assert ends[0] == ends[1]


class Once(IterableDataset):
    def __init__(self):
        self.rows = iter(X)

    def __iter__(self):
        return self.rows


class Ends(IterableDataset):
    """Rows for the trial and for the first epoch alone."""

    def __init__(self):
        self.times = 0

    def __iter__(self):
        self.times += 1
        return iter(X if self.times <= 4 else X[:0])


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        (Once(), {}, "Once gives the same iterator each time"),
        (Ends(), {"epochs": 9}, "gave no rows in epoch"),
        (X, {"start": Position(-1)}, "epoch of start is a whole number from 0, not -1"),
        (X, {"kwargs": 3}, "kwargs is a dict of further arguments by name, not 3"),
        (X, {"kwargs": {"b": 1}}, "a program is called with argument 1, b, and this one takes"),
        ((X, X), {}, "a program is called with argument 1, argument 2, and this one takes"),
        (torch.full((64, 1), torch.nan), {}, "the data has NaN or infinite numbers"),
    ],
)
def test_wrong_data_and_arguments_are_one_sentence(data, options, words):
    pyro.clear_param_store()
    pair = Scaled()
    with pytest.raises(InputError, match=words) as error:
        fit(pair.model, pair.guide, data, **{"epochs": 1, "compiled": False, **options})
    assert "\n" not in str(error.value)

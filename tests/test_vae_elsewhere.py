"""A VAE in several threads, in other processes and in files."""

import copy
import io
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.poutine.runtime import _PYRO_STACK
from support.small import SHAPE, binary, small

from pyro_vae import VAE, fit, load_run
from pyro_vae.data import Data, Images
from pyro_vae.history import Position
from pyro_vae.runs import folder as files
from pyro_vae.settings import TRAINING, Settings
from pyro_vae.storage.checkpoint import state_of
from pyro_vae.training import adam

PARTS = {
    "plain": {},
    "vamp": {"prior": "vamp(components=3)"},
    "semi-amortized": {"guide": "semi-amortized"},
    "batch normalization": {"network": "mlp(batch_norm=True)"},
}


def svi(vae: VAE) -> SVI:
    return SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())


def test_four_threads_use_one_vae():
    """1,000 calls in all, encode equal to that of a single thread, no handler left behind."""
    vae, images = small(prior="vamp(components=3)"), [binary(2) for _ in range(10)]
    with torch.no_grad():
        expected = [vae.encode(x).mean for x in images]

    def work(thread: int) -> None:
        for i in range(250):
            x = images[(i + thread) % 10]
            match i % 5:
                case 0:
                    assert vae.sample(2).isfinite().all()
                case 1:
                    assert vae.reconstruct(x).shape == x.shape
                case 2:
                    assert len(vae.interpolate(x[0], x[1], 3)) == 3
                case _:
                    got = vae.encode(x).mean
                    torch.testing.assert_close(got, expected[(i + thread) % 10])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert not _PYRO_STACK
    assert vae.training


def test_a_vae_is_used_in_one_thread_while_another_one_is_trained_in_a_second():
    pixels = torch.randint(2, (64, *SHAPE)).to(torch.uint8) * 255
    data = Data("noise", Images(pixels), Images(pixels[:8]))
    used, x = small(), binary(2)
    with torch.no_grad():
        expected = used.encode(x).mean
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(fit, small(), data, epochs=3, batch_size=8, compiled=False)
        while not training.done():
            torch.testing.assert_close(used.encode(x).mean, expected)
        assert len(training.result()) == 3
    assert not _PYRO_STACK


def pickled(vae):
    return pickle.loads(pickle.dumps(vae))


def saved(vae):
    file = io.BytesIO()
    torch.save(vae, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("how", [pickled, saved, copy.deepcopy])
@pytest.mark.parametrize("parts", PARTS)
def test_a_used_vae_can_be_pickled_and_trains_its_own_weights(how, parts):
    one, x = small(**PARTS[parts]), binary()
    trainer = svi(one)
    trainer.step(x)
    two = how(one)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])
    torch.testing.assert_close(two.eval().encode(x).mean, one.eval().encode(x).mean)
    one.train(), two.train()
    for trained, other, optimizer in ((two, one, svi(two)), (one, two, trainer)):
        before = [[p.detach().clone() for p in vae.parameters()] for vae in (trained, other)]
        optimizer.step(x)
        assert all(
            not torch.equal(a, p) for a, p in zip(before[0], trained.parameters(), strict=True)
        )
        assert all(torch.equal(a, p) for a, p in zip(before[1], other.parameters(), strict=True))
    if parts == "vamp":
        assert two.model.prior.posterior is two.guide.posterior


@pytest.mark.parametrize("parts", PARTS)
def test_a_program_alone_can_be_pickled(parts):
    vae, x = small(**PARTS[parts]), binary()
    svi(vae).step(x)
    for program in (vae.model, vae.guide):
        state = pickled(program).state_dict()
        assert all(torch.equal(value, state[name]) for name, value in program.state_dict().items())


def mean_in_process(vae: VAE, x: torch.Tensor, answer) -> None:
    with torch.no_grad():
        answer.send(vae.encode(x).mean.tolist())


def test_a_used_vae_is_an_argument_of_another_process():
    vae, x = small(), binary(2)
    svi(vae).step(x)
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=mean_in_process, args=(vae, x, there))
    process.start()
    got = torch.tensor(here.recv())
    process.join()
    torch.testing.assert_close(got, vae.encode(x).mean.detach())


def test_a_run_is_loaded_from_a_path_that_is_a_string(tmp_path):
    vae = small()
    config = {
        "vae": vae.config,
        "data": {"name": "digits", "binarize": "none"},
        "training": {**{name: vars(Settings())[name] for name in TRAINING}, "objective": "beta"},
    }
    files.create(tmp_path, config, state_of(vae, adam(vae, 1e-3), Position(), "", None))
    loaded, read = load_run(str(tmp_path))
    assert read["vae"] == vae.config
    for name, value in vae.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)

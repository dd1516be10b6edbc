"""What training shows of its progress, and how Ctrl-C ends it."""

import io
import os
import signal
import threading

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from rich.console import Console
from support.commands import TINY, typed

from pyro_vae import VAE, Callback, InputError, Position, fit, gaps, importance, load_data
from pyro_vae.evaluation.annealing import annealed, sandwich
from pyro_vae.progress import Bar, reporting


@pytest.fixture(scope="module")
def data():
    return load_data("digits", binarize="threshold")


def small(data):
    return VAE(data.shape, 2, hidden=(8,))


def test_from_python_nothing_is_shown_where_no_person_looks(data, capsys):
    fit(small(data), data, epochs=1, compiled=False)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")


def test_a_line_for_each_epoch_where_it_is_asked_for(data, capsys):
    history = fit(small(data), data, epochs=2, compiled=False, progress=True)
    assert capsys.readouterr().err.splitlines() == [
        f"epoch {e.epoch}/2, nats per image: train {e.train_elbo:.2f}, validation {e.elbo:.2f}"
        for e in history
    ]


def test_a_terminal_has_one_bar_to_the_end(data):
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100, color_system=None)
    bar = Bar(console, 2, len(data.train), 128, Position())
    history = fit(small(data), data, epochs=2, compiled=False, callback=bar)
    assert bar.progress.tasks[0].completed == 2 * len(data.train)
    last = text.getvalue().splitlines()[-2]  # the last line shows the cursor again
    assert f"epoch 2/2, nats per image: train {history[1].train_elbo:.2f}" in last
    assert "100%" in last


def test_the_command_line_prints_a_line_for_each_epoch(tmp_path, capsys):
    run = tmp_path / "run"
    assert typed([*TINY, "--epochs", "1", "--out", run]) == 0
    assert capsys.readouterr().out.count("epoch 1/1, nats per image: train -") == 1
    assert typed(["train", "--resume", run, "--epochs", "3"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [line.partition(",")[0] for line in lines] == ["epoch 2/3", "epoch 3/3"]


def test_long_measures_report_shares_that_rise_to_one(data):
    vae, few = small(data), data.test.first(130)
    measures = {
        "importance sampling": lambda tell: importance(
            vae.model, vae.guide, few, samples=10, progress=tell
        ),
        "gaps": lambda tell: gaps(vae.model, vae.guide, few, samples=10, steps=3, progress=tell),
        "annealing": lambda tell: annealed(vae.model, few, temperatures=3, progress=tell),
        "annealing simulated images": lambda tell: sandwich(
            vae.model, vae.shape, 3, temperatures=3, progress=tell
        ),
    }
    for name, measure in measures.items():
        told = []
        measure(lambda what, share: told.append((what, share)))  # noqa: B023
        assert {what for what, _ in told} == {name}
        shares = [share for _, share in told]
        assert len(shares) > 5
        assert shares == sorted(shares)
        assert shares[0] > 0
        assert shares[-1] == pytest.approx(1)


def test_a_report_moves_a_bar_in_a_terminal_alone():
    text = io.StringIO()
    with reporting(Console(file=text, force_terminal=True, width=80)) as report:
        report("gaps", 0.25)
    assert "gaps" in text.getvalue()
    assert "25%" in text.getvalue()
    piped = io.StringIO()
    with reporting(Console(file=piped)) as report:
        report("gaps", 0.25)
    assert piped.getvalue() == ""


class Press(Callback):
    """Presses Ctrl-C before some steps, counted from 0."""

    def __init__(self, *steps):
        self.steps, self.count, self.weights = steps, 0, None
        self.ends = []

    def on_step(self, images, position):
        if self.count in self.steps:
            os.kill(os.getpid(), signal.SIGINT)
        self.count += 1

    def on_end(self, completed):
        self.ends.append(completed)


def test_ctrl_c_gives_the_history_so_far_and_the_weights_of_the_last_step(data):
    whole = fit(small(data), data, epochs=1, batch_size=256, compiled=False)
    torch.manual_seed(0)
    vae, press = small(data), Press(8)  # six steps an epoch
    with pytest.warns(UserWarning, match=r"Ctrl-C ended training after epoch 2, step 3 of 5 epo"):
        history = fit(vae, data, epochs=5, batch_size=256, compiled=False, callback=press)
    assert [e.epoch for e in history] == [1]
    assert press.count == 9
    assert press.ends == [False]
    assert not vae.training
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    torch.manual_seed(0)
    again = small(data)

    class Halt(Callback):
        def on_step(self, images, position):
            if (position.epoch, len(position.losses)) == (1, 3):
                raise StopIteration

    with pytest.raises(StopIteration):
        fit(again, data, epochs=5, batch_size=256, compiled=False, callback=Halt())
    for name, value in again.state_dict().items():
        assert torch.equal(value, vae.state_dict()[name]), name
    assert len(whole) == 1


def test_a_second_ctrl_c_raises_at_once(data):
    class Twice(Press):
        def on_step(self, images, position):
            super().on_step(images, position)
            super().on_step(images, position)

    with pytest.raises(KeyboardInterrupt):
        fit(small(data), data, epochs=2, compiled=False, callback=Twice(0, 1))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_program_that_handles_ctrl_c_keeps_its_handler(data):
    caught = []
    before = signal.signal(signal.SIGINT, lambda *_: caught.append(1))
    try:
        history = fit(small(data), data, epochs=1, compiled=False, callback=Press(2))
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught == [1]
    assert len(history) == 1


def test_fit_in_another_thread_leaves_signals_alone(data):
    done = []
    thread = threading.Thread(
        target=lambda: done.extend(fit(small(data), data, epochs=1, compiled=False))
    )
    thread.start()
    thread.join()
    assert len(done) == 1


def test_several_callbacks_are_told_and_all_are_ended(data):
    class Failing(Press):
        def on_end(self, completed):
            super().on_end(completed)
            raise RuntimeError("the disk is full")

    first, second = Press(), Failing()
    with pytest.raises(RuntimeError, match="the disk is full"):
        fit(small(data), data, epochs=1, compiled=False, callback=[first, second])
    assert first.count == second.count > 0
    assert first.ends == second.ends == [True]
    with pytest.raises(InputError, match="Callback or a list of them, not"):
        fit(small(data), data, epochs=1, callback=[print])


CELL = """
import os, signal, warnings
from pyro_vae import VAE, Callback, fit, load_data

class Press(Callback):
    def on_epoch(self, record):
        if record.epoch == 2:
            os.kill(os.getpid(), signal.SIGINT)

data = load_data("digits", binarize="threshold")
warnings.simplefilter("ignore")
history = fit(VAE(data.shape, 2), data, epochs=9, compiled=False, callback=Press())
assert [e.epoch for e in history] == [1, 2]
"""


def test_a_notebook_has_one_bar_and_ctrl_c_leaves_the_history():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    (output,) = notebook.cells[0].outputs
    assert output.output_type == "display_data"
    assert "epoch 2/9, nats per image: train -" in output.data["text/plain"]
    assert "22%" in output.data["text/plain"]
